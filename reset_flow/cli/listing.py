"""The flows of a realm, one by one: needs the store and the keys, and no broker."""

from __future__ import annotations

import asyncio
import heapq
from contextlib import aclosing
from typing import TYPE_CHECKING

from reset_flow.cli.exits import line_of
from reset_flow.cli.screen import clock_time, complain, say, say_json
from reset_flow.config import open_store
from reset_flow.domain import rules
from reset_flow.domain.errors import RecordUnreadable
from reset_flow.domain.policy import Policy
from reset_flow.persistence.keyring import Keyring
from reset_flow.persistence.repository import FlowRepository

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from datetime import datetime

    from reset_flow.cli.session import Place
    from reset_flow.domain.flow import Flow

__all__ = ["newest", "stream"]

ALL = 2**31 - 1
COLUMNS = "{:<26}  {:<17}  {:<8}  {:<19}  {}"


async def flows(place: Place, tag: str | None) -> AsyncGenerator[Flow | RecordUnreadable, None]:
    """Every flow of the realm, or those with the tag; what can't be opened comes as the error."""
    store = open_store(place.store)
    keyring = Keyring.from_file(place.setting("KEYS", "reset-flow.keys"))
    realm, policy = place.setting("REALM", "default"), Policy()
    repository = FlowRepository(store, keyring, realm, policy.lease)
    lookups = (None,) if tag is None else keyring.lookups(realm, "tag", tag)  # with a flow under each at most once
    try:
        for lookup in lookups:
            async for found in repository.scan(limit=ALL, lookup=lookup):
                yield found if isinstance(found, RecordUnreadable) else rules.view(found.flow)
    finally:
        await store.aclose()


def stream(place: Place, tag: str | None, *, running: bool) -> bool:
    """Print each flow as a line of JSON. -> whether all could be read"""

    async def go() -> bool:
        readable = True
        async with aclosing(flows(place, tag)) as found:
            async for one in found:
                if isinstance(one, RecordUnreadable):
                    readable = False
                    complain(line_of(one))
                elif not (running and one.ended):
                    say_json(one.public())
        return readable

    return asyncio.run(go())


def newest(place: Place, tag: str | None, limit: int, *, running: bool, now: datetime) -> bool:
    """Print the newest flows as lines for people. -> whether all could be read"""

    async def gather() -> tuple[list[Flow], int, bool]:
        kept: list[tuple[datetime, str, Flow]] = []
        count, readable = 0, True
        async with aclosing(flows(place, tag)) as found:
            async for one in found:
                if isinstance(one, RecordUnreadable):
                    readable = False
                    complain(line_of(one))
                elif not (running and one.ended):
                    count += 1
                    heapq.heappush(kept, (one.created_at, one.id, one))
                    if len(kept) > limit:
                        heapq.heappop(kept)
        return [each for *_, each in sorted(kept, reverse=True)], count, readable

    listed, count, readable = asyncio.run(gather())
    if not listed:
        say("there is no such flow" if tag or running else "there are no flows")
    else:
        say(COLUMNS.format("ID", "STATE", "EXPECTS", "STARTED", "UNTIL"))
    for flow in listed:
        began = f"{flow.created_at.astimezone():%Y-%m-%d %H:%M:%S}"
        say(COLUMNS.format(flow.id, flow.state, flow.expects or "-", began, _until(flow, now)))
    if count > len(listed):
        say(f"and {count - len(listed)} older ones: --limit shows more, --json all")
    return readable


def _until(flow: Flow, now: datetime) -> str:
    if flow.failure:
        return flow.failure
    if flow.ended:
        return "done"
    return "its time is up" if flow.expires_at <= now else clock_time(flow.expires_at, now)
