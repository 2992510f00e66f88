"""The commands on stored flows: they need store and keys alone, and no broker."""

from datetime import timedelta
from typing import Annotated, Any

import typer

from reset_flow.admin import ChangeReport
from reset_flow.cli import listing, prompts, show
from reset_flow.cli.exits import STATUSES
from reset_flow.cli.options import FlowId, Json, User, with_settings
from reset_flow.cli.screen import complain, console, counting, say, say_json
from reset_flow.cli.session import AdminSession, Settings
from reset_flow.domain.errors import InvalidInput, RecordUnreadable
from reset_flow.domain.flow import Flow, Transition

__all__ = ["COMMANDS", "tell", "tell_unreadable"]

STORED = ("store", "keys", "realm")
"""The settings of a command that needs no broker."""

CENTURIES = 100_000
"""Days; longer ones may reach back before year 1."""


def tell(flow: Flow, *, as_json: bool) -> None:
    """Print a flow, as one line of JSON or drawn."""
    if as_json:
        say_json(flow.public())
    else:
        show.draw(flow, console())


def tell_unreadable(records: int) -> None:
    """End the command with the status for records that can't be read, if there are any."""
    if records:
        complain(f"records that can't be read, and are left as they are: {records}; `reset-flow list` names them")
        raise typer.Exit(STATUSES[RecordUnreadable])


# --- looking


@with_settings(*STORED)
def show_flow(*, settings: Settings, flow_id: FlowId, as_json: Json = False) -> None:
    """Draw the road of a flow as it is stored: where it stands, what is expected next, and until when."""
    with AdminSession(settings) as session:
        flow = session.run(session.admin.get(flow_id))
    tell(flow, as_json=as_json)


@with_settings(*STORED)
def audit_flow(*, settings: Settings, flow_id: FlowId, as_json: Json = False) -> None:
    """Print the history of a flow, a line for each transition: when, what, where to, by which worker, and why."""
    with AdminSession(settings) as session:
        flow = session.run(session.admin.get(flow_id))
    for step in flow.history:
        entry = _entry(step)
        if as_json:
            say_json(entry)
        else:
            entry["at"] = step.at.isoformat(timespec="seconds")
            say("  ".join(value for value in entry.values() if value))


def _entry(step: Transition) -> dict[str, Any]:
    return {
        "at": step.at.isoformat(),
        "trigger": step.trigger,
        "to": step.target.value,
        "worker": step.worker,
        "reason": step.reason and step.reason.value,
    }


@with_settings(*STORED)
def list_flows(
    *,
    settings: Settings,
    tag: Annotated[str | None, typer.Option("--tag", help="Only flows that were started with it.")] = None,
    running: Annotated[bool, typer.Option("--running", help="Only flows that have not ended.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, the newest.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="All of them, a line of JSON for each.")] = False,
) -> None:
    """List the flows of the realm."""
    with AdminSession(settings) as session:
        if as_json:
            printing = listing.print_json(session.admin, tag, running=running)
        else:
            printing = listing.print_newest(session.admin, tag, limit, running=running)
        readable = session.run(printing)
    if not readable:
        raise typer.Exit(STATUSES[RecordUnreadable])


# --- changing


@with_settings(*STORED)
def purge(
    *,
    settings: Settings,
    days: Annotated[
        float, typer.Option("--older-than", metavar="DAYS", min=0, max=CENTURIES, help="Since the end of a flow.")
    ],
    as_json: Json = False,
) -> None:
    """Delete the flows that ended more than so many days ago."""
    with AdminSession(settings) as session, counting("purged") as progress:
        purged = session.run(session.admin.purge(_days(days), progress=progress))
    if as_json:
        say_json({"purged": purged})
    else:
        say(f"flows deleted: {purged}")


def _days(days: float) -> timedelta:
    try:
        return timedelta(days=days)
    except (OverflowError, ValueError):
        raise InvalidInput("--older-than: it must be a number of days") from None


@with_settings(*STORED)
def lift(*, settings: Settings, user: User, as_json: Json = False) -> None:
    """Lift the limits of one user at once: wrong guesses and starts that flows have counted no longer count."""
    with AdminSession(settings) as session, counting("looked at") as progress:
        report = session.run(session.admin.lift(user, progress=progress))
    _tell_report(report, "lifted", "flows whose counted starts and guesses no longer count", as_json=as_json)


@with_settings(*STORED)
def erase(
    *,
    settings: Settings,
    user: User,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: Json = False,
) -> None:
    """Delete all that the store keeps of one user, running flows included."""
    with AdminSession(settings) as session:
        if not yes:
            prompts.confirm(f"Delete all flows of this user in realm {settings.realm}, for good?")
        with counting("looked at") as progress:
            report = session.run(session.admin.erase(user, progress=progress))
    _tell_report(report, "erased", "flows deleted", as_json=as_json)


def _tell_report(report: ChangeReport, name: str, text: str, *, as_json: bool) -> None:
    if as_json:
        say_json({name: report.changed, "waiting": report.waiting, "unreadable": report.unreadable})
    else:
        say(f"{text}: {report.changed}")
        if report.waiting:
            say(f"flows in the middle of a call: {report.waiting}; run this again when workers are done with them")
    tell_unreadable(report.unreadable)


COMMANDS = {
    "show": show_flow,
    "audit": audit_flow,
    "list": list_flows,
    "purge": purge,
    "lift": lift,
    "erase": erase,
}
