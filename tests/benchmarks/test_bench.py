"""The measurements in miniature, so that they can still be taken: that figures are there, not what they are."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks.broker import CALLS, running
from benchmarks.subjects import Floor, Library, service
from reset_flow import MemoryStore, SQLiteStore

ROOT = Path(__file__).parents[2]


def measure(module: str, results: Path, *flags: str, **options: Any) -> tuple[str, dict[str, Any]]:
    """What was printed, and what was kept."""
    given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", module, *flags, *given, "--results", str(results)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (kept,) = results.iterdir()
    figures = json.loads(kept.read_text())
    assert datetime.fromisoformat(figures["facts"]["date"]).replace(tzinfo=UTC) > datetime.now(UTC) - timedelta(days=2)
    return done.stdout, figures


def test_a_run_gives_a_row_a_picture_and_exactly_four_calls_a_flow(tmp_path: Path) -> None:
    picture = tmp_path / "picture.svg"
    printed, kept = measure(
        "benchmarks", tmp_path / "results", stores="sqlite", concurrency=4, repeats=1, seconds=0.2, out=picture
    )
    (row,) = kept["figures"]
    assert (row["store"], row["concurrency"], row["runs"]) == ("sqlite", 4, 1)
    assert row["flows"] > 0
    assert row["calls"] == 4 * row["total"] >= 4 * row["flows"]
    for name in ("flows_per_second", "floor", "ratio", "p50_ms", "p99_ms", "cpu_ms", "kept_bytes"):
        assert row[name] > 0, name
    assert re.search(r"^\| sqlite \| 4 \| \d+ \|", printed, re.MULTILINE)
    drawn = ET.parse(picture)  # noqa: S314 - drawn a moment ago
    texts = "".join(drawn.getroot().itertext())
    assert kept["facts"]["date"] in texts
    assert kept["facts"]["cpu"] in texts
    assert "prefers-color-scheme: dark" in texts


def test_the_profile_books_the_time_on_the_layers(tmp_path: Path) -> None:
    printed, kept = measure(
        "benchmarks", tmp_path, "--profile", stores="sqlite", concurrency=4, repeats=1, seconds=3
    )  # fmt: skip
    (row,) = kept["figures"]
    booked = row["layers_us"]
    assert {"transport, aiohttp", "store, its thread", "service, cycle"} <= set(booked)
    assert sum(booked.values()) > 0
    assert "| transport, aiohttp |" in printed


def test_people_reset_over_the_page_and_the_api_while_others_are_idle(tmp_path: Path) -> None:
    printed, kept = measure("benchmarks.web", tmp_path, people=10, idle=20, seconds=0.3)
    assert [each["road"] for each in kept["figures"]] == ["api", "page"]
    for each in kept["figures"]:
        assert each["resets"] >= 10
        for name in ("resets_per_second", "floor", "ratio", "p50_ms", "p99_ms", "floor_p50_ms", "floor_p99_ms"):
            assert each[name] > 0, name
        assert f"\n| {each['road']} | " in printed


def test_a_store_is_filled_swept_parked_in_and_worked_on_by_several(tmp_path: Path) -> None:
    printed, kept = measure(
        "benchmarks.scale", tmp_path, stores="sqlite", sizes="100,200", runs=5, repeats=2, due=60, parked=50,
        worker_stores="sqlite", workers=2, seconds=0.2, raced=100,
    )  # fmt: skip
    assert [each["size"] for each in kept["stored"]] == [100, 200]
    for each in kept["stored"]:
        for name in ("floor", "start", "set_password", "find", "command of any", "sweep, nothing due", "purge of 1000"):
            assert each[name]["p50_ms"] > 0, name
    (sweep,) = kept["sweep"]
    assert sweep["due"] == 60
    assert 0 < sweep["saves_at_once"] <= 16
    (parked,) = kept["parked"]
    assert parked["flows"] == 50
    (workers,) = kept["workers"]
    assert workers["flows"] > 0
    assert workers["raced"] == 100
    assert workers["refused"] > 0, "nobody was in anybody's way: this was no race"
    assert printed.count("| sqlite") == 4


def test_imports_are_timed(tmp_path: Path) -> None:
    printed, kept = measure("benchmarks.imports", tmp_path, repeats=1)
    assert kept["figures"]["reset_flow_modules"] > 0
    assert "| reset_flow, after it |" in printed


def test_known_and_unknown_users_are_timed(tmp_path: Path) -> None:
    _, kept = measure("benchmarks.masking", tmp_path, runs=2, latency=0.001)
    assert kept["figures"].keys() == {"memory", "sqlite"}
    for commands in kept["figures"].values():
        assert {command: each["ratio"] > 0 for command, each in commands.items()} == {"start": True, "verify": True}


async def test_the_floor_and_the_library_make_the_same_calls() -> None:
    with running() as broker:
        for opened in (Floor(broker.root), service(broker.root, MemoryStore())):
            before = broker.counts
            async with opened:
                subject = opened if isinstance(opened, Floor) else Library(opened)
                flow: Any = await subject.start("somebody")
                assert {call: broker.counts[call] - before[call] for call in CALLS} == dict.fromkeys(CALLS, 0) | {
                    CALLS[0]: 1
                }
                await subject.answer(flow)
                await subject.verify(flow)
                await subject.set_password(flow)
            assert {call: broker.counts[call] - before[call] for call in CALLS} == dict.fromkeys(CALLS, 1)


def test_a_flow_leaves_at_most_700_bytes_in_a_file_of_sqlite(tmp_path: Path) -> None:
    flows = 300

    async def reset(root: str) -> None:
        store = SQLiteStore(tmp_path / "flows.db")
        async with service(root, store) as opened:
            subject = Library(opened)
            for n in range(flows):
                flow = await subject.start(f"somebody{n}")
                await subject.answer(flow)
                await subject.verify(flow)
                await subject.set_password(flow)
        await store.aclose()

    with running() as broker:
        asyncio.run(reset(broker.root))
    assert [each.name for each in tmp_path.iterdir()] == ["flows.db"]  # the log is written back
    assert (tmp_path / "flows.db").stat().st_size <= 700 * flows


@pytest.mark.usefixtures("restate_server")
def test_waits_in_restate_are_measured(tmp_path: Path) -> None:
    printed, kept = measure("benchmarks.waiting", tmp_path, stores="memory,sqlite", parked=5, ends=3)
    assert printed.count("| 5 |") == 2
    for each in kept["figures"]["memory"].values():
        assert each["parked"] > each["before"] > 0
    assert all(0 < each["p50_ms"] <= each["p99_ms"] for each in kept["figures"]["times"].values())


@pytest.mark.parametrize("module", ["benchmarks", "benchmarks.scale"])
def test_a_store_that_does_not_exist_is_refused(module: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--stores", "paper", "--results", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 2
    assert "paper" in done.stderr


@pytest.mark.engine
@pytest.mark.server
def test_waits_in_dbos_are_measured_beside_bare_ones_and_on_each_store(tmp_path: Path) -> None:
    printed, kept = measure("benchmarks.waiting_dbos", tmp_path, parked=20, ends=3)
    assert "20 parked workflows: " in printed
    assert set(kept["figures"]["parked"]) == {"bare", "reset"}
    assert len(kept["figures"]["ends"]) == 4
    assert all(each["p50_ms"] <= each["p99_ms"] for each in kept["figures"]["ends"].values())
