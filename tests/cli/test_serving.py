"""`reset-flow serve`: where it listens, and one line for whatever can't be."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from reset_flow import Keyring, MemoryStore, ResetService, from_env
from reset_flow.integrations.webhooks import verify
from reset_flow.testing.transport import ScriptedTransport
from reset_flow.web import create_app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Run

SECRET = "hunter2-violet"
WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="
PATIENCE = 120


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """Run it as a process, give what it says, and have it end well."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "reset_flow.cli", "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, logged = process.communicate(timeout=PATIENCE)
        assert (process.returncode, "Traceback" in logged) == (0, False), logged
    finally:
        process.kill()


def alive(address: str) -> bool:
    with urlopen(f"{address}healthz", timeout=PATIENCE) as reply:  # noqa: S310 - on this machine
        return bool(json.load(reply) == {"status": "ok"})


def test_it_says_where_it_serves_on_a_free_port_until_it_is_asked_to_end(home: Path) -> None:
    with serving() as said:
        assert (found := re.fullmatch(r"serving (http://127\.0\.0\.1:\d+/)\n", said))
        assert alive(found[1])
    assert (home / "reset-flow.db").exists()


def test_it_listens_on_ipv6_and_under_a_path(home: Path) -> None:
    (home / "look.toml").write_text('name = "Bank"\nlogo = "logo.svg"\n')
    (home / "logo.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    with serving("--host", "::1", "--look", "look.toml", "--trusted-proxy", "::1") as said:
        assert (found := re.fullmatch(r"serving (http://\[::1\]:\d+/)\n", said))
        assert alive(found[1])
    with serving("--public-url", "https://example.com/reset") as said:
        assert said == "serving https://example.com/reset/\n"


@contextmanager
def receiving() -> Iterator[tuple[str, Queue[tuple[dict[str, str], bytes]]]]:
    """Receive webhooks; give the address, and what comes."""
    came = Queue[tuple[dict[str, str], bytes]]()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.put((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", came
        server.shutdown()
        thread.join()


def test_it_tells_the_receiver_of_the_environment_how_resets_end_also_those_of_others(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def end() -> str:
        async with from_env(listeners={"webhook": None}) as service:
            flow = await service.start("robert.zak")
            return (await service.cancel(flow.id)).id

    (home / "secret").write_text(f"{WEBHOOK_SECRET}\n")
    (home / "secret").chmod(0o600)
    with receiving() as (url, came):
        monkeypatch.setenv("RESET_FLOW_WEBHOOK_URL", url)
        monkeypatch.setenv("RESET_FLOW_WEBHOOK_SECRET_FILE", str(home / "secret"))
        monkeypatch.setenv("RESET_FLOW_WEBHOOK_ALLOW_PRIVATE", "10.0.0.0/8, 127.0.0.0/8")
        with serving():
            ended = asyncio.run(end())
            event = verify(*came.get(timeout=PATIENCE), WEBHOOK_SECRET)
    assert (event.flow_id, event.state) == (ended, "failed")


def test_a_receiver_that_can_be_none_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESET_FLOW_WEBHOOK_URL", f"https://me:{SECRET}@crm.example/")
    run("serve").refused(12, "RESET_FLOW_WEBHOOK_SECRET is not set")
    monkeypatch.setenv("RESET_FLOW_WEBHOOK_SECRET", SECRET)
    for refused in (run("serve"), run("serve")):
        refused.refused(12, "RESET_FLOW_WEBHOOK", "no credentials")
        assert SECRET not in refused.err
        monkeypatch.setenv("RESET_FLOW_WEBHOOK_SECRET", f"{WEBHOOK_SECRET} {WEBHOOK_SECRET}")
    monkeypatch.setenv("RESET_FLOW_WEBHOOK_URL", "https://crm.example/")
    monkeypatch.setenv("RESET_FLOW_WEBHOOK_PROXY", f"socks5://me:{SECRET}@proxy.example")
    refused = run("serve")
    refused.refused(12, "RESET_FLOW_WEBHOOK", "proxy must be like http://host:3128")
    assert SECRET not in refused.err
    monkeypatch.delenv("RESET_FLOW_WEBHOOK_PROXY")
    monkeypatch.setenv("RESET_FLOW_WEBHOOK_URL", "https://10.1.2.3/")
    run("serve").refused(12, "RESET_FLOW_WEBHOOK", "allow_private")


def test_an_address_that_can_not_be_listened_on_is_one_line(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run("serve", "--port", str(taken.getsockname()[1])).refused(12, "port", "in use")
    elsewhere = ("--public-url", "https://example.com/", "--host")
    run("serve", *elsewhere, "192.0.2.1").refused(12, "host", "Cannot assign")
    refused = run("serve", *elsewhere, SECRET)
    refused.refused(12, "there is no such host")
    assert SECRET not in refused.err


@pytest.mark.parametrize(
    "address",
    [
        "example.com",
        "ftp://example.com/",
        f"https://me:{SECRET}@example.com/",
        "https://example.com:99999/",
        "http://[x/",
    ],
)
def test_a_public_url_that_can_be_none_is_one_line(run: Run, address: str) -> None:
    refused = run("serve", "--port", "0", "--public-url", address)
    refused.refused(12, "public_url")
    assert SECRET not in refused.err


def test_people_elsewhere_are_served_by_https_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("serve", "--host", "0.0.0.0").refused(12, "public_url", "by which address")  # noqa: S104 - it is refused
    monkeypatch.setenv("RESET_FLOW_PUBLIC_URL", "http://example.com/")
    run("serve", "--port", "0").refused(12, "public_url", "https")


def test_a_proxy_that_can_be_none_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("serve", "--trusted-proxy", "example.com").refused(12, "trusted_proxies", "10.0.0.0/8")
    monkeypatch.setenv("RESET_FLOW_TRUSTED_PROXIES", "127.0.0.1,10.0.0.0/99")
    run("serve").refused(12, "trusted_proxies")


@pytest.mark.parametrize(
    ("look", "said"),
    [
        ("= 1", "line 1"),
        ("\xff", "decode"),
        ('colour = "#fff"', "there is no colour, there are name, logo, accent"),
        ("name = 3", "name must be text"),
        ("texts = 3", "a table for each language"),
        ("texts = {de = 3}", "a table for each language"),
        ("languages = 3", "languages must be a tuple"),
        ('languages = ["xx"]', "languages must be some of en, de, es"),
        ('logo = "none.svg"', "logo must be"),
        ('finish_url = "javascript:1"', "finish_url must be"),
    ],
)  # fmt: skip
def test_a_look_that_can_be_none_is_one_line(run: Run, home: Path, look: str, said: str) -> None:
    (home / "look.toml").write_text(look, encoding="latin-1")
    run("serve", "--look", "look.toml").refused(12, "look.toml", said)


def test_a_look_that_is_not_there_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("serve", "--look", "none.toml").refused(12, "none.toml", "No such file")
    monkeypatch.setenv("RESET_FLOW_LOOK", ".")
    run("serve").refused(12, "Is a directory")


def test_settings_of_store_and_broker_are_those_of_every_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("serve", "--store", "memory:").refused(12, "sqlite:///")
    monkeypatch.delenv("RESET_FLOW_BROKER_URL")
    run("serve").refused(12, "RESET_FLOW_BROKER_URL")


@pytest.mark.parametrize("missing", ["jinja2", "babel"])
def test_without_the_extra_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    service = ResetService(ScriptedTransport(), MemoryStore(), Keyring.generate())
    create_app(service, public_url="http://127.0.0.1/")  # what was loaded once must not hide that it is missing
    monkeypatch.setitem(sys.modules, missing, None)
    run("serve", "--port", "0").refused(12, "pip install 'reset-flow[web]'")


def test_its_help_names_the_settings_that_its_options_stand_for(run: Run) -> None:
    shown = run("serve", "--help")
    assert shown.status == 0
    for option in ("--host", "--port", "--public-url", "--trusted-proxy", "--look", "RESET_FLOW_PUBLIC_URL"):
        assert option in shown.out
