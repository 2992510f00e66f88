"""
Rules for a new password, applied before the broker is asked: long enough, and not one that attackers try first.

There are no composition rules, and nothing is changed: the password is sent exactly as it was typed. Comparisons use
its canonical form (NFKC, case-folded), so that `PASSWORD1` in full width is `password1`. It is refused as:

===========  =========================================================================================================
too short,   counted in code points, as typed
too long
common       it is in the blocklist, as a whole (NIST SP 800-63B-4, 3.1.1.2: no parts of it are compared)
a name       it is little more than the user's login or one of the tenant's words
a row        it is little more than neighbours: repeats, runs of the alphabet and of digits, walks over a keyboard
===========  =========================================================================================================

**Little more than a name.** The names are the whole login, the part before its last @, and each of its words of four
characters or more; likewise for the tenant's words. On both sides, only letters, digits and pictograms count. The
password must not be a part of four characters or more of a name. If it contains names, the rest without them must be
longer than eight characters, or must have more than a few characters that are no digits: three, and fewer for short
names (none, one and two for names of up to three, four and five characters). So `robert.zak` is refused
`zakRobert!1990`, and may have `robert eats violet tractors`. Names of one character are ignored, and names of fewer
than four digits.

**Little more than neighbours.** This rule is applied to the password, and also to the password without its separators
if these are all the same character. It must have more than two different characters. It must not repeat a unit of one
to four characters. It must not, read from the left, consist of three pieces or fewer. A piece is one character, or
three or more that are the same or are neighbours in one of the `ROWS`, in either direction. So `abcd1234!` is refused,
and `abcd violet` is not.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import attrs

from reset_flow.domain.errors import ConfigurationError, Reason
from reset_flow.domain.settings import count
from reset_flow.domain.text import canonical

if TYPE_CHECKING:
    from reset_flow.domain.secret import Secret

COMMON = Reason("common", "it must be one that few people would choose: several unrelated words, for example")
LOGIN = Reason("login", "it must be more than your login with a few characters added")
WORD = Reason("service", "it must be more than a name that belongs to this service, with a few characters added")
ROW = Reason("neighbours", "it must be more than a few repeated or neighbouring characters")

MIN_PART = 4
"""Length of the shortest word of a login that counts as a name, and of the shortest part of a name that is refused."""

MAX_ADDED = 8
"""Characters that do not make a password out of a name: a date has eight."""

MAX_ADDED_LETTERS = 3
MAX_UNIT = 4
MAX_PIECES = 3
MIN_RUN = 3
FEW_CHARACTERS = 2

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
RUNS = frozenset(WALKS[start : start + MIN_RUN] for start in range(len(WALKS) - MIN_RUN + 1))
"""The shortest runs. They spare most passwords the search in all rows, which takes longer than all other rules."""


@cache
def common_passwords() -> frozenset[str]:
    """Return the shipped blocklist, in canonical form. All entries have eight characters or more."""
    from importlib.resources import files  # noqa: PLC0415 - not needed to import the library

    return frozenset(
        files("reset_flow.domain").joinpath("common_passwords.txt").read_text(encoding="utf-8").splitlines()
    )


def _entries(name: str, values: Any, is_valid: Callable[[Any], bool], kind: str) -> tuple[Any, ...]:
    """Return the entries of a setting. No message repeats an entry: it may be somebody's password."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise ConfigurationError(f"{name} must be several of them, such as a tuple, not {type(values).__name__}")
    entries = tuple(values)
    if not all(is_valid(entry) for entry in entries):
        raise ConfigurationError(f"every one of {name} must be {kind}")
    return entries


def _blocklist(values: Collection[str] | None) -> frozenset[str] | None:
    if values is None:
        return None
    return frozenset(map(canonical, _entries("blocklist", values, lambda entry: isinstance(entry, str), "text")))


def _words(values: Iterable[str]) -> tuple[str, ...]:
    kind = "text with at least two letters, or four digits: shorter ones are in too many good passwords"
    return _entries("words", values, lambda entry: isinstance(entry, str) and bool(_names(canonical(entry))), kind)


def _checks(values: Iterable[Callable[..., Any]]) -> tuple[Callable[..., Any], ...]:
    return _entries("checks", values, callable, "callable with a password and a user")


@attrs.frozen(kw_only=True)
class PasswordRules:
    """
    Rules for a new password, applied before the broker is asked. There are no composition rules.

    Attributes:
        min_length: In code points. NIST SP 800-63B-4 asks for 8 where the password is one of two factors, and for 15
            where it is the only one.

        max_length: In code points.

        blocklist: Passwords that are refused as a whole, in any case and width. `None` is `common_passwords()`; to
            extend it, pass `common_passwords() | {...}`; an empty one refuses none.

        words: Names of the product and of the company, which attackers try first; at least two letters each.

        checks: Called concurrently, once each, and only if the rules have no complaint. Their owner closes them.

    Raises:
        ConfigurationError: A setting is invalid.
    """

    min_length: int = attrs.field(default=8, validator=count)
    max_length: int = attrs.field(default=128, validator=count)
    blocklist: Collection[str] | None = attrs.field(default=None, converter=_blocklist, repr=False)
    words: tuple[str, ...] = attrs.field(default=(), converter=_words)
    checks: tuple[Callable[..., Any], ...] = attrs.field(default=(), converter=_checks)

    def __attrs_post_init__(self) -> None:
        if self.min_length > self.max_length:
            raise ConfigurationError("min_length is greater than max_length: no password could be set")

    def refusals(self, password: Secret, user: str) -> tuple[Reason, ...]:
        """Return the complaints of the rules alone. With an empty `user`, the login is not compared."""
        # Loaded before the password is revealed: an error in reading the file shows the variables of this frame.
        blocklist = common_passwords() if self.blocklist is None else self.blocklist
        length = len(password.reveal())
        if length < self.min_length:
            return (Reason("too_short", f"it must have at least {self.min_length} characters", self.min_length),)
        if length > self.max_length:
            return (Reason("too_long", f"it must have at most {self.max_length} characters", self.max_length),)
        folded = canonical(password.reveal())
        bare = _letters(folded).replace(" ", "")
        is_login, is_word = _is_name(folded, bare, canonical(user), self.words)
        rules = ((COMMON, folded in blocklist), (LOGIN, is_login), (WORD, is_word), (ROW, _is_row(folded, bare)))
        return tuple([reason for reason, applies in rules if applies])


def _is_name(folded: str, bare: str, user: str, words: Iterable[str]) -> tuple[bool, bool]:
    """Return whether the password is little more than the login, and whether little more than one of the words."""
    logins = _names(user)
    is_login = folded == user or _is_little_more(bare, logins)
    if not words:
        return is_login, False
    names = frozenset().union(*(_names(canonical(word)) for word in words))
    is_word = _is_little_more(bare, names)
    is_both = not is_login and not is_word and _is_little_more(bare, logins | names)
    return is_login or is_both, is_word or is_both


ASCII_LETTERS = bytes(code if chr(code).isalnum() else ord(" ") for code in range(128)).ljust(256)


def _letters(text: str) -> str:
    """Return the text with spaces in place of everything but letters, digits and pictograms."""
    if text.isascii():
        return text.encode().translate(ASCII_LETTERS).decode()  # halves the time of all rules together
    kinds = ((char, unicodedata.category(char)) for char in text)
    return "".join(char if kind[0] in "LMN" or kind == "So" else " " for char, kind in kinds)


def _names(text: str) -> frozenset[str]:
    """Return the names in a login: all of it, the part before its last @, and its longer words."""
    whole, local = _letters(text), _letters(text.rpartition("@")[0])
    names = {whole.replace(" ", ""), local.replace(" ", ""), *[word for word in whole.split() if len(word) >= MIN_PART]}
    return frozenset([name for name in names if len(name) >= (MIN_PART if name.isdecimal() else 2)])


def _is_little_more(text: str, names: Iterable[str]) -> bool:
    """Return True if the text is a part of a name, or contains names and hardly anything else."""
    if len(text) >= MIN_PART and any(text in name for name in names):
        return True
    longest, rest = 0, text
    for name in sorted(names, key=len, reverse=True):
        if name in rest:
            longest = max(longest, len(name))
            rest = rest.replace(name, " ")  # a space, so that the text around it does not form another name
    if not longest:
        return False
    rest = rest.replace(" ", "")
    letters = sum(not char.isdecimal() for char in rest)
    return len(rest) <= MAX_ADDED and letters <= max(0, min(MAX_ADDED_LETTERS, longest - MAX_ADDED_LETTERS))


def _is_row(folded: str, bare: str) -> bool:
    has_one_separator = len(set(folded).difference(bare)) == 1
    return _has_neighbours_only(folded) or (has_one_separator and _has_neighbours_only(bare))


def _has_neighbours_only(text: str) -> bool:
    if len(set(text)) <= FEW_CHARACTERS < len(text):
        return True
    for unit in range(1, min(MAX_UNIT, len(text) // 2) + 1):
        if text[unit] == text[0] and text.startswith(text[unit:]):
            return True
    pieces, start = 0, 0
    while start < len(text):
        if pieces == MAX_PIECES:
            return False
        first = text[start : start + MIN_RUN]
        start += _run_length(text[start:]) if first in RUNS or first == text[start] * MIN_RUN else 1
        pieces += 1
    return pieces < len(text)


def _run_length(text: str) -> int:
    """Count the characters from the first one on that are the same, or neighbours in a row."""
    length = len(text) - len(text.lstrip(text[0]))
    while length < len(text) and text[: length + 1] in WALKS:
        length += 1
    return length
