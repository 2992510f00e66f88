"""Settings of the site in `serve.py`: allauth's defaults, but for what is here."""

import os

ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "tests.transports.allauth.django_urls"
SECRET_KEY = "of-nobody"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.path.join(os.environ["ALLAUTH_FOLDER"], "db.sqlite3"),  # noqa: PTH118 - Django's idiom
        "OPTIONS": {"timeout": 30},
    }
}
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "allauth",
    "allauth.account",
    "allauth.headless",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "tests.transports.allauth.django_urls.note_attempts",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # a slow one would only be slow
EMAIL_BACKEND = "tests.transports.allauth.django_urls.JournalBackend"
LOGGING_CONFIG = None
HEADLESS_ONLY = True
HEADLESS_CLIENTS = ["app"]
HEADLESS_FRONTEND_URLS = {
    "account_confirm_email": "https://shop.test/confirm/{key}",
    "account_reset_password_from_key": "https://shop.test/reset/{key}",
    "account_signup": "https://shop.test/signup",
}
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_RATE_LIMITS = False  # a test that wants them switches them on
