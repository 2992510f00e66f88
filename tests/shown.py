"""What a stranger sees of a flow, to be compared for logins that are known and unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reset_flow import Flow

OF_EACH_FLOW = ("id", "created_at", "expires_at", "resend_at")


def shown(flow: Flow | None, *others: str) -> dict[str, object]:
    """Return what an outsider sees of a flow; of values that differ for each, and of others, only if they are there."""
    assert flow
    hidden = (*OF_EACH_FLOW, *others)
    return {name: (value is not None if name in hidden else value) for name, value in flow.public().items()}
