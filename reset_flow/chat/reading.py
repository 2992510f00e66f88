"""Reads what people type: words that steer, codes in any dress, logins. It keeps nothing and calls nobody."""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum
from typing import TYPE_CHECKING

from reset_flow.chat.sayings import BUTTONS, sent_by
from reset_flow.domain.capabilities import CodeFormat, CodeKind
from reset_flow.domain.validation import trimmed
from reset_flow.messages import LOCALES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reset_flow.messages import Texts


class Word(StrEnum):
    """What steers the dialogue, in each language at any time. `/` and the name is what a button sends."""

    CANCEL = "cancel"
    RESEND = "resend"
    RESTART = "restart"
    HELP = "help"
    HUMAN = "human"


STEERING = re.compile(r"/(\w+)(?:@\w+)?(?:\s.*)?", re.DOTALL)
"""As bots are steered; in groups with the bot's name."""

LONGEST_WORDS = 200
"""Characters, in which a word may stand with others. To look for one takes time that grows with their square."""

EDGES = re.compile(r"^\W+|\W+$")
EMAIL = re.compile(r"(?<![^\s<>(),;:\"])[^\s<>(),;:\"@]+@[^\s<>(),;:\"@]+\.[^\s<>(),;:\"@.?!]+")
LOGIN = re.compile(r"(?!www\.)(?=.*[^\W\d_])(?=.*[\d._])\w[\w.+-]{2,}\w")
"""What no ordinary word looks like: letters with a digit, dot or underscore."""

APOSTROPHES = "'\N{RIGHT SINGLE QUOTATION MARK}\N{ACUTE ACCENT}`"
NUMBER = re.compile(r"\d{4,}")
QUOTED = re.compile(r"[\"“„«]([^\"“”„«»]+)[\"“”»][.,!]?")

QUESTION_MARKS = ("?", "\N{FULLWIDTH QUESTION MARK}", "\N{ARABIC QUESTION MARK}", "\N{GREEK QUESTION MARK}")
DASHES = "\N{MINUS SIGN}"
DIGIT_GROUPS = re.compile(r"(?<!\d[.,:/])(?<!\w)\d+(?:[ \-]\d+)*(?!\w|[.,:/]\d)")
NO_CODES = re.compile(r"(?<!\w)\w+://\S+|(?:\+|\(0\d{1,4}\)) ?\d[\d ()/\-]*")
"""Addresses and telephone numbers, which come with an e-mail that is pasted."""

DIALLED = re.compile(r"(?<![\w\-])0\d{2,4}[ /\-]\d{6,}(?!\w)")
LONGEST_BESIDE_DIALLED = 8
"""Telephone numbers as they are dialled at home, which no code is as long as that has so many digits or fewer."""

LETTER_GROUPS = re.compile(r"(?<![\w@.])[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*(?![\w@]|\.\w)")
FEWEST_DIGITS = 4
FEWEST_LETTERS = 6
FEWEST_OF_A_KEY = 16
"""Of codes whose length varies, where they stand among other words."""

SHORTEST_SECRET = 8
"""Of words that end with a question mark, and of signs: shorter ones are no secrets, such as "Really?" and "!!!"."""

MOST_GROUPS = 4
"""As a code is split by spaces, where nothing else stands beside it."""


class Reader:
    """
    Reads for one provider and one tenant.

    Args:
        texts: Has the words of each language, separated by commas.
    """

    def __init__(self, texts: Texts, code: CodeFormat) -> None:
        self._code = code
        self._words = {name: word for word in Word for name in map(_bare, _names(texts, f"chat.words.{word}"))}
        for button, id_ in BUTTONS.items():  # where a platform shows none, people type what is written on them
            labels = {_bare(texts.pattern(id_, locale)) for locale in LOCALES}
            self._words |= dict.fromkeys(labels, Word(sent_by(button).removeprefix("/")))
        self._polite = set(map(_bare, _names(texts, "chat.words.polite")))
        kinds = {kind: _names(texts, f"chat.words.{kind}") for kind in ("login", "answer", "password")}
        self._labels = {kind: _label(names) for kind, names in kinds.items()}
        self._asides = set(map(_bare, _names(texts, "chat.words.aside")))
        self._code_names = set(map(_bare, _names(texts, "chat.words.code")))
        self._answer_is = _label(kinds["answer"], r"\s")  # nobody's answer begins with "my answer is"
        self._named_secret = re.compile(rf"(?<!\w)(?:{_any_of(kinds['password'])})\s*[:=]\s*\S", re.IGNORECASE)
        names, it_is = map(_any_of, (kinds["login"], _names(texts, "chat.words.it_is")))
        self._lead_in = re.compile(rf"(?:(?P<login>{names})|{it_is})\s+", re.IGNORECASE)

    def word(self, text: str) -> Word | None:
        """Return the word that steers, if the text is one and nothing else."""
        if found := STEERING.fullmatch(text.strip()):
            return Word(found[1].lower()) if found[1].lower() in tuple(Word) else None
        if len(text) > LONGEST_WORDS:
            return None
        bare = _bare(text)
        if bare not in self._words:
            bare = " ".join(word for word in bare.split() if word not in self._polite)
        return self._words.get(bare)

    def login(self, text: str, *, may_be_code: bool = False) -> str | None:
        """
        Return the login in a text; `None` if there is none, or several could be meant.

        Args:
            may_be_code: Whether a code may be on its way: then a number like one needs a label.
        """
        labelled, text = self._without_label("login", text)
        text = trimmed(text)
        quoted = QUOTED.fullmatch(text)
        text = quoted[1] if quoted else text
        if found := self.addresses(text):
            is_short = len(text) <= LONGEST_WORDS and len(text.splitlines()) == 1
            return found[0] if len(found) == 1 and is_short else None
        if quoted and labelled:
            return text
        if len(text.split()) > 1:
            return self._introduced(text, labelled=labelled)
        is_code = may_be_code and not any(map(str.isalpha, text)) and self.looks_like_code(text)
        if not text or text.startswith("/") or (not labelled and (is_code or "://" in text or self.is_aside(text))):
            return None
        return text.rstrip(".,;!") or None

    def addresses(self, text: str) -> tuple[str, ...]:
        """Return the e-mail addresses in a text."""
        return _once(EMAIL.findall(text))

    def answer(self, text: str) -> str | None:
        """
        Return an answer exactly as typed, without what says that it is one. `None` if it looks like a question to the
        bot, an aside or a command: with a label, it is taken all the same.
        """
        labelled, rest = self._without_label("answer", text)
        if not labelled and (self.is_aside(text) or text.lstrip().startswith("/")):
            return None
        found = None if labelled else self._answer_is.match(text)
        rest = rest[found.end() :] if found else rest
        return rest if rest.strip() else None

    def password(self, text: str) -> str | None:
        """
        Return a password without a label that says what it is, and spaces around it, as keyboards add one and some
        platforms take it away. `None` if it looks like a question to the bot, an aside or a sentence: with the label,
        it is taken all the same. A sentence that became the password would lock out who was told that all is well.
        """
        labelled, rest = self._without_label("password", text)
        is_taken = labelled or not (self.is_aside(text) or len(text.split()) > 1)
        return (rest.strip() or None) if is_taken else None

    def codes(self, text: str) -> tuple[str, ...]:
        """Return what in a text can be the code: nothing, one, or several of which nobody knows the right one."""
        kind, length = self._code.kind, self._code.length
        if kind is CodeKind.TOKEN:
            return _keys(text)
        text = _plain(text)
        return _digits(text, length) if kind is CodeKind.DIGITS else _letters(text, length)

    def looks_like_code(self, text: str) -> bool:
        """Return whether there is a code in a text, of a kind that logins seldom are: digits of a fixed length."""
        return self._code.kind is CodeKind.DIGITS and self._code.length > 0 and bool(self.codes(text))

    def attempts_code(self, text: str) -> bool:
        """Return whether a text without a code was meant as one: it is to be deleted, as it may nearly be right."""
        plain = _plain(text)
        return any(char.isdecimal() for char in plain) and len(plain.split()) <= MOST_GROUPS and not asks(text)

    def may_be_secret(self, text: str, *, awaited: bool) -> bool:
        """
        Return whether a text that is not taken may be an answer or a password all the same.

        Args:
            awaited: Whether one is: else one long word that looks like a question may be.
        """
        if asks(text) or not any(map(str.isalnum, text)):
            return len(text.split()) == 1 and len(text.strip()) >= SHORTEST_SECRET
        is_command = text.lstrip().startswith("/") and len(text.split()) == 1
        return awaited and not is_command and not self.is_aside(text)

    def names_password(self, text: str) -> bool:
        """Return whether a password stands in a text with other things, behind a label."""
        return bool(self._named_secret.search(text))

    def names_code(self, text: str) -> bool:
        """Return whether a text is about the code or its e-mail, such as "where is my code?"."""
        return len(text) <= LONGEST_WORDS and not self._code_names.isdisjoint(_bare(text).split())

    def is_aside(self, text: str) -> bool:
        """Return whether a text is a question to the bot, or what people say while they think: "hm", "I don't know"."""
        if len(text) > LONGEST_WORDS:
            return asks(text)
        bare = _bare(text)
        words = [word for word in bare.split() if word not in self._polite]
        rest = [word for word in words if word not in self._asides]
        return asks(text) or not rest or not {bare, " ".join(words)}.isdisjoint(self._asides)

    def may_be_answer(self, text: str) -> bool:
        """Return whether what steers may be an answer, such as "agent": one word, and no button."""
        return len(text.split()) == 1 and not STEERING.fullmatch(text.strip())

    def _introduced(self, text: str, *, labelled: bool) -> str | None:
        """Return what follows "my login is" and the like, if it is all, and no ordinary word looks like it."""
        if len(text) > LONGEST_WORDS or asks(text):
            return None
        words = text.split()
        for end in (0, -1):
            while words and _bare(words[end]) in {*self._polite, ""}:
                del words[end]
        rest = " ".join(words)
        found = self._lead_in.match(rest)
        rest = rest[found.end() :] if found else rest
        is_named = labelled or bool(found and found["login"])
        if is_named and (quoted := QUOTED.fullmatch(rest)):
            return quoted[1]
        login = EDGES.sub("", rest)
        return login if LOGIN.fullmatch(login) or (is_named and NUMBER.fullmatch(login)) else None

    def _without_label(self, kind: str, text: str) -> tuple[bool, str]:
        found = self._labels[kind].match(text)
        return bool(found), text[found.end() :] if found else text


def asks(text: str) -> bool:
    """Return whether a text looks like a question to the bot."""
    return text.rstrip().endswith(QUESTION_MARKS) or text.lstrip().startswith("\N{INVERTED QUESTION MARK}")


def _names(texts: Texts, id_: str) -> frozenset[str]:
    return frozenset(name.strip() for locale in LOCALES for name in texts.pattern(id_, locale).split(","))


def _label(names: Iterable[str], sign: str = "[:=]") -> re.Pattern[str]:
    return re.compile(rf"\s*(?:{_any_of(names)})\s*{sign}\s*", re.IGNORECASE)


def _any_of(names: Iterable[str]) -> str:
    """Return a pattern that matches each of these, the longest one first."""
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True)))


def _bare(text: str) -> str:
    """Return a text without case, accents, apostrophes, signs around its words and spaces that do not matter."""
    text = "".join(char for char in text if char not in APOSTROPHES)
    plain = "".join(char for char in unicodedata.normalize("NFKD", text) if unicodedata.category(char) != "Mn")
    words = plain.casefold().split()
    return " ".join(filter(None, [EDGES.sub("", word) for word in words]))


def _plain(text: str) -> str:
    """Return a text with ASCII digits, letters of usual width, spaces and dashes, and nothing invisible."""
    return "".join(map(_plain_character, text))


def _plain_character(char: str) -> str:
    if char.isascii():
        return char
    if (value := unicodedata.decimal(char, None)) is not None:
        return str(value)
    category = unicodedata.category(char)
    if category == "Zs":
        return " "
    if category == "Pd" or char in DASHES:
        return "-"
    return "" if category in ("Cf", "Mn") else unicodedata.normalize("NFKC", char)


def _digits(text: str, length: int) -> tuple[str, ...]:
    found = []
    text = NO_CODES.sub(".", text)
    if 0 < length <= LONGEST_BESIDE_DIALLED:
        text = DIALLED.sub(".", text)
    for groups in DIGIT_GROUPS.findall(text):
        parts = re.split(r"[ \-]", groups)
        joined = "".join(parts)
        if _fits(joined, length, FEWEST_DIGITS):
            found.append(joined)
        elif length:
            found += [part for part in parts if len(part) == length]
    return _once(found)


def _letters(text: str, length: int) -> tuple[str, ...]:
    """Read a code of letters and digits. Beside other words, it is one that no ordinary word looks like."""
    groups = LETTER_GROUPS.findall(text)
    alone = "".join("".join(groups).split("-"))
    signs = "".join(char for char in text if char.isalnum())
    if alone == signs and len(groups) <= MOST_GROUPS and _fits(alone, length, FEWEST_LETTERS):
        return (alone,)
    joined = [group.replace("-", "") for group in groups]
    return _once(
        [
            code
            for code in joined
            if _fits(code, length, FEWEST_LETTERS)
            and not code.isdigit()
            and (any(map(str.isdigit, code)) or (code.isupper() and bool(length)))
        ]
    )


def _keys(text: str) -> tuple[str, ...]:
    words = text.split()
    if len(words) == 1:
        return tuple(words)
    return _once(
        [
            word.strip(".,;:<>()")
            for word in words
            if len(word) >= FEWEST_OF_A_KEY
            and "://" not in word
            and any(map(str.isdigit, word))
            and any(map(str.isalpha, word))
        ]
    )


def _fits(code: str, length: int, fewest: int) -> bool:
    return len(code) == length if length else len(code) >= fewest


def _once(found: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(found))
