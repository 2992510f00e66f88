"""200 onboarding processes wait for resets in Restate, while every process around them is killed in turn."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import attrs
import pytest

from benchmarks import servers
from benchmarks.binaries import NoServerError
from benchmarks.servers import free_port
from reset_flow import Keyring
from reset_flow.sandbox import Sandbox
from reset_flow.testing import LeakScanner
from tests.conftest import without
from tests.integrations import onboarding
from tests.integrations.onboarding import ANSWER, PASSWORD, PEOPLE, login, user_ref, wanted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from benchmarks.servers import RestateServer

pytestmark = [pytest.mark.engine, pytest.mark.server]

ROOT = Path(__file__).parents[2]
OBJECTS, ONBOARDING = ["Resets", "BriefResets"], "Onboarding"
PATIENCE = 300
PAUSE = 0.2
WAITING = "SELECT service_key FROM state WHERE key = 'waiters'"
SEARCHED = 20
"""Codes that are searched for; of more, one might be found by chance."""
SETTINGS = {
    "worker.invoker.abort-timeout": "20s",  # after which a call that got lost is made again
} | {
    f"{section}.rocksdb-disable-{what}-compression": True
    for section in ("worker.storage", "log-server", "bifrost.local", "metadata-server")
    for what in ("wal", "l0-l1")
}
"""Restate keeps what it stores as it came, by all but the first."""


@pytest.fixture
def server() -> Iterator[RestateServer]:
    try:
        server = servers.restate(SETTINGS)
    except NoServerError as error:
        without(str(error))
    try:
        server.start()
        yield server
    finally:
        server.close()


@attrs.define
class Process:
    """One that is killed, and comes back as it was."""

    config: dict[str, Any]
    log: Path
    said: bytes = b""
    _process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", onboarding.__name__, json.dumps(self.config), cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log,
            )  # fmt: skip
        self._write()

    def say(self, number: int) -> None:
        self.said = b"%d\n" % number
        self._write()

    def _write(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(self.said)

    async def kill(self) -> None:
        assert self._process is not None
        assert self._process.returncode is None, self.log.read_text()
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def dies_and_comes_back(self) -> None:
        await self.kill()
        await self.start()


@attrs.define
class Town:
    """All that takes part."""

    server: RestateServer
    sandbox: Sandbox
    folder: Path
    orchestrator: Process
    people: Process

    async def onboard(self, http: aiohttp.ClientSession, number: int) -> None:
        """Begin an onboarding process, once."""
        await self._post(http, f"{ONBOARDING}/onboard/send", number, key=str(number))
        if wanted(number) == "cancelled" and number % 20 == 9:  # the others are given up by the people
            await self._post(http, f"{OBJECTS[0]}/{number}/cancel")

    async def _post(self, http: aiohttp.ClientSession, path: str, body: Any = None, *, key: str = "") -> None:
        while True:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            headers |= {"Idempotency-Key": key} if key else {}
            try:
                async with http.post(f"{self.server.url}/{path}", json=body, headers=headers) as reply:
                    if reply.status in (200, 202):
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(PAUSE)

    def entered(self) -> list[tuple[str, str]]:
        """Return what is in the ledger."""
        with closing(sqlite3.connect(self.folder / "ledger", timeout=60)) as ledger:
            return ledger.execute("SELECT ref, outcome FROM ledger").fetchall()

    def stands(self) -> str:
        """Return what is known of where it stands."""
        calls = "SELECT target, status, retry_count, last_failure FROM sys_invocation WHERE status <> 'completed'"
        logs = [each.log.read_text()[-2000:] for each in (self.orchestrator, self.people)]
        return "\n".join([f"{len(self.entered())} have ended", *map(str, self.server.query(calls)), *logs])

    async def kill_engine(self) -> None:
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)


@pytest.fixture
async def town(server: RestateServer, tmp_path: Path) -> AsyncIterator[Town]:
    Keyring.generate().to_file(tmp_path / "keys")
    (tmp_path / "asked").touch()
    with closing(sqlite3.connect(tmp_path / "ledger")) as ledger:
        ledger.execute(onboarding.LEDGER)
    async with Sandbox() as sandbox:
        for number in range(PEOPLE):
            asked = number % 2 == 0
            sandbox.add_user(login(number), question="Where?" if asked else None, answer=ANSWER if asked else None)
        config = {
            "broker": sandbox.api_url, "store": f"sqlite:///{tmp_path / 'flows.db'}", "keys": str(tmp_path / "keys"),
            "ingress": server.url, "objects": OBJECTS, "onboarding": ONBOARDING, "port": free_port(),
            "ledger": str(tmp_path / "ledger"), "asked": str(tmp_path / "asked"),
        }  # fmt: skip

        def process(role: str) -> Process:
            return Process(
                config | {"role": role, "witness": str(tmp_path / f"{role}.heard")}, tmp_path / f"{role}.log"
            )

        town = Town(server, sandbox, tmp_path, process("orchestrator"), process("people"))
        await town.orchestrator.start()
        await town.people.start()
        await until(lambda: register(server, f"http://127.0.0.1:{config['port']}"))
        yield town
        for each in (town.orchestrator, town.people):
            await each.kill()


async def register(server: RestateServer, url: str) -> bool:
    try:
        await asyncio.to_thread(server.register, url)
    except OSError:  # it does not listen yet
        return False
    return True


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - other processes change
            await asyncio.sleep(PAUSE)


async def test_every_process_ends_once_with_what_came_of_its_reset_and_nothing_leaks(town: Town) -> None:
    async def parked(number: int) -> None:
        async def are() -> bool:
            return len(await asyncio.to_thread(town.server.query, WAITING)) >= number

        await until(are)

    async def entered(number: int) -> None:
        async def are() -> bool:
            return len(town.entered()) >= number

        try:
            await until(are)
        except TimeoutError:
            raise AssertionError(await asyncio.to_thread(town.stands)) from None

    async with aiohttp.ClientSession(skip_auto_headers=["Content-Type"]) as http:
        beginning = asyncio.gather(*(town.onboard(http, number) for number in range(PEOPLE)))
        await town.sandbox.wait_for_calls("request", 40)
        await town.orchestrator.dies_and_comes_back()
        await parked(60)
        await town.kill_engine()
        town.people.say(60)
        await entered(20)
        await town.people.dies_and_comes_back()
        town.people.say(110)
        await entered(70)
        await town.kill_engine()
        town.people.say(160)
        await entered(120)
        await town.orchestrator.dies_and_comes_back()
        await entered(140)
        await town.people.dies_and_comes_back()
        town.people.say(PEOPLE)
        await entered(PEOPLE)
        await beginning

    assert sorted(town.entered()) == sorted((str(number), wanted(number)) for number in range(PEOPLE))
    await check_engine(town)
    check_broker(town)
    await check_nothing_leaked(town)


async def check_engine(town: Town) -> None:
    """Each process ended well, once; nothing of them is under way or left in an object."""
    ended = f"SELECT completion_result AS result FROM sys_invocation WHERE target_service_name = '{ONBOARDING}'"  # noqa: S608

    async def all_have() -> bool:
        return [row.get("result") for row in await asyncio.to_thread(town.server.query, ended)] == ["success"] * PEOPLE

    await until(all_have)

    async def nothing_is_left() -> bool:
        return await asyncio.to_thread(town.server.query, "SELECT * FROM state") == []

    await until(nothing_is_left)


def check_broker(town: Town) -> None:
    """Nobody got more mails than one, and one for each time that they asked for another; each has the password."""
    asked = (
        Counter(int(line) for line in (town.folder / "asked").read_text().split())
        if (town.folder / "asked").exists()
        else Counter()
    )
    mails = Counter(mail.user for mail in town.sandbox.mails)
    for number in range(PEOPLE):
        assert mails[login(number)] <= 1 + asked[number], (number, asked[number])
        changed = town.sandbox.password_of(login(number)) == PASSWORD.format(number)
        assert changed == (wanted(number) == "password_set"), number


async def check_nothing_leaked(town: Town) -> None:
    """Search the admin SQL, the files and the log of Restate, and the logs of the processes at level DEBUG."""
    tokens = [each.reply["Model"] for each in town.sandbox.calls_of("exchange") if each.reply and each.reply["Model"]]
    codes = [mail.code for mail in town.sandbox.mails]
    scanner = LeakScanner(
        {
            "login": login(0)[:7], "answer": ANSWER, "password": PASSWORD[:14],
            **{f"token {number}": token for number, token in enumerate(tokens)},
            **{f"code {number}": code for number, code in enumerate(codes[:SEARCHED])},
        }
    )  # fmt: skip
    passes_through = LeakScanner({"user_ref": user_ref(0)[:-3]})
    tables = "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'public'"
    shown = [
        as_bytes(value)
        for table in town.server.query(tables)
        for row in town.server.query(f"SELECT * FROM {table['name']}")  # noqa: S608 - its own name
        for value in row.values()
    ]
    await asyncio.to_thread(town.server.stop)
    kept = [path.read_bytes() for path in town.server.data.rglob("*") if path.is_file()]
    heard = [path.read_bytes() for path in town.folder.glob("*.heard")]
    logs = [town.server.log, *(path.read_text() for path in town.folder.glob("*.log"))]

    assert passes_through.find(*shown) != [], "what passes through Restate would not be found in its admin SQL"
    assert passes_through.find(*kept) != [], "what passes through Restate would not be found in its files"
    assert all(b"reset_flow" in place for place in heard)
    places: list[str | bytes] = [b"\n".join(shown), *kept, *heard, *logs]
    for place in places:
        assert scanner.find(place) == []


def as_bytes(value: Any) -> bytes:
    """Return a value of the admin SQL, which shows bytes in hexadecimal."""
    text = str(value)
    return bytes.fromhex(text) if len(text) % 2 == 0 and set(text) <= set("0123456789abcdef") else text.encode()
