"""What authors of stores and transports get is in the wheel, and the examples of its contracts run from there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from inspect import cleandoc
from pathlib import Path

import pytest

from reset_flow.testing import StoreContract, TransportContract

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "providers.md"
TRANSPORTS = ROOT / "tests" / "transports"
SERVER = TRANSPORTS / "accounts_server.py"
QUICK = "whole_reset or wrong_code or weak_password or another_one_goes"
"""The tests of the contract that need no fault."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder into which the wheel is unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def from_the(wheel: Path) -> str:
    """Return the lines that fail where the package is not the one in the wheel."""
    return f"import reset_flow\nassert reset_flow.__file__ == {str(wheel / 'reset_flow' / '__init__.py')!r}\n"


def example_of(contract: type) -> str:
    example = re.search(r"::\n\n((?:    .*\n|\n)+)", cleandoc(contract.__doc__ or ""))
    assert example
    return cleandoc(example[1])


@pytest.mark.parametrize(
    ("contract", "mine"),
    [
        pytest.param(StoreContract, {"my_package": "from reset_flow import MemoryStore as MyStore"}, id="store"),
        pytest.param(
            TransportContract,
            {
                "my_package": "from functools import partial\nfrom accounts import AccountsTransport\n"
                "MyTransport = partial(AccountsTransport, secret='toy key')",
                "my_package.tests": "from accounts_server import AccountsServer as MyProvider",
            },
            id="transport",
        ),
    ],
)
def test_the_example_of_a_contract_runs_from_the_wheel(
    wheel: Path, tmp_path: Path, contract: type, mine: dict[str, str]
) -> None:
    accounts = re.search(r"<!-- file: accounts.py -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert accounts
    (tmp_path / "accounts.py").write_text(accounts[1])
    (tmp_path / SERVER.name).write_text(SERVER.read_text())
    example = example_of(contract)
    for package, line in mine.items():
        example = re.sub(rf"^from {re.escape(package)} import .*$", line, example, flags=re.MULTILINE)
    (tmp_path / "test_mine.py").write_text(from_the(wheel) + example)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "test_mine.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    tests = sum(name.startswith("test_") for name in dir(contract))
    ran = re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert ran
    assert int(ran[1]) >= tests


def test_our_transports_keep_the_contract_from_the_wheel(wheel: Path) -> None:
    bindings = [TRANSPORTS / "test_contract.py", *sorted(TRANSPORTS.glob("*/test_contract.py"))]
    run = f"{from_the(wheel)}import sys, pytest\nsys.exit(pytest.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", run, "-q", "-p", "no:cacheprovider", "-k", QUICK, *map(str, bindings)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(wheel), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert ran
    assert int(ran[1]) == 4 * 5, "ETNA, django-allauth in three modes, Cognito"
