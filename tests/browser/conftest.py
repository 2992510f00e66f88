"""A person in a real browser, in front of a page that is a process of its own and a broker on loopback."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import async_playwright, expect

from benchmarks.servers import free_port
from reset_flow.messages import Texts
from reset_flow.sandbox import Sandbox, Settings
from tests.conftest import program, without

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from playwright.async_api import Browser, BrowserContext, Page

HERE = Path(__file__).parent
FOLDER = HERE.parents[1]
PATIENCE = 120.0
expect.set_options(timeout=PATIENCE * 1000)

FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
ANSWER, PASSWORD = "Peterson", "violet tractor sings"

TEXTS = Texts()
TITLES = {
    "account": "page.account.title",
    "answer": "page.answer.title",
    "code": "page.code.title",
    "password": "page.password.title",
    "done": "page.done.title",
    "again": "page.account.title",
}
"""The text of the title of each step, by its id."""


def text(id_: str, **context: Any) -> str:
    """Return a text of the page in English, as far as a pattern has nothing to be filled in that is not given."""
    pattern = TEXTS.pattern(id_, "en", context.get("count", 1))
    if not context:
        return pattern.partition("{")[0].strip()
    return TEXTS.say(id_, "en", **context)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They need a browser of the system, which is installed as servers are."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.server)


class PageServer:
    """A process that serves the page: it can be killed, and comes back on the same port with the same store."""

    def __init__(self, folder: Path, sandbox: Sandbox, settings: Mapping[str, Any]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.log = folder / "page.log"
        self.database = folder / "flows.db"
        self._settings = {
            "broker": sandbox.api_url,
            "store": f"sqlite:///{self.database}",
            "keys": str(folder / "keys"),
            "port": self.port,
            **settings,
        }
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, **settings: Any) -> None:
        self._settings |= settings
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, str(HERE / "page_server.py"), json.dumps(self._settings), cwd=FOLDER,
                env=os.environ | {"PYTHONPATH": str(FOLDER)}, stdout=asyncio.subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), PATIENCE)
        assert line.decode().strip() == self.url, self.log.read_text()

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self._process is None:
            return 0
        process, self._process = self._process, None
        if process.returncode is None:
            process.send_signal(how)
        return await asyncio.wait_for(process.wait(), PATIENCE)

    async def dies_and_comes_back(self) -> None:
        await self.stop(signal.SIGKILL)
        await self.start()


class Person:
    """Somebody at a browser. What was seen on the way is kept: texts of pages, addresses, requests."""

    def __init__(self, page: Page, server: PageServer, sandbox: Sandbox, login: str) -> None:
        self.page, self.server, self.sandbox, self.login = page, server, sandbox, login
        self.addresses: list[str] = []
        self.errors: list[str] = []
        page.on("framenavigated", lambda frame: self.addresses.append(frame.url))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    @property
    def code(self) -> str:
        return self.sandbox.newest_code(self.login)

    async def opens(self, path: str = "") -> None:
        await self.page.goto(self.server.url + path)

    async def sees(self, step: str) -> None:
        """The page is at this step, or has this title."""
        await expect(self.page.get_by_role("heading", level=1)).to_have_text(text(TITLES.get(step, step)))

    async def reads(self, *ids: str) -> None:
        """The page says one of these texts."""
        said = re.compile("|".join(re.escape(text(each)) for each in ids))
        await expect(self.page.get_by_role("main")).to_contain_text(said)

    async def types(self, field: str, given: str) -> None:
        await self.page.locator(f"input[name={field}]").fill(given)
        await self.page.locator("button.primary").click()

    async def clicks(self, id_: str) -> None:
        await self.page.get_by_role("button", name=text(id_)).click()

    async def starts(self) -> None:
        await self.opens()
        await self.types("user", self.login)

    async def reaches(self, step: str) -> None:
        """Go the straight way to a step."""
        await self.starts()
        await self.sees("answer")
        for at, field in (("answer", "answer"), ("code", "code"), ("password", "password"), ("done", "")):
            if at == step:
                break
            await self.types(field, await self.given(field))
        await self.sees(step)

    async def given(self, field: str) -> str:
        if field == "code":
            await self.sees("code")  # it was sent by then
            return self.code
        return {"answer": ANSWER, "password": PASSWORD}[field]


@pytest.fixture(scope="session")
def chromium() -> Path:
    return program("chromium")


@pytest.fixture
async def browser(chromium: Path) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else FLAGS
        browser = await playwright.chromium.launch(executable_path=str(chromium), args=flags)
        yield browser
        await browser.close()


@pytest.fixture
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the settings of the page's process; `@pytest.mark.parametrize("options", …)` sets others."""
    return getattr(request, "param", {})


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(settings=Settings()) as sandbox:
        yield sandbox


@pytest.fixture
async def server(tmp_path: Path, sandbox: Sandbox, options: dict[str, Any]) -> AsyncIterator[PageServer]:
    server = PageServer(tmp_path, sandbox, options)
    await server.start()
    yield server
    await server.stop()


@asynccontextmanager
async def at_browser(
    browser: Browser, server: PageServer, sandbox: Sandbox, login: str = "robert.zak", **context: Any
) -> AsyncIterator[Person]:
    """Give a person a browser of their own, with nothing in it."""
    context.setdefault("locale", "en-US")
    own: BrowserContext = await browser.new_context(**context)
    own.set_default_timeout(PATIENCE * 1000)
    try:
        yield Person(await own.new_page(), server, sandbox, login)
    finally:
        await own.close()


@pytest.fixture
async def person(browser: Browser, server: PageServer, sandbox: Sandbox) -> AsyncIterator[Person]:
    async with at_browser(browser, server, sandbox) as person:
        yield person


@pytest.fixture(scope="session")
def axe() -> str:
    """Return the source of axe-core, from npm; installed once for all processes of a run."""
    wanted = json.loads((HERE / "package.json").read_text())["devDependencies"]["axe-core"]
    folder = Path(tempfile.gettempdir()) / f"reset-flow-axe-{wanted}-{os.geteuid()}"
    source = folder / "node_modules/axe-core/axe.min.js"
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not source.exists():
            if shutil.which("npm") is None:
                without("npm is missing: axe-core can't be installed")
            folder.mkdir(exist_ok=True)
            shutil.copy(HERE / "package.json", folder)
            npm = ["npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
            done = subprocess.run(npm, cwd=folder, capture_output=True, check=False, text=True)
            if done.returncode:
                without(f"npm can't install axe-core: {done.stderr[-300:]}")
    return source.read_text(encoding="utf-8")
