"""Secrets come from a terminal without an echo or from standard input, and in no other way."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import typer

from reset_flow.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reset_flow.sandbox import Sandbox
    from tests.cli.conftest import At, OpensTerminal, Run, Shell


ARGUMENTS = {
    "at_once", "conversation", "engine", "http", "in_chat", "language",
    "broker_aliases", "broker_name", "broker_url", "credential", "days", "file", "flow_id", "help",
    "host", "image_name", "as_json", "keep", "keys", "limit", "look", "path", "path_and_id", "port", "proxy",
    "public_url",
    "quiet", "ready_file", "realm", "ref", "revision", "running", "store", "tag", "timeout", "trusted_proxies", "user",
    "yes",
}  # fmt: skip


def test_no_command_takes_a_secret_as_an_argument() -> None:
    def names(command: Any) -> Iterator[str]:
        for parameter in command.params:
            yield parameter.name
        for each in getattr(command, "commands", {}).values():
            yield from names(each)

    found = set(names(typer.main.get_command(app)))
    assert found - ARGUMENTS == set()
    assert "flow_id" in found


def test_an_address_with_a_password_is_no_argument(run: Run) -> None:
    run("list", "--store", "postgresql://me:hunter2@host/db").refused(12, "RESET_FLOW_STORE", "no argument")
    refused = run("start", "robert.zak", "--broker-url", "https://me:hunter2@host/api")
    refused.refused(12, "RESET_FLOW_BROKER_URL")
    assert "hunter2" not in refused.err


def test_a_person_is_asked_without_an_echo_and_twice_for_a_password(
    at: At, terminal: OpensTerminal, sandbox: Sandbox, user: str
) -> None:
    flow_id = at("requested")
    with terminal("answer", flow_id) as screen:
        screen.wait_for("Wie hieß die Straße?: ")
        screen.type("Königsallee 7 ½\n")
        assert screen.status() == 0
        assert "question_answered" in screen.seen
        assert "Königsallee" not in screen.seen
    with terminal("code", flow_id) as screen:
        screen.wait_for("Code from the e-mail: ")
        screen.type(f"{sandbox.newest_code(user)}\n")
        assert screen.status() == 0
    with terminal("password", flow_id) as screen:
        screen.wait_for("New password: ")
        screen.type("violet trector 5\n")
        screen.wait_for("The same again: ")
        screen.type("violet tractor 5\n")
        screen.wait_for("the two differ")
        for prompt in ("New password: ", "The same again: "):
            if prompt not in screen.seen.rpartition("differ")[2]:
                screen.wait_for(prompt)
            screen.type("violet Träktor 5\n")
        assert screen.status() == 0
        assert "violet" not in screen.seen
    assert sandbox.password_of(user) == "violet Träktor 5"


def test_ctrl_c_and_ctrl_d_at_a_prompt_end_it_in_one_line(at: At, terminal: OpensTerminal) -> None:
    flow_id = at("requested")
    with terminal("answer", flow_id) as screen:
        screen.wait_for("Straße?: ")
        screen.type("\x03")
        assert screen.status() == 130
        assert "reset-flow: interrupted" in screen.seen
        assert "Traceback" not in screen.seen
    with terminal("answer", flow_id) as screen:
        screen.wait_for("Straße?: ")
        screen.type("\x04")
        assert screen.status() == 4
        assert "reset-flow: nothing was typed" in screen.seen
        assert "Traceback" not in screen.seen


@pytest.mark.parametrize(
    ("given", "words"),
    [(b"", "has ended"), (b"caf\xe9 1234\n", "UTF-8"), (b"x" * 100_000 + b"\n", "too long")],
    ids=["nothing", "latin-1", "a flood"],
)
def test_what_is_no_secret_is_refused_before_anything_is_sent(
    run: Run, at: At, sandbox: Sandbox, *, user: str, given: bytes, words: str
) -> None:
    flow_id = at("token_issued")
    run("password", flow_id, given=given).refused(4, words)
    assert run("show", flow_id, "--json").json["attempts_left"] == 10
    assert sandbox.password_of(user) == "old-Passw0rd"


def test_a_byte_order_mark_is_no_part_of_a_secret(run: Run, at: At, sandbox: Sandbox, *, user: str) -> None:
    flow_id = at("token_issued")
    run("password", flow_id, given=b"\xef\xbb\xbfviolet tractor 5\r\n")
    assert sandbox.password_of(user) == "violet tractor 5"


def test_a_closed_standard_input_is_one_line(shell: Shell, at: At) -> None:
    shell("answer", at("requested"), preexec_fn=lambda: os.close(0)).refused(4, "standard input is closed")
