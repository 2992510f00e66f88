"""Workflows of DBOS wait for resets, in SQLite and in PostgreSQL: one flow for each ref, the end told or asked for."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from dbos import DBOS, DBOSClient, SetWorkflowTimeout

from reset_flow import ConfigurationError, Failure, InvalidInput, Policy, State, StoreUnavailable
from reset_flow.integrations import calls, dbos
from reset_flow.integrations.dbos import ResetRefused, Resets
from reset_flow.testing import LeakScanner
from tests.integrations.orchestrator import FOR_EVER, PASSWORD, Office, kept, login_of, parked, require_sqlite, steps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from dbos import WorkflowHandleAsync

    from benchmarks.servers import PostgresServer
    from reset_flow import Event, ResetService
    from reset_flow.integrations.status import ResetStatus

SOON = 120.0


@pytest.fixture(params=["sqlite", "postgres"])
def engine_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        require_sqlite()
        return f"sqlite:///{tmp_path}/dbos.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
async def office(engine_url: str, tmp_path: Path) -> AsyncIterator[Office]:
    async with Office(engine_url, tmp_path) as office:
        yield office


async def soon(waited: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(waited, SOON)


async def ends_well(office: Office, service: ResetService, waiting: WorkflowHandleAsync[Any]) -> None:
    """Set the password of the reset that a workflow is to wait for; check that it learns of that, after one e-mail."""
    await soon(parked(waiting))
    (flow,) = await service.find(ref="ticket-1")
    await office.finish(service, "anna", flow)
    assert (await soon(waiting.get_result()))["state"] == State.PASSWORD_SET
    assert office.mails("anna") == 1


async def test_two_workflows_with_one_ref_share_one_flow_and_both_learn_its_end(office: Office) -> None:
    office.add("anna")
    service = await office.service(listener=office.listener())
    onboarding = office.open(Resets(service, office.look_up, ask_every=FOR_EVER))
    first, second = await asyncio.gather(
        onboarding.start("anna", "ticket-1", "first"), onboarding.start("anna", "Ticket-1 ", 'Jörg\'s "second" \\.')
    )
    await soon(asyncio.gather(parked(first), parked(second)))
    (flow,) = await service.find(ref="ticket-1")
    await office.finish(service, "anna", flow)
    ends = await soon(asyncio.gather(first.get_result(), second.get_result()))
    assert [end["flow_id"] for end in ends] == [flow.id, flow.id]
    assert {end["state"] for end in ends} == {State.PASSWORD_SET}
    assert office.mails("anna") == 1
    assert office.sandbox.password_of(login_of("anna")) == PASSWORD


async def test_a_ref_of_another_person_is_refused_for_good_and_the_first_goes_on(office: Office) -> None:
    office.add("anna", "bert")
    service = await office.service(listener=office.listener())
    onboarding = office.open(Resets(service, office.look_up, ask_every=FOR_EVER))
    first = await onboarding.start("anna", "ticket-1")
    await soon(parked(first))
    other = await onboarding.start("bert", "ticket-1")
    with pytest.raises(ResetRefused) as refusal:
        await soon(other.get_result())
    assert refusal.value.code == "key_reused"
    (flow,) = await service.find(ref="ticket-1")
    await office.finish(service, "anna", flow)
    assert (await soon(first.get_result()))["state"] == State.PASSWORD_SET
    assert office.mails("bert") == 0


async def test_a_ref_that_a_page_gave_to_another_person_is_refused_too(office: Office) -> None:
    office.add("anna", "bert")
    service = await office.service()
    await service.start(login_of("bert"), ref="ticket-1")
    onboarding = office.open(Resets(service, office.look_up))
    with pytest.raises(ResetRefused, match="key_reused"):
        await soon((await onboarding.start("anna", "ticket-1")).get_result())


async def test_a_flow_that_a_page_began_is_joined_and_one_that_has_ended_is_returned_at_once(office: Office) -> None:
    office.add("anna")
    service = await office.service()
    begun = await service.start(login_of("anna"), ref="ticket-1")
    onboarding = office.open(Resets(service, office.look_up, ask_every=FOR_EVER))
    await office.finish(service, "anna", begun)
    end = await soon((await onboarding.start("anna", "ticket-1")).get_result())
    assert (end["flow_id"], end["state"]) == (begun.id, State.PASSWORD_SET)
    assert office.mails("anna") == 1


@pytest.mark.parametrize("wrong", [timedelta(0), 300, None])
async def test_what_says_not_how_often_to_ask_is_refused(office: Office, wrong: Any) -> None:
    service = await office.service()
    with pytest.raises(ConfigurationError, match="ask_every must be"):
        Resets(service, office.look_up, ask_every=wrong)


async def test_an_end_that_nobody_told_of_is_learned_by_asking(office: Office) -> None:
    office.add("anna")
    service = await office.service()
    onboarding = office.open(Resets(service, office.look_up, ask_every=timedelta(seconds=0.05)))
    waiting = await onboarding.start("anna", "ticket-1")
    await ends_well(office, service, waiting)


async def test_a_flow_whose_time_is_up_is_learned_of_when_it_is(office: Office) -> None:
    office.add("anna")
    service = await office.service(policy=Policy(flow_lifetime=timedelta(seconds=2)))
    onboarding = office.open(Resets(service, office.look_up, ask_every=FOR_EVER))
    end = await soon((await onboarding.start("anna", "ticket-1")).get_result())
    assert (end["state"], end["failure"]) == (State.FAILED, Failure.EXPIRED)


async def test_a_cancelled_reset_ends_the_wait_and_cancelling_again_changes_nothing(office: Office) -> None:
    office.add("anna")
    service = await office.service(listener=office.listener())
    resets = Resets(service, office.look_up, ask_every=FOR_EVER)
    onboarding = office.open(resets)
    waiting = await onboarding.start("anna", "ticket-1")
    await soon(parked(waiting))
    cancelled = await soon(resets.cancel("ticket-1"))
    assert cancelled["failure"] == Failure.CANCELLED
    assert await soon(waiting.get_result()) == cancelled == await soon(resets.cancel("ticket-1"))
    with pytest.raises(ResetRefused, match="flow_not_found"):
        await soon(resets.cancel("ticket-2"))


async def test_the_end_is_told_by_a_process_that_knows_no_workflow(office: Office) -> None:
    office.add("anna")
    onboarding = office.open(Resets(await office.service(), office.look_up, ask_every=FOR_EVER))
    page = await office.service(listener=office.listener())
    waiting = await onboarding.start("anna", "ticket-1")
    await ends_well(office, page, waiting)


async def test_an_end_that_no_workflow_waits_for_counts_as_told(office: Office) -> None:
    office.add("anna", "bert")
    service = await office.service(listener=office.listener())
    office.open(Resets(service, office.look_up))
    for user_ref, ref in (("anna", "ticket-1"), ("bert", None)):
        flow = await service.start(login_of(user_ref), ref=ref)
        await office.finish(service, user_ref, flow)
    await service.aclose()
    report = await (await office.service(listener=office.listener())).sweep()
    assert report.delivered == 0


async def test_a_person_who_is_unknown_is_refused_for_good_without_being_named(office: Office, engine_url: str) -> None:
    service = await office.service()

    async def known_here_alone(user_ref: str) -> str:
        return login_of(user_ref)

    for look_up, ref in ((office.look_up, "ticket-1"), (known_here_alone, "ticket-2")):
        onboarding = office.open(Resets(service, look_up))
        with pytest.raises(ResetRefused) as refusal:
            await soon((await onboarding.start("anna", ref)).get_result())
        assert refusal.value.code == "unknown_user"
        assert (refusal.value.__cause__, refusal.value.__context__) == (None, None)
        office.close()
    await check_no_login(engine_url, "anna")


async def test_a_refusal_is_logged_as_an_error_of_the_workflow_that_lets_it_through_and_of_no_other(
    office: Office, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resets = Resets(await office.service(), office.look_up)

    @DBOS.workflow()
    async def catches() -> str:
        try:
            await resets.start("anna", "ticket-1")
        except ResetRefused as refusal:
            return refusal.code
        return "not refused"

    onboarding = office.open(resets)
    logger = logging.getLogger("dbos")
    caplog.set_level(logging.ERROR, logger.name)
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    assert await soon((await DBOS.start_workflow_async(catches)).get_result()) == "unknown_user"
    assert [record.levelname for record in caplog.records if record.name == "dbos"] == []
    with pytest.raises(ResetRefused):
        await soon((await onboarding.start("anna", "ticket-1")).get_result())
    assert [record.levelname for record in caplog.records if record.name == "dbos"] == ["ERROR"]


async def test_a_look_up_that_fails_or_hangs_is_tried_again_and_shows_nothing(
    office: Office, engine_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    office.add("anna")
    monkeypatch.setattr(calls, "LOOK_UP", 0.05)
    monkeypatch.setattr(dbos, "FIRST_PAUSE", 0.01)
    tries = []

    async def look_up(user_ref: str) -> str:
        tries.append(user_ref)
        if len(tries) == 1:
            raise LookupError(f"no connection: SELECT login WHERE login = {login_of(user_ref)!r}")
        if len(tries) == 2:
            try:
                raise ValueError(login_of(user_ref))  # noqa: TRY301 - to be the context of the next
            except ValueError as error:
                raise RuntimeError(login_of(user_ref)) from error
        if len(tries) == 3:
            await asyncio.Event().wait()
        return login_of(user_ref)

    service = await office.service()
    onboarding = office.open(Resets(service, look_up, ask_every=FOR_EVER))
    await soon(parked(await onboarding.start("anna", "ticket-1")))
    assert tries == ["anna"] * 4
    assert [len(await service.find(ref="ticket-1")), office.mails("anna")] == [1, 1]
    assert "RuntimeError" in caplog.text
    assert LeakScanner({"login": login_of("anna")}).find(caplog.text) == []
    await check_no_login(engine_url, "anna")


async def test_what_somebody_has_to_mend_is_logged_in_words(
    office: Office, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dbos, "FIRST_PAUSE", 0.01)
    office.add("anna")
    not_async: Any = login_of
    looks: list[Callable[[str], Awaitable[str]]] = [not_async, not_async, office.look_up]

    def look_up(user_ref: str) -> Awaitable[str]:
        return looks.pop(0)(user_ref)

    onboarding = office.open(Resets(await office.service(), look_up))
    await soon(parked(await onboarding.start("anna", "ticket-1")))
    assert caplog.text.count("a reset is tried again later: login_of must be an async function") == 2
    assert LeakScanner({"login": login_of("anna")}).find(caplog.text) == []


async def check_no_login(engine_url: str, user_ref: str) -> None:
    found = LeakScanner({"login": login_of(user_ref), "ref": "ticket-1"}).find(await kept(engine_url))
    assert {leak.name for leak in found} == {"ref"}, "the ref is found, and nothing else"


async def test_a_broker_that_is_down_is_waited_for(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.add("anna")
    monkeypatch.setattr(dbos, "FIRST_PAUSE", 0.01)
    office.sandbox.fault("challenge", "status", status=429, headers={"Retry-After": "1"})
    service = await office.service()
    onboarding = office.open(Resets(service, office.look_up, ask_every=FOR_EVER))
    waiting = await onboarding.start("anna", "ticket-1")
    await soon(parked(waiting))
    assert office.mails("anna") == 1


async def test_the_steps_of_a_wait_are_those_that_parked_workflows_replay(office: Office) -> None:
    office.add("anna")
    service = await office.service(listener=office.listener())
    onboarding = office.open(Resets(service, office.look_up, ask_every=FOR_EVER))
    waiting = await onboarding.start("anna", "ticket-1")
    await soon(parked(waiting))
    (flow,) = await service.find(ref="ticket-1")
    await office.finish(service, "anna", flow)
    await soon(waiting.get_result())
    assert await steps(waiting) == [
        "PasswordReset.start",
        "DBOS.getResult",
        "DBOS.updateWorkflowAttributes",
        "PasswordReset.ask",
        "DBOS.recv",
        "DBOS.sleep",
        "PasswordReset.ask",
    ]


async def test_a_reset_may_be_started_first_and_waited_for_later(office: Office) -> None:
    office.add("anna")
    service = await office.service(listener=office.listener())
    resets = Resets(service, office.look_up, ask_every=FOR_EVER)

    @DBOS.workflow()
    async def onboard() -> bool:
        started = await resets.start("anna", "ticket-1")
        await office.finish(service, "anna", await service.get(started["flow_id"]))
        end = await resets.reset_password("anna", "ticket-1")
        return started["flow_id"] == end["flow_id"] and not started["ended"] and end["ended"]

    office.open(resets)
    assert await soon((await DBOS.start_workflow_async(onboard)).get_result())
    assert office.mails("anna") == 1


@pytest.mark.parametrize("ended_by", ["timeout", "cancel"])
async def test_a_workflow_that_is_ended_while_it_starts_a_reset_leaves_the_ref_to_others(
    office: Office, ended_by: str
) -> None:
    office.add("anna")
    service = await office.service(listener=office.listener())
    asked, answer = asyncio.Event(), asyncio.Event()

    async def look_up(user_ref: str) -> str:
        asked.set()
        await answer.wait()
        return login_of(user_ref)

    onboarding = office.open(Resets(service, look_up, ask_every=FOR_EVER))
    with SetWorkflowTimeout(5 if ended_by == "timeout" else None):
        given_up = await onboarding.start("anna", "ticket-1", "first")
    await soon(asked.wait())
    if ended_by == "cancel":
        await DBOS.cancel_workflow_async(given_up.workflow_id, cancel_children=True)
    async with asyncio.timeout(SOON):
        while (await given_up.get_status()).status != "CANCELLED":
            pass
    answer.set()
    waiting = await onboarding.start("anna", "ticket-1", "second")
    await ends_well(office, service, waiting)


async def test_a_start_that_dbos_no_longer_recovers_goes_on_with_the_next_workflow_of_its_ref(
    office: Office, engine_url: str
) -> None:
    office.add("anna")
    service = await office.service(listener=office.listener())
    asked = asyncio.Event()

    async def hang(_: str) -> str:
        asked.set()
        await asyncio.Event().wait()
        return ""

    await office.open(Resets(service, hang)).start("anna", "ticket-1", "first")
    await soon(asked.wait())
    office.close()
    dead_letter(engine_url, "PasswordReset:ticket-1")
    onboarding = office.open(Resets(service, office.look_up, ask_every=FOR_EVER))
    waiting = await onboarding.start("anna", "ticket-1", "second")
    await ends_well(office, service, waiting)


def dead_letter(url: str, workflow: str) -> None:
    """Give up a workflow as DBOS does after a hundred processes that died of it."""
    client = DBOSClient(system_database_url=url)
    try:
        client._sys_db.dead_letter_workflows([workflow], min_recovery_attempts=0)
        assert [each.status for each in client.list_workflows(workflow_ids=[workflow])] == [
            "MAX_RECOVERY_ATTEMPTS_EXCEEDED"
        ]
    finally:
        client.destroy()


@pytest.mark.parametrize("wrong", ["", "a\0b", "a\ud800", 321 * "a", 7, None])
async def test_a_ref_that_can_not_be_one_is_refused_for_good(office: Office, wrong: Any) -> None:
    office.add("anna")
    resets = Resets(await office.service(), office.look_up)
    onboarding = office.open(resets)
    with pytest.raises(ResetRefused, match="invalid_input"):
        await soon((await onboarding.start("anna", wrong, "first")).get_result())
    with pytest.raises(ResetRefused, match="invalid_input"):
        await soon(resets.cancel(wrong))
    assert office.mails("anna") == 0


@pytest.mark.parametrize("where", ["outside", "workflow", "step"])
async def test_a_reset_is_cancelled_wherever_that_is_called_once_its_store_is_back(
    office: Office, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    monkeypatch.setattr(dbos, "FIRST_PAUSE", 0.01)
    office.add("anna")
    service = await office.service()
    resets = Resets(service, office.look_up, ask_every=FOR_EVER)

    @DBOS.step()
    async def step() -> ResetStatus:
        return await resets.cancel("ticket-1")

    @DBOS.workflow()
    async def workflow() -> ResetStatus:
        return await (resets.cancel("ticket-1") if where == "workflow" else step())

    office.open(resets)
    await service.start(login_of("anna"), ref="ticket-1")
    path = office.folder / "flows.db"
    path.rename(path.with_suffix(".gone"))
    cancelling = asyncio.create_task(resets.cancel("ticket-1") if where == "outside" else workflow())
    async with asyncio.timeout(SOON):
        while "tried again later" not in caplog.text:  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.01)
    path.with_suffix(".gone").rename(path)
    assert (await soon(cancelling))["failure"] == Failure.CANCELLED


async def test_outside_of_a_workflow_nothing_is_started(office: Office) -> None:
    office.add("anna")
    service = await office.service()
    resets = Resets(service, office.look_up)
    office.open(resets)
    with pytest.raises(InvalidInput, match="in a workflow of DBOS"):
        await resets.reset_password("anna", "ticket-1")
    assert await service.find(ref="ticket-1") == []


@pytest.mark.parametrize("engine_url", ["postgres"], indirect=True)
async def test_an_end_while_dbos_is_down_is_told_once_it_is_up(
    office: Office, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    office.add("anna")
    onboarding = office.open(Resets(await office.service(), office.look_up, ask_every=FOR_EVER))
    listener, failed = office.listener(), asyncio.Event()

    async def tell(event: Event) -> None:
        try:
            await listener(event)
        except StoreUnavailable:
            failed.set()
            raise

    page = await office.service(listener=tell)
    waiting = await onboarding.start("anna", "ticket-1")
    await soon(parked(waiting))
    (flow,) = await page.find(ref="ticket-1")
    await asyncio.to_thread(postgres_server.stop)
    await office.finish(page, "anna", flow)
    await soon(failed.wait())
    await asyncio.to_thread(postgres_server.start)
    while not (await page.sweep()).delivered:
        pass
    assert (await soon(waiting.get_result()))["state"] == State.PASSWORD_SET
    assert postgres_server.password not in caplog.text


async def test_a_database_of_dbos_that_does_not_answer_keeps_no_thread_of_the_event_loop(tmp_path: Path) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    reached, silent = asyncio.Event(), asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await silent.wait()
        writer.close()

    async with (
        await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server,
        Office(f"postgresql://user@127.0.0.1:{server.sockets[0].getsockname()[1]}/dbos", tmp_path) as office,
    ):
        office.add("anna")
        service = await office.service(listener=office.listener())
        flow = await service.start(login_of("anna"), ref="ticket-1")
        await service.cancel(flow.id)
        await soon(reached.wait())
        async with asyncio.timeout(30):
            assert await asyncio.to_thread(lambda: "done") == "done"
        silent.set()


def test_without_dbos_the_extra_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['dbos'] = None; import reset_flow.integrations.dbos"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "ConfigurationError: workflows of DBOS need more: pip install 'reset-flow[dbos]'" in done.stderr


def test_an_address_that_dbos_can_t_use_is_refused_without_being_shown() -> None:
    with pytest.raises(InvalidInput) as refusal:
        dbos.DBOSListener("violet tractor 5")
    assert PASSWORD not in repr(refusal.value)
    assert refusal.value.__context__ is None
