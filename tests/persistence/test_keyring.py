"""What a ring seals, opens and hashes; what a key file may hold; how a ring follows its file."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import pickle
import stat
import threading
from base64 import b64encode
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias, TypedDict, Unpack

import pytest

from reset_flow.domain.errors import KeyringError
from reset_flow.persistence import key_file, keyring
from reset_flow.persistence.key_file import Key
from reset_flow.persistence.keyring import LOOK_INTERVAL, Keyring, UnknownKeyError, flow_key
from reset_flow.testing import LeakScanner, shown_by_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Passes: TypeAlias = "Callable[[float], None]"

BODY = b"an answer, a token"


@pytest.fixture
def ring() -> Keyring:
    return Keyring.generate()


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    """Stop the clocks of the ring, and let so many seconds pass."""
    now, passed = datetime.now(UTC), timedelta(0)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp((now + passed).timestamp(), tz)

    def uptime() -> float:
        return passed.total_seconds()

    def passes(seconds: float) -> None:
        nonlocal passed
        passed += timedelta(seconds=seconds)

    monkeypatch.setattr(key_file, "datetime", Clock)
    monkeypatch.setattr(keyring, "uptime", uptime)
    return passes


def hmac_of(key: Key, *parts: str, after: bytes = b"") -> bytes:
    """Return the HMAC-SHA-256 (RFC 2104) of the parts, each behind its length in 4 bytes."""
    message = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
    return hmac.new(key.secret, message + after, hashlib.sha256).digest()


# --- bodies


def test_a_sealed_body_is_opened(ring: Keyring) -> None:
    assert ring.open("realm", "flow", ring.seal("realm", "flow", BODY, b"beside"), b"beside") == BODY


def test_a_sealed_body_shows_nothing_and_never_repeats(ring: Keyring) -> None:
    sealed = [ring.seal("realm", "flow", BODY, b"") for _ in range(1000)]
    assert not any(BODY in each for each in sealed)
    assert len({each[4:16] for each in sealed}) == 1000


@pytest.mark.parametrize(
    ("realm", "flow", "beside"), [("other", "f", b"c"), ("r", "other", b"c"), ("r", "f", b"other")]
)
def test_a_body_belongs_to_one_realm_one_flow_and_one_record(
    ring: Keyring, realm: str, flow: str, beside: bytes
) -> None:
    sealed = ring.seal("r", "f", BODY, b"c")
    with pytest.raises(ValueError, match="changed, or is another record's"):
        ring.open(realm, flow, sealed, beside)
    assert ring.open("r", "f", sealed, b"c") == BODY


def test_every_flipped_byte_and_every_cut_is_refused(ring: Keyring) -> None:
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


def test_the_newest_key_seals_and_every_key_opens() -> None:
    before, after = Keyring((key(1),), (LOOKUP,)), Keyring((key(2), key(1)), (LOOKUP,))
    assert after.open("r", "f", before.seal("r", "f", BODY, b""), b"") == BODY
    assert after.key_of(after.seal("r", "f", BODY, b"")) == key(2).id
    assert after.lookup("r", "tag", "x") == before.lookup("r", "tag", "x")


def test_more_flows_than_the_cache_holds_are_sealed_and_opened(ring: Keyring) -> None:
    sealed = {str(number): ring.seal("r", str(number), BODY, b"") for number in range(keyring.MAX_CIPHERS + 10)}
    assert all(ring.open("r", flow_id, body, b"") == BODY for flow_id, body in sealed.items())


def test_the_key_of_a_flow_is_hkdf_expand_as_in_rfc_5869() -> None:
    one = flow_key(key(), "realm", "jörg")
    assert one == hmac_of(key(), "flow", "realm", "jörg", after=b"\x01")
    assert len({one, flow_key(key(2), "realm", "jörg"), flow_key(key(), "realmj", "örg")}) == 3


def test_the_key_of_a_body_is_told_unless_the_body_is_too_short(ring: Keyring) -> None:
    sealed = ring.seal("r", "f", BODY, b"")
    assert ring.key_of(sealed) == ring.keys[0].id == ring.key_of(sealed[:4])
    assert ring.key_of(sealed[:3]) == ring.key_of(b"") == ""


def test_nonces_are_unique_over_many_seals(ring: Keyring) -> None:
    nonces = {ring.seal("r", "f", b"", b"")[4:16] for _ in range(100_000)}
    assert len(nonces) == 100_000


def test_a_child_after_a_fork_draws_other_nonces(ring: Keyring) -> None:
    ring.seal("r", "f", BODY, b"")
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, ring.seal("r", "f", BODY, b"")[4:16])
        os._exit(0)
    os.waitpid(child, 0)
    drawn_by_child = os.read(reader, 12)
    os.close(reader)
    os.close(writer)
    assert drawn_by_child not in {ring.seal("r", "f", BODY, b"")[4:16] for _ in range(600)}


# --- names


def test_a_lookup_is_the_same_for_every_spelling_of_a_name_only(ring: Keyring) -> None:
    one = ring.lookup("realm", "user", " Jörg.Müller\u00a0")
    assert one == ring.lookup("realm", "user", "JO\u0308RG.MÜLLER")
    assert len(one) == 16
    others = {ring.lookup("other", "user", "jörg.müller"), ring.lookup("realm", "tag", "jörg.müller"),
              Keyring.generate().lookup("realm", "user", "jörg.müller"), ring.lookup("realm", "user", "x")}  # fmt: skip
    assert one not in others
    assert len(others) == 4
    assert hashlib.sha256("jörg.müller".encode()).digest()[:16] != one


def test_a_lookup_is_an_hmac_under_the_lookup_key() -> None:
    ring = Keyring((key(1),), (key(9), key(8)))
    assert ring.lookup("r", "tag", "X") == hmac_of(key(9), "lookup", "r", "tag", "x")[:16]
    assert ring.lookups("r", "tag", "X") == tuple(
        hmac_of(each, "lookup", "r", "tag", "x")[:16] for each in (key(9), key(8))
    )
    assert ring.digest("r", "key", "X") == hmac_of(key(9), "exact", "r", "key", "X")[:16]


def test_spellings_that_differ_after_folding_are_one(ring: Keyring) -> None:
    assert ring.lookup("r", "tag", "\u0390") == ring.lookup("r", "tag", "\u0390".upper())


def test_the_parts_of_a_lookup_do_not_run_into_each_other(ring: Keyring) -> None:
    assert ring.lookup("ab", "c", "x") != ring.lookup("a", "bc", "x")
    assert ring.digest("a", "bc", "x") != ring.digest("a", "b", "cx")


def test_a_ring_shows_ids_and_never_bytes(ring: Keyring) -> None:
    one = ring.keys[0]
    assert one.id in repr(ring)
    for shown in (repr(ring), repr(one)):
        assert one.secret.hex() not in shown
        assert repr(one.secret) not in shown
    for each in (ring, one):
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(each)


# --- keys that are refused


class KeyFields(TypedDict, total=False):
    """The arguments of `Key`."""

    id: str
    created_at: datetime
    secret: bytes
    writes_from: datetime


def key(number: int = 1, **changes: Unpack[KeyFields]) -> Key:
    """Make a key of a fixed id and age: the greater its number, the newer it is."""
    fields: KeyFields = {
        "id": f"{number:08x}",
        "created_at": datetime(2026, 1, number, tzinfo=UTC),
        "secret": bytes([number]) * 32,
    }
    fields.update(changes)
    return Key(**fields)


LOOKUP = key(9)


@pytest.mark.parametrize(
    ("seal", "lookup", "words"),
    [
        ((), (LOOKUP,), "no sealing key"),
        ((key(),), (), "no lookup key"),
        ((key(1), key(2), key(1)), (LOOKUP,), "two sealing keys 00000001"),
        ((key(1), key(2, secret=key(1).secret)), (LOOKUP,), "00000001 and 00000002 are the same"),
        ((key(),), (LOOKUP, LOOKUP), "two lookup keys 00000009"),
        ((key(secret=b""),), (LOOKUP,), "key 00000001 has 0 bytes, and must have 32"),
        ((key(secret=b"?" * 31),), (LOOKUP,), "key 00000001 has 31 bytes"),
        ((key(secret=b"?" * 33),), (LOOKUP,), "key 00000001 has 33 bytes"),
        ((key(),), (key(2, secret=b"?" * 16),), "key 00000002 has 16 bytes"),
        ((key(id="xyz"),), (LOOKUP,), "id of a sealing key must be 8 hexadecimal digits"),
        ((key(id="0" * 9),), (LOOKUP,), "8 hexadecimal digits"),
        ((key(), key(2, created_at=datetime(2026, 1, 1))), (LOOKUP,), "key 00000002 has a time without a time zone"),  # noqa: DTZ001
        ((key(writes_from=datetime(2026, 1, 1)),), (LOOKUP,), "key 00000001 has a time without"),  # noqa: DTZ001
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_ring_of_broken_keys_is_refused_by_the_keys_id_and_shows_no_bytes(
    seal: tuple[Key, ...], lookup: tuple[Key, ...], words: str
) -> None:
    with pytest.raises(KeyringError, match=words) as caught:
        Keyring(seal, lookup)
    shown = shown_by_error(caught.value)
    assert LeakScanner({f"key {each.id}": each.secret for each in (*seal, *lookup) if each.secret}).find(shown) == []


# --- files


def row_of(of: Key, **changes: object) -> dict[str, object]:
    row = {"id": of.id, "created_at": of.created_at.isoformat(), "secret": b64encode(of.secret).decode()}
    return {name: value for name, value in (row | changes).items() if value is not None}


def put(path: Path, *rows: dict[str, object], number: int = 1) -> Path:
    """Replace a key file by one with these sealing keys."""
    beside = path.with_name("beside")
    beside.write_text(json.dumps({"reset_flow_keys": number, "seal": rows, "lookup": [row_of(LOOKUP)]}))
    beside.chmod(0o600)
    beside.replace(path)
    return path


def test_a_file_holds_the_ring_for_its_owner_alone(tmp_path: Path, ring: Keyring) -> None:
    path = tmp_path / "keys"
    assert not ring.saved
    ring.to_file(path)
    assert ring.saved
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = Keyring.from_file(path)
    assert again.saved
    assert (again.keys, again.lookup_keys) == (ring.keys, ring.lookup_keys)
    assert again.open("r", "f", ring.seal("r", "f", BODY, b""), b"") == BODY
    assert again.lookup("r", "tag", "x") == ring.lookup("r", "tag", "x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys"]


def test_a_file_keeps_the_time_from_which_a_key_writes(tmp_path: Path, ring: Keyring) -> None:
    rotated = ring.rotated()
    rotated.to_file(tmp_path / "keys")
    assert Keyring.from_file(tmp_path / "keys").keys == rotated.keys
    assert rotated.keys[-1].writes_from is not None


def test_a_key_file_is_never_overwritten(tmp_path: Path, ring: Keyring) -> None:
    path = tmp_path / "keys"
    path.write_text("mine")
    with pytest.raises(KeyringError, match="exists"):
        ring.to_file(path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o662])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, ring: Keyring, mode: int) -> None:
    path = tmp_path / "keys"
    ring.to_file(path)
    path.chmod(mode)
    with pytest.raises(KeyringError, match="open to others"):
        Keyring.from_file(path)
    path.chmod(0o600)
    assert Keyring.from_file(path).keys == ring.keys


def _broken() -> Iterator[bytes]:
    row = row_of(key(1))
    good = {"reset_flow_keys": 1, "seal": [row], "lookup": [row]}
    changes: tuple[dict[str, object], ...] = (
        {"reset_flow_keys": 2},
        {"reset_flow_keys": "1"},
        {"reset_flow_keys": []},
        {"seal": 3},
        {"seal": [3]},
        {"seal": {"id": row}},
        {"seal": []},
        {"lookup": []},
        {"seal": [row, row]},
        {"seal": [row | {"secret": "AAAA"}]},
        {"seal": [row | {"secret": "?"}]},
        {"seal": [row | {"id": "xyz"}]},
        {"seal": [row | {"id": ["0"] * 8}]},
        {"seal": [row | {"id": 1}]},
        {"seal": [{}]},
        {"seal": [row | {"created_at": "2026-01-01T00:00:00"}]},
        {"seal": [row | {"created_at": "0001-01-01T00:00:00"}]},
        {"seal": [row | {"created_at": "soon"}]},
        {"seal": [row | {"writes_from": "soon"}]},
        {"seal": [row | {"writes_from": "2026-01-01T00:00:00"}]},
    )
    yield from (b"", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"x":' + b"[" * 100_000, b'{"x":"\xff"}')
    yield from (json.dumps(good | change).encode() for change in changes)
    yield json.dumps(good).encode().replace(b'"id": "0', b'"id": "\xff')


@pytest.mark.parametrize("document", list(_broken()), ids=lambda document: document[:12].decode(errors="replace"))
def test_a_broken_file_is_refused_and_left_as_it_is(tmp_path: Path, document: bytes) -> None:
    path = tmp_path / "keys"
    path.write_bytes(document)
    path.chmod(0o600)
    with pytest.raises(KeyringError, match=f"{path} (is no key file|has format 2)"):
        Keyring.load_or_create(path)
    assert path.read_bytes() == document


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ({"secret": "AAAA"}, "key 00000002"),
        ({"created_at": "2026-01-01T00:00:00"}, "key 00000002"),
        ({"secret": None}, r"`secret` - at `\$\.seal\[1\]`"),
        ({"secret": "?"}, r"\$\.seal\[1\]\.secret"),
        ({"secret": 7}, r"\$\.seal\[1\]\.secret"),
        ({"created_at": None}, r"`created_at` - at `\$\.seal\[1\]`"),
        ({"created_at": "soon"}, r"\$\.seal\[1\]\.created_at"),
        ({"created_at": 7}, r"\$\.seal\[1\]\.created_at"),
        ({"writes_from": "soon"}, r"\$\.seal\[1\]\.writes_from"),
        ({"writes_from": 7}, r"\$\.seal\[1\]\.writes_from"),
    ],
    ids=str,
)
def test_a_broken_key_of_a_file_is_named_and_no_bytes_are_shown(
    tmp_path: Path, broken: dict[str, object], named: str
) -> None:
    path = put(tmp_path / "keys", row_of(key(1)), row_of(key(2), **broken))
    with pytest.raises(KeyringError, match=named) as caught:
        Keyring.from_file(path)
    shown = shown_by_error(caught.value, callers=[Path(__file__).parents[1]])
    assert LeakScanner({"one": key(1).secret, "two": key(2).secret}).find(shown) == []
    put(path, row_of(key(1)), row_of(key(2)))
    assert [each.id for each in Keyring.from_file(path).keys] == ["00000001", "00000002"]


def test_a_file_of_another_format_says_what_to_do(tmp_path: Path) -> None:
    path = put(tmp_path / "keys", row_of(key(1)), number=2)
    with pytest.raises(KeyringError, match="has format 2: read it with the release"):
        Keyring.from_file(path)
    path.write_text('{"reset_flow_keys": 2, "keys": {}}')
    with pytest.raises(KeyringError, match="has format 2: read it with the release"):
        Keyring.from_file(path)


def test_of_many_that_make_a_ring_at_once_all_get_the_same(tmp_path: Path) -> None:
    rings: list[Keyring] = []
    threads = [threading.Thread(target=lambda: rings.append(Keyring.load_or_create(tmp_path / "k"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rings) == 8
    assert len({ring.keys for ring in rings}) == 1


def test_a_missing_folder_is_a_clear_error(tmp_path: Path, ring: Keyring) -> None:
    with pytest.raises(KeyringError, match="can't be written"):
        ring.to_file(tmp_path / "none" / "keys")
    with pytest.raises(KeyringError, match="does not exist"):
        Keyring.from_file(tmp_path / "none")


# --- which key writes


def test_a_key_writes_from_its_time_on() -> None:
    now = datetime.now(UTC)
    past, future = now - timedelta(seconds=1), now + timedelta(minutes=1)
    assert Keyring((key(1), key(2, writes_from=past)), (LOOKUP,)).writes.id == "00000002"
    waiting = Keyring((key(1), key(2, writes_from=future)), (LOOKUP,))
    assert waiting.writes.id == "00000001"
    assert waiting.key_of(waiting.seal("r", "f", BODY, b"")) == "00000001"
    assert Keyring((key(1), key(2, writes_from=future), key(3)), (LOOKUP,)).writes.id == "00000003"
    # After a clock was set back, no key may write; the ring still seals.
    assert Keyring((key(1, writes_from=future), key(2, writes_from=future)), (LOOKUP,)).writes.id == "00000001"


def test_a_key_begins_to_write_in_a_running_ring(passes: Passes) -> None:
    ring = Keyring((key(1), key(2, writes_from=datetime.now(UTC) + timedelta(minutes=1))), (LOOKUP,))
    assert ring.key_of(ring.seal("r", "f", BODY, b"")) == "00000001"
    passes(30)
    assert ring.key_of(ring.seal("r", "f", BODY, b"")) == "00000001"
    passes(30 + LOOK_INTERVAL)
    assert ring.key_of(ring.seal("r", "f", BODY, b"")) == "00000002"


def test_a_rotated_ring_opens_old_bodies_and_finds_old_names() -> None:
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


def test_a_new_key_is_the_newest_even_if_the_clock_was_set_back() -> None:
    ring = Keyring((key(1, created_at=datetime(2999, 1, 1, tzinfo=UTC)),), (LOOKUP,))
    for _ in range(5):
        before = ring.keys
        ring = ring.rotated(timedelta(0))
        assert ring.keys[:-1] == before
        assert ring.writes == ring.keys[-1]


def test_a_key_that_writes_or_will_write_or_is_missing_is_not_taken_out() -> None:
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


def test_a_ring_that_was_written_to_a_file_follows_it_and_a_ring_in_memory_has_none(tmp_path: Path) -> None:
    ring = Keyring((key(1),), (LOOKUP,))
    assert not ring.refresh()
    ring.to_file(tmp_path / "keys")
    assert not ring.refresh()
    put(tmp_path / "keys", row_of(key(1)), row_of(key(2)))
    assert ring.refresh()


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Keyring.from_file(put(tmp_path / "keys", row_of(key(1))))
    monkeypatch.setattr(os, "open", lambda *_, **__: pytest.fail("the file was read"))
    assert not any(ring.refresh() for _ in range(100))


def test_a_ring_looks_at_its_file_before_it_seals(tmp_path: Path, passes: Passes) -> None:
    ring = Keyring.from_file(put(tmp_path / "keys", row_of(key(1))))
    put(tmp_path / "keys", row_of(key(2)))
    # The first seal looks: the ring may have been read long ago.
    assert ring.key_of(ring.seal("r", "f", BODY, b"")) == "00000002"
    put(tmp_path / "keys", row_of(key(3)))
    passes(LOOK_INTERVAL / 2)
    assert ring.key_of(ring.seal("r", "f", BODY, b"")) == "00000002"
    passes(LOOK_INTERVAL / 2)
    assert ring.key_of(ring.seal("r", "f", BODY, b"")) == "00000003"


@pytest.mark.parametrize("harm", ["broken", "gone", "loose", "short"])
def test_a_ring_whose_file_breaks_keeps_its_keys_and_warns_once(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(keyring, "LOOK_INTERVAL", 0.0)
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
            put(path, row_of(key(1), secret="AAAA"))
    for _ in range(3):
        assert ring.key_of(ring.seal("r", "f", BODY, b"")) == "00000002"
        assert not ring.refresh()
        assert ring.open("r", "f", sealed, b"") == BODY
        with pytest.raises(UnknownKeyError):
            ring.open("r", "f", Keyring.generate().seal("r", "f", BODY, b""), b"")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the keys stay 00000001 00000002" in caplog.text
    assert b64encode(key(1).secret).decode() not in caplog.text
    put(path, row_of(key(2)), row_of(key(3)))
    assert ring.key_of(ring.seal("r", "f", BODY, b"")) == "00000003"
    assert ring.keys == (key(2), key(3))


def test_a_body_is_opened_at_once_with_a_key_that_is_new_in_the_file(tmp_path: Path) -> None:
    path = put(tmp_path / "keys", row_of(key(1)))
    behind = Keyring.from_file(path)
    ahead = Keyring.from_file(put(path, row_of(key(1)), row_of(key(2))))
    assert behind.open("r", "f", ahead.seal("r", "f", BODY, b""), b"") == BODY
    assert behind.keys == ahead.keys
