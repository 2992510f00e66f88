"""The commands."""

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from reset_flow.cli import listing, prompts, show
from reset_flow.cli.demo import play
from reset_flow.cli.exits import STATUSES, SYSTEM
from reset_flow.cli.keys import keys_app
from reset_flow.cli.options import Credentials, FlowId, Json, Ref, Tags, User, placed
from reset_flow.cli.screen import console, say, say_json
from reset_flow.cli.session import CliSession, Place
from reset_flow.config import setting
from reset_flow.domain import state_machine
from reset_flow.domain.errors import RecordUnreadable
from reset_flow.domain.flow import Credential, Flow
from reset_flow.domain.secret import Secret

__all__ = ["app"]

app = typer.Typer(
    help="Carries a password reset through a broker's API, from request to working password.",
    epilog="Settings come from RESET_FLOW_BROKER_URL, _APP_KEY, _STORE, _KEYS, _REALM and _REVISION, or from the files "
    "that the same names with _FILE give. Secrets are asked for, or read from standard input, a line for each.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,  # they would print what is in variables
)
app.add_typer(keys_app, name="keys")


def _tell(flow: Flow, *, as_json: bool) -> None:
    if as_json:
        say_json(flow.public())
    else:
        show.draw(flow, console())


# --- a flow, from its start to its end


@app.command()
@placed()
def start(
    *,
    place: Place,
    user: User,
    ref: Ref = None,
    tag: Tags = None,
    credential: Credentials = "password",
    as_json: Json = False,
) -> None:
    """Start a reset for a user."""
    chosen = _credential(credential)
    with CliSession(place, create_keys=True) as session:
        flow = session.run(session.service.start(user, credential=chosen, ref=ref, tags=tag or ()))
    _tell(flow, as_json=as_json)


@app.command()
@placed()
def adopt(
    *,
    place: Place,
    user: User,
    ref: Ref = None,
    tag: Tags = None,
    credential: Credentials = "password",
    as_json: Json = False,
) -> None:
    """Start one with a token from elsewhere, such as a log-in with an expired password. The token is asked for."""
    chosen = _credential(credential)
    with CliSession(place, create_keys=True) as session:
        token = prompts.ask("Token")
        flow = session.run(session.service.adopt(user, token, credential=chosen, ref=ref, tags=tag or ()))
    _tell(flow, as_json=as_json)


def _credential(text: str) -> Credential:
    try:
        return Credential(text.lower())
    except ValueError:
        raise typer.BadParameter(f"--credential is password or pin, not {text!r}") from None


@app.command()
@placed()
def answer(*, place: Place, flow_id: FlowId, as_json: Json = False) -> None:
    """Answer the secret question. The answer is asked for."""
    with CliSession(place) as session:
        flow = session.step(
            flow_id,
            "answer",
            lambda flow: prompts.ask(flow.question or "Answer to the broker's question"),
            lambda given: session.service.answer(flow_id, given or ""),
        )
    _tell(flow, as_json=as_json)


@app.command()
@placed()
def resend(*, place: Place, flow_id: FlowId, as_json: Json = False) -> None:
    """Have another code sent."""
    with CliSession(place) as session:
        flow = session.run(session.service.resend(flow_id))
    _tell(flow, as_json=as_json)


@app.command()
@placed()
def code(*, place: Place, flow_id: FlowId, as_json: Json = False) -> None:
    """Give the code from the e-mail. It is asked for."""
    with CliSession(place) as session:
        flow = session.step(
            flow_id,
            "verify",
            _asking("Code from the e-mail"),
            lambda given: session.service.verify(flow_id, given or ""),
        )
    _tell(flow, as_json=as_json)


@app.command()
@placed()
def password(*, place: Place, flow_id: FlowId, as_json: Json = False) -> None:
    """Set the new password. It is asked for: twice at a terminal."""
    with CliSession(place) as session:
        flow = session.step(
            flow_id,
            "set_password",
            lambda _: prompts.ask_twice("New password"),
            lambda given: session.service.set_password(flow_id, given or ""),
        )
    _tell(flow, as_json=as_json)


@app.command()
@placed()
def pin(
    *,
    place: Place,
    flow_id: FlowId,
    image_name: Annotated[str | None, typer.Option("--image-name", help="One of the broker's security images.")] = None,
    as_json: Json = False,
) -> None:
    """
    Set the new PIN (provisional, as the broker's documents are unsure of it). Asked for, in this order: the PIN, the
    personal phrase, the bearer token of a log-in; the last two may be empty.
    """

    def ask(_: Flow) -> tuple[Secret, Secret, Secret]:
        return (
            prompts.ask_twice("New PIN"),
            prompts.ask("Personal phrase (empty: none)"),
            prompts.ask("Bearer token of a log-in (empty: none)"),
        )

    with CliSession(place) as session:

        def send(given: tuple[Secret, Secret, Secret] | None) -> Coroutine[Any, Any, Flow]:
            new, phrase, bearer = given or (Secret(""),) * 3
            return session.service.set_pin(
                flow_id, new, image_name=image_name, personal_phrase=phrase or None, authorization=bearer or None
            )

        flow = session.step(flow_id, "set_pin", ask, send)
    _tell(flow, as_json=as_json)


def _asking(prompt: str) -> Callable[[Flow], Secret]:
    return lambda _: prompts.ask(prompt)


@app.command()
@placed()
def cancel(*, place: Place, flow_id: FlowId, as_json: Json = False) -> None:
    """End a flow that nobody wants any more."""
    with CliSession(place) as session:
        flow = session.run(session.service.cancel(flow_id))
    _tell(flow, as_json=as_json)


# --- looking


@app.command("show")
@placed()
def show_flow(*, place: Place, flow_id: FlowId, as_json: Json = False) -> None:
    """Draw the road of a flow: where it stands, what is expected next, and until when."""
    with CliSession(place) as session:
        flow = session.run(session.service.get(flow_id))
    _tell(flow, as_json=as_json)


@app.command("audit")
@placed()
def audit_flow(*, place: Place, flow_id: FlowId, as_json: Json = False) -> None:
    """Print what happened to a flow, a line for each transition: when, what, and which worker took it."""
    with CliSession(place) as session:
        flow = session.run(session.service.get(flow_id))
    for step in flow.history:
        entry = {"at": step.at.isoformat(), "trigger": step.trigger, "to": step.target.value, "worker": step.worker}
        if as_json:
            say_json(entry)
        else:
            say("  ".join(entry.values()))


@app.command("list")
@placed("store", "keys", "realm")
def list_flows(
    *,
    place: Place,
    tag: Annotated[str | None, typer.Option("--tag", help="Only flows that were started with it.")] = None,
    running: Annotated[bool, typer.Option("--running", help="Only flows that have not ended.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, the newest.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="All of them, a line of JSON for each.")] = False,
) -> None:
    """List the flows of the realm."""
    if as_json:
        readable = listing.stream(place, tag, running=running)
    else:
        readable = listing.newest(place, tag, limit, running=running, now=datetime.now(UTC))
    if not readable:
        raise typer.Exit(STATUSES[RecordUnreadable])


# --- beside flows


@app.command()
def diagram() -> None:
    """Print the machine's table as a Mermaid diagram."""
    say(state_machine.mermaid())


@app.command()
def sandbox(
    *,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 picks a free one.")] = 8000,
    ready_file: Annotated[
        Path | None, typer.Option("--ready-file", help="Holds the broker's URL while it listens.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not print mails.")] = False,
) -> None:
    """Run a toy broker on loopback, with an inbox. Its app key is RESET_FLOW_APP_KEY, or sandbox."""
    from reset_flow.sandbox import serve  # noqa: PLC0415 - no other command needs a web server

    app_key = setting("APP_KEY", "sandbox")
    refused = serve(port=port, app_key=app_key, ready_file=ready_file, quiet=quiet)
    raise typer.Exit(SYSTEM if refused else 0)


@app.command()
def demo(
    keep: Annotated[Path | None, typer.Option("--keep", metavar="DIR", help="Keep the files there.")] = None,
) -> None:
    """See one reset survive the death of its process: a toy broker, a worker, SIGKILL, another worker."""
    play(keep)
