"""The served document is valid, has every route, and says what the API does: schemathesis finds out."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import attrs
import pytest
from aiohttp import web
from openapi_spec_validator import validate

from reset_flow import Budget, EtnaTransport, Keyring, MemoryStore, Policy, ResetService
from reset_flow.domain.state_machine import COMMANDS
from reset_flow.sandbox import Sandbox
from reset_flow.web import Limits, create_app

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
BASE = "/reset/"
OFTEN = Budget(10**6, timedelta(hours=1))
POLICY = Policy(
    starts_per_user=OFTEN, starts_per_origin=OFTEN, codes_per_user=OFTEN, answers_per_user=OFTEN, guess_alarm=None,
    resend_cooldown=timedelta(0), resends=100,
)  # fmt: skip


@attrs.frozen
class Served:
    """The API in a thread, and its broker."""

    url: str
    sandbox: Sandbox
    routes: set[tuple[str, str]]

    @property
    def document(self) -> Any:
        with urlopen(f"{self.url}/api/openapi.json") as reply:  # noqa: S310 - on this machine
            return json.load(reply)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    ready, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    found: list[Served] = []

    async def serve() -> None:
        async with (
            Sandbox() as sandbox,
            ResetService(
                EtnaTransport(sandbox.api_url, "sandbox"), MemoryStore(), Keyring.generate(), policy=POLICY
            ) as service,
        ):
            limits = Limits(requests=OFTEN, starts=OFTEN)
            page, app = create_app(service, public_url=f"http://127.0.0.1{BASE}", limits=limits), web.Application()
            routes = {(each.method, each.resource.canonical) for each in page.router.routes() if each.resource}
            app.add_subapp(BASE, page)
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            found.append(Served(f"http://127.0.0.1:{runner.addresses[0][1]}/reset", sandbox, routes))
            loops.append(asyncio.get_running_loop())
            ready.set()
            await stop.wait()
            await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(60)
        yield found[0]
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join()


def test_the_document_is_valid_and_names_where_it_is_served(served: Served) -> None:
    document = served.document
    validate(document)
    assert document["openapi"] == "3.1.0"
    assert document["servers"] == [{"url": "/reset"}]
    assert document["components"]["securitySchemes"]["browser"]["name"] == "reset"  # the page's cookie


def test_each_route_for_programs_is_in_the_document_and_no_other(served: Served) -> None:
    documented = {
        (method.upper(), path) for path, item in served.document["paths"].items() for method in item if method != "head"
    }
    own = re.compile(r"/api/(?!openapi\.json$)|/(healthz|readyz)$")
    assert documented == {(method, path) for method, path in served.routes if own.match(path) and method != "HEAD"}


def test_each_command_of_a_flow_is_an_operation(served: Served) -> None:
    operations = {each["operationId"] for item in served.document["paths"].values() for each in item.values()}
    assert operations == {"start", "get", "healthz", "readyz"} | set(COMMANDS) - {"adopt"}


def test_schemathesis_finds_nothing_and_whole_resets_come_of_the_links(served: Served) -> None:
    environment = {**os.environ, "SANDBOX": served.sandbox.url, "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"),
            "run", "--no-color", f"{served.url}/api/openapi.json",
        ],
        env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Stateful .*\n\n.*\n +API Links: +[1-9]", done.stdout), done.stdout
    for route in ("challenge", "request", "exchange", "update"):
        assert served.sandbox.calls_of(route), f"no request came to {route}:\n{done.stdout}"
    assert served.sandbox.password_of("robert.zak") == "violet tractor sings at 5 am"
