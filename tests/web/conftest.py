"""A house, over each kind of store that tests of the web use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.web.houses import House

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(params=["memory", "sqlite"])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    async with House(request.param, tmp_path) as house:
        yield house
