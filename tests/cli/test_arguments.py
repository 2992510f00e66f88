"""What is typed as an argument: never repeated by an error, as it may be a password, and logs keep errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import typer

from reset_flow.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import At, Run

SECRET = "hunter2-violet"
FLOW_ID = 26 * "a"
PATHS = {"--keys", "--ready-file", "--keep"}
"""Their values name files, and errors name files."""

LONG = {"chat", "demo", "mcp", "sandbox", "serve"}
"""They go on for long, unless their arguments are wrong."""


def leaves(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that has no further ones, with its name."""
    for name, each in getattr(command, "commands", {}).items():
        yield from leaves(each, *path, name)
    if not getattr(command, "commands", None):
        yield path, command


COMMANDS = dict(leaves(typer.main.get_command(app)))
every_command = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)


def arguments(path: tuple[str, ...]) -> list[str]:
    """Those that a command needs."""
    values = {
        "flow_id": FLOW_ID,
        "user": "robert.zak",
        "path_and_id": "0badc0de",
        "path": "some.keys",
        "file": "some.backup",
    }
    given = [values[each.name] for each in COMMANDS[path].params if each.param_type_name == "argument"]
    return [*path, *given[-1:], *(("--older-than", "9") if path == ("purge",) else ())]


@pytest.fixture
def refuses(run: Run, home: Path) -> Run:
    """The command line in a folder without a store: it refuses, in one line that does not have the secret."""
    if not (home / "reset-flow.keys").exists():
        assert run("keys", "new", "reset-flow.keys").status == 0

    def refuses(*arguments: str, given: bytes | str = b"") -> Any:
        done = run(*arguments, given=given)
        assert done.status != 0, arguments
        assert done.err.count("\n") == 1, arguments
        assert "hunter" not in done.out + done.err, arguments
        assert "violet" not in done.out + done.err, arguments
        return done

    return refuses


@every_command
def test_no_error_repeats_what_should_not_be_there(refuses: Run, path: tuple[str, ...]) -> None:
    needed = arguments(path)
    for extra in ([SECRET, SECRET, SECRET], ["--", SECRET, SECRET, SECRET]):
        refused = refuses(*needed, *extra)
        assert path == ("keys", "remove") or "a secret is none" in refused.err
    for word in (f"--password={SECRET}", f"--{SECRET}", f"-{SECRET}", f"--json={SECRET}", f"--help={SECRET}"):
        assert refuses(*needed, word).status == 2
    assert refuses(*needed, "--password", SECRET).status == 2
    refuses(*path[:-1], SECRET)
    refuses(*path[:-1], SECRET, SECRET)


@every_command
def test_no_error_repeats_the_value_of_an_option(refuses: Run, run: Run, path: tuple[str, ...]) -> None:
    for option in COMMANDS[path].params:
        name = option.opts[0]
        if option.param_type_name == "option" and not option.is_flag and name not in PATHS and path[0] not in LONG:
            assert SECRET not in run(*arguments(path), name, SECRET).err, name
    for name in ("--port", "--limit", "--timeout", "--older-than", "--credential"):
        if any(name in option.opts for option in COMMANDS[path].params):
            assert f"the value of {name} can't be used" in refuses(*arguments(path), name, SECRET).err


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://me:{SECRET}@host/db", f"postgresql://me:{SECRET}#1/?2@host/db", f"redis://:{SECRET}@[host/0",
        f"postgresql://host/db?user=me&password={SECRET}", f"postgresql:///db?passwd={SECRET}",
    ],
)  # fmt: skip
def test_an_address_with_a_password_is_refused_however_it_is_written(refuses: Run, address: str) -> None:
    for command in (("list",), ("start", "u"), ("keys", "reseal"), ("keys", "show"), ("sweep",)):
        assert "RESET_FLOW_STORE" in refuses(*command, "--store", address).err
    assert "RESET_FLOW_BROKER_URL" in refuses("start", "u", "--broker-url", address).err


def test_a_path_may_look_like_an_address(run: Run, home: Path) -> None:
    (home / "a:b@c").mkdir()
    assert run("start", "robert.zak", "--store", "sqlite:///a:b@c/flows.db").status == 0


def test_a_password_in_the_place_of_an_id_is_not_repeated(run: Run, at: At) -> None:
    at("requested")
    for command in ("answer", "resend", "code", "password", "pin", "cancel", "show", "audit", "wait"):
        refused = run(command, SECRET)
        refused.refused(20, "there is no such flow", "reset-flow start")
        assert SECRET not in refused.err
        run(command, FLOW_ID).refused(20, FLOW_ID)
    refused = run("keys", "remove", "reset-flow.keys", SECRET, "--store", "sqlite:///reset-flow.db")
    refused.refused(11, "8 hexadecimal digits")
    assert SECRET not in refused.err


def test_a_setting_that_can_not_be_is_not_repeated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REVISION", "STORE", "BROKER_URL"):
        with monkeypatch.context() as patch:
            patch.setenv(f"RESET_FLOW_{name}", SECRET)
            refused = run("start", "robert.zak")
            refused.refused(12)
            assert SECRET not in refused.err, name
