"""The search for leaks finds what is planted: each canary, in each spelling, in each kind of place."""

from __future__ import annotations

import html
import json
import pickle
from base64 import b64encode, urlsafe_b64encode
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus, urlencode

import pytest

from reset_flow.testing import LeakScanner

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = bytes(range(130, 162))
LENGTH = timedelta(seconds=2, microseconds=831479)
CANARIES: dict[str, str | bytes] = {
    "answer": 'Straße "7 ½" \\ Höfe',
    "code": "831479",
    "token": "5f0c2d1e-77aa-4c2e-9d55-0123456789ab",
    "password": 'grüner "Traktor" & 5\\',
    "pin": "8302",
    "app key": "key+with/signs==of",
    "key bytes": KEY,
    "login": "Zoë+Ünal/x@exämple.net",
}
WRITERS: dict[str, Callable[[str], bytes]] = {
    "plain": str.encode,
    "UTF-16": lambda text: text.encode("utf-16-le"),
    "hex": lambda text: text.encode().hex().encode(),
    "hex in capitals": lambda text: text.encode().hex().upper().encode(),
    "base64": lambda text: b64encode(text.encode()),
    "base64 for URLs": lambda text: urlsafe_b64encode(text.encode()),
    "a path": lambda text: quote(text, safe="").encode(),
    "a query": lambda text: quote_plus(text).encode(),
    "a query in small letters": lambda text: quote(text).lower().encode(),
    "a form": lambda text: urlencode({"q": text}).encode(),
    "JSON": lambda text: json.dumps({"q": [text]}).encode(),
    "JSON with letters": lambda text: json.dumps(text, ensure_ascii=False).encode(),
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)).encode(),
    "repr": lambda text: repr([text]).encode(),
    "repr of bytes": lambda text: repr(text.encode()).encode(),
    "HTML": lambda text: html.escape(text).encode(),
}
TEXTS = {name: text for name, text in CANARIES.items() if isinstance(text, str)}


@pytest.fixture
def scanner() -> LeakScanner:
    return LeakScanner(CANARIES)


@pytest.mark.parametrize("before", ["", "a", "ab"])
@pytest.mark.parametrize("writer", WRITERS)
def test_what_other_programs_write_is_found_whatever_stands_around_it(
    scanner: LeakScanner, writer: str, before: str
) -> None:
    for name, text in TEXTS.items():
        # What is encoded with it makes other characters of its ends.
        written = WRITERS[writer](f"{before} {text} tail")
        kept = b"\x00\xff" * 50 + written + b"\x01" * 50
        assert {leak.name for leak in scanner.find(kept)} == {name}


@pytest.mark.parametrize("before", range(3))
@pytest.mark.parametrize("encode", [bytes.hex, b64encode, urlsafe_b64encode, repr, list, bytes])
def test_bytes_of_a_key_are_found(scanner: LeakScanner, encode: Callable[[bytes], object], before: int) -> None:
    written = encode(b"\x07" * before + KEY + b"\x09")
    kept = written if isinstance(written, bytes) else str(written).encode()
    assert {leak.name for leak in scanner.find(kept)} == {"key bytes"}


def test_nothing_is_found_where_nothing_is(scanner: LeakScanner) -> None:
    assert scanner.find("", b"", "INFO flow abc: verify refused", bytes(range(160)) * 4, "grüner Traktor") == []


@pytest.mark.parametrize(
    "chance",
    [
        "12:00:01.831479+00:00",
        "datetime.datetime(2026, 1, 1, 3, 4, 5, 831479)",
        str(LENGTH),
        repr(LENGTH),
        pickle.dumps([LENGTH, LENGTH], 0).decode(),
        "0x7f8314790a",
        "17831479",
        "8314795",
    ],
)
def test_digits_of_a_time_or_an_address_are_no_code(scanner: LeakScanner, chance: str) -> None:
    assert scanner.find(chance) == []
    for written in (
        "code 831479",
        repr((1, 2, 831479)),
        *(pickle.dumps(each, 0).decode() for each in (831479, "831479", (1, 2, 831479))),
    ):
        assert [leak.name for leak in scanner.find(f"{chance} {written}")] == ["code"]


def test_a_leak_does_not_show_what_leaked(scanner: LeakScanner) -> None:
    (leak, *_) = scanner.find(f"the password: {TEXTS['password']}!")
    assert (leak.name, leak.spelling, leak.before) == ("password", "plain", "the password: ")
    assert scanner.find(repr(scanner)) == []


def test_a_canary_that_is_everywhere_is_refused(scanner: LeakScanner) -> None:
    with pytest.raises(ValueError, match="too short"):
        scanner.add("digits", "123")
    with pytest.raises(ValueError, match="two canaries"):
        scanner.add("code", "123456")
    assert "code" not in scanner.without("code").names
