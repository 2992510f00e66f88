"""
What a new password must be before the broker is asked: long enough, and none of those that are tried first.

No composition is asked for, and nothing is changed: the password is sent exactly as it was typed. What is compared is
its canonical form (NFKC, case-folded), so that `PASSWORD1` in full width is `password1`. It is refused as:

===========  =========================================================================================================
too short,   counted in code points, as typed
too long
common       it is in the blocklist, as a whole (NIST SP 800-63B-4, 3.1.1.2: no parts of it are compared)
a name       it is little more than the user's login or one of the tenant's words
a row        it is little more than neighbours: repeats, runs of the alphabet and of digits, walks over a keyboard
===========  =========================================================================================================

**Little more than a name.** Names are the whole login, what is before its last @, and each of its words of four
characters or more; the tenant's words likewise. Everything but letters, digits and pictograms is left out of both
sides. Then the password must not be a part of four characters or more of a name; and where it has names in it, more
must be left of it without them than eight characters, or than a few that are no digits: three, for short names
fewer (none, one and two for names of up to three, four and five characters). So `robert.zak` is refused
`zakRobert!1990`, and may have `robert eats violet tractors`. Names of one character, and of digits alone fewer than
four, are passed over.

**Little more than neighbours.** The password, and also what is left of it without its separators where those are all
the same character, must have more than two different characters; must not be one to four characters over and over; and
must not, read from the left, be three pieces or fewer. A piece is a character, or three or more of them that are the
same, or that stand side by side in one of the `ROWS`, in either direction. So `abcd1234!` is refused, and `abcd violet`
is not.
"""

from __future__ import annotations

import asyncio
import logging
import unicodedata
from collections.abc import Callable, Collection, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.text import printable

if TYPE_CHECKING:
    from reset_flow.domain.secret import Secret

__all__ = ["PasswordCheck", "PasswordRules", "canonical", "common_passwords"]

logger = logging.getLogger("reset_flow")

PATIENCE = 5.0
"""Seconds that all checks of a password have together; a person is waiting."""

COMPLAINTS = 10
"""Of one check, at most."""

COMMON = "it must be one that few people would choose: several unrelated words, for example"
LOGIN = "it must be more than your login with a few characters added"
WORD = "it must be more than a name that belongs to this service, with a few characters added"
ROW = "it must be more than a few repeated or neighbouring characters"
GUESSABLE = "it must be harder to guess"

PART = 4
"""The shortest word of a login that counts as a name, and the shortest part of a name that is refused."""

ADDED = 8
"""Characters that make no password out of a name: a date has eight."""

ADDED_LETTERS = 3
UNIT = 4
PIECES = 3
RUN = 3
DIFFERENT = 2

ROWS = (
    *("abcdefghijklmnopqrstuvwxyz", "01234567890", "абвгдежзийклмнопрстуфхцчшщъыьэюя", "αβγδεζηθικλμνξοπρστυφχψω"),
    *("qwertyuiop[]", "asdfghjkl;'", "zxcvbnm,./", "!@#$%^&*()_+", "`1234567890-="),
    *("qwertzuiopü", "yxcvbnm,.-", "azertyuiop", "qsdfghjklm", "wxcvbn,;:!"),
    *("йцукенгшщзхъ", "фывапролджэ", "ячсмитьбю"),
    *("1qaz", "2wsx", "3edc", "4rfv", "5tgb", "6yhn", "7ujm", "8ik,", "9ol.", "0p;/"),
    *("!qaz", "@wsx", "#edc", "$rfv", "%tgb", "^yhn", "&ujm", "147", "258", "369", "159", "357"),
    *("1q2w3e4r5t6y7u8i9o0p", "q1w2e3r4t5y6u7i8o9p0", "1a2b3c4d5e6f7g8h9i", "a1b2c3d4e5f6g7h8i9"),
    *("qawsedrftgyhujikolp", "azsxdcfvgbhnjmk"),
)
"""Alphabets, the rows and columns of keyboards, and the usual walks over two of them, in canonical form."""

WALKS = "\n".join((*ROWS, *(row[::-1] for row in ROWS)))
RUNS = frozenset(WALKS[start : start + RUN] for start in range(len(WALKS) - RUN + 1))
"""The shortest ones. Few passwords have one in them, and to look through all the rows takes long."""


class PasswordCheck(Protocol):
    """
    One more thing that a new password is asked: whether it was breached, how strong somebody takes it to be.

    Returns complaints: lower-case clauses that tell the person what to do. It is asked once the rules have none. What
    it raises, and that it says nothing in a few seconds, is logged and counts as no complaint.
    """

    async def __call__(self, password: Secret, user: str, /) -> tuple[str, ...]:
        """Its complaints; empty where it has none."""
        ...


def canonical(text: str) -> str:
    """The form in which passwords and names are compared. The second normalization is for what folding took apart."""
    if text.isascii():
        return text.lower()  # which is all that happens to it below
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


@cache
def common_passwords() -> frozenset[str]:
    """The blocklist that is shipped, in canonical form. Read at the first call; all have eight characters or more."""
    from importlib.resources import files  # noqa: PLC0415 - who only imports the library needs none

    return frozenset(
        files("reset_flow.domain").joinpath("common_passwords.txt").read_text(encoding="utf-8").splitlines()
    )


def _count(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{field.name} must be a whole number of at least 1")


def _several(what: str, given: Any, fits: Callable[[Any], bool], kind: str) -> tuple[Any, ...]:
    """A tuple of it. No message repeats an entry: one may be somebody's password."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise ConfigurationError(f"{what} must be several of them, such as a tuple, not {type(given).__name__}")
    entries = tuple(given)
    if not all(fits(entry) for entry in entries):
        raise ConfigurationError(f"every one of {what} must be {kind}")
    return entries


def _blocklist(given: Collection[str] | None) -> frozenset[str] | None:
    if given is None:
        return None
    return frozenset(map(canonical, _several("blocklist", given, lambda entry: isinstance(entry, str), "text")))


def _words(given: Iterable[str]) -> tuple[str, ...]:
    kind = "text with at least two letters, or four digits: shorter ones are in too many good passwords"
    return _several("words", given, lambda entry: isinstance(entry, str) and bool(_names(canonical(entry))), kind)


def _checks(given: Iterable[PasswordCheck]) -> tuple[PasswordCheck, ...]:
    return _several("checks", given, callable, "callable with a password and a user")


@attrs.frozen(kw_only=True)
class PasswordRules:
    """
    What a new password must be before the broker is asked. Lengths are in code points, and no composition is asked for.

    Attributes:
        min_length: NIST SP 800-63B-4 asks for 8 where the password is one of two factors, 15 where it is the only one.

        blocklist: Passwords that are refused as a whole, in any case and width. `None` is `common_passwords()`; to
            extend it, pass `common_passwords() | {...}`; an empty one refuses none.

        words: What everybody would try here: the names of the product and the company, at least two letters each.

        checks: Asked at the same time, each once, and only where the rules have no complaint. Whoever made them closes
            them.
    """

    min_length: int = attrs.field(default=8, validator=_count)
    max_length: int = attrs.field(default=128, validator=_count)
    blocklist: Collection[str] | None = attrs.field(default=None, converter=_blocklist, repr=False)
    words: tuple[str, ...] = attrs.field(default=(), converter=_words)
    checks: tuple[PasswordCheck, ...] = attrs.field(default=(), converter=_checks)

    def __attrs_post_init__(self) -> None:
        if self.min_length > self.max_length:
            raise ConfigurationError("min_length is greater than max_length: no password could be set")

    async def complaints(self, password: Secret, user: str) -> tuple[str, ...]:
        """
        What is wrong with it, by the rules or, if they are content, by the checks; empty when nothing is.

        Lower-case clauses that tell the person what to do. None repeats the password or the login. Errors of
        checks are values: nothing of theirs is raised.
        """
        return self.refusals(password, user) or await self._asked(password, user)

    def refusals(self, password: Secret, user: str) -> tuple[str, ...]:
        """What the rules alone have against it. An empty `user` is like none."""
        # First, and with nothing revealed: it reads a file.
        blocklist = common_passwords() if self.blocklist is None else self.blocklist
        length = len(password.reveal())
        if length < self.min_length:
            return (f"it must have at least {self.min_length} characters",)
        if length > self.max_length:
            return (f"it must have at most {self.max_length} characters",)
        folded = canonical(password.reveal())
        bare = _letters(folded).replace(" ", "")
        login, word = _named(folded, bare, canonical(user), self.words)
        trouble = ((COMMON, folded in blocklist), (LOGIN, login), (WORD, word), (ROW, _row(folded, bare)))
        return tuple([complaint for complaint, applies in trouble if applies])

    async def _asked(self, password: Secret, user: str) -> tuple[str, ...]:
        if not self.checks:
            return ()
        tasks = [asyncio.create_task(_said(check, password, user)) for check in self.checks]
        try:
            # Not asyncio.timeout: that would wait for a check that will not be cancelled.
            await asyncio.wait(tasks, timeout=PATIENCE)
        finally:
            for task in tasks:
                task.add_done_callback(_forget)
                task.cancel()
        said: list[str] = []
        for check, task in zip(self.checks, tasks, strict=True):
            complaints = () if not task.done() or task.cancelled() or task.exception() else task.result()
            if not task.done():
                _log(check, "TimeoutError")
            elif task.cancelled():
                _log(check, "CancelledError")
            said += complaints
        return tuple(dict.fromkeys(said))


async def _said(check: PasswordCheck, password: Secret, user: str) -> tuple[str, ...]:
    """The complaints of a check, made fit to be shown; none where it fails."""
    failure, said = "", None
    try:
        said = await check(password, user)
    except Exception as error:  # noqa: BLE001 - a check of the embedder's may raise anything
        failure = type(error).__name__
    if not isinstance(said, (tuple, list)):
        _log(check, failure or f"it returned {type(said).__name__}")
        return ()
    return tuple(_shown(complaint, password, user) for complaint in said[:COMPLAINTS])


def _shown(complaint: object, password: Secret, user: str) -> str:
    """One line, without the password and the login: nobody knows what a check says."""
    text = printable(complaint)
    folded = canonical(text)
    repeats = canonical(password.reveal()) in folded or (len(user) >= PART and canonical(user) in folded)
    return GUESSABLE if repeats or not isinstance(complaint, str) or not text else text


def _log(check: PasswordCheck, failure: str) -> None:
    name = getattr(check, "__name__", None) or type(check).__name__
    logger.warning("password check %s was passed over: %s", printable(name), failure)


def _forget(task: asyncio.Task[Any]) -> None:
    """Fetch what a check left behind, or the loop would log it, message and all."""
    if not task.cancelled():
        task.exception()


def _named(folded: str, bare: str, user: str, words: Iterable[str]) -> tuple[bool, bool]:
    """Whether it is little more than the login, and than one of the words."""
    logins = _names(user)
    login = folded == user or _little_more(bare, logins)
    if not words:
        return login, False
    names = frozenset().union(*(_names(canonical(word)) for word in words))
    word = _little_more(bare, names)
    both = not login and not word and _little_more(bare, logins | names)
    return login or both, word or both


ASCII_LETTERS = bytes(code if chr(code).isalnum() else ord(" ") for code in range(128)).ljust(256)


def _letters(text: str) -> str:
    """The text with spaces for all that is neither letter, digit nor pictogram."""
    if text.isascii():
        return text.encode().translate(ASCII_LETTERS).decode()  # by far faster than `str.translate`
    kinds = ((char, unicodedata.category(char)) for char in text)
    return "".join(char if kind[0] in "LMN" or kind == "So" else " " for char, kind in kinds)


def _names(text: str) -> frozenset[str]:
    """What somebody may be called by it."""
    whole, local = _letters(text), _letters(text.rpartition("@")[0])
    names = {whole.replace(" ", ""), local.replace(" ", ""), *[word for word in whole.split() if len(word) >= PART]}
    return frozenset([name for name in names if len(name) >= (PART if name.isdecimal() else 2)])


def _little_more(text: str, names: Iterable[str]) -> bool:
    """Whether the text is a part of a name, or has names in it and hardly anything else."""
    longest, rest = 0, text
    for name in sorted(names, key=len, reverse=True):
        if len(text) >= PART and text in name:
            return True
        if name in rest:
            longest = max(longest, len(name))
            rest = rest.replace(name, " ")  # not nothing: what is left must not make a name
    if not longest:
        return False
    rest = rest.replace(" ", "")
    letters = sum(not char.isdecimal() for char in rest)
    return len(rest) <= ADDED and letters <= max(0, min(ADDED_LETTERS, longest - ADDED_LETTERS))


def _row(folded: str, bare: str) -> bool:
    if _neighbours(folded):
        return True
    separators = set(folded).difference(bare)
    return len(separators) == 1 and _neighbours(bare)


def _neighbours(text: str) -> bool:
    if len(set(text)) <= DIFFERENT < len(text):
        return True
    for unit in range(1, min(UNIT, len(text) // 2) + 1):
        if text[unit] == text[0] and text.startswith(text[unit:]):
            return True
    pieces, start = 0, 0
    while start < len(text):
        if pieces == PIECES:
            return False
        first = text[start : start + RUN]
        start += _run(text[start:]) if first in RUNS or first == text[start] * RUN else 1
        pieces += 1
    return pieces < len(text)


def _run(text: str) -> int:
    """How many characters from the first on are the same one, or side by side."""
    length = len(text) - len(text.lstrip(text[0]))
    while length < len(text) and text[: length + 1] in WALKS:
        length += 1
    return length
