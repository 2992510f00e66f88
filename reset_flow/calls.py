"""One sending to the broker: never raises, never outlives the lease that was saved for it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from reset_flow import rules
from reset_flow.machine import COMMANDS, Call
from reset_flow.models import Accepted, Credential, NotActed, Outcome, Unknown
from reset_flow.ports import Case

if TYPE_CHECKING:
    from reset_flow.dossier import Dossier
    from reset_flow.models import NewCredential
    from reset_flow.policy import Policy
    from reset_flow.ports import Transport

__all__ = ["Caller", "case_of"]

GRACE = 1.25
"""How many deadlines a transport may take before it is cut off; one of ours never takes more than one."""


def case_of(dossier: Dossier) -> Case:
    """What the transport may know of the flow."""
    return Case(user=dossier.user, credential=dossier.credential, continuation=dossier.continuation)


class Caller:
    """Sends what intents announce."""

    def __init__(self, transport: Transport, policy: Policy) -> None:
        self._transport = transport
        self._deadline = transport.deadline.total_seconds()
        self._lease = policy.lease.total_seconds()
        self._may_log_in = policy.probe_by_login
        self.name = transport.name

    async def send(self, dossier: Dossier, new: NewCredential | None, began: float) -> Outcome:
        """
        Send once what the intent says; a password that this leaves in doubt is tried by one log-in, which can prove it.

        Args:
            began: `time.monotonic()` before the intent was saved.
        """
        outcome = await self._sent(dossier, new, began)
        assert dossier.intent is not None
        again = isinstance(outcome, Unknown) and new is not None and rules.repeatable(dossier.intent)
        if new is None or again or not rules.leaves_password_in_doubt(dossier, outcome):
            return outcome
        if not (self._may_log_in and dossier.credential is Credential.PASSWORD and self._in_time(began)):
            return outcome
        try:
            async with asyncio.timeout(self._deadline * GRACE):
                proof = await self._transport.log_in(case_of(dossier), new.secret)
        except Exception:  # noqa: BLE001 - see `_sent`
            return outcome
        return Accepted() if isinstance(proof, Accepted) else outcome

    async def _sent(self, dossier: Dossier, new: NewCredential | None, began: float) -> Outcome:
        if not self._in_time(began):
            return NotActed(detail="the lease ran out before the call began")
        try:
            async with asyncio.timeout(self._deadline * GRACE):
                return await self._call(dossier, new)
        except Exception as error:  # noqa: BLE001 - a transport of somebody else's may raise anything
            return Unknown(detail=type(error).__name__)

    def _in_time(self, began: float) -> bool:
        """Whether a whole deadline fits into what is left of the lease."""
        return self._lease - (time.monotonic() - began) > self._deadline

    async def _call(self, dossier: Dossier, new: NewCredential | None) -> Outcome:
        intent, case = dossier.intent, case_of(dossier)
        assert intent is not None
        match COMMANDS[intent.command].call:
            case Call.REQUEST:
                answer = dossier.answer if intent.command == "resend" else intent.secret
                return await self._transport.request(case, answer)
            case Call.EXCHANGE:
                assert intent.secret is not None
                return await self._transport.exchange(case, intent.secret)
            case _:
                assert dossier.token is not None
                assert new is not None
                return await self._transport.update(case, dossier.token, new)
