"""A new password is long enough, not one that attackers try first, and otherwise free."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, strategies as st

from reset_flow.domain import password_rules
from reset_flow.domain.errors import ConfigurationError
from reset_flow.domain.password_rules import (
    PasswordRules,
    common_passwords,
)
from reset_flow.domain.secret import Secret
from reset_flow.domain.text import canonical
from reset_flow.testing import LeakScanner, shown_by_error

COMMON, LOGIN = str(password_rules.COMMON), str(password_rules.LOGIN)
ROW, WORD = str(password_rules.ROW), str(password_rules.WORD)
USER = "robert.zak@mail.example"
CANARY = "violet tractor 7 canary"
OPEN = PasswordRules(blocklist=())
"""Without a blocklist, so that each rule is tested alone."""

LINES = files("reset_flow.domain").joinpath("common_passwords.txt").read_bytes().decode("utf-8")
WORDS = st.lists(st.sampled_from(["violet", "tractor", "eats", "lemming", "oven", "quartz"]), min_size=3, unique=True)


def refused(password: str, user: str = USER, rules: PasswordRules = OPEN) -> tuple[str, ...]:
    return tuple(map(str, rules.refusals(Secret(password), user)))


FAMOUS = """
password password1 password123 passw0rd p@ssw0rd pa$$w0rd 12345678 123456789 1234567890 11111111 qwertyui qwertyuiop
qwerty123 1q2w3e4r 1qaz2wsx zaq12wsx asdfghjkl iloveyou iloveyou1 football football1 baseball baseball1 princess
sunshine superman trustno1 letmein1 welcome1 welcome2024 summer2025! changeme starwars whatever computer michael1
jennifer jordan23 liverpool chelsea1 admin123 abcd1234 charlie1 pokemon1 butterfly chocolate passwort motdepasse
contraseña пароль123
"""

# --- the list


def test_the_shipped_list_is_long_sorted_without_doubles_and_in_canonical_form() -> None:
    lines = LINES.removesuffix("\n").split("\n")
    assert 4_000 <= len(lines) <= 6_000
    assert lines == sorted(set(lines))
    assert all(line == canonical(line) == line.strip() for line in lines)
    assert all(8 <= len(line) <= 64 and line.isprintable() for line in lines)
    assert LINES.endswith("\n")
    assert common_passwords() == frozenset(lines)


@pytest.mark.parametrize("famous", FAMOUS.split())
def test_famous_passwords_are_in_the_list_however_they_are_written(famous: str) -> None:
    full_width = "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in famous)
    for written in (famous, famous.upper(), famous.title(), full_width):
        assert COMMON in refused(written, rules=PasswordRules())


def test_only_a_whole_password_is_compared_with_the_list() -> None:
    assert refused("football1", rules=PasswordRules()) == (COMMON,)
    assert refused("football1 violet", rules=PasswordRules()) == ()
    assert refused(" football1", rules=PasswordRules()) == ()


def test_a_list_of_ones_own_replaces_the_shipped_one_or_adds_to_it() -> None:
    own = PasswordRules(blocklist=["Violet Tractor", "Straße 77"])
    assert refused("VIOLET tractor", rules=own) == (COMMON,)
    assert refused("strasse 77", rules=own) == (COMMON,)
    assert refused("football1", rules=own) == ()
    both = PasswordRules(blocklist=common_passwords() | {"violet tractor"})
    assert refused("violet tractor", rules=both) == refused("football1", rules=both) == (COMMON,)
    assert refused("football1") == ()


def test_importing_and_making_rules_reads_no_list() -> None:
    script = (
        "from reset_flow.domain.password_rules import PasswordRules, common_passwords as listed\n"
        "from reset_flow.domain.secret import Secret\n"
        "rules = PasswordRules()\n"
        "assert listed.cache_info().currsize == 0\n"
        "assert rules.refusals(Secret('football1'), '')\n"
        "assert rules.refusals(Secret('baseball1'), '')\n"
        "assert listed.cache_info().misses == 1\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_list_that_cannot_be_read_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> NoReturn:
        raise FileNotFoundError("common_passwords.txt")

    monkeypatch.setattr(password_rules, "common_passwords", missing)
    with pytest.raises(FileNotFoundError) as caught:
        PasswordRules().refusals(Secret(CANARY), USER)
    shown = shown_by_error(caught.value, callers=[Path(__file__).parents[1]])
    assert LeakScanner({"password": CANARY}).find(shown) == []


# --- lengths


@pytest.mark.parametrize(
    ("password", "complaint"),
    [
        ("", "it must have at least 8 characters"),
        ("violet7", "it must have at least 8 characters"),
        ("🦊🐙🐘🦁🐯🐻🐼", "it must have at least 8 characters"),
        ("violet tractor " * 9, "it must have at most 128 characters"),
        ("x" * 10**6, "it must have at most 128 characters"),
    ],
    ids=lambda value: value[:40],
)
def test_a_password_of_the_wrong_length_is_told_only_that(password: str, complaint: str) -> None:
    assert refused(password) == (complaint,)


@pytest.mark.parametrize(
    "password", ["violet 7", "🦊🐙🐘🦁🐯🐻🐼🐨", " eight  ch", "pässwört", "ﷺﷺ violet", ("violet tractor " * 9)[:128]]
)
def test_lengths_are_counted_in_code_points_as_typed(password: str) -> None:
    assert refused(password, rules=PasswordRules()) == ()


@pytest.mark.parametrize(
    "password",
    [
        "violettractor",
        "VIOLETTRACTOR",
        "48151 62342 99",
        "?!;:-)(/+x%~",
        "zażółć gęślą",
        "紫色のトラクター",
        "👩‍👩‍👧 🧑🏽‍🚀 🏴‍☠️ 🦊",
    ],
)
def test_no_composition_is_asked_for(password: str) -> None:
    assert refused(password, rules=PasswordRules()) == ()


# --- names


@pytest.mark.parametrize(
    "password",
    [
        USER, USER.upper(), "robert.zak", "Robert.Zak", "robertzak", "robert zak 1990", "!!robert.zak!!",
        "123robert.zak", "robert.zak19900412", "zakRobert!1990", "ROBERT1234", "robertrobert", "xrobert7!",
        "ｒｏｂｅｒｔ１２３４", "mail.example1", "robertabc", "bert.zak", "(*obert*-+)",
    ],
)  # fmt: skip
def test_a_password_that_is_little_more_than_the_login_is_refused(password: str) -> None:
    assert refused(password) == (LOGIN,)
    assert refused(password, user="zofia.lis@post.example") == ()


@pytest.mark.parametrize(
    "password",
    [
        "robert eats violet tractors", "robert.zak@mail.example has a lemming", "robert eats", "robertloves",
        "emailed lemming", "robert🦊🐙🐘🐻", "robert.zak 1990 0412 1", "zakopane in may", "example of quartz",
    ],
)  # fmt: skip
def test_a_password_that_has_the_login_in_it_and_enough_else_is_taken(password: str) -> None:
    assert refused(password, rules=PasswordRules()) == ()


@pytest.mark.parametrize(
    ("user", "password", "fits"),
    [
        ("anna", "savannah7x", True),  # four letters more than a short name
        ("anna", "anna19900412", False),
        ("anna", "hanna123", False),
        ("anna", "xhanna123", True),
        ("eva", "eva-2024-eva", False),
        ("eva", "seva2024", True),
        ("ed", "ed199004!!", False),
        ("ed", "wedged in 7", True),
        ("x", "xylophon", True),
        ("7", "73920174", True),
        ("123", "91238804", True),
        ("10023984", "10023984!", False),
        ("10023984", "id-10023984", False),
        ("10023984", "10023984 lemming", True),
        ("CORP\\rzakrzewski", "Rzakrzewski1", False),
        ("!!??!!%%", "!!??!!%%", False),
        ("zażółć", "ZAŻÓŁĆ12", False),
        ("", "violet tractor", True),
        ("@", "violet tractor", True),
    ],
)
def test_how_much_must_be_added_depends_on_the_name(user: str, password: str, fits: bool) -> None:  # noqa: FBT001 - a table
    assert refused(password, user) == (() if fits else (LOGIN,))


@pytest.mark.parametrize(
    "password", ["AutoShares", "autoshares1", "Auto-Shares 2025!", "trader2025", "ABCautoshares", "sharestrader"]
)
def test_a_password_that_is_little_more_than_a_word_of_the_tenants_is_refused(password: str) -> None:
    rules = PasswordRules(blocklist=(), words=("AutoShares Trader", "ETNA"))
    assert refused(password, rules=rules) == (WORD,)
    assert refused(password) == ()
    assert refused("my autoshares of quartz", rules=rules) == ()
    assert refused("etnas of sicily", rules=rules) == ()


def test_a_password_of_the_login_and_a_word_is_refused_for_both() -> None:
    rules = PasswordRules(blocklist=(), words=("autoshares",))
    assert refused("robert@autoshares1", rules=rules) == (LOGIN, WORD)


@given(before=st.text("0123456789.-_! *", max_size=4), after=st.text("0123456789.-_! *", max_size=4))
def test_what_people_put_around_a_login_does_not_help(before: str, after: str) -> None:
    assert LOGIN in refused(f"{before}robert.zak{after}")


@given(WORDS, st.integers(0, 3), st.sampled_from(["robert.zak", "zak", USER, "ROBERT"]))
def test_a_passphrase_may_have_the_login_anywhere(words: list[str], at: int, login: str) -> None:
    phrase = " ".join([*words[:at], login, *words[at:]])
    assert refused(phrase, rules=PasswordRules()) == ()


# --- rows


@pytest.mark.parametrize(
    "password",
    [
        "aaaaaaaa", "🦊" * 8, "        ", "--------", "12121212", "abcabcab", "abcdabcdabcd", "haha haha",
        "no no no no", "abbabaab", "aaaaaaab", "aaaabbbb", "aaabbbccc", "aa aa aa aa a", "1111222333", "abcdefgh",
        "hgfedcba", "12345678", "87654321", "1234567890", "0987654321", "34567890", "ABCDEFGH", "abcd1234",
        "abcd1234!", "abc123xyz", "abc-def-ghi", "1 2 3 4 5 6 7 8", "1-2-3-4-5", "qwertyui", "qwertyuiop",
        "poiuytrewq", "asdfghjkl", "qweasdzxc", "qwerty123", "qwertz12345", "azertyuiop", "1qaz2wsx", "zaq12wsx",
        "!QAZ2wsx", "1q2w3e4r", "q1w2e3r4t5", "a1b2c3d4", "147258369", "789456123", "!@#$%^&*", "йцукенгш",
        "αβγδεζηθ", "１２３４５６７８", "qwertyuiop7x", "abcdefghijklmnopqrstuvwxyz",
    ],
)  # fmt: skip
def test_a_row_of_repeats_and_neighbours_is_refused(password: str) -> None:
    assert refused(password) == (ROW,)


@pytest.mark.parametrize(
    "password",
    [
        "abcd violet", "qwerty tractor", "violet 1234", "aaaa bqlt", "12ab34cd", "a b c q x z", "hello hello",
        "stuvgate7", "ab-cd-xe-f!", "x7q2fkx7q2fk", "19900412", "a!1@#$%^&*x7", "defer treasure", "0x1b9c0f",
    ],
)  # fmt: skip
def test_a_row_with_enough_else_is_taken(password: str) -> None:
    assert refused(password) == ()


def test_rules_for_very_short_passwords_refuse_no_short_password_for_being_short() -> None:
    rules = PasswordRules(min_length=1, blocklist=())
    for password in ("x", "xy", "x7q"):
        assert refused(password, rules=rules) == ()
    for password in ("aa", "abc", "aba", "1111"):
        assert refused(password, rules=rules) == (ROW,)


# --- all of it


@given(st.text(max_size=140), st.text(max_size=40))
def test_whatever_is_typed_is_judged_and_nothing_of_it_repeated(password: str, user: str) -> None:
    known = {COMMON, LOGIN, WORD, ROW, "it must have at least 8 characters", "it must have at most 128 characters"}
    rules = PasswordRules(words=("AutoShares",))
    assert set(refused(password, user, rules)) <= known


@given(st.text(min_size=8, max_size=60))
def test_a_password_that_is_the_login_is_always_refused(password: str) -> None:
    assert LOGIN in refused(password, password)


@given(st.text(max_size=40))
def test_the_canonical_form_is_the_canonical_form_of_itself(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


def test_complaints_tell_the_person_what_to_do() -> None:
    for complaint in (COMMON, LOGIN, WORD, ROW):
        assert complaint.startswith("it must ")
        assert not complaint.endswith(".")


# --- settings


async def content(_password: Secret, _user: str) -> tuple[str, ...]:
    return ()


def test_rules_have_the_lengths_of_the_standard_and_compare_by_value() -> None:
    rules = PasswordRules()
    assert (rules.min_length, rules.max_length, rules.blocklist, rules.words, rules.checks) == (8, 128, None, (), ())
    assert rules == PasswordRules()
    assert hash(rules) == hash(PasswordRules())
    strict = PasswordRules(min_length=15, words=["AutoShares"], checks=[content], blocklist={"Canary 1"})
    assert refused("violet tractor", rules=strict) == ("it must have at least 15 characters",)
    assert strict.words == ("AutoShares",)
    assert strict.checks == (content,)
    assert "canary" not in repr(strict).lower()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"min_length": 0}, "min_length must be a whole number of at least 1"),
        ({"min_length": True}, "min_length must be a whole number of at least 1"),
        ({"max_length": "128"}, "max_length must be a whole number of at least 1"),
        ({"min_length": 16, "max_length": 15}, "min_length is greater than max_length"),
        ({"blocklist": "canary"}, "blocklist must be several of them, such as a tuple, not str"),
        ({"blocklist": 7}, "blocklist must be several of them, such as a tuple, not int"),
        ({"blocklist": ["canary", b"canary"]}, "every one of blocklist must be text"),
        ({"words": "AutoShares"}, "words must be several of them, such as a tuple, not str"),
        ({"words": ("",)}, "every one of words must be text with at least two letters"),
        ({"words": ("AutoShares", "!?")}, "every one of words must be text with at least two letters"),
        ({"words": ("24",)}, "every one of words must be text with at least two letters, or four digits"),
        ({"words": (None,)}, "every one of words must be text"),
        ({"checks": content}, "checks must be several of them, such as a tuple, not function"),
        ({"checks": (content, None)}, "every one of checks must be callable with a password and a user"),
    ],
)
def test_settings_that_no_rules_can_be_made_of_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PasswordRules(**settings)
    assert str(caught.value).startswith(says)
    assert "canary" not in str(caught.value)
