"""Every text is there in every language, is used, and has the same places; tenants may put their own in their place."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from babel.messages.pofile import read_po

import reset_flow
from reset_flow import ConfigurationError, Credential, Failure, Reason, Step
from reset_flow.chat import Reason as EscalationReason
from reset_flow.chat.reading import Word
from reset_flow.chat.sayings import PIN_TEXTS
from reset_flow.domain import errors
from reset_flow.messages import LOCALES, Message, Texts, message_of, message_of_error, reasons_of
from reset_flow.messages.message import COUNTED_REASONS, LIMITS, REASONS
from tests.web.screens import NOW, ended, flow_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from babel.messages.catalog import Catalog

    from reset_flow import Flow

PACKAGE = Path(reset_flow.__file__).parent
SAME = {"page.error", "page.step.code", "page.code.label", "page.step.pin", "reason.words"}
"""Texts that may be the same in two languages."""


def catalog(locale: str) -> Catalog:
    with (PACKAGE / "messages" / "locale" / locale / "LC_MESSAGES" / "reset_flow.po").open("rb") as file:
        return read_po(file, locale=locale, abort_invalid=True)


def texts_of(locale: str) -> dict[str, tuple[str, ...]]:
    """Return the forms of each text."""
    found = {}
    for each in catalog(locale):
        if each.id:
            id_ = each.id if isinstance(each.id, str) else each.id[0]
            found[id_] = (each.string,) if isinstance(each.string, str) else tuple(each.string or ())
    return found


def flows() -> Iterator[Flow]:
    """Yield a flow for each thing that a person may be told."""
    for step in Step:
        yield flow_at(step)
        yield flow_at(step, in_doubt=step)
    yield flow_at(Step.CODE, sent_to="r…k@e….com")
    yield flow_at(Step.CODE, allowed=("cancel", "resend"))
    yield flow_at(Step.ANSWER, question=None)
    yield flow_at(Step.CODE, busy_until=NOW)
    for credential in Credential:
        yield flow_at(Step.CODE, credential=credential, in_doubt=credential.step)
        for failure in (None, *Failure):
            yield ended(failure, credential=credential)


def raised() -> Iterator[errors.ResetFlowError]:
    """Yield an error for each thing that a person may be told."""
    wait = timedelta(minutes=12)
    yield from (errors.LimitReached(limit, wait) for limit in (*LIMITS, "resends", "clients"))
    yield from (errors.LimitReached("resends"), errors.LimitReached("codes_per_user"))
    yield from (errors.FlowNotFound("x"), errors.FlowBusy("x", "verify", wait), errors.InvalidInput("no user"))
    yield errors.IllegalCommand("x", "verify", flow_at(Step.ANSWER).state, ("answer",))
    yield from (
        errors.CommandVetoed("no"),
        errors.HeldElsewhere("x"),
        errors.KeyReused("no"),
        errors.ConfigurationError("no"),
        errors.BrokerUnavailable(),
        errors.StoreUnavailable(),
    )
    kinds = (
        errors.UnknownUser,
        errors.AnswerRejected,
        errors.CodeRejected,
        errors.PasswordRejected,
        errors.InputRejected,
    )
    yield from (kind("words of the provider") for kind in kinds)
    yield errors.PasswordRejected("no").with_flow(flow_at(Step.PIN))
    codes = [Reason(code, "text") for code in sorted(REASONS)] + [Reason(code, "text", 8) for code in COUNTED_REASONS]
    yield from (errors.PasswordRejected(reason) for reason in codes)


def used() -> set[str]:
    """Return the ids that are told, and those that the page names."""
    told = {message_of(flow).id for flow in flows()} | {message_of_error(error).id for error in raised()}
    told |= {reason.id for error in raised() for reason in reasons_of(error)}
    for path in [*(PACKAGE / "web").rglob("*.html"), *(PACKAGE / "web").glob("*.py")]:
        told |= set(re.findall(r"""["'](page\.[a-z_.]+[a-z])["']""", path.read_text())) - {"page.css", "page.js"}
    for path in [*(PACKAGE / "chat").glob("*.py"), PACKAGE / "cli" / "chatting.py"]:
        told |= set(re.findall(r"""["'](chat\.[a-z_.]+[a-z])["']""", path.read_text()))
    told |= {f"chat.words.{name}" for name in (*Word, "login", "it_is", "answer", "password")}
    told |= {f"chat.terminal.{reason}" for reason in EscalationReason}
    told |= {f"{name}_pin" for name in PIN_TEXTS}
    return told | {"tries_left"}


@pytest.mark.parametrize("locale", LOCALES)
def test_every_text_that_is_used_is_there_and_no_other(locale: str) -> None:
    assert set(texts_of(locale)) == used()


@pytest.mark.parametrize("locale", LOCALES)
def test_every_text_is_translated_with_the_same_places(locale: str) -> None:
    mine, english = texts_of(locale), texts_of("en")
    for id_, forms in mine.items():
        assert len(forms) == len(english[id_])
        for form, other in zip(forms, english[id_], strict=True):
            assert form.strip()
            assert set(re.findall(r"\{\w+\}", form)) == set(re.findall(r"\{\w+\}", other)), id_
            assert locale == "en" or form != other or id_ in SAME, id_


@pytest.mark.parametrize("locale", LOCALES)
def test_every_message_can_be_said(locale: str) -> None:
    texts = Texts()
    for message in [*map(message_of, flows()), *map(message_of_error, raised())]:
        said = texts.say(message, locale)
        assert said
        assert "{" not in said


def test_numbers_times_and_waits_are_said_as_the_language_does() -> None:
    texts = Texts()
    wait = message_of_error(errors.LimitReached("codes_per_user", timedelta(seconds=61)))
    assert wait.context == {"retry_after": 61}
    assert texts.say(wait, "en") == "There were too many wrong codes for this account. Try again in 2 minutes."
    assert texts.say(wait, "de").endswith("Versuchen Sie es in 2 Minuten erneut.")
    assert texts.say(wait, "es").endswith("Inténtelo de nuevo dentro de 2 minutos.")
    assert texts.say("page.open_until", "de", expires_at=NOW.isoformat()).endswith("14:00 UTC offen.")
    assert [texts.say("tries_left", "de", count=count) for count in (1, 2)] == ["Noch ein Versuch.", "Noch 2 Versuche."]
    assert texts.say("reason.too_long", "es", count=10_000).endswith("10.000 caracteres.")


def test_words_of_the_provider_are_shown_as_they_are() -> None:
    (reason,) = reasons_of(errors.PasswordRejected("Use {count} <b>words</b>."))
    assert Texts().say(reason, "de") == "Use {count} <b>words</b>."


def test_a_text_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError, match="no such"):
        Texts().say("no such", "en")
    assert Texts().say("busy", "en")


@pytest.mark.parametrize(
    ("header", "chosen", "locale"),
    [
        (None, None, "en"),
        ("de-AT,de;q=0.9,en;q=0.8", None, "de"),
        ("fr;q=1.0, en;q=0.2, ES-mx;q=0.7", None, "es"),
        ("de;q=0, en", None, "en"),
        ("fr, *;q=0.5", None, "en"),
        ("de", "es", "es"),
        ("de", "xx", "de"),
        (";;,q=,de-" + "x" * 5000, None, "en"),
    ],
)
def test_the_language_is_the_one_that_the_person_chose_or_the_browser_wants(
    header: str | None, chosen: str | None, locale: str
) -> None:
    assert Texts().negotiate(header, chosen) == locale


def test_a_tenant_says_things_in_words_of_its_own() -> None:
    texts = Texts({"de": {"tries_left": "Übrig: {count}"}}, locales=("de", "en"))
    assert texts.say("tries_left", "de", count=1) == "Übrig: 1"
    assert texts.say("tries_left", "en", count=1) == "One try left."
    assert texts.negotiate("fr", None) == "de"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"fr": {"busy": "Un instant"}}, "no language that is known"),
        ({"en": {"bussy": "Wait"}}, "there is no text 'bussy'"),
        ({"en": {"busy": ""}}, "must be text that is not empty"),
        ({"en": {"busy": "Wait {seconds}"}}, "busy has no place seconds: it has none"),
        ({"en": {"page.started": "For {user}"}}, "no place user: it has login, started"),
    ],
)
def test_a_text_of_a_tenants_own_that_could_not_be_said_is_refused(
    overrides: dict[str, dict[str, str]], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Texts(overrides)
    assert Texts().say(Message("busy"), "en")


def test_languages_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="languages must be some of en, de, es"):
        Texts(locales=("en", "fr"))
    assert Texts(locales=("es",)).locales == ("es",)
