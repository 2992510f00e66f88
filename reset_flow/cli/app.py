"""The commands."""

from collections.abc import Callable, Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer

from reset_flow.cli import admin, prompts
from reset_flow.cli.admin import tell, tell_unreadable
from reset_flow.cli.chat_demo import ChatDemo
from reset_flow.cli.demo import play
from reset_flow.cli.engine_demo import DBOSDemo, RestateDemo
from reset_flow.cli.exits import SYSTEM, TIMED_OUT
from reset_flow.cli.keys import keys_app
from reset_flow.cli.options import Credentials, FlowId, Json, Ref, Tags, User, with_settings
from reset_flow.cli.screen import say, say_json
from reset_flow.cli.session import CliSession, Settings
from reset_flow.cli.store import store_app
from reset_flow.config import broker_secret
from reset_flow.domain import state_machine
from reset_flow.domain.errors import InvalidInput
from reset_flow.domain.flow import Credential, Flow
from reset_flow.domain.secret import Secret

__all__ = ["app"]

YEAR = 365 * 86_400


class Engine(StrEnum):
    """Which engine the demo shows."""

    DBOS = "dbos"
    RESTATE = "restate"


app = typer.Typer(
    help="Carries a password reset through a broker's API, from request to working password.",
    epilog="Settings come from RESET_FLOW_BROKER_URL, _BROKER_SECRET, _BROKER_NAME, _BROKER_ALIASES, _REVISION, "
    "_PROXY, _STORE, _KEYS and _REALM, or from the files that the same names with _FILE give. Secrets are asked for, "
    "or read from standard input, a line for each.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,  # they would print what is in variables
)
app.add_typer(keys_app, name="keys")
app.add_typer(store_app, name="store")


# --- a flow, from its start to its end


@app.command()
@with_settings()
def start(
    *,
    settings: Settings,
    user: User,
    ref: Ref = None,
    tag: Tags = None,
    credential: Credentials = Credential.PASSWORD,
    as_json: Json = False,
) -> None:
    """Start a reset for a user."""
    with CliSession(settings, create=True) as session:
        flow = session.run(session.service.start(user, credential=credential, ref=ref, tags=tag or ()))
    tell(flow, as_json=as_json)


@app.command()
@with_settings()
def adopt(
    *,
    settings: Settings,
    user: User,
    ref: Ref = None,
    tag: Tags = None,
    credential: Credentials = Credential.PASSWORD,
    as_json: Json = False,
) -> None:
    """Start a reset with a token from elsewhere, such as a log-in with an expired password. It is asked for."""
    with CliSession(settings, create=True) as session:
        token = prompts.ask("Token")
        flow = session.run(session.service.adopt(user, token, credential=credential, ref=ref, tags=tag or ()))
    tell(flow, as_json=as_json)


@app.command()
@with_settings()
def answer(*, settings: Settings, flow_id: FlowId, as_json: Json = False) -> None:
    """Answer the secret question. The answer is asked for."""
    with CliSession(settings) as session:
        flow = session.step(
            flow_id,
            "answer",
            lambda flow: prompts.ask(flow.question or "Answer to the broker's question"),
            lambda given: session.service.answer(flow_id, given or ""),
        )
    tell(flow, as_json=as_json)


@app.command()
@with_settings()
def resend(*, settings: Settings, flow_id: FlowId, as_json: Json = False) -> None:
    """Have another code sent."""
    with CliSession(settings) as session:
        flow = session.run(session.service.resend(flow_id))
    tell(flow, as_json=as_json)


@app.command()
@with_settings()
def code(*, settings: Settings, flow_id: FlowId, as_json: Json = False) -> None:
    """Give the code from the e-mail. It is asked for."""
    with CliSession(settings) as session:
        flow = session.step(
            flow_id,
            "verify",
            _asking("Code from the e-mail"),
            lambda given: session.service.verify(flow_id, given or ""),
        )
    tell(flow, as_json=as_json)


@app.command()
@with_settings()
def password(*, settings: Settings, flow_id: FlowId, as_json: Json = False) -> None:
    """Set the new password. It is asked for: twice at a terminal."""
    with CliSession(settings) as session:
        flow = session.step(
            flow_id,
            "set_password",
            lambda _: prompts.ask_twice("New password"),
            lambda given: session.service.set_password(flow_id, given or ""),
        )
    tell(flow, as_json=as_json)


@app.command()
@with_settings()
def pin(
    *,
    settings: Settings,
    flow_id: FlowId,
    image_name: Annotated[str | None, typer.Option("--image-name", help="One of the broker's security images.")] = None,
    as_json: Json = False,
) -> None:
    """
    Set the new PIN (provisional, as the broker's documents are unsure of it). It is asked for.

    After it, the personal phrase and the bearer token of a log-in are asked for; both may be empty.
    """

    def ask(_: Flow) -> tuple[Secret, Secret, Secret]:
        return (
            prompts.ask_twice("New PIN"),
            prompts.ask("Personal phrase (empty: none)"),
            prompts.ask("Bearer token of a log-in (empty: none)"),
        )

    with CliSession(settings) as session:

        def send(given: tuple[Secret, Secret, Secret] | None) -> Coroutine[Any, Any, Flow]:
            new, phrase, bearer = given or (Secret(""),) * 3
            return session.service.set_pin(
                flow_id, new, image_name=image_name, personal_phrase=phrase or None, authorization=bearer or None
            )

        flow = session.step(flow_id, "set_pin", ask, send)
    tell(flow, as_json=as_json)


def _asking(prompt: str) -> Callable[[Flow], Secret]:
    return lambda _: prompts.ask(prompt)


@app.command()
@with_settings()
def cancel(*, settings: Settings, flow_id: FlowId, as_json: Json = False) -> None:
    """End a flow that nobody wants any more."""
    with CliSession(settings) as session:
        flow = session.run(session.service.cancel(flow_id))
    tell(flow, as_json=as_json)


@app.command()
@with_settings()
def wait(
    *,
    settings: Settings,
    flow_id: FlowId,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", min=0, max=YEAR, help="Wait no longer: status 124.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Wait until a flow has ended, however it ends. One whose time is up is ended by this."""
    with CliSession(settings) as session:
        flow = session.run(session.service.wait(flow_id, timeout))
    tell(flow, as_json=as_json)
    if not flow.ended:
        raise typer.Exit(TIMED_OUT)


@app.command()
@with_settings()
def sweep(*, settings: Settings, as_json: Json = False) -> None:
    """Do once what workers do all the time: end flows whose time is up, settle calls of workers that died, purge."""
    with CliSession(settings) as session:
        report = session.run(session.service.sweep())
    if as_json:
        say_json(attrs.asdict(report))
    else:
        say(f"flows ended, their time being up: {report.expired}")
        say(f"calls settled that a dead worker had left: {report.settled}")
        say(f"ends delivered late: {report.delivered}")
        say(f"flows deleted, their retention being over: {report.purged}")
    tell_unreadable(report.unreadable)


# --- with store and keys alone

for name, command in admin.COMMANDS.items():
    app.command(name)(command)


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
    """Run a toy broker on loopback, with an inbox. Its app key is RESET_FLOW_BROKER_SECRET, or sandbox."""
    from reset_flow.sandbox import serve  # noqa: PLC0415 - no other command needs a web server

    refused = serve(port=port, app_key=broker_secret("sandbox"), ready_file=ready_file, quiet=quiet)
    raise typer.Exit(SYSTEM if refused else 0)


@app.command()
@with_settings()
def serve(
    *,
    settings: Settings,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="0 picks a free one.")] = 8080,
    public_url: Annotated[
        str | None, typer.Option("--public-url", metavar="URL", help="RESET_FLOW_PUBLIC_URL: where people reach it.")
    ] = None,
    trusted_proxies: Annotated[
        list[str] | None,
        typer.Option(
            "--trusted-proxy", metavar="NETWORK", help="RESET_FLOW_TRUSTED_PROXIES: whose X-Forwarded-For is believed."
        ),
    ] = None,
    look: Annotated[
        Path | None, typer.Option("--look", metavar="FILE", help="RESET_FLOW_LOOK: how the page looks, as TOML.")
    ] = None,
) -> None:
    """Serve the page and the JSON API. What is under way at SIGTERM is finished."""
    from reset_flow.cli.serving import serve as serve_page  # noqa: PLC0415 - no other command needs the extra

    serve_page(
        settings,
        host=host,
        port=port,
        public_url=public_url or settings.get("PUBLIC_URL", "") or None,
        trusted_proxies=trusted_proxies or settings.get("TRUSTED_PROXIES", "").replace(",", " ").split(),
        look=look or settings.get("LOOK", ""),
    )


@app.command()
@with_settings()
def mcp(
    *,
    settings: Settings,
    http: Annotated[
        bool, typer.Option("--http", help="Listen for streamable HTTP. It needs RESET_FLOW_MCP_TOKENS_FILE.")
    ] = False,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="0 picks a free one.")] = 8090,
    public_url: Annotated[
        str | None, typer.Option("--public-url", metavar="URL", help="RESET_FLOW_PUBLIC_URL: where the page is.")
    ] = None,
) -> None:
    """Serve tools of the Model Context Protocol on standard input and output: a model resets a password."""
    from reset_flow.cli.serving_mcp import serve as serve_tools  # noqa: PLC0415 - no other command needs the extra

    serve_tools(
        settings, listen=(host, port) if http else None, public_url=public_url or settings.get("PUBLIC_URL", "")
    )


@app.command()
@with_settings()
def chat(
    *,
    settings: Settings,
    conversation: Annotated[
        str, typer.Option("--conversation", metavar="NAME", help="The same name again goes on where it stood.")
    ] = "terminal",
    language: Annotated[
        str | None, typer.Option("--lang", metavar="LANGUAGE", help="en, de or es; otherwise as the terminal is.")
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(
            "--public-url",
            metavar="URL",
            help="RESET_FLOW_PUBLIC_URL: the page at which new passwords are chosen; otherwise they are typed here.",
        ),
    ] = None,
) -> None:
    """Reset in a dialogue, as in a chat. Each line is a message; of secrets, a terminal shows none."""
    from reset_flow.cli.chatting import chat as talk  # noqa: PLC0415 - no other command needs the extra

    talk(
        settings,
        conversation=conversation,
        language=language,
        public_url=public_url or settings.get("PUBLIC_URL", "") or None,
    )


@app.command()
def demo(
    keep: Annotated[Path | None, typer.Option("--keep", metavar="DIR", help="Keep the files there.")] = None,
    *,
    in_chat: Annotated[bool, typer.Option("--chat", help="The same in a chat at this terminal.")] = False,
    engine: Annotated[
        Engine | None, typer.Option("--engine", help="An onboarding that waits for the reset, killed with its engine.")
    ] = None,
) -> None:
    """See one reset survive the death of its process: a toy broker, a worker, SIGKILL, another worker."""
    if engine and in_chat:
        raise InvalidInput("--chat and --engine are two demos: choose one")
    if engine:
        play(keep, show={Engine.DBOS: DBOSDemo, Engine.RESTATE: RestateDemo}[engine])
    elif in_chat:
        play(keep, show=ChatDemo)
    else:
        play(keep)
