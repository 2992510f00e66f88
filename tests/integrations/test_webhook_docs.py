"""docs/webhooks.md says what is so: its receiver is run, and gets what its sender sends."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django.conf
import fastapi
import flask
import pytest
from aiohttp import ClientSession, web
from django.test import RequestFactory

from reset_flow.integrations.webhooks import verify
from tests.integrations.receiver import OTHER_SECRET, SECRET, Delivery, Office, Receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
TICKET = "ticket-0"


def block(mark: str, language: str) -> str:
    found = re.search(rf"<!-- {mark} -->\n```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"there is no {mark}"
    return found[1]


class Shop:
    """The receiver of the document, and what it did."""

    def __init__(self, path: Path, url: str) -> None:
        self.path = path
        self.url = url

    def ticket(self) -> tuple[int, str | None]:
        """Return how often it was closed, and how."""
        with closing(sqlite3.connect(self.path)) as database:
            closed, how = database.execute("SELECT closed, how FROM tickets WHERE ref = ?", (TICKET,)).fetchone()
            return closed, how

    async def post(self, delivery: Delivery, body: bytes | None = None, **headers: str) -> int:
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        sent = {name: delivery.headers[name] for name in names}
        sent |= {f"webhook-{name}": value for name, value in headers.items()}
        async with (
            ClientSession() as session,
            session.post(self.url, data=delivery.body if body is None else body, headers=sent) as reply,
        ):
            return reply.status


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with opened(tmp_path / "shop.db") as shop:
        yield shop


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Shop]:
    names: dict[str, Any] = {"__name__": "receiver"}
    exec(compile(block("receiver", "python"), "receiver.py", "exec"), names)  # noqa: S102 - it is ours
    app: web.Application = names["make_receiver"](str(path), SECRET)
    with closing(app[names["DATABASE"]]) as database:
        database.execute("INSERT OR IGNORE INTO tickets (ref) VALUES (?)", (TICKET,))
        database.commit()
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield Shop(path, f"http://127.0.0.1:{runner.addresses[0][1]}/hooks/reset")
        finally:
            await runner.cleanup()


def now() -> datetime:
    return datetime.now(UTC)


async def delivered(folder: Path, age: timedelta = timedelta(0), secret: str = SECRET) -> Delivery:
    """Return what is sent of a reset that was just given up."""
    async with Receiver() as receiver, Office(folder) as office:
        await office.ended(await office.hook(receiver.url, secret, clock=lambda: now() - age))
        (got,) = receiver.got
        return got


async def test_the_receiver_takes_what_the_service_sends_and_acts_once(shop: Shop, tmp_path: Path) -> None:
    async with Office(tmp_path) as office:
        hook = await office.hook(shop.url, clock=now)
        await office.ended(hook)
        assert shop.ticket() == (1, "cancelled")
        office.later()
        assert await office.tells(hook) == 0


def call(framework: str) -> str:
    """Return how a handler of this framework calls `verify`."""
    found = re.search(rf"^\| {framework}.*? \| `(.+?)`", PAGE, re.MULTILINE)
    assert found, f"there is no {framework}"
    return found[1]


def called(framework: str) -> Any:
    """Return a handler that does so, and returns the id of the event."""
    names: dict[str, Any] = {"verify": verify, "SECRET": SECRET}
    kind = "async def" if "await" in call(framework) else "def"
    exec(f"{kind} handler(request):\n    return {call(framework)}.id", names)  # noqa: S102 - it is ours
    return names["handler"]


async def test_other_frameworks_give_what_verify_takes(tmp_path: Path) -> None:
    delivery = await delivered(tmp_path)
    headers = {name: value for name, value in delivery.headers.items() if name.lower().startswith("webhook-")}
    path, body, kind = "/hooks/reset", delivery.body, "application/json"

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    scope = {"type": "http", "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()]}
    assert await called("FastAPI")(fastapi.Request(scope, receive)) == delivery.id

    if not django.conf.settings.configured:
        django.conf.settings.configure()
    extra: Any = {"headers": headers}
    request = RequestFactory().post(path, body, content_type=kind, **extra)
    assert called("Django")(request) == delivery.id

    shop = flask.Flask("shop")
    with shop.test_request_context(path, method="POST", data=body, headers=headers, content_type=kind):
        assert called("Flask")(flask.request) == delivery.id


async def test_repeats_are_acknowledged_and_acted_on_once(shop: Shop, tmp_path: Path) -> None:
    delivery = await delivered(tmp_path)
    assert await asyncio.gather(*(shop.post(delivery) for _ in range(8))) == 8 * [204]
    async with opened(shop.path) as again:  # its process has ended, its memory has not
        assert await again.post(delivery) == 204
    assert shop.ticket() == (1, "cancelled")


@pytest.mark.parametrize("age", [timedelta(minutes=6), -timedelta(minutes=6)])
async def test_late_deliveries_are_refused(shop: Shop, tmp_path: Path, age: timedelta) -> None:
    assert await shop.post(await delivered(tmp_path, age)) == 400
    assert shop.ticket() == (0, None)


async def test_forged_deliveries_are_refused(shop: Shop, tmp_path: Path) -> None:
    true, forged = tmp_path / "true", tmp_path / "forged"
    true.mkdir()
    forged.mkdir()
    delivery = await delivered(true)
    assert await shop.post(await delivered(forged, secret=OTHER_SECRET)) == 400
    assert await shop.post(delivery, delivery.body.replace(b"cancelled", b"expired")) == 400
    assert await shop.post(delivery, id="another") == 400
    assert await shop.post(delivery, timestamp=str(int(now().timestamp()) + 9)) == 400
    assert await shop.post(delivery, signature="v1,AAAA") == 400
    assert shop.ticket() == (0, None)
    assert await shop.post(delivery) == 204
    assert shop.ticket() == (1, "cancelled")


async def test_a_receiver_that_could_not_act_is_told_again(shop: Shop, tmp_path: Path) -> None:
    async with Office(tmp_path) as office:
        hook = await office.hook(shop.url, clock=now)
        with closing(sqlite3.connect(shop.path)) as database:
            database.execute("ALTER TABLE tickets RENAME TO away")
            await office.ended(hook)
            database.execute("ALTER TABLE away RENAME TO tickets")
        assert shop.ticket() == (0, None)
        office.later()
        assert await office.tells(hook) == 1
        assert shop.ticket() == (1, "cancelled")


async def test_the_body_of_the_document_has_the_fields_of_a_delivery(tmp_path: Path) -> None:
    shown, sent = json.loads(block("body", "json")), json.loads((await delivered(tmp_path)).body)
    assert list(shown) == list(sent)
    assert list(shown["data"]) == list(sent["data"])


def test_the_receiver_is_short() -> None:
    assert len([line for line in block("receiver", "python").splitlines() if line.strip()]) <= 40
