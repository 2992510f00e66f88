"""One service in one event loop after another, and in processes that are forked from the one that made it."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

from reset_flow import (
    CodeRejected,
    ConfigurationError,
    Failure,
    Keyring,
    MemoryStore,
    Rejected,
    ResetService,
    SQLiteStore,
    State,
    StoreUnavailable,
)
from reset_flow.engine import guess_alarm, sweeper
from reset_flow.testing import FrozenClock, refused
from reset_flow.testing.transport import ScriptedTransport
from tests.service import conftest

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from reset_flow import Event, Store
    from reset_flow.sandbox import Sandbox

T = TypeVar("T")
HOSTED = Path(__file__).parent / "hosted.py"
EVERY_STORE = pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])


class Host(Protocol):
    """Run the program in `hosted.py`, and return what it printed."""

    async def __call__(self, *orders: str, **more: str) -> list[dict[str, Any]]: ...


@pytest.fixture
def host(sandbox: Sandbox, tmp_path: Path, kind: str, url: str) -> Host:
    async def run(*orders: str, **more: str) -> list[dict[str, Any]]:
        for order in orders:
            if order != "counts":
                sandbox.add_user(order.rpartition(":")[2])
        settings = {
            "RESET_FLOW_BROKER_URL": sandbox.api_url,
            "RESET_FLOW_APP_KEY": "sandbox",
            "RESET_FLOW_STORE": url if kind in conftest.KINDS else f"sqlite:///{tmp_path}/flows.db",
            "RESET_FLOW_KEYS": str(tmp_path / "keys"),
            "PYTHONPATH": os.pathsep.join(sys.path),
            **more,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "error::ResourceWarning",
            str(HOSTED),
            *orders,
            env=os.environ | settings,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert (process.returncode, err.decode()) == (0, "")
        return [json.loads(line) for line in out.splitlines()]

    return run


def workers_of(result: dict[str, Any]) -> list[str]:
    assert result.get("state") == State.PASSWORD_SET, result
    workers: list[str] = result["workers"]
    return workers


@EVERY_STORE
async def test_a_service_made_at_import_works_in_one_event_loop_after_another(host: Host, sandbox: Sandbox) -> None:
    for result in await host("anna", "bert"):
        assert workers_of(result) == [f"{socket.gethostname()}:{result['pid']}"]
    assert sandbox.password_of("anna") == "violet tractor of anna"


@EVERY_STORE
async def test_a_service_made_before_a_fork_works_in_the_children_under_names_of_their_own(
    host: Host, sandbox: Sandbox
) -> None:
    results = await host("fork:anna", "fork:bert", "carl")
    assert len({result["pid"] for result in results}) == 3
    for result in results:
        assert workers_of(result) == [f"{socket.gethostname()}:{result['pid']}"]
    assert sandbox.password_of("bert") == "violet tractor of bert"


@pytest.mark.parametrize("kind", ["sqlite"])
async def test_a_worker_s_own_name_is_told_from_those_of_its_children(host: Host) -> None:
    *children, parent = await host("fork:anna", "fork:bert", "carl", WORKER="web")
    assert [workers_of(child) for child in children] == [[f"web:{child['pid']}"] for child in children]
    assert workers_of(parent) == ["web"]


@pytest.mark.parametrize("kind", ["postgres", "redis"])
async def test_a_service_whose_loop_had_ended_before_the_fork_works_in_the_child(host: Host) -> None:
    before, child, after = await host("anna", "fork:bert", "carl")
    assert workers_of(before) == workers_of(after) != workers_of(child)


@pytest.mark.parametrize("kind", ["sqlite"])
async def test_a_file_that_is_open_when_it_is_forked_says_in_the_child_what_to_do(host: Host) -> None:
    before, child, after = await host("anna", "fork:bert", "carl")
    assert workers_of(before) == workers_of(after)
    assert child["error"].startswith("StoreUnavailable: ")
    assert "make one after the fork" in child["error"]


@pytest.mark.parametrize("kind", ["sqlite"])
async def test_flows_in_memory_stay_with_the_process_that_began_them(host: Host) -> None:
    before, child, after = await host("anna", "fork:bert", "carl", RESET_FLOW_STORE="memory:")
    assert workers_of(before) == workers_of(after)
    assert child["error"].startswith("StoreUnavailable: ")
    assert "make one after the fork" in child["error"]
    for result in await host("fork:dora", "emil", RESET_FLOW_STORE="memory:"):
        assert workers_of(result) == [f"{socket.gethostname()}:{result['pid']}"]


@EVERY_STORE
async def test_a_service_in_use_while_it_is_forked_says_in_the_child_what_to_do(host: Host) -> None:
    before, child, after = await host("anna", "fork-in-use:bert", "carl")
    assert workers_of(before) == workers_of(after)
    assert child["error"].startswith("StoreUnavailable: ")
    assert "make one after the fork" in child["error"]


# In this process.


def in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run one of the loops of a process; nothing may be left to it."""
    left: list[object] = []

    async def run() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
        async with asyncio.timeout(60):
            return await work

    result = asyncio.run(run())
    gc.collect()
    assert left == []
    return result


def made(
    transport: ScriptedTransport, store: Store | None = None, *, keyring: Keyring | None = None, **options: Any
) -> ResetService:
    options.setdefault("sweep", False)
    return ResetService(transport, store or MemoryStore(), keyring or Keyring.generate(), **options)


async def guess(service: ResetService, transport: ScriptedTransport, user: str) -> None:
    """Type a wrong code."""
    flow = await service.answer((await service.start(user)).id, "Peterson")
    transport.script(exchange=[Rejected()])
    await refused(service.verify(flow.id, "000000"), CodeRejected)


async def counted(service: ResetService) -> tuple[int, int]:
    """Return how many wrong and how many right codes all workers have told."""
    counts, _ = await guess_alarm.load_counts(service.side(guess_alarm.KIND), timedelta(minutes=1))
    wrong = sum(count for (_, is_right), count in counts.items() if not is_right)
    return wrong, counts.total() - wrong


def test_codes_that_were_typed_in_a_loop_that_has_ended_are_told_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guess_alarm, "INTERVAL", timedelta(hours=1))
    transport, store, keyring = ScriptedTransport(), MemoryStore(), Keyring.generate()
    service = made(transport, store, keyring=keyring)
    other = made(ScriptedTransport(), store, keyring=keyring)
    in_a_loop(guess(service, transport, "anna"))
    assert in_a_loop(counted(other)) == (0, 0)
    monotonic = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + 3600)

    async def type_a_right_one() -> None:
        flow = await service.answer((await service.start("bert")).id, "Peterson")
        await service.verify(flow.id, "004158")
        while (await counted(other))[0] != 1:  # noqa: ASYNC110 - there is no event; the right one may be told later
            await asyncio.sleep(0.001)

    in_a_loop(type_a_right_one())
    in_a_loop(service.aclose())


def test_workers_look_at_once_in_one_loop_after_another(tmp_path: Path) -> None:
    keyring = Keyring.load_or_create(tmp_path / "keys")
    service = made(ScriptedTransport(), SQLiteStore(tmp_path / "flows.db"), keyring=keyring)

    async def look() -> tuple[int, int]:
        # From inside: that two looks meet is a matter of moments.
        service._alarm.count(right=True)
        await asyncio.gather(*(service._alarm.sync() for _ in range(3)))
        return await counted(service)

    assert [in_a_loop(look()) for _ in range(2)] == [(0, 1), (0, 2)]
    in_a_loop(service.aclose())


@pytest.mark.parametrize("kind", ["redis"])
async def test_what_a_parent_counted_is_not_told_again_by_its_children(host: Host) -> None:
    *_, counts = await host("wrong:anna", "fork:bert", "fork:carl", "counts")
    assert counts == {"wrong": 1, "right": 2}


def test_a_service_that_is_entered_in_the_next_loop_sweeps_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "INTERVAL", timedelta(milliseconds=1))
    clock, ended = FrozenClock(), []

    async def hear(event: Event) -> None:
        ended.append(event.flow.failure)

    service = made(ScriptedTransport(), MemoryStore(clock=clock), clock=clock, sweep=True, listeners={"one": hear})

    async def enter() -> None:
        await service.__aenter__()
        await service.start("anna")

    in_a_loop(enter())
    clock.advance(timedelta(hours=2))

    async def sweep() -> None:
        async with service:
            while not ended:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.001)

    in_a_loop(sweep())
    assert ended == [Failure.EXPIRED]


def test_a_service_closes_in_another_loop_than_it_was_entered_in() -> None:
    transport, store = ScriptedTransport(), MemoryStore()
    service = made(transport, store, sweep=True)
    in_a_loop(service.__aenter__())
    in_a_loop(service.aclose())
    in_a_loop(refused(service.start("anna"), StoreUnavailable))
    in_a_loop(refused(store.load("any"), StoreUnavailable))


async def test_flows_in_memory_serve_one_running_loop_at_a_time() -> None:
    service = made(ScriptedTransport())
    flow = await service.start("anna")
    waiting = asyncio.create_task(service.wait(flow.id))
    error = await asyncio.to_thread(in_a_loop, refused(service.cancel(flow.id), ConfigurationError))
    assert "make one for each loop" in str(error)
    await service.cancel(flow.id)
    async with asyncio.timeout(60):
        assert (await waiting).failure is Failure.CANCELLED


def test_what_a_loop_left_under_way_that_ended_without_a_word_is_not_waited_for() -> None:
    transport = ScriptedTransport()
    service = made(transport)
    held = transport.hold("challenge")
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it complains of tasks that it had

    async def begin() -> None:
        task = asyncio.create_task(service.start("anna"))
        await held.arrived.wait()
        task.cancel()

    loop.run_until_complete(begin())
    loop.close()
    assert in_a_loop(service.start("bert")).state is State.REQUESTED
    in_a_loop(service.aclose(timedelta(hours=1)))


def leave_a_command_in_a_loop() -> None:
    transport = ScriptedTransport()
    service, held = made(transport), transport.hold("challenge")

    async def arrive() -> None:
        tasks.append(asyncio.create_task(service.start("anna")))
        await held.arrived.wait()

    tasks: list[asyncio.Task[Any]] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(arrive())
    loop.close()


def test_a_command_whose_loop_was_left_for_good_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "reset_flow"):
        leave_a_command_in_a_loop()
        gc.collect()
    assert [record for record in caplog.records if record.name.startswith("reset_flow")] == []
