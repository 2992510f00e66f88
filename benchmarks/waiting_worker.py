"""
A worker of `benchmarks.waiting`: serves processes of Restate that start a reset, and wait for it or for a bare promise;
or measures the time from the end of a reset to the end of the wait, over one store.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import hypercorn.asyncio
import restate
from hypercorn.config import Config

from benchmarks.processes import resident
from benchmarks.subjects import ANSWER, CODE, PASSWORD, service
from reset_flow.integrations.restate import RestateListener, reset_object

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from reset_flow import ResetService
    from reset_flow.integrations.restate import ResetObject

PARKED = "Parked"
PAUSE = 0.1


async def _login_of(user_ref: str) -> str:
    return user_ref


def _parked(kind: str, resets: ResetObject) -> restate.Service:
    """Return a service whose processes start a reset, and wait for its end, or for a promise that nobody keeps."""
    parked = restate.Service(PARKED)

    @parked.handler()
    async def park(ctx: restate.Context, number: int) -> None:
        await ctx.object_call(resets.start, str(number), f"user {number}")
        if kind == "promise":
            await ctx.awakeable()[1]
        else:
            await ctx.object_call(resets.ended, str(number), None)

    return parked


@asynccontextmanager
async def _serving(*served: restate.Service | restate.VirtualObject) -> AsyncIterator[str]:
    """Serve handlers, and give their URL."""
    config, stop = Config(), asyncio.Event()
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = listening.getsockname()[1]
    config.bind, config.loglevel = [f"fd://{listening.detach()}"], "ERROR"
    config.h2_max_concurrent_streams, config.keep_alive_max_requests = 1000, sys.maxsize
    app: Any = restate.app(served)
    serving = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stop.set()
        try:
            await serving
        except* KeyError:
            pass  # Hypercorn 0.18 may end with that of a connection that was just closing: what it served was served


async def _hold(given: dict[str, Any]) -> None:
    """Serve parked processes. Print the URL; for each line that comes in, the resident memory."""
    loop = asyncio.get_running_loop()
    async with service(given["root"], given["store"]) as resetting:
        resets = reset_object(resetting, _login_of)
        async with _serving(resets, _parked(given["kind"], resets)) as url:
            print(url, flush=True)
            while await loop.run_in_executor(None, sys.stdin.readline):
                print(resident(trimmed=True), flush=True)


async def _finish(resetting: ResetService, number: int) -> None:
    (flow,) = await resetting.find(ref=str(number))
    await resetting.answer(flow.id, ANSWER)
    await resetting.verify(flow.id, CODE)
    await resetting.set_password(flow.id, PASSWORD)


async def _time(given: dict[str, Any]) -> None:
    """Print the seconds from the end of each of some resets to the end of its wait, which was parked before."""
    listener = RestateListener(given["ingress"])
    took: list[float] = []
    async with (
        service(given["root"], given["store"], listeners={"restate": listener}) as resetting,
        aiohttp.ClientSession(given["ingress"], connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        resets = reset_object(resetting, _login_of)

        async def wait(number: int) -> float:
            async with http.post(f"/{resets.name}/{number}/ended", skip_auto_headers=["Content-Type"]) as reply:
                assert (await reply.json())["state"] == "password_set"
                return time.perf_counter()

        async with _serving(resets) as url:
            await _admin(http, given, "deployments", {"uri": url})
            waits = []
            for number in range(given["ends"]):
                await (await http.post(f"/{resets.name}/{number}/start", json=f"user {number}")).read()
                waits.append(asyncio.create_task(wait(number)))
            while await _suspended(http, given) < given["ends"]:  # noqa: ASYNC110 - another process changes
                await asyncio.sleep(PAUSE)
            for number, each in enumerate(waits):
                await _finish(resetting, number)
                ended_at = time.perf_counter()
                took.append(await each - ended_at)
    print(json.dumps({"took": took}))


async def _suspended(http: aiohttp.ClientSession, given: dict[str, Any]) -> int:
    sql = "SELECT count(*) AS n FROM sys_invocation WHERE status = 'suspended' AND target_handler_name = 'ended'"
    number: int = (await _admin(http, given, "query", {"query": sql}))["rows"][0]["n"]
    return number


async def _admin(http: aiohttp.ClientSession, given: dict[str, Any], path: str, body: dict[str, Any]) -> Any:
    async with http.post(f"{given['admin']}/{path}", json=body, headers={"accept": "application/json"}) as reply:
        reply.raise_for_status()
        return await reply.json()


if __name__ == "__main__":
    logging.getLogger("reset_flow").setLevel(logging.ERROR)
    options = json.loads(sys.argv[1])
    asyncio.run(_hold(options) if options["kind"] else _time(options))
