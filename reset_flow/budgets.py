"""What is counted across flows: starts, wrong codes, and whether the wrong ones are too many to be honest."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING

from reset_flow.ports import Charge

if TYPE_CHECKING:
    from collections.abc import Callable

    from reset_flow.policy import Budget, Policy
    from reset_flow.sealing import Keyring

__all__ = ["Alarm", "Budgets"]

logger = logging.getLogger("reset_flow")

REMEMBERED = 10_000


class Budgets:
    """The charges of one realm. Nobody's name is in them, only keyed hashes."""

    def __init__(self, keyring: Keyring, realm: str, policy: Policy, canonical_user: Callable[[str], str]) -> None:
        self._keyring = keyring
        self._realm = realm
        self._policy = policy
        self._canonical = canonical_user

    def start(self, user: str, origin: str | None) -> tuple[Charge, ...]:
        """For a new flow; never taken back."""
        canonical = self._canonical(user)
        charges = [self._charge("starts_per_user", canonical, self._policy.starts_per_user, 1)]
        if origin is not None:
            both = f"{len(origin)} {origin} {canonical}"
            charges.append(self._charge("starts_per_origin", both, self._policy.starts_per_origin, 1))
        return tuple(charges)

    def guess(self, user: str) -> tuple[Charge, ...]:
        """For a code, before it is sent."""
        return (self._charge("codes_per_user", self._canonical(user), self._policy.codes_per_user, 1),)

    def no_guess(self, user: str) -> tuple[Charge, ...]:
        """For a code that was right, or never arrived."""
        return (self._charge("codes_per_user", self._canonical(user), self._policy.codes_per_user, -1),)

    def _charge(self, name: str, whose: str, budget: Budget, amount: int) -> Charge:
        key = self._keyring.lookup(self._realm, name, whose)
        return Charge(key=key, amount=amount, limit=budget.limit, window=budget.window)


class Alarm:
    """Whether the wrong codes that this worker saw are too many to be honest."""

    def __init__(self, policy: Policy) -> None:
        self._rule = policy.guess_alarm
        self._wrong: deque[float] = deque(maxlen=REMEMBERED)
        self._right: deque[float] = deque(maxlen=REMEMBERED)
        self.on = False

    def saw(self, *, right: bool) -> bool:
        """Note a code that the broker judged. -> whether the alarm went on by it"""
        if self._rule is None:
            return False
        now = time.monotonic()
        (self._right if right else self._wrong).append(now)
        for seen in (self._right, self._wrong):
            while seen and seen[0] <= now - self._rule.window.total_seconds():
                seen.popleft()
        before = self.on
        self.on = len(self._wrong) > max(self._rule.at_least, self._rule.share * len(self._right))
        if self.on and not before:
            logger.error(
                "guess alarm: %d wrong codes and %d right ones within %s",
                len(self._wrong), len(self._right), self._rule.window,
            )  # fmt: skip
        return self.on and not before
