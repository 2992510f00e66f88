"""A program's way through a reset: calls, idempotency keys, patience, what is told, and what outlives a restart."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from reset_flow import Policy
from reset_flow.messages import LOCALES, Texts
from reset_flow.web import api
from tests.web.houses import ANSWER, ASKED, NOBODY, PASSWORD, UNASKED, random_key

if TYPE_CHECKING:
    from pathlib import Path

    from tests.web.houses import House, Program

IMPATIENT = timedelta(0)


async def finish(program: Program, house: House, user: str = UNASKED) -> None:
    """Go from the code to the end."""
    assert (await program.do("code", house.sandbox.newest_code(user))).body["expects"] == "password"
    assert (await program.do("password", PASSWORD)).body["state"] == "password_set"
    assert house.sandbox.password_of(user) == PASSWORD


# --- a whole reset


async def test_a_reset_without_a_question(house: House) -> None:
    program = await house.program(await house.worker())
    started = await program.start()
    assert (started.status, started.body["expects"]) == (201, "code")
    assert started.headers["Location"] == f"/reset/api/flows/{program.flow_id}"
    assert UNASKED not in str(started.body)
    await finish(program, house)


async def test_a_reset_with_a_question(house: House) -> None:
    program = await house.program(await house.worker())
    started = await program.start(ASKED)
    assert started.body["question"] == "What street did you live on in third grade?"
    wrong = await program.do("answer", "Elm street")
    assert (wrong.status, wrong.body["code"], wrong.body["attempts_left"]) == (422, "answer_rejected", 2)
    assert wrong.body["flow"]["expects"] == "answer"
    assert (await program.do("answer", ANSWER)).body["expects"] == "code"
    await finish(program, house, ASKED)


async def test_a_reset_of_a_pin(house: House) -> None:
    program = await house.program(await house.worker())
    body = {"user": UNASKED, "credential": "pin"}
    started = await program.call("POST", "api/flows", body)
    assert started.body["credential"] == "pin"
    program.secret, program.flow_id = started.body["secret"], started.body["id"]
    code = await program.do("code", house.sandbox.newest_code(UNASKED))
    assert code.body["expects"] == "pin"
    assert set(code.body["links"]) == {"self", "cancel", "set_pin"}


@pytest.mark.parametrize("user", [ASKED, UNASKED])
async def test_any_worker_goes_on_after_any_step(house: House, user: str) -> None:
    worker = await house.worker()
    program = await house.program(worker)
    await program.start(user)
    steps: list[tuple[str, str]] = [("answer", ANSWER)] if user == ASKED else []
    for step, text in [*steps, ("code", ""), ("password", PASSWORD)]:
        await program.worker.aclose()
        program.worker = await house.worker()
        assert (await program.get()).status == 200
        reply = await program.do(step, text or house.sandbox.newest_code(user))
        assert reply.status == 200
    assert house.sandbox.password_of(user) == PASSWORD


async def test_the_secret_is_told_once(house: House) -> None:
    program = await house.program(await house.worker())
    await program.start()
    told = [await program.get(), await program.do("code", "123456"), await program.cancel(), await program.get()]
    assert [program.secret in str(reply.body) for reply in told] == [False] * 4


async def test_the_links_of_a_flow_lead_to_what_may_come_next(house: House) -> None:
    program = await house.program(await house.worker())
    reply = await program.start(ASKED)
    bodies: dict[str, Any] = {
        "answer": {"answer": ANSWER}, "verify": {"code": "000000"}, "set_password": {"password": PASSWORD},
    }  # fmt: skip
    taken = []
    for _ in range(3):
        links = reply.body["links"]
        assert set(links) - {"self"} == set(reply.body["allowed"])
        assert (await program.call(links["self"]["method"], links["self"]["href"])).body["id"] == program.flow_id
        command = next(name for name in bodies if name in links)
        bodies["verify"] = {"code": house.sandbox.newest_code(ASKED)} if house.sandbox.mails else {}
        reply = await program.call(links[command]["method"], links[command]["href"], bodies[command])
        taken.append(command)
    assert taken == ["answer", "verify", "set_password"]
    assert set(reply.body["links"]) == {"self"}


# --- what is told


@pytest.mark.parametrize(("wish", "language"), [("de-AT, en;q=0.5", "de"), ("es", "es"), ("fr", "en"), ("", "en")])
async def test_people_are_told_in_their_language(house: House, wish: str, language: str) -> None:
    program = await house.program(await house.worker())
    headers = {"Accept-Language": wish}
    reply = await program.start(headers=headers)
    assert reply.body["message"]["text"] == Texts().say(reply.body["message"]["id"], language)
    wrong = await program.do("code", "000000", headers=headers)
    assert wrong.body["message"]["id"] == "code.rejected"
    assert wrong.body["message"]["text"] == Texts().say("code.rejected", language)


async def test_each_message_is_there_in_every_language(house: House) -> None:
    program = await house.program(await house.worker())
    replies = [
        await program.get(),
        await program.start(""),
        await program.start(ASKED),
        await program.do("code", "1"),
        await program.do("answer", "Elm street"),
        await program.do("answer", "\x00"),
        await program.do("answer", ANSWER),
        await program.do("resend"),
        await program.do("code", "1"),
        await program.do("code", "000000"),
        await program.do("code", house.sandbox.newest_code(ASKED)),
        await program.do("password", "short"),
        await program.do("password", "password1"),
        await program.do("password", PASSWORD),
        await program.do("resend"),
        await program.cancel(),
    ]
    told = [reply.body["message"] for reply in replies]
    for message in told:
        texts = {Texts().say(message["id"], locale, **message["context"]) for locale in LOCALES}
        assert len(texts) == len(LOCALES)
        assert message["text"] in texts
    assert len({message["id"] for message in told}) > 10


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("answer", {"answer": "x"}, 409, "illegal_command"),
        ("password", {"password": PASSWORD}, 409, "illegal_command"),
        ("pin", {"pin": "4711"}, 409, "illegal_command"),
        ("code", {"code": "000000"}, 422, "code_rejected"),
        ("code", {"code": "12345"}, 422, "code_rejected"),
        ("code", {"code": 123456}, 400, "malformed"),
        ("code", {"password": "x"}, 400, "malformed"),
        ("code", {"code": "x" * 1001}, 400, "malformed"),
        ("resend", None, 429, "limit_reached"),
    ],
)
async def test_what_does_not_move_a_flow_is_a_problem(
    house: House, path: str, body: Any, status: int, code: str
) -> None:
    program = await house.program(await house.worker())
    await program.start()
    reply = await program.call("POST", f"api/flows/{program.flow_id}/{path}", body)
    assert (reply.status, reply.body["status"], reply.body["code"]) == (status, status, code)
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert (await program.get()).body["expects"] == "code"


async def test_what_has_ended_is_gone(house: House) -> None:
    program = await house.program(await house.worker())
    await program.start()
    assert (await program.cancel()).body["failure"] == "cancelled"
    for reply in (await program.do("code", "123456"), await program.do("resend"), await program.cancel()):
        assert (reply.status, reply.body["code"]) == (410, "flow_ended")
        assert reply.body["message"]["id"] == "failed.cancelled"
    assert (await program.get()).status == 200, "it may be looked at"


async def test_a_flow_ends_when_its_time_is_up(house: House) -> None:
    program = await house.program(await house.worker())
    await program.start()
    house.clock.advance(timedelta(hours=1))
    assert (await program.get()).body["failure"] == "expired"
    assert (await program.do("code", house.sandbox.newest_code(UNASKED))).status == 410


async def test_a_flow_ends_when_its_attempts_are_used_up(house: House) -> None:
    program = await house.program(await house.worker(policy=Policy(code_attempts=2)))
    await program.start()
    wrong = [await program.do("code", "000000") for _ in range(3)]
    assert [(reply.status, reply.body["attempts_left"]) for reply in wrong] == [(422, 1), (422, None), (410, None)]
    assert wrong[2].body["flow"]["failure"] == "too_many_attempts"


# --- idempotency keys


async def test_a_start_that_comes_again_gives_the_same_flow_and_secret(house: House) -> None:
    workers = [await house.worker(), await house.worker()]
    key = random_key()
    programs = [await house.program(worker) for worker in workers * 2]
    replies = await asyncio.gather(*(program.start(key=key) for program in programs))
    assert {reply.status for reply in replies} == {201}
    assert len({(reply.body["id"], reply.body["secret"]) for reply in replies}) == 1
    for worker in workers:
        await worker.aclose()
    later = await house.program(await house.worker())
    assert (await later.start(key=key)).body["secret"] == replies[0].body["secret"]
    assert len(house.sandbox.calls_of("request")) == 1


async def test_the_same_key_for_another_login_is_another_flow(house: House) -> None:
    worker = await house.worker()
    mine, other = await house.program(worker), await house.program(worker)
    key = random_key()
    await mine.start(key=key)
    await other.start(ASKED, key=key)
    assert mine.flow_id != other.flow_id
    assert mine.secret != other.secret
    assert (await other.get(secret=mine.secret)).status == 404


async def test_the_same_key_for_another_credential_is_refused(house: House) -> None:
    program = await house.program(await house.worker())
    key = random_key()
    await program.start(key=key)
    reply = await program.call("POST", "api/flows", {"user": UNASKED, "credential": "pin"}, key=key)
    assert (reply.status, reply.body["code"]) == (409, "key_reused")
    assert "secret" not in reply.body


@pytest.mark.parametrize(
    ("key", "status"),
    [
        ("4711", 400), ("order-1234567890", 400), ("a" * 64, 400), ("0123456789abcdef0123456789abcde", 400),
        ("abababababababababababababababababab", 400), ("", 400), ("x y", 400), ("w" * 201, 400),
        ("0123456789abcdef0123456789abcdef", 201), ("550e8400-e29b-41d4-a716-446655440000", 201),
        ("Zm9vYmFyIGJheiBxdXV4IQ", 201),
    ],
)  # fmt: skip
async def test_the_key_of_a_start_must_be_one_that_nobody_guesses(house: House, key: str, status: int) -> None:
    program = await house.program(await house.worker())
    assert (await program.start(key=key)).status == status
    assert len(house.sandbox.calls_of("request")) == (status == 201)


async def test_without_a_key_each_start_is_a_flow_of_its_own(house: House) -> None:
    program = await house.program(await house.worker())
    replies = [await program.start() for _ in range(2)]
    assert len({reply.body["id"] for reply in replies}) == 2


async def test_a_command_that_comes_again_is_carried_out_once(house: House) -> None:
    program = await house.program(await house.worker())
    await program.start()
    code = house.sandbox.newest_code(UNASKED)
    wrong = [await program.do("code", "000000", key="1") for _ in range(2)]
    assert [(reply.status, reply.body["attempts_left"]) for reply in wrong] == [(422, 4)] * 2
    replies = await asyncio.gather(*(program.do("code", code, key="2") for _ in range(4)))
    assert [(reply.status, reply.body["expects"]) for reply in replies] == [(200, "password")] * 4
    assert len(house.sandbox.calls_of("exchange")) == 2


async def test_the_same_key_for_another_command_is_refused(house: House) -> None:
    program = await house.program(await house.worker())
    await program.start()
    await program.do("code", house.sandbox.newest_code(UNASKED), key="1")
    reply = await program.do("password", PASSWORD, key="1")
    assert (reply.status, reply.body["code"]) == (409, "key_reused")
    assert (await program.do("password", PASSWORD, key="2")).status == 200


async def test_the_keys_of_one_flow_are_not_those_of_another(house: House) -> None:
    worker = await house.worker()
    programs = [await house.program(worker) for _ in range(2)]
    for program in programs:
        await program.start()
        assert (await program.do("code", house.sandbox.newest_code(UNASKED), key="1")).status == 200
    assert len(house.sandbox.calls_of("exchange")) == 2


# --- patience


async def test_a_call_that_finds_the_flow_busy_waits_for_it(house: House) -> None:
    workers = [await house.worker(), await house.worker()]
    first, second = [await house.program(worker) for worker in workers]
    await first.start()
    second.secret, second.flow_id = first.secret, first.flow_id
    house.sandbox.fault("exchange", "latency_after", seconds=0.5)
    code = asyncio.create_task(first.do("code", house.sandbox.newest_code(UNASKED)))
    await house.sandbox.wait_for_calls("exchange")
    set_ = await second.do("password", PASSWORD)
    assert (await code).status == set_.status == 200
    assert set_.body["state"] == "password_set"


async def test_a_flow_that_stays_busy_is_a_conflict_that_says_until_when(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "PATIENCE", IMPATIENT)
    program = await house.program(await house.worker())
    await program.start()
    house.sandbox.fault("exchange", "latency_after", seconds=3600)
    code = asyncio.create_task(program.do("code", house.sandbox.newest_code(UNASKED)))
    await house.sandbox.wait_for_calls("exchange")
    assert (await program.get()).body["message"]["id"] == "busy"
    busy = await program.do("resend")
    assert (busy.status, busy.body["code"], busy.body["message"]["id"]) == (409, "flow_busy", "busy")
    assert 0 < int(busy.headers["Retry-After"]) <= 30
    assert busy.body["flow"]["busy_until"]
    house.sandbox.release()
    assert (await code).status == 200


# --- brokers and stores out of reach


async def test_a_broker_out_of_reach_is_told_without_where_it_is(house: House) -> None:
    program = await house.program(await house.worker())
    await program.start(ASKED)
    await house.sandbox.aclose()
    down = await program.do("answer", ANSWER)
    assert (down.status, down.body["code"]) == (503, "broker_unavailable")
    assert down.headers["Retry-After"] == "5"
    where = house.sandbox.url.rpartition(":")[2]
    assert where not in str(down.body)
    assert "127.0.0.1" not in str(down.body)
    nobody = await program.call("POST", "api/flows", {"user": UNASKED})
    assert nobody.status == 503
    assert "127.0.0.1" not in str(nobody.body)
    await house.sandbox.start()
    assert (await program.do("answer", ANSWER)).status == 200


async def test_a_start_whose_code_could_not_be_sent_is_there_all_the_same(house: House) -> None:
    program = await house.program(await house.worker())
    house.sandbox.fault("request", "status", status=503, headers={"Retry-After": "7"})
    started = await program.start()
    assert (started.status, started.body["expects"], started.body["question"]) == (201, "answer", None)
    assert started.body["message"]["id"] == "request.wanted"
    assert (await program.call("POST", f"api/flows/{program.flow_id}/answer", {"answer": ""})).body["expects"] == "code"
    await finish(program, house)


async def test_a_reply_that_was_lost_leaves_a_doubt_that_is_told(house: House) -> None:
    program = await house.program(await house.worker(policy=Policy(probe_by_login=False)))
    house.sandbox.fault("request", "drop_after")
    assert (await program.start()).body["in_doubt"] == "answer"
    await program.do("code", house.sandbox.newest_code(UNASKED))
    house.sandbox.fault("update", "drop_after", times=2)
    doubt = await program.do("password", PASSWORD)
    assert (doubt.status, doubt.body["code"]) == (502, "outcome_in_doubt")
    assert (doubt.body["flow"]["in_doubt"], doubt.body["message"]["id"]) == ("password", "password.in_doubt")


@pytest.mark.parametrize("house", ["sqlite"], indirect=True)
async def test_a_store_out_of_reach_is_told_by_readyz_alone(house: House, tmp_path: Path) -> None:
    program = await house.program(await house.worker())
    await program.start()
    assert (await program.call("GET", "readyz")).status == 200
    (tmp_path / "flows.db").rename(tmp_path / "away.db")
    sqlite3.connect(tmp_path / "flows.db").close()
    worker = await house.worker()
    program.worker = worker
    (tmp_path / "flows.db").unlink()
    (tmp_path / "flows.db").mkdir()
    assert (await program.call("GET", "healthz")).body == {"status": "ok"}
    down = await program.call("GET", "readyz")
    assert (down.status, down.body) == (503, {"status": "store_unavailable"})
    told = await program.get()
    assert (told.status, told.body["code"], told.body["message"]["id"]) == (
        503,
        "store_unavailable",
        "store.unavailable",
    )
    assert told.headers["Retry-After"]
    assert str(tmp_path) not in str(told.body)


async def test_many_who_ask_at_once_whether_it_is_ready_get_the_same_answer(house: House) -> None:
    program = await house.program(await house.worker())
    replies = await asyncio.gather(*(program.call("GET", "readyz") for _ in range(8)))
    assert [(reply.status, reply.body) for reply in replies] == [(200, {"status": "ok"})] * 8


# --- masking


async def test_a_login_that_is_unknown_looks_like_one_without_a_question(house: House) -> None:
    worker = await house.worker()
    known, unknown = await house.program(worker), await house.program(worker)
    pairs = []
    for step, text in ((None, None), ("code", "000000"), ("code", "1"), ("resend", None), ("password", PASSWORD)):
        replies = []
        for program, user in ((known, UNASKED), (unknown, NOBODY)):
            replies.append(await (program.start(user) if step is None else program.do(step, text)))
        pairs.append(replies)
    for one, other in pairs:
        assert one.status == other.status
        assert one.body["message"] == other.body["message"]
        sizes = [len(str(reply.body)) for reply in (one, other)]
        assert sizes[0] == sizes[1]
        assert {**one.headers, "Location": "", "Date": ""} == {**other.headers, "Location": "", "Date": ""}
    assert house.sandbox.calls_of("request")[0].user == UNASKED
