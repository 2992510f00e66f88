"""
Sealing of stored flows, and the hashes by which they are found.

A sealed body is the id of the key (4 bytes), a random nonce (12) and the AES-256-GCM ciphertext (16 more than the
body). HKDF-Expand (RFC 5869) derives a key for each flow, so no key encrypts more than the few saves of one flow.
"""

from __future__ import annotations

import hmac
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from reset_flow.deadlines import uptime
from reset_flow.domain.errors import KeyringError
from reset_flow.domain.secret import Unpicklable
from reset_flow.domain.text import canonical
from reset_flow.persistence import key_file
from reset_flow.persistence.key_file import DELAY, ID_BYTES, KEY_BYTES, Key, KeySet

if TYPE_CHECKING:
    from datetime import timedelta

    from reset_flow.persistence.key_file import FileVersion

NONCE_BYTES = 12
TAG_BYTES = 16
LOOKUP_BYTES = 16
MAX_CIPHERS = 1024
"""Flows whose derived key is cached: a command opens once and seals twice."""
LOOK_INTERVAL = 2.0
"""Seconds after which a ring looks at its file again before it seals."""

logger = logging.getLogger("reset_flow")


class UnknownKeyError(ValueError):
    """A body was sealed with a key that the ring does not have."""


def flow_key(key: Key, realm: str, flow_id: str) -> bytes:
    """Derive the key of one flow."""
    return HKDFExpand(SHA256(), KEY_BYTES, _message("flow", realm, flow_id)).derive(key.secret)


def _hash(key: Key, *parts: str) -> bytes:
    return hmac.digest(key.secret, _message(*parts), "sha256")[:LOOKUP_BYTES]


def _message(*parts: str) -> bytes:
    """Join the parts, each behind its length, so that different lists of parts give different bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in (text.encode() for text in parts))


class Keyring(Unpicklable):
    """
    The keys of one realm or several.

    The newest sealing key that may write seals, and every sealing key opens. Flows are found by lookup keys, which stay
    when sealing keys rotate. A ring that was read from a file, or written to one, follows it: it looks at the file
    every few seconds before it seals, so it never goes on sealing with a key that was removed.

    Attributes:
        saved: Whether the ring is in a file. One that is not is lost with the process, and all that it sealed with it.

        shared: Whether others may read its file.

    Raises:
        KeyringError: A key is short, missing or there twice; the message names it by its id.
    """

    refusal: ClassVar[str] = "a keyring can't be pickled: write it to a file and read it where it is needed"

    def __init__(self, seal: tuple[Key, ...], lookup: tuple[Key, ...], *, saved: bool = False) -> None:
        self._keys = KeySet(seal=seal, lookup=lookup)
        self._ciphers: dict[tuple[str, str, str], AESGCM] = {}
        self._path: Path | None = None
        self.shared = False
        self._version: FileVersion | None = None
        self._look_at = 0.0
        self._writer = self.writes  # as of the last look
        self._reported = ""
        self.saved = saved

    @property
    def keys(self) -> tuple[Key, ...]:
        """The sealing keys, oldest first."""
        return self._keys.seal

    @property
    def lookup_keys(self) -> tuple[Key, ...]:
        """The lookup keys, the one that writes first."""
        return self._keys.lookup

    @property
    def key_set(self) -> KeySet:
        """All keys of the ring: the same object for as long as they stay the same."""
        return self._keys

    @property
    def writes(self) -> Key:
        """The key that seals now."""
        return self._keys.writer

    def __repr__(self) -> str:
        keys = self.keys if hasattr(self, "_keys") else ()  # a traceback may show a ring whose keys were refused
        return f"<Keyring {' '.join(key.id for key in keys)}>"

    def rotated(self, delay: timedelta = DELAY) -> Keyring:
        """Return another ring, in memory only, with one key more, which writes after the delay."""
        keys = self._keys.rotated(delay)
        return Keyring(keys.seal, keys.lookup)

    def without(self, key_id: str) -> Keyring:
        """Return another ring, in memory, without this sealing key. Raises KeyringError if it writes or will write."""
        keys = self._keys.without(key_id)
        return Keyring(keys.seal, keys.lookup)

    @classmethod
    def generate(cls) -> Keyring:
        """Make a new ring, in memory only: write it to a file if flows are to outlive the process."""
        return cls((Key.generate(),), (Key.generate(),))

    def to_file(self, path: str | Path, *, shared: bool = False) -> None:
        """
        Write the ring to a new file with mode 0600.

        Args:
            shared: Accept a file system where others can read it all the same.

        Raises:
            KeyringError: The file exists (flows may be sealed with its keys), or can't be written.
        """
        key_file.write_new(Path(path), self._keys, shared=shared)
        self._path, self.shared, self.saved = Path(path).absolute(), shared, True

    @classmethod
    def from_file(cls, path: str | Path, *, shared: bool = False) -> Keyring:
        """
        Read a ring from a file.

        Args:
            shared: Accept a file that others can read. One on a read-only mount, or that only a group of this process
                can read, is always accepted. Either is warned of once.

        Raises:
            KeyringError: It is missing, broken, or open to others: they can read it, or they can write it, its folder
                or a link on the way to it.
        """
        version = key_file.version_of(Path(path))  # before it is read: what changes meanwhile is then read again
        keys = key_file.read(Path(path), shared=shared)
        ring = cls(keys.seal, keys.lookup, saved=True)
        ring._path, ring.shared, ring._version = Path(path).absolute(), shared, version
        return ring

    @classmethod
    def load_or_create(cls, path: str | Path, *, shared: bool = False) -> Keyring:
        """
        Read the ring of this file; make the file if there is none. Of several processes, one makes it.

        It can't know whether a store is sealed with keys that are lost: `from_env` asks it before.
        """
        try:
            if not os.path.exists(path):  # noqa: PTH110 - never raises
                cls.generate().to_file(path, shared=shared)
        except KeyringError:
            if not os.path.exists(path):  # noqa: PTH110
                raise
        key_file.await_content(Path(path))
        return cls.from_file(path, shared=shared)

    def refresh(self) -> bool:
        """
        Read the file again if it has changed; a `stat` tells. Return True if the keys have changed.

        If the file is missing, broken or open to others, or shares no lookup key with the ring, the ring keeps its
        keys and logs one warning.
        """
        self._writer = self.writes
        if self._path is None:
            return False
        version = key_file.version_of(self._path)
        if version is not None and version == self._version:
            return False
        try:
            keys, self._version = self._read_again(self._path), version
        except KeyringError as error:
            if str(error) != self._reported:
                ids = " ".join(key.id for key in self.keys)
                logger.warning("the key file can't be used, so the keys stay %s: %s", ids, error)
            self._reported = str(error)
            return False
        self._reported = ""
        if keys == self._keys:
            return False
        self._keys, self._ciphers, self._writer = keys, {}, keys.writer
        logger.info("the keys are now %s", " ".join(key.id for key in self.keys))
        return True

    def _read_again(self, path: Path) -> KeySet:
        keys = key_file.read(path, shared=self.shared)
        if set(self.lookup_keys).isdisjoint(keys.lookup):
            raise KeyringError(f"{path} has the keys of another ring: put the right file back")
        return keys

    def seal(self, realm: str, flow_id: str, body: bytes, associated: bytes) -> bytes:
        """Encrypt a body with the key that writes now, to be opened with the same realm, flow and associated data."""
        if (now := uptime()) >= self._look_at:
            self._look_at = now + LOOK_INTERVAL
            self.refresh()
        key, nonce = self._writer, os.urandom(NONCE_BYTES)
        return bytes.fromhex(key.id) + nonce + self._cipher(key, realm, flow_id).encrypt(nonce, body, associated)

    def open(self, realm: str, flow_id: str, sealed: bytes, associated: bytes) -> bytes:
        """
        Decrypt a body.

        Raises:
            ValueError: The body was changed, or belongs to another record; the message names the key.
            UnknownKeyError: The key is not in the ring, nor in its file.
        """
        if len(sealed) < ID_BYTES + NONCE_BYTES + TAG_BYTES:
            raise ValueError("it is cut off")
        key_id = self.key_of(sealed)
        key = self._keys.find(key_id)
        if key is None and self.refresh():
            key = self._keys.find(key_id)
        if key is None:
            raise UnknownKeyError(f"key {key_id} is not in the ring")
        nonce, body = sealed[ID_BYTES : ID_BYTES + NONCE_BYTES], sealed[ID_BYTES + NONCE_BYTES :]
        try:
            return self._cipher(key, realm, flow_id).decrypt(nonce, body, associated)
        except InvalidTag:
            raise ValueError(f"it was changed, or is another record's (key {key_id})") from None

    def _cipher(self, key: Key, realm: str, flow_id: str) -> AESGCM:
        ciphers = self._ciphers  # `refresh` in another thread may replace it
        name = (key.id, realm, flow_id)
        if (cipher := ciphers.get(name)) is None:
            if len(ciphers) >= MAX_CIPHERS:
                ciphers.clear()
            cipher = ciphers[name] = AESGCM(flow_key(key, realm, flow_id))
        return cipher

    @staticmethod
    def key_of(sealed: bytes) -> str:
        """Return the id of the key in front of a sealed body; `""` if the body is too short."""
        return sealed[:ID_BYTES].hex() if len(sealed) >= ID_BYTES else ""

    def lookup(self, realm: str, purpose: str, name: str) -> bytes:
        """Hash a name to 16 bytes, equal for all its spellings, with the lookup key that writes."""
        return self.lookups(realm, purpose, name)[0]

    def lookups(self, realm: str, purpose: str, name: str) -> tuple[bytes, ...]:
        """Hash a name with each lookup key, the one that writes first."""
        text = canonical(name).strip()
        return tuple(_hash(key, "lookup", realm, purpose, text) for key in self._keys.lookup)

    def digest(self, realm: str, purpose: str, text: str) -> bytes:
        """Hash exactly this text to 16 bytes, with the lookup key that writes."""
        return _hash(self._keys.lookup[0], "exact", realm, purpose, text)
