"""
The broker itself: mails, codes, tokens, questions, passwords and PINs, without HTTP.

Every operation decides first and acts later: it returns a ``Decision`` with the action, or raises ``Refused``. So a
fault can lose the call before the action, or the reply after it.
"""

import secrets
import uuid
from collections import deque
from collections.abc import Callable
from datetime import datetime
from enum import Enum, auto

import attrs

from reset_flow.sandbox.grants import RESET_PASSWORD, RESET_PIN, Grant, Grants
from reset_flow.sandbox.settings import Settings
from reset_flow.sandbox.users import User, Users, seeds

IMAGES = ("anchor", "balloon", "cactus", "lighthouse", "sailboat")
KEPT_MAILS = 100_000
MINIMUM_PIN_LENGTH = 4


class Refused(Exception):
    """The broker refuses, with a message for the person."""


class WrongAnswer(Refused):
    """The answer to the secret question is missing or wrong."""


@attrs.frozen(kw_only=True)
class Decision:
    """
    An acceptance.

    Attributes:
        value: The token that is given out, or ``""``.

        act: The action that follows, if any.
    """

    value: str = attrs.field(default="", repr=False)
    act: Callable[[], None] | None = attrs.field(default=None, repr=False)


class LogInState(Enum):
    """Result of a log-in."""

    SUCCEEDED = auto()
    PASSWORD_EXPIRED = auto()
    EXPECTING_CODE = auto()
    FAILED = auto()


@attrs.frozen(kw_only=True)
class Mail:
    """An e-mail that the broker sent."""

    user: str
    email: str
    kind: str = "confirmation_code"
    code: str = attrs.field(repr=False)
    sent_at: datetime

    def as_json(self) -> dict[str, str]:
        """Return the mail in the form of ``/sandbox/inbox``."""
        return {**attrs.asdict(self), "sent_at": self.sent_at.isoformat()}


class Broker:
    """
    The state of the broker, and its operations.

    Args:
        settings: Behaviour that the documents leave open.

        now: The clock.

        on_mail: Called with each mail that is sent.

    Attributes:
        next_codes: Codes to send instead of random ones, the first one next.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        now: Callable[[], datetime],
        on_mail: Callable[[Mail], None] | None = None,
    ) -> None:
        self.settings = settings
        self.users = Users()
        self.mails: deque[Mail] = deque(maxlen=KEPT_MAILS)
        self.next_codes: list[str] = []
        self.codes = Grants()
        self.tokens = Grants()
        self._sessions = Grants()
        self._now = now
        self._on_mail = on_mail
        for user in seeds():
            self.users.add(user)

    def challenge(self, name: str) -> str:
        """Return the user's question (step 2), or ``""`` if there is none."""
        user = self.users.find(name)
        if user is None:
            if self.settings.unknown_user_refused:
                raise Refused("User is not found.")
            return ""
        return user.question or ""

    def request(self, name: str, answer: str | None) -> Decision:
        """Decide about a request for a code (step 1). The action sends the e-mail."""
        user = self.users.find(name, by_email=self.settings.email_as_user)
        if user is None:
            if self.settings.unknown_user_refused:
                raise Refused("User is not found.")
            return Decision()
        if user.question and answer != user.answer:
            raise WrongAnswer("Answer is incorrect, try again.")
        return Decision(act=lambda: self._send_code(user))

    def exchange(self, code: str, purpose: str) -> Decision:
        """Decide about a code (step 3): a token for the user to whom it was sent. The action spends the code."""
        grant = self.codes.live(code, self._now())
        if grant is None:
            raise Refused("Confirmation code is incorrect or has expired.")
        token = str(uuid.uuid4())

        def act() -> None:
            grant.spent = True
            self._user(grant).codes_spent += 1
            self._grant_token(token, grant.login, purpose)

        return Decision(value=token, act=act)

    def update(self, token: str, password: str, confirmation: str) -> Decision:
        """Decide about a new password (step 4). The action sets it and spends the token."""
        grant = self._token(token, RESET_PASSWORD)
        if password != confirmation:
            raise Refused("Password and its confirmation do not match.")
        if len(password) < self.settings.minimum_password_length:
            raise Refused("Password is too weak.")

        def act() -> None:
            grant.spent = True
            user = self._user(grant)
            user.password = password
            user.password_expired = False
            user.password_changes += 1

        return Decision(act=act)

    def change_pin(self, token: str, pin: str, image: str) -> Decision:
        """Decide about a new PIN (step 4). The action sets it and spends the token."""
        grant = self._token(token, RESET_PIN)
        if image not in IMAGES:
            raise Refused("Security image is not found.")
        if not (pin.isascii() and pin.isdigit() and len(pin) >= MINIMUM_PIN_LENGTH):
            raise Refused("Pin code is too weak.")

        def act() -> None:
            grant.spent = True
            user = self._user(grant)
            user.pin = pin
            user.pin_changes += 1

        return Decision(act=act)

    def log_in(self, name: str, password: str) -> tuple[LogInState, str]:
        """Return the result and a token: for a session, for step 4 if the password has expired, or ``""``."""
        user = self.users.find(name, by_email=self.settings.email_as_user)
        if user is None or user.password != password:
            return LogInState.FAILED, ""
        token = str(uuid.uuid4())
        if user.password_expired:
            self._grant_token(token, user.login, RESET_PASSWORD)
            return LogInState.PASSWORD_EXPIRED, token
        if user.two_factor:
            return LogInState.EXPECTING_CODE, ""
        expires_at = self._now() + self.settings.session_lifetime
        self._sessions.add(token, Grant(login=user.login, expires_at=expires_at))
        return LogInState.SUCCEEDED, token

    def may_change_pin(self, session: str, token: str) -> bool:
        """Return True if the session is valid and the token was not given to another user."""
        grant = self._sessions.live(session, self._now())
        return grant is not None and self.tokens.owner(token) in {None, grant.login}

    def _token(self, token: str, purpose: str) -> Grant:
        grant = self.tokens.live(token, self._now())
        if grant is None or grant.purpose != purpose:
            raise Refused("Token is invalid or has expired.")
        return grant

    def _grant_token(self, token: str, login: str, purpose: str) -> None:
        expires_at = self._now() + self.settings.token_lifetime
        self.tokens.add(token, Grant(login=login, expires_at=expires_at, purpose=purpose))

    def _user(self, grant: Grant) -> User:
        user = self.users.find(grant.login, by_email=False)
        assert user is not None, "users are never removed"
        return user

    def _send_code(self, user: User) -> None:
        now = self._now()
        code = self.next_codes.pop(0) if self.next_codes else self._unused_code(now)
        grant = Grant(login=user.login, expires_at=now + self.settings.code_lifetime)
        self.codes.add(code, grant, revokes_older=self.settings.new_code_kills_old)
        mail = Mail(user=user.login, email=user.email, code=code, sent_at=now)
        self.mails.append(mail)
        user.mails_sent += 1
        if self._on_mail is not None:
            self._on_mail(mail)

    def _unused_code(self, now: datetime) -> str:
        while self.codes.live(code := f"{secrets.randbelow(1_000_000):06}", now):
            pass
        return code
