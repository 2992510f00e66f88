"""
Carry resets as task queues and web hosts do: the service is made at import, each step runs in an event loop of its own,
and perhaps in a process that was forked. Prints a line of JSON for each process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import warnings
from datetime import timedelta
from typing import Any
from urllib.request import urlopen

import reset_flow
from reset_flow.engine import guess_alarm

service = reset_flow.from_env(sweep=False, worker=os.environ.get("WORKER"))
INBOX = os.environ["RESET_FLOW_BROKER_URL"].replace("/api", "/sandbox/inbox")


def reset(login: str) -> dict[str, Any]:
    """Reset one password, and return what came of it."""
    try:
        flow = asyncio.run(service.start(login))
        with urlopen(f"{INBOX}?user={login}", timeout=60) as reply:  # noqa: S310 - the sandbox's
            code = json.load(reply)[-1]["code"]
        asyncio.run(service.verify(flow.id, code))
        flow = asyncio.run(service.set_password(flow.id, f"violet tractor of {login}"))
    except reset_flow.ResetFlowError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"state": flow.state, "workers": sorted({step.worker for step in flow.history}), "pid": os.getpid()}


def guess(login: str) -> dict[str, Any]:
    """Type a wrong code."""
    flow = asyncio.run(service.start(login))
    try:
        asyncio.run(service.verify(flow.id, "000000"))
    except reset_flow.CodeRejected:
        return {}
    raise AssertionError


async def counts() -> dict[str, Any]:
    """Return how many codes all processes together have seen, once this one has told its own."""
    await service._alarm.sync()
    seen, _ = await guess_alarm.load_counts(service.side(guess_alarm.KIND), timedelta(minutes=1))
    wrong = sum(seen[key] for key in seen if not key[1])
    return {"wrong": wrong, "right": seen.total() - wrong}


def say(document: dict[str, Any]) -> None:
    """Print it at once: a forked process prints nothing that its parent has not printed yet."""
    os.write(1, json.dumps(document).encode() + b"\n")


def fork(login: str) -> None:
    """Reset a password in a child, and wait for it."""
    with warnings.catch_warnings():
        # From 3.12 on, Python warns of threads beside a fork: here they are what is tried.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        say(reset(login))
        asyncio.run(service.aclose())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


async def fork_in_use(login: str) -> None:
    """Fork in the middle of an event loop that uses the service, which goes on afterwards."""
    assert await service.find("nothing") == []
    fork(login)
    assert await service.find("nothing") == []


def main() -> None:
    """Reset the passwords of these users one after another; `fork:` before a user, in a child of its own."""
    for order in sys.argv[1:]:
        what, _, login = order.rpartition(":")
        if what == "fork":
            fork(login)
        elif what == "fork-in-use":
            asyncio.run(fork_in_use(login))
        elif what == "wrong":
            say(guess(login))
        elif order == "counts":
            say(asyncio.run(counts()))
        else:
            say(reset(order))
    asyncio.run(service.aclose())


if __name__ == "__main__":
    main()
