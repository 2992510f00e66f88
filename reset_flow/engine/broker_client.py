"""Makes calls of the broker. They never raise, and none outlives the lease that was saved for it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from bisect import bisect_left
from collections import defaultdict, deque
from functools import partial
from typing import TYPE_CHECKING

import attrs

from reset_flow.deadlines import Deadlines, uptime
from reset_flow.domain import rules
from reset_flow.domain.decide import leaves_password_in_doubt
from reset_flow.domain.errors import BrokerProtocolError
from reset_flow.domain.flow import Credential, Step
from reset_flow.domain.outcomes import Accepted, Cause, NotActed, Outcome, Rejected, Unknown
from reset_flow.domain.secret import Secret
from reset_flow.domain.state_machine import COMMANDS, Call
from reset_flow.domain.text import plain
from reset_flow.engine.background_tasks import attempt
from reset_flow.engine.scrubbing import scrubbed, with_scrubbed_question
from reset_flow.ports import Case

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reset_flow.domain.flow import NewCredential
    from reset_flow.domain.flow_data import FlowData
    from reset_flow.domain.policy import Policy
    from reset_flow.observability.tracing import SafeTracer
    from reset_flow.ports import Transport

logger = logging.getLogger("reset_flow")

GRACE = 1.25
"""How many deadlines a transport may take before it is cut off; one of ours never takes more than one."""

CHALLENGES = 3
"""How often the question is asked for before the broker counts as unavailable: asking changes nothing there."""
CHALLENGE_PAUSE = 0.2

RECENT = 32
"""How many durations of real calls are remembered, for calls that are only pretended."""
TIMER = 0.001
"""Seconds by which an event loop sleeps too long: it waits in whole milliseconds, rounded up."""


def case_of(flow: FlowData, attempt: str = "") -> Case:
    """Return what the transport may know of the flow."""
    return Case(user=flow.user, credential=flow.credential, continuation=flow.continuation, attempt=attempt)


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
        self._durations = Durations()
        self._probes = transport.capabilities.probes
        self.name: str = plain(transport.name)
        self._names = frozenset([self.name, *map(plain, getattr(transport, "aliases", ()))])
        self.credentials = transport.capabilities.credentials
        self.verifies_code = transport.capabilities.verifies_code
        self._answers_alike = transport.capabilities.answers_alike

    def canonical_user(self, user: str | Secret) -> str:
        """
        Return the one spelling of all that the broker takes for the same user.

        Raises:
            BrokerProtocolError: The transport fails, or gives no text.
        """
        user = Secret(user)  # frames are logged
        try:
            canonical = Secret(self._transport.canonical_user(user.reveal()))
            failure = "" if canonical and canonical.encodable else "it gives no text"
        except Exception as error:  # noqa: BLE001 - a transport of somebody else's may raise anything
            failure = type(error).__name__
        if failure:
            raise BrokerProtocolError(f"the transport can't say which user that is: {failure}")
        return canonical.reveal()

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
        if flow.masked:
            await self._probe(flow, began)
            return outcome
        proof = await self._bounded("log_in", partial(self._transport.log_in, case_of(flow), new.secret), began)
        return Accepted() if isinstance(proof, Accepted) else outcome

    async def challenge(self, case: Case) -> Accepted | Rejected | NotActed:
        """Ask for the question, a few times if the broker can't be reached: asking changes nothing there."""
        for earlier in range(CHALLENGES):
            if earlier:
                await asyncio.sleep(CHALLENGE_PAUSE * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
            started = time.monotonic()
            outcome = await self._bounded("challenge", partial(self._transport.challenge, case), uptime(), case.user)
            outcome = with_scrubbed_question(outcome, case.user)
            if isinstance(outcome, (Accepted, Rejected)):
                self._durations.note("challenge", time.monotonic() - started)
            await self._pad(started)
            known: Accepted | Rejected | NotActed
            known = NotActed(detail=outcome.detail) if isinstance(outcome, Unknown) else outcome
            if not isinstance(known, NotActed) or known.cause is not Cause.UNAVAILABLE:
                break
        return known

    async def aclose(self) -> None:
        """Have the transport let go of what it opened; what it raises then, or how long it takes, disturbs nobody."""
        _, failure = await attempt(self._transport.aclose, self._deadlines.within(self._deadline * GRACE))
        if failure:
            logger.warning("the transport could not be closed: %s", failure)

    async def _call_once(self, flow: FlowData, new: NewCredential | None, began: float) -> Outcome:
        if not self._in_time(began):
            return NotActed(detail="the lease ran out before the call began")
        assert flow.intent is not None
        route = COMMANDS[flow.intent.command].call
        assert route is not None
        started = time.monotonic()
        outcome: Outcome
        if flow.masked:
            outcome = await self._pretend(route, flow, began)
        else:
            call = partial(self._start_call, route, flow, new)
            typed = (new.secret, *new.details.values()) if new else (flow.intent.secret,)
            sent = (flow.user, flow.answer, flow.token, flow.continuation, *typed)
            outcome = await self._bounded(route.name.lower(), call, began, *sent)
            if isinstance(outcome, Accepted) and outcome.sent_to and not self._tells_where(flow):
                outcome = attrs.evolve(outcome, sent_to=None)
            if isinstance(outcome, (Accepted, Rejected)):
                self._durations.note(route.name, time.monotonic() - started)
        await self._pad(started)
        return outcome

    async def _pretend(self, route: Call, flow: FlowData, began: float) -> Outcome:
        """Return what a broker would say that knew the user, as late as it would; or the fault that it has now."""
        assert flow.intent is not None
        probe, took = await self._probe(flow, began)
        if isinstance(probe, (Unknown, NotActed)):
            return probe
        as_long = self._durations.like(route.name, took, probed=self._probes)
        self._durations.note("probe", took)
        await asyncio.sleep(max(0.0, as_long - took - TIMER))
        accepts = route is Call.REQUEST and not flow.question  # else an answer goes with it, and is wrong
        return Accepted() if accepts else Rejected(about=Step.CODE)

    async def _probe(self, flow: FlowData, began: float) -> tuple[Outcome, float]:
        """Make a harmless request, if there is one. Return what came of it, and how long it took."""
        if not self._probes:
            return Accepted(), 0.0
        started = time.monotonic()
        call = partial(self._transport.probe, case_of(flow))
        outcome = await self._bounded("probe", call, began, flow.user, flow.continuation)
        return outcome, time.monotonic() - started

    def _tells_where(self, flow: FlowData) -> bool:
        """Return whether anybody may see where a code went: it would tell who is known to the broker."""
        return self._answers_alike or not flow.limits.mask_unknown_users

    async def _pad(self, began: float) -> None:
        """Wait until a call that began then has taken as long as the response floor, if there is one."""
        if (left := self._floor - (time.monotonic() - began)) > 0:
            await asyncio.sleep(left)

    async def _bounded(
        self, route: str, call: Callable[[], Awaitable[Outcome]], began: float, *sent: str | bytes | Secret | None
    ) -> Outcome:
        """
        Make a call in the time that is left, and take what was sent out of its outcome. A transport that breaks its
        contract leaves the outcome unknown.
        """
        outcome = await self._tracer.during(self._in_time_left(call, began), "call", route=route)
        outcome = scrubbed(outcome, *sent)
        self._tracer.count("outcome", route=route, outcome=type(outcome).__name__)
        return outcome

    async def _in_time_left(self, call: Callable[[], Awaitable[Outcome]], began: float) -> object:
        left = self._lease - (uptime() - began)
        # A bit more than its deadline, and less than what is left of the lease.
        patience = min(self._deadline * GRACE, (self._deadline + left) / 2)
        outcome, failure = await attempt(call, self._deadlines.within(patience))
        return Unknown(detail=failure) if failure else outcome

    def _in_time(self, began: float) -> bool:
        """Return whether a whole deadline fits into the rest of the lease."""
        return self._lease - (uptime() - began) > self._deadline

    def _start_call(self, route: Call, flow: FlowData, new: NewCredential | None) -> Awaitable[Outcome]:
        intent = flow.intent
        assert intent is not None
        case = case_of(flow, intent.write_id.hex())
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


class Durations:
    """How long calls lately took that the broker answered, for those that are only pretended."""

    def __init__(self) -> None:
        self._took: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))

    def note(self, route: str, took: float) -> None:
        """Remember how long a call of this route took."""
        self._took[route].append(took)

    def like(self, route: str, took: float, *, probed: bool) -> float:
        """
        Return how long a call of this route would take now: it has the rank among the last ones that the probe has
        among its own, so that both are late when the broker is slow. Where none was made yet, that is as long as the
        probe took; or the question, if nothing could be probed.
        """
        real = sorted(self._took[route] or ([] if probed else self._took["challenge"]))
        if not real:
            return took
        probes = sorted((*self._took["probe"], took))
        return real[int((bisect_left(probes, took) + 0.5) / len(probes) * len(real))]
