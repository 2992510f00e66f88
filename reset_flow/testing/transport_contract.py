"""The contract of a transport: for authors of transports."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from reset_flow.domain.capabilities import Capabilities
from reset_flow.domain.flow import Step
from reset_flow.domain.outcomes import Accepted, Cause, NotActed, Rejected, Unknown
from reset_flow.testing.checked_reset import CheckedReset
from reset_flow.testing.fault_proxy import RETRY_AFTER, Fault, FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from reset_flow.domain.outcomes import Outcome
    from reset_flow.ports import Transport
    from reset_flow.testing.checked_reset import Provider

__all__ = ["TransportContract"]

CALLS = ("challenge", "request", "exchange", "update", "log_in", "probe")
HANGS = (Fault.HANG_BEFORE, Fault.HANG_AFTER)
HEARD = (Fault.CUT_AFTER, Fault.LONG_AFTER, Fault.COMPRESSED_AFTER)
"""The faults under which a transport that listens well hears what the provider said."""
THROTTLED = {Fault.THROTTLED: None, Fault.THROTTLED_FOR_A_WHILE: timedelta(seconds=RETRY_AFTER)}
"""The faults that ask for patience, and for how long."""


class TransportContract:
    """
    Tests for a transport of your own: one for each promise of the `Transport` port, over a provider on loopback.

    Needs pytest, and pytest-asyncio with `asyncio_mode = "auto"`. Subclass it, provide a `Provider` that serves (one
    for all tests will do: each test adds a user of its own), and make transports for an address::

        import pytest

        from my_package import MyTransport
        from my_package.tests import MyProvider
        from reset_flow.testing import TransportContract


        class TestMyTransport(TransportContract):
            weak_password = "abc123"

            @pytest.fixture
            async def provider(self):
                async with MyProvider() as provider:
                    yield provider

            def make_transport(self, url, deadline):
                return MyTransport(url, deadline=deadline)

    Attributes:
        weak_password: One that the provider refuses, and that is in none of its messages.

        good_password: One that it takes, with and without a letter behind it.

        answer: The answer to the secret question of each user; `None` where the provider asks none.

        deadline: Of the transports in the tests of calls that are never answered. Others get half a minute.

        tolerance: How much longer a call may take, on a machine that is busy with other things.
    """

    weak_password: str
    good_password = 'Violet "tractor" sings at 5'  # noqa: S105 - nobody's
    answer: str | None = None
    deadline = timedelta(seconds=1)
    tolerance = timedelta(seconds=60)

    def make_transport(self, url: str, deadline: timedelta) -> Transport:
        """Return a transport to this address, which is that of the provider or of the fault proxy before it."""
        raise NotImplementedError

    def wrong_code(self, code: str) -> str:
        """Return a code of the same form that is not the right one."""
        last = {"0": "1", "B": "C", "b": "c"}.get(code[-1], "0" if code[-1].isdigit() else "b")
        return code[:-1] + (last.upper() if code[-1].isupper() else last)

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Run the tests that take a fault once for each."""
        if "fault" in metafunc.fixturenames:
            metafunc.parametrize("fault", [fault for fault in Fault if fault is not Fault.ECHO_AFTER], ids=str)

    @asynccontextmanager
    async def reset(self, provider: Provider) -> AsyncIterator[CheckedReset]:
        """Yield a reset of a new user over a new transport; what it opens is closed in the end."""
        async with FaultProxy(provider.url) as proxy, AsyncExitStack() as opened:

            def make(url: str, deadline: timedelta) -> Transport:
                transport = self.make_transport(url, deadline)
                opened.push_async_callback(transport.aclose)
                return transport

            yield CheckedReset(
                make,
                user=await provider.add_user(),
                answer=self.answer,
                provider=provider,
                proxy=proxy,
                tolerance=self.tolerance,
            )

    async def go_on(self, reset: CheckedReset, call: str) -> None:
        """Make the calls that come after one that was accepted: it brought all that they need."""
        for later in {"request": ("exchange", "update"), "exchange": ("update",)}.get(call, ()):
            outcome = await reset.play(later, self.good_password)
            assert isinstance(outcome, Accepted), f"{later} after an accepted {call}: {outcome!r}"

    async def finish(self, reset: CheckedReset) -> None:
        """Carry a reset to its end with another code and another password, wherever it stands."""
        password = self.good_password + "2"
        outcome = await reset.request()
        assert isinstance(outcome, Accepted), f"another request: {outcome!r}"
        outcome = await reset.spend(await reset.newest_code(), password)
        assert isinstance(outcome, Accepted), f"another code and password: {outcome!r}"
        assert await reset.accepts(password), "the new password does not work"

    async def test_it_says_who_it_is_and_what_it_can(self, provider: Provider) -> None:
        async with self.reset(provider) as reset:
            transport = reset.transport
            assert isinstance(transport.name, str), "a name is a text"
            assert transport.name.split() == [transport.name], "a name has no spaces and is not empty"
            assert isinstance(transport.capabilities, Capabilities)
            assert transport.deadline > timedelta(0)
            user = transport.canonical_user(reset.user)
            assert user == transport.canonical_user(user), "canonical_user gives another spelling the second time"

    # What a person does

    async def test_a_whole_reset(self, provider: Provider) -> None:
        async with self.reset(provider) as reset:
            outcome = await reset.challenge()
            assert isinstance(outcome, Accepted), f"challenge: {outcome!r}"
            asks = bool(outcome.value)
            assert self.answer or not asks, "there is a question, but the contract has no answer"
            if asks:
                outcome = await reset.request("no " + (self.answer or ""))
                assert isinstance(outcome, Rejected), f"a wrong answer: {outcome!r}"
            outcome = await reset.request()
            assert isinstance(outcome, Accepted), f"request: {outcome!r}"
            outcome = await reset.verify(await reset.newest_code())
            assert isinstance(outcome, Accepted), f"exchange: {outcome!r}"
            assert not await reset.accepts(self.good_password), "the new password works before it was sent"
            outcome = await reset.update(self.good_password)
            assert isinstance(outcome, Accepted), f"update: {outcome!r}"
            assert await reset.accepts(self.good_password), "the new password does not work"

    async def test_a_wrong_code_is_refused_and_the_right_one_still_goes(self, provider: Provider) -> None:
        async with self.reset(provider) as reset:
            await reset.request()
            code = await reset.newest_code()
            outcome = await reset.spend(self.wrong_code(code), self.good_password)
            self.check_refused_code(reset, outcome)
            assert not await reset.accepts(self.good_password), "a wrong code has set the password"
            outcome = await reset.spend(code, self.good_password)
            assert isinstance(outcome, Accepted), f"the right code: {outcome!r}"

    async def test_a_weak_password_is_refused_and_a_good_one_still_goes(self, provider: Provider) -> None:
        async with self.reset(provider) as reset:
            await reset.request()
            outcome = await reset.spend(await reset.newest_code(), self.weak_password)
            assert isinstance(outcome, Rejected), f"a weak password: {outcome!r}"
            assert outcome.about is None, f"a weak password is not about the code: {outcome!r}"
            outcome = await reset.update(self.good_password)
            assert isinstance(outcome, Accepted), f"a good password: {outcome!r}"
            assert await reset.accepts(self.good_password), "the new password does not work"

    async def test_a_code_can_be_spent_once(self, provider: Provider) -> None:
        async with self.reset(provider) as reset:
            await reset.request()
            code = await reset.newest_code()
            await reset.spend(code, self.good_password)
            self.check_refused_code(reset, await reset.spend(code, self.good_password + "2"))
            outcome = await reset.update(self.good_password + "2")
            assert isinstance(outcome, Rejected), f"a spent token: {outcome!r}"
            assert await reset.accepts(self.good_password), "the new password does not work any more"

    async def test_after_a_reset_another_one_goes(self, provider: Provider) -> None:
        async with self.reset(provider) as reset:
            await reset.reach("log_in", self.good_password)
            await self.finish(reset)

    async def test_log_in_accepts_the_right_password_alone(self, provider: Provider) -> None:
        async with self.reset(provider) as reset:
            outcome = await reset.log_in(self.good_password)
            assert not isinstance(outcome, Accepted), "log_in accepts a password before it was set"
            sends = await reset.reach("log_in", self.good_password)
            outcome = await reset.log_in(self.good_password)
            assert isinstance(outcome, Accepted if sends else NotActed), f"log_in, the right password: {outcome!r}"
            for wrong in ("", self.good_password[:-1], self.good_password + "2", self.good_password.swapcase()):
                outcome = await reset.log_in(wrong)
                assert not isinstance(outcome, Accepted), "log_in accepts a wrong password"

    async def test_a_probe_is_harmless(self, provider: Provider) -> None:
        async with self.reset(provider) as reset:
            for call in ("request", "exchange", "update"):
                assert host_is_up(await reset.probe()), "a probe says that the host is down"
                outcome = await reset.play(call, self.good_password)
                assert isinstance(outcome, Accepted), f"{call} after a probe: {outcome!r}"
            assert host_is_up(await reset.probe()), "a probe says that the host is down"

    # Where the calls are made

    async def test_a_new_instance_goes_on_from_the_stored_continuation(self, provider: Provider) -> None:
        async with self.reset(provider) as reset:
            for call in ("request", "exchange", "update"):
                outcome = await reset.play(call, self.good_password)
                assert isinstance(outcome, Accepted), f"{call} by a new instance: {outcome!r}"
                await reset.transport.aclose()
                reset.renew()
            await self.finish(reset)

    async def test_one_instance_serves_many_at_once(self, provider: Provider) -> None:
        async with self.reset(provider) as first:
            second = await first.another()
            for call in ("request", "exchange", "update"):
                for reset in (first, second):
                    outcome = await reset.play(call, f"{self.good_password}{reset is second:d}")
                    assert isinstance(outcome, Accepted), f"{call} beside another reset: {outcome!r}"
            assert await first.accepts(self.good_password + "0"), "the first one's password does not work"
            assert await second.accepts(self.good_password + "1"), "the second one's password does not work"

    async def test_one_event_loop_after_another_may_use_it(self, provider: Provider) -> None:
        async with self.reset(provider) as reset:
            reset.other_loops = True
            await reset.reach("log_in", self.good_password)
            reset.other_loops = False
            await self.finish(reset)

    async def test_after_aclose_nothing_is_sent(self, provider: Provider) -> None:
        for call in CALLS:
            async with self.reset(provider) as reset:
                if await reset.reach(call, self.good_password):
                    await reset.transport.aclose()
                    await reset.transport.aclose()
                    outcome = await reset.play(call, self.good_password)
                    assert isinstance(outcome, NotActed), f"{call} after aclose: {outcome!r}"
                    assert reset.arrived == 0, f"{call} is sent after aclose"

    # What happens on the way

    async def test_an_outcome_is_true_whatever_happens_on_the_way(self, provider: Provider, fault: Fault) -> None:
        for call in CALLS:
            async with self.reset(provider) as reset:
                if not await reset.reach(call, self.good_password):
                    continue
                if fault in HANGS:
                    reset.renew(deadline=self.deadline)
                reset.proxy.fault(fault)
                outcome = await reset.play(call, self.good_password)
                if fault in HANGS and not reset.arrived:  # the machine was held up until the time was up
                    reset.renew(deadline=20 * self.deadline)
                    outcome = await reset.play(call, self.good_password)
                said = f"{call} under {fault}: {outcome!r}"
                assert reset.arrived == 1, f"{call} under {fault} is sent {reset.arrived} times"
                if fault in THROTTLED:
                    assert isinstance(outcome, NotActed), said
                    assert outcome.cause is Cause.THROTTLED, said
                    assert outcome.retry_after == THROTTLED[fault], said
                elif fault in HEARD:
                    assert not isinstance(outcome, Rejected), said
                else:
                    assert isinstance(outcome, NotActed | Unknown), said
                if call == "probe" and fault not in HEARD:
                    assert not host_is_up(outcome), said
                if fault in HANGS:
                    reset.renew()
                if isinstance(outcome, Accepted):
                    await self.go_on(reset, call)
                await self.finish(reset)

    async def test_a_code_is_judged_though_the_reply_to_its_request_was_lost(self, provider: Provider) -> None:
        async with self.reset(provider) as reset:
            reset.proxy.fault(Fault.DROP_AFTER)
            await reset.request()
            outcome = await reset.spend(await reset.newest_code(), self.good_password)
            if not isinstance(outcome, Accepted):
                self.check_refused_code(reset, outcome)
            await self.finish(reset)

    async def test_where_connections_are_refused_nothing_has_happened(self, provider: Provider) -> None:
        for call in CALLS:
            async with self.reset(provider) as reset:
                if await reset.reach(call, self.good_password):
                    reset.renew(url=reset.proxy.refusing_url)
                    outcome = await reset.play(call, self.good_password)
                    assert isinstance(outcome, NotActed), f"{call}, no connection: {outcome!r}"
                    assert outcome.cause is Cause.UNAVAILABLE, f"{call}, no connection: {outcome!r}"

    async def test_nothing_that_was_sent_comes_back(self, provider: Provider) -> None:
        async with self.reset(provider) as reset:
            await reset.request()
            code, wrong = await reset.newest_code(), self.good_password + "2"
            echo = f"{reset.user} {self.wrong_code(code)} {code} {wrong} {self.weak_password}"
            for _ in range(3):
                reset.proxy.fault(Fault.ECHO_AFTER, echo=echo)
            assert not isinstance(await reset.spend(self.wrong_code(code), wrong), Accepted)
            await reset.spend(code, self.weak_password)
            await reset.log_in(wrong)

    def check_refused_code(self, reset: CheckedReset, outcome: Outcome) -> None:
        """Raise AssertionError if an outcome does not say that the code was refused."""
        assert isinstance(outcome, Rejected), f"a refused code: {outcome!r}"
        if not reset.transport.capabilities.verifies_code:
            assert outcome.about is Step.CODE, f"a code that is refused with the password: {outcome!r}"


def host_is_up(outcome: Outcome) -> bool:
    """Return what a probe says of the host."""
    return isinstance(outcome, Accepted | Rejected)
