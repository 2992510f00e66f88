"""
A process that carries out one command and dies by SIGKILL at one named point of it.

Its job comes as JSON on standard input. The points are `before` and `after` each thing that is awaited: `load`, `save`
and the transport's calls, numbered as they come, such as `after save 2` or `before exchange 1`. A job without a point
prints the points that it passed and the error that it was told, and lives.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import warnings
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from reset_flow import EtnaTransport, Keyring, Policy, ResetFlowError, ResetService, open_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

AWAITED = ("load", "save", "challenge", "request", "exchange", "update", "log_in")


PASSED: list[str] = []
COUNTS: Counter[str] = Counter()


class Doomed:
    """Stands before a store or a transport, and kills the process at the point."""

    def __init__(self, inner: Any, point: str | None) -> None:
        self._inner = inner
        self._point = point

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._inner, name)
        return self._watched(name, inner) if name in AWAITED else inner

    def _watched(self, name: str, inner: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            COUNTS[name] += 1
            number = COUNTS[name]
            self._reach(f"before {name} {number}")
            try:
                return await inner(*args, **kwargs)
            finally:
                self._reach(f"after {name} {number}")

        return call

    def _reach(self, point: str) -> None:
        PASSED.append(point)
        if point == self._point:
            os.kill(os.getpid(), signal.SIGKILL)


async def main(job: dict[str, Any]) -> None:
    warnings.simplefilter("error")
    transport = EtnaTransport(job["broker"], "sandbox", deadline=timedelta(seconds=job["deadline"]))
    policy = Policy(lease=timedelta(seconds=job["lease"]), resend_cooldown=timedelta(0))
    point = job["point"]
    service = ResetService(
        Doomed(transport, point), Doomed(open_store(job["store"]), point), Keyring.from_file(job["keys"]),
        policy=policy, sweep=False,
    )  # fmt: skip
    told = ""
    async with service:
        try:
            await getattr(service, job["command"])(*job["args"], **job["options"])
        except ResetFlowError as error:
            if point is not None:
                raise
            told = error.code
    json.dump({"passed": PASSED, "told": told}, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(json.load(sys.stdin)))
