"""Prints the flows of a realm."""

from __future__ import annotations

import heapq
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reset_flow.cli.exits import line_of
from reset_flow.cli.screen import clock_time, complain, say, say_json
from reset_flow.domain.errors import RecordUnreadable

if TYPE_CHECKING:
    from reset_flow.admin import Admin
    from reset_flow.domain.flow import Flow

__all__ = ["print_json", "print_newest"]

COLUMNS = "{:<26}  {:<27}  {:<16}  {}"
STANDS = "{:<17}  {}"
"""The state and what is expected, in the column of both: a line has 80 characters."""


async def print_json(admin: Admin, tag: str | None, *, running: bool) -> bool:
    """Print each flow as a line of JSON. Return whether all could be read."""
    readable = True
    async with aclosing(admin.flows(tag=tag, running=running)) as flows:
        async for flow in flows:
            if isinstance(flow, RecordUnreadable):
                readable = False
                complain(line_of(flow))
            else:
                say_json(flow.public())
    return readable


async def print_newest(admin: Admin, tag: str | None, limit: int, *, running: bool) -> bool:
    """Print the newest flows as lines for people. Return whether all could be read."""
    newest: list[tuple[datetime, str, Flow]] = []
    count, readable = 0, True
    async with aclosing(admin.flows(tag=tag, running=running)) as flows:
        async for flow in flows:
            if isinstance(flow, RecordUnreadable):
                readable = False
                complain(line_of(flow))
                continue
            count += 1
            heapq.heappush(newest, (flow.created_at, flow.id, flow))
            if len(newest) > limit:
                heapq.heappop(newest)
    if not newest:
        say("there is no such flow" if tag or running else "there are no flows")
    else:
        say(COLUMNS.format("ID", STANDS.format("STATE", "EXPECTS"), "STARTED", "UNTIL"))
    now = datetime.now(UTC)
    for _, _, flow in sorted(newest, reverse=True):
        stands = f"{flow.state}, {flow.failure}" if flow.failure else STANDS.format(flow.state, flow.expects or "-")
        began = f"{flow.created_at.astimezone():%Y-%m-%d %H:%M}"
        say(COLUMNS.format(flow.id, stands, began, _until(flow, now)))
    if count > len(newest):
        say(f"and {count - len(newest)} older ones: --limit shows more, --json all")
    return readable


def _until(flow: Flow, now: datetime) -> str:
    if flow.ended:
        return "-"
    return "over" if flow.expires_at <= now else clock_time(flow.expires_at, now)[: -len(":00")]
