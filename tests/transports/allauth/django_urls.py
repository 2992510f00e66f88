"""
The headless API of django-allauth, and under `/test/` what tests need: users, settings, and the journal.

The journal is the site's own: each e-mail, each look at a code or key, each reset.
"""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

from allauth.account.internal.flows.password_reset_by_code import PASSWORD_RESET_VERIFICATION_SESSION_KEY
from allauth.account.models import EmailAddress
from allauth.account.signals import password_reset
from allauth.account.utils import url_str_to_user_pk
from django.conf import settings
from django.contrib.auth.models import User
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test.utils import override_settings
from django.urls import include, path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

journal: list[dict[str, str]] = []
overrides: list[override_settings] = []


class JournalBackend:
    """Writes e-mails into the journal."""

    def __init__(self, **options: Any) -> None:
        pass

    def send_messages(self, messages: Sequence[Any]) -> int:
        journal.extend({"kind": "mail", "user": each.to[0], "text": each.body} for each in messages)
        return len(messages)


def note_reset(user: Any, **_: Any) -> None:
    journal.append({"kind": "reset", "user": user.email})


password_reset.connect(note_reset)


def note_attempts(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Note each request for which a code or key was judged: not those that are throttled, or without a session."""

    def middleware(request: HttpRequest) -> HttpResponse:
        user = whose_code(request) if request.path.endswith("/auth/password/reset") else ""
        response = get_response(request)
        if user and response.status_code in (200, 400, 401):
            journal.append({"kind": "attempt", "user": user})
        return response

    return middleware


def whose_code(request: HttpRequest) -> str:
    """Return the user whose code or key the request has: the session knows, or the key says."""
    session = import_module(settings.SESSION_ENGINE).SessionStore(request.headers.get("x-session-token"))
    if state := session.get(PASSWORD_RESET_VERIFICATION_SESSION_KEY):
        return str(state["email"])
    try:
        user_id = url_str_to_user_pk(str(json.loads(request.body)["key"]).partition("-")[0])
        return str(User.objects.get(pk=user_id).email)
    except (ValueError, KeyError, User.DoesNotExist):
        return ""


def show_journal(request: HttpRequest) -> HttpResponse:
    user = json.loads(request.body)["user"]
    return JsonResponse([entry for entry in journal if entry["user"] == user], safe=False)


def change_settings(request: HttpRequest) -> HttpResponse:
    """Go back to the settings of the module, but for those in the body, and forget what was counted for limits."""
    while overrides:
        overrides.pop().disable()
    overrides.append(override_settings(**json.loads(request.body)))
    overrides[0].enable()
    cache.clear()
    return JsonResponse({})


def add_user(request: HttpRequest) -> HttpResponse:
    given = json.loads(request.body)
    user = User.objects.create_user(given["email"], given["email"], given["password"])
    EmailAddress.objects.create(user=user, email=given["email"], verified=given["verified"], primary=True)
    return JsonResponse({})


def check_password(request: HttpRequest) -> HttpResponse:
    given = json.loads(request.body)
    return JsonResponse(User.objects.get(email=given["email"]).check_password(given["password"]), safe=False)


urlpatterns = [
    path("_allauth/", include("allauth.headless.urls")),
    path("test/journal", show_journal),
    path("test/settings", change_settings),
    path("test/users", add_user),
    path("test/password", check_password),
]
