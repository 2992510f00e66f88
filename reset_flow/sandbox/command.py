"""The sandbox as a process of its own."""

import argparse
import asyncio
import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from reset_flow.sandbox.broker import Mail
from reset_flow.sandbox.server import Sandbox

DEFAULT_PORT = 8000
HIGHEST_PORT = 65_535
WRONG_ARGUMENTS = 2
"""Exit status."""


def serve(
    *,
    port: int = DEFAULT_PORT,
    app_key: str = "sandbox",
    ready_file: Path | None = None,
    quiet: bool = False,
) -> int:
    """
    Serve until SIGINT or SIGTERM, and return the exit status: 1, with one line on stderr, if it could not listen.

    Print the address, then (unless ``quiet``) every mail. The ready file contains ``apiURL`` while it listens.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sandbox = Sandbox(port=port, app_key=app_key, on_mail=None if quiet else _print_mail)
    try:
        asyncio.run(_serve(sandbox, ready_file))
    except OSError as error:
        reason = "it is in use" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        where = f"write {ready_file}" if error.filename else f"listen on port {port}"
        sys.stderr.write(f"cannot {where}: {reason}\n")
        return 1
    return 0


async def _serve(sandbox: Sandbox, ready_file: Path | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with sandbox:
        with _ready_file(ready_file, sandbox.api_url):
            _print(f"listening on {sandbox.api_url} (inbox: {sandbox.url}/inbox)")
            await stop.wait()


@contextlib.contextmanager
def _ready_file(ready_file: Path | None, text: str) -> Iterator[None]:
    """Keep the file during the block. It appears with all its text, so that a process can wait for it."""
    if ready_file is None:
        yield
        return
    draft = ready_file.with_name(f".{ready_file.name}.{os.getpid()}")
    draft.write_text(f"{text}\n", encoding="utf-8")
    draft.replace(ready_file)
    try:
        yield
    finally:
        ready_file.unlink(missing_ok=True)


def _print_mail(mail: Mail) -> None:
    _print(f"mail to {mail.email} ({mail.user}): code {mail.code}")


def _print(line: str) -> None:
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone: go on serving, and let the interpreter's last flush succeed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """Refuses arguments without repeating any: the app key may be among them, and errors land in logs."""

    def error(self, _: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(WRONG_ARGUMENTS, f"{self.prog}: an argument can't be used\n")


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= HIGHEST_PORT:
        raise ValueError("no port")
    return port


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = _Parser(
        prog="python -m reset_flow.sandbox",
        description="A toy broker on loopback, with an inbox, a log of calls and faults on order.",
    )
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT, help="0 picks a free one (default: %(default)s)")
    parser.add_argument("--app-key", default="sandbox", help="the required Et-App-Key (default: %(default)s)")
    parser.add_argument("--ready-file", type=Path, help="gets apiURL once it listens")
    parser.add_argument("--quiet", action="store_true", help="do not print mails")
    options = parser.parse_args(arguments)
    return serve(port=options.port, app_key=options.app_key, ready_file=options.ready_file, quiet=options.quiet)
