"""Flows of a broker that goes by another name by now, or of another broker."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from reset_flow import ConfigurationError, EtnaTransport, Failure, FlowBusy, State, Step, WrongBroker, from_env
from reset_flow.testing import refused
from reset_flow.testing.transport import ScriptedTransport

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from reset_flow import Flow
    from reset_flow.testing import FrozenClock
    from tests.service.conftest import At, House, MakeEtna, Person, ScriptedWorker, Worker

GIVEN = {"answer": "Peterson", "resend": "", "verify": "004158", "set_password": "violet tractor 5"}
ROUTES = {"answer": "request", "resend": "request", "verify": "exchange", "set_password": "update"}
STANDS = {
    "answer": State.REQUESTED,
    "resend": State.QUESTION_ANSWERED,
    "verify": State.QUESTION_ANSWERED,
    "set_password": State.TOKEN_ISSUED,
}
COMMANDS = pytest.mark.parametrize("command", ROUTES)
RUNNING = pytest.mark.parametrize("state", [state for state in State if not state.ended])


def give(worker: Worker, flow: Flow, command: str) -> Coroutine[object, object, Flow]:
    given = [GIVEN[command]] if GIVEN[command] else []
    call: Coroutine[object, object, Flow] = getattr(worker.service, command)(flow.id, *given)
    return call


@pytest.fixture
def other(house: House) -> ScriptedWorker:
    return house.worker(ScriptedTransport("other"))


async def dies_in(command: str, worker: ScriptedWorker, at: At, clock: FrozenClock) -> Flow:
    """Have a worker die in the call of a command."""
    flow = await at(worker, STANDS[command])
    clock.advance(timedelta(minutes=1))
    held = worker.transport.hold(ROUTES[command])
    task = asyncio.create_task(give(worker, flow, command))
    await held.arrived.wait()
    await worker.dies()
    await asyncio.gather(task, return_exceptions=True)
    return flow


# Under another name.


async def test_a_broker_that_moved_takes_the_flows_of_its_old_name(
    house: House, etna: MakeEtna, person: Person
) -> None:
    before = house.worker(etna(name="old"))
    for state in (State.REQUESTED, State.QUESTION_ANSWERED, State.TOKEN_ISSUED):
        flow = await person.reaches(before.service, state)
        await refused(give(house.worker(etna()), flow, "resend"), WrongBroker)
        moved = house.worker(etna(aliases=["older", "old"]))
        for command in ("answer", "verify", "set_password"):
            if flow.expects == {"answer": "answer", "verify": "code", "set_password": "password"}[command]:
                flow = await person.does(moved.service, flow, command)
        assert flow.state is State.PASSWORD_SET


@COMMANDS
async def test_it_settles_what_was_left_under_the_old_name(
    house: House, at: At, clock: FrozenClock, command: str
) -> None:
    flow = await dies_in(command, house.worker(), at, clock)
    transport = ScriptedTransport("new")
    transport.aliases = frozenset({"scripted"})  # type: ignore[attr-defined] # as a transport of somebody else's may
    house.lease_runs_out()
    moved = house.worker(transport)
    assert (await moved.service.sweep()).settled == 1
    assert len(transport.calls) == (1 if command == "verify" else 0)
    assert (await moved.service.get(flow.id)).history != flow.history


async def test_from_env_names_the_broker_and_its_aliases(
    etna: MakeEtna, person: Person, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = {
        "BROKER_URL": etna().name.removeprefix("etna:"),
        "APP_KEY": "sandbox",
        "STORE": f"sqlite:///{tmp_path}/flows.db",
        "KEYS": str(tmp_path / "flows.keys"),
        "BROKER_NAME": "",
        "BROKER_ALIASES": "",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"RESET_FLOW_{name}", value)
    async with from_env() as service:
        flow = await person.start(service)
    monkeypatch.setenv("RESET_FLOW_BROKER_NAME", "production")
    async with from_env() as service:
        error = await refused(person.does(service, flow, "answer"), WrongBroker)
        assert f"{etna().name!r}, and this is 'production'" in str(error)
    monkeypatch.setenv("RESET_FLOW_BROKER_ALIASES", f" staging,\n{etna().name} , old")
    async with from_env() as service:
        assert (await person.does(service, flow, "answer")).state is State.QUESTION_ANSWERED
        flow = await person.start(service)
    async with from_env({"BROKER_NAME": "another", "BROKER_ALIASES": "production"}) as service:
        assert (await person.does(service, flow, "answer")).state is State.QUESTION_ANSWERED


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x00", "\ud800", "x" * 1001, 5, b"old"])
def test_what_is_no_name_is_refused(name: Any) -> None:
    for options in ({"name": name}, {"aliases": [name]}):
        with pytest.raises(ConfigurationError, match="must be printable text of 1 to 1000 characters"):
            EtnaTransport("https://broker.test", "key", **options)


@pytest.mark.parametrize("aliases", ["old", b"old", 5, None])
def test_aliases_are_a_list(aliases: Any) -> None:
    with pytest.raises(ConfigurationError, match="aliases must be a list of names"):
        EtnaTransport("https://broker.test", "key", aliases=aliases)


def test_the_environment_gives_one_name(tmp_path: Path) -> None:
    settings = {"BROKER_URL": "https://h", "APP_KEY": "k", "KEYS": str(tmp_path / "keys")}
    with pytest.raises(ConfigurationError, match="RESET_FLOW_BROKER_NAME must be one name"):
        from_env({**settings, "BROKER_NAME": "my broker"})


# Of another broker.


async def test_a_wrong_broker_says_how_to_mend_it(house: House, at: At, other: ScriptedWorker) -> None:
    flow = await at(house.worker(), State.QUESTION_ANSWERED)
    error = await refused(other.service.verify(flow.id, "004158"), WrongBroker)
    assert error.flow == flow
    for word in ("'scripted'", "'other'", "aliases", "RESET_FLOW_BROKER_ALIASES", "cancel"):
        assert word in str(error)


@RUNNING
async def test_any_broker_looks_finds_and_cancels(house: House, at: At, other: ScriptedWorker, state: State) -> None:
    flow = await at(house.worker(), state, tags=["a tag"])
    assert await other.service.get(flow.id) == flow
    assert await other.service.find("a tag") == [flow]
    assert await other.service.wait(flow.id, 0) == flow
    ended = await other.service.cancel(flow.id, key="once")
    assert (ended.state, ended.failure) == (State.FAILED, Failure.CANCELLED)
    assert await other.service.cancel(flow.id, key="once") == ended
    assert other.transport.calls == []


@pytest.mark.parametrize("how", ["get", "sweep", "cancel"])
async def test_any_broker_ends_a_flow_and_drops_the_same_uses(
    house: House, at: At, clock: FrozenClock, other: ScriptedWorker, how: str
) -> None:
    dropped: dict[ScriptedWorker, list[tuple[str, ...]]] = {}
    for worker in (house.worker(), other):
        flow = await at(house.worker(), State.QUESTION_ANSWERED)
        if how == "cancel":
            await worker.service.cancel(flow.id)
        clock.advance(timedelta(hours=2))
        if how == "sweep":
            assert (await worker.service.sweep()).expired == 1
        failure = (await worker.service.get(flow.id)).failure
        assert failure is (Failure.CANCELLED if how == "cancel" else Failure.EXPIRED)
        dropped[worker] = worker.store.used
    assert list(dropped.values()) == [[("-c",)]] * 2
    assert other.transport.calls == []


@COMMANDS
@pytest.mark.parametrize("sweeps", [False, True])
async def test_any_broker_ends_an_expired_flow_with_a_dead_call_like_the_right_one(
    house: House, at: At, other: ScriptedWorker, command: str, *, sweeps: bool
) -> None:
    ends, mine, clock = [], house.worker(), house.clock
    for worker in (mine, other):
        flow = await dies_in(command, house.worker(), at, clock)
        clock.advance(timedelta(hours=2))
        worker.store.used.clear()
        if sweeps:
            report = await worker.service.sweep()
            assert (report.settled, report.expired) == (1, 1)
        ended = await worker.service.get(flow.id)
        ends.append(([step.trigger for step in ended.history], ended.failure, ended.in_doubt, worker.store.used))
    assert ends[0] == ends[1]
    assert ends[0][1] is (Failure.OUTCOME_UNKNOWN if command == "set_password" else Failure.EXPIRED)
    assert (mine.transport.calls, other.transport.calls) == ([], [])


@COMMANDS
async def test_any_broker_cancels_a_flow_with_a_dead_call(
    house: House, at: At, clock: FrozenClock, other: ScriptedWorker, command: str
) -> None:
    flow = await dies_in(command, house.worker(), at, clock)
    await refused(other.service.cancel(flow.id), FlowBusy)
    house.lease_runs_out()
    ended = await other.service.cancel(flow.id)
    assert ended.failure is (Failure.OUTCOME_UNKNOWN if command == "set_password" else Failure.CANCELLED)
    assert other.transport.calls == []


@pytest.mark.parametrize("command", ["answer", "resend", "set_password"])
async def test_any_broker_settles_what_is_not_sent_again(
    house: House, at: At, clock: FrozenClock, other: ScriptedWorker, command: str
) -> None:
    flow = await dies_in(command, house.worker(), at, clock)
    house.lease_runs_out()
    assert (await other.service.sweep()).settled == 1
    doubt = (await other.service.get(flow.id)).in_doubt
    assert doubt is (Step.PASSWORD if command == "set_password" else Step.ANSWER)
    assert other.transport.calls == []


async def test_a_result_is_recalled_by_any_broker(house: House, at: At, other: ScriptedWorker) -> None:
    mine = house.worker()
    flow = await at(mine, State.QUESTION_ANSWERED)
    done = await mine.service.verify(flow.id, "004158", key="once")
    assert await other.service.verify(flow.id, "004158", key="once") == done
    assert other.transport.calls == []
