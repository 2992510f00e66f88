"""Whole resets of a real django-allauth, each command by a service of its own over the same SQLite file."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reset_flow import (
    AllauthTransport,
    BrokerUnavailable,
    CodeFormat,
    CodeRejected,
    Flow,
    Keyring,
    PasswordRejected,
    PasswordRules,
    Policy,
    ResetService,
    SQLiteStore,
    State,
    Step,
    Unknown,
    UnknownUser,
)
from reset_flow.testing import refused
from tests.transports.allauth.site import Mode, Site, did

if TYPE_CHECKING:
    from pathlib import Path

    from reset_flow import Case, NewCredential, Outcome, Secret
    from reset_flow.testing import Counts

PASSWORD = "violet tractor 5"
POLICY = Policy(resend_cooldown=timedelta(0), password=PasswordRules(min_length=1))
BY_CODE = pytest.mark.parametrize("mode", ["letters", "digits"], indirect=True)
BY_LINK = pytest.mark.parametrize("mode", ["link"], indirect=True)


class LossyTransport(AllauthTransport):
    """
    Loses replies.

    Attributes:
        losing: The calls whose next reply is lost.
    """

    losing: frozenset[str] = frozenset()

    def _lose(self, call: str, outcome: Outcome) -> Outcome:
        lost, self.losing = call in self.losing, self.losing - {call}
        return Unknown(detail="ServerDisconnectedError") if lost else outcome

    async def request(self, case: Case, answer: Secret | None) -> Outcome:
        return self._lose("request", await super().request(case, answer))

    async def exchange(self, case: Case, code: Secret) -> Outcome:
        return self._lose("exchange", await super().exchange(case, code))

    async def update(self, case: Case, token: Secret, new: NewCredential) -> Outcome:
        return self._lose("update", await super().update(case, token, new))


class Person:
    """Somebody who resets a password. Each command is given to a new service, as in another process."""

    def __init__(self, site: Site, mode: Mode, folder: Path, user: str, policy: Policy = POLICY) -> None:
        self.user = user
        self.site = site
        self._mode = mode
        self._folder = folder
        self._policy = policy
        self._flow_id = ""

    async def start(self, *, loses: str = "") -> Flow:
        return await self._does("start", self.user, loses=loses)

    async def resend(self, *, loses: str = "") -> Flow:
        return await self._does("resend", self._flow_id, loses=loses)

    async def types(self, code: str | None = None, *, loses: str = "") -> Flow:
        """Type a code; without one, that of the newest e-mail."""
        text = code or await self.site.newest_code(self.user)
        return await self._does("verify", self._flow_id, text, loses=loses)

    async def sets(self, password: str = PASSWORD, *, loses: str = "") -> Flow:
        return await self._does("set_password", self._flow_id, password, loses=loses)

    async def _does(self, command: str, *given: str, loses: str) -> Flow:
        transport = LossyTransport(self.site.url, code=self._mode.code, answers_alike=True)
        transport.losing = frozenset([loses])
        store, keyring = SQLiteStore(self._folder / "flows.db"), Keyring.load_or_create(self._folder / "keys")
        async with ResetService(transport, store, keyring, policy=self._policy, sweep=False) as service:
            flow: Flow = await getattr(service, command)(*given)
        self._flow_id = flow.id
        assert not transport.losing - {""}, "a reply was to be lost, but there was no such call"
        return flow

    async def counts(self) -> Counts:
        return await self.site.counts(self.user)


@pytest.fixture
async def person(site: Site, mode: Mode, tmp_path: Path) -> Person:
    return Person(site, mode, tmp_path, await site.add_user())


@pytest.fixture
def stranger(site: Site, mode: Mode, tmp_path: Path, person: Person) -> Person:
    """Resets the password of nobody."""
    return Person(site, mode, tmp_path, f"nobody.{person.user}")


async def test_a_whole_reset(person: Person) -> None:
    flow = await person.start()
    assert (flow.state, flow.expects, flow.question) == (State.QUESTION_ANSWERED, Step.CODE, None)
    flow = await person.types()
    assert (flow.state, flow.expects) == (State.TOKEN_ISSUED, Step.PASSWORD)
    flow = await person.sets()
    assert (flow.state, flow.in_doubt) == (State.PASSWORD_SET, None)
    triggers = ["question_waived", "code_accepted", "token_granted", "password_accepted"]
    assert [step.trigger for step in flow.history] == triggers
    assert await person.counts() == did(mails=1, attempts=2, resets=1)
    assert await person.site.accepts(person.user, PASSWORD)


async def test_after_a_wrong_code_and_a_weak_password_come_the_right_ones(person: Person, mode: Mode) -> None:
    await person.start()
    await refused(person.types(mode.wrong), CodeRejected)
    await person.types()
    error = await refused(person.sets("tiny"), PasswordRejected)
    assert "This password is too short" in str(error)
    assert (await person.sets()).state is State.PASSWORD_SET
    assert (await person.counts()).resets == 1


@BY_CODE
async def test_after_three_wrong_codes_the_person_asks_for_another(person: Person, mode: Mode) -> None:
    await person.start()
    for _ in range(3):
        await refused(person.types(mode.wrong), CodeRejected)
    error = await refused(person.types(), CodeRejected)
    assert error.flow
    assert error.flow.attempts_left == 1
    assert [reason.code for reason in error.reasons] == ["another_code"]
    await person.resend()
    await person.types()
    assert (await person.sets()).state is State.PASSWORD_SET
    assert await person.counts() == did(mails=2, attempts=5, resets=1)


async def test_who_is_too_slow_with_the_password_goes_back_for_another_code(person: Person) -> None:
    await person.start()
    await person.types()
    await person.site.change(ACCOUNT_PASSWORD_RESET_BY_CODE_TIMEOUT=-1, PASSWORD_RESET_TIMEOUT=-1)
    error = await refused(person.sets(), CodeRejected)
    assert error.flow
    assert (error.flow.state, error.flow.in_doubt) == (State.QUESTION_ANSWERED, None)
    await person.site.change()
    await person.resend()
    await person.types()
    assert (await person.sets()).state is State.PASSWORD_SET
    assert (await person.counts()).resets == 1


async def test_known_and_unknown_users_look_alike(person: Person, stranger: Person, mode: Mode) -> None:
    known, unknown = [await each.start() for each in (person, stranger)]
    for _ in range(4):
        assert (known.state, known.expects, known.attempts_left) == (
            unknown.state, unknown.expects, unknown.attempts_left,
        )  # fmt: skip
        errors = [await refused(each.types(mode.wrong), CodeRejected) for each in (person, stranger)]
        assert str(errors[0]) == str(errors[1])
        assert errors[0].flow
        assert errors[1].flow
        known, unknown = (errors[0].flow, errors[1].flow)
    by_link = mode.code == CodeFormat.token()
    assert await person.counts() == await stranger.counts() == did(mails=1, attempts=0 if by_link else 3)


async def test_where_the_site_tells_who_is_known_the_service_masks_it(
    person: Person, stranger: Person, mode: Mode
) -> None:
    await person.site.change(ACCOUNT_PREVENT_ENUMERATION=False)
    assert (await person.start()).state is (await stranger.start()).state is State.QUESTION_ANSWERED
    errors = [await refused(each.types(mode.wrong), CodeRejected) for each in (person, stranger)]
    assert str(errors[0]) == str(errors[1])
    assert await stranger.counts() == did()


async def test_where_nothing_is_masked_an_unknown_user_is_refused(site: Site, mode: Mode, tmp_path: Path) -> None:
    await site.change(ACCOUNT_PREVENT_ENUMERATION=False)
    nobody = Person(site, mode, tmp_path, "nobody@shop.test", Policy(mask_unknown_users=False))
    error = await refused(nobody.start(), UnknownUser)
    assert "not assigned to any user account" in str(error)


async def test_a_start_too_many_can_be_tried_again(person: Person) -> None:
    await person.site.change(ACCOUNT_RATE_LIMITS={"reset_password": "1/m/ip"})
    await person.start()
    await refused(person.start(), BrokerUnavailable)
    assert (await person.counts()).mails == 1
    await person.site.change()
    await person.resend()
    assert (await person.counts()).mails == 2


# Replies that were lost.


@BY_CODE
async def test_a_start_without_its_reply_needs_another_code(person: Person) -> None:
    flow = await person.start(loses="request")
    assert (flow.state, flow.in_doubt) == (State.QUESTION_ANSWERED, Step.ANSWER)
    await refused(person.types(), CodeRejected)
    flow = await person.resend()
    assert flow.in_doubt is None
    await person.types()
    assert (await person.sets()).state is State.PASSWORD_SET
    assert await person.counts() == did(mails=2, attempts=2, resets=1)


@BY_LINK
async def test_a_start_without_its_reply_needs_no_other_link(person: Person) -> None:
    flow = await person.start(loses="request")
    assert flow.in_doubt is Step.ANSWER
    flow = await person.types()
    assert flow.in_doubt is None
    assert (await person.sets()).state is State.PASSWORD_SET
    assert await person.counts() == did(mails=1, attempts=2, resets=1)


async def test_of_a_resend_without_its_reply_the_newest_code_counts(person: Person) -> None:
    await person.start()
    flow = await person.resend(loses="request")
    assert flow.in_doubt
    await person.types()
    assert (await person.sets()).state is State.PASSWORD_SET
    assert await person.counts() == did(mails=2, attempts=2, resets=1)


async def test_a_code_whose_reply_is_lost_is_sent_once_more(person: Person) -> None:
    await person.start()
    flow = await person.types(loses="exchange")
    assert (flow.state, flow.in_doubt) == (State.TOKEN_ISSUED, None)
    assert (await person.sets()).state is State.PASSWORD_SET
    assert await person.counts() == did(mails=1, attempts=3, resets=1)


async def test_a_password_whose_reply_is_lost_is_proved_by_a_log_in(person: Person) -> None:
    await person.start()
    await person.types()
    flow = await person.sets(loses="update")
    assert (flow.state, flow.in_doubt) == (State.PASSWORD_SET, None)
    assert (await person.counts()).resets == 1
    assert await person.site.accepts(person.user, PASSWORD)
