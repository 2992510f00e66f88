"""
Processes around 200 resets that somebody waits for; each may be killed at any moment, and is then started again.

`orchestrator`: serves the handlers that start resets, wait for them, and enter what came of each into a ledger.
`people`: does what the people do whose passwords are reset, and tells Restate of the ends.

Ends with its standard input, on which the people read how many of them may act.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from contextlib import AsyncExitStack, closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import hypercorn.asyncio
import hypercorn.config
import restate

from reset_flow import (
    CodeRejected,
    EtnaTransport,
    Flow,
    Keyring,
    Policy,
    ResetFlowError,
    ResetService,
    Step,
    open_store,
)
from reset_flow.integrations.restate import RestateListener, reset_object
from reset_flow.testing import Witness

PEOPLE = 200
ANSWER = 'Königsallee "7 ½"'
PASSWORD = "violet träctor & {}"
LIFETIME, BRIEF = timedelta(minutes=20), timedelta(seconds=20)
LEASE, DEADLINE = timedelta(seconds=8), timedelta(seconds=5)
AT_ONCE = 4
"""People who act at a time."""
PAUSE = 0.1

LEDGER = "CREATE TABLE IF NOT EXISTS ledger (ref TEXT, outcome TEXT, PRIMARY KEY (ref, outcome))"


def login(number: int) -> str:
    return f"Pérson+{number:03}/ü"


def user_ref(number: int) -> str:
    return f"customer-ünique-{number:03}"


def wanted(number: int) -> str:
    """Return what is to become of a reset: a tenth runs into its time, a tenth is given up."""
    return {8: "expired", 9: "cancelled"}.get(number % 10, "password_set")


async def login_of(ref: str) -> str:
    return login(int(ref[-3:]))


def open_service(config: dict[str, Any], lifetime: timedelta = LIFETIME, *, tells: bool = False) -> ResetService:
    policy = Policy(flow_lifetime=lifetime, lease=LEASE, resend_cooldown=timedelta(0))
    listeners = {name: RestateListener(config["ingress"], name=name) if tells else None for name in config["objects"]}
    return ResetService(
        EtnaTransport(config["broker"], "sandbox", deadline=DEADLINE),
        open_store(config["store"]),
        Keyring.from_file(config["keys"]),
        policy=policy,
        listeners=listeners,
    )


async def orchestrate(config: dict[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        objects = []
        for name, lifetime in zip(config["objects"], (LIFETIME, BRIEF), strict=True):
            service = await stack.enter_async_context(open_service(config, lifetime))
            objects.append(reset_object(service, login_of, name=name, ask_every=timedelta(seconds=20)))
        onboarding = restate.Service(config["onboarding"])

        @onboarding.handler()
        async def onboard(ctx: restate.Context, number: int) -> str:
            resets, ref = objects[wanted(number) == "expired"], str(number)
            await ctx.object_call(resets.start, ref, user_ref(number))
            status = await ctx.object_call(resets.ended, ref, None)
            outcome = status["failure"] or status["state"]
            await ctx.run_typed("ledger", enter, restate.RunOptions(), config["ledger"], ref, outcome)
            return outcome

        serving = hypercorn.config.Config()
        serving.bind, serving.loglevel = [f"127.0.0.1:{config['port']}"], "ERROR"
        serving.h2_max_concurrent_streams, serving.keep_alive_max_requests = 1000, sys.maxsize
        app: Any = restate.app([*objects, onboarding])
        await hypercorn.asyncio.serve(app, serving)


def enter(path: str, ref: str, outcome: str) -> None:
    """Enter what came of a process; once, however often it is done."""
    with closing(sqlite3.connect(path, timeout=60)) as ledger, ledger:
        ledger.execute("INSERT OR IGNORE INTO ledger VALUES (?, ?)", (ref, outcome))


class Crowd:
    """The people whose passwords are reset."""

    def __init__(self, config: dict[str, Any], service: ResetService, http: aiohttp.ClientSession) -> None:
        self._service, self._http = service, http
        self._sandbox = config["broker"].removesuffix("/api")
        self._asked = Path(config["asked"])
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self.may_act = 0

    async def attend(self, number: int) -> None:
        """Act for one of them until the reset has ended."""
        while True:
            # A process died in the midst of it, another one was quicker, or the machine stalls: people try again.
            with suppress(ResetFlowError, aiohttp.ClientError, TimeoutError):
                for flow in await self._service.find(ref=str(number)) if number < self.may_act else ():
                    if flow.ended:
                        return
                    async with self._at_once:
                        await self._act(number, flow)
            await asyncio.sleep(PAUSE)

    async def _act(self, number: int, flow: Flow) -> None:
        match flow.expects:
            case _ if wanted(number) == "cancelled":
                await self._service.cancel(flow.id)
            case Step.ANSWER:
                await self._service.answer(flow.id, ANSWER)
            case Step.CODE:
                await self._type_code(number, flow)
            case _:
                await self._service.set_password(flow.id, PASSWORD.format(number))

    async def _type_code(self, number: int, flow: Flow) -> None:
        async with self._http.get(f"{self._sandbox}/sandbox/inbox", params={"user": login(number)}) as reply:
            mails = await reply.json()
        if mails:  # else a process died before it was sent
            with suppress(CodeRejected):
                await self._service.verify(flow.id, mails[-1]["code"])
                return
        with self._asked.open("a") as asked:
            asked.write(f"{number}\n")
        await self._service.resend(flow.id)


async def attend(config: dict[str, Any], reader: asyncio.StreamReader) -> None:
    async with open_service(config, tells=True) as service, aiohttp.ClientSession() as http:
        crowd = Crowd(config, service, http)
        acting = [asyncio.create_task(crowd.attend(each)) for each in range(PEOPLE) if wanted(each) != "expired"]
        while line := await reader.readline():
            crowd.may_act = int(line)
        await asyncio.gather(*acting)


async def main(config: dict[str, Any]) -> None:
    witness = Witness(Path(config["witness"]))
    witness.addFilter(lambda record: not record.name.startswith("hpack."))  # it writes down each bit of each header
    witness.hear_all()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    if config["role"] == "people":
        await attend(config, reader)
    else:
        asyncio.create_task(orchestrate(config)).add_done_callback(lambda task: os._exit(bool(task.exception())))
        while await reader.readline():
            pass
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
