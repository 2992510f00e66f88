"""``python -m reset_flow.sandbox`` as a process."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from reset_flow.sandbox import Sandbox
from reset_flow.sandbox.command import main

REQUEST = "/v1.0/users/password/reset"
FIRST_LINE = re.compile(r"listening on (http://127\.0\.0\.1:\d+/api) \(inbox: (http://127\.0\.0\.1:\d+/inbox)\)\n")


@asynccontextmanager
async def started(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-m", "reset_flow.sandbox", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def first_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return (await process.stdout.readline()).decode()


async def request(api_url: str, login: str, app_key: str = "sandbox") -> int:
    async with aiohttp.ClientSession(headers={"Et-App-Key": app_key}) as client:
        return (await client.post(api_url + REQUEST, json={"User": login})).status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_where_it_listens_prints_mails_and_ends_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    ready_file = tmp_path / "ready"
    async with started("--port", "0", "--app-key", "k", "--ready-file", str(ready_file)) as process:
        match = FIRST_LINE.fullmatch(await first_line(process))
        assert match is not None
        api_url, inbox = match.groups()
        assert await request(api_url, "maria.noquestion", "k") == 200
        assert re.fullmatch(r"mail to maria@\S+ \(maria.noquestion\): code [0-9]{6}\n", await first_line(process))
        assert ready_file.read_text() == f"{api_url}\n"
        async with aiohttp.ClientSession() as client:
            assert (await client.get(inbox)).status == 200
        process.send_signal(number)
        assert await process.communicate() == (b"", b"")
        assert process.returncode == 0
        assert not ready_file.exists()


async def test_it_ends_cleanly_while_a_call_hangs() -> None:
    async with started("--port", "0") as process:
        match = FIRST_LINE.fullmatch(await first_line(process))
        assert match is not None
        async with aiohttp.ClientSession() as client:
            faults = match[1].removesuffix("/api") + "/sandbox/faults"
            await client.post(faults, json={"route": "request", "fault": "hang_after"})
        hanging = asyncio.create_task(request(match[1], "maria.noquestion"))
        assert (await first_line(process)).startswith("mail to maria")
        process.terminate()
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await hanging
        assert await process.communicate() == (b"", b"")
        assert process.returncode == 0


async def test_quiet_prints_no_mail_and_a_reader_who_left_does_no_harm() -> None:
    async with started("--port", "0", "--quiet") as quiet, started("--port", "0") as unread:
        for process in (quiet, unread):
            match = FIRST_LINE.fullmatch(await first_line(process))
            assert match is not None
            if process is unread:
                assert process.stdout is not None
                # From inside: asyncio has no public way to close the reading end of a pipe.
                process.stdout._transport.close()  # type: ignore[attr-defined]
            for login in ("jörg.müller", "maria.noquestion", "maria.noquestion"):
                assert await request(match[1], login) == (409 if login == "jörg.müller" else 200)
            process.terminate()
        assert await quiet.communicate() == (b"", b"")
        assert unread.stderr is not None
        assert await unread.stderr.read() == b""
        assert (quiet.returncode, await unread.wait()) == (0, 0)


async def test_a_port_in_use_is_one_line_and_status_one() -> None:
    async with Sandbox() as sandbox:
        port = sandbox.url.rpartition(":")[2]
        async with started("--port", port) as process:
            assert await process.communicate() == (b"", f"cannot listen on port {port}: it is in use\n".encode())
            assert process.returncode == 1


async def test_a_ready_file_that_cannot_be_written_is_one_line_and_status_one(tmp_path: Path) -> None:
    ready_file = tmp_path / "missing" / "ready"
    async with started("--port", "0", "--ready-file", str(ready_file)) as process:
        _, problem = await process.communicate()
        assert (process.returncode, problem.decode()) == (
            1,
            f"cannot write {ready_file}: No such file or directory\n",
        )


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_what_is_no_port_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([f"--port={port}"])
    assert ended.value.code == 2
    assert "port" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port=violet-tractor"],
        ["--port", "violet-tractor"],
        ["violet-tractor"],
        ["--app-key", "k", "violet-tractor"],
        ["--violet-tractor"],
        ["--app-kee=violet-tractor"],
        ["--quiet=violet-tractor"],
    ],
    ids=" ".join,
)
def test_an_error_repeats_no_argument(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert "violet" not in said.err
    assert "--app-key APP_KEY" in said.err  # how it is used
