from __future__ import annotations

import json
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from reset_flow import codec
from reset_flow.archive import associated
from reset_flow.dossier import Dossier, Intent, Result
from reset_flow.models import Credential, Failure, Secret, State, Step, Transition
from reset_flow.ports import Record
from reset_flow.sealing import Keyring

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
transitions = st.builds(
    Transition, worker=st.sampled_from(["", "a:1"]), trigger=st.sampled_from(["code_sent", "abandon"]),
    source=st.sampled_from(State),
    target=st.sampled_from(State), at=times,
)  # fmt: skip
dossiers = st.builds(
    Dossier,
    id=st.just("a" * 22), version=counts, user=texts, credential=st.sampled_from(Credential), transport=texts,
    state=st.sampled_from(State), created_at=times, expires_at=times, ended_at=st.none() | times,
    lookups=st.lists(st.binary(min_size=16, max_size=16), max_size=3).map(tuple), question=st.none() | texts,
    continuation=st.none() | st.binary(max_size=40), answer=secrets, token=secrets, intent=st.none() | intents,
    in_doubt=st.none() | st.sampled_from(Step), failure=st.none() | st.sampled_from(Failure),
    sent_at=st.none() | times, granted_at=st.none() | times, answers=counts, codes=counts, passwords=counts,
    resends=counts, compensated=st.booleans(), masked=st.booleans(), reserved=st.booleans(),
    results=st.lists(results, max_size=3).map(tuple),
    listeners=names, owed=names, history=st.lists(transitions, max_size=8).map(tuple),
)  # fmt: skip


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
    other = attrs.evolve(
        other, id=one.id, version=one.version, state=one.state, ended_at=one.ended_at, lookups=one.lookups
    )
    assert (codec.encode(one) == codec.encode(other)) == (one == other)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_dossier_are_refused(body: bytes) -> None:
    dossier = Dossier(
        id="a", user="u", credential=Credential.PASSWORD, transport="t", created_at=START, expires_at=START
    )
    with pytest.raises(ValueError, match="not a dossier"):
        codec.decode(body, record_of(dossier))


def test_a_newer_schema_is_refused_and_says_what_to_do() -> None:
    dossier = Dossier(
        id="a", user="u", credential=Credential.PASSWORD, transport="t", created_at=START, expires_at=START
    )
    newer = codec.encode(dossier).replace(f"[{codec.SCHEMA},".encode(), f"[{codec.SCHEMA + 1},".encode(), 1)
    with pytest.raises(ValueError, match="newer version of the library: upgrade"):
        codec.decode(newer, record_of(dossier))


def test_every_field_of_a_dossier_is_written_or_is_in_the_clear() -> None:
    assert {field.name for field in attrs.fields(Dossier)} == {
        "id", "version", "user", "credential", "transport", "state", "created_at", "expires_at", "ended_at", "lookups",
        "question", "continuation", "answer", "token", "intent", "in_doubt", "failure", "sent_at", "granted_at",
        "answers", "codes", "passwords", "resends", "reserved", "compensated", "masked", "results", "listeners",
        "owed", "history",
    }, "a new field: add it to the codec, and to the strategy above"  # fmt: skip


SCHEMA_1 = json.loads((Path(__file__).parent / "fixtures" / "schema_1.json").read_text())


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


async def test_records_of_schema_1_still_load(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(json.dumps(SCHEMA_1["keys"]))
    keys.chmod(0o600)
    ring = Keyring.from_file(keys)
    dossiers = []
    for row in SCHEMA_1["records"]:
        record = stored(row)
        body = ring.open(record.realm, record.id, record.body, associated(record))
        assert json.loads(body)[0] == 1
        dossiers.append(codec.decode(body, record))
    verifying, doubtful, ended = dossiers
    assert verifying.user == "jörg.müller"
    assert verifying.intent == Intent(
        command="verify", at=verifying.created_at + timedelta(seconds=70), secret=Secret("004158")
    )
    assert verifying.answer == Secret("Königsallee")
    assert doubtful.in_doubt is Step.PASSWORD
    assert [transition.trigger for transition in doubtful.history][-1] == "password_in_doubt"
    assert ended.failure is Failure.OUTCOME_UNKNOWN
    assert (ended.owed, ended.listeners, ended.results) == ((), (), ())
