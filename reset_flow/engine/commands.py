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
    from reset_flow.domain.flow_data import FlowData
    from reset_flow.domain.policy import Policy
    from reset_flow.engine.broker_client import Caller
    from reset_flow.engine.budgets import Budgets
    from reset_flow.engine.guess_alarm import Alarm
    from reset_flow.engine.notifications import Announcer
    from reset_flow.observability.tracing import SafeTracer
    from reset_flow.persistence.repository import FlowRepository, Found
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
        repository: FlowRepository,
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
        self._repository = repository
        self._policy = policy
        self._now = now
        self._guards = tuple(guards)
        self._budgets = budgets
        self._tracer = tracer
        self._alarm = alarm
        self._worker = worker
        self._tasks = OwnTasks()
        self._chronicle = Chronicle(announcer, repository, tracer, self._tasks, policy=policy, worker=worker)
        self._unsent: set[bytes] = set()  # write_ids of intents that were given up, though the store may have them

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
        data: FlowData | None = None
        for _ in range(RACES):
            try:
                data, flow = await self._ready(flow_id, command, given, key)
                if flow:
                    return flow
                if COMMANDS[command].call is None:
                    ended = rules.cancel(data, self._moment())
                    return await self.keep(rules.remember(ended, key, command, ""), len(data.moves))
                secret = given if isinstance(given, Secret) else None
                new = given if isinstance(given, NewCredential) else None
                return await self.send(rules.announce(data, command, self._now(), secret, key), new)
            except StaleRecord as error:
                stale = error
            except LimitReached as error:
                if data is None or error.flow:
                    raise
                raise LimitReached("wrong codes for this user", error.retry_after).with_flow(self.view(data)) from None
            except StoreUnavailable as error:
                if data is not None and error.flow is None:
                    error.flow = self.view(data)
                raise
        raise stale.with_flow(self.view((await self._repository.load(flow_id)).data))

    async def look(self, flow_id: str) -> Flow:
        """The flow as it stands. One whose time is up is ended first, unless a call of it may still be under way."""
        found = await self._repository.load(flow_id)
        if rules.expired(found.data, self._now()) and not found.busy:
            return self.view(await self.resume(flow_id))
        return self.view(found.data)

    async def resume(self, flow_id: str) -> FlowData:
        """The flow data, with nothing left open that can be settled now."""
        for _ in range(RACES):
            try:
                return await self._expired(await self._settled(await self._repository.load(flow_id)))
            except StaleRecord as error:
                stale = error
        raise stale

    async def tend(self, found: Found) -> Tended:
        """Do for a flow what is due by itself. Raises like a command."""
        data = await self._settled(found)
        ended = await self._expired(data)
        delivered = 0
        if found.data.owed:
            delivered = await self._tasks.run(self._chronicle.tell(ended, len(ended.moves) - 1, ended.owed))
        return Tended(settled=found.data.intent is not None, expired=ended is not data, delivered=delivered)

    def send(
        self, intended: FlowData, new: NewCredential | None = None, charges: Sequence[Charge] = ()
    ) -> Awaitable[Flow]:
        """
        Save an intent that is not saved yet, and carry it out.

        Raises:
            StaleRecord: The flow has moved since it was loaded; nothing was sent.
        """
        return self._tasks.run(self._send(intended, new, charges))

    async def begin(self, data: FlowData, charges: Sequence[Charge] = ()) -> Flow:
        """Send the first step of a flow that needs nothing of the person for it. Raises like `send`."""
        self._check_broker(data)
        return await self.send(rules.announce(data, "start", self._now()), None, charges)

    async def keep(self, data: FlowData, since: int = 0, charges: Sequence[Charge] = ()) -> Flow:
        """Save what needs no call; its transitions after that many are new."""
        return self.view(await self._tasks.run(self._keep(data, since, charges)))

    def view(self, data: FlowData) -> Flow:
        """What the embedder sees of it."""
        return rules.view(data, self._policy)

    async def aclose(self, patience: timedelta) -> None:
        """Wait for what is under way. What is not done by then is left to whoever opens the store next."""
        await self._tasks.aclose(patience)

    # --- before the intent

    async def _ready(self, flow_id: str, command: str, given: Given, key: bytes | None) -> tuple[FlowData, Flow | None]:
        """The flow data that the command may come for; with a flow where that is all that is to be returned."""
        found = await self._repository.load(flow_id)
        data, intent = found.data, found.data.intent
        self._check_broker(data)
        if key and (flow := self._recalled(data, command, key)):
            return data, flow
        try:
            if intent is not None:
                same = intent.command == command and intent.secret == given and command in SETTLED_BY_ASKING
                same = same and found.write_id not in self._unsent
                data = await self._settled(found, key if same else None)
                if key and (flow := self._recalled(data, command, key)):
                    return data, flow
                if same:
                    if error := verdict(command, Unknown(), data.moves[len(found.data.moves) :]):
                        raise error
                    return data, self.view(data)
            data = await self._expired(data)
            await self._admit(data, command, given)
        except StaleRecord:
            raise
        except ResetFlowError as error:
            error.with_flow(self.view(data))
            raise
        return data, None

    async def _admit(self, data: FlowData, command: str, given: Given) -> None:
        """Return if the command may come now, with what was given."""
        rules.admit(data, command, self._policy, self._now())
        rules.check_input(data, command, given)
        if command == "verify":
            await self._alarm.admit()
        if isinstance(given, NewCredential) and command == "set_password":
            complaints = await self._policy.password.complaints(given.secret, data.user)
            if complaints:
                raise PasswordRejected(*complaints, sent=False)
        for guard in self._guards:
            await guard(self.view(data), command)

    def _recalled(self, data: FlowData, command: str, key: bytes) -> Flow | None:
        """What came of the command that had this key before; raises if an error did."""
        result = rules.recall(data, key)
        if not result:
            return None
        flow = self.view(data)
        if result.command != command:
            raise KeyReused(f"this key was given to {result.command} before: choose another one").with_flow(flow)
        if result.code:
            raise recorded(result.code).with_flow(flow)
        return flow

    def _check_broker(self, data: FlowData) -> None:
        if data.transport != self._caller.name:
            message = f"flow {data.id} belongs to {data.transport}, not to {self._caller.name}"
            raise WrongBroker(message).with_flow(self.view(data))

    async def _settled(self, found: Found, key: bytes | None = None) -> FlowData:
        """
        The flow data without an intent. The key of the same command, asked for again, recalls its result from now on.

        Raises:
            FlowBusy: The intent may still be under way.
        """
        data = found.data
        if data.intent is None:
            return data
        self._check_broker(data)
        if found.write_id in self._unsent:
            return (await self._tasks.run(self._conclude(data, NotActed())))[0]
        if found.busy:
            raise FlowBusy(data.id, data.intent.command, found.busy).with_flow(self.view(data))
        return await self._tasks.run(self._settle(data, key))

    async def _expired(self, data: FlowData) -> FlowData:
        """The flow data, ended if its time is up."""
        if not rules.expired(data, self._now()):
            return data
        return await self._tasks.run(self._keep(rules.expire(data, self._moment()), len(data.moves)))

    def _moment(self) -> rules.Moment:
        return rules.Moment(self._now(), self._worker)

    # --- in a task of its own, from the first save on

    async def _keep(self, data: FlowData, since: int, charges: Sequence[Charge] = ()) -> FlowData:
        saved = await self._save(self._budgets.kept(data, charges))
        self._chronicle.write(saved, since)
        return saved

    async def _save(self, priced: Priced, record: Record | None = None, *, at_last: bool = False) -> FlowData:
        """
        The flow data as it is saved: without its wish, and under the same write_id, where that can't be granted.

        Args:
            record: Of it, if there is one already.

            at_last: It must not be lost: again and again until the store takes it, or the service has closed.
        """
        record = record or self._repository.record(priced.data)
        pauses: Pauses | None = None
        while True:
            try:
                await self._repository.save(record, priced.charges)
            except LimitReached:
                if not priced.wish:
                    raise
                priced = priced.without()
                record = self._repository.record(priced.data, record.write_id)
            except StoreUnavailable:
                if not at_last:
                    raise
                logger.warning("flow %s: the store does not take an outcome, trying again", record.id)
                pauses = pauses or Pauses()
                await pauses.next()
            else:
                return priced.data.saved(record.version)

    async def _send(self, intended: FlowData, new: NewCredential | None, charges: Sequence[Charge]) -> Flow:
        began = time.monotonic()
        data = await self._intend(intended, charges)
        try:
            data, error = await self._carry_out(data, new, began)
        except StaleRecord:
            # Not to be tried again: it was sent. Somebody took this worker for dead and settled what it had begun.
            error = OutcomeInDoubt("another worker has settled this call meanwhile: look at the flow again")
            with suppress(StoreUnavailable):
                data = (await self._repository.load(data.id)).data
        if error:
            raise error.with_flow(self.view(data))
        return self.view(data)

    async def _intend(self, intended: FlowData, charges: Sequence[Charge]) -> FlowData:
        priced = self._budgets.intended(intended, charges)
        record = self._repository.record(priced.data)
        try:
            return await self._save(priced, record)
        except StoreUnavailable:
            if not self._tasks.closed:
                self._unsent.add(record.write_id)
                self._tasks.spawn(self._withdraw(record))
            raise

    async def _withdraw(self, record: Record) -> None:
        """Take back an intent whose save was not acknowledged, in case it got through: nothing was sent."""
        pauses = Pauses()
        try:
            with suppress(FlowNotFound, StaleRecord):
                while True:
                    with suppress(StoreUnavailable):
                        found = await self._repository.load(record.id)
                        if found.write_id == record.write_id:
                            await self._conclude(found.data, NotActed())
                        return
                    await pauses.next()
        finally:
            self._unsent.discard(record.write_id)

    async def _settle(self, data: FlowData, key: bytes | None = None) -> FlowData:
        """Find out, or say in doubt, what became of an intent whose lease has run out."""
        intent = data.intent
        assert intent is not None
        if rules.expired(data, self._now()) or intent.secret is None or not rules.repeatable(intent):
            return (await self._conclude(data, Unknown(detail="the process that sent it is gone"), key))[0]
        return (await self._repeat(data, None, key))[0]

    async def _carry_out(
        self, data: FlowData, new: NewCredential | None, began: float, key: bytes | None = None
    ) -> tuple[FlowData, ResetFlowError | None]:
        """Send an intent that is saved, once more if nobody knows what came of it, and save what did."""
        outcome = await self._caller.send(data, new, began)
        assert data.intent is not None
        if isinstance(outcome, Unknown) and rules.repeatable(data.intent):
            return await self._repeat(data, new, key)
        return await self._conclude(data, outcome, key)

    async def _repeat(
        self, data: FlowData, new: NewCredential | None, key: bytes | None = None
    ) -> tuple[FlowData, ResetFlowError | None]:
        """Each sending is an intent of its own, with a lease of its own."""
        began = time.monotonic()
        data = await self._save(Priced(rules.announce_again(data)), at_last=True)
        return await self._carry_out(data, new, began, key)

    async def _conclude(
        self, data: FlowData, outcome: Outcome, key: bytes | None = None
    ) -> tuple[FlowData, ResetFlowError | None]:
        intent, since = data.intent, len(data.moves)
        assert intent is not None
        resolved = rules.resolve(data, outcome, self._policy, self._moment())
        error = verdict(intent.command, outcome, resolved.moves[since:], mute=self._policy.mask_unknown_users)
        if (key or intent.key) and len(resolved.moves) > since:  # else nothing happened, and it may be tried again
            for each in dict.fromkeys((intent.key, key)):
                resolved = rules.remember(resolved, each, intent.command, error.code if error else "")
        judged = intent.command == "verify" and isinstance(outcome, (Accepted, Rejected))
        alarm = judged and self._alarm.saw(right=isinstance(outcome, Accepted))
        saved = await self._save(self._budgets.concluded(resolved, intent, outcome), at_last=True)
        self._chronicle.write(saved, since, alarm=alarm)
        return saved, error
