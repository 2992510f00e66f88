"""An exit status for each class of error; one line on stderr for whatever a person can cause, and no traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reset_flow.cli import exits, main
from reset_flow.domain import errors
from tests.cli.conftest import ANSWER

if TYPE_CHECKING:
    from reset_flow.sandbox import Sandbox
    from tests.cli.conftest import At, Run, Shell

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"
TREE = {name: each for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, Exception)}
OWN = {
    0: "done",
    1: "a defect",
    exits.USAGE: "the arguments",
    3: "the extra is missing",
    exits.NO_SECRET: "no secret",
    exits.SYSTEM: "the system",
    exits.DEMO_FAILED: "the demo",
    exits.TIMED_OUT: "the time-out",
    exits.INTERRUPTED: "Ctrl-C",
    exits.BROKEN_PIPE: "a reader who left",
}


@pytest.mark.parametrize("error", TREE.values(), ids=TREE.keys())
def test_each_class_of_the_tree_has_a_status_in_the_ten_of_its_branch(error: type[errors.ResetFlowError]) -> None:
    assert error in exits.STATUSES, "give it a status, and docs/cli.md a row"
    parent = error.__mro__[1]
    if parent in (errors.ResetFlowError, Exception):
        return
    assert exits.STATUSES[error] // 10 == exits.STATUSES[parent] // 10


def test_no_status_is_given_twice_or_means_something_else() -> None:
    given = [*exits.STATUSES.values(), *OWN]
    assert len(set(given)) == len(given)
    assert set(exits.STATUSES) == set(TREE.values())


def test_the_document_has_the_same_table() -> None:
    rows = re.findall(r"^\| (\d+) \| (`\w+`|[^|`]+?) \|", DOCUMENT.read_text(), re.MULTILINE)
    documented = {int(status): name.strip("`") for status, name in rows}
    table = {status: error.__name__ for error, status in exits.STATUSES.items()}
    assert {status: name for status, name in documented.items() if status not in OWN} == table
    assert documented.keys() >= OWN.keys()


def test_a_class_that_is_not_in_the_table_has_the_status_of_its_parent() -> None:
    class Odd(errors.StoreError):
        code = "odd"

    Odd.__module__ = "tests"
    assert exits.status_of(Odd("x")) == 50


def test_a_line_is_one_line_whatever_the_broker_says() -> None:
    line = exits.line_of(errors.AnswerRejected("no\nway", "\x1b[31m\r\x00red"))
    assert "\n" not in line
    assert line.isprintable()


def test_a_wait_is_rounded_up() -> None:
    assert "try again in 1 s" in exits.line_of(errors.BrokerUnavailable("away", timedelta(milliseconds=200)))


@pytest.mark.parametrize("name", ["BROKER_URL", "BROKER_SECRET"])
def test_a_missing_setting_is_named(run: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for variable in (name, "APP_KEY"):
        monkeypatch.delenv(f"RESET_FLOW_{variable}", raising=False)
    run("start", "robert.zak").refused(12, f"RESET_FLOW_{name} is not set", "set it")
    run("cancel", "x").refused(12, f"RESET_FLOW_{name}")


def test_settings_that_cannot_be_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("start", "u", "--store", "memory:").refused(12, "sqlite:///")
    run("list", "--store", "memory:").refused(12, "sqlite:///")
    run("start", "u", "--store", "mongodb://x").refused(12, "mongodb")
    run("start", "u", "--revision", "third").refused(12, "identifiers or password")
    run("start", "u", "--broker-url", "ftp://x").refused(12, "no provider is addressed by ftp")
    run("start", "u", "--broker-url", "https://h/api?colour=red").refused(12, "colour")
    run("start", "u", "--broker-url", "https://me:phrase@h/api").refused(12, "RESET_FLOW_BROKER_URL")
    monkeypatch.setenv("RESET_FLOW_REALM_FILE", "missing")
    run("start", "u").refused(12, "RESET_FLOW_REALM_FILE", "No such file")


def test_the_secret_at_the_broker_has_a_name_for_all_and_one_for_etna(
    run: Run, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESET_FLOW_BROKER_SECRET", "sandbox")
    run("start", user).refused(12, "RESET_FLOW_BROKER_SECRET", "RESET_FLOW_APP_KEY")
    monkeypatch.delenv("RESET_FLOW_APP_KEY")
    assert run("start", user).status == 0


def test_key_files_that_cannot_be_used_are_refused(run: Run, home: Path) -> None:
    run("list").refused(13, "does not exist", "keys new")
    (home / "loose.keys").write_text("{}")
    (home / "loose.keys").chmod(0o644)
    run("start", "u", "--keys", "loose.keys").refused(13, "chmod 600")
    (home / "broken.keys").touch(mode=0o600)
    run("start", "u", "--keys", "broken.keys").refused(13, "no key file")
    (home / "folder.keys").mkdir(mode=0o700)
    run("start", "u", "--keys", "folder.keys").refused(13, "can't be read")


def test_a_store_that_cannot_be_used_is_refused(run: Run, user: str, home: Path) -> None:
    run("start", user, "--store", "sqlite:///no/where.db").refused(51, "RESET_FLOW_STORE")
    (home / "folder.db").mkdir()
    run("start", user, "--store", "sqlite:///folder.db").refused(51, "RESET_FLOW_STORE")


def test_a_broker_that_is_away_or_does_not_know_us_is_said(
    run: Run, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("start", user, "--broker-url", "http://127.0.0.1:1/api").refused(41, "nothing happened", "try again")
    monkeypatch.setenv("RESET_FLOW_APP_KEY", "another")
    run("start", user).refused(44, "app key")


def test_a_flow_of_another_broker_is_refused(run: Run, at: At) -> None:
    flow_id = at("requested")
    refused = run("resend", flow_id, "--broker-url", "http://127.0.0.1:1/api")
    refused.refused(45, "RESET_FLOW_BROKER_ALIASES", "etna:http://127.0.0.1:1/api")
    assert run("cancel", flow_id, "--broker-url", "http://127.0.0.1:1/api", "--json").json["failure"] == "cancelled"


def test_a_broker_goes_by_other_names_as_well(
    run: Run, user: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow_id = run("start", user, "--json").json["id"]
    run("answer", flow_id, "--broker-name", "broker", given=ANSWER).refused(45, f"etna:{sandbox.api_url}", "'broker'")
    aliases = f"older,etna:{sandbox.api_url}"
    named = ("--broker-name", "broker", "--broker-aliases", aliases)
    assert run("answer", flow_id, *named, "--json", given=ANSWER).json["state"] == "question_answered"
    monkeypatch.setenv("RESET_FLOW_BROKER_NAME", "broker")
    monkeypatch.setenv("RESET_FLOW_BROKER_ALIASES", aliases)
    assert run("code", flow_id, "--json", given=sandbox.newest_code(user)).json["state"] == "token_issued"


def test_the_proxy_of_the_environment_is_used_where_it_is_asked_for(
    run: Run, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert run("start", user).status == 0
    run("start", user, "--proxy", "environment").refused(41, "Proxy")
    run("start", user, "--proxy", "socks5://host").refused(12, "RESET_FLOW_PROXY must be like http://host:3128")


def test_unknown_flows_and_users_are_refused(run: Run) -> None:
    run("show", "nobody-knows-it").refused(13, "reset-flow keys new")  # a key file is made for a flow, not to look
    assert run("keys", "new").status == 0
    run("cancel", "nobody-knows-it").refused(12, "there is no database")
    assert run("start", "robert.zak").status == 0
    for command in ("answer", "resend", "code", "password", "pin", "cancel", "show"):
        run(command, "nobody-knows-it").refused(20, "no such flow", "`reset-flow start` printed")
        run(command, 26 * "a").refused(20, 26 * "a")
    assert run("start", "no.such.user", "--json").json["expects"] == "code"  # nobody learns who has an account
    run("start", "").refused(11, "user")


@pytest.mark.parametrize(
    "arguments",
    [
        ["frob"], ["answer"], ["start", "u", "--bogus"], ["list", "--limit", "0"], ["list", "--limit", "many"],
        ["keys"], ["keys", "new", "a", "b"], ["keys", "remove"], ["start", "u", "--credential", "iris"],
        ["show", "a", "b"], ["sandbox", "--port", "x"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_arguments_are_one_line_that_names_the_help(run: Run, arguments: list[str]) -> None:
    run(*arguments).refused(2, "--help")


def test_without_arguments_it_shows_its_help(run: Run) -> None:
    shown = run()
    assert shown.status == 2
    assert shown.err == ""
    for command in ("demo", "sandbox", "start", "answer", "resend", "code", "password", "pin", "cancel", "show"):
        assert command in shown.out


def test_a_reader_who_left_is_no_error(shell: Shell, at: At) -> None:
    flow_id = at("requested")
    for arguments in (["show", flow_id], ["show", flow_id, "--json"], ["list"], ["diagram"], ["demo"], ["--help"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = shell(*arguments, stdout=writer)
        os.close(writer)
        assert (done.status, done.err) == (141, ""), arguments


def test_a_full_disk_is_one_line(shell: Shell) -> None:
    with Path("/dev/full").open("wb") as full:
        shell("diagram", stdout=full).refused(5, "No space left")


def test_without_the_extra_it_says_what_to_install() -> None:
    script = "import sys; sys.modules['typer'] = None; from reset_flow.cli import main; sys.exit(main(['list']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "reset-flow: typer is missing: install the extra with pip install 'reset-flow[cli]'\n"


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise ZeroDivisionError

    monkeypatch.setattr("reset_flow.domain.state_machine.mermaid", broken)
    with pytest.raises(ZeroDivisionError):
        main(["diagram"])
