"""For people who embed the library: a transport that says what it is told to, and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

import attrs

from reset_flow.domain.capabilities import Capabilities
from reset_flow.domain.flow import Credential, NewCredential
from reset_flow.domain.outcomes import Accepted, NotActed, Outcome, Rejected, Unknown
from reset_flow.domain.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reset_flow.ports import Case

__all__ = ["Held", "Part", "ScriptedCall", "ScriptedTransport"]

DEADLINE = timedelta(seconds=10)
CAPABILITIES = Capabilities(credentials=frozenset(Credential))


@attrs.frozen(kw_only=True)
class ScriptedCall:
    """
    One call that a scripted transport got. Shows no secret and no login.

    Attributes:
        name: `challenge`, `request`, `exchange`, `update`, `log_in` or `probe`.

        given: The answer, the code or the password that came with it; of an update, the new credential.

        token: Of an update.
    """

    name: str
    case: Case
    given: Secret | NewCredential | None = None
    token: Secret | None = None


Callback: TypeAlias = Callable[[ScriptedCall], Awaitable[Outcome]]
Part: TypeAlias = Outcome | BaseException | Callback
"""What to do with a call: return this, raise this, or await what this makes of it."""

DEFAULTS: dict[str, Outcome] = {
    "challenge": Accepted(value=Secret("What was the name of your first pet?")),
    "request": Accepted(),
    "exchange": Accepted(value=Secret("b5f1c2d0-scripted")),
    "update": Accepted(),
    "log_in": Accepted(),
    "probe": Accepted(),
}


@attrs.frozen(eq=False)
class Held:
    """
    A call that does not return before it is released.

    Attributes:
        arrived: Set once the call is there.

        released: To be set to let it return.

        left: Set once it is over, also by being cut off.
    """

    arrived: asyncio.Event = attrs.field(factory=asyncio.Event)
    released: asyncio.Event = attrs.field(factory=asyncio.Event)
    left: asyncio.Event = attrs.field(factory=asyncio.Event)


class ScriptedTransport:
    """
    A broker of a few lines: each call takes the next part of its script, and accepts when there is none left.

    ::

        transport = ScriptedTransport()
        transport.script(exchange=[Unknown(), Rejected(reasons=["spent"])], update=[OSError("gone")])
        held = transport.hold("request")

    Attributes:
        calls: Every call so far, in the order of arrival.

        closed: Whether `aclose` was called; calls are taken all the same.
    """

    def __init__(
        self,
        name: str = "scripted",
        *,
        deadline: timedelta = DEADLINE,
        capabilities: Capabilities = CAPABILITIES,
    ) -> None:
        self.name = name
        self.deadline = deadline
        self.capabilities = capabilities
        self.calls: list[ScriptedCall] = []
        self.closed = False
        self._parts: dict[str, deque[Part]] = {call: deque() for call in DEFAULTS}

    def __repr__(self) -> str:
        return f"ScriptedTransport(name={self.name!r})"

    def script(self, **parts: Iterable[Part]) -> None:
        """
        Queue parts by the name of the call that is to take them, behind those that are queued already.

        An exception is raised as it is, which no transport may do. A callback is awaited in the middle of the call, and
        gives the outcome.
        """
        if unknown := parts.keys() - DEFAULTS.keys():
            raise TypeError(f"a transport has no {', '.join(sorted(unknown))}")
        for call, queued in parts.items():
            self._parts[call].extend(queued)

    def hold(self, call: str, part: Part | None = None) -> Held:
        """Queue a part that waits to be released; without one, the call is accepted then."""
        held = Held()

        async def wait(got: ScriptedCall) -> Outcome:
            held.arrived.set()
            try:
                await held.released.wait()
                return await self._play(DEFAULTS[call] if part is None else part, got)
            finally:
                held.left.set()

        self.script(**{call: [wait]})
        return held

    def unscript(self, *names: str) -> None:
        """Forget what is scripted for calls of these names and has not been played."""
        for name in names:
            self._parts[name].clear()

    def calls_of(self, name: str) -> list[ScriptedCall]:
        """Return the calls of one name, in the order of arrival."""
        return [call for call in self.calls if call.name == name]

    def canonical_user(self, user: str) -> str:
        """Case and outer spaces make no other user."""
        return user.strip().casefold()

    async def challenge(self, case: Case) -> Outcome:
        """As scripted; by default, there is a question."""
        return await self._next(ScriptedCall(name="challenge", case=case))

    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        """As scripted."""
        return await self._next(ScriptedCall(name="request", case=case, given=answer))

    async def exchange(self, case: Case, code: Secret) -> Outcome:
        """As scripted; by default, there is a token."""
        return await self._next(ScriptedCall(name="exchange", case=case, given=code))

    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        """As scripted."""
        return await self._next(ScriptedCall(name="update", case=case, given=new, token=token))

    async def log_in(self, case: Case, password: Secret) -> Outcome:
        """As scripted."""
        return await self._next(ScriptedCall(name="log_in", case=case, given=password))

    async def probe(self, case: Case) -> Outcome:
        """As scripted; by default, the host is up."""
        return await self._next(ScriptedCall(name="probe", case=case))

    async def aclose(self) -> None:
        """As the port says."""
        self.closed = True

    async def _next(self, call: ScriptedCall) -> Outcome:
        self.calls.append(call)
        parts = self._parts[call.name]
        return await self._play(parts.popleft() if parts else DEFAULTS[call.name], call)

    @staticmethod
    async def _play(part: Part, call: ScriptedCall) -> Outcome:
        if isinstance(part, BaseException):
            raise part
        if isinstance(part, Accepted | Rejected | NotActed | Unknown):
            return part
        return await part(call)
