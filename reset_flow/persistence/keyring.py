"""
What makes a stored flow unreadable, unalterable and findable only with the keys.

A sealed body is the id of the key (4 bytes), a random nonce (12), and AES-256-GCM of the bytes (16 more). Each flow has
a key of its own, by HKDF-Expand (RFC 5869) from the ring's, so no key sees more than the few saves of one flow.
"""

from __future__ import annotations

import logging
import os
import time
import unicodedata
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Any, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from reset_flow.domain.errors import KeyringError
from reset_flow.persistence import key_file
from reset_flow.persistence.key_file import DELAY, ID_BYTES, Key, KeySet

if TYPE_CHECKING:
    from datetime import timedelta

    from reset_flow.persistence.key_file import Mark

__all__ = ["Key", "Keyring", "UnknownKeyError", "canonical"]

NONCE_BYTES = 12
TAG_BYTES = 16
LOOKUP_BYTES = 16
WRITE_ID_BYTES = 8
NONCES_AT_ONCE = 256
CIPHERS = 1024
"""For how many flows the derived key is kept at hand: a command opens once and seals twice."""

logger = logging.getLogger("reset_flow")

_NONCES = Struct(f"{NONCE_BYTES}s" * NONCES_AT_ONCE)
_POOLS: dict[int, list[bytes]] = {}
"""Of the process of this id alone: what a child finds after a fork is its parent's, also where no hook was run."""
os.register_at_fork(after_in_child=_POOLS.clear)


def _drawn() -> bytes:
    """Random bytes, as long as a nonce. In bulk: a system call for each would hand the interpreter to other threads."""
    while True:
        try:
            return _POOLS[os.getpid()].pop()
        except (KeyError, IndexError):  # or another thread took the last one
            drawn = os.urandom(_NONCES.size)
            _POOLS.clear()
            _POOLS[os.getpid()] = list(_NONCES.unpack(drawn))


class UnknownKeyError(ValueError):
    """A body was sealed with a key that the ring does not have."""


def canonical(text: str) -> str:
    """The one form of all spellings that mean the same name: NFKC, case-folded, stripped."""
    return unicodedata.normalize("NFKC", text).casefold().strip()


def _part(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(4, "big") + encoded


@lru_cache(maxsize=256)
def _head(*parts: str) -> bytes:
    return b"".join(map(_part, parts))


def _message(*parts: str) -> bytes:
    """Parts joined so that no two lists of parts give the same bytes. All but the last are what many begin with."""
    return _head(*parts[:-1]) + _part(parts[-1])


class Keyring:
    """
    The keys of a realm or of many.

    The newest sealing key whose time has come writes, every one reads. Lookup keys stay when sealing keys rotate: flows
    are found by them. A ring that came from a file, or was written to one, follows it: see `refresh`.

    Attributes:
        saved: Whether the ring is known to be in a file. One that is not is lost with the process, and with it every
            flow that it sealed.

    Raises:
        KeyringError: A key is short, missing or there twice; the message names it by its id.
    """

    def __init__(self, seal: tuple[Key, ...], lookup: tuple[Key, ...], *, saved: bool = False) -> None:
        self._hold(KeySet(seal=seal, lookup=lookup))
        self._path: Path | None = None
        self._mark: Mark | None = None
        self._complained_of: Mark | str | None = ""
        self.saved = saved

    def _hold(self, keys: KeySet) -> None:
        # Each of these is replaced at once: another thread may be sealing.
        self._ciphers: dict[tuple[bytes, str, str], AESGCM] = {}
        self._seal = {bytes.fromhex(key.id): key for key in keys.seal}
        self._lookup = keys.lookup
        self._writers = tuple(
            (bytes.fromhex(key.id), key, key.writes_from.timestamp() if key.writes_from else 0.0)
            for key in reversed(keys.seal)
        )
        self._keys = keys

    @property
    def keys(self) -> tuple[Key, ...]:
        """The sealing keys, oldest first."""
        return self._keys.seal

    @property
    def lookup_keys(self) -> tuple[Key, ...]:
        """The lookup keys, the one that writes first."""
        return self._keys.lookup

    @property
    def writes(self) -> Key:
        """The key that seals what is saved now."""
        return self._writer()[1]

    def _writer(self) -> tuple[bytes, Key, float]:
        if len(self._writers) > 1:
            now = time.time()
            for writer in self._writers:
                if writer[2] <= now:
                    return writer
        return self._writers[-1]

    def __repr__(self) -> str:
        # One that was refused half-way is shown as well, by whoever logs frames.
        return f"<Keyring {' '.join(key.id for key in self.keys) if hasattr(self, '_keys') else 'of nothing'}>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a keyring can't be pickled: write it to a file and read it where it is needed")

    # --- rotation

    def rotated(self, delay: timedelta = DELAY) -> Keyring:
        """A ring with one key more, which writes after the delay; in memory only, as all rings that are made anew."""
        keys = self._keys.rotated(datetime.now(UTC), delay)
        return Keyring(keys.seal, keys.lookup)

    def without(self, key_id: str) -> Keyring:
        """
        A ring without this sealing key; in memory only. What is sealed with the key can't be read with it.

        Raises:
            KeyringError: The key is not in the ring, it writes, or it is to write.
        """
        keys = self._keys.without(key_id, datetime.now(UTC))
        return Keyring(keys.seal, keys.lookup)

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
        self._follow(Path(path), key_file.write_new(Path(path), self._keys))

    @classmethod
    def from_file(cls, path: str | Path) -> Keyring:
        """
        The ring that was written to this file.

        Raises:
            KeyringError: It is missing, broken, or open to others than its owner.
        """
        keys, mark = key_file.read(Path(path))
        ring = cls(keys.seal, keys.lookup)
        ring._follow(Path(path), mark)
        return ring

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

    def _follow(self, path: Path, mark: Mark) -> None:
        self._path, self._mark, self.saved = path.absolute(), mark, True

    def refresh(self) -> bool:
        """
        Read the file again if it has changed, which costs one `stat` if it has not. -> whether the keys are others now

        Where the file is gone, broken or open to others, the ring keeps the keys that it has, and says so in the log,
        once for each such file.
        """
        if self._path is None:
            return False
        mark = key_file.mark_of(self._path)
        if mark is not None and mark == self._mark:
            return False
        try:
            keys, self._mark = key_file.read(self._path)
        except KeyringError as error:
            if mark != self._complained_of:
                ids = " ".join(key.id for key in self.keys)
                logger.warning("the keys stay %s, as their file can't be used any more: %s", ids, error)
            self._complained_of = mark
            return False
        self._complained_of = ""
        if keys == self._keys:
            return False
        self._hold(keys)
        logger.info("the keys are %s now", " ".join(key.id for key in self.keys))
        return True

    # --- bodies

    def seal(self, realm: str, flow_id: str, body: bytes, associated: bytes) -> bytes:
        """The body, readable only with this ring, as this flow's of this realm, and beside the same associated data."""
        key_id, key, _ = self._writer()
        nonce = _drawn()
        cipher = self._ciphers.get((key_id, realm, flow_id)) or self._cipher(key_id, key, realm, flow_id)
        return key_id + nonce + cipher.encrypt(nonce, body, associated)

    def open(self, realm: str, flow_id: str, sealed: bytes, associated: bytes) -> bytes:
        """
        What was sealed. For a key that is not in the ring, its file is looked at first.

        Raises:
            ValueError: It was changed; the message names the key.
            UnknownKeyError: Its key is not in the ring.
        """
        if len(sealed) < ID_BYTES + NONCE_BYTES + TAG_BYTES:
            raise ValueError("it is cut off")
        key_id = sealed[:ID_BYTES]
        key = self._seal.get(key_id)
        if key is None and self.refresh():
            key = self._seal.get(key_id)
        if key is None:
            raise UnknownKeyError(f"key {key_id.hex()} is not in the ring")
        nonce, body = sealed[ID_BYTES : ID_BYTES + NONCE_BYTES], sealed[ID_BYTES + NONCE_BYTES :]
        cipher = self._ciphers.get((key_id, realm, flow_id)) or self._cipher(key_id, key, realm, flow_id)
        try:
            return cipher.decrypt(nonce, body, associated)
        except InvalidTag:
            raise ValueError(f"it was changed, or is another record's (key {key.id})") from None

    def _cipher(self, key_id: bytes, key: Key, realm: str, flow_id: str) -> AESGCM:
        ciphers = self._ciphers
        if len(ciphers) >= CIPHERS:
            ciphers.clear()
        cipher = ciphers[key_id, realm, flow_id] = AESGCM(_flow_key(key, realm, flow_id))
        return cipher

    @staticmethod
    def key_of(sealed: bytes) -> str:
        """The id of the key that this was sealed with, by what it says itself; `""` if it is too short to say."""
        return sealed[:ID_BYTES].hex() if len(sealed) >= ID_BYTES else ""

    def write_id(self) -> bytes:
        """8 random bytes."""
        return _drawn()[:WRITE_ID_BYTES]

    # --- names

    def lookup(self, realm: str, purpose: str, name: str) -> bytes:
        """16 bytes that stand for a name; the same for every spelling of it."""
        return self._hash(self._lookup[0], realm, purpose, name)

    def lookups(self, realm: str, purpose: str, name: str) -> tuple[bytes, ...]:
        """The same under each lookup key of the ring, the one that writes first."""
        return tuple(self._hash(key, realm, purpose, name) for key in self._lookup)

    def digest(self, realm: str, purpose: str, text: str) -> bytes:
        """16 bytes that stand for exactly this text."""
        return self._lookup[0].mac(_message("exact", realm, purpose, text))[:LOOKUP_BYTES]

    @staticmethod
    def _hash(key: Key, realm: str, purpose: str, name: str) -> bytes:
        return key.mac(_message("lookup", realm, purpose, canonical(name)))[:LOOKUP_BYTES]


def _flow_key(key: Key, realm: str, flow_id: str) -> bytes:
    """HKDF-Expand to 32 bytes: one HMAC."""
    return key.mac(_message("flow", realm, flow_id) + b"\x01")
