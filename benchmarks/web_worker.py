"""The worker of `benchmarks.web`: `reset_flow.web.server` over SQLite, with its limits on."""

from __future__ import annotations

import asyncio
import cProfile
import json
import logging
import sys
import time
from contextlib import nullcontext

from benchmarks.processes import pin_driver
from benchmarks.subjects import service
from reset_flow.web import Limits
from reset_flow.web.server import serve

__all__: list[str] = []


async def _serve(root: str, folder: str) -> None:
    await serve(
        service(root, f"sqlite:///{folder}/flows.db"),
        port=0,
        limits=Limits(trusted_proxies=("127.0.0.1",)),
        told=lambda address: print(address, flush=True),
    )


if __name__ == "__main__":
    pin_driver()
    logging.getLogger("reset_flow").setLevel(logging.ERROR)
    given = json.loads(sys.argv[1])
    profiled = cProfile.Profile(time.process_time) if given["profile"] else None
    with profiled or nullcontext():
        asyncio.run(_serve(given["root"], given["folder"]))
    if profiled:
        profiled.dump_stats(given["profile"])
