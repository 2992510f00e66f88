"""
Measure CPU by layer of the library.

A timer of the system interrupts the process after each millisecond of CPU. The CPU that each thread has used since then
is added to the layer of its innermost frame, leaving out the standard library and generated code; without such a frame,
to the loop. So the time of C code belongs to its caller. Waiting threads use no CPU.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import reset_flow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["LAYERS", "sampled"]

INTERVAL = 0.001
PACKAGE = str(Path(reset_flow.__file__).parent) + "/"

HTTP, LOOP, SEAL, CODEC = "transport, aiohttp", "asyncio's loop", "sealing", "codec"
RULES, STORE, THREAD, CYCLE, OTHER = (
    "rules, machine",
    "store, in the loop",
    "store, its thread",
    "service, cycle",
    "other",
)
LAYERS = (HTTP, LOOP, SEAL, CODEC, RULES, STORE, THREAD, CYCLE, OTHER)

OURS = {
    "transports/": HTTP,
    "engine/broker_client.py": HTTP,
    "persistence/keyring.py": SEAL,
    "persistence/key_file.py": SEAL,
    "persistence/codec.py": CODEC,
    "domain/": RULES,
    "stores/": STORE,
}
"""Files of the library. All others belong to the service and the cycle."""

TURNS = frozenset({"_run", "_run_once"})
"""Functions of asyncio that are called only by the loop itself."""

THEIRS = {
    "aiohttp": HTTP,
    "yarl": HTTP,
    "multidict": HTTP,
    "propcache": HTTP,
    "transitions": RULES,
    "cryptography": SEAL,
    "asyncpg": STORE,
    "redis": STORE,
}


def _layer_of(path: str) -> str | None:
    if path.startswith(PACKAGE):
        rest = path.removeprefix(PACKAGE)
        return next((layer for place, layer in OURS.items() if rest.startswith(place)), CYCLE)
    if "/site-packages/" in path:
        return THEIRS.get(path.split("/site-packages/", 1)[1].split("/", 1)[0])
    return OTHER if "/benchmarks/" in path else None


class _Sampler:
    def __init__(self) -> None:
        self.booked: defaultdict[str, float] = defaultdict(float)
        self._main = threading.main_thread().ident
        self._used: dict[int, float] = {}
        self._layers: dict[str, str | None] = {}

    def sample(self, _signal: int, interrupted: FrameType | None) -> None:
        for thread, innermost in sys._current_frames().items():  # noqa: SLF001 - there is no public function
            frame = interrupted if thread == self._main else innermost
            used = self._spent(thread)
            if used > 0:
                self.booked[self._layer(thread, frame)] += used

    def _spent(self, thread: int) -> float:
        try:
            now = time.clock_gettime(time.pthread_getcpuclockid(thread))
        except OSError:  # the thread has ended
            return 0.0
        before = self._used.get(thread)
        self._used[thread] = now
        return 0.0 if before is None else now - before

    def _layer(self, thread: int, frame: FrameType | None) -> str:
        while frame is not None:
            path = frame.f_code.co_filename
            if path not in self._layers:
                self._layers[path] = _layer_of(path)
            layer = LOOP if frame.f_code.co_name in TURNS and "/asyncio/" in path else self._layers[path]
            if layer is not None:
                return THREAD if layer is STORE and thread != self._main else layer
            frame = frame.f_back
        return LOOP if thread == self._main else THREAD


@contextmanager
def sampled() -> Iterator[dict[str, float]]:
    """Sample during the block, and fill in the seconds of CPU by layer at its end. Only for the main thread."""
    booked: dict[str, float] = {}
    sampler = _Sampler()
    before = signal.signal(signal.SIGPROF, sampler.sample)
    sampler.sample(signal.SIGPROF, None)
    sampler.booked.clear()
    signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
    try:
        yield booked
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        booked.update(sampler.booked)
