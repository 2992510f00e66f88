"""Workers that serve the page and its API over one store, and those who use them: browsers and programs."""

from __future__ import annotations

import secrets
import socket
import warnings
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import attrs
import html5lib
from aiohttp import web

from reset_flow import EtnaTransport, Keyring, MemoryStore, Policy, ResetService, SQLiteStore
from reset_flow.sandbox import Sandbox
from reset_flow.testing import FrozenClock
from reset_flow.web import Limits, Links, create_app
from reset_flow.web.server import AccessLogger, access

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from reset_flow import Flow, Guard, Listener, Store

APP_KEY = "an-app-key"
ASKED, UNASKED, NOBODY = "robert.zak", "maria.noquestion", "nobody.everknew"
"""Users of the sandbox: one who is asked a question, one who is not, and a login that it does not know."""
ANSWER = "Peterson"
PASSWORD = "violet tractor 5"
COOKIE = "reset"
"""The browser's, on this machine."""


class Kept:
    """A store in memory that outlives the service which would close it."""

    def __init__(self) -> None:
        self._store = MemoryStore()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def aclose(self) -> None:
        """It is for the next one."""


@attrs.define
class Worker:
    """One process, as others see it."""

    service: ResetService
    links: Links
    url: str
    closing: AsyncExitStack

    async def aclose(self) -> None:
        await self.closing.aclose()


class House:
    """A broker, a store, and any number of workers that serve them below the same address."""

    def __init__(self, store: str, folder: Path) -> None:
        self.sandbox = Sandbox(app_key=APP_KEY)
        self.clock = FrozenClock()
        self._kept = Kept() if store == "memory" else None
        self._folder = folder
        self._keyring = Keyring.load_or_create(folder / "keys")
        self._public_url: str | None = None
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._closing.enter_async_context(self.sandbox)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._closing.aclose()

    def store(self) -> Store:
        return self._kept or SQLiteStore(self._folder / "flows.db")

    async def worker(
        self,
        *,
        policy: Policy | None = None,
        limits: Limits | None = None,
        guards: tuple[Guard, ...] = (),
        listeners: Mapping[str, Listener] | None = None,
        public_url: str | None = None,
        path: str = "/reset/",
    ) -> Worker:
        """Start another worker, which is known by the address of the first one."""
        closing = AsyncExitStack()
        sock = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}{path}"
        self._public_url = public_url or self._public_url or url
        with warnings.catch_warnings(action="ignore"):
            service = ResetService(
                EtnaTransport(self.sandbox.api_url, APP_KEY, name="broker", deadline=timedelta(seconds=15)),
                self.store(),
                self._keyring,
                policy=policy or Policy(),
                guards=guards,
                listeners=listeners,
                clock=self.clock,
                sweep=False,
            )
        await closing.enter_async_context(service)
        page = create_app(service, public_url=self._public_url, limits=limits or Limits())
        app = page
        if path != "/":
            app = web.Application()
            app.add_subapp(path, page)
        runner = web.AppRunner(app, access_log=access, access_log_class=AccessLogger, shutdown_timeout=1)
        await runner.setup()
        closing.push_async_callback(runner.cleanup)
        await web.SockSite(runner, sock).start()
        self._closing.push_async_callback(closing.aclose)
        return Worker(service, Links(service, self._public_url), url, closing)

    async def browser(self, worker: Worker) -> Browser:
        browser = Browser(worker)
        await self._closing.enter_async_context(browser)
        return browser

    async def program(self, worker: Worker) -> Program:
        program = Program(worker)
        await self._closing.enter_async_context(program)
        return program


@attrs.frozen
class Form:
    """A form of a page, as it was shown."""

    action: str
    fields: dict[str, str]

    def filled(self, fields: dict[str, str]) -> Form:
        return Form(self.action, {**self.fields, **fields})


@attrs.frozen
class Page:
    """What a browser was shown last."""

    status: int
    headers: Any
    text: str
    forms: tuple[Form, ...]

    def form(self, name: str) -> Form:
        return next(form for form in self.forms if form.action.rpartition("/")[2] == name)

    def has(self, name: str) -> bool:
        return any(form.action.rpartition("/")[2] == name for form in self.forms)


def page_of(status: int, headers: Any, text: str) -> Page:
    document = html5lib.parse(text, namespaceHTMLElements=False)
    forms = [
        Form(
            form.get("action"),
            {field.get("name"): field.get("value", "") for field in form.iter("input") if field.get("name")},
        )
        for form in document.iter("form")
    ]
    return Page(status, headers, text, tuple(forms))


class Client:
    """Somebody with cookies."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    @property
    def cookie(self) -> str:
        """The browser's secret."""
        return next((each.value for each in self._session.cookie_jar if each.key == COOKIE), "")

    @cookie.setter
    def cookie(self, secret: str) -> None:
        self._session.cookie_jar.clear()
        self._session.cookie_jar.update_cookies({COOKIE: secret})

    def _where(self, path: str) -> str:
        host = self.worker.url.partition("//")[2].partition("/")[0]
        return f"http://{host}{path}" if path.startswith("/") else self.worker.url + path


class Browser(Client):
    """A person's, without JavaScript."""

    page: Page

    async def get(self, path: str = "", **options: Any) -> Page:
        return await self._ask("GET", path, **options)

    async def send(
        self, form: Form, *, follow: bool = True, headers: Mapping[str, str] | None = None, **fields: str
    ) -> Page:
        """Send a form, and return where that leads."""
        data = {**form.fields, **fields}
        return await self._ask("POST", form.action, data=data, allow_redirects=follow, headers=headers)

    async def do(self, name: str, **fields: str) -> Page:
        """Send a form of the page that is shown."""
        return await self.send(self.page.form(name).filled(fields))

    async def start(self, user: str = UNASKED) -> Page:
        await self.get()
        return await self.do("start", user=user)

    async def _ask(self, method: str, path: str, **options: Any) -> Page:
        async with self._session.request(method, self._where(path), **options) as response:
            found = page_of(response.status, response.headers, await response.text())
        self.page = found
        return found

    async def head(self, path: str = "") -> int:
        """Return the status that HEAD has."""
        async with self._session.head(self._where(path)) as response:
            return response.status

    async def flow(self) -> Flow:
        return await self.worker.service.get(self.worker.service.id_of(self.cookie))


@attrs.frozen
class Reply:
    """What a program was told."""

    status: int
    headers: Any
    body: Any


class Program(Client):
    """One that uses the API. `secret` and `flow_id` are those of its last start."""

    secret: str = ""
    flow_id: str = ""

    async def call(self, method: str, path: str, body: Any = None, *, key: str | None = None, **options: Any) -> Reply:
        headers = {**options.pop("headers", {})}
        if key is not None:
            headers["Idempotency-Key"] = key
        secret = options.pop("secret", self.secret)
        if secret:
            headers["Authorization"] = f"Bearer {secret}"
        if body is not None:
            options["json"] = body
        async with self._session.request(method, self._where(path), headers=headers, **options) as response:
            given = await response.json(content_type=None) if response.content_type.endswith("json") else None
            return Reply(response.status, response.headers, given)

    async def start(self, user: str = UNASKED, **options: Any) -> Reply:
        reply = await self.call("POST", "api/flows", {"user": user}, secret="", **options)
        if reply.status == 201:
            self.secret, self.flow_id = reply.body["secret"], reply.body["id"]
        return reply

    async def get(self, **options: Any) -> Reply:
        return await self.call("GET", f"api/flows/{self.flow_id}", **options)

    async def do(self, step: str, text: str | None = None, **options: Any) -> Reply:
        return await self.call("POST", f"api/flows/{self.flow_id}/{step}", text and {step: text}, **options)

    async def cancel(self, **options: Any) -> Reply:
        return await self.call("DELETE", f"api/flows/{self.flow_id}", **options)


def random_key() -> str:
    """Return an idempotency key as a start wants it."""
    return secrets.token_hex(16)
