"""
Processes that carry out one command each, or serve the page until they are asked to end, and die by SIGKILL at one
named point of it.

A test connects to the socket that this one was given as its standard input. Each line it sends is a job, as JSON; each
gets a process of its own, forked from this one to save it the imports. A line of JSON in reply has its process id, for
tests that kill it themselves. Another one tells when it is over: its number, how the process ended, the points that it
passed, the error that it was told. The points are `before` and `after` each thing that is awaited: `load`, `save` and
the transport's calls, numbered as they come, such as `after save 2` or `before exchange 1`. Without a point, it lives.

All that it says and shows until then (logs of every library at DEBUG, spans, events, errors with their locals) is in a
file that outlives it, for those who search it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg  # noqa: F401 - as the next one, for those who need it
import redis.asyncio  # noqa: F401

from reset_flow import Keyring, Policy, ResetFlowError, ResetService, open_store, open_transport
from reset_flow.testing import Witness
from reset_flow.web.server import serve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS.parent))

from tests.crash.late_provider import LateTransport  # noqa: E402 - a script is started without the folder of the tests

AWAITED = ("load", "save", "challenge", "request", "exchange", "update", "log_in")


PATIENCE = 5.0
"""Seconds between two looks whether anybody is left to serve."""

PASSED: list[str] = []
COUNTS: Counter[str] = Counter()


class Doomed:
    """Stands before a store or a transport, and kills the process at the point."""

    def __init__(self, inner: Any, point: str | None) -> None:
        self._inner = inner
        self._point = point

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._inner, name)
        return self._watched(name, inner) if name in AWAITED else inner

    def _watched(self, name: str, inner: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            COUNTS[name] += 1
            number = COUNTS[name]
            self._reach(f"before {name} {number}")
            try:
                return await inner(*args, **kwargs)
            finally:
                self._reach(f"after {name} {number}")

        return call

    def _reach(self, point: str) -> None:
        PASSED.append(point)
        if point == self._point:
            os.kill(os.getpid(), signal.SIGKILL)


async def carry_out(job: dict[str, Any]) -> str:
    """Carry out the command, and return the code of its error, if any."""
    witness = Witness(Path(job["witness"]), callers=[TESTS])
    witness.hear_all()
    asyncio.get_running_loop().slow_callback_duration = 0  # in debug mode all of them are logged
    deadline, lease = timedelta(seconds=job["deadline"]), timedelta(seconds=job["lease"])
    proves = job.get("proves", True)
    transport = (
        LateTransport(job["broker"], deadline=deadline)
        if job.get("late")
        else open_transport(job["broker"], job["app_key"], name="broker", deadline=deadline)
    )
    policy = Policy(lease=lease, resend_cooldown=timedelta(0), resends=20, probe_by_login=proves)
    point = job["point"]
    keyring = Keyring.from_file(job["keys"])
    service = ResetService(
        Doomed(transport, point),
        Doomed(open_store(job["store"]), point),
        keyring,
        policy=policy,
        sweep=False,
        listeners={"witness": witness.listen},
        tracer=witness.tracer(),
    )
    witness.see(service, transport, keyring)
    if job["command"] == "serve":
        await serve(service, port=0, told=lambda address: tell({"number": job["number"], "address": address}))
        return ""
    async with service:
        try:
            witness.see(await getattr(service, job["command"])(*job["args"], **job["options"]))
        except ResetFlowError as error:
            witness.see_error(error)
            return error.code
    return ""


def live(job: dict[str, Any], report: int) -> None:
    """Carry out the job, and report how it ended."""
    warnings.simplefilter("error")
    try:
        end = {"told": asyncio.run(carry_out(job), debug=not job["point"]), "passed": PASSED}
    except BaseException:  # noqa: BLE001 - whatever it is, it is to be seen
        end = {"told": traceback.format_exc(), "passed": PASSED}
    os.write(report, json.dumps(end).encode())


def mind(job: dict[str, Any]) -> None:
    """Wait for the process of the job, and tell how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        live(job, writer)
        os._exit(0)
    os.close(writer)
    tell({"number": job["number"], "pid": child})
    with os.fdopen(reader, "rb") as report:
        said = report.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    end = json.loads(said) if said else {"told": "", "passed": []}
    tell({"number": job["number"], "status": status, **end})


def tell(news: dict[str, Any]) -> None:
    os.write(1, (json.dumps(news) + "\n").encode())


def attend() -> None:
    """Take the jobs of one test."""
    with os.fdopen(0) as jobs:
        for line in jobs:
            if os.fork() == 0:
                mind(json.loads(line))
                os._exit(0)


def main() -> None:
    parent = os.getppid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those who attend and mind are not waited for
    Witness().tracer()  # its imports are saved to all of them, too
    listening = socket.socket(fileno=os.dup(0))
    listening.settimeout(PATIENCE)
    while os.getppid() == parent:
        with suppress(TimeoutError), listening.accept()[0] as test:
            if os.fork() == 0:
                listening.close()
                for mine in (0, 1):
                    os.dup2(test.fileno(), mine)
                test.close()
                attend()
                os._exit(0)


if __name__ == "__main__":
    main()
