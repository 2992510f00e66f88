"""Makes calls of the broker. They never raise, and none outlives the lease that was saved for it."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from functools import partial
from types import NoneType
from typing import TYPE_CHECKING, Any

import attrs

from reset_flow.deadlines import Deadlines, uptime
from reset_flow.domain import rules
from reset_flow.domain.decide import leaves_password_in_doubt
from reset_flow.domain.flow import Credential
from reset_flow.domain.outcomes import Accepted, Cause, NotActed, Outcome, Rejected, Unknown
from reset_flow.domain.secret import Secret
from reset_flow.domain.state_machine import COMMANDS, Call
from reset_flow.domain.text import plain, repeats
from reset_flow.ports import Case

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reset_flow.domain.flow import NewCredential
    from reset_flow.domain.flow_data import FlowData
    from reset_flow.domain.policy import Policy
    from reset_flow.observability.tracing import SafeTracer
    from reset_flow.ports import Transport

GRACE = 1.25
"""How many deadlines a transport may take before it is cut off; one of ours never takes more than one."""

CHALLENGES = 3
"""How often the question is asked for before the broker counts as unavailable: asking changes nothing there."""
CHALLENGE_PAUSE = 0.2

RECENT = 32
"""How many durations of real calls are remembered, for calls that are only pretended."""
FIRST_GUESS = (0.1,)
"""Seconds, until there was a real call."""
TIMER = 0.001
"""Seconds by which an event loop sleeps too long: it waits in whole milliseconds, rounded up."""

WITHHELD = "withheld, as it repeats what is secret"


def case_of(flow: FlowData) -> Case:
    """Return what the transport may know of the flow."""
    return Case(user=flow.user, credential=flow.credential, continuation=flow.continuation)


class BrokerClient:
    """Makes the calls that intents announce."""

    def __init__(self, transport: Transport, policy: Policy, tracer: SafeTracer) -> None:
        self._transport = transport
        self._tracer = tracer
        self._deadline = transport.deadline.total_seconds()
        self._deadlines = Deadlines()
        self._lease = policy.lease.total_seconds()
        self._may_log_in = policy.probe_by_login
        self._floor = policy.response_floor.total_seconds()
        self._took: dict[Call, deque[float]] = {route: deque(maxlen=RECENT) for route in Call}
        self.name: str = plain(transport.name)
        self._names = frozenset([self.name, *map(plain, getattr(transport, "aliases", ()))])
        self.credentials = transport.capabilities.credentials
        self.canonical_user = transport.canonical_user

    def serves(self, flow: FlowData) -> bool:
        """Return whether the flow belongs to this broker, under whichever of its names."""
        return flow.transport in self._names

    async def send(self, flow: FlowData, new: NewCredential | None, began: float) -> Outcome:
        """Make the call of an intent once, then perhaps a log-in. Its lease began at `began`, by `uptime()`."""
        outcome = await self._call_once(flow, new, began)
        assert flow.intent is not None
        if new is None or not self._may_log_in or flow.credential is not Credential.PASSWORD:
            return outcome
        again = isinstance(outcome, Unknown) and rules.repeatable(flow.intent)
        if again or not leaves_password_in_doubt(flow, outcome) or not self._in_time(began):
            return outcome
        proof = await self._bounded("log_in", partial(self._transport.log_in, case_of(flow), new.secret), began)
        return Accepted() if isinstance(proof, Accepted) else outcome

    async def challenge(self, case: Case) -> Accepted | Rejected | NotActed:
        """Ask for the question, a few times if the broker can't be reached: asking changes nothing there."""
        for attempt in range(CHALLENGES):
            if attempt:
                await asyncio.sleep(CHALLENGE_PAUSE * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
            started = time.monotonic()
            outcome = await self._bounded("challenge", partial(self._transport.challenge, case), uptime())
            await self._pad(started)
            outcome = _withheld(outcome, case.user)
            known: Accepted | Rejected | NotActed
            known = NotActed(detail=outcome.detail) if isinstance(outcome, Unknown) else outcome
            if not isinstance(known, NotActed) or known.cause is not Cause.UNAVAILABLE:
                break
        return known

    async def _call_once(self, flow: FlowData, new: NewCredential | None, began: float) -> Outcome:
        if not self._in_time(began):
            return NotActed(detail="the lease ran out before the call began")
        assert flow.intent is not None
        route = COMMANDS[flow.intent.command].call
        assert route is not None
        started = time.monotonic()
        outcome: Outcome
        if flow.masked:
            # What a broker would say that knew the user, as late as it lately did.
            as_long = random.choice(self._took[route] or FIRST_GUESS)  # noqa: S311 - no secret
            await asyncio.sleep(max(0.0, as_long - TIMER))
            ignored = flow.intent.command == "answer" and flow.question == ""  # nobody asked for it
            outcome = Accepted() if ignored or flow.intent.command in ("start", "resend") else Rejected()
        else:
            call = partial(self._start_call, route, flow, new)
            outcome = await self._bounded(route.name.lower(), call, began)
            typed = new.secret if new else flow.intent.secret
            outcome = _withheld(outcome, flow.user, flow.answer, flow.token, typed)
            if isinstance(outcome, (Accepted, Rejected)):
                self._took[route].append(time.monotonic() - started)
        await self._pad(started)
        return outcome

    async def _pad(self, began: float) -> None:
        """Wait until a call that began then has taken as long as the response floor, if there is one."""
        if (left := self._floor - (time.monotonic() - began)) > 0:
            await asyncio.sleep(left)

    async def _bounded(self, route: str, call: Callable[[], Awaitable[Outcome]], began: float) -> Outcome:
        """Make a call in the time that is left. A transport that breaks its contract leaves the outcome unknown."""
        return await self._tracer.during(self._in_time_left(route, call, began), "call", route=route)

    async def _in_time_left(self, route: str, call: Callable[[], Awaitable[Outcome]], began: float) -> Outcome:
        left = self._lease - (uptime() - began)
        try:
            # A bit more than its deadline, and less than what is left of the lease.
            with self._deadlines.within(min(self._deadline * GRACE, (self._deadline + left) / 2)):
                outcome = await call()
            if not _is_sound(outcome):
                outcome = Unknown(detail="no outcome that could be kept")
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            outcome = Unknown(detail="cancelled by itself")
        except Exception as error:  # noqa: BLE001 - a transport of somebody else's may raise anything
            outcome = Unknown(detail=type(error).__name__)
        self._tracer.count("outcome", route=route, outcome=type(outcome).__name__)
        return outcome

    def _in_time(self, began: float) -> bool:
        """Return whether a whole deadline fits into the rest of the lease."""
        return self._lease - (uptime() - began) > self._deadline

    def _start_call(self, route: Call, flow: FlowData, new: NewCredential | None) -> Awaitable[Outcome]:
        intent, case = flow.intent, case_of(flow)
        assert intent is not None
        match route:
            case Call.REQUEST:
                answer = flow.answer if intent.command == "resend" else intent.secret
                return self._transport.request(case, answer)
            case Call.EXCHANGE:
                assert intent.secret is not None
                return self._transport.exchange(case, intent.secret)
            case Call.UPDATE:
                assert flow.token is not None
                assert new is not None
                return self._transport.update(case, flow.token, new)


def _withheld(outcome: Outcome, *hidden: str | Secret | None) -> Outcome:
    """Return the outcome without the words of the broker or the transport that repeat the login or a secret."""
    if isinstance(outcome, Accepted):
        return outcome
    texts = [each.reveal() if isinstance(each, Secret) else each for each in hidden if each is not None]
    if isinstance(outcome, Rejected):
        return Rejected(reasons=tuple(each for each in outcome.reasons if not repeats(each, *texts)))
    return attrs.evolve(outcome, detail=WITHHELD) if repeats(outcome.detail, *texts) else outcome


def _is_sound(outcome: object) -> bool:
    """Return whether it is an outcome, of which all can be stored."""
    if not isinstance(outcome, Accepted):
        return isinstance(outcome, (Rejected, NotActed, Unknown))
    value: Any = outcome.value
    kept = isinstance(value, Secret) and value.encodable
    return (value is None or kept) and type(outcome.continuation) in (bytes, NoneType)
