"""Desks for a test, closed with it, and searched for secrets."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from reset_flow.testing import LeakScanner
from tests.chat.chats import SECRETS, Desk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NAMES = ("reset_flow", "reset_flow.audit", "asyncio")


class MakeDesk(Protocol):
    """Make a desk."""

    def __call__(self, *args: Any, **options: Any) -> Desk: ...


@pytest.fixture
async def make_desk() -> AsyncIterator[MakeDesk]:
    """Return what makes a desk. At the end, nothing that was said, logged or stored has a secret of SECRETS in it."""
    desks: list[Desk] = []
    loggers = [logging.getLogger(), *map(logging.getLogger, NAMES)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(1)

    def make_desk(*args: Any, **options: Any) -> Desk:
        desks.append(desk := Desk(*args, **options))
        loggers[0].addHandler(desk.witness)
        return desk

    yield make_desk
    for desk in desks:
        await desk.aclose()
        loggers[0].removeHandler(desk.witness)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    scanner = LeakScanner(SECRETS)
    for desk in desks:
        assert scanner.find(bytes(desk.witness.heard), bytes(desk.saved)) == []


@pytest.fixture
async def desk(make_desk: MakeDesk) -> Desk:
    """Return a desk where passwords are set by link, at a provider that asks a question."""
    return make_desk()
