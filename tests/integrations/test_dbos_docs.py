"""The worker of docs/dbos.md, run as it stands."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reset_flow import UnknownUser, from_env
from reset_flow.integrations.dbos import DBOSListener
from reset_flow.sandbox import Sandbox
from reset_flow.testing import LeakScanner
from reset_flow.web import Links
from tests.integrations.orchestrator import kept, require_sqlite

PAGE = (Path(__file__).parents[2] / "docs" / "dbos.md").read_text()
LOGIN, ANSWER, PASSWORD = "robert.zak", "Peterson", "violet tractor sings at 5 am"
LINK = "https://example.com/reset/link/"

# The first mail is not sent, for a reason that repeats its text.
SEND = """\
    with open("mails", "a") as mails:
        print(user_ref, text, file=mails)
    if os.path.getsize("mails") < 100:
        raise ValueError(text)
"""


def snippet() -> str:
    found = re.search(r"<!-- worker -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found, "there is no worker"
    return found[1]


def test_the_worker_is_about_forty_lines() -> None:
    assert len([line for line in snippet().splitlines() if line.strip()]) <= 40


async def test_the_worker_says_who_is_nobody() -> None:
    worker: dict[str, Any] = {}
    exec(snippet(), worker)  # noqa: S102 - our own page
    assert await worker["login_of"]("customer 7") == LOGIN
    with pytest.raises(UnknownUser):
        await worker["login_of"]("customer 8")


async def test_the_worker_is_killed_while_the_person_acts_and_no_link_passes_through_dbos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_sqlite()
    worker, printed = snippet(), '    print("To", user_ref, ":", text)\n'
    assert worker.count(printed) == 1
    source = f"import asyncio, os\n{worker.replace(printed, SEND)}\nasyncio.run(main())\n"
    monkeypatch.chdir(tmp_path)
    async with Sandbox() as sandbox:
        for name, value in (("BROKER_URL", sandbox.api_url), ("BROKER_SECRET", "sandbox")):
            monkeypatch.setenv(f"RESET_FLOW_{name}", value)
        process = await start(source)
        links = await asyncio.to_thread(mailed, tmp_path / "mails", 2)
        process.kill()
        await process.wait()
        listener = DBOSListener("sqlite:///dbos.db")
        async with listener, from_env(listeners={"dbos": listener}) as service:
            flow = await Links(service, "https://example.com/reset/").look(links[-1].removeprefix(LINK))
            assert flow
            await service.answer(flow.id, ANSWER)
            await service.verify(flow.id, sandbox.newest_code(LOGIN))
            process = await start(source)
            await service.set_password(flow.id, PASSWORD)
            assert process.stdout
            assert await process.stdout.read() == b"The reset of customer 7: password_set\n"
            await process.wait()
        assert sandbox.password_of(LOGIN) == PASSWORD
        assert len(sandbox.mails) == 1
        code = sandbox.newest_code(LOGIN)
    secrets = {f"link {number}": link.removeprefix(LINK) for number, link in enumerate(links)}
    canaries = {"login": LOGIN, "answer": ANSWER, "password": PASSWORD, "code": code, "user_ref": "customer 7"}
    found = LeakScanner({**secrets, **canaries}).find(await kept(f"sqlite:///{tmp_path}/dbos.db"))
    assert {leak.name for leak in found} == {"user_ref"}


async def start(source: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        source,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
    )


def mailed(path: Path, number: int) -> list[str]:
    """Return the links that were mailed, once there are so many."""
    give_up_at = time.monotonic() + 60
    while not path.exists() or path.read_text().count("\n") < number:
        assert time.monotonic() < give_up_at, "no link was mailed"
        time.sleep(0.05)
    return [line.removeprefix("customer 7 ") for line in path.read_text().splitlines()]
