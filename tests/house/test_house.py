"""The house stays in order: public names, layers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import reset_flow
from reset_flow.domain import errors

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "reset_flow"


def test_the_public_names_are_sorted_and_are_all_that_is_there() -> None:
    promised = reset_flow.__all__
    assert list(promised) == sorted(promised)
    assert all(hasattr(reset_flow, name) for name in promised)
    modules = {path.stem for path in PACKAGE.iterdir()}
    there = {name for name in vars(reset_flow) if not name.startswith("_")} - modules
    assert there - set(promised) == set()


def test_imports_go_down() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def every_error(root: type[errors.ResetFlowError] = errors.ResetFlowError) -> list[type[errors.ResetFlowError]]:
    return [root, *(each for child in root.__subclasses__() for each in every_error(child))]


def test_every_error_is_public_has_a_code_of_its_own_and_is_drawn_in_the_tree() -> None:
    tree = (errors.__doc__ or "").split()
    shipped = [error for error in every_error() if error.__module__.startswith("reset_flow.")]
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
    assert not {"typer", "rich", "asyncpg", "redis", "jinja2", "pytest", "reset_flow.sandbox"} & set(loaded)
