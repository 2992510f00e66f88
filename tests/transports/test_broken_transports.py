"""The contract finds out a transport that breaks one promise."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from msgspec.structs import replace

from reset_flow import Accepted, Case, Cause, NewCredential, NotActed, Outcome, Rejected, Secret, Step, Unknown
from reset_flow.testing import Fault, TransportContract
from tests.transports.accounts_server import KEY, AccountsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from reset_flow import Transport

PAGE = Path(__file__).parents[2] / "docs" / "providers.md"


def accounts_transport(url: str, deadline: timedelta) -> Transport:
    """Return the transport that the page builds."""
    snippet = re.search(r"<!-- file: accounts.py -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert snippet
    names: dict[str, Any] = {}
    exec(snippet[1], names)  # noqa: S102 - the page is ours
    made: Transport = names["AccountsTransport"](url, KEY, deadline=deadline)
    return made


class Honest:
    """Passes everything on."""

    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        self.name = inner.name
        self.deadline = inner.deadline
        self.capabilities = inner.capabilities

    def canonical_user(self, user: str) -> str:
        return self.inner.canonical_user(user)

    async def challenge(self, case: Case) -> Outcome:
        return await self.inner.challenge(case)

    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        return await self.inner.request(case, answer)

    async def exchange(self, case: Case, code: Secret) -> Outcome:
        return await self.inner.exchange(case, code)

    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        return await self.inner.update(case, token, new)

    async def log_in(self, case: Case, password: Secret) -> Outcome:
        return await self.inner.log_in(case, password)

    async def probe(self, case: Case) -> Outcome:
        return await self.inner.probe(case)

    async def aclose(self) -> None:
        await self.inner.aclose()


class Stalls(Honest):
    """Is on a machine that does nothing for longer than the deadline."""

    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        if self.deadline == TransportContract.deadline:
            asyncio.get_running_loop().call_soon(time.sleep, 1.5 * self.deadline.total_seconds())
        return await super().update(case, token, new)


class Repeats(Honest):
    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        outcome = await super().update(case, token, new)
        return await super().update(case, token, new) if isinstance(outcome, Unknown) else outcome


class TakesSilenceForNo(Honest):
    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        outcome = await super().request(case, answer)
        return NotActed(detail=outcome.detail) if isinstance(outcome, Unknown) else outcome


class TakesSilenceForYes(Honest):
    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        outcome = await super().update(case, token, new)
        return Accepted() if isinstance(outcome, Unknown) else outcome


class TakesHalfForWhole(Honest):
    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        outcome = await super().request(case, answer)
        return Accepted() if isinstance(outcome, Unknown) and "HTTP 202" in outcome.detail else outcome


class SaysTooMuch(Honest):
    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        outcome = await super().update(case, token, new)
        return Unknown(detail=f"no reply to {new.secret.reveal()}") if isinstance(outcome, Unknown) else outcome


class RepeatsThePassword(Honest):
    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        outcome = await super().update(case, token, new)
        return (
            attrs.evolve(outcome, reasons=[f"no {new.secret.reveal()}"]) if isinstance(outcome, Rejected) else outcome
        )


class Forgets(Honest):
    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        return attrs.evolve(await super().request(case, answer), continuation=None)


class Keeps(Honest):
    """Keeps in itself what belongs to a flow."""

    kept: bytes | None = None

    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        outcome = await super().request(case, answer)
        self.kept = outcome.continuation
        return attrs.evolve(outcome, continuation=None)

    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        return await super().update(replace(case, continuation=self.kept), token, new)


class NeedsTheReply(Honest):
    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        return await super().update(case, token, new) if case.continuation else NotActed(cause=Cause.PROTOCOL)


class BlamesThePassword(Honest):
    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        outcome = await super().update(case, token, new)
        return attrs.evolve(outcome, about=None) if isinstance(outcome, Rejected) else outcome


class BlamesTheCode(Honest):
    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        outcome = await super().update(case, token, new)
        return attrs.evolve(outcome, about=Step.CODE) if isinstance(outcome, Rejected) else outcome


class LetsAnybodyIn(Honest):
    async def log_in(self, case: Case, password: Secret) -> Outcome:
        outcome = await super().log_in(case, password)
        return Accepted() if isinstance(outcome, Rejected) else outcome


class LetsNobodyIn(Honest):
    async def log_in(self, case: Case, password: Secret) -> Outcome:
        await super().log_in(case, password)
        return Rejected()


class HasNoPatience(Honest):
    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        outcome = await super().request(case, answer)
        return NotActed() if isinstance(outcome, NotActed) else outcome


class ProbesByMail(Honest):
    async def probe(self, case: Case) -> Outcome:
        return attrs.evolve(await self.inner.request(case, None), continuation=None)


class ProbesNothing(Honest):
    async def probe(self, case: Case) -> Outcome:
        await super().probe(case)
        return NotActed(cause=Cause.PROTOCOL)


class NeverCloses(Honest):
    async def aclose(self) -> None:
        pass


class NeverReturns(Honest):
    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        outcome = await super().update(case, token, new)
        if isinstance(outcome, Unknown):
            await asyncio.Event().wait()
        return outcome


class LivesInOneLoop(Honest):
    loop: asyncio.AbstractEventLoop | None = None

    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        self.loop = self.loop or asyncio.get_running_loop()
        return await super().request(case, answer) if asyncio.get_running_loop() is self.loop else NotActed()


class DoubtsWithoutNeed(Honest):
    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        outcome = await super().request(case, answer)
        return Unknown() if isinstance(outcome, NotActed) else outcome


ON_THE_WAY = "test_an_outcome_is_true_whatever_happens_on_the_way"
BROKEN: list[tuple[type[Honest], str, Fault | None, str]] = [
    (Repeats, ON_THE_WAY, Fault.DROP_BEFORE, "update sent 2 requests"),
    (TakesSilenceForNo, ON_THE_WAY, Fault.DROP_AFTER, "request returned NotActed.*'mails': 1"),
    (TakesSilenceForYes, ON_THE_WAY, Fault.RESET_BEFORE, "update returned Accepted.*'resets': 0"),
    (TakesSilenceForYes, ON_THE_WAY, Fault.HTML_500_AFTER, "update under html_500_after: Accepted"),
    (TakesHalfForWhole, ON_THE_WAY, Fault.CUT_AFTER, "update after an accepted request: Rejected"),
    (SaysTooMuch, ON_THE_WAY, Fault.DROP_BEFORE, "update returned an outcome that repeats what was sent"),
    (RepeatsThePassword, "test_nothing_that_was_sent_comes_back", None, "update .* repeats what was sent"),
    (Forgets, "test_a_whole_reset", None, "update: Rejected"),
    (Keeps, "test_a_new_instance_goes_on_from_the_stored_continuation", None, "update by a new instance: Rejected"),
    (Keeps, "test_one_instance_serves_many_at_once", None, "update beside another reset: Rejected"),
    (BlamesThePassword, "test_a_wrong_code_is_refused_and_the_right_one_still_goes", None, "refused with the password"),
    (BlamesTheCode, "test_a_weak_password_is_refused_and_a_good_one_still_goes", None, "not about the code"),
    (LetsAnybodyIn, "test_log_in_accepts_the_right_password_alone", None, "log_in accepts a password before"),
    (LetsNobodyIn, "test_log_in_accepts_the_right_password_alone", None, "log_in, the right password: Rejected"),
    (NeedsTheReply, "test_a_code_is_judged_though_the_reply_to_its_request_was_lost", None, "a refused code: NotActed"),
    (HasNoPatience, ON_THE_WAY, Fault.THROTTLED, "request under throttled: NotActed"),
    (ProbesByMail, "test_a_probe_is_harmless", None, "probe returned Accepted.*'mails': 1"),
    (ProbesNothing, "test_a_probe_is_harmless", None, "a probe says that the host is down"),
    (NeverCloses, "test_after_aclose_nothing_is_sent", None, "after aclose: Accepted"),
    (NeverReturns, ON_THE_WAY, Fault.DROP_AFTER, "update did not return within its deadline"),
    (LivesInOneLoop, "test_one_event_loop_after_another_may_use_it", None, "another request: NotActed"),
    (DoubtsWithoutNeed, "test_where_connections_are_refused_nothing_has_happened", None, "no connection: Unknown"),
]


@pytest.fixture
async def provider() -> AsyncIterator[AccountsServer]:
    async with AccountsServer() as provider:
        yield provider


@pytest.mark.parametrize(
    ("kind", "sentence", "fault", "words"),
    [pytest.param(*each, id=f"{each[0].__name__}-{each[2] or each[1]}") for each in BROKEN],
)
async def test_a_broken_transport_is_found_out(
    provider: AccountsServer, kind: type[Honest], sentence: str, fault: Fault | None, words: str
) -> None:
    class Contract(TransportContract):
        weak_password = "abc123"
        honest = True

        def make_transport(self, url: str, deadline: timedelta) -> Transport:
            transport = accounts_transport(url, deadline)
            return Honest(transport) if self.honest else kind(transport)

    class BrokenContract(Contract):
        honest = False
        tolerance = timedelta(seconds=-29) if kind is NeverReturns else Contract.tolerance

    arguments = (provider,) if fault is None else (provider, fault)
    await getattr(Contract(), sentence)(*arguments)
    with pytest.raises(AssertionError, match=words):
        await getattr(BrokenContract(), sentence)(*arguments)


async def test_a_machine_that_stalls_is_no_fault_of_the_transport(provider: AccountsServer) -> None:
    class Contract(TransportContract):
        weak_password = "abc123"

        def make_transport(self, url: str, deadline: timedelta) -> Transport:
            return Stalls(accounts_transport(url, deadline))

    await Contract().test_an_outcome_is_true_whatever_happens_on_the_way(provider, Fault.HANG_BEFORE)
