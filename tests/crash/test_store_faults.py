"""The store goes away, again and again, under many flows; when it is back, nothing is lost, doubled or stuck."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from reset_flow import FlowBusy, State, StoreUnavailable
from reset_flow.testing import refused

if TYPE_CHECKING:
    from pathlib import Path

    from reset_flow.domain.flow import Flow
    from tests.crash.conftest import Crash, Person

FLOWS = int(os.environ.get("RESET_FLOW_TEST_FLOWS", "150"))
OUTAGES = 4


@pytest.fixture
def times() -> tuple[float, float]:
    return 8.0, 12.0  # a flow whose last save was lost is waited for


def misses_store(person: Person) -> bool:
    return any(told is StoreUnavailable for _, told in person.told)


async def trouble(crash: Crash, request: pytest.FixtureRequest, tmp_path: Path, people: list[Person]) -> None:
    """Take the store away and give it back, a few times; servers also without warning. The first time is noticed."""

    async def away(number: int) -> None:
        if number:
            await asyncio.sleep(1.0)
            return
        async with asyncio.timeout(60):
            while not any(map(misses_store, people)):  # noqa: ASYNC110 - a person is told in many places
                await asyncio.sleep(0.1)

    for number in range(OUTAGES):
        await asyncio.sleep(0.6)
        if crash.store.startswith("sqlite"):
            with closing(sqlite3.connect(tmp_path / "flows.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                await away(number)
                other.execute("ROLLBACK")
        else:
            server = request.getfixturevalue("postgres_server" if "postgres" in crash.store else "redis_server")
            await asyncio.to_thread(server.kill if number % 2 else server.stop)
            await away(number)
            await asyncio.to_thread(server.start)


async def test_flows_go_on_while_the_store_comes_and_goes(
    crash: Crash, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    people: list[Person] = []

    async def go(number: int) -> Flow:
        person = crash.person(question=number % 3 > 0)
        people.append(person)
        await asyncio.sleep(number / FLOWS * 4)
        return await person.finish()

    await crash.service.sweep()  # opens the store
    ends, _ = await asyncio.gather(asyncio.gather(*map(go, range(FLOWS))), trouble(crash, request, tmp_path, people))
    for person, flow in zip(people, ends, strict=True):
        crash.check(person, flow)
        assert flow.state is State.PASSWORD_SET
    assert any(map(misses_store, people)), "the store was never missed: this proves nothing"
    report = await crash.service.sweep()
    assert (report.settled, report.expired, report.unreadable) == (0, 0, 0)


async def test_a_save_that_fails_before_the_call_means_that_no_call_is_made(
    crash: Crash, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    person = crash.person()
    await person.reach(State.QUESTION_ANSWERED)
    code = crash.sandbox.newest_code(person.user)
    before = len(crash.sandbox.calls)
    if crash.store.startswith("sqlite"):
        with closing(sqlite3.connect(tmp_path / "flows.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await refused(person.service.verify(person.flow_id, code), StoreUnavailable)
            other.execute("ROLLBACK")
    else:
        server = request.getfixturevalue("postgres_server" if "postgres" in crash.store else "redis_server")
        await asyncio.to_thread(server.stop)
        await refused(person.service.verify(person.flow_id, code), StoreUnavailable)
        await asyncio.to_thread(server.start)
    assert len(crash.sandbox.calls) == before
    async with asyncio.timeout(60):
        while True:
            try:
                flow = await person.service.verify(person.flow_id, code)
                break
            except (FlowBusy, StoreUnavailable):
                await asyncio.sleep(0.1)
    assert flow.state is State.TOKEN_ISSUED
    assert flow.history[-1].trigger == "token_granted"
    assert len(crash.sandbox.calls) == before + 1
