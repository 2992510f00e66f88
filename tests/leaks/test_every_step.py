"""After every step of a reset, nothing that is written down anywhere holds a secret or a login."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

from reset_flow import (
    AnswerRejected,
    Case,
    CodeRejected,
    Credential,
    FlowEnded,
    NewCredential,
    PasswordRejected,
    ResetFlowError,
    Secret,
    State,
    Unknown,
)
from reset_flow.domain.decide import Concluded, Moment, decide
from reset_flow.testing import LeakScanner, refused

if TYPE_CHECKING:
    import pytest

    from reset_flow import Outcome, ResetService
    from tests.leaks.conftest import Files, Scene


async def test_a_whole_reset(scene: Scene) -> None:
    say = scene.secret
    named = {"ref": say("ref"), "tags": [say("tag")], "origin": say("origin")}
    flow = await scene.does("start", say("login"), **named)
    await refused(scene.does("answer", flow.id, say("wrong answer"), key=say("key")), AnswerRejected)
    flow = await scene.does("answer", flow.id, say("answer"))
    flow = await scene.does("resend", flow.id)
    await refused(scene.does("verify", flow.id, say("odd code")), CodeRejected)
    await refused(scene.does("verify", flow.id, "004158" if scene.code() != "004158" else "004159"), CodeRejected)
    flow = await scene.does("verify", flow.id, scene.code())
    assert flow.state is State.TOKEN_ISSUED
    await refused(scene.does("set_password", flow.id, say("weak password")), PasswordRejected)
    scene.sandbox.settings.minimum_password_length = 1000
    await refused(scene.does("set_password", flow.id, say("password")), PasswordRejected)
    scene.sandbox.settings.minimum_password_length = 8
    flow = await scene.does("set_password", flow.id, say("password"))
    assert flow.state is State.PASSWORD_SET
    assert scene.sandbox.password_of(say("login")) == say("password")
    await refused(scene.does("set_password", flow.id, say("password")), FlowEnded)
    assert [found.id for found in await scene.service.find(say("tag"))] == [flow.id]
    scene.watch.see(await scene.service.find(say("tag")), await scene.service.sweep(), await scene.service.reseal())
    await scene.does("get", flow.id)
    await scene.does("wait", flow.id)
    assert [event.transition.trigger for event in scene.watch.events][-1] == "password_accepted"
    assert {"asyncio", "reset_flow.audit"} <= scene.watch.lines.names
    assert {"errors", "events", "metrics", "spans", "store", "values"} <= {
        place for place, text in (await scene.watch.places(again=True)).items() if text
    }
    await scene.watch.check()


async def test_a_new_pin(scene: Scene, session: str) -> None:
    say = scene.secret
    flow = await scene.does("start", say("login"), credential=Credential.PIN)
    flow = await scene.does("answer", flow.id, say("answer"))
    flow = await scene.does("verify", flow.id, scene.code())
    with_it = {"image_name": "no such image", "personal_phrase": say("phrase"), "authorization": session}
    await refused(scene.does("set_pin", flow.id, say("pin"), **with_it), PasswordRejected)
    flow = await scene.does("set_pin", flow.id, say("pin"), **with_it | {"image_name": "cactus"})
    assert flow.state is State.PASSWORD_SET


async def test_a_token_from_elsewhere_and_a_change_of_mind(scene: Scene) -> None:
    say = scene.secret
    token = "t0ken+from/elsewhere=="
    scene.watch.scanner.add("token", token)
    flow = await scene.does("adopt", say("login"), token)
    await refused(scene.does("set_password", flow.id, say("password")), PasswordRejected)
    flow = await scene.does("cancel", flow.id)
    assert flow.state is State.FAILED


async def test_doubts_and_those_who_settle_them(scene: Scene) -> None:
    say = scene.secret
    flow = await scene.does("start", say("login"))
    scene.sandbox.fault("request", "drop_after")
    flow = await scene.does("answer", flow.id, say("answer"))
    assert flow.in_doubt
    scene.sandbox.fault("exchange", "cut_after", times=2)
    flow = await scene.does("resend", flow.id)
    error = await refused(scene.does("verify", flow.id, scene.code()), ResetFlowError)
    assert error.flow
    await scene.does("resend", flow.id)
    flow = await scene.does("verify", flow.id, scene.code())
    scene.sandbox.fault("update", "reset", times=2)
    scene.sandbox.fault("log_in", "reset")
    await refused(scene.does("set_password", flow.id, say("password")), ResetFlowError)
    flow = await scene.does("set_password", flow.id, say("password"))
    assert flow.state is State.PASSWORD_SET


async def test_the_parts_inside(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    say = scene.secret
    flow = await scene.does("start", say("login"))
    secret = Secret(say("password"))
    new = NewCredential(secret=secret, details={"personal_phrase": Secret(say("phrase")), "authorization": secret})
    scene.watch.see(new, secret, Case(user=say("login"), continuation=say("password").encode()))
    sent: list[str | None] = []

    def watched(name: str) -> None:
        call = getattr(scene.transport, name)

        async def look_and_call(*given: Any) -> Outcome:
            found = await scene.repository.load(flow.id)
            assert found.flow.user == say("login")
            assert found.flow.intent
            sent.append(None if found.flow.intent.secret is None else found.flow.intent.secret.reveal())
            decision = decide(found.flow, Concluded(Unknown()), Moment(found.flow.created_at, "worker", b"w" * 8))
            scene.watch.see(*given, found, found.flow, found.flow.intent, await scene.store.load(flow.id), decision)
            outcome: Outcome = await call(*given)
            scene.watch.see(outcome, *parts_of(scene.service))
            return outcome

        monkeypatch.setattr(scene.transport, name, look_and_call)

    for name in ("request", "exchange", "update"):
        watched(name)
    await scene.does("answer", flow.id, say("answer"))
    code = scene.code()
    await scene.does("verify", flow.id, code)
    await scene.does("set_password", flow.id, say("password"))
    assert sent == [say("answer"), code, None]


def parts_of(service: ResetService) -> list[object]:
    """Return all objects of the library that a service leads to."""
    known: dict[int, object] = {}
    waiting: list[object] = [service]
    while waiting:
        each = waiting.pop()
        is_part = type(each).__module__.startswith("reset_flow")
        if id(each) not in known and (is_part or isinstance(each, dict | list | tuple | set | frozenset)):
            known[id(each)] = each
            waiting += gc.get_referents(each)
    parts = [each for each in known.values() if type(each).__module__.startswith("reset_flow")]
    assert {"SQLiteStore", "PostgresStore", "RedisStore"} & {type(part).__name__ for part in parts}
    assert {"CommandHandler", "EtnaTransport", "Keyring", "Key", "Sender"} <= {type(part).__name__ for part in parts}
    return parts


async def test_what_the_servers_write_to_their_disks(scene: Scene, files: Files) -> None:
    say = scene.secret
    flow = await scene.does("start", say("login"), tags=[say("tag")])
    flow = await scene.does("answer", flow.id, say("answer"))
    flow = await scene.does("verify", flow.id, scene.code())
    await scene.does("set_password", flow.id, say("password"))
    planted = LeakScanner({"flow": flow.id})
    written = await files()
    assert planted.find(written), "these are not the files that the flow was written to"
    assert scene.watch.scanner.find(written) == []
