"""Chance histories of guesses, in which workers crash and time passes."""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from reset_flow import ResetFlowError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from reset_flow import Policy
    from reset_flow.testing import FrozenClock
    from tests.service.conftest import House, ScriptedWorker

DAY, HOUR, TICK = timedelta(hours=24), timedelta(hours=1), timedelta(microseconds=1)
COUNTS = HOUR + DAY
"""How long the guesses of a flow count from its start: for a day after it must have ended."""


class ChanceHistory:
    """Acts at random on the flows of one user."""

    worker: ScriptedWorker

    def __init__(self, house: House, clock: FrozenClock, policy: Policy, seed: int) -> None:
        self.house, self.clock, self.policy = house, clock, policy
        self.random = random.Random(seed)  # noqa: S311 - so that a failure can be repeated
        self.flows: list[str] = []
        self.codes = 0
        self.started: dict[str, datetime] = {}
        self.typed_into: dict[str, str] = {}
        self.right: set[str] = set()
        self.refused = Counter[str]()
        self.hires()

    def hires(self) -> None:
        raise NotImplementedError

    def acts(self) -> list[tuple[int, Callable[[], Awaitable[object]]]]:
        """Return what may happen besides, each with its weight."""
        raise NotImplementedError

    async def start(self) -> None:
        raise NotImplementedError

    async def crash(self) -> None:
        raise NotImplementedError

    def has_started(self, flow_id: str) -> None:
        self.flows.append(flow_id)
        self.started[flow_id] = self.clock()

    def types(self) -> tuple[str, str]:
        """Return a flow and a code that nobody has typed before."""
        self.codes += 1
        code = f"{self.codes:06d}"
        self.typed_into[code] = self.random.choice(self.flows)
        return self.typed_into[code], code

    def user(self) -> str:
        return self.random.choice(["robert.zak", "Robert.Zak", " ROBERT.ZAK "])

    async def move(self, command: str) -> None:
        await getattr(self.worker.service, command)(self.random.choice(self.flows))

    async def sweep(self) -> None:
        await self.worker.service.sweep()

    async def pause(self, shortest: float, longest: float) -> None:
        self.clock.advance(timedelta(minutes=self.random.uniform(shortest, longest)))

    async def step(self) -> None:
        acts: list[tuple[int, Callable[[], Awaitable[object]]]] = [
            *self.acts(),
            (1, lambda: self.move("resend")),
            (1, lambda: self.move("cancel")),
            (1, self.crash),
            (1, self.sweep),
            (2, lambda: self.pause(0, 15)),
            (1, lambda: self.pause(20, 58)),
            (1, lambda: self.pause(60, 26 * 60)),
        ]
        (act,) = self.random.choices([act for _, act in acts], [weight for weight, _ in acts])
        try:
            await (act() if self.flows else self.start())
        except ResetFlowError as error:
            self.refused[error.code] += 1
        self.flows = self.flows[-6:]

    def counted_until(self, sent: Iterable[str]) -> list[datetime]:
        """Return until when each wrong code counts that does: a day after its flow must have ended."""
        ends = [self.started[self.typed_into[code]] + COUNTS for code in sent if code not in self.right]
        return [end for end in ends if end > self.clock()]
