"""Nothing secret and no login is in what DBOS keeps and logs: tables, files, logs at DEBUG, tracebacks."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from dbos import DBOSClient

from reset_flow.sandbox import Sandbox
from reset_flow.testing import LeakScanner
from tests.integrations.orchestrator import ANSWER, APP_KEY, PASSWORD, kept, login_of
from tests.integrations.test_dbos import engine_url  # noqa: F401 - a fixture
from tests.integrations.test_dbos_kills import ENDS, Process, job_for

if TYPE_CHECKING:
    from pathlib import Path

PEOPLE = {"anna": "set", "bert": "cancel", "carl": "expire"}
QUESTION = "Whose nåme?"


async def test_dbos_keeps_and_logs_no_login_and_no_secret(engine_url: str, tmp_path: Path) -> None:  # noqa: F811
    witnesses = [tmp_path / "onboarding.log", tmp_path / "people.log"]
    async with AsyncExitStack() as closing:
        sandbox = await closing.enter_async_context(Sandbox(app_key=APP_KEY))
        job = job_for(tmp_path, sandbox, engine_url, PEOPLE, ask_every=600, store=f"sqlite:///{tmp_path}/flows.db")
        for user_ref in PEOPLE:
            user = sandbox.user(login_of(user_ref))
            user.question, user.answer = QUESTION, ANSWER
        onboarding = await closing.enter_async_context(Process("onboarding", {**job, "witness": str(witnesses[0])}))
        typing = await closing.enter_async_context(Process("people", {**job, "witness": str(witnesses[1])}))
        wanted = {user_ref: ENDS[ends] for user_ref, ends in PEOPLE.items()}
        assert await onboarding.said() == await typing.said() == wanted
    tokens = [call.reply["Model"] for call in sandbox.calls_of("exchange") if call.reply]
    scanner = LeakScanner(
        {
            **{f"login {user_ref}": login_of(user_ref) for user_ref in PEOPLE},
            **{f"code {number}": mail.code for number, mail in enumerate(sandbox.mails)},
            **{f"token {number}": token for number, token in enumerate(tokens)},
            "question": QUESTION,
            "answer": ANSWER,
            "password": PASSWORD,
            "app key": APP_KEY,
            "ref": "onboarding anna",
        }
    )
    assert sandbox.password_of(login_of("anna")) == PASSWORD
    assert {leak.name for leak in scanner.find(await kept(engine_url))} == {"ref"}
    plant(engine_url, login_of("anna"))
    assert {leak.name for leak in scanner.find(await kept(engine_url))} == {"ref", "login anna"}, "it finds nothing"
    for witness in witnesses:
        shown = witness.read_bytes()
        assert b"reset_flow" in shown, "nothing was heard"
        assert scanner.without("ref").find(shown) == []
    assert b"RuntimeError" in witnesses[0].read_bytes(), "no look-up failed"


def plant(url: str, login: str) -> None:
    """Have DBOS keep a login, as the argument of a workflow that nobody runs."""
    client = DBOSClient(system_database_url=url)
    try:
        client.enqueue({"queue_name": "nobody's", "workflow_name": "nobody's"}, login)
    finally:
        client.destroy()
