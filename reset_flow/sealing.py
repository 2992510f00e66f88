"""
What makes a stored flow unreadable, unalterable and findable only with the keys.

A sealed body is the id of the key (4 bytes), a random nonce (12), and AES-256-GCM of the bytes (16 more). Each flow has
a key of its own, by HKDF-Expand (RFC 5869) from the ring's, so no key sees more than the few saves of one flow.
"""

from __future__ import annotations

import hmac
import json
import os
import tempfile
import unicodedata
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from reset_flow.errors import KeyringError

__all__ = ["Key", "Keyring", "UnknownKeyError", "canonical"]

KEY_BYTES = 32
ID_BYTES = 4
NONCE_BYTES = 12
TAG_BYTES = 16
LOOKUP_BYTES = 16
STAMP_BYTES = 8
NONCES_AT_ONCE = 256
FORMAT = 1


class UnknownKeyError(ValueError):
    """A body was sealed with a key that the ring does not have."""


def canonical(text: str) -> str:
    """The one form of all spellings that mean the same name: NFKC, case-folded, stripped."""
    return unicodedata.normalize("NFKC", text).casefold().strip()


def _key_bytes(_: Any, __: Any, value: bytes) -> None:
    if len(value) != KEY_BYTES:
        raise KeyringError(f"a key has {len(value)} bytes, and must have {KEY_BYTES}")


def _key_id(_: Any, __: Any, value: str) -> None:
    if len(value) != 2 * ID_BYTES or value.strip("0123456789abcdef"):
        raise KeyringError(f"a key's id must be {2 * ID_BYTES} hexadecimal digits")


@attrs.frozen(kw_only=True)
class Key:
    """One key of a ring: its bytes are never shown."""

    id: str = attrs.field(validator=_key_id)
    created_at: datetime
    secret: bytes = attrs.field(repr=False, validator=_key_bytes)

    @classmethod
    def generate(cls) -> Key:
        """A new one."""
        now = datetime.now(UTC).replace(microsecond=0)
        return cls(id=os.urandom(ID_BYTES).hex(), created_at=now, secret=os.urandom(KEY_BYTES))


def _message(*parts: str) -> bytes:
    """Parts joined so that no two lists of parts give the same bytes."""
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def _distinct(keys: tuple[Key, ...], purpose: str) -> dict[bytes, Key]:
    if not keys:
        raise KeyringError(f"the ring has no {purpose} key: make one with `reset-flow keys new`")
    named = {bytes.fromhex(key.id): key for key in keys}
    if len(named) != len(keys):
        raise KeyringError(f"the ring has two {purpose} keys of the same id")
    return named


class Keyring:
    """
    The keys of a realm or of many.

    The newest sealing key writes, every one reads. Lookup keys stay when sealing keys rotate: flows are found by them.

    Attributes:
        saved: Whether the ring is known to be in a file. One that is not is lost with the process, and with it every
            flow that it sealed.
    """

    def __init__(self, seal: tuple[Key, ...], lookup: tuple[Key, ...], *, saved: bool = False) -> None:
        self._seal = _distinct(seal, "sealing")
        self._lookup = tuple(_distinct(lookup, "lookup").values())
        self._newest = max(self._seal.items(), key=lambda item: item[1].created_at)
        self._nonces: list[bytes] = []
        self._nonces_of = 0
        self.saved = saved

    @property
    def keys(self) -> tuple[Key, ...]:
        """The sealing keys, oldest first."""
        return tuple(sorted(self._seal.values(), key=lambda key: key.created_at))

    def __repr__(self) -> str:
        return f"<Keyring {' '.join(key.id for key in self.keys)}>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a keyring can't be pickled: write it to a file and read it where it is needed")

    # --- files

    @classmethod
    def generate(cls) -> Keyring:
        """A new ring, in memory only: write it to a file before flows are to outlive the process."""
        return cls((Key.generate(),), (Key.generate(),))

    def to_file(self, path: str | Path) -> None:
        """
        Write the ring to a new file with mode 0600, whole or not at all.

        Raises:
            KeyringError: The file exists (a ring that flows are sealed with is never overwritten), or can't be
                written.
        """
        path = Path(path)
        try:
            _write_new(path, self._document())
        except FileExistsError:
            raise KeyringError(f"{path} exists: choose another file, or read that one") from None
        except OSError as error:
            raise KeyringError(f"{path} can't be written: {error.strerror}") from None
        self.saved = True

    @classmethod
    def from_file(cls, path: str | Path) -> Keyring:
        """
        The ring that was written to this file.

        Raises:
            KeyringError: It is missing, broken, or open to others than its owner.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    raise KeyringError(f"{path} is open to others: `chmod 600` it, and rotate its keys if it was read")
                document = file.read(1 << 20)
        except FileNotFoundError:
            raise KeyringError(f"{path} does not exist: make it with `reset-flow keys new`") from None
        except OSError as error:
            raise KeyringError(f"{path} can't be read: {error.strerror}") from None
        ring = _parse(document)
        if ring is None:
            raise KeyringError(f"{path} is no key file, or a broken one")
        return cls(*ring, saved=True)

    @classmethod
    def load_or_create(cls, path: str | Path) -> Keyring:
        """The ring of this file, made now if there is none; of many that try at once, one makes it and all read it."""
        if not Path(path).exists():
            try:
                cls.generate().to_file(path)
            except KeyringError:
                if not Path(path).exists():
                    raise
        return cls.from_file(path)

    def _document(self) -> bytes:
        def rows(keys: tuple[Key, ...]) -> list[dict[str, str]]:
            return [
                {"id": key.id, "created_at": key.created_at.isoformat(), "key": b64encode(key.secret).decode()}
                for key in keys
            ]

        return json.dumps(
            {"reset_flow_keys": FORMAT, "seal": rows(self.keys), "lookup": rows(self._lookup)}, indent=1
        ).encode()

    # --- bodies

    def seal(self, realm: str, flow_id: str, body: bytes, associated: bytes) -> bytes:
        """The body, readable only with this ring, as this flow's of this realm, and beside the same associated data."""
        key_id, key = self._newest
        nonce = self._nonce()
        return b"".join(
            (key_id, nonce, AESGCM(_flow_key(key, realm, flow_id)).encrypt(nonce, body, associated)),
        )

    def open(self, realm: str, flow_id: str, sealed: bytes, associated: bytes) -> bytes:
        """
        What was sealed.

        Raises:
            ValueError: It was changed; the message names the key.
            UnknownKeyError: Its key is not in the ring.
        """
        if len(sealed) < ID_BYTES + NONCE_BYTES + TAG_BYTES:
            raise ValueError("it is cut off")
        key = self._seal.get(sealed[:ID_BYTES])
        if key is None:
            raise UnknownKeyError(f"key {sealed[:ID_BYTES].hex()} is not in the ring")
        nonce, body = sealed[ID_BYTES : ID_BYTES + NONCE_BYTES], sealed[ID_BYTES + NONCE_BYTES :]
        try:
            return AESGCM(_flow_key(key, realm, flow_id)).decrypt(nonce, body, associated)
        except InvalidTag:
            raise ValueError(f"it was changed, or is another record's (key {key.id})") from None

    def stamp(self) -> bytes:
        """8 random bytes."""
        return self._nonce()[:STAMP_BYTES]

    def _nonce(self) -> bytes:
        # Drawn in bulk: a system call for each would hand the interpreter to another thread every time. A child after
        # a fork must not go on with its parent's.
        if self._nonces_of != os.getpid() or not self._nonces:
            drawn = os.urandom(NONCE_BYTES * NONCES_AT_ONCE)
            self._nonces = [drawn[at : at + NONCE_BYTES] for at in range(0, len(drawn), NONCE_BYTES)]
            self._nonces_of = os.getpid()
        return self._nonces.pop()

    # --- names

    def lookup(self, realm: str, purpose: str, name: str) -> bytes:
        """16 bytes that stand for a name; the same for every spelling of it."""
        return self._hash(self._lookup[0], realm, purpose, name)

    def lookups(self, realm: str, purpose: str, name: str) -> tuple[bytes, ...]:
        """The same under each lookup key of the ring, the one that writes first."""
        return tuple(self._hash(key, realm, purpose, name) for key in self._lookup)

    @staticmethod
    def _hash(key: Key, realm: str, purpose: str, name: str) -> bytes:
        return hmac.digest(key.secret, _message("lookup", realm, purpose, canonical(name)), "sha256")[:LOOKUP_BYTES]


def _flow_key(key: Key, realm: str, flow_id: str) -> bytes:
    """HKDF-Expand to 32 bytes: one HMAC."""
    return hmac.digest(key.secret, _message("flow", realm, flow_id) + b"\x01", "sha256")


def _write_new(path: Path, document: bytes) -> None:
    """Write beside the place, then link: nobody ever sees half a file, and nobody's file is replaced."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(document)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        os.unlink(temporary)  # noqa: PTH108 - a name, not a Path


def _parse(document: bytes) -> tuple[tuple[Key, ...], tuple[Key, ...]] | None:
    try:
        ring = json.loads(document)
        if ring["reset_flow_keys"] != FORMAT:
            return None
        seal, lookup = (tuple(_parse_key(row) for row in ring[purpose]) for purpose in ("seal", "lookup"))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None  # outside the block: its frames hold keys
    return seal, lookup


def _parse_key(row: dict[str, str]) -> Key:
    created_at = datetime.fromisoformat(row["created_at"])
    if created_at.tzinfo is None:
        raise ValueError("a time without its zone")
    return Key(id=row["id"], created_at=created_at, secret=b64decode(row["key"], validate=True))
