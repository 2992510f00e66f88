"""A loop that must be left clean."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def nothing_left() -> AsyncIterator[None]:
    """Errors that nobody fetched are logged by the loop: there must be none."""
    left: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
    yield
    assert left == []
