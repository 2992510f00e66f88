"""The demo shows what happened; and where it did not happen, it says so and fails."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from base64 import b64encode
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reset_flow.cli import demo, disk_inspection, exits, main
from reset_flow.cli.demo import DemoFailed, Staging, play
from reset_flow.cli.processes import SANDBOX, WORKER
from tests.cli.killed_demo import gone, kill_demo, processes_of

if TYPE_CHECKING:
    from tests.cli.conftest import Run, Shell

pytestmark = pytest.mark.usefixtures("temporary")

COMMAND = [sys.executable, "-W", "error", "-m", "reset_flow.cli", "demo"]
STEPS = ["broker", "worker 1", "start", "answer", "code", "kill -9", "worker 2", "found", "password", "log in"]


def failing(**staging: Any) -> str:
    with pytest.raises(DemoFailed) as failed:
        play(staging=Staging(**staging))
    return str(failed.value)


def test_it_tells_the_whole_story_and_leaves_nothing_behind(shell: Shell, temporary: Path) -> None:
    told = shell("demo", stdin=subprocess.DEVNULL)
    assert (told.status, told.err) == (0, "")
    assert re.findall(r"^ .  +[\d.]+ s  (.{10})", told.out, re.MULTILINE) == [f"{step:<10}" for step in STEPS]
    assert "return code -9" in told.out
    states = ["requested", "question_answered", "token_issued", "token_issued", "password_set"]
    assert re.findall(r"^ ● .* (\w+)$", told.out, re.MULTILINE) == states
    assert re.findall(r"on disk +state (\w+), version (\d+)", told.out) == [
        ("requested", "1"),
        ("question_answered", "3"),
        ("token_issued", "5"),
        ("token_issued", "5"),
        ("password_set", "7"),
    ]
    assert "1 e-mail, 1 code spent, 1 password change" in told.out
    assert "nothing lost, nothing doubled, nothing leaked" in told.out
    assert all(len(line) <= 100 for line in told.out.splitlines())
    assert not list(temporary.iterdir())
    assert all(gone(pid) for pid in processes_of(told.out))
    assert len(processes_of(told.out)) == 3


def test_kept_files_hold_the_flow_and_can_be_listed(run: Run, home: Path) -> None:
    told = run("demo", "--keep", "kept")
    assert told.status == 0, told.err
    assert "The files are in kept." in told.out
    listed = run("list", "--store", "sqlite:///kept/flows.db", "--keys", "kept/flows.keys", "--json")
    assert listed.json["state"] == "password_set"
    with closing(sqlite3.connect(home / "kept" / "flows.db")) as database:
        assert database.execute("SELECT count(*) FROM flows WHERE realm = 'default'").fetchone() == (1,)
    run("demo", "--keep", "kept").refused(6, "choose another folder")


def as_at_a_terminal() -> None:
    """Who runs in the background is told to ignore an interrupt."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "status", "words"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 6, "ended by SIGTERM")]
)
def test_whoever_ends_it_early_finds_nothing_left(
    temporary: Path, number: signal.Signals, status: int, words: str
) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        COMMAND,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        preexec_fn=as_at_a_terminal,  # noqa: PLW1509 - no other thread is there yet
    ) as process:
        try:
            assert process.stdout is not None
            seen = ""
            while "worker 1" not in seen:
                line = process.stdout.readline().decode()
                assert line, seen
                seen += line
            process.send_signal(number)
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == status
    assert words in err.decode()
    assert err.count(b"\n") == 1
    assert not list(temporary.iterdir())
    assert [gone(pid) for pid in processes_of(seen)] == [True, True]


@pytest.mark.parametrize(("options", "at"), [([], "on disk"), (["--chat"], "What street")])
def test_it_leaves_no_process_behind_if_it_is_killed(options: list[str], at: str) -> None:
    assert len(kill_demo(*options, at=at)) >= 2


# --- and it can fail


def test_a_store_that_can_be_read_is_noticed(temporary: Path) -> None:
    leaky = (sys.executable, str(Path(__file__).parent / "leaky_worker.py"))
    assert failing(worker=leaky) == "flows.db can be read: it holds the login"
    assert not list(temporary.iterdir())


def test_a_worker_that_lives_is_noticed() -> None:
    assert failing(kill=lambda _: None, patience=0.05) == "worker 1 was to be killed, and lives"


def test_a_worker_that_ends_in_another_way_is_noticed() -> None:
    assert failing(kill=lambda pid: os.kill(pid, signal.SIGTERM)) == "worker 1 ended with -15, not by signal 9"


def test_a_search_that_finds_nothing_at_all_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_inspection, "find_words", lambda _, __: [])
    assert failing() == "the search does not find a word that is there: it proves nothing"


def test_a_second_email_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    def kill(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        url = re.search(r"http://\S+/api", capsys.readouterr().out)
        assert url
        body = json.dumps({"User": demo.USER, "SecretQuestionAnswer": demo.ANSWER}).encode()
        headers = {"Et-App-Key": "sandbox", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{url[0]}/v1.0/users/password/reset", body, headers)  # noqa: S310 - loopback
        with urllib.request.urlopen(request) as reply:  # noqa: S310 - loopback
            assert reply.status == 200

    assert failing(kill=kill) == "the broker counts 2 times 'e-mail', not 1"


def test_processes_that_do_not_start_are_noticed(temporary: Path) -> None:
    ends = (sys.executable, "-c", "import sys; sys.exit('no luck')")
    assert failing(sandbox=ends) == "the sandbox ended by itself: no luck"
    assert failing(worker=ends) == "worker 1 ended by itself: no luck"
    mute = (sys.executable, "-c", "print('hello', flush=True); input()")
    assert failing(sandbox=mute) == "the sandbox did not say where it listens"
    assert not list(temporary.iterdir())


def test_a_lost_flow_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    read_row = disk_inspection.read_row
    looks: list[None] = []

    def forgetful(database: Path, flow_id: str) -> disk_inspection.Row | None:
        looks.append(None)
        return read_row(database, flow_id) if len(looks) < 4 else None

    monkeypatch.setattr(disk_inspection, "read_row", forgetful)
    assert failing() == "the store lost the flow with its worker"


def test_a_failure_is_one_line_and_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("reset_flow.cli.app.play", lambda _: play(staging=Staging(kill=lambda _: None, patience=0.05)))
    assert main(["demo"]) == exits.DEMO_FAILED
    assert capsys.readouterr().err == "reset-flow: the demo failed: worker 1 was to be killed, and lives\n"


# --- its parts


def test_nothing_secret_is_in_the_arguments_of_its_processes() -> None:
    for command in (WORKER, SANDBOX):
        assert not set(command) & {demo.APP_KEY, demo.USER, demo.ANSWER}


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-16-le", "utf-16-be", "hex", "HEX", "base64", "base64 1", "base64 2"]
)
def test_the_search_finds_a_word_in_each_form(tmp_path: Path, encoding: str) -> None:
    word, database = "Königsallee 7", tmp_path / "x.db"
    if encoding.lower() == "hex":
        written = word.encode().hex()
        content = (written if encoding == "hex" else written.upper()).encode()
    elif encoding.startswith("base64"):
        before = b"\xff" * int(encoding.removeprefix("base64") or 0)
        content = b64encode(before + word.encode() + b"\xff")
    else:
        content = word.encode(encoding)
    database.write_bytes(b"\0\0\0")
    (tmp_path / "x.db-wal").write_bytes(b"\xff\0 1" + content + b"2")
    assert disk_inspection.find_words(database, {"a": "Peterson", "b": word}) == ["b"]


def test_a_code_is_no_part_of_a_longer_number(tmp_path: Path) -> None:
    database = tmp_path / "x.db"
    database.write_bytes(b"at 1740830231408 o'clock")
    assert disk_inspection.find_words(database, {"code": "231408"}) == []
    database.write_bytes(b"code\x00231408\x01")
    assert disk_inspection.find_words(database, {"code": "231408"}) == ["code"]


def test_the_worker_takes_no_other_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from reset_flow.cli import demo_worker  # noqa: PLC0415 - a program, not a library

    settings = {
        "BROKER_URL": "http://127.0.0.1:1/api",
        "APP_KEY": "k",
        "STORE": f"sqlite:///{tmp_path}/x.db",
        "KEYS": f"{tmp_path}/x.keys",
    }
    orders = [{"command": "aclose", "arguments": []}, {"command": "get", "arguments": ["x"]}]
    assert demo_worker.main(json.dumps(each).encode() for each in (settings, *orders)) == 0
    replies = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [reply["error"] for reply in replies] == ["no_such_command", "flow_not_found"]
