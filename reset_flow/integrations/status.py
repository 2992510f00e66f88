"""What an engine is told of a reset: it keeps all of it in readable form."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from reset_flow.domain.flow import Flow


class ResetStatus(TypedDict):
    """
    A reset, without login, question and destination. Times are ISO 8601.

    Attributes:
        expects: What the person is asked for next; `None` once the reset has ended.

        failure: Why it ended without a new password that is known to work; `None` where it did not.
    """

    flow_id: str
    state: str
    expects: str | None
    in_doubt: str | None
    failure: str | None
    ended: bool
    expires_at: str


def status_of(flow: Flow) -> ResetStatus:
    """Return what may be kept in readable form."""
    return {
        "flow_id": flow.id,
        "state": flow.state.value,
        "expects": flow.expects and flow.expects.value,
        "in_doubt": flow.in_doubt and flow.in_doubt.value,
        "failure": flow.failure and flow.failure.value,
        "ended": flow.ended,
        "expires_at": flow.expires_at.isoformat(),
    }
