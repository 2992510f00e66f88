"""`wait` and `sweep`: what goes on without a command, seen and done from the shell."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

import reset_flow

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import At, OpensTerminal, Run

DIES_IN_ITS_CALL = """
import asyncio, os, signal, sys
from datetime import UTC, datetime, timedelta
from reset_flow import EtnaTransport, Keyring, ResetService, SQLiteStore

class Doomed(EtnaTransport):
    async def exchange(self, case, code):
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    # An hour ago, so that its lease is over now.
    clock = lambda: datetime.now(UTC) - timedelta(hours=1)
    broker, store = Doomed(os.environ["RESET_FLOW_BROKER_URL"], "sandbox"), SQLiteStore("reset-flow.db", clock=clock)
    service = ResetService(broker, store, Keyring.from_file("reset-flow.keys"), clock=clock, sweep=False)
    await service.verify(sys.argv[1], "123456")

asyncio.run(main())
"""


ANNOUNCES = """
import os, sys
from reset_flow import SQLiteStore
from reset_flow.cli import main

changed = SQLiteStore.changed

async def announce(*given):
    os.write(2, b"it waits\\n")
    await changed(*given)

SQLiteStore.changed = announce
sys.exit(main())
"""
"""The command line, which says when it waits for a flow."""


@pytest.fixture
def announcing(home: Path) -> str:
    """Return the name of a module that can be run in place of the command line."""
    (home / "announcing.py").write_text(ANNOUNCES)
    return "announcing"


def started_hours_ago(user: str) -> str:
    """Start a flow whose time is long up."""

    async def start() -> str:
        async with reset_flow.from_env(clock=lambda: datetime.now(UTC) - timedelta(hours=3), sweep=False) as service:
            return (await service.start(user)).id

    return asyncio.run(start())


def test_wait_returns_when_another_process_ends_the_flow(run: Run, at: At, announcing: str) -> None:
    flow_id = at("question_answered")
    command = [sys.executable, "-m", announcing, "wait", flow_id, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr
            assert process.stderr.readline() == b"it waits\n"
            assert process.poll() is None
            assert run("cancel", flow_id).status == 0
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, b"")
    assert b'"failure": "cancelled"' in out
    assert run("wait", flow_id, "--json").out.encode() == out


def test_wait_says_by_its_status_that_the_flow_has_not_ended(run: Run, at: At) -> None:
    flow_id = at("question_answered")
    for timeout in ("0", "0.01"):
        done = run("wait", flow_id, "--timeout", timeout)
        assert (done.status, done.err) == (124, "")
        assert "it stands here" in done.out
    for timeout in ("-1", "1e12", "nan", "soon"):
        assert run("wait", flow_id, "--timeout", timeout).status == 2
    done = run("wait", at("password_set"), "--timeout", "0")
    assert (done.status, done.err) == (0, "")


def test_wait_ends_a_flow_whose_time_is_up(run: Run, user: str) -> None:
    assert run("wait", started_hours_ago(user), "--json").json["failure"] == "expired"


def test_wait_is_interrupted_in_one_line(at: At, terminal: OpensTerminal, announcing: str) -> None:
    with terminal("wait", at("requested"), module=announcing) as screen:
        screen.wait_for("it waits")
        screen.type("\x03")
        assert screen.status() == 130
        assert "reset-flow: interrupted, and nothing is lost" in screen.seen
        assert "Traceback" not in screen.seen


def test_sweep_does_what_is_due_and_prints_it(run: Run, user: str) -> None:
    ended = [started_hours_ago(user), started_hours_ago(user)]
    running = run("start", user, "--json").json["id"]
    assert run("show", ended[0], "--json").json["failure"] is None
    assert run("sweep", "--json").json == {
        "settled": 0, "expired": 2, "delivered": 0, "purged": 0, "unreadable": 0, "held_back": False,
    }  # fmt: skip
    for flow_id in ended:
        assert run("show", flow_id, "--json").json["failure"] == "expired"
    assert run("show", running, "--json").json["failure"] is None
    done = run("sweep")
    assert (done.status, done.err) == (0, "")
    assert "flows ended, their time being up: 0\n" in done.out


def test_sweep_settles_the_call_of_a_worker_that_was_killed(run: Run, at: At) -> None:
    flow_id = at("question_answered")
    killed = subprocess.run([sys.executable, "-c", DIES_IN_ITS_CALL, flow_id], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert run("sweep", "--json").json["settled"] == 1
    assert run("show", flow_id, "--json").json["in_doubt"] == "code"  # it was sent again, and refused
    assert run("sweep", "--json").json["settled"] == 0


def test_sweep_says_what_it_can_not_read(run: Run, user: str, home: Path) -> None:
    harmed = started_hours_ago(user)
    with closing(sqlite3.connect(home / "reset-flow.db")) as database:
        database.execute("UPDATE flows SET due_at = due_at + 1 WHERE id = ?", (harmed,))
        database.commit()
    done = run("sweep")
    assert done.status == 53
    assert "records that can't be read, and are left as they are: 1; `reset-flow list` names them" in done.err
