from __future__ import annotations

import hashlib
import hmac
import json
import os
import pickle
import stat
import threading
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from reset_flow.errors import KeyringError
from reset_flow.sealing import Key, Keyring, _flow_key, _message

if TYPE_CHECKING:
    from pathlib import Path

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
        {"reset_flow_keys": 2},
        {"seal": 3},
        {"seal": []},
        {"lookup": []},
        {"seal": [key, key]},
        {"seal": [key | {"key": "AAAA"}]},
        {"seal": [key | {"key": "?"}]},
        {"seal": [key | {"id": "xyz"}]},
        {"seal": [key | {"created_at": "2026-01-01T00:00:00"}]},
        {"seal": [key | {"created_at": "soon"}]},
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


def test_a_child_after_a_fork_draws_nonces_of_its_own(ring: Keyring) -> None:
    ring.seal("r", "f", BODY, b"")
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
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


def test_a_lookup_is_an_hmac_under_the_lookup_key() -> None:
    seal, lookup = Key.generate(), Key.generate()
    expected = hmac.new(lookup.secret, _message("lookup", "r", "tag", "x"), hashlib.sha256).digest()[:16]
    assert Keyring((seal,), (lookup,)).lookup("r", "tag", "X") == expected
