"""What is counted across flows, and may not be too much: starts, and wrong codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from reset_flow.domain.flow import State
from reset_flow.domain.flow_data import FlowData
from reset_flow.domain.outcomes import Accepted, NotActed
from reset_flow.domain.state_machine import COMMANDS, Call
from reset_flow.ports import Charge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reset_flow.domain.flow_data import Intent
    from reset_flow.domain.outcomes import Outcome
    from reset_flow.domain.policy import Budget, Policy
    from reset_flow.persistence.keyring import Keyring

__all__ = ["Budgets", "Priced"]


class Priced(Struct, frozen=True, gc=False):
    """
    Flow data that is to be saved, and what that costs.

    Attributes:
        wish: Whether the last charge is for a reservation, without which the data is saved if there is none.
    """

    data: FlowData
    charges: tuple[Charge, ...] = ()
    wish: bool = False

    def without(self) -> Priced:
        """The same, its wish given up."""
        return Priced(replace(self.data, reserved=False), self.charges[:-1])


class Budgets:
    """
    The charges of one realm. Nobody's name is in them, only keyed hashes.

    A flow that asks for a code reserves the guess that it will take, so that nobody else can use up what it needs. A
    reservation is a use like any other: it is exchanged for one that counts from now on when a code is typed, and given
    back when no code will be.
    """

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

    def intended(self, data: FlowData, charges: Sequence[Charge] = ()) -> Priced:
        """With an intent that is not saved yet: a code that is to be typed is counted, whatever becomes of it."""
        assert data.intent is not None
        command = data.intent.command
        if command == "verify":
            # Taken back before it is counted anew: where the reservation still counts, this finds its place again.
            amounts = (-1, 1) if data.reserved else (1,)
            return Priced(replace(data, reserved=False), (*charges, *self._guess(data, *amounts)))
        if COMMANDS[command].call is Call.REQUEST and not data.reserved:
            return Priced(replace(data, reserved=True), (*charges, *self._guess(data, 1)), wish=True)
        return Priced(data, tuple(charges))

    def concluded(self, data: FlowData, intent: Intent, outcome: Outcome) -> Priced:
        """With the outcome of that intent: a code that was right, or never arrived, was no guess."""
        if intent.command != "verify":
            return self.kept(data)
        if isinstance(outcome, Accepted):
            return Priced(data, self._guess(data, -1))
        if isinstance(outcome, NotActed) and intent.sendings == 1:
            return Priced(replace(data, reserved=True))
        if data.state is State.QUESTION_ANSWERED:
            return Priced(replace(data, reserved=True), self._guess(data, 1), wish=True)
        return Priced(data)

    def kept(self, data: FlowData, charges: Sequence[Charge] = ()) -> Priced:
        """Without an intent: a flow in which no code may come next needs no reservation."""
        if data.reserved and data.state is not State.QUESTION_ANSWERED:
            return Priced(replace(data, reserved=False), (*charges, *self._guess(data, -1)))
        return Priced(data, tuple(charges))

    def _guess(self, data: FlowData, *amounts: int) -> tuple[Charge, ...]:
        budget, key = self._policy.codes_per_user, self._key("codes_per_user", self._canonical(data.user))
        return tuple([Charge(key=key, amount=amount, limit=budget.limit, window=budget.window) for amount in amounts])

    def _charge(self, name: str, whose: str, budget: Budget, amount: int) -> Charge:
        return Charge(key=self._key(name, whose), amount=amount, limit=budget.limit, window=budget.window)

    def _key(self, name: str, whose: str) -> bytes:
        return self._keyring.lookup(self._realm, name, whose)
