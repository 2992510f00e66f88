"""
One command, from the record as it is loaded to the record as it is saved.

Load, ask the rules and the guards, save the intent, call, let the rules turn the outcome into transitions, save, tell
the listeners. All from the first save on runs in a task of the cycle's own: a caller who goes away leaves no doubt.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import attrs

from reset_flow.domain import rules
from reset_flow.domain.error_mapping import recorded, verdict
from reset_flow.domain.errors import (
    FlowBusy,
    FlowNotFound,
    InputRejected,
    KeyReused,
    LimitReached,
    OutcomeInDoubt,
    PasswordRejected,
    ResetFlowError,
    StaleRecord,
    StoreUnavailable,
    WrongBroker,
)
from reset_flow.domain.flow import NewCredential
from reset_flow.domain.outcomes import Accepted, NotActed, Outcome, Rejected, Unknown
from reset_flow.domain.secret import Secret
from reset_flow.domain.state_machine import COMMANDS
from reset_flow.domain.text import printable
from reset_flow.engine.background_tasks import OwnTasks, Pauses
from reset_flow.engine.budgets import Priced
from reset_flow.engine.notifications import Chronicle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime, timedelta

    from reset_flow.domain.flow import Flow
    from reset_flow.domain.flow_data import Dossier
    from reset_flow.domain.policy import Policy
    from reset_flow.engine.broker_client import Caller
    from reset_flow.engine.budgets import Budgets
    from reset_flow.engine.guess_alarm import Alarm
    from reset_flow.engine.notifications import Announcer
    from reset_flow.observability.tracing import SafeTracer
    from reset_flow.persistence.repository import Archive, Found
    from reset_flow.ports import Charge, Guard, Record

__all__ = ["Cycle", "Given", "Tended"]

Given: TypeAlias = Secret | NewCredential | InputRejected | None
"""What came with a command: fit to be sent, or the error that says why it is not."""

SETTLED_BY_ASKING = frozenset({"answer", "resend", "verify"})
"""Commands that a person repeats to learn what became of the first: the same again is not sent again."""

logger = logging.getLogger("reset_flow")
audit = logging.getLogger("reset_flow.audit")
"""A line at INFO for each transition, and for each command that was refused."""

RACES = 5
"""How often a command that lost the race for a save looks again at what the winner left."""


@attrs.frozen(kw_only=True)
class Tended:
    """What the sweeper's look at a flow came to."""

    settled: bool = False
    expired: bool = False
    delivered: int = 0


class Cycle:
    """Carries out commands on the flows of one service."""

    def __init__(
        self,
        caller: Caller,
        archive: Archive,
        announcer: Announcer,
        budgets: Budgets,
        tracer: SafeTracer,
        *,
        alarm: Alarm,
        policy: Policy,
        now: Callable[[], datetime],
        guards: Sequence[Guard],
        worker: str,
    ) -> None:
        self._caller = caller
        self._archive = archive
        self._policy = policy
        self._now = now
        self._guards = tuple(guards)
        self._budgets = budgets
        self._tracer = tracer
        self._alarm = alarm
        self._worker = worker
        self._tasks = OwnTasks()
        self._chronicle = Chronicle(announcer, archive, tracer, self._tasks, policy=policy, worker=worker)
        self._unsent: set[bytes] = set()  # stamps of intents that were given up, though the store may have them

    # --- what the service asks for

    async def run(self, flow_id: str, command: str, given: Given = None, key: bytes | None = None) -> Flow:
        """
        Carry out a command that is not about making a flow.

        Args:
            key: The hash of its idempotency key.

        Raises:
            ResetFlowError: The flow did not move on; it is attached as it now stands.
        """
        try:
            work = self._run(flow_id, command, given, key)
            return await self._tracer.during(work, "command", command=command, flow=flow_id)
        except ResetFlowError as error:
            audit.info("flow %s: %s refused: %s (%s)", printable(flow_id), command, error.code, self._worker)
            raise

    async def _run(self, flow_id: str, command: str, given: Given, key: bytes | None) -> Flow:
        dossier: Dossier | None = None
        for _ in range(RACES):
            try:
                dossier, flow = await self._ready(flow_id, command, given, key)
                if flow:
                    return flow
                if COMMANDS[command].call is None:
                    ended = rules.cancel(dossier, self._moment())
                    return await self.keep(rules.remember(ended, key, command, ""), len(dossier.moves))
                secret = given if isinstance(given, Secret) else None
                new = given if isinstance(given, NewCredential) else None
                return await self.send(rules.announce(dossier, command, self._now(), secret, key), new)
            except StaleRecord as error:
                stale = error
            except LimitReached as error:
                if dossier is None or error.flow:
                    raise
                raise LimitReached("wrong codes for this user", error.retry_after).with_flow(
                    self.view(dossier)
                ) from None
            except StoreUnavailable as error:
                if dossier is not None and error.flow is None:
                    error.flow = self.view(dossier)
                raise
        raise stale.with_flow(self.view((await self._archive.load(flow_id)).dossier))

    async def look(self, flow_id: str) -> Flow:
        """The flow as it stands. One whose time is up is ended first, unless a call of it may still be under way."""
        found = await self._archive.load(flow_id)
        if rules.expired(found.dossier, self._now()) and not found.busy:
            return self.view(await self.resume(flow_id))
        return self.view(found.dossier)

    async def resume(self, flow_id: str) -> Dossier:
        """The dossier, with nothing left open that can be settled now."""
        for _ in range(RACES):
            try:
                return await self._expired(await self._settled(await self._archive.load(flow_id)))
            except StaleRecord as error:
                stale = error
        raise stale

    async def tend(self, found: Found) -> Tended:
        """Do for a flow what is due by itself. Raises like a command."""
        dossier = await self._settled(found)
        ended = await self._expired(dossier)
        delivered = 0
        if found.dossier.owed:
            delivered = await self._tasks.run(self._chronicle.tell(ended, len(ended.moves) - 1, ended.owed))
        return Tended(settled=found.dossier.intent is not None, expired=ended is not dossier, delivered=delivered)

    def send(
        self, intended: Dossier, new: NewCredential | None = None, charges: Sequence[Charge] = ()
    ) -> Awaitable[Flow]:
        """
        Save an intent that is not saved yet, and carry it out.

        Raises:
            StaleRecord: The flow has moved since it was loaded; nothing was sent.
        """
        return self._tasks.run(self._send(intended, new, charges))

    async def begin(self, dossier: Dossier, charges: Sequence[Charge] = ()) -> Flow:
        """Send the first step of a flow that needs nothing of the person for it. Raises like `send`."""
        self._check_broker(dossier)
        return await self.send(rules.announce(dossier, "start", self._now()), None, charges)

    async def keep(self, dossier: Dossier, since: int = 0, charges: Sequence[Charge] = ()) -> Flow:
        """Save what needs no call; its transitions after that many are new."""
        return self.view(await self._tasks.run(self._keep(dossier, since, charges)))

    def view(self, dossier: Dossier) -> Flow:
        """What the embedder sees of it."""
        return rules.view(dossier, self._policy)

    async def aclose(self, patience: timedelta) -> None:
        """Wait for what is under way. What is not done by then is left to whoever opens the store next."""
        await self._tasks.aclose(patience)

    # --- before the intent

    async def _ready(self, flow_id: str, command: str, given: Given, key: bytes | None) -> tuple[Dossier, Flow | None]:
        """The dossier that the command may come for; with a flow where that is all that is to be returned."""
        found = await self._archive.load(flow_id)
        dossier, intent = found.dossier, found.dossier.intent
        self._check_broker(dossier)
        if key and (flow := self._recalled(dossier, command, key)):
            return dossier, flow
        try:
            if intent is not None:
                same = intent.command == command and intent.secret == given and command in SETTLED_BY_ASKING
                same = same and found.stamp not in self._unsent
                dossier = await self._settled(found, key if same else None)
                if key and (flow := self._recalled(dossier, command, key)):
                    return dossier, flow
                if same:
                    if error := verdict(command, Unknown(), dossier.moves[len(found.dossier.moves) :]):
                        raise error
                    return dossier, self.view(dossier)
            dossier = await self._expired(dossier)
            await self._admit(dossier, command, given)
        except StaleRecord:
            raise
        except ResetFlowError as error:
            error.with_flow(self.view(dossier))
            raise
        return dossier, None

    async def _admit(self, dossier: Dossier, command: str, given: Given) -> None:
        """Return if the command may come now, with what was given."""
        rules.admit(dossier, command, self._policy, self._now())
        rules.check_input(dossier, command, given)
        if command == "verify":
            await self._alarm.admit()
        if isinstance(given, NewCredential) and command == "set_password":
            complaints = await self._policy.password.complaints(given.secret, dossier.user)
            if complaints:
                raise PasswordRejected(*complaints, sent=False)
        for guard in self._guards:
            await guard(self.view(dossier), command)

    def _recalled(self, dossier: Dossier, command: str, key: bytes) -> Flow | None:
        """What came of the command that had this key before; raises if an error did."""
        result = rules.recall(dossier, key)
        if not result:
            return None
        flow = self.view(dossier)
        if result.command != command:
            raise KeyReused(f"this key was given to {result.command} before: choose another one").with_flow(flow)
        if result.code:
            raise recorded(result.code).with_flow(flow)
        return flow

    def _check_broker(self, dossier: Dossier) -> None:
        if dossier.transport != self._caller.name:
            message = f"flow {dossier.id} belongs to {dossier.transport}, not to {self._caller.name}"
            raise WrongBroker(message).with_flow(self.view(dossier))

    async def _settled(self, found: Found, key: bytes | None = None) -> Dossier:
        """
        The dossier without an intent. The key of the same command, asked for again, recalls its result from now on.

        Raises:
            FlowBusy: The intent may still be under way.
        """
        dossier = found.dossier
        if dossier.intent is None:
            return dossier
        self._check_broker(dossier)
        if found.stamp in self._unsent:
            return (await self._tasks.run(self._conclude(dossier, NotActed())))[0]
        if found.busy:
            raise FlowBusy(dossier.id, dossier.intent.command, found.busy).with_flow(self.view(dossier))
        return await self._tasks.run(self._settle(dossier, key))

    async def _expired(self, dossier: Dossier) -> Dossier:
        """The dossier, ended if its time is up."""
        if not rules.expired(dossier, self._now()):
            return dossier
        return await self._tasks.run(self._keep(rules.expire(dossier, self._moment()), len(dossier.moves)))

    def _moment(self) -> rules.Moment:
        return rules.Moment(self._now(), self._worker)

    # --- in a task of its own, from the first save on

    async def _keep(self, dossier: Dossier, since: int, charges: Sequence[Charge] = ()) -> Dossier:
        saved = await self._save(self._budgets.kept(dossier, charges))
        self._chronicle.write(saved, since)
        return saved

    async def _save(self, priced: Priced, record: Record | None = None, *, at_last: bool = False) -> Dossier:
        """
        The dossier as it is saved: without its wish, and under the same stamp, where that can't be granted.

        Args:
            record: Of it, if there is one already.

            at_last: It must not be lost: again and again until the store takes it, or the service has closed.
        """
        record = record or self._archive.record(priced.dossier)
        pauses: Pauses | None = None
        while True:
            try:
                await self._archive.save(record, priced.charges)
            except LimitReached:
                if not priced.wish:
                    raise
                priced = priced.without()
                record = self._archive.record(priced.dossier, record.stamp)
            except StoreUnavailable:
                if not at_last:
                    raise
                logger.warning("flow %s: the store does not take an outcome, trying again", record.id)
                pauses = pauses or Pauses()
                await pauses.next()
            else:
                return priced.dossier.saved(record.version)

    async def _send(self, intended: Dossier, new: NewCredential | None, charges: Sequence[Charge]) -> Flow:
        began = time.monotonic()
        dossier = await self._intend(intended, charges)
        try:
            dossier, error = await self._carry_out(dossier, new, began)
        except StaleRecord:
            # Not to be tried again: it was sent. Somebody took this worker for dead and settled what it had begun.
            error = OutcomeInDoubt("another worker has settled this call meanwhile: look at the flow again")
            with suppress(StoreUnavailable):
                dossier = (await self._archive.load(dossier.id)).dossier
        if error:
            raise error.with_flow(self.view(dossier))
        return self.view(dossier)

    async def _intend(self, intended: Dossier, charges: Sequence[Charge]) -> Dossier:
        priced = self._budgets.intended(intended, charges)
        record = self._archive.record(priced.dossier)
        try:
            return await self._save(priced, record)
        except StoreUnavailable:
            if not self._tasks.closed:
                self._unsent.add(record.stamp)
                self._tasks.spawn(self._withdraw(record))
            raise

    async def _withdraw(self, record: Record) -> None:
        """Take back an intent whose save was not acknowledged, in case it got through: nothing was sent."""
        pauses = Pauses()
        try:
            with suppress(FlowNotFound, StaleRecord):
                while True:
                    with suppress(StoreUnavailable):
                        found = await self._archive.load(record.id)
                        if found.stamp == record.stamp:
                            await self._conclude(found.dossier, NotActed())
                        return
                    await pauses.next()
        finally:
            self._unsent.discard(record.stamp)

    async def _settle(self, dossier: Dossier, key: bytes | None = None) -> Dossier:
        """Find out, or say in doubt, what became of an intent whose lease has run out."""
        intent = dossier.intent
        assert intent is not None
        if rules.expired(dossier, self._now()) or intent.secret is None or not rules.repeatable(intent):
            return (await self._conclude(dossier, Unknown(detail="the process that sent it is gone"), key))[0]
        return (await self._repeat(dossier, None, key))[0]

    async def _carry_out(
        self, dossier: Dossier, new: NewCredential | None, began: float, key: bytes | None = None
    ) -> tuple[Dossier, ResetFlowError | None]:
        """Send an intent that is saved, once more if nobody knows what came of it, and save what did."""
        outcome = await self._caller.send(dossier, new, began)
        assert dossier.intent is not None
        if isinstance(outcome, Unknown) and rules.repeatable(dossier.intent):
            return await self._repeat(dossier, new, key)
        return await self._conclude(dossier, outcome, key)

    async def _repeat(
        self, dossier: Dossier, new: NewCredential | None, key: bytes | None = None
    ) -> tuple[Dossier, ResetFlowError | None]:
        """Each sending is an intent of its own, with a lease of its own."""
        began = time.monotonic()
        dossier = await self._save(Priced(rules.announce_again(dossier)), at_last=True)
        return await self._carry_out(dossier, new, began, key)

    async def _conclude(
        self, dossier: Dossier, outcome: Outcome, key: bytes | None = None
    ) -> tuple[Dossier, ResetFlowError | None]:
        intent, since = dossier.intent, len(dossier.moves)
        assert intent is not None
        resolved = rules.resolve(dossier, outcome, self._policy, self._moment())
        error = verdict(intent.command, outcome, resolved.moves[since:], mute=self._policy.mask_unknown_users)
        if (key or intent.key) and len(resolved.moves) > since:  # else nothing happened, and it may be tried again
            for each in dict.fromkeys((intent.key, key)):
                resolved = rules.remember(resolved, each, intent.command, error.code if error else "")
        judged = intent.command == "verify" and isinstance(outcome, (Accepted, Rejected))
        alarm = judged and self._alarm.saw(right=isinstance(outcome, Accepted))
        saved = await self._save(self._budgets.concluded(resolved, intent, outcome), at_last=True)
        self._chronicle.write(saved, since, alarm=alarm)
        return saved, error
