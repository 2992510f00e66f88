"""
A process of the demo with an engine: ``python -m reset_flow.cli.engine_worker page`` or ``… worker``.

The page does what people do, and tells the engine of ends; a worker runs onboardings. The first line on standard input
is a `Job` in JSON; a line comes back once the process is ready. Each further line is
`{"command": ..., "arguments": [...]}`; a line comes back for each. It ends with its input. Nothing secret is in its
arguments or its environment.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from importlib import import_module
from typing import TYPE_CHECKING, Any

from reset_flow.cli.onboarding import LISTENER
from reset_flow.config import from_env
from reset_flow.domain.errors import ResetFlowError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from reset_flow.cli.onboarding import Commands, Job

__all__ = ["main"]


async def main(role: str) -> None:
    """Carry out orders until the input ends."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with AsyncExitStack() as stack:
        job: Job = json.loads(await lines.readline())
        engine = import_module(f"reset_flow.cli.onboarding_{job['engine']}")
        commands = await (_page(job, engine.listener, stack) if role == "page" else engine.serve(job, stack))
        _say({"ready": role})
        while line := await lines.readline():
            order = json.loads(line)
            try:
                _say(await commands[order["command"]](*order["arguments"]))
            except ResetFlowError as error:
                _say({"error": error.code, "message": str(error)})


async def _page(job: Job, listener: Any, stack: AsyncExitStack) -> Commands:
    """Return what people do, and how they find their reset."""
    listeners = {LISTENER: listener(job, stack)}
    service = await stack.enter_async_context(from_env(job["service"], listeners=listeners))

    async def find(ref: str) -> dict[str, Any]:
        flows = await service.find(ref=ref)
        return {"flow": flows[0].public() if flows else None}

    def step(command: str) -> Callable[..., Awaitable[dict[str, Any]]]:
        async def take(*arguments: str) -> dict[str, Any]:
            return {"flow": (await getattr(service, command)(*arguments)).public()}

        return take

    return {"find": find, **{command: step(command) for command in ("answer", "verify", "set_password")}}


def _say(reply: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
