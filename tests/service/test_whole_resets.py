"""From request to working password over the sandbox, and what the broker saw of it, byte for byte."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING

import aiohttp
import pytest

from reset_flow.domain.flow import Credential, State, Step

if TYPE_CHECKING:
    from reset_flow.domain.flow import Flow
    from reset_flow.sandbox import Sandbox
    from reset_flow.sandbox.calls import Call
    from reset_flow.testing import FrozenClock
    from reset_flow.transports.etna import Revision
    from tests.service.conftest import House, MakeEtna, Person

BOTH_STORES = pytest.mark.parametrize("kind", ["memory", "sqlite"])
REVISIONS = pytest.mark.parametrize("revision", ["identifiers", "password"])

QUESTION = "What street did you live on in third grade?"
TOKEN = "ba6b8cac-6738-4434-bd26-825db020a05c"


def wire(call: Call) -> tuple[str, str, bytes]:
    return call.method, call.target, call.body


def headers(call: Call) -> dict[str, str]:
    return {name.lower(): value for name, value in call.headers}


@BOTH_STORES
@REVISIONS
async def test_a_whole_reset_is_what_the_broker_documents(
    house: House, sandbox: Sandbox, etna: MakeEtna, revision: Revision
) -> None:
    service = house.worker(etna(revision=revision)).service
    sandbox.next_codes.append("004158")

    flow = await service.start("robert.zak")
    assert (flow.state, flow.expects, flow.question) == (State.REQUESTED, Step.ANSWER, QUESTION)
    assert sandbox.mails == []
    flow = await service.answer(flow.id, "Peterson")
    assert (flow.state, flow.expects, len(sandbox.mails)) == (State.QUESTION_ANSWERED, Step.CODE, 1)
    flow = await service.verify(flow.id, "004158")
    assert (flow.state, flow.expects) == (State.TOKEN_ISSUED, Step.PASSWORD)
    flow = await service.set_password(flow.id, "violet tractor 5")
    assert (flow.state, flow.expects, flow.allowed, flow.failure) == (State.PASSWORD_SET, None, (), None)
    assert sandbox.password_of("robert.zak") == "violet tractor 5"
    triggers = ["answer_accepted", "code_accepted", "token_granted", "password_accepted"]
    assert [step.trigger for step in flow.history] == triggers
    assert flow == await service.get(flow.id)

    question, request, exchange, update = sandbox.calls
    token = exchange.reply["Model"]
    assert wire(question) == ("GET", "/api/v1.0/users/password/secret-question?username=robert.zak", b"")
    body = b'{"User":"robert.zak","SecretQuestionAnswer":"Peterson"}'
    assert wire(request) == ("POST", "/api/v1.0/users/password/reset", body)
    if revision == "identifiers":
        body = b'{"Code":"004158","Identifier":"ResetPassword"}'
        assert wire(exchange) == ("POST", "/api/v1.0/users/identifiers/reset/code", body)
    else:
        assert wire(exchange) == ("POST", "/api/v1.0/users/password/reset/code", b'{"Code":"004158"}')
    body = f'{{"Token":"{token}","Password":"violet tractor 5","PasswordConfirmation":"violet tractor 5"}}'.encode()
    assert wire(update) == ("PUT", "/api/v1.0/users/passwords/reset/", body)
    assert [headers(call)["et-app-key"] for call in sandbox.calls] == ["sandbox"] * 4
    assert [headers(call).get("content-type") for call in sandbox.calls] == [None, *["application/json"] * 3]


@BOTH_STORES
@REVISIONS
async def test_letters_of_any_script_arrive_as_they_were_typed(
    house: House, sandbox: Sandbox, etna: MakeEtna, revision: Revision
) -> None:
    service = house.worker(etna(revision=revision)).service
    password = " пароль \u212b🦊e\u0301 \u00a0"
    flow = await service.start("jörg.müller")
    assert flow.question == "Wie hieß die Straße Ihrer Großmutter?"
    flow = await service.answer(flow.id, "Königsallee 7 ½")
    flow = await service.verify(flow.id, sandbox.newest_code("jörg.müller"))
    flow = await service.set_password(flow.id, password)
    assert flow.state is State.PASSWORD_SET
    assert sandbox.password_of("jörg.müller") == password
    question, request, _, update = sandbox.calls
    assert question.target.endswith("?username=j%C3%B6rg.m%C3%BCller")
    assert request.body == '{"User":"jörg.müller","SecretQuestionAnswer":"Königsallee 7 ½"}'.encode()
    assert json.loads(update.body)["Password"].encode() == password.encode()
    assert password.encode() in update.body


@BOTH_STORES
@REVISIONS
async def test_who_has_no_question_is_asked_for_the_code_at_once(
    house: House, sandbox: Sandbox, etna: MakeEtna, maria: Person, revision: Revision
) -> None:
    service = house.worker(etna(revision=revision)).service
    flow = await maria.start(service)
    assert (flow.state, flow.expects, flow.question) == (State.QUESTION_ANSWERED, Step.CODE, None)
    assert [step.trigger for step in flow.history] == ["question_waived"]
    assert wire(sandbox.calls[1]) == ("POST", "/api/v1.0/users/password/reset", b'{"User":"maria.noquestion"}')
    flow = await maria.does(service, flow, "verify")
    flow = await maria.does(service, flow, "set_password")
    assert flow.state is State.PASSWORD_SET
    maria.check(flow)


@pytest.mark.parametrize("status", [404, 405])
async def test_without_an_endpoint_for_the_question_the_order_of_the_documents_is_kept(
    house: House, sandbox: Sandbox, etna: MakeEtna, person: Person, status: int
) -> None:
    sandbox.settings.question_endpoint = False
    sandbox.settings.question_endpoint_status = status
    service = house.worker(etna()).service
    flow = await person.start(service)
    assert (flow.state, flow.expects, flow.question) == (State.REQUESTED, Step.ANSWER, None)
    assert [step.trigger for step in flow.history] == ["answer_refused"]
    assert (flow.attempts_left, sandbox.mails) == (3, [])
    flow = await person.does(service, flow, "answer")
    assert flow.state is State.QUESTION_ANSWERED
    bodies = [b'{"User":"robert.zak"}', b'{"User":"robert.zak","SecretQuestionAnswer":"Peterson"}']
    assert [call.body for call in sandbox.calls_of("request")] == bodies
    flow = await person.does(service, flow, "verify")
    flow = await person.does(service, flow, "set_password")
    person.check(flow)


@pytest.mark.parametrize("status", [404, 405])
async def test_without_an_endpoint_and_without_a_question_the_first_step_is_enough(
    house: House, sandbox: Sandbox, etna: MakeEtna, maria: Person, status: int
) -> None:
    sandbox.settings.question_endpoint = False
    sandbox.settings.question_endpoint_status = status
    flow = await maria.start(house.worker(etna()).service)
    assert (flow.state, len(sandbox.mails)) == (State.QUESTION_ANSWERED, 1)
    assert [call.route for call in sandbox.calls] == ["challenge", "request"]
    maria.check(flow)


@BOTH_STORES
async def test_a_pin_is_reset_by_its_own_road(house: House, sandbox: Sandbox, etna: MakeEtna) -> None:
    service = house.worker(etna()).service
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{sandbox.api_url}/token",
            headers={"Et-App-Key": "sandbox", "Username": "robert.zak", "Password": "old-Passw0rd"},
        ) as reply,
    ):
        bearer = (await reply.json())["Token"]
    flow = await service.start("robert.zak", credential=Credential.PIN)
    flow = await service.answer(flow.id, "Peterson")
    flow = await service.verify(flow.id, sandbox.newest_code("robert.zak"))
    assert (flow.expects, flow.allowed) == (Step.PIN, ("cancel", "set_pin"))
    flow = await service.set_pin(
        flow.id, "8642", image_name="cactus", personal_phrase="Zażółć gęślą", authorization=bearer
    )
    assert (flow.state, sandbox.user("robert.zak").pin) == (State.PASSWORD_SET, "8642")
    *_, exchange, change = sandbox.calls
    assert json.loads(exchange.body)["Identifier"] == "ResetPinCode"
    assert (change.method, change.target) == ("POST", "/api/v1.0/users/pincode/change")
    assert headers(change)["authorization"] == f"Bearer {bearer}"
    expected = {"Pin": "8642", "ImageName": "cactus", "PersonalPhrase": "Zażółć gęślą"}
    assert json.loads(change.body) == {"Token": exchange.reply["Model"], **expected}


@BOTH_STORES
async def test_the_token_of_an_expired_password_enters_at_the_last_step(
    house: House, sandbox: Sandbox, etna: MakeEtna
) -> None:
    log_in = {"Et-App-Key": "sandbox", "Username": "expired.user", "Password": "old-Passw0rd"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{sandbox.api_url}/token", headers=log_in) as reply,
    ):
        token = (await reply.json())["Token"]
    service = house.worker(etna()).service
    flow = await service.adopt("expired.user", token, tags=["session"])
    assert (flow.state, flow.expects) == (State.TOKEN_ISSUED, Step.PASSWORD)
    assert [step.trigger for step in flow.history] == ["token_adopted"]
    flow = await service.set_password(flow.id, "violet tractor 5")
    assert (flow.state, sandbox.password_of("expired.user")) == (State.PASSWORD_SET, "violet tractor 5")
    assert [call.route for call in sandbox.calls] == ["log_in", "update"]


@pytest.mark.parametrize("kind", ["sqlite"])
@REVISIONS
async def test_a_flow_that_one_process_began_is_finished_by_others(
    house: House, sandbox: Sandbox, etna: MakeEtna, person: Person, revision: Revision
) -> None:
    flow = None
    for command in ("start", "answer", "verify", "set_password"):
        worker = house.worker(etna(revision=revision))
        if flow is None:
            flow = await person.start(worker.service)
        else:
            flow = await person.does(worker.service, flow, command)
        await worker.service.aclose()
    assert flow is not None
    assert flow.state is State.PASSWORD_SET
    person.check(flow)
    assert len(sandbox.calls) == 4
    stored = b"".join(path.read_bytes() for path in house.path.parent.glob("flows.db*"))
    for secret in (b"robert.zak", b"Peterson", b"violet tractor", QUESTION.encode(), person.code.encode()):
        assert secret not in stored


@BOTH_STORES
async def test_many_resets_at_once_do_not_meet(house: House, sandbox: Sandbox, etna: MakeEtna) -> None:
    service = house.worker(etna()).service
    logins = [sandbox.add_user(f"user.{n}", question="?", answer=f"answer {n}").login for n in range(20)]

    async def reset(n: int, login: str) -> Flow:
        flow = await service.start(login)
        await service.answer(flow.id, f"answer {n}")
        await service.verify(flow.id, sandbox.newest_code(login))
        return await service.set_password(flow.id, f"a password of {n}")

    flows = await asyncio.gather(*(reset(n, login) for n, login in enumerate(logins)))
    assert {flow.state for flow in flows} == {State.PASSWORD_SET}
    assert [sandbox.password_of(login) for login in logins] == [f"a password of {n}" for n in range(20)]


async def test_another_code_can_be_asked_for_and_the_sealed_answer_goes_with_it(
    house: House, sandbox: Sandbox, etna: MakeEtna, person: Person, clock: FrozenClock
) -> None:
    service = house.worker(etna()).service
    flow = await person.reaches(service, State.QUESTION_ANSWERED)
    old = person.code
    clock.advance(timedelta(seconds=60))
    flow = await person.does(service, flow, "resend")
    assert [step.trigger for step in flow.history] == ["answer_accepted", "code_sent"]
    first, second = sandbox.calls_of("request")
    assert first.body == second.body
    assert (len(sandbox.mails), person.code == old) == (2, False)
    flow = await person.does(service, flow, "verify")
    flow = await person.does(service, flow, "set_password")
    person.check(flow)


async def test_a_login_with_a_space_behind_it_is_not_taken_for_an_unknown_one(
    house: House, sandbox: Sandbox, etna: MakeEtna
) -> None:
    sandbox.settings.unknown_user_refused = True
    service = house.worker(etna()).service
    flow = await service.start("maria.noquestion \n")
    assert flow.user == "maria.noquestion"
    assert [mail.user for mail in sandbox.mails] == ["maria.noquestion"]
