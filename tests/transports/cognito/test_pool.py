"""The transport against moto: what it says is what became of the user."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reset_flow import Accepted, Case, Cause, NewCredential, NotActed, Outcome, Rejected, Secret, Step
from reset_flow.testing import Counts
from tests.transports.cognito.clients import ALIKE, CLIENT_SECRET, FIRST_PASSWORD, PLAIN, WITH_SECRET

if TYPE_CHECKING:
    from reset_flow import CognitoTransport
    from tests.transports.cognito.conftest import MakeCognito
    from tests.transports.cognito.pool import UserPool

PASSWORD = "Violet tractor sings at 5!"
MISMATCH = Rejected(reasons=["Invalid verification code provided, please try again."], about=Step.CODE)
NO_LOG_IN = Rejected(reasons=["Incorrect username or password."], about=Step.CODE)
EXPIRED = Rejected(reasons=["Invalid code provided, please request a code again."], about=Step.CODE)
LIMITED = NotActed(cause=Cause.THROTTLED, detail="LimitExceededException")


async def update(transport: CognitoTransport, user: str, code: str, password: str = PASSWORD) -> Outcome:
    return await transport.update(Case(user=user), Secret(code), NewCredential(secret=Secret(password)))


def other(code: str) -> str:
    return code[:-1] + ("1" if code[-1] == "0" else "0")


async def test_a_whole_reset(pool: UserPool, cognito: MakeCognito) -> None:
    transport, user = cognito(pool.url), await pool.add_user()
    assert await transport.challenge(Case(user=user)) == Accepted(value=Secret(""))
    assert await pool.counts(user) == Counts(mails=0, attempts=0, resets=0)
    assert await transport.request(Case(user=user), None) == Accepted(sent_to="r***@e***")
    assert await pool.counts(user) == Counts(mails=1, attempts=0, resets=0)
    assert await update(transport, user, await pool.newest_code(user)) == Accepted()
    assert await pool.counts(user) == Counts(mails=1, attempts=1, resets=1)
    assert await pool.accepts(user, PASSWORD)
    assert not await pool.accepts(user, FIRST_PASSWORD)


async def test_a_wrong_code_sets_nothing_and_spends_nothing(pool: UserPool, cognito: MakeCognito) -> None:
    transport, user = cognito(pool.url), await pool.add_user()
    await transport.request(Case(user=user), None)
    code = await pool.newest_code(user)
    assert await update(transport, user, other(code)) == MISMATCH
    assert await pool.accepts(user, FIRST_PASSWORD)
    assert await update(transport, user, code) == Accepted()
    assert await pool.accepts(user, PASSWORD)


@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("Short-1", "Password did not conform with policy: Password not long enough"),
        ("violet-tractor-5", "Password did not conform with policy: Password must have uppercase characters"),
        ("VIOLET-TRACTOR-5", "Password did not conform with policy: Password must have lowercase characters"),
        ("Violet-tractor", "Password did not conform with policy: Password must have numeric characters"),
        ("Violet tractor 5", "Password did not conform with policy: Password must have symbol characters"),
        (" Violet-tractor-5", "1 validation error detected: Value at 'password' failed to satisfy constraint"),
    ],
)
async def test_a_weak_password_is_refused_in_the_words_of_the_pool_and_leaves_the_code(
    pool: UserPool, cognito: MakeCognito, password: str, words: str
) -> None:
    transport, user = cognito(pool.url), await pool.add_user()
    await transport.request(Case(user=user), None)
    code = await pool.newest_code(user)
    refused = await update(transport, user, code, password)
    assert isinstance(refused, Rejected)
    assert (str(refused.reasons[0]).startswith(words), refused.about) == (True, None)
    assert await pool.accepts(user, FIRST_PASSWORD)
    assert await update(transport, user, code) == Accepted()


async def test_a_code_is_good_for_one_reset(pool: UserPool, cognito: MakeCognito) -> None:
    transport, user = cognito(pool.url), await pool.add_user()
    await transport.request(Case(user=user), None)
    code = await pool.newest_code(user)
    assert await update(transport, user, code) == Accepted()
    assert await update(transport, user, code, "Another-Passw0rd") == EXPIRED
    assert await pool.accepts(user, PASSWORD)


async def test_an_old_code_is_refused(pool: UserPool, cognito: MakeCognito) -> None:
    transport, user = cognito(pool.url), await pool.add_user()
    await transport.request(Case(user=user), None)
    code = await pool.newest_code(user)
    await pool.let_code_expire(user)
    assert await update(transport, user, code) == EXPIRED
    await transport.request(Case(user=user), None)
    assert await update(transport, user, await pool.newest_code(user)) == Accepted()


async def test_a_login_that_the_pool_does_not_know_is_refused(pool: UserPool, cognito: MakeCognito) -> None:
    transport = cognito(pool.url)
    assert not transport.capabilities.answers_alike
    unknown = Rejected(reasons=["User does not exist."], about=Step.CODE)
    assert await transport.request(Case(user="nobody"), None) == unknown
    assert await update(transport, "nobody", "741175") == unknown, "as for a wrong code"


async def test_a_client_that_does_not_let_on_answers_alike(pool: UserPool, cognito: MakeCognito) -> None:
    transport, user = cognito(pool.url, ALIKE, answers_alike=True), await pool.add_user()
    assert transport.capabilities.answers_alike
    for login in (user, "rosa.nobody"):
        assert await transport.request(Case(user=login), None) == Accepted(sent_to="r***@e***")
        assert await update(transport, login, "no-code") == MISMATCH
        assert await transport.log_in(Case(user=login), Secret("Wrong-Passw0rd")) == NO_LOG_IN


async def test_at_the_limit_nothing_is_done_until_it_is_over(pool: UserPool, cognito: MakeCognito) -> None:
    transport, user = cognito(pool.url), await pool.add_user()
    await pool.allow(user, 2)
    await transport.request(Case(user=user), None)
    code = await pool.newest_code(user)
    assert await update(transport, user, other(code)) == MISMATCH
    assert await update(transport, user, code) == LIMITED
    assert await transport.request(Case(user=user), None) == LIMITED
    assert await pool.counts(user) == Counts(mails=1, attempts=1, resets=0)
    await pool.allow(user, 1)
    assert await update(transport, user, code) == Accepted()


async def test_a_log_in_takes_the_right_password_alone(pool: UserPool, cognito: MakeCognito) -> None:
    transport, user = cognito(pool.url), await pool.add_user()
    assert await transport.log_in(Case(user=user), Secret(FIRST_PASSWORD)) == Accepted()
    assert await transport.log_in(Case(user=user), Secret(PASSWORD)) == NO_LOG_IN
    await transport.request(Case(user=user), None)
    await update(transport, user, await pool.newest_code(user))
    assert await transport.log_in(Case(user=user), Secret(PASSWORD)) == Accepted()
    assert await transport.log_in(Case(user=user), Secret(FIRST_PASSWORD)) == NO_LOG_IN


async def test_a_log_in_that_lacks_the_second_factor_alone_proves_the_password(
    pool: UserPool, cognito: MakeCognito
) -> None:
    transport, user = cognito(pool.url), await pool.add_user(mfa=True)
    assert await transport.log_in(Case(user=user), Secret(FIRST_PASSWORD)) == Accepted()
    assert await transport.log_in(Case(user=user), Secret(PASSWORD)) != Accepted()


async def test_a_client_with_a_secret_proves_it_in_each_call(pool: UserPool, cognito: MakeCognito) -> None:
    transport, user = cognito(pool.url, WITH_SECRET, client_secret=CLIENT_SECRET), await pool.add_user()
    assert await transport.request(Case(user=user), None) == Accepted(sent_to="r***@e***")
    assert await update(transport, user, await pool.newest_code(user)) == Accepted()
    assert await transport.log_in(Case(user=user), Secret(PASSWORD)) == Accepted()


@pytest.mark.parametrize(
    ("client", "secret", "kind"),
    [
        ("unknownclient", None, "ResourceNotFoundException"),
        (WITH_SECRET, None, "NotAuthorizedException"),
        (WITH_SECRET, "anothersecret", "NotAuthorizedException"),
        (PLAIN, CLIENT_SECRET, "NotAuthorizedException"),
    ],
)
async def test_a_wrong_client_is_the_operators_to_see_and_does_nothing(
    pool: UserPool, cognito: MakeCognito, client: str, secret: str | None, kind: str
) -> None:
    transport, user = cognito(pool.url, client, client_secret=secret), await pool.add_user()
    await cognito(pool.url).request(Case(user=user), None)
    forbidden = NotActed(cause=Cause.FORBIDDEN, detail=kind)
    assert await transport.request(Case(user=user), None) == forbidden
    assert await update(transport, user, await pool.newest_code(user)) == forbidden
    assert await transport.log_in(Case(user=user), Secret(FIRST_PASSWORD)) == forbidden
    assert await pool.counts(user) == Counts(mails=1, attempts=0, resets=0)


async def test_a_probe_says_that_the_host_is_up_and_changes_nothing(pool: UserPool, cognito: MakeCognito) -> None:
    user = await pool.add_user()
    assert await cognito(pool.url).probe(Case(user=user)) == Accepted()
    assert await pool.counts(user) == Counts(mails=0, attempts=0, resets=0)
    down = cognito("http://127.0.0.1:9")
    assert await down.probe(Case(user=user)) == NotActed(detail="ClientConnectorError")
