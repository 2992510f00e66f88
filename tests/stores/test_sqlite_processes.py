"""One file, several processes: rivals, a sudden death, a fork, an exit without goodbye."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

from reset_flow.ports import Query
from reset_flow.stores.sqlite.store import SQLiteStore

if TYPE_CHECKING:
    from pathlib import Path

FLOWS = 8
PROCESSES = 4
WINS = 60

BEGIN = f"""
import asyncio, json, os, sys
from datetime import timedelta
from reset_flow.domain.errors import FlowNotFound, StaleRecord, StoreUnavailable
from reset_flow.stores.sqlite.store import SQLiteStore
from reset_flow.testing import make_record, next_version
path = sys.argv[1]
FLOWS, WINS = {FLOWS}, {WINS}
"""

RIVAL = (
    BEGIN
    + """
async def main():
    store, wins = SQLiteStore(path, busy_timeout=timedelta(seconds=30)), []
    async def attempt(name):
        try:
            record = next_version(await store.load(name))
        except FlowNotFound:
            record = make_record(id=name)
        try:
            await store.save(record)
        except StaleRecord:
            return
        wins.append((name, record.version, record.write_id.hex()))
    while len(wins) < WINS:
        await asyncio.gather(*(attempt(f"flow {n}") for n in range(FLOWS)))
    await store.aclose()
    print(json.dumps(wins))
asyncio.run(main())
"""
)

ENDLESS = (
    BEGIN
    + """
async def saver(store):
    while True:
        record = make_record(body=os.urandom(300))
        await store.save(record)
        os.write(1, f"{record.id} {record.write_id.hex()}\\n".encode())
        await store.save(next_version(record, write_id=record.write_id[::-1]))
        os.write(1, f"{record.id} {record.write_id[::-1].hex()}\\n".encode())
async def main():
    store = SQLiteStore(path)
    await asyncio.gather(*(saver(store) for _ in range(16)))
asyncio.run(main())
"""
)

FORKED = (
    BEGIN
    + """
async def said(call):
    try:
        await call
    except StoreUnavailable as error:
        return str(error)
    return "done"
record = make_record(id="parent's")
store, unopened = SQLiteStore(path), SQLiteStore(path + "2")
asyncio.run(store.save(record))
if os.fork() == 0:
    answers = [asyncio.run(said(call)) for call in (
        store.load(record.id), store.save(make_record()), store.aclose(), SQLiteStore(path).load(record.id),
        unopened.save(record), unopened.aclose(),
    )]
    os.write(1, json.dumps(answers).encode())
    os._exit(0)
os.wait()
asyncio.run(store.save(next_version(record)))
asyncio.run(store.aclose())
if os.fork() == 0:  # now that it is closed, another process may have it
    asyncio.run((late := SQLiteStore(path)).save(make_record(id="child's")))
    asyncio.run(late.aclose())
    os._exit(0)
os.wait()
"""
)

FORGETFUL = (
    BEGIN
    + """
store = SQLiteStore(path)
asyncio.run(store.save(make_record(id="saved")))
"""
)


async def start(script: str, path: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(path)), stdout=asyncio.subprocess.PIPE
    )


async def run(script: str, path: Path) -> bytes:
    async with asyncio.timeout(60):
        process = await start(script, path)
        output, _ = await process.communicate()
    assert process.returncode == 0
    return output


async def write_ids(path: Path) -> dict[str, tuple[int, str]]:
    """What is in a file once the others have gone: of each flow, its version and its write_id."""
    store = SQLiteStore(path)
    found = {
        record.id: (record.version, record.write_id.hex())
        async for record in store.scan(Query(realm="default"), limit=1_000_000)
    }
    await store.aclose()
    return found


async def test_of_processes_that_save_one_version_exactly_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "flows.db"
    outputs = await asyncio.gather(*(run(RIVAL, path) for _ in range(PROCESSES)))
    wins: list[Any] = [win for output in outputs for win in json.loads(output)]
    assert len(wins) >= PROCESSES * WINS
    assert len({(name, version) for name, version, _ in wins}) == len(wins)
    found = await write_ids(path)
    assert sum(version for version, _ in found.values()) == len(wins)
    assert found == {name: (version, write_id) for name, version, write_id in sorted(wins, key=lambda win: win[1])}


async def test_whatever_was_acknowledged_survives_a_sudden_death(tmp_path: Path) -> None:
    path = tmp_path / "flows.db"
    acknowledged: dict[str, list[str]] = {}
    for _ in range(2):
        process = await start(ENDLESS, path)
        assert process.stdout is not None
        for _ in range(500):
            name, write_id = (await process.stdout.readline()).decode().split()
            acknowledged.setdefault(name, []).append(write_id)
        process.kill()
        output, _ = await process.communicate()
        for line in output.decode().splitlines(keepends=True):
            if line.endswith("\n"):
                name, write_id = line.split()
                acknowledged.setdefault(name, []).append(write_id)
    found = await write_ids(path)
    assert len(acknowledged) > 100
    lost = [
        name
        for name, seen in acknowledged.items()
        if name not in found
        or found[name][0] < len(seen)
        or (found[name][0] == len(seen) and found[name][1] != seen[-1])
    ]
    assert lost == []


async def test_a_store_is_not_carried_over_a_fork(tmp_path: Path) -> None:
    path = tmp_path / "flows.db"
    loaded, saved, closed, anew, unopened, closed_too = json.loads(await run(FORKED, path))
    assert "forked" in loaded
    assert "forked" in saved
    assert "forked" in anew
    assert (closed, unopened, closed_too) == ("done", "done", "done")
    found = await write_ids(path)
    assert {name: version for name, (version, _) in found.items()} == {"parent's": 2, "child's": 1}


async def test_a_program_that_forgets_to_close_its_store_ends(tmp_path: Path) -> None:
    path = tmp_path / "flows.db"
    await run(FORGETFUL, path)
    assert list(await write_ids(path)) == ["saved"]
