"""The house stays in order: public names, layers, what is installed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import reset_flow
from reset_flow.domain import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "reset_flow"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES: list[str] = PROJECT["dependencies"]
EXTRAS: dict[str, list[str]] = {
    name: packages
    for name, packages in PROJECT["optional-dependencies"].items()
    if name not in ("all", "dev")  # all the others; tools
}


def test_the_public_names_are_sorted_and_are_all_that_is_there() -> None:
    promised = reset_flow.__all__
    assert list(promised) == sorted(promised)
    assert all(hasattr(reset_flow, name) for name in promised)
    modules = {path.stem for path in PACKAGE.iterdir()}
    there = {name for name in vars(reset_flow) if not name.startswith("_")} - modules
    assert there - set(promised) == set()


@pytest.mark.parametrize("module", ["reset_flow", "reset_flow.cli", "reset_flow.sandbox", "reset_flow.testing"])
@pytest.mark.parametrize(
    "elsewhere", ["import os; os.name = 'nt'", "import sys; sys.modules['fcntl'] = None"], ids=["windows", "a browser"]
)
def test_where_the_system_is_no_posix_one_the_import_says_so(elsewhere: str, module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{elsewhere}\nimport {module}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: reset_flow needs a POSIX system: ")
    assert "fcntl" not in last


def test_imports_go_down() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def every_error(root: type[errors.ResetFlowError] = errors.ResetFlowError) -> list[type[errors.ResetFlowError]]:
    return [root, *(each for child in root.__subclasses__() for each in every_error(child))]


def test_every_error_is_public_has_a_code_of_its_own_and_is_drawn_in_the_tree() -> None:
    tree = (errors.__doc__ or "").split()
    shipped = [error for error in every_error() if error.__module__.startswith("reset_flow.domain.")]
    codes = [error.code for error in shipped]
    assert len(set(codes)) == len(codes)
    for error in shipped:
        assert error.__name__ in reset_flow.__all__
        assert error.__name__ in tree


def test_importing_the_library_loads_no_surface_and_no_driver() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, reset_flow; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert "reset_flow.service" in loaded
    assert not {"typer", "rich", "asyncpg", "redis", "opentelemetry", "pytest", "reset_flow.sandbox"} & set(loaded)


def name_of(requirement: str) -> str:
    """Return the distribution's name, normalized."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower()


def imports(tree: ast.Module) -> Iterator[list[str]]:
    """Yield the modules that each import may mean, the most specific one first."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from ([alias.name] for alias in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                yield from ([f"{module}.{alias.name}", module] for alias in node.names)


@cache
def imported() -> dict[str, str]:
    """Return the distributions that the package imports, each with a file that does, wherever in it."""
    providers = {
        re.sub(r"(/__init__)?\.[^/]*$", "", path).replace("/", "."): name_of(distribution.name)
        for distribution in distributions()
        for path in re.findall(r"^[^,]+\.(?:py|so)(?=,)", distribution.read_text("RECORD") or "", re.MULTILINE)
    }
    found = {}
    for path in PACKAGE.rglob("*.py"):
        for modules in imports(ast.parse(path.read_text())):
            if modules[-1].partition(".")[0] not in {"reset_flow", *sys.stdlib_module_names}:
                provider = next((providers[module] for module in modules if module in providers), modules[-1])
                found[provider] = str(path.relative_to(ROOT))
    return found


def test_all_that_the_package_imports_is_a_dependency_or_comes_with_an_extra() -> None:
    declared = {name_of(each) for each in (*DEPENDENCIES, *(each for extra in EXTRAS.values() for each in extra))}
    assert {name: path for name, path in imported().items() if name not in declared} == {}


@pytest.mark.parametrize("requirement", [*DEPENDENCIES, *(each for extra in EXTRAS.values() for each in extra)])
def test_all_that_is_installed_is_imported(requirement: str) -> None:
    assert name_of(requirement) in imported()


def test_the_extra_all_has_all_extras() -> None:
    assert PROJECT["optional-dependencies"]["all"] == [f"reset-flow[{','.join(EXTRAS)}]"]


REACHED_INTO = {
    "fuzz/test_replies.py": {"_retry_after"},  # how a header is read; it takes a server to ask it otherwise
    "integrations/test_dbos.py": {"_sys_db"},  # has DBOS give a workflow up; else, a hundred processes would die of it
    "sandbox/test_command.py": {"_transport"},  # asyncio has no public way to close the reading end of a pipe
    "service/conftest.py": {"_alarm", "_tasks"},  # shared by a timer, and idle: only a test waits for either
    "service/hosted.py": {"_alarm"},  # a process that ends would wait for the timer otherwise
    "service/test_loops_and_forks.py": {"_alarm"},  # that two looks meet is a matter of moments
    "stores/test_sqlite.py": {"_database", "_writer"},  # no other connection sees the settings of the one that writes
    "stores/test_sqlite_loops.py": {"_log_destroy_pending"},  # a task that is meant to be left behind
    "transports/test_etna.py": {"_sender"},  # a traceback with variables shows private attributes, too
}
"""Private names of which tests make use, though they are no names of their own; and why."""


def test_tests_reach_into_private_attributes_only_where_it_says_why() -> None:
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Attribute(value=ast.Name(id="self" | "cls" | "os")) | ast.Attribute(attr="_replace"):
                    pass
                case ast.Attribute(attr=name) if re.match("_[a-z]", name):
                    found.setdefault(str(path.relative_to(ROOT / "tests")), set()).add(name)
    assert found == REACHED_INTO


def test_every_python_that_is_promised_is_tested() -> None:
    listed = re.search(r"^VERSIONS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed
    prefix = "Programming Language :: Python :: "
    promised = [line.removeprefix(prefix) for line in PROJECT["classifiers"] if line.startswith(prefix)]
    assert listed[1].split() == promised
