"""
The processes of an onboarding in DBOS, to be killed: `onboarding` starts the workflows and runs them, `people` is a
worker of the library, and those who type into it.

The only argument is JSON. A line of JSON on standard output says what came of it. Whoever asks for another code is
written down before that.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import warnings
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
from dbos import DBOS, SetWorkflowID

from reset_flow import (
    CodeRejected,
    EtnaTransport,
    Keyring,
    Policy,
    ResetFlowError,
    ResetService,
    Secret,
    Step,
    open_store,
)
from reset_flow.integrations.dbos import DBOSListener, Resets
from reset_flow.testing import Witness

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS.parent))

from tests.integrations.orchestrator import ANSWER, APP_KEY, PASSWORD, login_of  # noqa: E402 - started as a script

AT_ONCE = 8
NAMES = {"expire": "Hasty"}
"""Of the resets that end by themselves; all others are called as they are by default."""


def service_for(job: dict[str, Any], *, listens: bool, lifetime: float = 3600) -> ResetService:
    url: str = job["engine"]
    listeners = {name: DBOSListener(url, name=name) if listens else None for name in ("PasswordReset", "Hasty")}
    return ResetService(
        EtnaTransport(job["broker"], APP_KEY, name="broker", deadline=timedelta(seconds=5)),
        open_store(job["store"]),
        Keyring.load_or_create(job["keys"]),
        policy=Policy(
            flow_lifetime=timedelta(seconds=lifetime),
            lease=timedelta(seconds=8),
            resend_cooldown=timedelta(0),
            resends=20,
            code_attempts=20,
            guess_alarm=None,
        ),
        listeners=listeners,
    )


def note(path: str, line: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{line}\n")


FAILED = set[str]()


async def look_up(user_ref: str) -> str:
    """Fail at the first try, with all that a driver may say."""
    if user_ref not in FAILED:
        FAILED.add(user_ref)
        cause = LookupError(f"no connection: SELECT login WHERE login = {login_of(user_ref)!r}")
        raise RuntimeError(login_of(user_ref)) from cause
    return login_of(user_ref)


async def onboard_all(job: dict[str, Any], closing: AsyncExitStack) -> dict[str, Any]:
    """Return how the reset of each person ended, by the workflow's own result."""
    ask_every = timedelta(seconds=job["ask_every"])
    slow = Resets(await closing.enter_async_context(service_for(job, listens=False)), look_up, ask_every=ask_every)
    hasty = Resets(
        await closing.enter_async_context(service_for(job, listens=False, lifetime=5)),
        look_up,
        name="Hasty",
        ask_every=ask_every,
    )

    def welcome(user_ref: str, how: str) -> None:
        note(job["welcomed"], f"{user_ref} {how}")

    @DBOS.workflow(name="onboard")
    async def onboard(user_ref: str, ends: str) -> str:
        resets = hasty if ends == "expire" else slow
        end = await resets.reset_password(user_ref, f"onboarding {user_ref}")
        how = end["failure"] or end["state"]
        await DBOS.run_step_async({"name": "welcome"}, welcome, user_ref, how)
        return how

    log_level = "DEBUG" if job.get("witness") else "CRITICAL"
    DBOS(
        config={
            "name": "onboarding",
            "system_database_url": job["engine"],
            "application_version": "1",
            "log_level": log_level,
            "notification_listener_polling_interval_sec": 0.05,
        }
    )
    DBOS.launch()
    if job.get("witness"):
        Witness(Path(job["witness"])).hear_all()
        logging.getLogger("dbos").propagate = True
    handles = {}
    for user_ref, ends in job["people"].items():
        with SetWorkflowID(f"onboarding of {user_ref}"):
            handles[user_ref] = await DBOS.start_workflow_async(onboard, user_ref, ends)
    results = await asyncio.gather(*(handle.get_result(polling_interval_sec=2) for handle in handles.values()))
    return dict(zip(handles, results, strict=True))


class People:
    """Those who read their e-mail and type."""

    def __init__(self, service: ResetService, session: aiohttp.ClientSession, job: dict[str, Any]) -> None:
        self._service = service
        self._session = session
        self._job = job
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def be(self, user_ref: str, ends: str) -> str:
        """Go on until the reset is over, whatever is in the way."""
        while True:
            with suppress(ResetFlowError):
                found = await self._service.find(ref=f"onboarding {user_ref}")
                if found and found[0].ended:
                    return str(found[0].failure or found[0].state)
                async with self._at_once:
                    if found and ends == "cancel":
                        await self._service.cancel(found[0].id)
                    elif found and ends == "set":
                        await self._type(user_ref, found[0].id, found[0].expects)
            await asyncio.sleep(0.2)

    async def _type(self, user_ref: str, flow_id: str, expects: Step | None) -> None:
        if expects is Step.PASSWORD:
            await self._service.set_password(flow_id, PASSWORD)
            return
        if expects is Step.ANSWER:
            await self._service.answer(flow_id, ANSWER)
            return
        code = await self._newest_code(user_ref)
        if code is None:
            flow = await self._service.get(flow_id)
            if flow.in_doubt and not flow.busy_until:
                await self._resend(user_ref, flow_id)
            return
        try:
            await self._service.verify(flow_id, code)
        except CodeRejected:  # a process died between the broker's yes and the note of it
            await self._resend(user_ref, flow_id)

    async def _resend(self, user_ref: str, flow_id: str) -> None:
        note(self._job["resent"], user_ref)
        await self._service.resend(flow_id)

    async def _newest_code(self, user_ref: str) -> Secret | None:
        inbox = self._job["broker"].removesuffix("/api") + "/sandbox/inbox"
        async with self._session.get(inbox, params={"user": login_of(user_ref)}) as reply:
            mails = await reply.json()
        return Secret(mails[-1]["code"]) if mails else None


async def type_all(job: dict[str, Any], closing: AsyncExitStack) -> dict[str, Any]:
    """Return how the reset of each person ended, by the library."""
    if job.get("witness"):
        Witness(Path(job["witness"])).hear_all()
    service = await closing.enter_async_context(service_for(job, listens=True))
    session = await closing.enter_async_context(aiohttp.ClientSession())
    people = People(service, session, job)
    ends = await asyncio.gather(*(people.be(user_ref, ends) for user_ref, ends in job["people"].items()))
    return dict(zip(job["people"], ends, strict=True))


async def main() -> None:
    job = json.loads(sys.argv[1])
    async with AsyncExitStack() as closing:
        with warnings.catch_warnings(action="ignore"):
            ended = await {"onboarding": onboard_all, "people": type_all}[job["role"]](job, closing)
        sys.stdout.write(json.dumps(ended) + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()  # it is killed


asyncio.run(main())
