"""After every step of a reset, nothing that is written down anywhere holds a secret or a login."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
)
from reset_flow.domain.decide import Cancelled, Moment, decide
from reset_flow.testing import LeakScanner, refused

if TYPE_CHECKING:
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


async def test_the_parts_inside(scene: Scene) -> None:
    say = scene.secret
    flow = await scene.does("start", say("login"))
    secret = Secret(say("password"))
    case = Case(user=say("login"), continuation=say("password").encode())
    new = NewCredential(secret=secret, details={"personal_phrase": Secret(say("phrase")), "authorization": secret})
    for command, given in (("answer", say("answer")), ("verify", ""), ("set_password", say("password"))):
        found = await scene.repository.load(flow.id)
        record = await scene.store.load(flow.id)
        decision = decide(found.flow, Cancelled(), Moment(found.flow.created_at, "worker", b"w" * 8))
        scene.watch.see(found, found.flow, found.flow.intent, record, case, new, secret, decision)
        scene.watch.see(vars(scene.service), vars(scene.store), vars(scene.transport))
        await scene.does(command, flow.id, given or scene.code())


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
