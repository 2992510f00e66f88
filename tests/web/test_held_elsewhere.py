"""What somebody is told of a reset that goes on elsewhere."""

from __future__ import annotations

from reset_flow import HeldElsewhere, IllegalCommand, Step
from reset_flow.web import problem
from tests.web.screens import flow_at


def test_nothing_of_a_flow_that_is_held_elsewhere_is_told() -> None:
    flow = flow_at(Step.PASSWORD)
    held = problem(HeldElsewhere(flow.id).with_flow(flow))
    assert (held.status, held.body["flow"], held.body["attempts_left"]) == (403, None, None)
    shown = problem(IllegalCommand(flow.id, "verify", flow.state, flow.allowed).with_flow(flow))
    assert (shown.body["flow"], shown.body["attempts_left"]) == (flow.public(), flow.attempts_left)
