"""The contract of the port, over the stores that need no server."""

from __future__ import annotations

import subprocess
import sys
from inspect import cleandoc
from typing import TYPE_CHECKING

import pytest

from reset_flow.stores.memory import MemoryStore
from reset_flow.stores.sqlite.store import SQLiteStore
from reset_flow.testing import StoreContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class TestMemoryStore(StoreContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[MemoryStore]:
        store = MemoryStore(clock=self.clock)
        yield store
        await store.aclose()


class TestSQLiteStore(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SQLiteStore]:
        store = SQLiteStore(tmp_path / "flows.db", clock=self.clock)
        yield store
        await store.aclose()


def test_the_example_of_the_contract_works(tmp_path: Path) -> None:
    _, example, _ = cleandoc(StoreContract.__doc__ or "").split("::\n")
    lines = [line for line in example.splitlines() if not line or line.startswith("    ")]
    example = cleandoc("\n".join(lines)).replace(
        "from my_package import MyStore", "from reset_flow import MemoryStore as MyStore"
    )
    (tmp_path / "test_mine.py").write_text(example)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "asyncio_mode=auto",
        "test_mine.py",
    ]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout
    assert f"{sum(name.startswith('test_') for name in dir(StoreContract))} passed" in result.stdout
