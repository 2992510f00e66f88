"""The workers of docs/restate.md and docs/dbos.md, run as they stand."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from benchmarks.servers import free_port
from reset_flow import Flow, FlowEnded, ResetService, UnknownUser, from_env
from reset_flow.integrations.dbos import DBOSListener
from reset_flow.sandbox import Sandbox
from reset_flow.testing import LeakScanner
from reset_flow.web import Links
from tests.integrations.orchestrator import kept, require_sqlite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.servers import RestateServer

ROOT = Path(__file__).parents[2]
BOTH = pytest.mark.parametrize("engine", ["restate", "dbos"])
LOGIN, ANSWER, PASSWORD = "robert.zak", "Peterson", "violet tractor sings at 5 am"
LINK = "https://example.com/reset/link/"
PATIENCE = 300

PRINTED = '    print("To", user_ref, ":", text)\n'
# The first mail is not sent, for a reason that repeats its text.
SEND = """\
    with open("mails", "a") as mails:
        print(user_ref, text, file=mails)
    if os.path.getsize("mails") < 100:
        raise ValueError(text)
"""
SOONER = {"restate": ("days=days", "seconds=days"), "dbos": ("days * 24 * 3600", "days")}
PAUSE = timedelta(seconds=1)
BRIEF = "policy=__import__('reset_flow').Policy(flow_lifetime=timedelta(seconds=3)), "


def snippet(engine: str) -> str:
    page = (ROOT / "docs" / f"{engine}.md").read_text()
    found = re.search(r"<!-- worker -->\n```python\n(.*?)```", page, re.DOTALL)
    assert found, "there is no worker"
    return found[1]


def program(engine: str, *changes: tuple[str, str]) -> str:
    """Return the worker as a program that writes its mails to a file, and pauses for seconds in place of days."""
    text = snippet(engine)
    for old, new in ((PRINTED, SEND), SOONER[engine], *changes):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return f"import asyncio, os\n{text}\nasyncio.run(main())\n"


async def start(source: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", source, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


def mails() -> list[str]:
    """Return what opens the flows in the mails."""
    file = Path("mails")
    return re.findall(f"customer 7 {LINK}(.+)\n", file.read_text()) if file.exists() else []


async def offered(service: ResetService, *before: Flow) -> Flow:
    """Return the flow of the newest mail, once that is none of those before."""
    ids = {flow.id for flow in before}
    async with asyncio.timeout(PATIENCE):
        while len(mails()) < 2 or (found := (await mailed(service))[-1]) in ids:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
    return await service.get(found)


async def mailed(service: ResetService) -> list[str]:
    """Return the id of the flow of each mail."""
    links = Links(service, "https://example.com/reset/")
    return [flow.id for link in mails() if (flow := await links.look(link))]


async def finish(service: ResetService, flow: Flow, sandbox: Sandbox) -> None:
    await service.answer(flow.id, ANSWER)
    await service.verify(flow.id, sandbox.newest_code(LOGIN))
    await service.set_password(flow.id, PASSWORD)


async def set_none(service: ResetService) -> list[Flow]:
    """Let the first reset expire, and cancel two more."""
    flows = [await offered(service)]
    assert (await service.wait(flows[0].id)).failure == "expired"
    for _ in range(2):
        flows.append(await offered(service, *flows))
        with suppress(FlowEnded):  # it was faster
            await service.cancel(flows[-1].id)
    flows = [await service.get(flow.id) for flow in flows]
    assert all(later.created_at - earlier.history[-1].at >= PAUSE for earlier, later in pairwise(flows))
    return flows


@pytest.fixture
async def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    """The broker of workers that start in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    async with Sandbox() as sandbox:
        monkeypatch.setenv("RESET_FLOW_BROKER_URL", sandbox.api_url)
        monkeypatch.setenv("RESET_FLOW_BROKER_SECRET", "sandbox")
        yield sandbox


@BOTH
def test_the_worker_is_about_forty_lines(engine: str) -> None:
    assert len([line for line in snippet(engine).splitlines() if line.strip()]) <= 45


@BOTH
async def test_the_worker_says_who_is_nobody(engine: str) -> None:
    worker: dict[str, Any] = {}
    exec(snippet(engine), worker)  # noqa: S102 - our own page
    assert await worker["login_of"]("customer 7") == LOGIN
    with pytest.raises(UnknownUser):
        await worker["login_of"]("customer 8")


# --- Restate


class Onboarding:
    """An onboarding in Restate, and what the process of its worker wrote to standard error."""

    errors = b""

    def __init__(self, server: RestateServer, http: aiohttp.ClientSession, invocation: str) -> None:
        self._server = server
        self._http = http
        self._invocation = invocation

    async def result(self) -> Any:
        return await answered(self._http, f"{self._server.url}/restate/invocation/{self._invocation}/attach")

    async def ask_often(self) -> None:
        """Make more calls than Hypercorn takes on one connection by default: it would close it on those under way."""
        at_once = asyncio.Semaphore(100)

        async def ask(number: int) -> int:
            async with at_once, self._http.get(f"{self._server.url}/PasswordReset/nobody {number}/status") as reply:
                return reply.status

        async with asyncio.timeout(PATIENCE):
            assert set(await asyncio.gather(*map(ask, range(4000)))) == {404}


@asynccontextmanager
async def onboarding(server: RestateServer, *changes: tuple[str, str]) -> AsyncIterator[Onboarding]:
    """Run the worker, and begin an onboarding."""
    port = free_port()
    addresses = (("http://127.0.0.1:8080", server.url), ("127.0.0.1:9080", f"127.0.0.1:{port}"))
    process = await start(program("restate", *addresses, *changes))
    try:
        async with aiohttp.ClientSession() as http:
            await answered(http, f"http://127.0.0.1:{port}/health")
            await asyncio.to_thread(server.register, f"http://127.0.0.1:{port}")
            async with http.post(f"{server.url}/Onboarding/onboard/send", json="customer 7") as reply:
                onboarding = Onboarding(server, http, (await reply.json())["invocationId"])
            yield onboarding
    finally:
        process.terminate()
        async with asyncio.timeout(PATIENCE):
            _, said = await process.communicate()
    assert process.returncode == 0
    onboarding.errors = said


async def answered(http: aiohttp.ClientSession, url: str) -> Any:
    """Return the answer once there is one."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                async with http.get(url) as reply:
                    if reply.status == 200:
                        return await reply.json()
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


async def test_a_reset_that_the_person_cancelled_is_offered_again_and_no_link_passes_through_restate(
    restate_server: RestateServer, sandbox: Sandbox
) -> None:
    async with onboarding(restate_server) as run, from_env(listeners={"restate": None}) as service:
        cancelled = await service.cancel((await offered(service)).id)
        await finish(service, await offered(service, cancelled), sandbox)
        assert await run.result() == "password_set"
        await run.ask_often()
    assert sandbox.password_of(LOGIN) == PASSWORD

    tables = ("sys_journal", "sys_journal_events", "sys_invocation", "state")
    rows = [row for each in tables for row in restate_server.query(f"SELECT * FROM {each}")]  # noqa: S608
    shown = json.dumps([bytes.fromhex(row["raw"]).decode(errors="replace") if "raw" in row else row for row in rows])
    assert "customer 7" in shown
    canaries = {"login": LOGIN, "answer": ANSWER, "password": PASSWORD}
    scanner = LeakScanner({**canaries, **{f"link {number}": link for number, link in enumerate(mails())}})
    log = restate_server.log
    assert "deployment" in log
    assert "connection error" not in log
    assert scanner.find(shown, run.errors, log) == []


async def test_in_restate_a_reset_that_expired_or_was_cancelled_is_offered_three_times_in_all(
    restate_server: RestateServer, sandbox: Sandbox
) -> None:
    brief = ("from_env(", f"from_env({BRIEF}")
    async with onboarding(restate_server, brief) as run, from_env(listeners={"restate": None}) as service:
        flows = await set_none(service)
        assert await run.result() in {"cancelled", "expired"}
        assert set(await mailed(service)) == {flow.id for flow in flows}
    assert sandbox.mails == []


# --- DBOS


async def test_a_reset_that_the_person_cancelled_is_offered_again_by_a_worker_that_was_killed_and_none_leaks_into_dbos(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    require_sqlite()
    source, listener = program("dbos"), DBOSListener("sqlite:///dbos.db")
    async with listener, from_env(listeners={"dbos": listener}) as service:
        process = await start(source)
        cancelled = await offered(service)
        await killed(process)
        await service.cancel(cancelled.id)
        process = await start(source)
        flow = await offered(service, cancelled)
        await killed(process)
        await finish(service, flow, sandbox)
        assert await output(await start(source)) == "The reset of customer 7: password_set\n"
    assert sandbox.password_of(LOGIN) == PASSWORD
    assert len(sandbox.mails) == 1
    secrets = {f"link {number}": link for number, link in enumerate(mails())}
    canaries = {"login": LOGIN, "answer": ANSWER, "password": PASSWORD, "code": sandbox.newest_code(LOGIN)}
    scanner = LeakScanner({**secrets, **canaries, "user_ref": "customer 7"})
    found = scanner.find(await kept(f"sqlite:///{tmp_path}/dbos.db"))
    assert {leak.name for leak in found} == {"user_ref"}


async def test_in_dbos_a_reset_that_expired_or_was_cancelled_is_offered_three_times_in_all(sandbox: Sandbox) -> None:
    require_sqlite()
    process = await start(program("dbos", ("from_env(", f"from_env({BRIEF}")))
    async with from_env(listeners={"dbos": None}) as service:
        flows = await set_none(service)
        assert re.fullmatch("The reset of customer 7: (cancelled|expired)\n", await output(process))
        assert set(await mailed(service)) == {flow.id for flow in flows}
    assert sandbox.mails == []


async def killed(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.communicate()


async def output(process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(PATIENCE):
        said, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return said.decode()
