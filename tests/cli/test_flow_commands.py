"""Each command that moves a flow, against the sandbox."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from reset_flow.sandbox import Sandbox
    from tests.cli.conftest import At, Run

ANSWER = "Königsallee 7 ½"


def test_a_reset_from_start_to_a_password_that_works(run: Run, sandbox: Sandbox, user: str) -> None:
    flow = run("start", user, "--json").json
    assert (flow["state"], flow["expects"], flow["question"]) == ("requested", "answer", "Wie hieß die Straße?")
    assert run("answer", flow["id"], "--json", given=f"{ANSWER}\n").json["state"] == "question_answered"
    code = sandbox.newest_code(user)
    assert run("code", flow["id"], "--json", given=f"{code}\n").json["expects"] == "password"
    assert run("password", flow["id"], "--json", given="violet tractor 5\n").json["state"] == "password_set"
    assert sandbox.password_of(user) == "violet tractor 5"
    assert sandbox.state_of(user)["mails_sent"] == 1


@pytest.mark.parametrize("end", ["", "\n", "\r\n"], ids=["none", "lf", "crlf"])
@pytest.mark.parametrize("password", ["  Gänsefüßchen „Ω“ 🐝 ", "' \" \\ $HOME `id` %s", "e\u0301 is not \u00e9"])
def test_a_password_from_standard_input_arrives_byte_for_byte(
    run: Run, at: At, sandbox: Sandbox, *, user: str, password: str, end: str
) -> None:
    given = (password + end).encode()
    assert run("password", at("token_issued"), "--json", given=given).json["state"] == "password_set"
    (call,) = [call for call in sandbox.calls_of("update") if call.user == user]
    assert json.loads(call.body)["Password"].encode() == password.encode()
    assert sandbox.password_of(user).encode() == password.encode()


def test_only_one_line_is_read(run: Run, at: At, sandbox: Sandbox, user: str) -> None:
    assert run("password", at("token_issued"), given="violet tractor 5\nand more\n").status == 0
    assert sandbox.password_of(user) == "violet tractor 5"


def test_a_refused_answer_says_how_many_are_left(run: Run, at: At, sandbox: Sandbox, user: str) -> None:
    flow_id = at("requested")
    run("answer", flow_id, given="wrong").refused(32, "attempts left: 2")
    run("answer", flow_id, given="wrong").refused(32, "attempts left: 1")
    run("answer", flow_id, given="wrong").refused(32, "too_many_attempts", "start another one")
    run("answer", flow_id, given=ANSWER).refused(21, "start another one")
    assert sandbox.state_of(user)["mails_sent"] == 0


def test_codes_and_passwords_that_are_refused_have_a_status_each(run: Run, at: At, user: str, sandbox: Sandbox) -> None:
    flow_id = at("question_answered")
    run("code", flow_id, given="12345").refused(33, "6 digits", "attempts left: 5")
    wrong = f"{(int(sandbox.newest_code(user)) + 1) % 1_000_000:06}"
    run("code", flow_id, given=wrong).refused(33, "attempts left: 4")
    assert run("code", flow_id, given=sandbox.newest_code(user)).status == 0
    run("password", flow_id, given="short").refused(34, "at least 8", "choose another one")


def test_resend_waits_for_its_time(run: Run, at: At) -> None:
    run("resend", at("question_answered")).refused(26, "try again in")


def test_a_command_that_cannot_come_asks_for_nothing(run: Run, at: At) -> None:
    flow_id = at("requested")
    run("code", flow_id).refused(22, "requested", ": code can't come now, answer or cancel can")
    run("password", flow_id).refused(22, "requested", ": password can't come now")
    run("pin", flow_id).refused(22, "requested")
    run("resend", flow_id).refused(22, "requested")
    run("answer", at("question_answered")).refused(22, ": answer can't come now, cancel or resend or code can")
    done = at("password_set")
    run("answer", done).refused(21, "password_set")


def test_cancel_ends_a_flow(run: Run, at: At) -> None:
    flow_id = at("question_answered")
    assert run("cancel", flow_id, "--json").json["failure"] == "cancelled"
    run("cancel", flow_id).refused(21, "cancelled")


def test_a_token_from_an_expired_password_is_adopted(run: Run, sandbox: Sandbox, user: str) -> None:
    token = _token_of_expired_log_in(run, sandbox, user)
    flow = run("adopt", user, "--json", given=f"{token}\n").json
    assert (flow["state"], flow["expects"]) == ("token_issued", "password")
    assert run("password", flow["id"], given="violet tractor 5").status == 0
    assert sandbox.password_of(user) == "violet tractor 5"
    run("adopt", user, given="\n").refused(11, "token")


def _token_of_expired_log_in(run: Run, sandbox: Sandbox, user: str) -> str:
    """One that nothing was done with yet: the code of another flow, exchanged by hand."""
    flow_id = run("start", user, "--json").json["id"]
    run("answer", flow_id, given=ANSWER)
    run("code", flow_id, given=sandbox.newest_code(user))
    (call,) = [call for call in sandbox.calls_of("exchange") if call.user == user]
    token: str = call.reply["Model"]
    return token


def test_a_pin_is_set_with_its_phrase_and_the_token_of_a_log_in(run: Run, sandbox: Sandbox, user: str) -> None:
    flow = run("start", user, "--credential", "PIN", "--json").json
    assert flow["credential"] == "pin"
    run("answer", flow["id"], given=ANSWER)
    assert run("code", flow["id"], "--json", given=sandbox.newest_code(user)).json["expects"] == "pin"
    run("pin", flow["id"], given="4711\n").refused(4, "a line for each secret")
    done = run("pin", flow["id"], "--image-name", "anchor", "--json", given="4711\nmy phrase\nno-session\n")
    assert done.status in (34, 43), done.err  # the sandbox takes only the bearer token of a real log-in
    (call,) = [call for call in sandbox.calls_of("change_pin") if b"my phrase" in call.body]
    assert json.loads(call.body)["Pin"] == "4711"
    assert ("Authorization", "Bearer no-session") in call.headers


def test_a_ref_makes_start_idempotent_and_belongs_to_one_user(run: Run, user: str) -> None:
    first = run("start", user, "--ref", "case 1", "--json").json
    assert run("start", user, "--ref", "case 1", "--json").json["id"] == first["id"]
    run("start", "robert.zak", "--ref", "case 1").refused(24, "choose another")


def test_an_id_is_one_plain_word_for_every_shell(run: Run, user: str) -> None:
    for number in range(8):
        flow_id = run("start", user, "--ref", f"case {number}", "--json").json["id"]
        assert re.fullmatch("[0-9a-v]{26}", flow_id)


def test_options_go_before_the_environment(
    run: Run, user: str, home: Path, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    for name in ("BROKER_URL", "STORE", "KEYS", "REALM", "REVISION"):
        monkeypatch.delenv(f"RESET_FLOW_{name}", raising=False)
        monkeypatch.setenv(f"RESET_FLOW_{name}_FILE", str(home / "missing"))
    where = (
        "--broker-url", sandbox.api_url, "--store", "sqlite:///else.db", "--keys", "else.keys",
        "--realm", "elsewhere", "--revision", "password",
    )  # fmt: skip
    flow = run("start", user, *where, "--json").json
    assert (home / "else.db").exists()
    assert (home / "else.keys").exists()
    assert run("answer", flow["id"], *where, "--json", given=ANSWER).json["state"] == "question_answered"
    assert run("code", flow["id"], *where, given=sandbox.newest_code(user)).status == 0
    (call,) = [call for call in sandbox.calls_of("exchange") if call.user == user]
    assert "/users/password/reset/code" in call.target
    another = ("another" if word == "elsewhere" else word for word in where)
    run("cancel", flow["id"], *another).refused(20, "no flow")
    assert not list(home.glob("reset-flow.*"))


def test_every_command_that_yields_a_flow_gives_it_as_json_too(run: Run, at: Callable[[str], str]) -> None:
    flow_id = at("requested")
    shown = run("show", flow_id, "--json").json
    assert shown["id"] == flow_id
    assert set(shown) >= {"state", "expects", "allowed", "expires_at", "version", "in_doubt", "failure"}
    assert "user" not in shown
    assert run("show", flow_id, "--json").out.isascii()
