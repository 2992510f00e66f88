"""The page for contributors says what is so: its walk is the walk, its files exist, its tree is the tree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "reset_flow"
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def test_a_verify_passes_the_files_that_the_page_lists_in_their_order() -> None:
    walked = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("walk.py"))], cwd=ROOT, capture_output=True, text=True, check=True
    )
    table = PAGE.split("<!-- walk -->")[1].split("<!-- /walk -->")[0]
    assert re.findall(r"^\| `([\w/]+\.py)` \|", table, re.MULTILINE) == walked.stdout.split()


def test_every_room_and_every_module_in_its_root_is_in_the_tree() -> None:
    tree = PAGE.split("```\nreset_flow/")[1].split("```")[0]
    listed = {line.split()[0].rstrip("/") for line in tree.splitlines() if line.strip()}
    there = {path.name for path in PACKAGE.iterdir() if path.name not in ("__init__.py", "__pycache__", "py.typed")}
    assert listed == there


def test_every_module_of_the_inner_rooms_is_described() -> None:
    for room in ("domain", "engine", "persistence"):
        section = PAGE.split(f"### {room}")[1].split("\n##")[0]
        described = set(re.findall(r"`(\w+\.py)`", section))
        assert described == {path.name for path in (PACKAGE / room).glob("*.py")} - {"__init__.py"}, room


def test_every_file_that_the_page_names_exists() -> None:
    for name in re.findall(r"`((?:\w+/)*\w+\.(?:py|md|toml))`", PAGE):
        places = [ROOT / name, PACKAGE / name, ROOT / "docs" / name, *PACKAGE.glob(f"*/{name}")]
        assert any(place.exists() for place in places), name


@pytest.mark.parametrize(
    "adapter", ["transports/etna", "transports/allauth", "transports/cognito", "chat/mcp", "chat/telegram"]
)
def test_an_adapter_of_ours_is_short(adapter: str) -> None:
    """Without docstrings and blank lines: an author of another one can read it through."""
    source = (PACKAGE / f"{adapter}.py").read_text()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    told = set[int]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            told |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = [line for number, line in enumerate(source.splitlines(), 1) if line.strip() and number not in told]
    assert 50 < len(lines) <= 150
