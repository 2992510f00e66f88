"""Print the files of the package that one `verify` passes, each where the command enters it first."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import reset_flow
from reset_flow import EtnaTransport, Keyring, ResetService, SQLiteStore, State
from reset_flow.domain.state_machine import allowed
from reset_flow.sandbox import Sandbox

if TYPE_CHECKING:
    from types import FrameType

PACKAGE = str(Path(reset_flow.__file__).parent) + "/"
VALUES = ("domain/secret.py", "domain/text.py", "domain/flow.py", "domain/outcomes.py", "observability/tracing.py")
"""Passed everywhere, so that their place says nothing."""

passed: dict[str, None] = {}
watching = False


def watch(frame: FrameType, event: str, _: Any) -> None:
    path = frame.f_code.co_filename
    if watching and event == "call" and path.startswith(PACKAGE) and frame.f_code.co_name != "<module>":
        file = path.removeprefix(PACKAGE)
        if not file.startswith("sandbox/") and file not in VALUES:
            passed.setdefault(file)


async def walk(folder: Path) -> None:
    global watching  # noqa: PLW0603 - a profiler has nothing else to look at
    async with Sandbox(port=0) as sandbox:
        transport, store = EtnaTransport(sandbox.api_url, "sandbox"), SQLiteStore(folder / "flows.db")
        async with ResetService(transport, store, Keyring.load_or_create(folder / "keys"), sweep=False) as service:
            for watched in (False, True):  # the first one opens what stays open
                flow = await service.start("robert.zak")
                flow = await service.answer(flow.id, "Peterson")
                await asyncio.sleep(0.3)  # the first look at the guess counts is over by then
                allowed.cache_clear()  # it remembers what the tables said the first time
                watching = watched
                flow = await service.verify(flow.id, sandbox.newest_code("robert.zak"))
                watching = False
                assert flow.state is State.TOKEN_ISSUED


threading.setprofile(watch)
sys.setprofile(watch)
with tempfile.TemporaryDirectory() as folder:
    asyncio.run(walk(Path(folder)))
sys.setprofile(None)
print(*passed, sep="\n")  # noqa: T201 - that is what it is for
