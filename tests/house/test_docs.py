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


@pytest.mark.parametrize("snippet", [pytest.param(text, id=place) for place, text in blocks("python")])
def test_a_snippet_runs(snippet: str, sandbox: str, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "SANDBOX": sandbox,
        "RESET_FLOW_BROKER_URL": f"{sandbox}/api",
        "RESET_FLOW_APP_KEY": "sandbox",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PERSON + snippet],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if "print(flow.state)" in snippet:
        assert done.stdout == "password_set\n"
    if "pytest.fixture" in snippet:
        (tmp_path / "test_snippet.py").write_text(snippet)
        tests = [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto", "test_snippet.py"]
        done = subprocess.run(
            tests, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
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
