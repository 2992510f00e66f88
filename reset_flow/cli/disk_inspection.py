"""What a reader of the disk sees of a flow in a file of SQLite: its clear columns, and whether words are in it."""

from __future__ import annotations

import re
import sqlite3
from base64 import b64encode
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["SQLITE_VERSION", "Row", "count_flows", "database_files", "find_words", "read_row", "search_works"]

SQLITE_VERSION = sqlite3.sqlite_version_info

PLANTED = "marmalade-on-the-windowsill"
"""A word that no flow has."""

SHORTEST = 4
"""Characters of base64 that can be told from chance."""


@attrs.frozen
class Row:
    """
    One flow, as its database has it.

    Attributes:
        clear: The columns that can be read, by name; bytes are not among them.

        sealed: Bytes of the body.
    """

    clear: Mapping[str, Any]
    sealed: int


def database_files(database: Path) -> list[Path]:
    """Return the database and the files that SQLite keeps beside it; of a folder, all that is in it."""
    if database.is_dir():
        return sorted(path for path in database.rglob("*") if path.is_file())
    return sorted(database.parent.glob(f"{database.name}*"))


def find_words(database: Path, words: Mapping[str, str]) -> list[str]:
    """Return the names of the words that any file holds: as text, UTF-16, hexadecimal or base64, in any case."""
    content = b"\n".join(map(_content, database_files(database))).lower()
    return [name for name, word in words.items() if any(re.search(form, content) for form in _forms(word))]


def _content(path: Path) -> bytes:
    """Return the bytes of a file; nothing, if whoever writes it has just removed it."""
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


def _forms(word: str) -> Iterator[bytes]:
    for encoded in (word.encode(), word.encode("utf-16-le"), word.encode("utf-16-be")):
        yield _pattern(encoded)
        yield _pattern(encoded.hex().encode())
    for shift, mixed in enumerate((0, 2, 3)):  # the same bytes look different at each place in a group of three
        text = b64encode(b"\0" * shift + word.encode()).rstrip(b"=")
        inner = text[mixed:-1]  # without the characters that its neighbours have a part in
        if len(inner) > SHORTEST:
            yield _pattern(inner)


def _pattern(form: bytes) -> bytes:
    """Match digits only where they stand alone: a code is no part of a longer number."""
    pattern = re.escape(form.lower())
    return rb"(?<!\d)" + pattern + rb"(?!\d)" if form.isdigit() else pattern


def search_works(database: Path, scratch: Path) -> bool:
    """Return True if the search finds a word that is planted in a copy of the database, and not in the original."""
    with closing(_connect(database)) as original, closing(sqlite3.connect(scratch)) as copy:
        original.backup(copy)
        copy.execute("CREATE TABLE planted (word TEXT)")
        copy.execute("INSERT INTO planted VALUES (?)", (PLANTED,))
        copy.commit()
    try:
        words = {"planted": PLANTED}
        return find_words(scratch, words) == ["planted"] and not find_words(database, words)
    finally:
        for path in database_files(scratch):
            path.unlink()


def read_row(database: Path, flow_id: str) -> Row | None:
    """Return the row of a flow, `None` if there is none."""
    with closing(_connect(database)) as connection:
        connection.row_factory = sqlite3.Row
        row = connection.execute("SELECT * FROM flows WHERE id = ?", (flow_id,)).fetchone()
    if row is None:
        return None
    clear = {name: row[name] for name in row.keys() if not isinstance(row[name], bytes)}  # noqa: SIM118 - not a dict
    return Row(clear, len(row["body"]))


def count_flows(database: Path) -> int:
    """Return how many flows the database has, of all realms but those of side records."""
    with closing(_connect(database)) as connection:
        number: int = connection.execute("SELECT count(*) FROM flows WHERE realm = 'default'").fetchone()[0]
        return number


def _connect(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
