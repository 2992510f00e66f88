"""
One command, from the record as it is loaded to the record as it is saved.

Load, ask the rules and the guards, save the intent, call, let the rules turn the outcome into transitions, save. What
comes after the first save runs in a task of the cycle's own: a caller who goes away leaves no doubt behind.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import attrs

from reset_flow import rules
from reset_flow.errors import (
    FlowBusy,
    InputRejected,
    OutcomeInDoubt,
    ResetFlowError,
    StaleRecord,
    StoreUnavailable,
    WrongBroker,
)
from reset_flow.machine import COMMANDS, Call
from reset_flow.models import Accepted, Credential, NewCredential, NotActed, Outcome, Secret, Unknown
from reset_flow.ports import Case
from reset_flow.verdicts import verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from datetime import datetime, timedelta

    from reset_flow.archive import Archive, Found
    from reset_flow.dossier import Dossier
    from reset_flow.models import Flow
    from reset_flow.policy import Policy
    from reset_flow.ports import Charge, Guard, Record, Transport

__all__ = ["Cycle"]

T = TypeVar("T")
Given: TypeAlias = Secret | NewCredential | InputRejected | None
"""What came with a command: fit to be sent, or the error that says why it is not."""

SETTLED_BY_ASKING = frozenset({"answer", "resend", "verify"})
"""Commands that a person repeats to learn what became of the first: the same again is not sent again."""

logger = logging.getLogger("reset_flow")

RACES = 5
"""How often a command that lost the race for a save looks again at what the winner left."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two tries to save an outcome; doubled each time, and jittered."""


class Cycle:
    """Carries out commands on the flows of one service."""

    def __init__(
        self,
        transport: Transport,
        archive: Archive,
        policy: Policy,
        now: Callable[[], datetime],
        guards: Sequence[Guard],
    ) -> None:
        self._transport = transport
        self._archive = archive
        self._policy = policy
        self._now = now
        self._guards = tuple(guards)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    # --- the commands

    async def run(self, flow_id: str, command: str, given: Given = None) -> Flow:
        """
        Carry out a command that is not about making a flow.

        Raises:
            ResetFlowError: The flow did not move on; it is attached as it now stands.
        """
        for _ in range(RACES):
            try:
                dossier, flow = await self._ready(flow_id, command, given)
                if flow:
                    return flow
                if COMMANDS[command].call is None:
                    return await self.keep(rules.cancel(dossier, self._now()))
                secret = given if isinstance(given, Secret) else None
                new = given if isinstance(given, NewCredential) else None
                return await self.send(rules.announce(dossier, command, self._now(), secret), new)
            except StaleRecord as error:
                stale = error
        raise stale.with_flow(self.view((await self._archive.load(flow_id)).dossier))

    async def resume(self, flow_id: str) -> Dossier:
        """The dossier, with nothing left open that can be settled now."""
        for _ in range(RACES):
            try:
                found = await self._archive.load(flow_id)
                dossier = await self._settled(found)
                now = self._now()
                if rules.expired(dossier, self._policy, now):
                    dossier = await self._own(self._save(rules.expire(dossier, now)))
            except StaleRecord as error:
                stale = error
            else:
                return dossier
        raise stale

    async def look(self, flow_id: str) -> Flow:
        """The flow as it stands. One whose time is up is ended first, unless a call of it may still be under way."""
        dossier = (await self._archive.load(flow_id)).dossier
        if dossier.intent is None and rules.expired(dossier, self._policy, self._now()):
            dossier = await self.resume(flow_id)
        return self.view(dossier)

    async def send(self, intended: Dossier, new: NewCredential | None = None) -> Flow:
        """
        Save an intent that is not saved yet, and carry it out.

        Raises:
            StaleRecord: The flow has moved since it was loaded; nothing was sent.
        """
        return await self._own(self._send(intended, new))

    async def keep(self, dossier: Dossier) -> Flow:
        """Save what needs no call."""
        return self.view(await self._own(self._save(dossier)))

    def view(self, dossier: Dossier) -> Flow:
        """What the embedder sees of it."""
        return rules.view(dossier, self._policy)

    async def aclose(self, patience: timedelta) -> None:
        """Wait for what is under way. What is not done by then is left to whoever opens the store next."""
        self._closing = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience.total_seconds())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- before the intent

    async def _ready(self, flow_id: str, command: str, given: Given) -> tuple[Dossier, Flow | None]:
        """The dossier that the command may come for; with a flow where settling a doubt was all that it asked for."""
        found = await self._archive.load(flow_id)
        intent = found.dossier.intent
        self._check_broker(found.dossier)
        dossier = await self._settled(found)
        try:
            if intent and intent.command == command and intent.secret == given and command in SETTLED_BY_ASKING:
                fired = dossier.history[len(found.dossier.history) :]
                if error := verdict(command, Unknown(), fired):
                    raise error
                return dossier, self.view(dossier)
            now = self._now()
            if rules.expired(dossier, self._policy, now):
                dossier = await self._own(self._save(rules.expire(dossier, now)))
            rules.admit(dossier, command, self._policy, now)
            rules.check_input(dossier, command, given)
            for guard in self._guards:
                await guard(self.view(dossier), command)
        except StaleRecord:
            raise
        except ResetFlowError as error:
            error.with_flow(self.view(dossier))
            raise
        return dossier, None

    def _check_broker(self, dossier: Dossier) -> None:
        if dossier.transport != self._transport.name:
            message = f"flow {dossier.id} belongs to {dossier.transport}, not to {self._transport.name}"
            raise WrongBroker(message).with_flow(self.view(dossier))

    async def _settled(self, found: Found) -> Dossier:
        """
        The dossier without an intent.

        Raises:
            FlowBusy: The intent may still be under way.
        """
        dossier, left = found.dossier, found.lease_left
        if dossier.intent is None:
            return dossier
        if left is not None and left.total_seconds() > 0:
            raise FlowBusy(dossier.id, dossier.intent.command).with_flow(self.view(dossier))
        return await self._own(self._settle(dossier))

    # --- in a task of its own, from the first save on

    async def _own(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, ResetFlowError):
            logger.error("a command broke off: %s", type(error).__name__)

    async def _save(self, dossier: Dossier, charges: Sequence[Charge] = ()) -> Dossier:
        record = self._archive.record(dossier)
        await self._archive.save(record, charges)
        return attrs.evolve(dossier, version=record.version)

    async def _save_at_last(self, dossier: Dossier) -> Dossier:
        """Save what must not be lost: again and again until the store takes it or the service closes."""
        record: Record = self._archive.record(dossier)
        pause = FIRST_PAUSE
        while True:
            try:
                await self._archive.save(record)
            except StoreUnavailable:
                if self._closing:
                    raise
                logger.warning("flow %s: the store does not take an outcome, trying again", dossier.id)
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                return attrs.evolve(dossier, version=record.version)

    async def _send(self, intended: Dossier, new: NewCredential | None) -> Flow:
        began = time.monotonic()
        dossier = await self._save(intended)
        try:
            dossier, error = await self._carry_out(dossier, new, began)
        except StaleRecord:
            # Not to be tried again: it was sent. Somebody took this worker for dead and settled what it had begun.
            dossier = (await self._archive.load(dossier.id)).dossier
            error = OutcomeInDoubt("another worker has settled this call meanwhile, as the flow now shows")
        if error:
            raise error.with_flow(self.view(dossier))
        return self.view(dossier)

    async def _settle(self, dossier: Dossier) -> Dossier:
        """Find out, or say in doubt, what became of an intent whose lease has run out."""
        intent = dossier.intent
        assert intent is not None
        if rules.expired(dossier, self._policy, self._now()) or intent.secret is None or not rules.repeatable(intent):
            gone = Unknown(detail="the process that sent it is gone")
            return (await self._conclude(dossier, gone))[0]
        return (await self._repeat(dossier, None))[0]

    async def _carry_out(
        self, dossier: Dossier, new: NewCredential | None, began: float
    ) -> tuple[Dossier, ResetFlowError | None]:
        """Send an intent that is saved, once more if nobody knows what came of it, and save what did."""
        outcome = await self._ask(dossier, new, began)
        assert dossier.intent is not None
        if isinstance(outcome, Unknown) and rules.repeatable(dossier.intent):
            return await self._repeat(dossier, new)
        return await self._conclude(dossier, await self._probed(dossier, outcome, new, began))

    async def _repeat(self, dossier: Dossier, new: NewCredential | None) -> tuple[Dossier, ResetFlowError | None]:
        """Each sending is an intent of its own, with a lease of its own."""
        began = time.monotonic()
        dossier = await self._save_at_last(rules.announce(dossier, "", self._now()))
        return await self._carry_out(dossier, new, began)

    async def _conclude(self, dossier: Dossier, outcome: Outcome) -> tuple[Dossier, ResetFlowError | None]:
        assert dossier.intent is not None
        resolved = rules.resolve(dossier, outcome, self._policy, self._now())
        saved = await self._save_at_last(resolved)
        return saved, verdict(dossier.intent.command, outcome, saved.history[len(dossier.history) :])

    async def _ask(self, dossier: Dossier, new: NewCredential | None, began: float) -> Outcome:
        """One sending. Whatever a transport does against its contract is an outcome too."""
        if not self._in_time(began):
            return NotActed(detail="the lease of the call ran out before it began")
        try:
            async with asyncio.timeout(2 * self._transport.deadline.total_seconds()):
                return await self._call(dossier, new)
        except Exception as error:  # noqa: BLE001 - a transport of somebody else's may raise anything
            return Unknown(detail=type(error).__name__)

    def _in_time(self, began: float) -> bool:
        """Whether a whole deadline fits into what is left of a lease that was asked for then."""
        left = self._policy.lease.total_seconds() - (time.monotonic() - began)
        return left > self._transport.deadline.total_seconds()

    async def _call(self, dossier: Dossier, new: NewCredential | None) -> Outcome:
        intent, case = dossier.intent, self.case(dossier)
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

    async def _probed(self, dossier: Dossier, outcome: Outcome, new: NewCredential | None, began: float) -> Outcome:
        """The outcome; but a password whose setting would stay in doubt is tried by one log-in, which can prove it."""
        may = self._policy.probe_by_login and dossier.credential is Credential.PASSWORD and self._in_time(began)
        if new is None or not may or not rules.leaves_password_in_doubt(dossier, outcome):
            return outcome
        try:
            proof = await self._transport.log_in(self.case(dossier), new.secret)
        except Exception:  # noqa: BLE001 - see `_ask`
            return outcome
        return Accepted() if isinstance(proof, Accepted) else outcome

    @staticmethod
    def case(dossier: Dossier) -> Case:
        """What the transport may know of the flow."""
        return Case(user=dossier.user, credential=dossier.credential, continuation=dossier.continuation)
