"""Two hundred onboardings wait in DBOS over PostgreSQL, and everything that carries them is killed in turn."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from dbos import DBOSClient

from reset_flow.sandbox import Sandbox
from reset_flow.testing import LeakScanner
from tests.integrations.orchestrator import APP_KEY, PASSWORD, kept, login_of, require_sqlite, unpickled

if TYPE_CHECKING:
    from types import TracebackType

    from benchmarks.servers import PostgresServer

PROCESS = Path(__file__).parent / "dbos_process.py"
ENDS = {"set": "password_set", "cancel": "cancelled", "expire": "expired"}
SET = 160


class Process:
    """One of the two processes of an onboarding, which is started again after it was killed."""

    def __init__(self, role: str, job: dict[str, Any]) -> None:
        self._job = json.dumps({"role": role, **job})

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, str(PROCESS), self._job, stdout=asyncio.subprocess.PIPE
        )

    async def kill(self) -> None:
        assert self._process.returncode is None, "it died by itself"
        self._process.kill()
        await self._process.wait()

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    async def said(self) -> dict[str, str]:
        """Return what came of it."""
        assert self._process.stdout
        line = await self._process.stdout.readline()
        assert line, "it died by itself"
        said: dict[str, str] = json.loads(line)
        return said

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            await self.kill()


def job_for(folder: Path, sandbox: Sandbox, url: str, people: dict[str, str], **more: Any) -> dict[str, Any]:
    for user_ref in people:
        sandbox.add_user(login_of(user_ref))
    return {
        "engine": url,
        "store": url,
        "keys": str(folder / "keys"),
        "broker": sandbox.api_url,
        "people": people,
        "welcomed": str(folder / "welcomed"),
        "resent": str(folder / "resent"),
        **more,
    }


@pytest.mark.engine
async def test_each_of_two_hundred_onboardings_ends_once_and_right_whoever_is_killed(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    people = {
        f"{number:03}": "set" if number < SET else "cancel" if number < 180 else "expire" for number in range(200)
    }
    (tmp_path / "resent").touch()
    async with AsyncExitStack() as closing:
        sandbox = await closing.enter_async_context(Sandbox(app_key=APP_KEY))
        job = job_for(tmp_path, sandbox, postgres_url, people, ask_every=10)
        onboarding = await closing.enter_async_context(Process("onboarding", job))
        await sandbox.wait_for_calls("request", 50)
        await onboarding.restart()
        typing = await closing.enter_async_context(Process("people", job))
        await sandbox.wait_for_calls("update", 20, acted=True)
        await typing.restart()
        await sandbox.wait_for_calls("update", 50, acted=True)
        await asyncio.to_thread(postgres_server.kill)
        await asyncio.to_thread(postgres_server.start)
        await sandbox.wait_for_calls("update", 80, acted=True)
        await onboarding.restart()
        await sandbox.wait_for_calls("update", 110, acted=True)
        await asyncio.to_thread(postgres_server.kill)
        await asyncio.gather(onboarding.kill(), typing.kill())
        await asyncio.to_thread(postgres_server.start)  # without its database, DBOS does not launch
        await asyncio.gather(onboarding.start(), typing.start())
        wanted = {user_ref: ENDS[ends] for user_ref, ends in people.items()}
        assert await typing.said() == wanted
        assert await onboarding.said() == wanted
    check_engine(postgres_url, wanted)
    welcomed = {
        line.partition(" ")[0]: line.partition(" ")[2] for line in (tmp_path / "welcomed").read_text().splitlines()
    }
    assert welcomed == wanted
    asked_again = Counter((tmp_path / "resent").read_text().split())
    for user_ref, ends in people.items():
        login = login_of(user_ref)
        mails = [mail for mail in sandbox.mails if mail.user == login]
        assert len(mails) <= 1 + asked_again[user_ref], f"{user_ref} got {len(mails)} mails"
        assert (sandbox.password_of(login) == PASSWORD) is (ends == "set")
    codes = {f"code {number}": mail.code for number, mail in enumerate(sandbox.mails)}
    logins = {f"login {user_ref}": login_of(user_ref) for user_ref in people}
    found = LeakScanner({"password": PASSWORD, "ref": "onboarding 017", **logins, **codes}).find(
        await kept(postgres_url)
    )
    assert {leak.name for leak in found} == {"ref"}, "the ref is found, and nothing else"
    # A code of six digits is somewhere in so many bytes by chance.
    files = [unpickled(path.read_bytes()) for path in postgres_server.data.rglob("*") if path.is_file()]
    logins = {"of all logins": login_of("").removesuffix("/ü")}
    found = LeakScanner({"password": PASSWORD, "ref": "onboarding 017", **logins}).find(*files, postgres_server.log)
    assert {leak.name for leak in found} == {"ref"}, "the ref is found in PostgreSQL's files, and nothing else"


async def test_a_workflow_in_sqlite_goes_on_after_a_kill(tmp_path: Path) -> None:
    require_sqlite()
    people = {"anna": "set"}
    async with AsyncExitStack() as closing:
        sandbox = await closing.enter_async_context(Sandbox(app_key=APP_KEY))
        url = f"sqlite:///{tmp_path}/dbos.db"
        job = job_for(tmp_path, sandbox, url, people, store=f"sqlite:///{tmp_path}/flows.db", ask_every=600)
        onboarding = await closing.enter_async_context(Process("onboarding", job))
        await sandbox.wait_for_calls("request", 1, acted=True)
        await onboarding.restart()
        typing = await closing.enter_async_context(Process("people", job))
        assert await typing.said() == await onboarding.said() == {"anna": "password_set"}
    check_engine(url, {"anna": "password_set"})


def check_engine(url: str, wanted: dict[str, str]) -> None:
    """Hold that DBOS has one workflow for each person, with the right result, one that started the reset, no other."""
    client = DBOSClient(system_database_url=url)
    try:
        workflows = client.list_workflows()
    finally:
        client.destroy()
    onboardings = {each.workflow_id: each.output for each in workflows if each.name == "onboard"}
    assert onboardings == {f"onboarding of {user_ref}": how for user_ref, how in wanted.items()}
    started = [each.workflow_id.partition(":")[2] for each in workflows if each.name != "onboard"]
    assert sorted(started) == [f"onboarding {user_ref}" for user_ref in sorted(wanted)]
    assert {each.status for each in workflows} == {"SUCCESS"}
