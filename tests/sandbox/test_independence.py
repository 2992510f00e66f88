"""The sandbox follows only the broker's documents, so that it can disagree with the library."""

import ast
from pathlib import Path

import reset_flow.sandbox

ROOT = Path(reset_flow.sandbox.__file__).parent


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_it_imports_nothing_of_the_library() -> None:
    names = {name for path in ROOT.glob("*.py") for name in imported(path)}
    ours = {name for name in names if name.split(".")[0] == "reset_flow"}
    assert ours
    assert not {name for name in ours if not name.startswith("reset_flow.sandbox")}


def test_its_public_names_are_sorted_and_there() -> None:
    names = reset_flow.sandbox.__all__
    assert names == sorted(names)
    assert all(hasattr(reset_flow.sandbox, name) for name in names)
