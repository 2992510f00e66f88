"""What a real django-allauth makes of each call, and what the transport makes of its replies."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from reset_flow import (
    Accepted,
    AllauthTransport,
    Case,
    Cause,
    CodeFormat,
    ConfigurationError,
    NewCredential,
    NotActed,
    Reason,
    Rejected,
    Secret,
    Unknown,
)
from reset_flow.domain.flow import Step
from tests.transports.allauth.site import MODES, OLD_PASSWORD, did

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reset_flow import Outcome
    from tests.transports.allauth.conftest import MakeAllauth
    from tests.transports.allauth.site import Mode, Site

PASSWORD = "violet tractor 5"
NEW = NewCredential(secret=Secret(PASSWORD))
SPENT = Reason("another_code", "it is too old by now, or was tried too often: ask for another one")
BY_CODE = pytest.mark.parametrize("mode", ["letters", "digits"], indirect=True)
BY_LINK = pytest.mark.parametrize("mode", ["link"], indirect=True)
IN_ONE_MODE = pytest.mark.parametrize("mode", ["letters"], indirect=True)

CALLS: dict[str, Callable[[AllauthTransport, Case], Awaitable[Outcome]]] = {
    "request": lambda allauth, case: allauth.request(case, None),
    "exchange": lambda allauth, case: allauth.exchange(case, Secret("BBBBBBBB")),
    "update": lambda allauth, case: allauth.update(case, Secret("BBBBBBBB"), NEW),
    "log_in": lambda allauth, case: allauth.log_in(case, Secret(OLD_PASSWORD)),
    "probe": lambda allauth, case: allauth.probe(case),
}


async def request(allauth: AllauthTransport, case: Case) -> Case:
    """Have a code sent, and return the case as the engine would keep it."""
    outcome = await allauth.request(case, None)
    assert isinstance(outcome, Accepted), outcome
    return case if outcome.continuation is None else replace(case, continuation=outcome.continuation)


@pytest.fixture
async def asked(allauth: AllauthTransport, site: Site) -> Case:
    """The case of a user who has a code."""
    return await request(allauth, Case(user=await site.add_user()))


# Whole resets.


async def test_a_whole_reset(allauth: AllauthTransport, site: Site) -> None:
    case = Case(user=await site.add_user())
    assert await allauth.challenge(case) == Accepted(value=Secret(""))
    case = await request(allauth, case)
    assert await site.counts(case.user) == did(mails=1)
    token = await allauth.exchange(case, Secret(await site.newest_code(case.user)))
    assert isinstance(token, Accepted)
    assert token.value
    assert await site.counts(case.user) == did(mails=1, attempts=1)
    assert await allauth.update(case, token.value, NEW) == Accepted()
    assert await site.counts(case.user) == did(mails=1, attempts=2, resets=1)
    assert await site.accepts(case.user, PASSWORD)


async def test_another_instance_goes_on_from_the_continuation(make: MakeAllauth, site: Site) -> None:
    case = await request(make(), Case(user=await site.add_user()))
    code = Secret(await site.newest_code(case.user))
    assert await make().exchange(case, code) == Accepted(value=code)
    assert await make().update(case, code, NEW) == Accepted()
    assert await site.accepts(case.user, PASSWORD)


@pytest.mark.parametrize("verified", [True, False])
async def test_a_site_that_logs_people_in_after_a_reset(
    allauth: AllauthTransport, site: Site, *, verified: bool
) -> None:
    await site.change(ACCOUNT_LOGIN_ON_PASSWORD_RESET=True, ACCOUNT_EMAIL_VERIFICATION="mandatory")
    case = await request(allauth, Case(user=await site.add_user(verified=verified)))
    code = Secret(await site.newest_code(case.user))
    assert await allauth.update(case, code, NEW) == Accepted()
    again = await allauth.update(case, code, NEW)
    assert isinstance(again, Rejected)
    assert again.about is Step.CODE
    assert (await site.counts(case.user)).resets == 1


async def test_before_the_code_nothing_is_sent_for_a_question(make: MakeAllauth) -> None:
    nowhere = make("http://127.0.0.1:1/_allauth")
    assert await nowhere.challenge(Case(user="robert@shop.test")) == Accepted(value=Secret(""))


# Codes.


async def test_a_wrong_code_is_refused_and_the_right_one_taken(
    allauth: AllauthTransport, site: Site, asked: Case, mode: Mode
) -> None:
    by_link = mode.code == CodeFormat.token()
    words = "The password reset token was invalid." if by_link else "Incorrect code."
    assert await allauth.exchange(asked, Secret(mode.wrong)) == Rejected(reasons=[words], about=Step.CODE)
    assert await allauth.update(asked, Secret(mode.wrong), NEW) == Rejected(reasons=[words], about=Step.CODE)
    assert not await site.accepts(asked.user, PASSWORD)
    code = Secret(await site.newest_code(asked.user))
    assert await allauth.exchange(asked, code) == Accepted(value=code)


async def test_a_code_is_judged_as_often_as_it_is_typed_and_not_spent_by_that(
    allauth: AllauthTransport, site: Site, asked: Case
) -> None:
    code = Secret(await site.newest_code(asked.user))
    for _ in range(5):
        assert await allauth.exchange(asked, code) == Accepted(value=code)
    assert await allauth.update(asked, code, NEW) == Accepted()


@pytest.mark.parametrize("mode", ["letters"], indirect=True)
@pytest.mark.parametrize("typed", [str.lower, lambda code: code.replace("-", ""), lambda code: f" {code} "])
async def test_letters_are_taken_in_either_case_and_without_their_dash(
    allauth: AllauthTransport, site: Site, asked: Case, typed: Callable[[str], str]
) -> None:
    code = Secret(typed(await site.newest_code(asked.user)))
    assert await allauth.exchange(asked, code) == Accepted(value=code)
    assert await allauth.update(asked, code, NEW) == Accepted()


@BY_CODE
async def test_after_three_wrong_codes_another_one_must_be_asked_for(
    allauth: AllauthTransport, site: Site, asked: Case, mode: Mode
) -> None:
    right = Secret(await site.newest_code(asked.user))
    for _ in range(3):
        refused = Rejected(reasons=["Incorrect code."], about=Step.CODE)
        assert await allauth.exchange(asked, Secret(mode.wrong)) == refused
    assert await allauth.exchange(asked, right) == Rejected(reasons=[SPENT], about=Step.CODE)
    assert await allauth.update(asked, right, NEW) == Rejected(reasons=[SPENT], about=Step.CODE)
    again = await request(allauth, asked)
    newest = Secret(await site.newest_code(asked.user))
    assert await allauth.update(again, newest, NEW) == Accepted()
    assert await site.counts(asked.user) == did(mails=2, attempts=4, resets=1)


async def test_a_code_that_is_too_old_is_refused(allauth: AllauthTransport, site: Site, asked: Case) -> None:
    code = Secret(await site.newest_code(asked.user))
    await site.change(ACCOUNT_PASSWORD_RESET_BY_CODE_TIMEOUT=-1, PASSWORD_RESET_TIMEOUT=-1)
    for outcome in (await allauth.exchange(asked, code), await allauth.update(asked, code, NEW)):
        assert isinstance(outcome, Rejected)
        assert outcome.about is Step.CODE
        assert outcome.reasons
    assert not await site.accepts(asked.user, PASSWORD)


async def test_a_spent_code_is_refused(allauth: AllauthTransport, site: Site, asked: Case) -> None:
    code = Secret(await site.newest_code(asked.user))
    assert await allauth.update(asked, code, NEW) == Accepted()
    for outcome in (
        await allauth.exchange(asked, code),
        await allauth.update(asked, code, NEW),
        await allauth.update(asked, code, NewCredential(secret=Secret("another tractor 6"))),
    ):
        assert isinstance(outcome, Rejected)
        assert outcome.about is Step.CODE
    assert await site.accepts(asked.user, PASSWORD)
    assert (await site.counts(asked.user)).resets == 1


@BY_CODE
async def test_of_two_codes_the_newest_counts(allauth: AllauthTransport, site: Site, asked: Case) -> None:
    older = Secret(await site.newest_code(asked.user))
    again = await request(allauth, asked)
    assert again == asked, "it is the same session"
    newest = Secret(await site.newest_code(asked.user))
    assert isinstance(await allauth.exchange(again, older), Rejected)
    assert await allauth.exchange(again, newest) == Accepted(value=newest)


@BY_LINK
async def test_of_two_links_either_counts_until_one_is_used(allauth: AllauthTransport, site: Site, asked: Case) -> None:
    older = Secret(await site.newest_code(asked.user))
    await site.change(SECRET_KEY="of-somebody", SECRET_KEY_FALLBACKS=["of-nobody"])  # a link of the same second differs
    await request(allauth, asked)
    newest = Secret(await site.newest_code(asked.user))
    assert older != newest
    assert await allauth.exchange(asked, newest) == Accepted(value=newest)
    assert await allauth.update(asked, older, NEW) == Accepted()
    assert isinstance(await allauth.exchange(asked, newest), Rejected)


@BY_LINK
async def test_a_link_says_itself_whose_it_is(allauth: AllauthTransport, site: Site, asked: Case) -> None:
    stranger = await request(allauth, Case(user=await site.add_user()))
    assert await allauth.update(asked, Secret(await site.newest_code(stranger.user)), NEW) == Accepted()
    assert await site.accepts(stranger.user, PASSWORD)
    assert not await site.accepts(asked.user, PASSWORD)


@BY_CODE
async def test_a_code_counts_in_its_own_session_alone(allauth: AllauthTransport, site: Site, asked: Case) -> None:
    stranger = await request(allauth, Case(user=await site.add_user()))
    code = Secret(await site.newest_code(stranger.user))
    assert isinstance(await allauth.update(asked, code, NEW), Rejected)
    assert not await site.accepts(stranger.user, PASSWORD)
    assert not await site.accepts(asked.user, PASSWORD)


# Passwords.


async def test_a_weak_password_is_refused_in_the_words_of_the_site_and_a_good_one_taken(
    allauth: AllauthTransport, site: Site, asked: Case
) -> None:
    code = Secret(await site.newest_code(asked.user))
    for weak in ("tiny", "1234567"):
        outcome = await allauth.update(asked, code, NewCredential(secret=Secret(weak)))
        assert isinstance(outcome, Rejected)
        assert outcome.about is None
        assert "This password is too short. It must contain at least 8 characters." in outcome.reasons
    assert await allauth.update(asked, code, NEW) == Accepted()
    assert (await site.counts(asked.user)).resets == 1


@IN_ONE_MODE
@pytest.mark.parametrize("password", [" violet tractor 5", "violet tractor 5 ", "violet tractor 5\N{NO-BREAK SPACE}"])
async def test_a_password_that_the_site_would_cut_is_refused_unsent(
    allauth: AllauthTransport, site: Site, asked: Case, password: str
) -> None:
    code = Secret(await site.newest_code(asked.user))
    outcome = await allauth.update(asked, code, NewCredential(secret=Secret(password)))
    assert outcome == Rejected(reasons=["it must not begin or end with a space"])
    assert await site.counts(asked.user) == did(mails=1)
    await allauth.update(asked, code, NEW)
    assert isinstance(await allauth.log_in(asked, Secret(password)), NotActed)
    assert await allauth.log_in(asked, Secret(PASSWORD)) == Accepted()


@IN_ONE_MODE
async def test_letters_of_any_script_arrive_as_they_were_typed(
    allauth: AllauthTransport, site: Site, asked: Case
) -> None:
    password = 'пароль "\u212b"\\🦊 e\u0301'
    code = Secret(await site.newest_code(asked.user))
    assert await allauth.update(asked, code, NewCredential(secret=Secret(password))) == Accepted()
    assert await site.accepts(asked.user, password)
    assert await allauth.log_in(asked, Secret(password)) == Accepted()


# Replies that were lost.


@BY_CODE
async def test_without_the_reply_to_the_first_request_its_code_is_of_no_use_but_the_next_one_is(
    allauth: AllauthTransport, site: Site, asked: Case
) -> None:
    lost = replace(asked, continuation=None)
    code = Secret(await site.newest_code(lost.user))
    assert await allauth.exchange(lost, code) == Rejected(reasons=[SPENT], about=Step.CODE)
    again = await request(allauth, lost)
    newest = Secret(await site.newest_code(lost.user))
    assert await allauth.exchange(again, newest) == Accepted(value=newest)


@BY_LINK
async def test_without_any_reply_the_link_counts(allauth: AllauthTransport, site: Site) -> None:
    user = await site.add_user()
    await allauth.request(Case(user=user), None)
    code = Secret(await site.newest_code(user))
    assert await allauth.update(Case(user=user), code, NEW) == Accepted()


@BY_CODE
async def test_without_the_reply_to_a_later_request_its_code_counts(
    allauth: AllauthTransport, site: Site, asked: Case
) -> None:
    await allauth.request(asked, None)
    newest = Secret(await site.newest_code(asked.user))
    assert await allauth.exchange(asked, newest) == Accepted(value=newest)


@BY_CODE
async def test_a_session_that_is_gone_is_forgotten(allauth: AllauthTransport, site: Site) -> None:
    gone = Case(user=await site.add_user(), continuation=b"of-a-session-that-is-gone")
    for outcome in (await allauth.exchange(gone, Secret("BBBBBBBB")), await allauth.update(gone, Secret("B"), NEW)):
        assert outcome == Rejected(reasons=[SPENT], about=Step.CODE, continuation=b"")
    outcome = await allauth.request(gone, None)
    assert outcome == NotActed(detail="the session of this reset is gone", continuation=b"")
    assert await site.counts(gone.user) == did()
    again = await request(allauth, replace(gone, continuation=b""))
    code = Secret(await site.newest_code(gone.user))
    assert await allauth.exchange(again, code) == Accepted(value=code)


# Users that nobody knows.


async def test_known_and_unknown_users_look_alike(
    allauth: AllauthTransport, site: Site, asked: Case, mode: Mode
) -> None:
    stranger = await request(allauth, Case(user=f"nobody.{asked.user}"))
    assert (stranger.continuation is None) == (asked.continuation is None)
    calls: list[Callable[[Case], Awaitable[Outcome]]] = [
        lambda case: allauth.exchange(case, Secret(mode.wrong)),
        lambda case: allauth.update(case, Secret(mode.wrong), NEW),
        lambda case: allauth.exchange(case, Secret(mode.wrong)),
        lambda case: allauth.exchange(case, Secret(mode.wrong)),
        lambda case: allauth.request(case, None),
        lambda case: allauth.exchange(case, Secret(mode.wrong)),
        lambda case: allauth.log_in(case, Secret("wrong")),
    ]
    known, unknown = [[await call(case) for call in calls] for case in (asked, stranger)]
    assert known == unknown
    assert [isinstance(outcome, Accepted) for outcome in known] == [False] * 4 + [True] + [False] * 2
    assert await site.counts(asked.user) == await site.counts(stranger.user)


async def test_where_the_site_tells_who_is_known_a_request_is_refused(allauth: AllauthTransport, site: Site) -> None:
    await site.change(ACCOUNT_PREVENT_ENUMERATION=False)
    refused = Rejected(reasons=["The email address is not assigned to any user account."])
    assert await allauth.request(Case(user="nobody@shop.test"), None) == refused
    assert isinstance(await allauth.request(Case(user=await site.add_user()), None), Accepted)


async def test_who_gives_no_address_is_refused(allauth: AllauthTransport) -> None:
    assert await allauth.request(Case(user="robert.zak"), None) == Rejected(reasons=["Enter a valid email address."])


@pytest.mark.parametrize("spelling", [str.upper, str.title, lambda user: f" {user} "])
async def test_spellings_of_one_address_share_their_canonical_form(
    allauth: AllauthTransport, site: Site, spelling: Callable[[str], str]
) -> None:
    user = await site.add_user()
    assert allauth.canonical_user(spelling(user)) == allauth.canonical_user(user) == user
    await request(allauth, Case(user=spelling(user)))
    assert await site.counts(user) == did(mails=1)


# Log-ins.


@IN_ONE_MODE
async def test_a_log_in_accepts_the_right_password_alone(allauth: AllauthTransport, site: Site) -> None:
    case = Case(user=await site.add_user(), continuation=b"of-the-reset")
    wrong = Rejected(reasons=["The email address and/or password you specified are not correct."])
    assert await allauth.log_in(case, Secret(OLD_PASSWORD)) == Accepted()
    assert await allauth.log_in(case, Secret(PASSWORD)) == wrong
    assert await allauth.log_in(Case(user="nobody@shop.test"), Secret(OLD_PASSWORD)) == wrong


@IN_ONE_MODE
async def test_a_log_in_accepts_the_right_password_where_another_step_is_missing(
    allauth: AllauthTransport, site: Site
) -> None:
    await site.change(ACCOUNT_EMAIL_VERIFICATION="mandatory")
    case = Case(user=await site.add_user(verified=False))
    assert isinstance(await allauth.log_in(case, Secret(PASSWORD)), Rejected)
    assert await allauth.log_in(case, Secret(OLD_PASSWORD)) == Accepted()


@IN_ONE_MODE
async def test_where_people_log_in_by_name_a_log_in_says_nothing(allauth: AllauthTransport, site: Site) -> None:
    await site.change(ACCOUNT_LOGIN_METHODS=["username"])
    outcome = await allauth.log_in(Case(user=await site.add_user()), Secret(OLD_PASSWORD))
    assert isinstance(outcome, Rejected)


# What keeps a request from the API.


LIMITED = {"reset_password": "1/m/ip", "reset_password_from_key": "1/m/ip", "login": "1/m/ip"}


@pytest.mark.parametrize("call", ["request", "exchange", "update", "log_in"])
async def test_a_request_too_many_does_nothing(allauth: AllauthTransport, site: Site, asked: Case, call: str) -> None:
    await site.change(ACCOUNT_RATE_LIMITS=LIMITED)
    first = await CALLS[call](allauth, asked)
    assert not isinstance(first, NotActed)
    before = await site.counts(asked.user)
    assert await CALLS[call](allauth, asked) == NotActed(cause=Cause.THROTTLED, detail="HTTP 429")
    assert await site.counts(asked.user) == before
    await site.change()
    assert await CALLS[call](allauth, asked) == first


@pytest.mark.parametrize("call", CALLS)
async def test_a_wrong_address_does_nothing(make: MakeAllauth, site: Site, asked: Case, call: str) -> None:
    wrong = make(f"{site.url}/api")
    before = await site.counts(asked.user)
    assert await CALLS[call](wrong, asked) == NotActed(cause=Cause.PROTOCOL, detail="HTTP 404")
    assert await site.counts(asked.user) == before


@pytest.mark.parametrize("other", MODES)
async def test_a_site_that_sends_what_the_transport_does_not_expect_leaves_doubt(
    make: MakeAllauth, site: Site, mode: Mode, other: str
) -> None:
    user = await site.add_user()
    outcome = await make(code=MODES[other].code).request(Case(user=user), None)
    if (MODES[other].code == CodeFormat.token()) == (mode.code == CodeFormat.token()):
        assert isinstance(outcome, Accepted)
    else:
        assert isinstance(outcome, Unknown)
        assert outcome.detail.endswith("it sends links where codes are expected, or codes where links are")
    assert await site.counts(user) == did(mails=1)


async def test_a_probe_changes_nothing(allauth: AllauthTransport, site: Site, asked: Case) -> None:
    before = await site.counts(asked.user)
    assert await allauth.probe(asked) == Accepted()
    assert await site.counts(asked.user) == before


@IN_ONE_MODE
async def test_what_can_not_be_sent_is_not(allauth: AllauthTransport, site: Site, asked: Case) -> None:
    broken = "\ud800@shop.test"
    for outcome in (
        await allauth.request(replace(asked, user=broken), None),
        await allauth.exchange(asked, Secret(broken)),
        await allauth.update(asked, Secret(broken), NEW),
        await allauth.update(asked, Secret("BBBBBBBB"), NewCredential(secret=Secret(broken))),
        await allauth.log_in(asked, Secret(broken)),
    ):
        assert outcome == NotActed(cause=Cause.PROTOCOL, detail="it has characters that the request can't carry")
    assert await site.counts(asked.user) == did(mails=1)


# Construction.


def test_it_says_what_the_site_can_do() -> None:
    assert AllauthTransport("https://shop.test/_allauth").capabilities.code == CodeFormat.letters(8)
    for code, lifetime in ((CodeFormat.digits(6), timedelta(minutes=3)), (CodeFormat.token(), timedelta(days=3))):
        capabilities = AllauthTransport("https://shop.test/_allauth", code=code).capabilities
        assert (capabilities.code, capabilities.code_lifetime) == (code, lifetime)
        assert (capabilities.verifies_code, capabilities.answers_alike) == (True, False)
    set_up = AllauthTransport(
        "https://shop.test/_allauth", code_lifetime=timedelta(minutes=15), answers_alike=True
    ).capabilities
    assert (set_up.code_lifetime, set_up.answers_alike) == (timedelta(minutes=15), True)


def test_it_has_the_name_of_the_site_unless_it_is_given_one() -> None:
    assert AllauthTransport("https://shop.test/_allauth/").name == "allauth:https://shop.test/_allauth"
    named = AllauthTransport("https://shop.test/_allauth", name="shop", aliases=["old shop"])
    assert (named.name, sorted(named.aliases)) == ("shop", ["old shop"])
    assert repr(named) == "AllauthTransport(name='shop')"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_url": "http://shop.test/_allauth"}, "base_url must be https"),
        ({"code": "letters"}, "code must be a CodeFormat"),
        ({"name": ""}, "name must be printable text"),
        ({"deadline": timedelta(0)}, "deadline must be"),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        AllauthTransport(**{"base_url": "https://shop.test/_allauth", **options})
