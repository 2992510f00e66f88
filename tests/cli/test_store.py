"""`store backup` and `store restore`: a file, there and back, and what a flow does that is older than the world."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from reset_flow.sandbox import Sandbox
    from tests.cli.conftest import At, OpensTerminal, Run


PASSWORD = "violet tractor 5"


def test_a_backup_and_its_restore(run: Run, at: At, home: Path) -> None:
    flow_id = at("token_issued")
    assert "keys" in run("store", "backup", "monday.db").out
    assert run("password", flow_id, "--json", given=PASSWORD).json["state"] == "password_set"
    later = at("requested")
    assert run("store", "restore", "monday.db", "--yes", "--json").json == {"path": "monday.db"}
    assert run("show", flow_id, "--json").json["state"] == "token_issued"
    run("show", later).refused(20)
    assert run("store", "backup", "tuesday.db", "--json").json == {"path": "tuesday.db"}
    (home / "reset-flow.db").unlink()
    run("store", "restore", "tuesday.db", "--yes")
    assert run("show", flow_id, "--json").json["state"] == "token_issued"


def test_neither_needs_a_broker_nor_keys(run: Run, at: At, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at("requested")
    monkeypatch.delenv("RESET_FLOW_BROKER_URL")
    monkeypatch.delenv("RESET_FLOW_APP_KEY")
    (home / "reset-flow.keys").unlink()
    assert run("store", "backup", "monday.db").status == 0
    assert run("store", "restore", "monday.db", "--yes").status == 0
    assert not (home / "reset-flow.keys").exists()


def test_what_can_not_be_is_one_line_that_says_why(run: Run, at: At, home: Path) -> None:
    run("store", "backup", "monday.db").refused(12, "no database at")
    at("requested")
    assert run("store", "backup", "monday.db").status == 0
    run("store", "backup", "monday.db").refused(12, "overwrites nothing")
    run("store", "backup", "nowhere/monday.db").refused(51, "nowhere")
    run("store", "backup").refused(2, "FILE")
    run("store", "restore", "tuesday.db", "--yes").refused(51, "tuesday.db")
    run("store", "restore", "reset-flow.keys", "--yes").refused(12, "no backup")
    run("store", "restore", "reset-flow.db", "--yes").refused(12, "itself")
    for address in ("memory:", "postgresql://127.0.0.1/x", "redis://127.0.0.1/1"):
        run("store", "backup", "other.db", "--store", address).refused(12)
    run("store", "backup", "other.db", "--store", "postgresql://u:hush@127.0.0.1/x").refused(12, "no argument")
    assert not (home / "other.db").exists()


def test_a_restore_is_confirmed_at_a_terminal(run: Run, at: At, terminal: OpensTerminal) -> None:
    flow_id = at("requested")
    assert run("store", "backup", "monday.db").status == 0
    assert run("cancel", flow_id).status == 0
    run("store", "restore", "monday.db").refused(2, "--yes")
    for keys, state in (("n\r", "failed"), ("y\r", "requested")):
        with terminal("store", "restore", "monday.db") as screen:
            screen.wait_for("[y/N]")
            screen.type(keys)
            assert screen.status() == (0 if state == "requested" else 2)
        assert run("show", flow_id, "--json").json["state"] == state


def test_both_are_in_the_audit_log(run: Run, at: At, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at("requested")
    monkeypatch.setenv("RESET_FLOW_AUDIT_LOG", str(home / "audit.log"))
    run("store", "backup", "monday.db")
    run("store", "restore", "monday.db", "--yes")
    first, second = (home / "audit.log").read_text().splitlines()[-2:]
    assert "copied to monday.db" in first
    assert "replaced by the backup monday.db" in second


# What docs/backup.md says of an older state


def test_a_code_that_was_used_since_is_refused(run: Run, sandbox: Sandbox, at: At, user: str) -> None:
    flow_id = at("question_answered")
    run("store", "backup", "monday.db")
    code = sandbox.newest_code(user)
    assert run("code", flow_id, given=code).status == 0
    run("store", "restore", "monday.db", "--yes")
    run("code", flow_id, given=code).refused(33)
    flow = run("show", flow_id, "--json").json
    assert (flow["state"], flow["attempts_left"]) == ("question_answered", 4)


def test_a_token_that_was_used_since_sets_no_other_password(run: Run, at: At) -> None:
    flow_id = at("token_issued")
    run("store", "backup", "monday.db")
    assert run("password", flow_id, given=PASSWORD).status == 0
    run("store", "restore", "monday.db", "--yes")
    run("password", flow_id, given="another tractor 5").refused(34)
    assert run("show", flow_id, "--json").json["state"] == "token_issued"
    assert run("cancel", flow_id).status == 0


def test_guesses_that_were_counted_since_are_forgotten(run: Run, at: At) -> None:
    flow_id = at("question_answered")
    run("store", "backup", "monday.db")
    for left in (4, 3):
        assert run("code", flow_id, given="000000").status == 33
        assert run("show", flow_id, "--json").json["attempts_left"] == left
    run("store", "restore", "monday.db", "--yes")
    assert run("show", flow_id, "--json").json["attempts_left"] == 5
