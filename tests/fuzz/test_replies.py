"""More than 20,000 made-up replies: what comes out is by the tables, whatever the broker says."""

from __future__ import annotations

import asyncio
import json
import unicodedata
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

import attrs
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from reset_flow.domain.flow import NewCredential
from reset_flow.domain.outcomes import Accepted, Cause, NotActed, Rejected, Unknown
from reset_flow.domain.secret import Secret
from reset_flow.ports import Case
from reset_flow.transports import http
from reset_flow.transports.etna import EtnaTransport
from reset_flow.transports.http import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from reset_flow.domain.outcomes import Outcome

EXAMPLES = 4100
"""Of each of the five calls: 20,500 in all."""

USER, ANSWER, CODE, TOKEN, PASSWORD = "robert.zak", "Peterson-7", "604158", "t0ken-of-nobody", "v1olet-tractor-5"
SECRETS = (USER, ANSWER, CODE, TOKEN, PASSWORD)
CASE = Case(user=USER)
ASK: dict[str, Callable[[EtnaTransport], Coroutine[object, object, Outcome]]] = {
    "challenge": lambda etna: etna.challenge(CASE),
    "request": lambda etna: etna.request(CASE, Secret(ANSWER)),
    "exchange": lambda etna: etna.exchange(CASE, Secret(CODE)),
    "update": lambda etna: etna.update(CASE, Secret(TOKEN), NewCredential(secret=Secret(PASSWORD))),
    "log_in": lambda etna: etna.log_in(CASE, Secret(PASSWORD)),
}
GIVEN = {
    "challenge": (USER,),
    "request": (USER, ANSWER),
    "exchange": (USER, CODE),
    "update": (USER, TOKEN, PASSWORD),
    "log_in": (USER, PASSWORD),
}
HOUR = timedelta(hours=1)


# What a broker might say.

# Drawn from pools, a whole value at a time: many small draws are what takes the time.

MEGABYTE = "m" * 2**20
ABSENT = object()
WORDS = (
    "Answer is incorrect, try again.",
    "Token is invalid or has expired.",
    "",
    "  \t",
    "\x00\x1b[31m\u202e\u2028\ud7ff",
    "x" * 5000,
    "\U0001f600" * 300,
    *SECRETS,
    *(f"'{secret}' is wrong, {secret.upper()}" for secret in SECRETS),
    *(f"x\n{secret}\x07{secret}" for secret in SECRETS),
    " ".join(SECRETS) * 40,
)
ODD: tuple[object, ...] = (
    *(None, True, False, 0, 1, -1, 10**30, 1.5, "", "true", "no", "Peterson-7", [], {}, [None], [[]], {"a": []}),
    *(["x", 1], [1, "x"], [None, "  "], [""], [{"a": "b"}]),
)
FLAGS: tuple[object, ...] = (*(True,) * 6, *(False,) * 5, ABSENT, None, "true", "false", 1, 0, [], {})
LISTS: tuple[object, ...] = (*([word] for word in WORDS), *([one, other] for one in WORDS for other in (1, *WORDS[:6])))
TEXTS: tuple[object, ...] = ([], ABSENT, None) * 60 + LISTS + ODD + (list(WORDS) * 2,)
CODES: tuple[object, ...] = (ABSENT, ABSENT, None, []) * 80 + LISTS
MODELS = (
    *(ABSENT, None, "", " ", "ba6b8cac-6738-4434-bd26-825db020a05c", "What street?", "t" * 4096),
    *("t" * 4097, "to ken", "t\u00f6ken", "\ufeff", "a\nb", "\x00", MEGABYTE, 42, 0, True, [], {}),
    *WORDS,
)
MISSING: tuple[object, ...] = (ABSENT,) * 8


def objects(**pools: Sequence[object]) -> st.SearchStrategy[dict[str, object]]:
    names = tuple(pools)
    return st.tuples(*(st.sampled_from(pools[name]) for name in names)).map(
        lambda values: {name: value for name, value in zip(names, values, strict=True) if value is not ABSENT}
    )


envelopes = objects(IsSucceed=FLAGS, Errors=TEXTS, ErrorsCode=CODES, Model=MODELS, StatusCode=(*MISSING, *ODD))
sessions = objects(
    State=("Succeeded", "Succeeded", "Failed", "Failed", "Expecting", "succeeded", "", None, True, ["Succeeded"]),
    Step=(ABSENT, "VerificationCode", "BaseAuthentication", None, 1),
    Reason=(ABSENT, *WORDS, *ODD),
)
invalid = objects(
    ModelState=(*ODD, *({"a": value} for value in (*ODD, *LISTS)), {str(number): ["e" * 900] for number in range(40)}),
    Message=(ABSENT, *WORDS, *ODD),
)
turned_away = objects(
    error=("Application key is not defined or does not exist", " APPLICATION KEY?", "Server error", "", *ODD),
)
documents = st.one_of(
    envelopes,
    envelopes,
    sessions,
    sessions,
    invalid,
    turned_away,
    st.tuples(envelopes, sessions, turned_away, invalid).map(lambda all_: all_[0] | all_[1] | all_[2] | all_[3]),
)


def spoilt(text: bytes, how: int, at: int) -> bytes:
    """Break the reply in one of fourteen ways."""
    cut = at % (len(text) + 1)
    return (
        text,
        b"\xef\xbb\xbf" + text,
        text[:cut],
        text[:cut] + b"\xff" + text[cut:],
        text + text,
        b"[" + text + b"]",
        text[:-1] + b', "IsSucceed": true, "State": "Succeeded"}',
        text[:-1] + b', "Errors": [], "IsSucceed": true}',
        text.replace(b"true", b"NaN").replace(b"null", b"Infinity"),
        b" \r\n" + text + b"\n",
        text.decode("utf-8").encode("utf-16"),
        text.replace(b'"', b"'"),
        text + b"\x00",
        text[:-1] + b",}",
    )[how]


WHOLE = (
    b"",
    b"null",
    b"[]",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"Errors": ' + b"[" * 50_000 + b"]" * 50_000 + b', "IsSucceed": true}',
    b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>",
    b'"{\\"IsSucceed\\": true}"',
    b'{"IsSucceed": true, "IsSucceed": true, "Errors": []}',
    b'{"State": "Succeeded", "State": "Failed"}',
    b'{"IsSucceed": NaN, "Errors": []}',
    b'{"IsSucceed": 1e999, "Errors": []}',
    b'{"IsSucceed": true, "Errors": [], "Model": "\\ud800"}',
    b'{"IsSucceed": true, "Errors": [], "Model": "' + b"9" * 2**18 + b'"}',
    b'{"IsSucceed": true, "Errors": [], "N": ' + b"9" * 5000 + b"}",
    b'{"IsSucceed": false, "Errors": ' + json.dumps(["e" * 300] * 500).encode() + b"}",
)
bodies = st.one_of(
    documents.map(lambda document: json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")),
    st.builds(
        lambda document, how, at: spoilt(json.dumps(document).encode(), how, at),
        documents,
        st.integers(0, 13),
        st.integers(0, 10_000),
    ),
    st.sampled_from(WHOLE) | st.binary(max_size=40),
)
STATUSES = """
200 200 200 200 201 202 204 206 299 300 301 302 303 304 307 308 400 400 401 403 404 405 406 408 409 409 411 413 414 415
418 422 429 451 499 500 501 502 503 503 504 520 599 600 700 999
"""
RETRY_AFTERS = """
0|7| 120 |-1|1.5|1e9|1000000000|soon|\u0667|NaN|7, 8|\x00|Wed, 21 Oct 2015 07:28:00 GMT|Fri, 31 Dec 9999 23:59:59 GMT
|Thu, 99 Foo 2099 99:99:99 GMT
"""
statuses = st.sampled_from([int(status) for status in STATUSES.split()])
retry_afters = st.sampled_from([None, "", "9" * 4000, *RETRY_AFTERS.split("|")])
flaws = st.sampled_from(
    ("",) * 12 + ("an encoded body", "a body that is too long", "ClientPayloadError", "TimeoutError")
)


def reply_of(body: bytes, status: int, retry_after: str | None, flaw: str) -> Reply:
    return Reply(
        status=status,
        retry_after=http._retry_after(retry_after),  # as the sender reads the header: it needs a server to be reached
        body=None if flaw else body,
        flaw=flaw,
    )


replies = st.builds(reply_of, bodies, statuses, retry_afters, flaws)


# The tables once more, by somebody who reads them rather than the code.

Verdict: TypeAlias = tuple[str, object]
ANYTHING = object()


class Ambiguous(ValueError):
    """No JSON, or JSON of which nobody can say what it says."""


def fail(_: str) -> None:
    raise Ambiguous


def unambiguous(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if max(Counter(key for key, _ in pairs).values(), default=1) > 1:
        raise Ambiguous
    return dict(pairs)


def read(body: bytes | None) -> dict[str, object]:
    """Return the object in the body; an empty one where there is none."""
    if body is None:
        return {}
    try:
        text = body.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
        document = json.loads(text, object_pairs_hook=unambiguous, parse_constant=fail)
    except (ValueError, RecursionError):
        return {}
    return document if type(document) is dict else {}


@attrs.frozen
class Envelope:
    """What can be asked of one."""

    document: dict[str, object]

    def texts(self, key: str) -> list[str]:
        there = self.document.get(key)
        return [text for text in there if type(text) is str and text.strip() != ""] if type(there) is list else []

    @property
    def words(self) -> list[str]:
        return self.texts("Errors")

    @property
    def codes(self) -> list[str]:
        return self.texts("ErrorsCode")

    @property
    def empty(self) -> bool:
        """`Errors` is there, and there is nothing in it."""
        errors = self.document.get("Errors")
        return type(errors) is list and len(errors) == 0

    @property
    def silent(self) -> bool:
        """`Errors` says nothing: null, or no such key."""
        return self.document.get("Errors") is None

    @property
    def listed(self) -> bool:
        return self.silent or type(self.document.get("Errors")) is list

    @property
    def yes(self) -> bool:
        return self.document.get("IsSucceed") is True

    @property
    def no(self) -> bool:
        return self.document.get("IsSucceed") is False

    @property
    def model(self) -> object:
        return self.document.get("Model")


def step_1(said: Envelope) -> Verdict:
    if said.words:
        return "Rejected", None
    if said.empty and not said.codes:
        return "Accepted", None
    if said.silent and said.yes and not said.codes:
        return "Accepted", None
    return ("Rejected", None) if said.silent and said.no and said.codes else ("Unknown", None)


def step_2(said: Envelope) -> Verdict:
    if said.yes and (said.silent or said.empty):
        if said.model == "" and type(said.model) is str:
            return "Accepted", ""
        if said.model is None:
            return "Accepted", None
        return ("Accepted", ANYTHING) if type(said.model) is str else ("Unknown", None)
    text = type(said.model) is str and said.model != ""
    return ("Rejected", None) if said.no and not text and said.listed else ("Unknown", None)


def step_3(said: Envelope) -> Verdict:
    if said.yes and said.listed:
        usable = (
            type(said.model) is str and 0 < len(said.model) <= 4096 and all("!" <= char <= "~" for char in said.model)
        )
        return "Accepted", said.model if usable else None
    return ("Rejected", None) if said.no and said.listed else ("Unknown", None)


def step_4(said: Envelope) -> Verdict:
    if said.yes and (said.silent or said.empty) and not said.codes:
        return "Accepted", None
    return ("Rejected", None) if said.no and said.listed else ("Unknown", None)


def session(said: Envelope) -> Verdict:
    state, step = said.document["State"], said.document.get("Step")
    if state == "Succeeded" or (state == "Expecting" and step == "VerificationCode"):
        return "Accepted", None
    return ("Rejected", None) if state == "Failed" else ("Unknown", None)


STEPS = {"challenge": step_2, "request": step_1, "exchange": step_3, "update": step_4, "log_in": session}


def expected(call: str, reply: Reply) -> Verdict:
    """Return the class of the outcome, and its value or cause."""
    document, status = read(reply.body), reply.status
    enveloped = bool(document.keys() & ({"State"} if call == "log_in" else {"IsSucceed", "Errors"}))
    error = document.get("error")
    if not enveloped and type(error) is str and error.strip().casefold().startswith("application key"):
        return "NotActed", Cause.FORBIDDEN
    if status == 429 or (status == 503 and reply.retry_after is not None):
        return "NotActed", Cause.THROTTLED
    handled = status not in {401, 403, 404, 405, 406, 407, 411, 413, 414, 415, 511} and not 300 <= status < 400
    if not enveloped and not handled and reply.body is not None:
        absent = call == "challenge" and status in {404, 405}
        return ("Accepted", None) if absent else ("NotActed", Cause.PROTOCOL)
    verdict: Verdict = ("Unknown", None)
    if 200 <= status < 300 or 400 <= status < 500:
        if enveloped:
            verdict = STEPS[call](Envelope(document))
        elif type(document.get("ModelState")) is dict:
            verdict = ("Rejected", None)
    if verdict[0] == "Unknown" and call == "challenge":
        strange = reply.body is not None and not 500 <= status < 600
        return "NotActed", Cause.PROTOCOL if strange else Cause.UNAVAILABLE
    return verdict


# What came out.


class Answering:
    """Stands for what sends the requests of every transport."""

    reply = Reply(status=200)

    async def send(self, *_: object) -> Reply:
        return self.reply


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    answering = Answering()
    monkeypatch.setattr(http.Sender, "send", answering.send)
    return answering


def judged(etna: EtnaTransport, call: str) -> Outcome:
    coroutine = ASK[call](etna)
    try:
        coroutine.send(None)
    except StopIteration as done:
        outcome: Outcome = done.value
        return outcome
    raise AssertionError("it waits for something")


def check_text(text: str, given_: tuple[str, ...]) -> None:
    assert len(text) <= 200
    assert not any(unicodedata.category(char)[0] == "C" or char in "\u2028\u2029" for char in text)
    assert not any(secret.lower() in text.lower() for secret in given_)


def check(call: str, reply: Reply, outcome: Outcome) -> str:
    kind, value = expected(call, reply)
    assert type(outcome).__name__ == kind
    match outcome:
        case Accepted():
            got = None if outcome.value is None else outcome.value.reveal()
            if value is not ANYTHING:
                assert got == value
            elif got is not None:
                assert 0 < len(got) <= 1000
                assert got.isprintable()
            assert outcome.continuation is None
        case Rejected():
            assert len(outcome.reasons) <= 10
            for reason in outcome.reasons:
                check_text(str(reason), GIVEN[call])
        case NotActed():
            assert outcome.cause is value
            assert outcome.retry_after is None or timedelta(0) <= outcome.retry_after <= HOUR
            check_text(outcome.detail, SECRETS)
        case Unknown():
            check_text(outcome.detail, SECRETS)
    assert not any(secret in repr(outcome) for secret in GIVEN[call])
    return kind


@pytest.mark.parametrize("call", ASK)
def test_every_reply_is_judged_by_the_tables(answering: Answering, call: str) -> None:
    etna = EtnaTransport("https://broker.test/api", "app-key-of-nobody")
    seen = Counter[str]()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(replies)
    def judge(reply: Reply) -> None:
        answering.reply = reply
        seen[check(call, reply, judged(etna, call))] += 1

    judge()
    asyncio.run(etna.aclose())
    assert seen.total() >= EXAMPLES
    kinds = {"Accepted", "Rejected", "NotActed"} | ({"Unknown"} if call != "challenge" else set())
    assert {kind for kind in seen if seen[kind] >= EXAMPLES // 100} == kinds, "each outcome was met often"


def test_that_is_more_than_twenty_thousand() -> None:
    assert EXAMPLES * len(ASK) >= 20_000


# Found by replies such as these.


@pytest.mark.parametrize(
    "said", ["v1olet\ttractor 5", "v1olet  tractor 5", "V1OLET\u00a0TRACTOR 5", "v1olet\ntractor 5"]
)
def test_a_password_is_hidden_with_other_spaces_than_it_was_sent_with(answering: Answering, said: str) -> None:
    etna = EtnaTransport("https://broker.test/api", "app-key-of-nobody")
    body = json.dumps({"Errors": [f"Password '{said}' is too weak."], "IsSucceed": False}).encode()
    answering.reply = Reply(status=409, body=body)
    new = NewCredential(secret=Secret("v1olet tractor 5"))
    outcome = asyncio.run(etna.update(CASE, Secret(TOKEN), new))
    assert isinstance(outcome, Rejected)
    assert "tractor" not in " ".join(map(str, outcome.reasons)).lower()
