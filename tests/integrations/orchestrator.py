"""An onboarding in DBOS that waits for a reset, in the process of the test; and the people whose password is reset."""

from __future__ import annotations

import re
import sqlite3
import sys
import warnings
from base64 import b64decode
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from dbos import DBOS, DBOSConfig, SetWorkflowID

from reset_flow import EtnaTransport, Keyring, Policy, ResetService, SQLiteStore, UnknownUser
from reset_flow.integrations.dbos import DBOSListener, Resets
from reset_flow.sandbox import Sandbox
from reset_flow.testing import dump
from tests.conftest import without

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from dbos import WorkflowHandleAsync

    from reset_flow import Flow, Listener
    from reset_flow.integrations.status import ResetStatus

APP_KEY = "an-app-key"
PASSWORD = "violet tractor 5"
ANSWER = "Petersøn's"
POLICY = Policy(mask_unknown_users=False, resend_cooldown=timedelta(0))
PICKLED = re.compile(rb"gAS[VU](?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2,3}=+)?")
"""A pickle in base64, which is how DBOS keeps values; whole, or up to where a page of SQLite ends."""
FOR_EVER = timedelta(days=1)
"""Nobody asks so rarely that a test would notice."""


def login_of(user_ref: str) -> str:
    """Return the login at the broker, which must be seen nowhere in DBOS."""
    return f"Pérson+{user_ref}/ü"


async def kept(url: str) -> bytes:
    """Return all that a database holds; what is pickled there as well as it is."""
    return unpickled(await dump(url))


def unpickled(place: bytes) -> bytes:
    """Return it with the values that DBOS has pickled in readable form."""
    return PICKLED.sub(lambda found: b64decode(found[0]), place)


def open_dbos(url: str, *, version: str = "1") -> None:
    """Start DBOS, quiet and quick to notice messages."""
    config: DBOSConfig = {
        "name": "onboarding",
        "system_database_url": url,
        "application_version": version,
        "log_level": "CRITICAL",
        "notification_listener_polling_interval_sec": 0.01,
    }
    with warnings.catch_warnings(action="ignore"):
        DBOS(config=config)
        DBOS.launch()


def require_sqlite() -> None:
    """
    Skip the test, or fail it where servers are required, if DBOS can't have its tables in SQLite: from Python 3.12 on,
    it wants `unixepoch('subsec')`.
    """
    if sys.version_info >= (3, 12) and sqlite3.sqlite_version_info < (3, 42):
        without(f"DBOS needs SQLite 3.42 here, and there is {sqlite3.sqlite_version}")


class Office:
    """A broker, a store, services that share it, and one process of DBOS, which is this one."""

    def __init__(self, engine_url: str, folder: Path) -> None:
        self.engine_url = engine_url
        self.folder = folder
        self.sandbox = Sandbox(app_key=APP_KEY)
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._closing.enter_async_context(self.sandbox)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        await self._closing.aclose()

    async def service(self, *, listener: Listener | None = None, policy: Policy = POLICY) -> ResetService:
        """Another worker of the library."""
        service = ResetService(
            EtnaTransport(self.sandbox.api_url, APP_KEY, name="broker"),
            SQLiteStore(self.folder / "flows.db"),
            Keyring.load_or_create(self.folder / "keys"),
            policy=policy,
            listeners={"dbos": listener},
            sweep=False,
        )
        return await self._closing.enter_async_context(service)

    def listener(self) -> DBOSListener:
        listener = DBOSListener(self.engine_url)
        self._closing.callback(listener.close)
        return listener

    def add(self, *user_refs: str) -> None:
        for each in user_refs:
            self.sandbox.add_user(login_of(each))

    async def look_up(self, user_ref: str) -> str:
        login = login_of(user_ref)
        try:
            self.sandbox.user(login)
        except LookupError:
            raise UnknownUser(login) from None
        return login

    def open(self, resets: Resets) -> Onboarding:
        """Start DBOS, with an onboarding that waits for these resets."""
        onboarding = Onboarding(resets)
        open_dbos(self.engine_url)
        return onboarding

    def close(self) -> None:
        """End DBOS, and forget its workflows."""
        DBOS.destroy(destroy_registry=True)

    def mails(self, user_ref: str) -> int:
        return len([mail for mail in self.sandbox.mails if mail.user == login_of(user_ref)])

    async def finish(self, service: ResetService, user_ref: str, flow: Flow) -> Flow:
        """Do what the person does, whom the library sent a code."""
        await service.verify(flow.id, self.sandbox.newest_code(login_of(user_ref)))
        return await service.set_password(flow.id, PASSWORD)


class Onboarding:
    """The embedder's workflow."""

    def __init__(self, resets: Resets) -> None:
        @DBOS.workflow(name="onboard")
        async def onboard(user_ref: str, ref: str) -> ResetStatus:
            return await resets.reset_password(user_ref, ref)

        self._onboard = onboard

    async def start(self, user_ref: str, ref: str, workflow_id: str = "") -> WorkflowHandleAsync[ResetStatus]:
        with SetWorkflowID(workflow_id or f"onboarding {user_ref} {ref}"):
            handle: WorkflowHandleAsync[Any] = await DBOS.start_workflow_async(self._onboard, user_ref, ref)
        return handle


async def parked(handle: WorkflowHandleAsync[Any]) -> None:
    """Return once the workflow has asked and waits to be told."""
    await steps(handle, "DBOS.sleep")


async def steps(handle: WorkflowHandleAsync[Any], until: str = "") -> list[str]:
    """Return the names of the steps that the workflow took, once one of this name is among them."""
    while True:
        taken = await DBOS.list_workflow_steps_async(handle.workflow_id)
        names = [step["function_name"] for step in taken]
        if not until or until in names:
            return names
