"""`reset-flow keys`: ids and ages, never bytes; a rotation from its beginning to its end."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from reset_flow.persistence.keyring import Keyring

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import At, Ran, Run

DATABASE = "sqlite:///reset-flow.db"


@pytest.fixture
def keys(run: Run, home: Path) -> Path:
    assert run("keys", "new", "reset-flow.keys").status == 0
    return home / "reset-flow.keys"


@pytest.fixture
def run(run: Run, home: Path) -> Iterator[Run]:
    """The command line, whose every output is searched for the bytes of keys afterwards."""
    said: list[str] = []

    def ran(*arguments: str, given: bytes | str = b"") -> Ran:
        done = run(*arguments, given=given)
        said.append(done.out + done.err)
        return done

    yield ran
    for path in home.glob("*.keys"):
        if path.stat().st_size and path.is_file():
            document = json.loads(path.read_bytes())
            for row in document["seal"] + document["lookup"]:
                assert row["secret"] not in "".join(said)


def aged(path: Path, age: timedelta) -> None:
    """As if all this had been done earlier."""
    document = json.loads(path.read_bytes())
    for row in document["seal"]:
        for name in ("created_at", "writes_from"):
            if row[name]:
                row[name] = (datetime.fromisoformat(row[name]) - age).isoformat()
    path.write_text(json.dumps(document))


def ids(path: Path) -> list[str]:
    return [key.id for key in Keyring.from_file(path).keys]


def test_a_rotation_from_its_beginning_to_its_end(run: Run, at: At, keys: Path) -> None:
    flow_id, ended = at("question_answered"), at("password_set")
    (old,) = ids(keys)
    rotated = run("keys", "rotate", "reset-flow.keys")
    assert "keys reseal" in rotated.out
    _, new = ids(keys)
    assert new in rotated.out
    waiting = run("keys", "reseal").out
    assert f"records sealed anew with key {old}: 0" in waiting
    assert f"key {new} writes from" in waiting
    run("keys", "remove", "reset-flow.keys", old, "--store", DATABASE).refused(13, f"key {old} writes")

    aged(keys, timedelta(seconds=40))
    run("keys", "remove", "reset-flow.keys", old, "--store", DATABASE).refused(13, "until")
    aged(keys, timedelta(seconds=40))
    refused = run("keys", "remove", "reset-flow.keys", old, "--store", DATABASE)
    refused.refused(13, f"key {old} seals 3 records of realm default", "keys reseal")
    assert run("keys", "reseal", "--json").json == {"key": new, "resealed": 3, "waiting": 0, "unreadable": 0}
    assert old in run("keys", "remove", "reset-flow.keys", old, "--store", DATABASE).out
    assert ids(keys) == [new]
    for each, state in ((flow_id, "question_answered"), (ended, "password_set")):
        assert run("show", each, "--json").json["state"] == state
    assert run("resend", flow_id).status in (0, 26)


def test_everything_is_said_in_json_too(run: Run, user: str, home: Path) -> None:
    made = run("keys", "new", "reset-flow.keys", "--json").json
    (old,) = ids(home / "reset-flow.keys")
    assert made.keys() == {"path", "id", "created_at", "writes_from"}
    assert (made["path"], made["id"], made["writes_from"]) == ("reset-flow.keys", old, None)
    run("start", user)
    run("start", user, "--realm", "other")
    began = datetime.now(UTC)
    later = run("keys", "rotate", "reset-flow.keys", "--json").json
    writes_from = datetime.fromisoformat(later["writes_from"])
    assert began + timedelta(seconds=10) < writes_from <= datetime.now(UTC) + timedelta(seconds=30)
    new = run("keys", "rotate", "reset-flow.keys", "--at-once", "--json").json
    assert new["writes_from"] is None
    shown = run("keys", "show", "reset-flow.keys", "--json").json
    assert [(key["id"], key["writes"], key["records"]) for key in shown["keys"]] == [
        (old, False, None), (later["id"], False, None), (new["id"], True, None),
    ]  # fmt: skip
    assert [key.keys() for key in shown["lookup"]] == [{"id", "created_at"}]
    counted = run("keys", "show", "reset-flow.keys", "--store", DATABASE, "--json").json
    assert [key["records"] for key in counted["keys"]] == [1, 0, 0]
    both = ("--store", DATABASE, "--realm", "default", "--realm", "other")
    counted = run("keys", "show", "reset-flow.keys", *both, "--json").json
    assert [key["records"] for key in counted["keys"]] == [2, 0, 0]
    assert run("keys", "reseal", *both, "--json").json["resealed"] == 2
    removed = run("keys", "remove", "reset-flow.keys", old, *both, "--at-once", "--json").json
    assert removed == {"path": "reset-flow.keys", "removed": old}


def test_without_a_path_it_is_the_file_and_the_store_of_the_environment(
    run: Run, user: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESET_FLOW_KEYS", "mine.keys")
    monkeypatch.setenv("RESET_FLOW_STORE", "sqlite:///mine.db")
    monkeypatch.setenv("RESET_FLOW_REALM", "mine")
    assert run("keys", "new", "--json").json["path"] == "mine.keys"
    assert run("start", user).status == 0
    (old,) = ids(home / "mine.keys")
    new = run("keys", "rotate", "--at-once", "--json").json["id"]
    counted = run("keys", "show", "--json").json
    assert [(key["id"], key["records"]) for key in counted["keys"]] == [(old, 1), (new, 0)]
    assert run("keys", "reseal", "--json").json["resealed"] == 1
    assert run("keys", "remove", old, "--at-once", "--json").json == {"path": "mine.keys", "removed": old}
    assert run("keys", "new", "--keys", "other.keys", "--json").json["path"] == "other.keys"
    (home / "names a file").write_text("other.keys\n")
    (home / "names a file").chmod(0o600)
    monkeypatch.delenv("RESET_FLOW_KEYS")
    monkeypatch.setenv("RESET_FLOW_KEYS_FILE", "names a file")
    assert run("keys", "show", "--store", "sqlite:///mine.db", "--json").json["path"] == "other.keys"
    assert {path.name for path in home.glob("*.keys")} == {"mine.keys", "other.keys"}


def test_show_says_what_each_key_does(run: Run, at: At, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at("requested")
    aged(keys, timedelta(days=12))
    run("keys", "rotate", "reset-flow.keys", "--at-once")
    run("keys", "rotate", "reset-flow.keys")
    old, writes, later = ids(keys)
    (lookup,) = Keyring.from_file(keys).lookup_keys
    monkeypatch.setenv("RESET_FLOW_STORE", DATABASE)
    lines = run("keys", "show", "reset-flow.keys").out.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", old, writes, later, lookup.id]
    assert lines[1].split()[3:] == ["12", "d", "1", "reads"]
    assert lines[2].split()[-2:] == ["0", "writes"]
    assert "writes from " in lines[3]
    assert lines[4].endswith("finds")
    assert run("keys", "new", "other.keys").status == 0
    assert f"{old}" in run("keys", "show", "other.keys").out.splitlines()[-1]
    assert run("keys", "show", "other.keys", "--json").json["unknown"] == {old: 1}


def test_what_can_not_be_read_is_said_and_left(run: Run, at: At, keys: Path, home: Path) -> None:
    at("requested")
    harmed = at("requested")
    new = run("keys", "rotate", "reset-flow.keys", "--at-once", "--json").json["id"]
    with closing(sqlite3.connect(home / "reset-flow.db")) as database:
        database.execute("UPDATE flows SET due_at = due_at + 1 WHERE id = ?", (harmed,))
        database.commit()
    done = run("keys", "reseal", "--json")
    assert done.status == 53
    assert json.loads(done.out) == {"key": new, "resealed": 1, "waiting": 0, "unreadable": 1}
    assert "records that can't be read, and are left as they are: 1" in done.err
    run("keys", "remove", keys.name, ids(keys)[0], "--store", DATABASE, "--at-once").refused(13, "seals 1 records")


def test_no_key_is_removed_without_the_store_that_knows_whether_it_is_needed(run: Run, keys: Path, home: Path) -> None:
    (old,) = ids(keys)
    run("keys", "rotate", "reset-flow.keys", "--at-once")
    remove = ("keys", "remove", "reset-flow.keys", old, "--at-once")
    run(*remove).refused(12, "RESET_FLOW_STORE is not set")
    run(*remove, "--store", "sqlite:///elsewhere.db").refused(12, "there is no database at elsewhere.db")
    run(*remove, "--store", "memory:").refused(12, "memory:")
    run("keys", "show", "reset-flow.keys", "--store", "sqlite:///elsewhere.db").refused(12, "there is no database")
    run("keys", "reseal", "--store", "sqlite:///elsewhere.db").refused(12, "there is no database")
    assert not (home / "elsewhere.db").exists()
    assert len(ids(keys)) == 2


def test_neither_the_key_that_writes_nor_one_that_is_not_there_is_removed(run: Run, at: At, keys: Path) -> None:
    at("requested")
    for key_id, words in ((ids(keys)[0], "writes: rotate"), ("ffffffff", "key ffffffff is not in the ring")):
        run("keys", "remove", keys.name, key_id, "--store", DATABASE, "--at-once").refused(13, words)


@pytest.mark.parametrize("command", [("rotate",), ("show",)], ids=str)
def test_a_key_file_that_is_loose_broken_or_missing_is_refused(
    run: Run, keys: Path, home: Path, command: tuple[str, ...]
) -> None:
    content = keys.read_bytes()
    keys.chmod(0o644)
    run("keys", *command, keys.name).refused(13, "open to others", "chmod 600")
    keys.chmod(0o600)
    (home / "empty.keys").touch(mode=0o600)
    run("keys", *command, "empty.keys").refused(13, "no key file")
    run("keys", *command, "none.keys").refused(13, "keys new")
    assert keys.read_bytes() == content
    assert run("keys", *command, keys.name).status == 0


def test_no_keys_are_made_in_place_of_lost_ones(run: Run, at: At, user: str, keys: Path) -> None:
    flow_id = at("requested")
    kept = keys.rename(keys.with_name("kept.keys"))
    for command in ("start", "adopt"):
        run(command, user, given=b"token").refused(13, "reset-flow.keys does not exist", "put their file back")
    assert not keys.exists()
    assert run("keys", "new", keys.name).status == 0
    for arguments in (("start", user), ("show", flow_id), ("list",), ("cancel", flow_id), ("keys", "reseal")):
        run(*arguments).refused(13, "put their file back", "another realm")
    kept.replace(keys)
    assert run("show", flow_id).status == 0


@pytest.mark.parametrize("name", ["APP_KEY", "KEYS", "STORE", "REALM"])
def test_a_file_variable_that_others_may_read_is_refused(
    run: Run, user: str, keys: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file = keys.with_name("value")
    file.write_text({"APP_KEY": "sandbox", "KEYS": keys.name, "STORE": DATABASE, "REALM": "default"}[name] + "\n")
    monkeypatch.delenv(f"RESET_FLOW_{name}", raising=False)
    monkeypatch.setenv(f"RESET_FLOW_{name}_FILE", str(file))
    for mode in (0o644, 0o604, 0o622):
        file.chmod(mode)
        run("start", user).refused(12, f"RESET_FLOW_{name}_FILE", "open to others")
    file.chmod(0o600)
    assert run("start", user).status == 0
