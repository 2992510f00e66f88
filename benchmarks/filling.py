"""
Fill stores with many flows. Each is a copy of one that was really carried out, with an id, a login and times of its
own, sealed and saved by the library's own code.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sys
import time
from base64 import b32hexencode
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import attrs
from msgspec.structs import replace

from benchmarks.processes import pin_driver
from benchmarks.subjects import ANSWER, CODE, PASSWORD, service
from reset_flow import Keyring, MemoryStore, Policy, Use, open_store
from reset_flow.persistence.repository import FlowRepository

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reset_flow import Store
    from reset_flow.domain.flow_data import FlowData

__all__ = ["KINDS", "REALM", "Filler", "identity", "running_among", "tag_of"]

REALM = "default"
RUNNING = 10
"""One of so many flows still runs: far more than in practice, where a flow runs for an hour and is kept for a month."""

FLOWS_BY_TAG = 10
KINDS = ("stored", "due", "old")
"""Flows that are only there; that expired a while ago; whose retention is over."""

AT_ONCE = 512
MONTH = timedelta(days=29)


def identity(kind: str, number: int) -> str:
    """Return the id of a flow: reproducible, and scattered like a real one."""
    return b32hexencode(sha256(f"{kind} {number}".encode()).digest()[:16]).decode().rstrip("=").lower()


def running_among(first: int, last: int) -> list[int]:
    """Return the numbers of the stored flows that still run."""
    return [number for number in range(first, last) if number % RUNNING == 0]


def tag_of(number: int) -> str:
    """Return the tag of a flow, which nine others have, too."""
    return f"tag {number // FLOWS_BY_TAG}"


@attrs.frozen
class Filler:
    """
    Saves copies.

    Attributes:
        begun, ended: The originals: a flow that expects an answer, and one that has ended.
    """

    store: Store
    repository: FlowRepository
    keyring: Keyring
    begun: FlowData
    ended: FlowData

    @classmethod
    async def over(cls, store: Store, root: str, keys: str) -> Filler:
        """Return a filler for this store. Carry out one flow in another store, as the original of the copies."""
        keyring, lease = Keyring.load_or_create(keys), Policy().lease
        memory = MemoryStore()
        beside = FlowRepository(memory, keyring, REALM, lease)
        async with service(root, memory, keys=keys, sweep=False) as model:
            flow = await model.start("model", tags=["model"])
            begun = (await beside.load(flow.id)).flow
            await model.answer(flow.id, ANSWER)
            await model.verify(flow.id, CODE)
            await model.set_password(flow.id, PASSWORD)
            ended = (await beside.load(flow.id)).flow
        return cls(store, FlowRepository(store, keyring, REALM, lease), keyring, begun, ended)

    async def fill(self, kind: str, first: int, last: int) -> None:
        """Save the flows of a kind with these numbers, in batches."""
        copies = self._copies(kind, first, last)
        while batch := [copy for _, copy in zip(range(AT_ONCE), copies, strict=False)]:
            await asyncio.gather(*(self._save(copy) for copy in batch))

    async def _save(self, flow: FlowData) -> None:
        uses = []
        if flow.ended_at is None:
            key, write_id = self.keyring.lookup(REALM, "starts_per_user", flow.user), os.urandom(8)
            uses.append(Use(key=key, id=write_id, limit=20, window=timedelta(hours=1)))
        await self.repository.save(self.repository.record(flow), uses)

    def _copies(self, kind: str, first: int, last: int) -> Iterator[FlowData]:
        now = datetime.now(UTC)
        for number in range(first, last):
            runs = kind == "due" or (kind == "stored" and number % RUNNING == 0)
            model = self.begun if runs else self.ended
            if kind == "due":
                expires = now - timedelta(minutes=5)
            elif runs:
                expires = now + timedelta(hours=random.uniform(12, 13))  # noqa: S311 - expires only after the measurement
            else:
                expires = now - (MONTH * random.random() if kind == "stored" else 40 * timedelta(days=1))  # noqa: S311
            yield replace(
                model,
                id=identity(kind, number),
                version=0,
                write_id=b"",
                user=f"{kind}{number}@example.com",
                created_at=expires - timedelta(hours=1),
                expires_at=expires,
                ended_at=None if runs else expires - timedelta(minutes=55),
                lookups=(self.keyring.lookup(REALM, "tag", tag_of(number)),) if kind == "stored" else (),
            )


async def _fill(url: str, root: str, keys: str, *, kind: str, first: int, last: int) -> dict[str, Any]:
    store = open_store(url)
    began = time.perf_counter()
    await (await Filler.over(store, root, keys)).fill(kind, first, last)
    await store.aclose()
    return {"flows": last - first, "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    pin_driver()
    logging.getLogger("reset_flow").setLevel(logging.ERROR)  # the report names the durability of Redis
    print(json.dumps(asyncio.run(_fill(**json.loads(sys.argv[1])))))
