"""docs/web.md says what is so: its reset in the shell runs, its tables are the tables, its look is a look."""

from __future__ import annotations

import asyncio
import re
import subprocess
from typing import TYPE_CHECKING

import attrs
import pytest
from aiohttp import ClientSession

from reset_flow.sandbox import Sandbox
from reset_flow.web import Limits, Look
from reset_flow.web.problems import STATUSES
from tests.conftest import program
from tests.web.programs import ROOT, running, settings_for

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (ROOT / "docs" / "web.md").read_text()
SERVE = ["-m", "reset_flow.cli", "serve", "--port", "0"]
READY = r"serving (http://\S+)/"


def block(mark: str) -> str:
    """Return the block of code below a mark."""
    found = re.search(rf"<!-- {mark} -->\n```\w*\n(.*?)```", PAGE, re.DOTALL)
    assert found, mark
    return found[1]


@pytest.fixture
def shell() -> None:
    """See to the programs of which the page makes use."""
    for name in ("curl", "jq", "openssl"):
        program(name)


@pytest.mark.server
@pytest.mark.usefixtures("shell")
async def test_the_reset_in_the_shell_prints_what_it_says(tmp_path: Path) -> None:
    async with Sandbox() as sandbox:
        with running(SERVE, settings_for(sandbox, tmp_path), READY) as program:
            script = block("curl").replace("http://127.0.0.1:8080", program.url)
            script = script.replace("http://127.0.0.1:8000", sandbox.url)
            process = await asyncio.create_subprocess_exec(
                "sh", "-eu", "-c", script, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            printed, errors = await process.communicate()
        assert (printed.decode(), errors.decode()) == (block("printed"), "")
        assert sandbox.password_of("robert.zak") == "violet tractor sings at 5 am"
        assert [len(sandbox.calls_of(route)) for route in ("exchange", "update")] == [2, 1]


def test_the_statuses_are_the_table_of_the_errors() -> None:
    rows = PAGE.split("<!-- statuses -->")[1].split("<!-- /statuses -->")[0]
    told = {
        name: int(status)
        for status, names in re.findall(r"^\| (\d{3}) \| (.*?) \|", rows, re.MULTILINE)
        for name in re.findall(r"`([A-Z]\w+)`", names)
    }
    assert told == {kind.__name__: status.value for kind, status in STATUSES.items()}


@pytest.mark.parametrize(("heading", "settings"), [("Look", Look), ("Limits", Limits)])
def test_every_field_is_documented(heading: str, settings: type) -> None:
    section = PAGE.split(f"### {heading}\n")[1].split("\n#")[0]
    listed = [name for cell in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in cell.split(", ")]
    assert sorted(listed) == sorted(f"`{name}`" for name in attrs.fields_dict(settings))


async def test_the_look_in_the_file_is_shown(tmp_path: Path) -> None:
    (tmp_path / "look.toml").write_text(block("look"))
    (tmp_path / "logo.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    async with Sandbox() as sandbox, ClientSession() as client:
        settings = settings_for(sandbox, tmp_path) | {"RESET_FLOW_LOOK": str(tmp_path / "look.toml")}
        with running(SERVE, settings, READY) as program:
            for wish, title in (("en", "Forgot your password?"), ("es", "Passwort vergessen?")):
                async with client.get(program.url, headers={"Accept-Language": wish}) as reply:
                    shown = await reply.text()
                assert title in shown
                assert "Example Bank" in shown
                assert "Call 0800 0100, day and night" in shown
