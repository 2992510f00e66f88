"""
A process that carries flows for somebody who talks to it over pipes: ``python -m reset_flow.cli.demo_worker``.

The first line on standard input is a JSON object of settings, as `from_env` takes them. Each further line is
`{"command": ..., "arguments": [...]}`; a line comes back for each. It ends with its input. Nothing secret is in its
arguments or its environment.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

from reset_flow.config import from_env
from reset_flow.domain.errors import ResetFlowError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reset_flow.service import ResetService

__all__ = ["main"]

COMMANDS = frozenset({"answer", "get", "set_password", "start", "verify"})


def main(lines: Iterable[bytes] | None = None) -> int:
    """Carry out orders until the input ends. Return the exit status, 0."""
    incoming = iter(sys.stdin.buffer if lines is None else lines)
    with asyncio.Runner() as runner:
        service = from_env(json.loads(next(incoming)), sweep=False)
        try:
            for line in incoming:
                sys.stdout.write(json.dumps(runner.run(_reply(service, json.loads(line)))) + "\n")
                sys.stdout.flush()
        finally:
            runner.run(service.aclose())
    return 0


async def _reply(service: ResetService, order: dict[str, Any]) -> dict[str, Any]:
    if order["command"] not in COMMANDS:
        return {"error": "no_such_command", "message": "the worker knows no such command"}
    try:
        flow = await getattr(service, order["command"])(*order["arguments"])
    except ResetFlowError as error:
        return {"error": error.code, "message": str(error)}
    return {"flow": flow.public(), "history": [each.trigger for each in flow.history]}


if __name__ == "__main__":
    sys.exit(main())
