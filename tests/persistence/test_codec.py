"""Flow data comes back from its bytes as it was; other bytes are refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, strategies as st
from msgspec.structs import replace

from reset_flow import Policy
from reset_flow.domain.flow import Credential, Failure, State, Step, Transition
from reset_flow.domain.flow_data import SCHEMA, BudgetName, FlowData, HeldUse, Intent, Limits, Move, Result
from reset_flow.domain.secret import Secret
from reset_flow.domain.state_machine import EDGE_BY_LETTER
from reset_flow.persistence import codec
from reset_flow.ports import Record

ARRAYS = {bytes([first]) for first in (*range(0x90, 0xA0), 0xDC, 0xDD)}
"""What an array begins with in MessagePack."""

START = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
secrets = st.none() | texts.map(Secret)
times = st.timedeltas(timedelta(days=-400), timedelta(days=400)).map(lambda since: START + since)
counts = st.integers(0, 1000)
hashes = st.binary(min_size=16, max_size=16)
results = st.builds(Result, key=hashes, command=texts, code=texts)
names = st.lists(texts, max_size=3).map(tuple)
intents = st.builds(
    Intent,
    command=st.sampled_from(["answer", "verify"]),
    at=times,
    sendings=counts,
    secret=secrets,
    key=st.none() | hashes,
    holder=st.none() | hashes,
    write_id=st.binary(min_size=8, max_size=8),
)
moves = st.builds(
    Move, letter=st.sampled_from(sorted(EDGE_BY_LETTER)), at=times,
    worker=st.integers(0, 1), reason=st.none() | st.sampled_from(Failure),
)  # fmt: skip
lengths = st.timedeltas(timedelta(0), timedelta(days=400))
limits = st.builds(
    Limits, answer_attempts=counts, code_attempts=counts, password_attempts=counts, resends=counts,
    resend_cooldown=lengths, code_lifetime=st.none() | lengths, token_lifetime=st.none() | lengths,
    mask_unknown_users=st.booleans(), flow_lifetime=lengths,
)  # fmt: skip
uses = st.builds(HeldUse, budget=st.sampled_from(BudgetName), id=st.binary(min_size=8, max_size=8))
flows = st.builds(
    FlowData,
    id=st.just("a" * 22), version=counts, user=texts, ref=st.none() | texts,
    credential=st.sampled_from(Credential), transport=texts, state=st.sampled_from(State),
    created_at=times, expires_at=times, ended_at=st.none() | times,
    lookups=st.lists(st.binary(min_size=16, max_size=16), max_size=3).map(tuple), question=st.none() | texts,
    continuation=st.none() | st.binary(max_size=40), answer=secrets, token=secrets, intent=st.none() | intents,
    in_doubt=st.none() | st.sampled_from(Step), failure=st.none() | st.sampled_from(Failure),
    holder=st.none() | hashes,
    sent_at=st.none() | times, sent_to=st.none() | texts, answers=counts, codes=counts, passwords=counts,
    resends=counts, compensated=st.booleans(), masked=st.booleans(), limits=limits,
    user_key=st.binary(max_size=15), origin_key=st.none() | st.binary(max_size=15),
    uses=st.lists(uses, max_size=4).map(tuple), reserve=st.none() | uses, holds_code=st.booleans(),
    results=st.lists(results, max_size=3).map(tuple),
    listeners=names, undelivered=names, workers=st.just(("", "a:1")), moves=st.lists(moves, max_size=8).map(tuple),
)  # fmt: skip


def flow_data(**given: Any) -> FlowData:
    return FlowData(
        id="a",
        user="u",
        credential=Credential.PASSWORD,
        transport="t",
        created_at=START,
        expires_at=START,
        limits=Policy().limits,
        **given,
    )


def row_of(flow: FlowData) -> list[Any]:
    """All places of what is written, those in the clear included."""
    row: list[Any] = msgspec.msgpack.decode(codec.encode(flow) + codec.TAIL)
    return row


def bytes_of(row: list[Any]) -> bytes:
    return msgspec.msgpack.encode(row).removesuffix(codec.TAIL)


def record_of(data: FlowData) -> Record:
    return Record(
        realm="default", id=data.id, version=data.version, state=data.state, ended_at=data.ended_at,
        lookups=data.lookups, write_id=data.write_id, body=b"",
    )  # fmt: skip


@given(flows)
def test_what_is_encoded_is_decoded(data: FlowData) -> None:
    assert codec.decode(codec.encode(data), record_of(data)) == data


@given(flows, flows)
def test_two_flows_that_differ_in_the_body_give_different_bytes(one: FlowData, other: FlowData) -> None:
    clear = {name: getattr(one, name) for name in ("id", "version", "write_id", "state", "ended_at", "lookups")}
    other = replace(other, **clear)
    assert (codec.encode(one) == codec.encode(other)) == (one == other)


@given(st.binary(max_size=200))
@example(msgspec.msgpack.encode([SCHEMA + 1, 0]))
def test_bytes_that_are_no_flow_data_are_refused(body: bytes) -> None:
    # By chance, they may begin as those of a newer version would.
    with pytest.raises(ValueError, match=r"^(not flow data|schema [0-9]+ is of a newer version)"):
        codec.decode(body, record_of(flow_data()))


@given(st.binary(max_size=200).filter(lambda body: body[:1] not in ARRAYS))
def test_bytes_that_do_not_begin_with_a_schema_are_of_no_version(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^not flow data"):
        codec.decode(body, record_of(flow_data()))


def test_a_newer_schema_is_refused_and_says_what_to_do() -> None:
    data = flow_data()
    newer = bytes_of([SCHEMA + 1, *row_of(data)[1:]])
    with pytest.raises(ValueError, match="newer version of the library: upgrade"):
        codec.decode(newer, record_of(data))


def test_every_field_of_flow_data_is_written_or_is_in_the_clear() -> None:
    assert set(FlowData.__struct_fields__) == {
        "id", "version", "write_id", "user", "ref", "credential", "transport", "state", "created_at", "expires_at",
        "ended_at", "lookups", "question", "continuation", "answer", "token", "intent", "in_doubt", "failure",
        "sent_at", "sent_to", "holds_code",
        "answers", "codes", "passwords", "resends", "limits", "user_key", "origin_key", "uses", "reserve",
        "compensated", "masked", "results", "listeners", "undelivered", "workers", "moves",
        "holder",
    }, "a new field: add it to the strategy above"  # fmt: skip


def test_the_history_is_what_the_moves_say() -> None:
    data = flow_data(workers=("a:1", "b:2"), moves=(Move("a", START, 0), Move("c", START, 1)))
    assert data.history[1:] == (
        Transition(
            trigger="code_accepted",
            source=State.QUESTION_ANSWERED,
            target=State.CODE_VERIFIED,
            at=START,
            worker="b:2",
        ),
    )


@pytest.mark.parametrize("place", [17, 18, 24])
def test_a_body_with_a_field_too_many_is_refused(place: int) -> None:
    row = row_of(flow_data())
    row.insert(place, None)
    with pytest.raises(ValueError, match="not flow data"):
        codec.decode(bytes_of(row), record_of(flow_data()))


@pytest.mark.parametrize(("letter", "worker"), [("?", 0), ("aa", 0), ("", 0), ("a", 2), ("a", -1)])
def test_a_history_that_can_not_be_shown_is_refused(letter: str, worker: int) -> None:
    data = flow_data(workers=("a:1", "b:2"), moves=(Move(letter, START, worker),))
    with pytest.raises(ValueError, match="not flow data"):
        codec.decode(codec.encode(data), record_of(data))


def test_a_time_without_a_zone_is_refused() -> None:
    row = row_of(flow_data())
    assert row[5] == START
    row[5] = "2026-05-01T12:00:00"
    with pytest.raises(ValueError, match="not flow data"):
        codec.decode(bytes_of(row), record_of(flow_data()))


class Text(str):
    """What frameworks call text that they take for safe."""

    __slots__ = ()

    def __str__(self) -> str:
        return "shown otherwise"


def test_a_secret_of_any_kind_of_text_is_plain_text() -> None:
    secret = Secret(Text("Peterson"))
    assert type(secret.reveal()) is str
    assert secret == Secret("Peterson")
    data = flow_data(answer=secret)
    assert codec.decode(codec.encode(data), record_of(data)).answer == Secret("Peterson")


def test_what_no_flow_data_holds_is_refused_and_in_no_frame() -> None:
    with pytest.raises(TypeError, match="flow data holds no Text") as raised:
        codec.encode(flow_data(listeners=(Text("a login"),)))
    assert "a login" not in "".join(repr(frame.frame.f_locals) for frame in raised.traceback[-1:])


def test_records_are_the_same_whatever_is_left_of_their_leases() -> None:
    record = record_of(flow_data())
    other = replace(record, lease_left=timedelta(seconds=3))
    assert record == other
    assert not record != other  # noqa: SIM202 - the other operator is what is asked
    for changes in ({"version": 7}, {"body": b"x"}, {"state": State.FAILED}):
        assert record != replace(record, **changes)
        assert not record == replace(record, **changes)  # noqa: SIM201
    assert record != "a record"
