"""The commands on stored flows: they need store and keys alone."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.cli.conftest import At, OpensTerminal, Run


def forget_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BROKER_URL", "APP_KEY"):
        monkeypatch.delenv(f"RESET_FLOW_{name}")


def stored(home: Path) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(home / "reset-flow.db")) as database:
        return database.execute("SELECT id, version FROM flows ORDER BY id").fetchall()


def end_long_ago(home: Path, flow_id: str) -> None:
    """Let the store think that a flow ended long ago; nothing opens the flow after that."""
    with closing(sqlite3.connect(home / "reset-flow.db")) as database:
        database.execute("UPDATE flows SET ended_at = ended_at - 40 * 86400 * 1000000 WHERE id = ?", (flow_id,))
        database.commit()


def test_each_needs_no_broker(run: Run, at: At, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flow_id = at("question_answered")
    forget_broker(monkeypatch)
    for arguments in (
        ("show", flow_id), ("audit", flow_id), ("list",), ("purge", "--older-than", "30"), ("lift", user),
        ("erase", user, "--yes"),
    ):  # fmt: skip
        done = run(*arguments)
        assert (done.status, done.err) == (0, ""), arguments
    run("show", flow_id).refused(20, flow_id)


def test_only_a_start_makes_a_store(run: Run, home: Path, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("keys", "new").status == 0
    monkeypatch.setenv("RESET_FLOW_STORE", "sqlite:///mistyped.db")
    for arguments in (
        ("show", "x"), ("audit", "x"), ("list",), ("purge", "--older-than", "1"), ("lift", "u"),
        ("erase", "u", "--yes"), ("keys", "show"), ("keys", "reseal"), ("keys", "remove", "0badc0de"),
        ("answer", "x"), ("resend", "x"), ("code", "x"), ("password", "x"), ("pin", "x"), ("cancel", "x"),
        ("wait", "x"), ("sweep",),
    ):  # fmt: skip
        run(*arguments).refused(12, "there is no database at mistyped.db", "RESET_FLOW_STORE")
    assert [path.name for path in home.iterdir()] == ["reset-flow.keys"]
    assert run("start", user).status == 0
    assert (home / "mistyped.db").exists()


def test_looking_changes_nothing(run: Run, at: At, home: Path) -> None:
    flow_id = at("requested")
    before = stored(home)
    shown = run("show", flow_id, "--json").json
    assert run("audit", flow_id).out == ""
    assert run("list", "--running", "--json").json == shown
    assert stored(home) == before


def test_purge_deletes_what_ended_long_ago(run: Run, at: At, home: Path) -> None:
    old, recent, running = at("password_set"), at("password_set"), at("requested")
    end_long_ago(home, old)
    assert run("purge", "--older-than", "41").out == "flows deleted: 0\n"
    assert run("purge", "--older-than", "39.5", "--json").json == {"purged": 1}
    assert {flow_id for flow_id, _ in stored(home)} >= {recent, running}
    assert old not in {flow_id for flow_id, _ in stored(home)}
    run("purge").refused(2, "--older-than")
    for days in ("-1", "many", "nan", "inf", "1e300"):
        assert run("purge", "--older-than", days).status in (2, 11), days


def test_lift_makes_room_for_one_user(run: Run, user: str) -> None:
    for _ in range(20):
        assert run("start", user).status == 0
    run("start", user).refused(26, "try again in")
    assert run("lift", "somebody.else", "--json").json == {"lifted": 0, "waiting": 0, "unreadable": 0}
    run("start", user).refused(26)
    assert run("lift", f" {user.upper()}").out == "flows whose counted starts and guesses no longer count: 20\n"
    assert run("start", user).status == 0
    run("lift", "").refused(11, "user")


def test_erase_leaves_nothing_of_one_user(run: Run, at: At, user: str, home: Path) -> None:
    mine = [at("question_answered"), at("password_set")]
    other = run("start", "robert.zak", "--json").json["id"]
    assert run("erase", user, "--yes", "--json").json == {"erased": 2, "waiting": 0, "unreadable": 0}
    content = b"".join(path.read_bytes() for path in home.glob("reset-flow.db*"))
    assert [each for each in mine if each.encode() in content] == []
    assert other.encode() in content
    assert run("erase", user, "--yes").out == "flows deleted: 0\n"


def test_a_person_confirms_an_erasure(run: Run, at: At, terminal: OpensTerminal, user: str, home: Path) -> None:
    flow_id = at("requested")
    before = stored(home)
    run("erase", user).refused(2, "not confirmed", "nothing was done", "--yes")
    run("erase", user, given="y\n").refused(2, "not confirmed")  # no terminal, no person
    for keys, status in (("n\n", 2), ("\n", 2), ("\x04", 2), ("\x03", 130)):
        with terminal("erase", user) as screen:
            screen.wait_for("for good? [y/N] ")
            screen.type(keys)
            assert screen.status() == status, screen.seen
            assert "Traceback" not in screen.seen
    assert stored(home) == before
    with terminal("erase", user) as screen:
        screen.wait_for("in realm default, for good? [y/N] ")
        screen.type("yes\n")
        assert screen.status() == 0
        assert "flows deleted: 1" in screen.seen
        assert user not in screen.seen
    run("show", flow_id).refused(20)


def test_long_work_shows_how_far_it_is_at_a_terminal_alone(
    run: Run, at: At, terminal: OpensTerminal, user: str
) -> None:
    at("requested")
    for arguments in (("lift", user), ("keys", "reseal"), ("purge", "--older-than", "9"), ("erase", user, "--yes")):
        assert run(*arguments).err == ""
        with terminal(*arguments) as screen:
            assert screen.status() == 0
            assert " records " in screen.seen, arguments


def test_records_that_cannot_be_read_are_said(run: Run, at: At, user: str, home: Path) -> None:
    harmed, erased = at("requested"), at("requested")
    with closing(sqlite3.connect(home / "reset-flow.db")) as database:
        database.execute("UPDATE flows SET due_at = due_at + 1 WHERE id = ?", (harmed,))
        database.commit()
    for command in (("lift", user), ("erase", user, "--yes")):
        done = run(*command, "--json")
        assert (done.status, json.loads(done.out)["unreadable"]) == (53, 1)
        assert "records that can't be read, and are left as they are: 1" in done.err
        assert done.err.count("\n") == 1
    run("show", harmed).refused(53, "RESET_FLOW_KEYS")
    run("show", erased).refused(20)


def test_an_audit_says_why_a_flow_was_abandoned(run: Run, at: At) -> None:
    flow_id = at("question_answered")
    run("cancel", flow_id)
    accepted, abandoned = [json.loads(line) for line in run("audit", flow_id, "--json").out.splitlines()]
    assert (accepted["trigger"], accepted["reason"]) == ("answer_accepted", None)
    assert (abandoned["trigger"], abandoned["to"], abandoned["reason"]) == ("abandon", "failed", "cancelled")
    first, last = run("audit", flow_id).out.splitlines()
    assert first.split()[1:3] == ["answer_accepted", "question_answered"]
    assert (len(first.split()), last.split()[-1]) == (4, "cancelled")
    assert "abandon (cancelled), " in run("show", flow_id).out


def test_each_change_stands_in_the_audit_log_without_a_login(
    run: Run, at: At, user: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow_id = at("question_answered")
    monkeypatch.setenv("RESET_FLOW_AUDIT_LOG", str(home / "audit.log"))
    assert run("show", flow_id).status == 0
    assert run("cancel", flow_id).status == 0
    for command in (("lift", user), ("erase", user, "--yes"), ("purge", "--older-than", "30"), ("keys", "reseal")):
        assert run(*command).status == 0, command
    lines = (home / "audit.log").read_text().splitlines()
    for words in (f"flow {flow_id}: abandon (cancelled)", "budgets lifted", "erased"):
        assert any(words in line for line in lines), (words, lines)
    assert user not in (home / "audit.log").read_text()


def test_an_audit_log_that_cannot_be_written_is_one_clear_line(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESET_FLOW_AUDIT_LOG", str(home / "nowhere" / "audit.log"))
    run("list").refused(5, "nowhere")
