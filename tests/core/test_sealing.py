from __future__ import annotations

import ctypes
import hashlib
import hmac
import json
import os
import pickle
import sqlite3
import stat
import threading
from base64 import b64encode
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given, strategies as st
from msgspec.structs import replace

from reset_flow.domain.errors import KeyringError, RecordUnreadable
from reset_flow.domain.flow import Credential, State
from reset_flow.domain.flow_data import FlowData
from reset_flow.domain.secret import Secret
from reset_flow.observability.tracing import NullTracer
from reset_flow.persistence.keyring import Key, Keyring, UnknownKeyError, _flow_key, _message
from reset_flow.persistence.repository import FlowRepository
from reset_flow.stores.memory import MemoryStore
from reset_flow.stores.rows import to_row
from reset_flow.stores.sqlite.store import SQLiteStore
from reset_flow.testing import LeakScanner, shown_by_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from reset_flow.ports import Record, Store

BODY = b"an answer, a token"


@pytest.fixture
def ring() -> Keyring:
    return Keyring.generate()


def test_what_is_sealed_is_opened(ring: Keyring) -> None:
    assert ring.open("realm", "flow", ring.seal("realm", "flow", BODY, b"beside"), b"beside") == BODY


def test_a_seal_shows_nothing_and_never_repeats(ring: Keyring) -> None:
    sealed = [ring.seal("realm", "flow", BODY, b"") for _ in range(1000)]
    assert not any(BODY in each for each in sealed)
    assert len({each[4:16] for each in sealed}) == 1000


@pytest.mark.parametrize(
    ("realm", "flow", "beside"), [("other", "f", b"c"), ("r", "other", b"c"), ("r", "f", b"other")]
)
def test_a_body_is_of_one_realm_one_flow_and_one_place(ring: Keyring, realm: str, flow: str, beside: bytes) -> None:
    sealed = ring.seal("r", "f", BODY, b"c")
    with pytest.raises(ValueError, match="changed, or is another record's"):
        ring.open(realm, flow, sealed, beside)
    assert ring.open("r", "f", sealed, b"c") == BODY


def test_every_flipped_byte_and_every_cut_is_noticed(ring: Keyring) -> None:
    sealed = ring.seal("r", "f", BODY, b"c")
    for at in range(len(sealed)):
        with pytest.raises(ValueError, match=r"changed|not in the ring"):
            ring.open("r", "f", sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], b"c")
        with pytest.raises(ValueError, match=r"changed|cut off"):
            ring.open("r", "f", sealed[:at], b"c")


def test_a_key_that_is_not_in_the_ring_is_named(ring: Keyring) -> None:
    sealed = ring.seal("r", "f", BODY, b"c")
    with pytest.raises(ValueError, match=f"key {ring.keys[0].id} is not in the ring"):
        Keyring.generate().open("r", "f", sealed, b"c")


def test_the_newest_key_writes_and_every_key_reads() -> None:
    old, new, lookup = Key.generate(), Key.generate(), Key.generate()
    new = Key(id=new.id, created_at=old.created_at.replace(year=old.created_at.year + 1), secret=new.secret)
    before, after = Keyring((old,), (lookup,)), Keyring((new, old), (lookup,))
    assert after.open("r", "f", before.seal("r", "f", BODY, b""), b"") == BODY
    assert after.seal("r", "f", BODY, b"")[:4].hex() == new.id
    assert after.lookup("r", "tag", "x") == before.lookup("r", "tag", "x")


def test_the_key_of_a_flow_is_what_hkdf_expand_gives() -> None:
    key = Key.generate()
    expand = HKDFExpand(SHA256(), 32, _message("flow", "realm", "id"))
    assert _flow_key(key, "realm", "id") == expand.derive(key.secret)


def test_parts_of_a_message_can_not_run_into_each_other() -> None:
    assert _message("ab", "c") != _message("a", "bc")


def test_a_lookup_is_the_same_for_every_spelling_and_for_nothing_else(ring: Keyring) -> None:
    one = ring.lookup("realm", "user", " Jörg.Müller\u00a0")
    assert one == ring.lookup("realm", "user", "JO\u0308RG.MÜLLER")
    assert len(one) == 16
    others = {ring.lookup("other", "user", "jörg.müller"), ring.lookup("realm", "tag", "jörg.müller"),
              Keyring.generate().lookup("realm", "user", "jörg.müller"), ring.lookup("realm", "user", "x")}  # fmt: skip
    assert one not in others
    assert len(others) == 4
    assert hashlib.sha256("jörg.müller".encode()).digest()[:16] != one


def test_a_file_holds_the_ring_for_its_owner_alone(tmp_path: Path, ring: Keyring) -> None:
    path = tmp_path / "keys"
    assert not ring.saved
    ring.to_file(path)
    assert ring.saved
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = Keyring.from_file(path)
    assert again.saved
    assert again.open("r", "f", ring.seal("r", "f", BODY, b""), b"") == BODY
    assert again.lookup("r", "tag", "x") == ring.lookup("r", "tag", "x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys"]


def test_a_key_file_is_never_overwritten(tmp_path: Path, ring: Keyring) -> None:
    path = tmp_path / "keys"
    path.write_text("mine")
    with pytest.raises(KeyringError, match="exists"):
        ring.to_file(path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, ring: Keyring, mode: int) -> None:
    path = tmp_path / "keys"
    ring.to_file(path)
    path.chmod(mode)
    with pytest.raises(KeyringError, match="open to others"):
        Keyring.from_file(path)
    path.chmod(0o600)
    assert Keyring.from_file(path).keys == ring.keys


def _broken() -> list[bytes]:
    key = {"id": "00000000", "created_at": "2026-01-01T00:00:00+00:00", "key": "A" * 43 + "="}
    good = {"reset_flow_keys": 1, "seal": [key], "lookup": [key]}
    changes: tuple[dict[str, Any], ...] = (
        {"reset_flow_keys": 3},
        {"reset_flow_keys": "1"},
        {"reset_flow_keys": []},
        {"seal": 3},
        {"seal": [3]},
        {"seal": {"id": key}},
        {"seal": []},
        {"lookup": []},
        {"seal": [key, key]},
        {"seal": [key | {"key": "AAAA"}]},
        {"seal": [key | {"key": "?"}]},
        {"seal": [key | {"id": "xyz"}]},
        {"seal": [key | {"id": ["0"] * 8}]},
        {"seal": [key | {"id": 1}]},
        {"seal": [{}]},
        {"seal": [key | {"created_at": "2026-01-01T00:00:00"}]},
        {"seal": [key | {"created_at": "soon"}]},
        {"seal": [key | {"writes_from": "soon"}]},
        {"seal": [key | {"writes_from": "2026-01-01T00:00:00"}]},
    )
    documents = [json.dumps(good | change).encode() for change in changes]
    return [b"", b"\xff", b"[]", b"null", b"[" * 100_000, *documents]


@pytest.mark.parametrize("document", _broken(), ids=lambda document: document[:12].decode(errors="replace"))
def test_a_broken_file_is_refused_and_left_as_it_is(tmp_path: Path, document: bytes) -> None:
    path = tmp_path / "keys"
    path.write_bytes(document)
    path.chmod(0o600)
    with pytest.raises(KeyringError):
        Keyring.load_or_create(path)
    assert path.read_bytes() == document


def test_of_many_that_make_a_ring_at_once_all_get_the_same(tmp_path: Path) -> None:
    rings: list[Keyring] = []
    threads = [threading.Thread(target=lambda: rings.append(Keyring.load_or_create(tmp_path / "k"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rings) == 8
    assert len({ring.keys for ring in rings}) == 1


def test_a_folder_that_is_missing_is_a_clear_error(tmp_path: Path, ring: Keyring) -> None:
    with pytest.raises(KeyringError, match="can't be written"):
        ring.to_file(tmp_path / "none" / "keys")
    with pytest.raises(KeyringError, match="does not exist"):
        Keyring.from_file(tmp_path / "none")


@pytest.mark.parametrize(
    "fork", [os.fork, ctypes.PyDLL(None).fork], ids=["by Python", "by a server that runs no hooks"]
)
def test_a_child_after_a_fork_draws_nonces_of_its_own(ring: Keyring, fork: Callable[[], int]) -> None:
    ring.seal("r", "f", BODY, b"")
    reader, writer = os.pipe()
    if (child := fork()) == 0:
        os.write(writer, ring.seal("r", "f", BODY, b"")[4:16])
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 12)
    os.close(reader)
    os.close(writer)
    assert theirs not in {ring.seal("r", "f", BODY, b"")[4:16] for _ in range(600)}


def test_a_ring_shows_ids_and_never_bytes(ring: Keyring) -> None:
    key = ring.keys[0]
    assert key.id in repr(ring)
    for shown in (repr(ring), repr(key)):
        assert key.secret.hex() not in shown
        assert repr(key.secret) not in shown
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(ring)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_a_mac_is_the_librarys_own(secret: bytes, message: bytes) -> None:
    key = Key(id="0" * 8, created_at=datetime(2026, 5, 1, tzinfo=UTC), secret=secret)
    assert key.mac(message) == hmac.digest(secret, message, "sha256")
    assert key.mac(message) == key.mac(message)


def test_a_lookup_is_an_hmac_under_the_lookup_key() -> None:
    seal, lookup = Key.generate(), Key.generate()
    expected = hmac.new(lookup.secret, _message("lookup", "r", "tag", "x"), hashlib.sha256).digest()[:16]
    assert Keyring((seal,), (lookup,)).lookup("r", "tag", "X") == expected


# --- keys that can't be


def key(number: int = 1, **changes: Any) -> Key:
    """A key of a fixed id and age: the greater its number, the newer it is."""
    given: dict[str, Any] = {
        "id": f"{number:08x}",
        "created_at": datetime(2026, 1, number, tzinfo=UTC),
        "secret": bytes([number]) * 32,
    }
    return Key(**(given | changes))


LOOKUP = key(9)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused_by_its_id(size: int) -> None:
    with pytest.raises(KeyringError, match=rf"key 00000001 has {size} bytes"):
        key(secret=bytes(size))


def test_a_ring_without_a_key_or_with_one_twice_is_refused() -> None:
    for seal, lookup, words in (
        ((), (LOOKUP,), "no sealing key"),
        ((key(),), (), "no lookup key"),
        ((key(1), key(2), key(1)), (LOOKUP,), "two sealing keys 00000001"),
        ((key(1), key(2, secret=key(1).secret)), (LOOKUP,), "00000001 and 00000002 are the same"),
        ((key(),), (LOOKUP, LOOKUP), "two lookup keys 00000009"),
    ):
        with pytest.raises(KeyringError, match=words):
            Keyring(seal, lookup)


def row_of(of: Key, **changes: Any) -> dict[str, Any]:
    row = {"id": of.id, "created_at": of.created_at.isoformat(), "key": b64encode(of.secret).decode()}
    return {name: value for name, value in (row | changes).items() if value is not None}


def put(path: Path, *rows: dict[str, Any], number: int = 2) -> Path:
    """A key file with these sealing keys, put there at once."""
    beside = path.with_name("beside")
    beside.write_text(json.dumps({"reset_flow_keys": number, "seal": rows, "lookup": [row_of(LOOKUP)]}))
    beside.chmod(0o600)
    beside.replace(path)
    return path


@pytest.mark.parametrize(
    "broken",
    [
        {"key": None}, {"key": "AAAA"}, {"key": "?"}, {"key": 7}, {"created_at": None}, {"created_at": "soon"},
        {"created_at": 7}, {"writes_from": "soon"}, {"writes_from": 7},
    ],
    ids=str,
)  # fmt: skip
def test_a_broken_key_of_a_file_is_named_and_its_file_shown_to_nobody(tmp_path: Path, broken: dict[str, Any]) -> None:
    path = put(tmp_path / "keys", row_of(key(1)), row_of(key(2), **broken))
    with pytest.raises(KeyringError, match="key 00000002") as caught:
        Keyring.from_file(path)
    shown = shown_by_error(caught.value, callers=[Path(__file__).parents[1]])
    assert LeakScanner({"one": key(1).secret, "two": key(2).secret}).find(shown) == []
    put(path, row_of(key(1)), row_of(key(2)))
    assert [each.id for each in Keyring.from_file(path).keys] == ["00000001", "00000002"]


def test_a_file_of_the_first_format_loads_and_one_of_the_next_says_what_to_do(tmp_path: Path) -> None:
    path = put(tmp_path / "keys", row_of(key(1)), number=1)
    assert Keyring.from_file(path).keys == (key(1),)
    with pytest.raises(KeyringError, match="another release"):
        Keyring.from_file(put(path, row_of(key(1)), number=3))


# --- which key writes


def test_a_key_writes_when_its_time_has_come() -> None:
    now = datetime.now(UTC)
    past, future = now - timedelta(seconds=1), now + timedelta(minutes=1)
    assert Keyring((key(1), key(2, writes_from=past)), (LOOKUP,)).writes.id == "00000002"
    waiting = Keyring((key(1), key(2, writes_from=future)), (LOOKUP,))
    assert waiting.writes.id == "00000001"
    assert waiting.key_of(waiting.seal("r", "f", BODY, b"")) == "00000001"
    assert Keyring((key(1), key(2, writes_from=future), key(3)), (LOOKUP,)).writes.id == "00000003"
    # A clock that was set back: nothing may write, and something must.
    assert Keyring((key(1, writes_from=future), key(2, writes_from=future)), (LOOKUP,)).writes.id == "00000001"


def test_a_key_begins_to_write_in_a_ring_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    ring = Keyring((key(1), key(2, writes_from=at)), (LOOKUP,))
    for seconds, writes in ((-1, "00000001"), (0, "00000002"), (1, "00000002")):
        now = at.timestamp() + seconds
        monkeypatch.setattr("reset_flow.persistence.keyring.time.time", lambda now=now: now)
        assert ring.key_of(ring.seal("r", "f", BODY, b"")) == writes


def test_a_rotated_ring_reads_what_was_sealed_before_and_finds_what_was_found() -> None:
    ring = Keyring((key(1),), (LOOKUP,))
    sealed = ring.seal("r", "f", BODY, b"")
    later, now = ring.rotated(), ring.rotated(timedelta(0))
    for each in (later, now):
        assert len(each.keys) == 2
        assert each.open("r", "f", sealed, b"") == BODY
        assert each.lookup("r", "tag", "x") == ring.lookup("r", "tag", "x")
        assert not each.saved
    assert later.writes == key(1)
    assert now.writes == now.keys[-1] != key(1)
    assert ring.keys == (key(1),)


def test_a_new_key_is_the_newest_whatever_the_clock_says() -> None:
    ring = Keyring((key(1, created_at=datetime(2999, 1, 1, tzinfo=UTC)),), (LOOKUP,))
    for _ in range(5):
        before = ring.keys
        ring = ring.rotated(timedelta(0))
        assert ring.keys[:-1] == before
        assert ring.writes == ring.keys[-1]


def test_a_key_that_writes_or_will_or_is_not_there_can_not_be_taken_out() -> None:
    future = datetime.now(UTC) + timedelta(minutes=1)
    ring = Keyring((key(1), key(2), key(3, writes_from=future)), (LOOKUP,))
    for key_id, words in (("00000002", "00000002 writes"), ("00000003", "00000003 is to write"), ("x", "key x is not")):
        with pytest.raises(KeyringError, match=words):
            ring.without(key_id)
    smaller = ring.without("00000001")
    assert smaller.keys == ring.keys[1:]
    assert smaller.lookup_keys == (LOOKUP,)
    with pytest.raises(UnknownKeyError, match="00000001"):
        smaller.open("r", "f", Keyring((key(1),), (LOOKUP,)).seal("r", "f", BODY, b""), b"")


def test_the_key_of_a_body_is_told_and_of_a_stump_is_not(ring: Keyring) -> None:
    sealed = ring.seal("r", "f", BODY, b"")
    assert ring.key_of(sealed) == ring.keys[0].id == ring.key_of(sealed[:4])
    assert ring.key_of(sealed[:3]) == ring.key_of(b"") == ""


# --- following the file


def test_a_ring_follows_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ring = Keyring.from_file(put(Path("keys"), row_of(key(1))))
    sealed = ring.seal("r", "f", BODY, b"")
    assert not ring.refresh()
    monkeypatch.chdir("/")
    put(tmp_path / "keys", row_of(key(1)), row_of(key(2)))
    assert ring.refresh()
    assert not ring.refresh()
    assert [each.id for each in ring.keys] == ["00000001", "00000002"]
    assert ring.writes.id == "00000002"
    assert ring.open("r", "f", sealed, b"") == BODY
    put(tmp_path / "keys", row_of(key(2)))
    assert ring.refresh()
    with pytest.raises(UnknownKeyError):
        ring.open("r", "f", sealed, b"")


def test_a_ring_that_was_written_to_a_file_follows_it_and_one_in_memory_has_none(tmp_path: Path) -> None:
    ring = Keyring((key(1),), (LOOKUP,))
    assert not ring.refresh()
    ring.to_file(tmp_path / "keys")
    assert not ring.refresh()
    put(tmp_path / "keys", row_of(key(1)), row_of(key(2)))
    assert ring.refresh()


def test_an_unchanged_file_costs_one_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Keyring.from_file(put(tmp_path / "keys", row_of(key(1))))
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("it was read"))
    assert not any(ring.refresh() for _ in range(100))


@pytest.mark.parametrize("harm", ["broken", "gone", "loose", "short"])
def test_a_file_that_breaks_takes_no_key_away_and_is_complained_of_once(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = put(tmp_path / "keys", row_of(key(1)), row_of(key(2)))
    ring = Keyring.from_file(path)
    sealed = ring.seal("r", "f", BODY, b"")
    match harm:
        case "broken":
            path.write_text("half a fi")
        case "gone":
            path.unlink()
        case "loose":
            path.chmod(0o644)
        case _:
            put(path, row_of(key(1), key="AAAA"))
    for _ in range(3):
        assert not ring.refresh()
        assert ring.open("r", "f", sealed, b"") == BODY
        with pytest.raises(UnknownKeyError):
            ring.open("r", "f", Keyring.generate().seal("r", "f", BODY, b""), b"")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the keys stay 00000001 00000002" in caplog.text
    assert b64encode(key(1).secret).decode() not in caplog.text
    put(path, row_of(key(2)), row_of(key(3)))
    assert ring.refresh()
    assert ring.keys == (key(2), key(3))


def test_a_body_of_a_key_that_is_new_in_the_file_is_opened_at_once(tmp_path: Path) -> None:
    path = put(tmp_path / "keys", row_of(key(1)))
    behind = Keyring.from_file(path)
    ahead = Keyring.from_file(put(path, row_of(key(1)), row_of(key(2))))
    assert behind.open("r", "f", ahead.seal("r", "f", BODY, b""), b"") == BODY
    assert behind.keys == ahead.keys


# --- nonces


def test_nonces_are_unique_over_a_million_seals(ring: Keyring) -> None:
    nonces = {ring.seal("r", "f", b"", b"")[4:16] for _ in range(1_000_000)}
    assert len(nonces) == 1_000_000


def test_threads_draw_each_a_nonce_of_its_own(ring: Keyring) -> None:
    drawn: list[list[bytes]] = []
    work = [threading.Thread(target=lambda: drawn.append([ring.write_id() for _ in range(20_000)])) for _ in range(8)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len({write_id for write_ids in drawn for write_id in write_ids}) == 160_000


# --- tampering, over a real file and over memory

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
LEASE = timedelta(seconds=30)


class Vault:
    """Two flows of one realm and one of another, and a way into their rows past the library."""

    def __init__(self, store: Store, path: Path | None) -> None:
        self.store = store
        self.path = path
        self.keyring = Keyring.generate()
        self.ours = FlowRepository(store, self.keyring, "ours", LEASE, NullTracer())
        self.theirs = FlowRepository(store, self.keyring, "theirs", LEASE, NullTracer())

    async def saved(self, repository: FlowRepository, flow_id: str, versions: int = 1) -> list[Record]:
        """What the store has after each version of a new flow."""
        data = FlowData(
            id=flow_id, user="jörg", credential=Credential.PASSWORD, transport="scripted", created_at=START,
            expires_at=START + timedelta(hours=1), answer=Secret("Peterson"), lookups=(b"a" * 16, b"b" * 16),
        )  # fmt: skip
        records = []
        for version in range(versions):
            await repository.save(repository.record(replace(data, version=version)))
            records.append(await self.store.load(flow_id))
        return records

    def put(self, flow_id: str, record: Record) -> None:
        """Put this into the row of a flow, whose id it keeps."""
        if isinstance(self.store, MemoryStore):
            kept = self.store._kept[flow_id]
            self.store._kept[flow_id] = attrs.evolve(kept, record=replace(record, id=flow_id))
            return
        columns = {**to_row(record), "id": flow_id, "leased_until": None if record.lease is None else 0}
        self.change(flow_id, ", ".join(f"{name} = :{name}" for name in columns), columns)

    def change(self, flow_id: str, assignment: str, values: dict[str, Any] | None = None) -> None:
        """Whatever SQL can do to the row of a flow."""
        assert self.path
        with closing(sqlite3.connect(self.path, timeout=10)) as database:
            database.execute("PRAGMA synchronous = OFF")
            statement = f"UPDATE flows SET {assignment} WHERE id = :id"  # noqa: S608 - the test's own words
            assert database.execute(statement, {"id": flow_id, **(values or {})}).rowcount == 1
            database.commit()

    async def refuses(self, flow_id: str) -> None:
        """The flow can't be read, by its id or by a scan, and the scan goes on to the others."""
        with pytest.raises(RecordUnreadable):
            await self.ours.load(flow_id)
        found = [each async for each in self.ours.scan(limit=10)]
        assert flow_id not in [each.data.id for each in found if not isinstance(each, RecordUnreadable)]

    async def opens(self, flow_id: str) -> None:
        data = (await self.ours.load(flow_id)).data
        assert (data.id, data.user, data.answer) == (flow_id, "jörg", Secret("Peterson"))


@pytest.fixture(params=["memory", "sqlite"])
async def vault(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Vault]:
    path = tmp_path / "flows.db" if request.param == "sqlite" else None
    store = SQLiteStore(path) if path else MemoryStore()
    yield Vault(store, path)
    await store.aclose()


async def test_every_byte_of_a_stored_body_counts(vault: Vault) -> None:
    (record,) = await vault.saved(vault.ours, "flow")
    for at in range(len(record.body)):
        flipped = bytearray(record.body)
        flipped[at] ^= 1 << at % 8
        vault.put("flow", replace(record, body=bytes(flipped)))
        with pytest.raises(RecordUnreadable):
            await vault.ours.load("flow")
    await vault.refuses("flow")
    vault.put("flow", record)
    await vault.opens("flow")


async def test_a_body_of_any_other_length_is_refused(vault: Vault) -> None:
    (record,) = await vault.saved(vault.ours, "flow")
    for size in range(len(record.body)):
        vault.put("flow", replace(record, body=record.body[:size]))
        with pytest.raises(RecordUnreadable):
            await vault.ours.load("flow")
    for body in (record.body + b"\0", record.body * 2, record.body[1:], b"\0" * len(record.body)):
        vault.put("flow", replace(record, body=body))
        await vault.refuses("flow")
    vault.put("flow", record)
    await vault.opens("flow")


async def test_bodies_and_rows_can_not_be_swapped(vault: Vault) -> None:
    (one,), (two,) = await vault.saved(vault.ours, "one"), await vault.saved(vault.ours, "two")
    for whole in (False, True):
        vault.put("one", two if whole else replace(one, body=two.body))
        vault.put("two", one if whole else replace(two, body=one.body))
        await vault.refuses("one")
        await vault.refuses("two")
        vault.put("one", one)
        vault.put("two", two)
        await vault.opens("one")
        await vault.opens("two")


async def test_an_older_body_does_not_pass_for_a_newer_one(vault: Vault) -> None:
    old, older_still, new = await vault.saved(vault.ours, "flow", versions=3)
    for earlier in (old, older_still):
        vault.put("flow", replace(new, body=earlier.body))
        await vault.refuses("flow")
        vault.put("flow", replace(earlier, version=new.version))
        await vault.refuses("flow")
        vault.put("flow", replace(new, body=earlier.body, write_id=earlier.write_id))
        await vault.refuses("flow")
    vault.put("flow", new)
    await vault.opens("flow")


async def test_a_row_of_another_realm_does_not_pass_for_ours(vault: Vault) -> None:
    (ours,), (theirs,) = await vault.saved(vault.ours, "ours"), await vault.saved(vault.theirs, "theirs")
    for row in (replace(theirs, realm="ours"), replace(ours, body=theirs.body), theirs):
        vault.put("ours", row)
        with pytest.raises(RecordUnreadable):
            await vault.ours.load("ours")
    vault.put("theirs", replace(theirs, realm="ours"))
    await vault.refuses("theirs")
    vault.put("ours", replace(ours, realm="theirs"))
    with pytest.raises(RecordUnreadable):
        await vault.theirs.load("ours")
    vault.put("ours", ours)
    await vault.opens("ours")


def _changes() -> Iterator[dict[str, Any]]:
    moment = timedelta(microseconds=1)
    yield from ({"realm": realm} for realm in ("", "our", "ours ", "theirs"))
    yield from ({"version": version} for version in (2, 3, 2**62))
    yield from ({"state": state} for state in State if state is not State.REQUESTED)
    yield from ({"due_at": due} for due in (None, START, START + timedelta(hours=1) - moment))
    yield from ({"ended_at": ended} for ended in (START, START + moment))
    yield from ({"lease": lease} for lease in (timedelta(0), LEASE))
    yield from ({"lookups": (b"a" * 16, b"b" * 16)[:count]} for count in (0, 1))
    yield {"lookups": (b"b" * 16, b"a" * 16)}
    yield {"lookups": (b"a" * 16, b"b" * 16, b"c" * 16)}
    yield from ({"write_id": write_id} for write_id in (b"", b"x" * 8, b"x" * 9))


@pytest.mark.parametrize("changes", list(_changes()), ids=str)
async def test_no_clear_column_can_be_changed(vault: Vault, changes: dict[str, Any]) -> None:
    (record,) = await vault.saved(vault.ours, "flow")
    vault.put("flow", replace(record, **changes))
    await vault.refuses("flow")
    vault.put("flow", record)
    await vault.opens("flow")


async def test_every_byte_of_the_stamp_and_the_lookups_counts(vault: Vault) -> None:
    (record,) = await vault.saved(vault.ours, "flow")
    for at in range(8):
        write_id = record.write_id[:at] + bytes([record.write_id[at] ^ 1]) + record.write_id[at + 1 :]
        vault.put("flow", replace(record, write_id=write_id))
        await vault.refuses("flow")
    for at in range(16):
        lookup = bytearray(record.lookups[1])
        lookup[at] ^= 1
        vault.put("flow", replace(record, lookups=(record.lookups[0], bytes(lookup))))
        await vault.refuses("flow")
    vault.put("flow", record)
    await vault.opens("flow")


@pytest.mark.parametrize("vault", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "assignment",
    [
        "version = 0", "version = -1", f"version = {2**63 - 1}", "state = ''", "state = 'done'",
        "state = 'REQUESTED'", "state = CAST(x'ff' AS TEXT)", "realm = realm || char(0)", f"due_at = {2**62}",
        f"due_at = {-(2**63)}", f"ended_at = {2**62}", "lease = 1", "lease = -1, leased_until = 0",
        f"lease = {2**62}, leased_until = {2**63 - 1}", "leased_until = 0", "lookups = x'00'", "lookups = x''",
        "write_id = x''", "body = x''", "body = zeroblob(1000000)", "body = CAST(body || body AS BLOB)",
        "write_id = body, body = write_id",
    ],
)  # fmt: skip
async def test_what_sql_can_make_of_a_row_is_refused(vault: Vault, assignment: str) -> None:
    (record,) = await vault.saved(vault.ours, "flow")
    vault.change("flow", assignment)
    await vault.refuses("flow")
    vault.put("flow", record)
    await vault.opens("flow")


@pytest.mark.parametrize("vault", ["sqlite"], indirect=True)
async def test_a_renamed_row_is_refused(vault: Vault) -> None:
    await vault.saved(vault.ours, "flow")
    vault.change("flow", "id = 'flaw'")
    await vault.refuses("flaw")
    vault.change("flaw", "id = 'flow'")
    await vault.opens("flow")


async def test_a_flow_stays_intact_for_whoever_has_the_right_key(vault: Vault) -> None:
    await vault.saved(vault.ours, "flow")
    other = FlowRepository(vault.store, Keyring.generate(), "ours", LEASE, NullTracer())
    with pytest.raises(RecordUnreadable, match=f"key {vault.keyring.writes.id} is not in the ring"):
        await other.load("flow")
    await vault.opens("flow")
