from __future__ import annotations

import json
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, strategies as st
from msgspec.structs import replace

from reset_flow.domain.flow import Credential, Failure, State, Step, Transition
from reset_flow.domain.flow_data import ENDS, Dossier, Intent, Move, Result
from reset_flow.domain.secret import Secret
from reset_flow.persistence import codec
from reset_flow.persistence.keyring import Keyring
from reset_flow.persistence.repository import associated
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
)
moves = st.builds(
    Move, trigger=st.sampled_from(["code_sent", "abandon"]), edge=st.sampled_from(sorted(ENDS)), at=times,
    worker=st.integers(0, 1),
)  # fmt: skip
dossiers = st.builds(
    Dossier,
    id=st.just("a" * 22), version=counts, user=texts, credential=st.sampled_from(Credential), transport=texts,
    state=st.sampled_from(State), created_at=times, expires_at=times, ended_at=st.none() | times,
    lookups=st.lists(st.binary(min_size=16, max_size=16), max_size=3).map(tuple), question=st.none() | texts,
    continuation=st.none() | st.binary(max_size=40), answer=secrets, token=secrets, intent=st.none() | intents,
    in_doubt=st.none() | st.sampled_from(Step), failure=st.none() | st.sampled_from(Failure),
    sent_at=st.none() | times, answers=counts, codes=counts, passwords=counts,
    resends=counts, compensated=st.booleans(), masked=st.booleans(), reserved=st.booleans(),
    results=st.lists(results, max_size=3).map(tuple),
    listeners=names, owed=names, workers=st.just(("", "a:1")), moves=st.lists(moves, max_size=8).map(tuple),
)  # fmt: skip


def dossier_of(**given: Any) -> Dossier:
    return Dossier(
        id="a", user="u", credential=Credential.PASSWORD, transport="t", created_at=START, expires_at=START, **given
    )


def record_of(dossier: Dossier) -> Record:
    return Record(
        realm="default", id=dossier.id, version=dossier.version, state=dossier.state, ended_at=dossier.ended_at,
        lookups=dossier.lookups, stamp=b"", body=b"",
    )  # fmt: skip


@given(dossiers)
def test_what_is_encoded_is_decoded(dossier: Dossier) -> None:
    assert codec.decode(codec.encode(dossier), record_of(dossier)) == dossier


@given(dossiers, dossiers)
def test_two_dossiers_that_differ_in_the_body_give_different_bytes(one: Dossier, other: Dossier) -> None:
    other = replace(other, id=one.id, version=one.version, state=one.state, ended_at=one.ended_at, lookups=one.lookups)
    assert (codec.encode(one) == codec.encode(other)) == (one == other)


@given(st.binary(max_size=200))
@example(msgspec.msgpack.encode([codec.SCHEMA + 1, 0]))
def test_bytes_that_are_no_dossier_are_refused(body: bytes) -> None:
    # By chance, they may begin as those of a newer version would.
    with pytest.raises(ValueError, match=r"^(not a dossier|schema [0-9]+ is of a newer version)"):
        codec.decode(body, record_of(dossier_of()))


@given(st.binary(max_size=200).filter(lambda body: body[:1] not in ARRAYS))
def test_bytes_that_do_not_begin_with_a_schema_are_of_no_version(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^not a dossier"):
        codec.decode(body, record_of(dossier_of()))


def test_a_newer_schema_is_refused_and_says_what_to_do() -> None:
    dossier = dossier_of()
    newer = msgspec.msgpack.encode([codec.SCHEMA + 1, *msgspec.msgpack.decode(codec.encode(dossier))[1:]])
    with pytest.raises(ValueError, match="newer version of the library: upgrade"):
        codec.decode(newer, record_of(dossier))


def test_every_field_of_a_dossier_is_written_or_is_in_the_clear() -> None:
    assert set(Dossier.__struct_fields__) == {
        "id", "version", "user", "credential", "transport", "state", "created_at", "expires_at", "ended_at", "lookups",
        "question", "continuation", "answer", "token", "intent", "in_doubt", "failure", "sent_at",
        "answers", "codes", "passwords", "resends", "reserved", "compensated", "masked", "results", "listeners",
        "owed", "workers", "moves",
    }, "a new field: count the schema up, upgrade what is older, and add it to the strategy above"  # fmt: skip


def stored(row: dict[str, Any]) -> Record:
    time = datetime.fromisoformat
    return Record(
        realm=row["realm"],
        id=row["id"],
        version=row["version"],
        state=State(row["state"]),
        due_at=row["due_at"] and time(row["due_at"]),
        ended_at=row["ended_at"] and time(row["ended_at"]),
        lease=row["lease"] and timedelta(seconds=row["lease"]),
        lookups=tuple(b64decode(lookup) for lookup in row["lookups"]),
        stamp=b64decode(row["stamp"]),
        body=b64decode(row["body"]),
    )


def dossiers_of(schema: int, tmp_path: Path) -> list[Dossier]:
    written = json.loads((Path(__file__).parent / "fixtures" / f"schema_{schema}.json").read_text())
    keys = tmp_path / "keys"
    keys.write_text(json.dumps(written["keys"]))
    keys.chmod(0o600)
    ring = Keyring.from_file(keys)
    dossiers = []
    for row in written["records"]:
        record = stored(row)
        body = ring.open(record.realm, record.id, record.body, associated(record))
        assert json.loads(body)[0] == schema
        dossiers.append(codec.decode(body, record))
    return dossiers


def test_records_of_schema_1_still_load(tmp_path: Path) -> None:
    verifying, doubtful, ended = dossiers_of(1, tmp_path)
    assert verifying.user == "jörg.müller"
    assert verifying.intent == Intent(
        command="verify", at=verifying.created_at + timedelta(seconds=70), secret=Secret("004158")
    )
    assert verifying.answer == Secret("Königsallee")
    assert doubtful.in_doubt is Step.PASSWORD
    assert [transition.trigger for transition in doubtful.history][-1] == "password_in_doubt"
    assert ended.failure is Failure.OUTCOME_UNKNOWN
    assert (ended.owed, ended.listeners, ended.results) == ((), (), ())


def test_records_of_schema_2_still_load_with_all_that_is_in_them(tmp_path: Path) -> None:
    start = datetime(2026, 11, 1, 9, 30, 0, 250001, tzinfo=UTC)

    def after(seconds: int) -> datetime:
        return start + timedelta(seconds=seconds)

    assert dossiers_of(2, tmp_path) == [
        Dossier(
            id="0123456789abcdefghijklmnop",
            version=5,
            user="zoë",
            credential=Credential.PIN,
            transport="etna:https://broker.example",
            state=State.QUESTION_ANSWERED,
            created_at=start,
            expires_at=after(3600),
            lookups=(bytes(range(16)),),
            question="Pet?",
            continuation=b"\x00\xffsession",
            answer=Secret("Rex"),
            intent=Intent(command="verify", at=after(61), sendings=2, secret=Secret("004158"), key=b"k" * 16),
            sent_at=after(9),
            codes=2,
            answers=1,
            reserved=True,
            compensated=True,
            listeners=("mail",),
            workers=("a:1", "b:2"),
            moves=(Move("answer_refused", "rr", after(5), 0), Move("answer_accepted", "rq", after(9), 1)),
        ),
        Dossier(
            id="1123456789abcdefghijklmnop",
            version=3,
            user="nobody",
            credential=Credential.PASSWORD,
            transport="etna",
            created_at=start,
            expires_at=after(3600),
            masked=True,
            in_doubt=Step.ANSWER,
            results=(Result(key=b"r" * 16, command="answer", code="answer_rejected"),),
        ),
        Dossier(
            id="2123456789abcdefghijklmnop",
            version=10,
            user="ann",
            credential=Credential.PASSWORD,
            transport="etna",
            state=State.FAILED,
            created_at=start,
            expires_at=after(3600),
            ended_at=after(3700),
            question="",
            failure=Failure.OUTCOME_UNKNOWN,
            in_doubt=Step.PASSWORD,
            passwords=3,
            resends=1,
            workers=("", "c:3"),
            moves=(
                Move("question_waived", "rq", after(1), 0),
                Move("code_accepted", "qc", after(30), 0),
                Move("token_granted", "ct", after(30), 0),
                Move("password_in_doubt", "tt", after(40), 1),
                Move("abandon", "tf", after(3700), 1),
            ),
            listeners=("a", "b"),
            owed=("b",),
        ),
    ]


def test_the_history_is_what_the_moves_say() -> None:
    dossier = dossier_of(workers=("a:1", "b:2"), moves=(Move("code_accepted", "qc", START, 1),))
    assert dossier.history == (
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
    row = msgspec.msgpack.decode(codec.encode(dossier_of()))
    row.insert(place, None)
    with pytest.raises(ValueError, match="not a dossier"):
        codec.decode(msgspec.msgpack.encode(row), record_of(dossier_of()))


@pytest.mark.parametrize(("edge", "worker"), [("rz", 0), ("r", 0), ("", 0), ("rq", 2), ("rq", -1)])
def test_a_history_that_can_not_be_shown_is_refused(edge: str, worker: int) -> None:
    dossier = dossier_of(workers=("a:1", "b:2"), moves=(Move("answer_accepted", edge, START, worker),))
    with pytest.raises(ValueError, match="not a dossier"):
        codec.decode(codec.encode(dossier), record_of(dossier))


def test_a_time_without_a_zone_is_refused() -> None:
    row = msgspec.msgpack.decode(codec.encode(dossier_of()))
    assert row[4] == START
    row[4] = "2026-05-01T12:00:00"
    with pytest.raises(ValueError, match="not a dossier"):
        codec.decode(msgspec.msgpack.encode(row), record_of(dossier_of()))


class Text(str):
    """What frameworks call text that they take for safe."""

    __slots__ = ()

    def __str__(self) -> str:
        return "shown otherwise"


def test_a_secret_of_any_kind_of_text_is_plain_text() -> None:
    secret = Secret(Text("Peterson"))
    assert type(secret.reveal()) is str
    assert secret == Secret("Peterson")
    dossier = dossier_of(answer=secret)
    assert codec.decode(codec.encode(dossier), record_of(dossier)).answer == Secret("Peterson")


def test_what_no_dossier_holds_is_refused_and_in_no_frame() -> None:
    with pytest.raises(TypeError, match="a dossier holds no Text") as raised:
        codec.encode(dossier_of(listeners=(Text("a login"),)))
    assert "a login" not in "".join(repr(frame.frame.f_locals) for frame in raised.traceback[-1:])


def test_records_are_the_same_whatever_is_left_of_their_leases() -> None:
    record = record_of(dossier_of())
    other = replace(record, lease_left=timedelta(seconds=3))
    assert record == other
    assert not record != other  # noqa: SIM202 - the other operator is what is asked
    assert hash(record) == hash(other)
    for changes in ({"version": 7}, {"body": b"x"}, {"state": State.FAILED}):
        assert record != replace(record, **changes)
        assert not record == replace(record, **changes)  # noqa: SIM201
    assert record != "a record"
