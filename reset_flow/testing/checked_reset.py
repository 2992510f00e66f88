"""For authors of transports: one reset, call by call, with a look at each outcome."""

from __future__ import annotations

import asyncio
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from reset_flow.domain.flow import NewCredential
from reset_flow.domain.outcomes import Accepted, NotActed, Outcome, Rejected, Unknown
from reset_flow.domain.secret import Secret
from reset_flow.ports import Case
from reset_flow.testing.leaks import SHORTEST, LeakScanner

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from reset_flow.ports import Transport
    from reset_flow.testing.fault_proxy import FaultProxy

__all__ = ["CheckedReset", "Counts", "Provider"]

PATIENT = timedelta(seconds=30)
"""The deadline of transports that are not to be cut off."""

DEEDS = {"request": "mails", "exchange": "attempts", "update": "resets"}
"""The calls that change something, and what the provider counts of each."""

CALLS_BEFORE = {"exchange": 1, "update": 2, "log_in": 3, "probe": 1}
"""How many of those come before a call."""


@attrs.frozen(kw_only=True)
class Counts:
    """
    What a provider has done so far about one user, by its own database or log.

    Attributes:
        mails: Codes or links sent.

        attempts: Codes judged, right ones and wrong ones.

        resets: New passwords set.
    """

    mails: int
    attempts: int
    resets: int


class Provider(Protocol):
    """
    A provider that serves on loopback, as the contract needs it. Limits on how often it may be asked are off.

    Attributes:
        url: As it is given to the transport.
    """

    url: str

    async def add_user(self) -> str:
        """Add a user with a login of at least four characters, and return the login."""
        ...

    async def newest_code(self, user: str) -> str:
        """Return the code, or the token of the link, in the newest e-mail to the user, as a transport takes it."""
        ...

    async def counts(self, user: str) -> Counts:
        """Return what was done about the user so far."""
        ...

    async def accepts(self, user: str, password: str) -> bool:
        """Return whether the password works. Ask the provider itself, not the transport."""
        ...


class CheckedReset:
    """
    One reset through the fault proxy, as the engine makes the calls: each gets the continuation that came last.

    Every outcome is held to what the port promises of all: it comes in time, it agrees with the provider's counters,
    and it repeats nothing that was sent.

    Attributes:
        transport: Makes the next call.

        arrived: How many requests of the last call reached the proxy.

        token: Of the code that was accepted; the code itself where the provider takes it with the password.

        other_loops: Whether each call is made in an event loop of its own.

    Args:
        make: Makes a transport for an address and a deadline.
    """

    def __init__(
        self,
        make: Callable[[str, timedelta], Transport],
        *,
        transport: Transport | None = None,
        user: str,
        answer: str | None,
        provider: Provider,
        proxy: FaultProxy,
        tolerance: timedelta,
    ) -> None:
        self.transport = transport or make(proxy.url, PATIENT)
        self.user = user
        self.proxy = proxy
        self.arrived = 0
        self.token = Secret("")
        self.other_loops = False
        self._make = make
        self._answer = answer
        self._provider = provider
        self._tolerance = tolerance
        self._continuation: bytes | None = None

    def renew(self, *, url: str | None = None, deadline: timedelta = PATIENT) -> None:
        """Go on with a new transport, as another worker would."""
        self.transport = self._make(url or self.proxy.url, deadline)

    async def another(self) -> CheckedReset:
        """Return a reset of another user over the same transport."""
        return CheckedReset(
            self._make,
            transport=self.transport,
            user=await self._provider.add_user(),
            answer=self._answer,
            provider=self._provider,
            proxy=self.proxy,
            tolerance=self._tolerance,
        )

    async def reach(self, call: str, password: str) -> bool:
        """Go on to where a call comes. Return whether the call sends anything."""
        for earlier in list(DEEDS)[: CALLS_BEFORE.get(call, 0)]:
            outcome = await self.play(earlier, password)
            assert isinstance(outcome, Accepted), f"{earlier}: {outcome!r}"
        if call not in DEEDS:
            await self.play(call, password)
            return self.arrived > 0
        return call != "exchange" or self.transport.capabilities.verifies_code

    async def play(self, call: str, password: str) -> Outcome:
        """Make a call with what is right there."""
        match call:
            case "exchange":
                return await self.verify(await self.newest_code())
            case "update":
                return await self.update(password)
            case "log_in":
                return await self.log_in(password)
        plain: Callable[[], Coroutine[Any, Any, Outcome]] = getattr(self, call)
        return await plain()

    async def counts(self) -> Counts:
        """Return the provider's counters of the user."""
        return await self._provider.counts(self.user)

    async def newest_code(self) -> str:
        """Return the code in the newest e-mail."""
        return await self._provider.newest_code(self.user)

    async def accepts(self, password: str) -> bool:
        """Return whether the provider takes the password."""
        return await self._provider.accepts(self.user, password)

    async def challenge(self) -> Outcome:
        """Ask for the question."""
        return await self._checked("challenge", self.transport.challenge(self._case()))

    async def request(self, answer: str | None = None) -> Outcome:
        """Ask for a code, with the right answer if none is given."""
        text = self._answer if answer is None else answer
        secret = None if text is None else Secret(text)
        return await self._checked("request", self.transport.request(self._case(secrets.token_hex(8)), secret), text)

    async def verify(self, code: str) -> Outcome:
        """Type a code: exchange it, or only hold it where the provider takes it with the password."""
        if not self.transport.capabilities.verifies_code:
            self.arrived, self.token = 0, Secret(code)
            return Accepted()
        call = self.transport.exchange(self._case(secrets.token_hex(8)), Secret(code))
        outcome = await self._checked("exchange", call, code)
        if isinstance(outcome, Accepted):
            assert outcome.value, "exchange was accepted, but there is no token"
            self.token = outcome.value
        return outcome

    async def update(self, password: str) -> Outcome:
        """Spend the token on a new password."""
        call = self.transport.update(
            self._case(secrets.token_hex(8)), self.token, NewCredential(secret=Secret(password))
        )
        return await self._checked("update", call, password, self.token.reveal())

    async def spend(self, code: str, password: str) -> Outcome:
        """Type a code and, if it is accepted, a password."""
        outcome = await self.verify(code)
        return await self.update(password) if isinstance(outcome, Accepted) else outcome

    async def log_in(self, password: str) -> Outcome:
        """Try a password."""
        return await self._checked("log_in", self.transport.log_in(self._case(), Secret(password)), password)

    async def probe(self) -> Outcome:
        """Ask whether the host is up, where that can be asked."""
        if not self.transport.capabilities.probes:
            self.arrived = 0
            return Accepted()
        return await self._checked("probe", self.transport.probe(self._case()))

    def _case(self, attempt: str = "") -> Case:
        return Case(user=self.user, continuation=self._continuation, attempt=attempt)

    async def _checked(self, name: str, call: Coroutine[Any, Any, Outcome], *sent: str | None) -> Outcome:
        before, arrivals = await self.counts(), self.proxy.arrivals
        try:
            async with asyncio.timeout((self.transport.deadline + self._tolerance).total_seconds()):
                outcome = await (asyncio.to_thread(asyncio.run, call) if self.other_loops else call)
        except TimeoutError:
            raise AssertionError(f"{name} did not return within its deadline") from None
        await self.proxy.settled()
        self.arrived = self.proxy.arrivals - arrivals
        assert isinstance(outcome, Accepted | Rejected | NotActed | Unknown), f"{name} returned no outcome"
        assert self.arrived <= 1 or name not in DEEDS, f"{name} sent {self.arrived} requests"
        check_counts(name, outcome, before, await self.counts())
        check_words(name, outcome, self.user, *sent)
        if outcome.continuation is not None:
            self._continuation = outcome.continuation
        return outcome


def check_counts(name: str, outcome: Outcome, before: Counts, after: Counts) -> None:
    """Raise AssertionError if an outcome says something else than the provider's counters."""
    moved = {field: getattr(after, field) - getattr(before, field) for field in attrs.fields_dict(Counts)}
    said = f"{name} returned {outcome!r}, but the provider counts {moved}"
    assert max(moved.values()) <= 1, said
    if isinstance(outcome, NotActed) or name not in DEEDS:
        assert not any(moved.values()), said
    elif isinstance(outcome, Accepted):
        assert moved[DEEDS[name]] == 1, said
    elif isinstance(outcome, Rejected):
        assert moved["mails"] == moved["resets"] == 0, said


def check_words(name: str, outcome: Outcome, *sent: str | None) -> None:
    """Raise AssertionError if what anybody can read of an outcome repeats what was sent."""
    told = [
        getattr(outcome, "detail", ""),
        *map(str, getattr(outcome, "reasons", ())),
        getattr(outcome, "sent_to", None) or "",
    ]
    scanner = LeakScanner({f"text {n}": text for n, text in enumerate(sent) if text and len(text) >= SHORTEST})
    assert not scanner.find(repr(outcome), *told), f"{name} returned an outcome that repeats what was sent"
