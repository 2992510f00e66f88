"""`reset-flow chat`: a reset in lines, at a terminal and from a pipe."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from reset_flow.cli import demo
from reset_flow.cli.chat_demo import ChatDemo
from reset_flow.cli.demo import DemoFailed, Staging, play
from tests.cli.conftest import ANSWER, QUESTION

if TYPE_CHECKING:
    from pathlib import Path

    from reset_flow.sandbox import Sandbox
    from tests.cli.conftest import OpensTerminal, Run, Shell

PASSWORD = "violet-tractor-5"
AWAITED = "you\x1b[0m > "
HIDDEN = "(not shown)\x1b[0m > "


def test_a_reset_at_a_terminal_shows_nothing_secret(terminal: OpensTerminal, sandbox: Sandbox, user: str) -> None:
    with terminal("chat", "--lang", "en") as seat:
        seat.wait_for(AWAITED)
        seat.type(f"{user}\n")
        seat.wait_for(HIDDEN)
        assert QUESTION in seat.seen
        seat.type(f"{ANSWER}\n")
        seat.wait_for(HIDDEN)
        seat.type(f"{sandbox.newest_code(user)}\n")
        seat.wait_for(HIDDEN)
        seat.type(f"{PASSWORD}\n")
        seat.wait_for(AWAITED)
        assert "is set" in seat.seen
        seat.type("\x04")
        assert seat.status() == 0
    assert sandbox.password_of(user) == PASSWORD
    assert user in seat.seen
    for secret in (ANSWER, sandbox.newest_code(user), PASSWORD):
        assert secret not in seat.seen
    assert "could not delete" not in seat.seen
    assert "goes on" not in seat.seen


@pytest.mark.parametrize(("keys", "status"), [("\x04", 0), ("\x03", 130)], ids=["Ctrl-D", "Ctrl-C"])
def test_who_leaves_is_told_how_to_go_on_and_can(
    terminal: OpensTerminal, sandbox: Sandbox, user: str, keys: str, status: int
) -> None:
    with terminal("chat", "--lang", "en", "--conversation", "mine") as seat:
        seat.wait_for(AWAITED)
        seat.type(f"{user}\n")
        seat.wait_for(HIDDEN)
        seat.type(keys)
        assert seat.status() == status
    assert "\n\x1b[2m  This reset stays open: `reset-flow chat --conversation mine` goes on" in seat.seen
    with terminal("chat", "--lang", "en", "--conversation", "mine") as seat:
        seat.wait_for(HIDDEN)
        assert QUESTION in seat.seen
        seat.type(f"{ANSWER}\n")
        seat.wait_for(HIDDEN)
        assert "a code is on its way" in seat.seen
    assert sandbox.newest_code(user)


def test_a_process_that_was_killed_is_continued_by_another_one(
    terminal: OpensTerminal, sandbox: Sandbox, user: str
) -> None:
    with terminal("chat", "--lang", "en") as seat:
        seat.wait_for(AWAITED)
        seat.type(f"{user}\n")
        seat.wait_for(HIDDEN)
        seat.type(f"{ANSWER}\n")
        seat.wait_for(HIDDEN)
        seat.kill()
    with terminal("chat", "--lang", "en") as seat:
        seat.wait_for(HIDDEN)
        seat.type(f"{sandbox.newest_code(user)}\n")
        seat.wait_for(HIDDEN)
        assert "Choose a new password" in seat.seen


def test_news_come_while_a_line_is_awaited(terminal: OpensTerminal, user: str, run: Run) -> None:
    with terminal("chat", "--lang", "en", "--public-url", "https://example.com/reset/") as seat:
        seat.wait_for(AWAITED)
        seat.type(f"{user}\n")
        seat.wait_for(HIDDEN)
        seat.type(f"{ANSWER}\n")
        seat.wait_for(HIDDEN)
        flow_id = run("list", "--json").json["id"]
        run("cancel", flow_id)
        seat.wait_for(AWAITED)
        assert "cancelled" in seat.seen


LANGUAGES = {
    "de": ("Sie\x1b[0m > ", "(nicht zu sehen)\x1b[0m > ", "Strg-D", "jemanden aus dem Team rufen", "bleibt offen"),
    "es": ("usted\x1b[0m > ", "(no se muestra)\x1b[0m > ", "para salir", "alguien del equipo", "sigue abierto"),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_all_that_a_person_reads_at_a_terminal_is_in_their_language(
    terminal: OpensTerminal, user: str, language: str
) -> None:
    awaited, hidden, *said = LANGUAGES[language]
    with terminal("chat", "--lang", language, "--conversation", "mine") as seat:
        seat.wait_for(awaited)
        seat.type(f"{user}\n")
        seat.wait_for(hidden)
        seat.type("/human\n")
        seat.wait_for(hidden)
        seat.type("\x04")
        assert seat.status() == 0
    assert [words for words in said if words not in seat.seen] == []
    assert "`reset-flow chat --conversation mine`" in seat.seen
    assert not re.search("you|not shown|leaves|colleague|stays open", seat.seen)


def test_with_a_page_the_password_is_chosen_at_a_link(terminal: OpensTerminal, sandbox: Sandbox, user: str) -> None:
    with terminal("chat", "--lang", "en", "--public-url", "https://example.com/reset/") as seat:
        seat.wait_for(AWAITED)
        seat.type(f"{user}\n")
        seat.wait_for(HIDDEN)
        seat.type(f"{ANSWER}\n")
        seat.wait_for(HIDDEN)
        seat.type(f"{sandbox.newest_code(user)}\n")
        seat.wait_for(HIDDEN)
        assert re.search(r"https://example\.com/reset/link/\S+", seat.seen)
        assert re.search(r"opens once, until \d\d:\d\d:\d\d", seat.seen)
        seat.type(f"{PASSWORD}\n")
        seat.wait_for(HIDDEN)
        assert "Please don't send passwords here" in seat.seen
    assert sandbox.password_of(user) != PASSWORD


def test_from_a_pipe_each_line_is_a_message_and_the_person_is_told_that_it_stays(
    home: Path, sandbox: Sandbox, user: str
) -> None:
    told = subprocess.run(
        [sys.executable, "-W", "error", "-m", "reset_flow.cli", "chat", "--lang", "en"],
        input=f"{user}\n\n{ANSWER}\n".encode(), cwd=home, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    shown = told.stdout.decode()
    assert (told.returncode, told.stderr) == (0, b"")
    assert f"you > {user}" in shown
    assert "Please delete it yourself" in shown
    assert ANSWER not in shown
    assert "goes on" in shown
    assert sandbox.newest_code(user)


def test_a_line_that_is_no_text_is_not_sent(home: Path, user: str) -> None:
    told = subprocess.run(
        [sys.executable, "-W", "error", "-m", "reset_flow.cli", "chat", "--lang", "en"],
        input=f"{user}\n".encode() + b"K\xf6nigsallee\n", cwd=home, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert told.returncode == 0
    assert told.stderr == b"reset-flow: that line is no UTF-8, and was not sent\n"
    assert "delete" not in told.stdout.decode()


def test_settings_that_can_not_be_are_one_line(run: Run) -> None:
    run("chat", "--public-url", "example.com").refused(12, "public_url")
    run("chat", "--store", "memory:").refused(12, "sqlite:///")


def test_without_the_extra_it_says_what_to_install(home: Path) -> None:
    without = "import sys; sys.modules['babel'] = None; from reset_flow.cli import main; sys.exit(main(['chat']))"
    told = subprocess.run([sys.executable, "-c", without], cwd=home, capture_output=True, timeout=120, check=False)
    assert (told.returncode, told.stdout) == (12, b"")
    assert b"pip install 'reset-flow[web]', or 'reset-flow[chat]'" in told.stderr


# --- the demo


def test_the_demo_shows_a_reset_whose_process_is_killed(shell: Shell, tmp_path: Path) -> None:
    told = shell("demo", "--chat", env={**os.environ, "TMPDIR": str(tmp_path)}, stdin=subprocess.DEVNULL)
    assert (told.status, told.err) == (0, "")
    assert "return code -9" in told.out
    assert "1 e-mail, 1 code spent, 1 password change" in told.out
    assert "the new password works, the old one does not" in told.out
    assert "\x1b" not in told.out
    assert demo.ANSWER not in told.out
    assert max(map(len, told.out.splitlines())) <= 100
    assert [path.name for path in tmp_path.glob("reset-flow-*")] == []


def test_a_demo_whose_process_lives_is_noticed() -> None:
    with pytest.raises(DemoFailed, match="chat 1 was to be killed, and lives"):
        play(staging=Staging(kill=lambda _: None, patience=0.05), show=ChatDemo)


def test_a_demo_whose_process_says_something_else_is_noticed() -> None:
    hello = (sys.executable, "-c", "print('hello> ', end='', flush=True); input()")
    with pytest.raises(DemoFailed, match="chat 1 did not say 'What is your login'"):
        play(staging=Staging(chat=hello), show=ChatDemo)
    ends = (sys.executable, "-c", "import sys; sys.exit('no luck')")
    with pytest.raises(DemoFailed, match="chat 1 stopped in the middle: no luck"):
        play(staging=Staging(chat=ends), show=ChatDemo)


def test_a_demo_without_the_change_is_noticed() -> None:
    def kill(pid: int) -> None:
        os.kill(pid, signal.SIGTERM)

    with pytest.raises(DemoFailed, match="chat 1 ended with 0, not by signal 9"):
        play(staging=Staging(kill=kill), show=ChatDemo)
