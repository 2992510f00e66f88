"""The sandbox: a broker that serves on loopback."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from reset_flow.sandbox.api import PREFIX, Api
from reset_flow.sandbox.broker import Broker, Mail
from reset_flow.sandbox.calls import Call, CallLog
from reset_flow.sandbox.control import Control, new_user
from reset_flow.sandbox.faults import Fault, FaultQueue
from reset_flow.sandbox.pages import Pages
from reset_flow.sandbox.routes import Routes
from reset_flow.sandbox.settings import Settings
from reset_flow.sandbox.users import User
from reset_flow.sandbox.wire import Wire

HOST = "127.0.0.1"
BACKLOG = 1024
BODY_LIMIT = 1024**2
SHUTDOWN_SECONDS = 1.0


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Sandbox:
    """
    A broker on loopback, for the duration of an ``async with``.

    Its state outlives ``aclose``: after another ``start`` it serves the same users on the same port, as a broker does
    after an outage.

    Args:
        port: 0 picks a free one.

        app_key: Takes the place of ``settings.app_key``.

        settings: Behaviour that the documents leave open. Default: ``Settings()``.

        now: The clock; returns an aware time.

        on_mail: Called with each mail that is sent.

    Attributes:
        settings: May be changed at any time.

        next_codes: Codes to send instead of random ones, the first one next.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        app_key: str | None = None,
        settings: Settings | None = None,
        now: Callable[[], datetime] = _utc_now,
        on_mail: Callable[[Mail], None] | None = None,
    ) -> None:
        self.settings = Settings() if settings is None else settings
        if app_key is not None:
            self.settings.app_key = app_key
        self._port = port
        self._now = now
        self._broker = Broker(self.settings, now=now, on_mail=on_mail)
        self._log = CallLog()
        self._faults = FaultQueue()
        self._wire = Wire()
        self._runner: web.AppRunner | None = None
        self.next_codes = self._broker.next_codes

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Listen; raise ``OSError`` if the port is not available."""
        assert self._runner is None, "already listening"
        self._wire = Wire()
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            auto_decompress=False,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, HOST, self._port, backlog=BACKLOG)
            await site.start()
        except BaseException:
            await runner.cleanup()
            raise
        self._port = site.port
        self._runner = runner

    async def aclose(self) -> None:
        """Stop listening and close every connection. Pending calls end without a reply. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self._wire.close()
            await runner.cleanup()

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``; known after the first ``start``."""
        assert self._port, "not listening yet"
        return f"http://{HOST}:{self._port}"

    @property
    def api_url(self) -> str:
        """The ``apiURL`` of the documents."""
        return self.url + PREFIX

    @property
    def calls(self) -> list[Call]:
        """All calls of the API in the log, in order of arrival."""
        return list(self._log)

    def calls_of(self, route: str) -> list[Call]:
        """Return the calls of one route, in order of arrival."""
        return [call for call in self._log if call.route == route]

    async def wait_for_calls(self, route: str, count: int = 1, *, acted: bool = False) -> list[Call]:
        """Wait for so many calls of the route (with ``acted``: calls that took effect), and return them."""
        while True:
            calls = [call for call in self.calls_of(route) if call.acted or not acted]
            if len(calls) >= count:
                return calls
            await self._log.changed()

    @property
    def mails(self) -> list[Mail]:
        """All mails that were sent, newest last."""
        return list(self._broker.mails)

    def newest_code(self, login: str) -> str:
        """Return the code in the newest mail to the user; raise ``LookupError`` if there is none."""
        for mail in reversed(self._broker.mails):
            if mail.user == login:
                return mail.code
        raise LookupError("no mail was sent to that user")

    def fault(self, route: str, name: str, **order: Any) -> Fault:
        """Queue a fault for the next calls of the route (``*``: of any route). Keywords are those of ``Fault``."""
        fault = Fault(route=route, name=name, **order)
        self._faults.add(fault)
        return fault

    def release(self) -> None:
        """End the latencies that are under way, as if their time were up."""
        self._wire.release()

    def clear_faults(self) -> None:
        """Remove all queued faults."""
        self._faults.clear()

    def add_user(
        self,
        login: str,
        *,
        email: str | None = None,
        question: str | None = None,
        answer: str | None = None,
        password: str = "old-Passw0rd",  # noqa: S107 - a toy
        pin: str = "0000",
        two_factor: bool = False,
        password_expired: bool = False,
    ) -> User:
        """Add a user, with an address made of the login by default; raise ``ValueError`` if either is taken."""
        user = new_user(
            login,
            email=email,
            question=question,
            answer=answer,
            password=password,
            pin=pin,
            two_factor=two_factor,
            password_expired=password_expired,
        )
        return self._broker.users.add(user)

    def user(self, login: str) -> User:
        """Return the user; raise ``LookupError`` if there is none."""
        user = self._broker.users.find(login, by_email=False)
        if user is None:
            raise LookupError("no such user")
        return user

    def password_of(self, login: str) -> str:
        """Return the user's current password."""
        return self.user(login).password

    def state_of(self, login: str) -> Mapping[str, Any]:
        """Return the user in the form of ``/sandbox/state``."""
        return self.user(login).as_json()

    def _application(self) -> web.Application:
        api = Api(Routes(self._broker), log=self._log, faults=self._faults, wire=self._wire, now=self._now)
        control = Control(self._broker, log=self._log, faults=self._faults)
        application = web.Application(client_max_size=BODY_LIMIT)
        application.router.add_route("*", PREFIX + "/{call:.*}", api.handle)
        application.router.add_routes([*Pages(self._broker).routes(), *control.routes()])
        return application
