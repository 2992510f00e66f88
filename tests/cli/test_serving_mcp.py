"""`reset-flow mcp`: one line for whatever can't be. What it serves is in tests/chat."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

PAGE = ("--public-url", "http://127.0.0.1:8080/")
HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def tokens(home: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "tokens"
    path.touch(mode=0o600)
    path.write_text(text)
    monkeypatch.setenv("RESET_FLOW_MCP_TOKENS_FILE", str(path))


def test_it_is_refused_without_a_page(run: Run) -> None:
    run("mcp").refused(12, "public_url")
    run("mcp", "--public-url", "http://example.com/").refused(12, "public_url", "https")


def test_http_is_refused_without_tokens(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("mcp", "--http", *PAGE).refused(12, "RESET_FLOW_MCP_TOKENS_FILE")
    tokens(home, "# nobody yet\n", monkeypatch)
    run("mcp", "--http", *PAGE).refused(12, "RESET_FLOW_MCP_TOKENS_FILE")


@pytest.mark.parametrize("line", ["bank hunter2-violet", f"{HASH}", f"the bank {HASH}", f"shop {HASH}\nbank {HASH}"])
def test_tokens_that_cannot_be_are_refused_and_not_repeated(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    tokens(home, f"\n{line}\n", monkeypatch)
    ran = run("mcp", "--http", *PAGE)
    ran.refused(12, "line ")
    assert "hunter2" not in ran.err
    assert HASH not in ran.err


def test_a_port_that_is_taken_is_said(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens(home, f"bank {HASH}\n", monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run("mcp", "--http", "--port", str(port), *PAGE).refused(12, str(port))
