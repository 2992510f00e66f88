"""
Carries out one command of a person's on a flow.

Load, admit, save the intent, call, decide, save, publish: the first two are here, the others in `intents`.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from reset_flow.domain import rules
from reset_flow.domain.decide import Cancelled, Held, Intended, decide, recorded
from reset_flow.domain.errors import (
    FlowBusy,
    FlowEnded,
    HeldElsewhere,
    InputRejected,
    KeyReused,
    LimitReached,
    PasswordRejected,
    ResetFlowError,
    StaleRecord,
    StoreUnavailable,
)
from reset_flow.domain.flow import NewCredential, Step
from reset_flow.domain.secret import Secret
from reset_flow.domain.state_machine import COMMANDS, Call, expected
from reset_flow.domain.text import printable, text_of
from reset_flow.domain.times import NO_TIME
from reset_flow.engine import password_checks
from reset_flow.persistence.batches import RACES
from reset_flow.persistence.repository import LONGEST_ID
from reset_flow.ports import CommandRequest

if TYPE_CHECKING:
    from datetime import timedelta

    from reset_flow.domain.flow import Flow
    from reset_flow.domain.flow_data import FlowData
    from reset_flow.engine.context import Context
    from reset_flow.engine.intents import IntentExecutor
    from reset_flow.engine.recovery import Recovery

Given: TypeAlias = Secret | NewCredential | InputRejected | None
"""The input of a command: fit to be sent, or the error that says why it is not."""

SETTLED_BY_ASKING = frozenset({"answer", "resend", "verify"})
"""Commands that a person repeats to learn what became of the first: the same again is not sent again."""

TAKING_TEXT = frozenset(step.command for step in Step)

audit = logging.getLogger("reset_flow.audit")
"""Gets a line at INFO for each transition, and for each command that was refused."""


class Caller(Struct, frozen=True, gc=False):
    """Who gives a command: hashes of its idempotency key, and of whom a code that is taken binds the flow to."""

    key: bytes | None = None
    holder: bytes | None = None


NOBODY = Caller()


class CommandHandler:
    """Carries out commands on the flows of one service."""

    def __init__(self, context: Context, intents: IntentExecutor, recovery: Recovery) -> None:
        self._context = context
        self._intents = intents
        self._recovery = recovery

    async def command_for(self, flow_id: str, key: bytes | None) -> str:
        """Return the command that takes what the flow expects now, or the one that took a text with this key."""
        flow = (await self._context.repository.load(flow_id)).flow
        if key:
            known = rules.recall(flow, key) or (flow.intent if flow.intent and flow.intent.key == key else None)
            if known and known.command in TAKING_TEXT:
                return known.command
        step = expected(flow.state, flow.credential)
        if step is None:
            raise FlowEnded(flow.id, flow.failure or flow.state).with_flow(rules.view(flow))
        return step.command

    async def run(
        self,
        flow_id: str,
        command: str,
        given: Given = None,
        caller: Caller = NOBODY,
        patience: timedelta = NO_TIME,
    ) -> Flow:
        """
        Carry out a command on a flow that is there.

        Args:
            patience: How long to wait for the end of another call of the flow.

        Raises:
            ResetFlowError: The flow did not move on; it is attached as it now stands.
        """
        try:
            work = self._recovery.patiently(partial(self._run, flow_id, command, given, caller), patience)
            named = text_of(flow_id)[:LONGEST_ID]
            return await self._context.tracer.during(work, "command", command=command, flow=named)
        except ResetFlowError as error:
            worker = self._context.worker
            audit.info("flow %s: %s refused: %s (%s)", printable(flow_id), command, error.code, worker)
            raise

    async def _run(self, flow_id: str, command: str, given: Given, caller: Caller) -> Flow:
        flow: FlowData | None = None
        for _ in range(RACES):
            try:
                flow, done = await self._ready(flow_id, command, given, caller)
                return done or await self._carry_out(flow, command, given, caller)
            except StaleRecord as error:
                stale = error
            except (LimitReached, StoreUnavailable) as error:
                if flow is not None and error.flow is None:
                    error.flow = rules.view(flow)
                raise
        raise stale.with_flow((await self._context.repository.load(flow_id)).view(self._context.now()))

    async def _carry_out(self, flow: FlowData, command: str, given: Given, caller: Caller) -> Flow:
        moment = self._context.moment()
        if command == "cancel":
            return rules.view(await self._intents.keep(decide(flow, Cancelled(caller.key), moment)))
        secret = given if isinstance(given, Secret) else None
        if secret and command == "verify" and not self._context.broker.verifies_code:
            return rules.view(await self._intents.keep(decide(flow, Held(secret, caller.key, caller.holder), moment)))
        new = given if isinstance(given, NewCredential) else None
        return await self._intents.send(decide(flow, Intended(command, secret, caller.key, caller.holder), moment), new)

    async def _ready(self, flow_id: str, command: str, given: Given, caller: Caller) -> tuple[FlowData, Flow | None]:
        """Load the flow that the command may come for; with a view of it where nothing is left to be done."""
        found = await self._context.repository.load(flow_id)
        flow, intent, key = found.flow, found.flow.intent, caller.key
        rules.check_holder(flow, command, caller.holder)
        if key and (recalled := self._recalled(flow, command, key)):
            return flow, recalled
        try:
            if intent is not None:
                same = intent.command == command and intent.secret == given and command in SETTLED_BY_ASKING
                same = same and intent.holder == caller.holder and not self._intents.was_given_up(flow.write_id)
                flow, error = await self._recovery.settle(found, key if same else None, ending=command == "cancel")
                rules.check_holder(flow, command, caller.holder)
                if key and (recalled := self._recalled(flow, command, key)):
                    return flow, recalled
                if same:
                    if error:
                        raise error
                    return flow, rules.view(flow)
            flow = await self._recovery.expire(flow)
            if command != "cancel" and not flow.state.ended:
                self._recovery.check_broker(flow)
            await self._admit(flow, command, given)
            if self._context.guards:
                await self._context.ask_guards(CommandRequest(command=command, user=flow.user, flow=rules.view(flow)))
                flow = await self._recovery.expire(flow)  # they may have taken long
                rules.admit(flow, command, self._context.now())
        except (FlowBusy, HeldElsewhere, StaleRecord):
            raise
        except ResetFlowError as error:
            error.with_flow(rules.view(flow))
            raise
        return flow, None

    async def _admit(self, flow: FlowData, command: str, given: Given) -> None:
        """Return if the command may come now, with this input; guards are asked after that."""
        rules.admit(flow, command, self._context.now())
        rules.check_input(flow, command, given)
        if command == "verify" or (flow.holds_code and COMMANDS[command].call is Call.UPDATE):
            await self._context.alarm.admit()
        if isinstance(given, NewCredential) and command == "set_password":
            required = self._context.policy.password
            if found := await password_checks.complaints(required, given.secret, flow.user):
                raise PasswordRejected(*found, sent=False)

    @staticmethod
    def _recalled(flow: FlowData, command: str, key: bytes) -> Flow | None:
        """Return the flow if the command that had this key returned it; raise the error that it raised."""
        result = rules.recall(flow, key)
        if not result:
            return None
        view = rules.view(flow)
        if result.command != command:
            raise KeyReused(f"this key was given to {result.command} before: choose another one").with_flow(view)
        if not rules.is_final(flow, result):
            return None
        if result.code:
            raise recorded(flow, result).with_flow(view)
        return view
