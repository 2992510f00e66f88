"""The documents say what is so: their snippets run, their diagram and tables are drawn from the machine's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from reset_flow import Policy
from reset_flow.domain.state_machine import COMMANDS, mermaid

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
EMBEDDING = ROOT / "docs" / "embedding.md"
PROVIDERS = ROOT / "docs" / "providers.md"
ACCOUNTS_SERVER = ROOT / "tests" / "transports" / "accounts_server.py"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]

# A person at the keyboard: answers the question, reads the code in the inbox, chooses a password.
PERSON = """
import builtins, getpass, json, os, urllib.request
def inbox():
    with urllib.request.urlopen(os.environ["SANDBOX"] + "/sandbox/inbox?user=robert.zak") as reply:
        return json.load(reply)
builtins.input = lambda prompt: inbox()[-1]["code"] if "Code" in prompt else "Peterson"
getpass.getpass = lambda prompt: "violet tractor sings at 5 am"
"""


def blocks(language: str) -> list[tuple[str, str]]:
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [
        (f"{path.relative_to(ROOT)}:{path.read_text()[: match.start()].count(chr(10)) + 1}", match[1])
        for path in DOCUMENTS
        for match in fence.finditer(path.read_text())
    ]


ROADS = {
    "web": """
import asyncio, re
from aiohttp import ClientSession, CookieJar
from reset_flow import from_env
async def drive():
    async with from_env() as service:
        runner = web.AppRunner(make_app(service))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = "http://127.0.0.1:%d/reset" % runner.addresses[0][1]
        async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as browser, ClientSession() as stranger:
            shown = await (await browser.get(url)).text()
            for text in ("robert.zak", "Peterson", "000000", None, "violet tractor sings at 5 am"):
                once = re.search('name="once" type="hidden" value="(.*?)"', shown)[1]
                for _ in range(2):  # a double click
                    form = {"text": text or inbox()[-1]["code"], "once": once}
                    shown = await (await browser.post(url, data=form)).text()
                assert ("the broker refused the code" in shown) == (text == "000000"), (text, shown)
                assert "the broker refused the answer" not in shown, (text, shown)
            assert "Done." in shown, shown
            assert "Login" in await (await stranger.get(url)).text()
        await runner.cleanup()
asyncio.run(drive())
""",
    "api": """
import asyncio
from aiohttp import ClientSession
from reset_flow import from_env
async def drive():
    async with from_env() as service:
        runner = web.AppRunner(make_api(service))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = "http://127.0.0.1:%d/resets" % runner.addresses[0][1]
        async with ClientSession() as client:
            made = await (await client.post(url, json={"user": "robert.zak"})).json()
            mine = url + "/" + made["token"]
            assert (await client.get(url + "/" + made["flow"]["id"])).status == 404
            for number, text in enumerate(("Pedersen", "Peterson", None, "violet tractor sings at 5 am")):
                for _ in range(2):
                    reply = await client.post(mine, json={"text": text or inbox()[-1]["code"]},
                                              headers={"Idempotency-Key": str(number)})
                    told = await reply.json()
                    assert reply.status == (409 if number == 0 else 200), told
            assert (told["state"], told["attempts_left"]) == ("password_set", None)
            assert (await (await client.get(mine)).json()) == told
        await runner.cleanup()
asyncio.run(drive())
""",
    "bot": """
import asyncio
from reset_flow import from_env
async def drive():
    async with from_env() as service:
        bot = Bot(service)
        for number, text in enumerate(("robert.zak", "Peterson", None, "violet tractor sings at 5 am")):
            text = text or inbox()[-1]["code"]
            said = await asyncio.gather(*(bot.reply("42", "message %d" % number, text) for _ in range(2)))
            assert said[0] == said[1], said
        assert said[0] == "Done."
        assert (await bot.reply("43", "message 9", "robert.zak")).endswith("?")
        for _ in range(2):
            assert await bot.reply("43", "message 10", "/cancel") == "Nothing was changed."
        assert len(await service.find("chat 43")) == 1
asyncio.run(drive())
""",
    "job": """
import asyncio
from reset_flow import from_env
async def drive():
    async with from_env() as service:
        jobs = [asyncio.create_task(onboard(service, "ticket-9", "robert.zak")) for _ in range(2)]
        while not (found := await service.find(ref="ticket-9")):
            await asyncio.sleep(0.01)
        for text in ("Peterson", None, "violet tractor sings at 5 am"):
            await service.submit(found[0].id, text or inbox()[-1]["code"])
        assert await asyncio.gather(*jobs) == [True, True]
asyncio.run(drive())
""",
}
"""What drives each road of docs/embedding.md to its end, with the requests that come twice there."""


def between(path: Path, mark: str) -> str:
    match = re.search(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", path.read_text(), re.DOTALL)
    assert match, f"{path} has no place for its {mark}"
    return match[1]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "reset_flow.sandbox", "--port", "0", "--quiet"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout
    try:
        ready = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert ready
        yield ready[0]
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


def road_of(snippet: str) -> str:
    found = re.search(r"<!-- road: (\w+) -->\n```python\n" + re.escape(snippet), EMBEDDING.read_text())
    return found[1] if found else ""


def test_every_road_is_driven() -> None:
    assert sorted(filter(None, (road_of(text) for _, text in blocks("python")))) == sorted(ROADS)


@pytest.mark.parametrize("road", list(ROADS))
def test_every_road_takes_at_most_forty_lines(road: str) -> None:
    found = re.search(rf"<!-- road: {road} -->\n```python\n(.*?)```", EMBEDDING.read_text(), re.DOTALL)
    assert found, "there is no such road"
    assert len([line for line in found[1].splitlines() if line.strip()]) <= 40


def is_run_elsewhere(place: str) -> bool:
    """Return True for the examples that need the SDKs of engines: see tests/other_engines."""
    return place.startswith("docs/engines.md:")


@pytest.mark.parametrize(
    "snippet",
    [pytest.param(text, id=place) for place, text in blocks("python") if not is_run_elsewhere(place)],
)
def test_a_snippet_runs(snippet: str, sandbox: str, tmp_path: Path) -> None:
    for name, text in re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", PROVIDERS.read_text(), re.DOTALL):
        (tmp_path / name).write_text(text)
    (tmp_path / ACCOUNTS_SERVER.name).write_text(ACCOUNTS_SERVER.read_text())
    environment = {
        "PATH": os.environ["PATH"],
        "SANDBOX": sandbox,
        "RESET_FLOW_BROKER_URL": f"{sandbox}/api",
        "RESET_FLOW_BROKER_SECRET": "sandbox",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PERSON + snippet + ROADS.get(road_of(snippet), "")],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if "print(flow.state)" in snippet:
        assert done.stdout == "password_set\n"
    if "pytest.fixture" in snippet:
        (tmp_path / "test_snippet.py").write_text(snippet)
        tests = [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto", "test_snippet.py"]
        done = subprocess.run(
            tests, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stdout


def test_the_readme_opens_with_the_two_commands_and_ten_lines_that_embed() -> None:
    readme = (ROOT / "README.md").read_text()
    commands, embedding = readme.index("```console\nmake demo\nmake test\n```"), readme.index("```python")
    assert commands < embedding
    statements = blocks("python")[0][1].split("async def main")[1].strip().splitlines()
    assert len([line for line in statements if line.strip()]) <= 10


@pytest.mark.parametrize("line", sorted({line for _, block in blocks("console") for line in block.splitlines()}))
def test_a_line_for_the_shell_names_what_exists(line: str) -> None:
    words = line.split()
    match words[0]:
        case "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case "reset-flow":
            shown = subprocess.run(
                [sys.executable, "-m", "reset_flow.cli", *words[1 : 2 + (words[1] in ("keys", "store"))], "--help"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert shown.returncode == 0, shown.stderr
            for option in (word for word in words if word.startswith("--")):
                assert option in shown.stdout
        case "python":
            shown = subprocess.run(
                [sys.executable, *words[1:3], "--help"], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert shown.returncode == 0, shown.stderr
            for option in (word for word in words if word.startswith("--")):
                assert option in shown.stdout
        case "pip" | "export":
            pass
        case _:
            pytest.fail(f"nobody checks {words[0]!r}")


def test_the_diagram_is_the_machine() -> None:
    drawn = between(ROOT / "docs" / "machine.md", "diagram")
    assert drawn == f"```mermaid\n{mermaid()}```\n", "`reset-flow diagram` prints what belongs there"


def command_table() -> str:
    """What docs/machine.md says of the commands."""
    rows = ["| command | may come in | what the broker accepts, refuses, leaves unknown fires |", "| --- | --- | --- |"]
    for each in COMMANDS.values():
        legal = ", ".join(f"`{state}`" for state in each.legal_in) or "–"
        fires = ["`, `".join(triggers) for triggers in (each.accepted, each.rejected, each.unknown)]
        rows.append(f"| `{each.name}` | {legal} | {' / '.join(f'`{each}`' for each in fires if each)} |")
    return "\n".join(rows) + "\n"


def test_the_commands_are_the_table() -> None:
    assert between(ROOT / "docs" / "machine.md", "commands") == command_table()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_inside_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_field_of_the_policy_is_documented() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "policy.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(attrs.fields_dict(Policy))
