"""Bounds in time that hold on a machine that stalls: any step of a test may take many seconds more than it should."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from reset_flow import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta

Result = TypeVar("Result")

PATIENCE = 60.0
"""Seconds after which something that must happen is taken for hung."""
REDIS_OPTIONS: dict[str, Any] = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}
"""Of a test's own clients: redis-py's default is five seconds."""


async def takes_less_than(seconds: float, attempt: Callable[[], Awaitable[object]]) -> None:
    """Check that an attempt takes less time, by those that the machine did not hold up: one of them is enough."""
    now = asyncio.get_running_loop().time
    async with asyncio.timeout(PATIENCE):
        while True:
            began = now()
            await attempt()
            if now() - began < seconds:
                return


async def unhurried(call: Callable[[], Awaitable[Result]]) -> Result:
    """Repeat a call to a store with a short time-out until it gets through: the machine may stall for longer."""
    async with asyncio.timeout(5 * PATIENCE):
        while True:
            try:
                return await call()
            except StoreUnavailable:
                await asyncio.sleep(0.1)


def let_time_pass(time: timedelta) -> None:
    """Set the clock of the event loop forward: no deadline is too short for a slow machine, and none is waited for."""
    loop = asyncio.get_running_loop()
    now = loop.time
    loop.time = lambda: now() + time.total_seconds()  # type: ignore[method-assign]
