"""The commands that only look, and those beside flows."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from io import BytesIO, StringIO, TextIOWrapper
from typing import TYPE_CHECKING, Any

import attrs
from msgspec import structs
from rich.console import Console

from reset_flow.cli import show
from reset_flow.cli.screen import clock_time
from reset_flow.domain.flow import Credential, Failure, Flow, State, Step, Transition
from reset_flow.domain.state_machine import mermaid
from reset_flow.persistence.keyring import Keyring

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.cli.conftest import At, Run, Shell

NOW = datetime.now(UTC)


def drawn(flow: Flow, file: Any = None, *, terminal: bool = False) -> str:
    file = file or StringIO()
    console = Console(file=file, markup=False, highlight=False, soft_wrap=True, force_terminal=terminal)
    show.draw(flow, console, NOW)
    file.seek(0)
    text: str = file.read()
    return text


def flow(state: State, *triggers: tuple[str, State], **changes: Any) -> Flow:
    history, source = [], State.REQUESTED
    for trigger, target in triggers:
        history.append(Transition(trigger=trigger, source=source, target=target, at=NOW))
        source = target
    made = Flow(
        id="x" * 22, user="u", credential=Credential.PASSWORD, state=state, expects=Step.CODE,
        allowed=("cancel", "resend", "verify"), question=None, attempts_left=5, in_doubt=None, failure=None,
        created_at=NOW, expires_at=NOW + timedelta(minutes=30), resend_at=None, history=tuple(history), version=3,
    )  # fmt: skip
    return attrs.evolve(made, **changes)


# --- show


def test_show_draws_the_road_and_where_the_flow_stands(run: Run, at: At) -> None:
    shown = run("show", at("question_answered"))
    assert shown.status == 0
    states = re.findall(r"[●◉○] (\w+)", shown.out)
    assert states == ["requested", "question_answered", "code_verified", "token_issued", "password_set"]
    assert re.search(r"◉ question_answered .*it stands here", shown.out)
    assert "expected  the code from the e-mail (5 attempts left)" in shown.out
    assert re.search(r"until     (\d{4}-\d\d-\d\d )?[\d:]+, (59|60) min from now", shown.out)  # it may be tomorrow
    assert "\x1b" not in shown.out


def test_a_time_of_another_day_comes_with_its_day() -> None:
    now = datetime(2030, 5, 1, 23, 30).astimezone()  # here, wherever that is
    assert clock_time(now + timedelta(minutes=29), now) == "23:59:00"
    assert clock_time(now + timedelta(minutes=31), now) == "2030-05-02 00:01:00"


def test_a_road_that_went_back_is_drawn_as_it_went() -> None:
    triggers = (
        ("answer_accepted", State.QUESTION_ANSWERED),
        ("code_refused", State.QUESTION_ANSWERED),
        ("answer_refused", State.REQUESTED),
    )
    text = drawn(flow(State.REQUESTED, *triggers, expects=Step.ANSWER, question="Who\x1b[2J\nare you?"))
    assert re.findall(r"[●◉○] (\w+)", text)[:4] == ["requested", "question_answered", "requested", "question_answered"]
    assert text.index("code refused") < text.index("◉ requested")
    assert "Who [2J are you?" in text


def test_a_road_with_codes_that_are_judged_late_is_drawn_as_it_went() -> None:
    triggers = (
        ("question_waived", State.QUESTION_ANSWERED),
        ("code_held", State.TOKEN_ISSUED),
        ("password_in_doubt", State.TOKEN_ISSUED),
        ("code_refused", State.QUESTION_ANSWERED),
    )
    text = drawn(flow(State.QUESTION_ANSWERED, *triggers, in_doubt=Step.PASSWORD, sent_to="r***@\x1b[2Je***"))
    passed = re.findall(r"[●◉] (\w+)", text)
    assert passed == ["requested", "question_answered", "token_issued", "question_answered"]
    assert text.index("code held") < text.index("password in doubt") < text.index("code refused")
    assert "may be set, or not" in text
    assert "sent to   r***@ [2Je***" in text


def test_ends_and_doubts_are_said() -> None:
    failed = flow(State.FAILED, ("abandon", State.FAILED), failure=Failure.TOO_MANY_ATTEMPTS, expects=None)
    assert "✗ failed" in drawn(failed)
    assert "too many attempts" in drawn(failed)
    assert "until" not in drawn(failed)
    assert "may be on its way" in drawn(flow(State.QUESTION_ANSWERED, in_doubt=Step.ANSWER))
    assert "may be set, or not" in drawn(flow(State.TOKEN_ISSUED, in_doubt=Step.PASSWORD, expects=Step.PASSWORD))


def test_what_is_left_of_its_time_is_rounded_up() -> None:
    for left, words in (
        (0.2, "1 s from now"),
        (119.5, "2 min from now"),
        (0, "its time is up"),
        (-90, "its time is up"),
    ):
        assert words in drawn(flow(State.QUESTION_ANSWERED, expires_at=NOW + timedelta(seconds=left)))


def test_a_reason_is_drawn_with_the_end() -> None:
    ended = flow(State.FAILED, ("abandon", State.FAILED), failure=Failure.OUTCOME_UNKNOWN, expects=None)
    (abandoned,) = ended.history
    ended = attrs.evolve(ended, history=(structs.replace(abandoned, reason=Failure.TOO_MANY_ATTEMPTS),))
    assert "abandon (too many attempts), " in drawn(ended)
    assert "failed    outcome unknown" in drawn(ended)


def test_what_lies_ahead_is_the_machines_table() -> None:
    for state in State:
        for credential in Credential:
            road = show.ahead(state, credential)
            assert (road == []) is state.ended
            assert state.ended or road[-1] is State.PASSWORD_SET


def test_colours_on_a_terminal_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[1;36m◉" in drawn(flow(State.QUESTION_ANSWERED), terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[\d;]*3\d", drawn(flow(State.QUESTION_ANSWERED), terminal=True))


def test_an_output_without_unicode_gets_ascii(shell: Shell, at: At) -> None:
    file = TextIOWrapper(BytesIO(), encoding="ascii")
    assert drawn(flow(State.QUESTION_ANSWERED), file).isascii()
    shown = shell("show", at("requested"), env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert shown.status == 0, shown.err
    assert "@ requested" in shown.out
    assert "Stra\\xdfe" in shown.out


# --- list


def test_list_goes_through_the_flows_of_the_realm(run: Run, user: str) -> None:
    ids = [run("start", user, "--tag", tag, "--json").json["id"] for tag in ("a", "b", "a")]
    other = run("start", user, "--realm", "elsewhere", "--json").json["id"]
    run("cancel", ids[0])
    lines = run("list").out.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", ids[2], ids[1], ids[0]]
    assert "cancelled" in lines[-1]
    assert run("list", "--limit", "1").out.splitlines()[1:] == [
        lines[1],
        "and 2 older ones: --limit shows more, --json all",
    ]
    documents = [json.loads(line) for line in run("list", "--json").out.splitlines()]
    assert {each["id"] for each in documents} == set(ids)
    assert [each["id"] for each in documents if each["state"] != "failed"] == [
        json.loads(line)["id"] for line in run("list", "--running", "--json").out.splitlines()
    ]
    assert ids[1] not in run("list", "--tag", "a").out
    assert other in run("list", "--realm", "elsewhere").out
    assert run("list", "--tag", "nothing").out == "there is no such flow\n"
    assert run("list", "--realm", "nowhere").out == "there are no flows\n"


def test_list_needs_no_broker(run: Run, at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    flow_id = at("requested")
    monkeypatch.delenv("RESET_FLOW_BROKER_URL")
    monkeypatch.delenv("RESET_FLOW_APP_KEY")
    assert flow_id in run("list").out


def test_list_says_what_cannot_be_read_and_goes_on(run: Run, user: str, home: Path) -> None:
    ids = [run("start", user, "--json").json["id"] for _ in range(3)]
    with closing(sqlite3.connect(home / "reset-flow.db")) as database:
        database.execute("UPDATE flows SET due_at = due_at + 1 WHERE id = ?", (ids[1],))
        database.commit()
    for listed in (run("list"), run("list", "--json")):
        assert listed.status == 53
        assert [flow_id for flow_id in ids if flow_id in listed.out] == [ids[0], ids[2]]
        assert listed.err.startswith("reset-flow: ")
        assert listed.err.count("\n") == 1
        assert ids[1] in listed.err
    run("show", ids[1]).refused(53, "RESET_FLOW_KEYS")


# --- beside flows


def test_keys_new_makes_a_file_for_its_owner_and_overwrites_none(run: Run, home: Path) -> None:
    assert "RESET_FLOW_KEYS" in run("keys", "new", "ring.keys").out
    content = (home / "ring.keys").read_bytes()
    assert (home / "ring.keys").stat().st_mode & 0o777 == 0o600
    assert len(Keyring.from_file(home / "ring.keys").keys) == 1
    run("keys", "new", "ring.keys").refused(13, "exists")
    assert (home / "ring.keys").read_bytes() == content
    run("keys", "new", "no/where.keys").refused(13, "can't be written")


def test_diagram_is_the_machine(run: Run) -> None:
    assert run("diagram").out == mermaid()


def test_sandbox_listens_until_it_is_stopped(home: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "reset_flow.cli", "sandbox", "--port", "0", "--ready-file", "ready"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert b"listening on http://127.0.0.1:" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=120) == (b"", b"")
        finally:
            process.kill()
    assert process.returncode == 0
    assert not (home / "ready").exists()


def test_an_audit_names_what_was_done_when_and_by_whom(run: Run, at: At) -> None:
    flow_id = at("question_answered")
    entry = run("audit", flow_id, "--json").json
    assert (entry["trigger"], entry["to"]) == ("answer_accepted", "question_answered")
    assert ":" in entry["worker"]
    told = run("audit", flow_id)
    assert told.out.count("\n") == 1
    assert "answer_accepted" in told.out
