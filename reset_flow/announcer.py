"""Tells listeners what flows durably did."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from reset_flow.models import Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from reset_flow.models import Flow
    from reset_flow.ports import Listener

__all__ = ["Announcer"]

logger = logging.getLogger("reset_flow")

PATIENCE = timedelta(seconds=10)
"""How long one listener may take for one event."""


class Announcer:
    """The listeners of one service, by name."""

    def __init__(self, listeners: Mapping[str, Listener], patience: timedelta = PATIENCE) -> None:
        self._listeners = dict(listeners)
        self.names = tuple(sorted(self._listeners))
        self._patience = patience.total_seconds()

    async def tell(self, flow: Flow, since: int, names: Iterable[str], *, alarm: bool = False) -> set[str]:
        """
        Tell those of the names that are here what came after that many transitions, in order. -> who heard the last

        A listener that raises or takes too long misses that event, and delays or disturbs no other.

        Args:
            alarm: Whether the guess alarm went on by the first of these.
        """
        present = [name for name in names if name in self._listeners]
        heard = await asyncio.gather(*(self._tell(name, flow, since, alarm) for name in present))
        return {name for name, last in zip(present, heard, strict=True) if last}

    async def _tell(self, name: str, flow: Flow, since: int, alarm: bool) -> bool:  # noqa: FBT001 - of `tell`
        heard = False
        for index, transition in enumerate(flow.history[since:], since):
            event = Event(id=f"{flow.id}.{index}", flow=flow, transition=transition, alarm=alarm and index == since)
            heard = False
            try:
                async with asyncio.timeout(self._patience):
                    await self._listeners[name](event)
                heard = True
            except asyncio.CancelledError:
                if (task := asyncio.current_task()) and task.cancelling():
                    raise
                logger.warning("listener %s missed event %s: it was cancelled", name, event.id)
            except Exception as error:  # noqa: BLE001 - a listener of the embedder's may raise anything
                logger.warning("listener %s missed event %s: %s", name, event.id, type(error).__name__)
        return heard
