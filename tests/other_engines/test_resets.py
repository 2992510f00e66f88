"""What the workers of all engines call gives ids and states, whatever happens, and starts one reset for each ref."""

from __future__ import annotations

import asyncio
import traceback
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from examples.engines import resets
from tests.other_engines.conftest import LOGIN

if TYPE_CHECKING:
    from pathlib import Path

    from reset_flow.sandbox import Sandbox
    from tests.other_engines.conftest import Page


async def test_one_ref_is_one_reset_before_and_after_its_end(page: Page, sandbox: Sandbox) -> None:
    started = await resets.start_reset("employee-17", "job-1")
    assert (started["state"], started["expects"], started["ended"]) == ("requested", "answer", False)
    assert await resets.start_reset("employee-17", "job-1") == started
    await page.reset("job-1")
    ended = await resets.reset_status("job-1")
    assert (ended["flow_id"], ended["state"], ended["ended"]) == (started["flow_id"], "password_set", True)
    assert await resets.start_reset("employee-17", "job-1") == ended
    assert sandbox.user(LOGIN).mails_sent == 1


async def test_the_person_gets_a_link_and_the_engine_does_not(sandbox: Sandbox, tmp_path: Path) -> None:
    started = await resets.start_reset("employee-17", "job-1")
    link = (tmp_path / "employee-17.txt").read_text()
    assert link.startswith(f"{resets.PAGE}link/")
    assert link not in str(started)
    assert LOGIN not in str(started)
    assert sandbox.user(LOGIN).mails_sent == 0


async def test_a_wait_ends_with_the_reset_or_with_its_time(page: Page) -> None:
    started = await resets.start_reset("employee-17", "job-1")
    assert await resets.reset_status("job-1", wait=timedelta(milliseconds=1)) == started
    waiting = asyncio.create_task(resets.reset_status("job-1", wait=timedelta(minutes=1)))
    await page.reset("job-1")
    assert (await waiting)["state"] == "password_set"


async def test_the_listener_of_the_page_is_told_of_resets_that_a_worker_started(page: Page) -> None:
    await resets.start_reset("employee-17", "job-1")
    await page.reset("job-1")
    assert (await page.ended("job-1")).flow.ref == "job-1"


async def test_what_fails_for_good_says_so(page: Page) -> None:
    await resets.start_reset("employee-17", "job-1")
    for call, code in (
        (resets.start_reset("employee-18", "job-1"), "key_reused"),
        (resets.start_reset("employee-19", "job-2"), "unknown_user"),
        (resets.reset_status("job-2"), "flow_not_found"),
    ):
        with pytest.raises(resets.ResetFailed) as failed:
            await call
        assert (failed.value.code, failed.value.retryable) == (code, False)
    assert len(await page.service.find(ref="job-1")) == 1


async def test_a_broker_that_is_down_is_asked_again(sandbox: Sandbox) -> None:
    sandbox.fault("challenge", "status", status=503, headers={"Retry-After": "7"})
    with pytest.raises(resets.ResetFailed) as failed:
        await resets.start_reset("employee-17", "job-1")
    assert (failed.value.code, failed.value.retryable) == ("broker_unavailable", True)
    assert failed.value.retry_after is not None
    assert (await resets.start_reset("employee-17", "job-1"))["state"] == "requested"


async def test_wrong_settings_wait_for_somebody_to_mend_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESET_FLOW_BROKER_SECRET", "no app key of ours")
    with pytest.raises(resets.ResetFailed, match="app_key_rejected") as failed:
        await resets.start_reset("employee-17", "job-1")
    assert failed.value.retryable
    monkeypatch.setenv("RESET_FLOW_BROKER_SECRET", "sandbox")
    resets.service.cache_clear()
    assert (await resets.start_reset("employee-17", "job-1"))["state"] == "requested"


async def test_no_error_has_the_words_of_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(user_ref: str) -> str:
        raise LookupError(f"the directory has two of {LOGIN}, {user_ref}")

    monkeypatch.setattr(resets, "login_of", broken)
    with pytest.raises(resets.ResetFailed) as failed:
        await resets.start_reset("employee-17", "job-1")
    assert LOGIN not in "".join(traceback.format_exception(failed.value))
    assert (failed.value.__cause__, failed.value.__context__) == (None, None)
    assert failed.value.retryable
