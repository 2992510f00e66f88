"""The worker of docs/restate.md, run as it stands."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from benchmarks.servers import free_port
from reset_flow import Flow, ResetService, UnknownUser, from_env
from reset_flow.sandbox import Sandbox
from reset_flow.testing import LeakScanner
from reset_flow.web import Links

if TYPE_CHECKING:
    from benchmarks.servers import RestateServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "restate.md").read_text()
LOGIN, ANSWER, PASSWORD = "robert.zak", "Peterson", "violet tractor sings at 5 am"
LINK = "https://example.com/reset/link/"
PATIENCE = 60

# The first mail is not sent, for a reason that repeats its text.
SEND = """
    with open("mails", "a") as mails:
        print(user_ref, text, file=mails)
    if os.path.getsize("mails") < 100:
        raise ValueError(text)
"""


def snippet() -> str:
    found = re.search(r"<!-- worker -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found, "there is no worker"
    return found[1]


def worker(server: RestateServer, port: int) -> str:
    text = snippet()
    for old, new in (
        ("http://127.0.0.1:8080", server.url),
        ("127.0.0.1:9080", f"127.0.0.1:{port}"),
        ('    print("To", user_ref, ":", text)\n', SEND.removeprefix("\n")),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    return f"import os\n{text}\nasyncio.run(main())\n"


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


async def many(http: aiohttp.ClientSession, server: RestateServer) -> None:
    """Make more calls than Hypercorn takes on one connection, by default: it would close it on those under way."""
    at_once = asyncio.Semaphore(100)

    async def ask(number: int) -> int:
        async with at_once, http.get(f"{server.url}/PasswordReset/nobody {number}/status") as reply:
            return reply.status

    async with asyncio.timeout(PATIENCE):
        assert set(await asyncio.gather(*map(ask, range(4000)))) == {404}


async def flow_of(link: str, service: ResetService) -> Flow | None:
    return await Links(service, "https://example.com/reset/").look(link.removeprefix(LINK))


def test_the_worker_is_about_forty_lines() -> None:
    assert len([line for line in snippet().splitlines() if line.strip()]) <= 45


async def test_the_worker_says_who_is_nobody() -> None:
    worker: dict[str, Any] = {}
    exec(snippet(), worker)  # noqa: S102 - our own page
    assert await worker["login_of"]("customer 7") == LOGIN
    with pytest.raises(UnknownUser):
        await worker["login_of"]("customer 8")


async def test_the_worker_waits_while_the_person_acts_and_no_link_passes_through_restate(
    restate_server: RestateServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    port = free_port()
    async with Sandbox() as sandbox, aiohttp.ClientSession() as http:
        for name, value in {"BROKER_URL": sandbox.api_url, "BROKER_SECRET": "sandbox"}.items():
            monkeypatch.setenv(f"RESET_FLOW_{name}", value)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", worker(restate_server, port), stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        try:
            await answered(http, f"http://127.0.0.1:{port}/health")
            await asyncio.to_thread(restate_server.register, f"http://127.0.0.1:{port}")
            async with http.post(f"{restate_server.url}/Onboarding/onboard/send", json="customer 7") as reply:
                started = (await reply.json())["invocationId"]
            mails = tmp_path / "mails"
            async with asyncio.timeout(PATIENCE):
                while not mails.exists() or mails.read_text().count(LINK) < 2:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.1)
            links = re.findall(rf"customer 7 ({LINK}\S+)", mails.read_text())
            async with from_env(listeners={"restate": None}) as service:
                flow = await flow_of(links[-1], service)
                assert flow
                await service.answer(flow.id, ANSWER)
                await service.verify(flow.id, sandbox.newest_code(LOGIN))
                await service.set_password(flow.id, PASSWORD)
            outcome = await answered(http, f"{restate_server.url}/restate/invocation/{started}/attach")
            assert outcome == "password_set"
            await many(http, restate_server)
        finally:
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE):
                _, said = await process.communicate()
        assert process.returncode == 0

    tables = ("sys_journal", "sys_journal_events", "sys_invocation", "state")
    rows = [row for each in tables for row in restate_server.query(f"SELECT * FROM {each}")]  # noqa: S608
    shown = json.dumps([bytes.fromhex(row["raw"]).decode(errors="replace") if "raw" in row else row for row in rows])
    assert "customer 7" in shown
    scanner = LeakScanner(
        {
            "login": LOGIN,
            "answer": ANSWER,
            "password": PASSWORD,
            **{f"link {n}": link[len(LINK) :] for n, link in enumerate(links)},
        }
    )
    log = restate_server.log
    assert "deployment" in log
    assert "connection error" not in log
    assert scanner.find(shown, said, log) == []
