"""No byte can be written any more, before a call and after it."""

from __future__ import annotations

import asyncio
import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from reset_flow import State, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.crash.conftest import Crash


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/flows.db"


@contextmanager
def full_disk() -> Iterator[None]:
    """Every write to a file of this process fails, as on a disk without space."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_before_the_call_no_call_is_made(crash: Crash) -> None:
    person = crash.person()
    await person.reach(State.QUESTION_ANSWERED)
    code = crash.sandbox.newest_code(person.user)
    with full_disk(), pytest.raises(StoreUnavailable):
        await person.service.verify(person.flow_id, code)
    assert crash.sandbox.calls_of("exchange") == []
    flow = await person.service.verify(person.flow_id, code)
    assert flow.state is State.TOKEN_ISSUED
    assert len(crash.sandbox.calls_of("exchange")) == 1


async def test_after_the_call_the_outcome_is_kept_until_there_is_room(crash: Crash) -> None:
    person = crash.person()
    await person.reach(State.QUESTION_ANSWERED)
    crash.sandbox.fault("exchange", "latency_after", seconds=1)
    verifying = asyncio.create_task(person.do("verify"))
    await crash.sandbox.wait_for_calls("exchange", acted=True)
    with full_disk():
        done, _ = await asyncio.wait({verifying}, timeout=2.5)
        assert not done
    flow = await verifying
    assert flow
    assert flow.state is State.TOKEN_ISSUED
    assert len(crash.sandbox.calls_of("exchange")) == 1
    crash.check(person, await person.finish())
