"""
Measure the page and its API over HTTP: 500 people at once on one worker, each from an address of their own.

`python -m benchmarks.web [--people 500] [--seconds 5] [--idle 2000] [--profile]`. The worker has a core of its own, as
the floor has: the calls to the broker alone. People and broker share the other one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

import attrs

from benchmarks.broker import Broker, running
from benchmarks.driver import percentile
from benchmarks.facts import RESULTS, facts, keep, sentence
from benchmarks.processes import family_cpu, fresh, pin_servers
from benchmarks.subjects import ANSWER, CODE, PASSWORD

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = ["measured", "table"]

BASE = "/"
HEAD_END = b"\r\n\r\n"
FIELD = re.compile(rb'name="(csrf|once)"[^>]*value="([^"]*)"|value="([^"]*)"[^>]*name="(csrf|once)"')
PATIENCE = 120.0
WARM_UP = 0.1
"""Of the seconds."""

HEAD = (
    "road", "resets/s", "floor", "of the floor", "step p50 ms", "p99 ms", "the broker's p50 ms", "p99 ms",
    "CPU ms/reset (the floor's)",
)  # fmt: skip


class Client:
    """One person's connection, which does as little as possible: it shares a core with the broker."""

    def __init__(self, port: int, address: str) -> None:
        self._port = port
        self.address = address
        self.cookie = ""

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self, method: str, path: str, body: bytes = b"", *headers: str) -> tuple[int, bytes]:
        """Send a request from this person's address; return status and body. Keep the cookie, as browsers do."""
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"X-Forwarded-For: {self.address}", *headers]
        if self.cookie:
            lines.append(f"Cookie: {self.cookie}")
        if method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        self._writer.write("\r\n".join(lines).encode() + HEAD_END + body)
        head = await self._reader.readuntil(HEAD_END)
        length = int(found[1]) if (found := re.search(rb"\r\nContent-Length: (\d+)", head)) else 0
        if found := re.search(rb"\r\nSet-Cookie: ([^;]+)", head):
            self.cookie = found[1].decode()
        return int(head[9:12]), await self._reader.readexactly(length)


Latencies = list[float]


async def over_api(client: Client, user: str, took: Latencies) -> None:
    """Carry out one reset over JSON."""
    own, headers = f"{BASE}api/flows", ["Content-Type: application/json"]
    steps = (
        ("", "user", user),
        ("/answer", "answer", ANSWER),
        ("/code", "code", CODE),
        ("/password", "password", PASSWORD),
    )
    for path, field, text in steps:
        began = time.perf_counter()
        status, body = await client.ask("POST", own + path, json.dumps({field: text}).encode(), *headers)
        took.append(time.perf_counter() - began)
        flow = json.loads(body)
        if status not in (200, 201):
            raise AssertionError(flow)
        if not path:
            own += f"/{flow['id']}"
            headers.append(f"Authorization: Bearer {flow['secret']}")
    if flow["state"] != "password_set":
        raise AssertionError(flow)


async def over_page(client: Client, user: str, took: Latencies) -> None:
    """Carry out one reset over the page. A step is a form, and the page that it leads to."""
    client.cookie = ""
    _, page = await client.ask("GET", BASE)
    for name, field, text in (
        ("start", "user", user),
        ("answer", "answer", ANSWER),
        ("code", "code", CODE),
        ("password", "password", PASSWORD),
    ):
        hidden = {(a or d).decode(): (b or c).decode() for a, b, c, d in FIELD.findall(page)}
        form = urlencode({**hidden, field: text}).encode()
        began = time.perf_counter()
        status, page = await client.ask("POST", BASE + name, form, "Content-Type: application/x-www-form-urlencoded")
        if status != 303:
            raise AssertionError(page)
        status, page = await client.ask("GET", BASE)
        took.append(time.perf_counter() - began)
    if status != 200 or b'name="password"' in page:
        raise AssertionError(page)


ROADS: dict[str, Callable[[Client, str, Latencies], Awaitable[None]]] = {"api": over_api, "page": over_page}


@attrs.frozen
class Worker:
    """The process that serves."""

    pid: int
    port: int


@contextmanager
def worker(broker: Broker, folder: Path, profile: Path | None) -> Iterator[Worker]:
    """Run the worker."""
    options = {"root": broker.root, "folder": str(folder), "profile": str(profile) if profile else None}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.web_worker", json.dumps(options)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield Worker(process.pid, int(process.stdout.readline().rstrip("/\n").rsplit(":", 1)[1]))
    finally:
        process.terminate()
        if process.wait(PATIENCE):
            raise RuntimeError("the worker failed: its output stands above")


async def drive(port: int, road: str, label: str, people: int, seconds: float) -> tuple[int, float, Latencies]:
    """Have so many people reset at once, one reset after another, until the time is up. Return resets and seconds."""
    took: Latencies = []
    done = 0
    began = time.perf_counter()

    async def person(number: int) -> None:
        nonlocal done
        async with Client(port, "") as client:
            turn = 0
            while turn == 0 or time.perf_counter() - began < seconds:
                turn += 1
                client.address = f"2001:db8:{number:x}:{turn:x}::1"  # a client is a network of 64 bits
                await ROADS[road](client, f"{label}.{number}.{turn}", took)
                done += 1

    await asyncio.gather(*(person(number) for number in range(people)))
    return done, time.perf_counter() - began, took


async def hold_idle(port: int, count: int) -> list[asyncio.StreamWriter]:
    """Open connections that send half a request."""
    writers = []
    for _ in range(count):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-")
        writers.append(writer)
    return writers


async def _measure(at: Worker, road: str, people: int, seconds: float, idle: int) -> dict[str, Any]:
    await drive(at.port, road, "warm", people, seconds * WARM_UP)
    slow = await hold_idle(at.port, idle)
    used = family_cpu([at.pid])
    resets, took, latencies = await drive(at.port, road, "user", people, seconds)
    used = family_cpu([at.pid]) - used
    for writer in slow:
        writer.close()
    return {
        "resets": resets,
        "resets_per_second": resets / took,
        "p50_ms": percentile(latencies, 0.5) * 1e3,
        "p99_ms": percentile(latencies, 0.99) * 1e3,
        "cpu_ms": used / resets * 1e3,
    }


def measured(people: int, seconds: float, idle: int, profile: Path | None = None) -> list[dict[str, Any]]:
    """Return the figures of each road."""
    pin_servers()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    figures = []
    with running() as broker, tempfile.TemporaryDirectory(prefix="reset-flow-benchmarks-") as folder:
        for road in ROADS:
            floor = fresh("web_floor", {"root": broker.root, "concurrency": people, "seconds": seconds / 3})
            place = Path(folder) / road
            place.mkdir()
            with worker(broker, place, profile and profile.with_suffix(f".{road}")) as at:
                each = asyncio.run(_measure(at, road, people, seconds, idle))
            figures.append(
                {"road": road, "people": people, "idle": idle, **each, **floor}
                | {"ratio": each["resets_per_second"] / floor["floor"]}
            )
    return figures


def table(figures: list[dict[str, Any]]) -> str:
    """Format the figures in Markdown."""
    rows = [f"| {' | '.join(HEAD)} |", f"| --- |{' ---: |' * (len(HEAD) - 1)}"]
    for each in figures:
        cells = (
            each["road"], f"{each['resets_per_second']:.0f}", f"{each['floor']:.0f}", f"{each['ratio']:.2f}",
            f"{each['p50_ms']:.0f}", f"{each['p99_ms']:.0f}", f"{each['floor_p50_ms']:.0f}",
            f"{each['floor_p99_ms']:.0f}", f"{each['cpu_ms']:.2f} ({each['floor_cpu_ms']:.2f})",
        )  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.web", description="The page and its API over HTTP.")
    parser.add_argument("--people", type=int, default=500, help="at once")
    parser.add_argument("--seconds", type=float, default=6, help="of each road")
    parser.add_argument("--idle", type=int, default=2000, help="connections that send half a request")
    parser.add_argument("--profile", type=Path, help="a file for cProfile, which slows the worker")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the figures")
    options = parser.parse_args()
    known = facts()
    figures = measured(options.people, options.seconds, options.idle, options.profile)
    print(f"{sentence(known)}; {options.people} people at once, {options.idle} idle connections\n")
    print(table(figures))
    print(f"\n{keep('-web', {'facts': known, 'figures': figures}, options.results)}")


if __name__ == "__main__":
    main()
