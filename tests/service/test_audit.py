"""Who did what when: in the history of a flow, and a line each in the audit log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from reset_flow import AnswerRejected, FlowNotFound, IllegalCommand, Policy, UnknownUser
from reset_flow.domain.outcomes import Rejected
from reset_flow.testing import refused

if TYPE_CHECKING:
    import pytest

    from tests.service.conftest import House


async def test_each_transition_and_each_refusal_is_a_line_and_names_its_worker(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="reset_flow.audit")
    one, two = house.worker(worker="one:1"), house.worker(worker="two:2")
    flow = await one.service.start("robert.zak")
    one.transport.script(request=[Rejected(reasons=["wrong"])])
    await refused(one.service.answer(flow.id, "Petersen"), AnswerRejected)
    await refused(two.service.verify(flow.id, "004158"), IllegalCommand)
    flow = await two.service.answer(flow.id, "Peterson")
    assert [(step.trigger, step.worker) for step in flow.history] == [
        ("answer_refused", "one:1"),
        ("answer_accepted", "two:2"),
    ]
    lines = [record.getMessage() for record in caplog.records if record.name == "reset_flow.audit"]
    assert lines == [
        f"flow {flow.id}: answer_refused to requested (one:1)",
        f"flow {flow.id}: answer refused: answer_rejected (one:1)",
        f"flow {flow.id}: verify refused: illegal_command (two:2)",
        f"flow {flow.id}: answer_accepted to question_answered (two:2)",
    ]
    assert not any(word in caplog.text for word in ("robert", "Petersen", "Peterson", "004158"))


async def test_an_id_from_outside_can_not_write_lines_of_its_own(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="reset_flow.audit")
    await refused(house.worker().service.cancel("x\nflow y: password_accepted\x1b[2J"), FlowNotFound)
    assert all("\n" not in record.getMessage() and "\x1b" not in record.getMessage() for record in caplog.records)


async def test_a_start_that_is_refused_is_a_line_too(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="reset_flow.audit")
    worker = house.worker(worker="one:1", policy=Policy(mask_unknown_users=False))
    worker.transport.script(challenge=[Rejected()])
    await refused(worker.service.start("robert.zak"), UnknownUser)
    assert [record.getMessage() for record in caplog.records] == ["start refused: unknown_user (one:1)"]
