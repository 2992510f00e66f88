"""For people who embed the library: a search for what must be written nowhere, in whatever spelling."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from base64 import b64encode, urlsafe_b64encode
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, cast
from urllib.parse import quote_from_bytes

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = ["Leak", "LeakScanner", "spellings"]

SHORTEST = 4
"""Characters of a canary: anything shorter is found everywhere."""

SAFE = ("", "/", "@", "@/:", "~!*'()", "!$'()*,/:;@")
"""What various makers of URLs leave as it is."""

CHANCE = re.compile(
    rb"\d:\d\d:\d\d[.,]\d+"  # all in small letters: the fraction of a time, or of a length of time
    rb"|datetime\.(?:datetime|timedelta)\([^()]*"  # the same, in a `repr`
    rb"|(?:timedelta\np\d+|\ng\d+)\n\((?:i\d+\n){3}"  # the same, in a pickle of the oldest protocol
    rb"|\b0x[0-9a-f]+"  # an address in memory
    rb"|\d{7,}"
)
"""Where the digits of a code may stand without meaning it: 300 codes and 10,000 times meet once in 300 runs."""
LONG = 7
ESCAPED = re.compile(rb"%[0-9a-f]{2}|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}")
"""What may end in digits and is none."""

WORD = re.compile(rb"[a-z0-9]{4,}")
EXACT = "base64"
"""The spelling in which capitals are other characters."""
AROUND = 60


@attrs.frozen
class Leak:
    """
    A canary that was found.

    Attributes:
        name: Of the canary.

        spelling: How it was written.

        before: What stands in front of it. The canary itself is not shown: whoever reads this may be a log.
    """

    name: str
    spelling: str
    before: str


class LeakScanner:
    """
    Finds canaries in texts and bytes: plain, in hexadecimal, base64, a URL, JSON, a `repr`, HTML, UTF-16; in capitals
    and small letters.

    ::

        scanner = LeakScanner({"login": "Robért+zak@exämple.com", "password": 'violet "träctor" 5'})
        assert scanner.find(log.read_bytes(), repr(flow)) == []

    The best canaries look different in each spelling: a letter beyond ASCII, a sign that a URL does not carry, a quote.
    Of one that has digits alone (a code), what stands in a time, an address or a longer number is not taken for it.

    Args:
        canaries: What is searched for, by a name for each. Bytes are keys, and have no spellings as a text.
    """

    def __init__(self, canaries: Mapping[str, str | bytes]) -> None:
        self._spelled: dict[str, dict[bytes, list[tuple[bytes, str]]]] = {}
        for name, canary in canaries.items():
            self.add(name, canary)

    def __repr__(self) -> str:
        return f"<LeakScanner {' '.join(self._spelled)}>"

    @property
    def names(self) -> frozenset[str]:
        """Of the canaries."""
        return frozenset(self._spelled)

    def add(self, name: str, canary: str | bytes) -> None:
        """
        Search for this as well.

        Raises:
            ValueError: It is so short that it would be found everywhere, or there is another one of that name.
        """
        if len(canary) < SHORTEST:
            raise ValueError(f"the canary {name} is too short")
        if name in self._spelled:
            raise ValueError(f"there are two canaries {name}")
        # By a part that many have in common, so that the absence of that one rules them all out.
        by_part = self._spelled[name] = dict[bytes, list[tuple[bytes, str]]]()
        seen: set[bytes] = set()
        for spelling, whole in spellings(canary):
            spelled = whole if EXACT in spelling else whole.lower()
            if spelled not in seen:
                seen.add(spelled)
                part = max(WORD.findall(spelled.lower()), key=len, default=spelled.lower())
                by_part.setdefault(part, []).append((spelled, spelling))

    def without(self, *names: str) -> LeakScanner:
        """One that does not search for these."""
        other = LeakScanner({})
        other._spelled = {name: spelled for name, spelled in self._spelled.items() if name not in names}
        return other

    def find(self, *places: str | bytes) -> list[Leak]:
        """Each canary that is in one of the places, once for each spelling."""
        return [leak for place in places for leak in self._in(_bytes(place))]

    def _in(self, place: bytes) -> Iterator[Leak]:
        folded, quiet = place.lower(), cast("bytes | None", None)
        is_there = cache(folded.__contains__)  # canaries that look alike have parts in common
        for name, by_part in self._spelled.items():
            for text, spelling in (each for part, those in by_part.items() if is_there(part) for each in those):
                where = place if EXACT in spelling else folded
                at = where.find(text)
                if at >= 0 and text.isdigit() and len(text) < LONG:
                    if quiet is None:
                        quiet = CHANCE.sub(b" ", ESCAPED.sub(b" ", folded))
                    where, at = quiet, quiet.find(text)
                if at >= 0:
                    yield Leak(name, spelling, where[max(0, at - AROUND) : at].decode(errors="replace"))


def _bytes(place: str | bytes) -> bytes:
    return place.encode("utf-8", "surrogatepass") if isinstance(place, str) else place


def spellings(canary: str | bytes) -> Iterator[tuple[str, bytes]]:
    """Every way of writing it that is searched for: its name, and how it then looks."""
    if isinstance(canary, bytes):
        yield from _of_bytes(canary)
        yield from ((f"{name}, percent-encoded", each) for name, each in _percent_encoded("bytes", canary))
        return
    for form, text in _forms(canary):
        raw = text.encode("utf-8", "surrogatepass")
        yield from ((f"{form}{spelling}", spelled) for spelling, spelled in _of_bytes(raw))
        yield from ((f"{form}{spelling}", spelled) for spelling, spelled in _percent_encoded("URL", raw))
        yield from ((f"{form}{spelling}", spelled) for spelling, spelled in _escaped(text))
        yield f"{form}UTF-16", text.encode("utf-16-le", "surrogatepass")
        yield f"{form}UTF-16, the other way round", text.encode("utf-16-be", "surrogatepass")
        with suppress(UnicodeEncodeError):
            yield f"{form}Latin-1", text.encode("latin-1")


def _forms(text: str) -> Iterator[tuple[str, str]]:
    """Yield the text and the forms that programs make of names to compare them."""
    yield "", text
    yield "small letters, ", text.lower()
    yield "case-folded, ", unicodedata.normalize("NFKC", text).casefold()
    for form in ("NFC", "NFD"):
        yield f"{form}, ", unicodedata.normalize(form, text)


def _of_bytes(raw: bytes) -> Iterator[tuple[str, bytes]]:
    yield "plain", raw
    yield "hex", raw.hex().encode()
    yield "hex, apart", raw.hex(" ").encode()
    yield "a list of numbers", ", ".join(map(str, raw)).encode()
    yield "repr of bytes", repr(raw)[2:-1].encode()
    for name, encode in (("base64", b64encode), ("base64 for URLs", urlsafe_b64encode)):
        yield from ((f"{name}, {offset} before", coded) for offset, coded in enumerate(_aligned(raw, encode)))


def _aligned(raw: bytes, encode: Callable[[bytes], bytes]) -> Iterable[bytes]:
    """
    Yield the part of its base64 that no neighbour can change, with none, one or two bytes in front of it.

    Six bits are a character: the first that is wholly ours, to the last.
    """
    for before in range(3):
        first, behind = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
        yield encode(bytes(before) + raw)[first:behind]


def _percent_encoded(name: str, raw: bytes) -> Iterator[tuple[str, bytes]]:
    for safe in SAFE:
        quoted = quote_from_bytes(raw, safe=safe).encode()
        for spaced in (quoted, quoted.replace(b"%20", b"+")):
            yield name, spaced
            yield f"{name} in a URL", spaced.replace(b"%", b"%25")
    yield f"{name}, every byte", "".join(f"%{each:02X}" for each in raw).encode()


def _escaped(text: str) -> Iterator[tuple[str, bytes]]:
    in_json = json.dumps(text)
    in_words = json.dumps(text, ensure_ascii=False)
    yield "JSON", in_json[1:-1].encode()
    yield "JSON, unescaped letters", in_words[1:-1].encode("utf-8", "surrogatepass")
    yield "JSON in JSON", json.dumps(in_json[1:-1])[1:-1].encode()
    yield (
        "JSON, unescaped, in JSON",
        json.dumps(in_words[1:-1], ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass"),
    )
    yield "repr", repr(text)[1:-1].encode()
    yield "ascii", ascii(text)[1:-1].encode()
    yield "repr of repr", repr(repr(text)[1:-1])[1:-1].encode()
    yield "HTML", html.escape(text).encode("utf-8", "surrogatepass")
    yield "HTML, numbers", html.escape(text).encode("ascii", "xmlcharrefreplace")
