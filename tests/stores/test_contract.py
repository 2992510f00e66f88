"""The contract of the port, over the stores that need no server."""

from __future__ import annotations

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
