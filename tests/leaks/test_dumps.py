"""What searches for leaks look at is all that there is, and nothing else."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.parse import quote

import pytest

from reset_flow import ConfigurationError, SQLiteStore, StoreUnavailable
from reset_flow.testing import Witness, dump, make_record, refused


async def stored(path: Path, body: bytes) -> None:
    store = SQLiteStore(path)
    await store.save(make_record(body=body))
    await store.aclose()


@pytest.mark.parametrize("name", ["flows.db", "flows[1].db", "flows*.db", "-n", "what?.db"])
async def test_a_dump_holds_one_database_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    await stored(Path(name), b"what is looked for")
    await stored(Path(f"{name}.old"), b"what is another's")
    for address in (name, str(tmp_path / name)):
        read = await dump(f"sqlite:///{quote(address)}")
        assert b"what is looked for" in read
        assert b"what is another's" not in read


async def test_a_dump_holds_what_is_only_in_the_write_ahead_log(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "flows.db")
    await store.save(make_record(body=b"what is looked for"))
    assert b"what is looked for" in await dump(f"sqlite:///{tmp_path}/flows.db")
    await store.aclose()


@pytest.mark.parametrize("path", ["", "/nowhere/flows.db", "."])
async def test_there_is_no_dump_of_what_is_no_database(path: str) -> None:
    await refused(dump(f"sqlite:///{path}"), ConfigurationError)


async def test_a_dump_that_is_not_complete_is_none(tmp_path: Path) -> None:
    await stored(tmp_path / "flows.db", b"what is looked for")
    (tmp_path / "flows.db-journal").mkdir()
    await refused(dump(f"sqlite:///{tmp_path}/flows.db"), StoreUnavailable)


def test_a_witness_lets_go_of_its_file(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "heard")
    witness.write("before")
    assert opened(tmp_path / "heard")
    witness.close()
    witness.close()
    assert not opened(tmp_path / "heard")
    witness.emit(logging.makeLogRecord({"msg": "after"}))
    assert (tmp_path / "heard").read_bytes() == b"before\n"
    assert b"after" in witness.heard


def opened(path: Path) -> bool:
    return any(each.exists() and each.samefile(path) for each in Path("/proc/self/fd").iterdir())
