"""The broker's users, and the initial ones."""

from typing import Any

import attrs
from attrs.validators import instance_of, optional


@attrs.define(kw_only=True)
class User:
    """
    One account.

    Attributes:
        question: None or ``""``: there is no question.

        password_expired: A log-in with the right password gives a token for step 4 instead of a session.
    """

    login: str = attrs.field(validator=instance_of(str))
    email: str = attrs.field(validator=instance_of(str))
    question: str | None = attrs.field(default=None, validator=optional(instance_of(str)))
    answer: str | None = attrs.field(default=None, validator=optional(instance_of(str)), repr=False)
    password: str = attrs.field(default="old-Passw0rd", validator=instance_of(str), repr=False)
    pin: str = attrs.field(default="0000", validator=instance_of(str), repr=False)
    two_factor: bool = attrs.field(default=False, validator=instance_of(bool))
    password_expired: bool = attrs.field(default=False, validator=instance_of(bool))
    mails_sent: int = attrs.field(default=0, init=False)
    codes_spent: int = attrs.field(default=0, init=False)
    password_changes: int = attrs.field(default=0, init=False)
    pin_changes: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        """Refuse an account that cannot be reset."""
        if not self.login or not self.email:
            raise ValueError("a user needs a login and an e-mail address")
        if self.question and not self.answer:
            raise ValueError("a question needs an answer")

    def as_json(self) -> dict[str, Any]:
        """Return everything but the answer. The password is in clear text, so that tests can compare it."""
        return attrs.asdict(self, filter=attrs.filters.exclude("answer"))


SETTABLE = frozenset(field.name for field in attrs.fields(User) if field.init)


class Users:
    """The accounts, found by login or by e-mail address."""

    def __init__(self) -> None:
        self._by_login: dict[str, User] = {}
        self._by_email: dict[str, User] = {}

    def add(self, user: User) -> User:
        """Add the user and return it; raise ``ValueError`` if the login or the address is taken."""
        if user.login in self._by_login or user.email in self._by_email:
            raise ValueError("the login or the e-mail address is taken")
        self._by_login[user.login] = user
        self._by_email[user.email] = user
        return user

    def find(self, name: str, *, by_email: bool = True) -> User | None:
        """Return the user with this login or, with ``by_email``, with this address."""
        return self._by_login.get(name) or (self._by_email.get(name) if by_email else None)


def seeds() -> list[User]:
    """Return new copies of the users with which every sandbox starts."""
    return [
        User(
            login="robert.zak",
            email="hello@autoshares.com",
            question="What street did you live on in third grade?",
            answer="Peterson",
        ),
        User(login="maria.noquestion", email="maria@autoshares.com"),
        User(
            login="jörg.müller",
            email="joerg@autoshares.com",
            question="Wie hieß die Straße Ihrer Großmutter?",
            answer="Königsallee 7 ½",
        ),
        User(login="expired.user", email="expired@autoshares.com", password_expired=True),
        User(login="two.factor", email="two.factor@autoshares.com", two_factor=True),
    ]
