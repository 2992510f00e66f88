"""The demo with an engine shows what happened; and where it did not happen, it says so and fails."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from reset_flow.cli import disk_inspection, engine_demo, restate_server
from reset_flow.cli.demo import DemoFailed, Staging, play
from reset_flow.cli.engine_demo import DBOSDemo, RestateDemo
from tests.cli.killed_demo import gone, kill_demo, processes_of
from tests.conftest import without
from tests.integrations.orchestrator import require_sqlite

if TYPE_CHECKING:
    from reset_flow.cli.engine_demo import EngineDemo
    from tests.cli.conftest import Run, Shell

pytestmark = pytest.mark.usefixtures("temporary")

LEAKY = (sys.executable, str(Path(__file__).parent / "leaky_engine_worker.py"))


def states(out: str) -> list[str]:
    return re.findall(r"^ ● .* (\w+)$", out, re.MULTILINE)


def events(out: str) -> list[str]:
    return [event.strip() for event in re.findall(r"^ .  +[\d.]+ s  (.{10})", out, re.MULTILINE)]


def tells_the_whole_story(shell: Shell, temporary: Path, engine: str, expected: list[str]) -> str:
    """Play it, and return what it told."""
    told = shell("demo", "--engine", engine, stdin=subprocess.DEVNULL)
    assert (told.status, told.err) == (0, "")
    assert events(told.out) == expected
    assert states(told.out) == ["requested", "question_answered", "token_issued", "password_set"]
    assert told.out.count("return code -9") == 2
    assert "1 e-mail, 1 code spent, 1 password change" in told.out
    assert "1 reset, and employee-17 was welcomed once" in told.out
    assert "nothing lost, nothing doubled, nothing leaked" in told.out
    assert all(len(line) <= 100 for line in told.out.splitlines())
    assert all(gone(pid) for pid in processes_of(told.out))
    assert not list(temporary.iterdir())
    return told.out


def test_with_dbos_it_tells_the_whole_story_and_leaves_nothing_behind(shell: Shell, temporary: Path) -> None:
    require_sqlite()
    expected = [
        "broker", "worker 1", "page", "onboard", "answer", "kill -9", "code", "worker 2", "kill -9", "password",
        "log in", "worker 3", "onboard",
    ]  # fmt: skip
    out = tells_the_whole_story(shell, temporary, "dbos", expected)
    assert out.count("onboarding-17 of employee-17 waits in DBOS (pending)") == 2


@pytest.fixture
def restate() -> None:
    """It is installed, or the test is skipped or fails."""
    try:
        restate_server.find_restate()
    except DemoFailed as error:
        without(str(error))


@pytest.mark.engine
@pytest.mark.usefixtures("restate")
def test_with_restate_it_tells_the_whole_story_and_leaves_nothing_behind(shell: Shell, temporary: Path) -> None:
    expected = [
        "broker", "restate 1", "worker 1", "page", "onboard", "answer", "kill -9", "code", "restate 2", "kill -9",
        "password", "log in", "worker 2", "onboard",
    ]  # fmt: skip
    out = tells_the_whole_story(shell, temporary, "restate", expected)
    assert out.count("onboarding-17 of employee-17 waits in Restate") == 2


@pytest.mark.engine
@pytest.mark.usefixtures("restate")
def test_a_restate_that_answers_no_query_for_a_moment_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    post, asked = aiohttp.ClientSession.post, list[str]()

    def falter(session: aiohttp.ClientSession, url: str, **options: Any) -> Any:
        if url == "/query":
            asked.append(options["json"]["query"])
            if asked.count(asked[-1]) % 2:
                options["json"] = {"query": "SELECT nothing"}
        return post(session, url, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "post", falter)
    play(show=RestateDemo)
    assert len(set(asked)) == 3


def test_it_is_refused_where_something_is_missing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("demo", "--engine", "dbos", "--chat").refused(11, "choose one")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(restate_server, "INSTALLED", tmp_path)
    run("demo", "--engine", "restate").refused(6, "npm install")


def test_without_the_extra_it_says_what_to_install(home: Path) -> None:
    without = (
        "import sys; sys.modules['dbos'] = None\n"
        "from reset_flow.cli import main\n"
        "sys.exit(main(['demo', '--engine', 'dbos']))"
    )
    told = subprocess.run([sys.executable, "-c", without], cwd=home, capture_output=True, timeout=120, check=False)
    assert (told.returncode, told.stdout) == (12, b"")
    assert b"pip install 'reset-flow[dbos]'" in told.stderr


# --- and it can fail


def failing(show: type[EngineDemo] = DBOSDemo, **staging: Any) -> str:
    if show is DBOSDemo:
        require_sqlite()
    with pytest.raises(DemoFailed) as failed:
        play(staging=Staging(**staging), show=show)
    return str(failed.value)


def test_an_sqlite_that_dbos_can_not_use_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_demo, "OLDEST_SQLITE", (99, 0))
    with pytest.raises(DemoFailed, match=r"DBOS needs SQLite 99\.0 .*: try --engine restate$"):
        play(show=DBOSDemo)


def test_a_worker_that_lives_is_noticed(temporary: Path) -> None:
    assert failing(kill=lambda _: None, patience=0.05) == "worker 1 was to be killed, and lives"
    assert not list(temporary.iterdir())


def test_a_login_in_a_file_is_noticed(temporary: Path) -> None:
    assert failing(engine_worker=LEAKY) == "the files can be read: they hold the login"
    assert not list(temporary.iterdir())


def test_a_search_that_does_not_read_what_the_engine_keeps_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_inspection, "find_words", lambda _, __: [])
    assert failing() == "the search does not find the ids that DBOS keeps: it proves nothing"


def test_workers_that_do_not_start_are_noticed() -> None:
    assert failing(engine_worker=(sys.executable, "-c", "import sys; sys.exit('no luck')")).endswith("no luck")


@pytest.mark.engine
def test_somebody_who_is_welcomed_twice_is_noticed(temporary: Path) -> None:
    killed: list[int] = []

    def kill(pid: int) -> None:
        killed.append(pid)
        os.kill(pid, signal.SIGKILL)
        if len(killed) == 2:
            (folder,) = temporary.iterdir()
            (folder / "welcomed.txt").write_text("employee-17\n")

    assert failing(kill=kill) == "there are 1 resets and 2 welcomes, not 1 and 1"


def test_with_dbos_it_leaves_no_process_behind_if_it_is_killed() -> None:
    require_sqlite()
    assert len(kill_demo("--engine", "dbos", at="page")) >= 3


@pytest.mark.engine
@pytest.mark.usefixtures("restate")
def test_with_restate_it_leaves_no_process_behind_if_it_is_killed() -> None:
    assert len(kill_demo("--engine", "restate", at="page")) >= 4
