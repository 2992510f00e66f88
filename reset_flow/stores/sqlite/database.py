"""The file: opened, created where it is missing, and kept from being used across a fork."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import ExitStack, closing, suppress
from importlib.resources import files
from pathlib import Path

import attrs

from reset_flow.domain.errors import ConfigurationError, StoreUnavailable

SCHEMA = 1
"""`PRAGMA user_version` of the databases that this release writes; 0 is an empty database."""

APPLICATION_ID = 0x72666C77
OLDEST_SQLITE = (3, 37)

_OPEN: list[Database] = []
"""
Every database that is open, those that a fork inherited included. An inherited connection must be neither used nor
closed. Nor can the file be opened anew beside it: SQLite counts its locks by process, and would take those that the
parent holds for its own; the parent's last close then deletes the log that the child writes to.
"""


@attrs.frozen(eq=False)
class Database:
    """
    An open file, known by device and inode.

    The cursors have a connection each: one for the thread that writes, which waits for other processes that write, and
    one for reads in the event loop, which waits for nobody.
    """

    writer: sqlite3.Cursor
    reader: sqlite3.Cursor
    file: tuple[int, int]
    pid: int = attrs.field(factory=os.getpid)

    def close(self) -> None:
        """Close both connections."""
        self.reader.connection.close()
        with suppress(sqlite3.Error):
            self.writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self.writer.connection.close()
        _OPEN.remove(self)


def is_busy(error: sqlite3.Error) -> bool:
    """Return True if another process was in the way."""
    # The lower byte is the primary code, whatever detail stands above it.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def open_database(path: str, busy_timeout: float) -> Database:
    """Open a database; create the file and its tables where they are missing."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise ConfigurationError(f"SQLite {sqlite3.sqlite_version} is too old: 3.37 or newer is needed")
    _create(path)
    found = Path(path).stat()
    file = (found.st_dev, found.st_ino)
    if any(database.file == file and database.pid != os.getpid() for database in _OPEN):
        raise StoreUnavailable(
            f"{path} was open when this process was forked, and can't be used in it: fork before a store is opened, "
            "or start the process afresh (spawn)"
        )
    try:
        with ExitStack() as undo:
            writer = undo.enter_context(closing(_connect(path, busy_timeout)))
            reader = undo.enter_context(closing(_connect(path, 0)))
            _prepare(writer, path, busy_timeout)
            reader.execute("PRAGMA query_only = ON")
            undo.pop_all()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise ConfigurationError(f"{path} is no SQLite database: give the store a file of its own") from error
        raise
    database = Database(writer.cursor(), reader.cursor(), file)
    _OPEN.append(database)
    return database


def _create(path: str) -> None:
    try:
        # Only ever a new file: closing a descriptor of an open database drops all its locks.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except FileNotFoundError as error:
        raise StoreUnavailable(f"the folder of {path} does not exist: create it") from error
    except OSError as error:
        raise StoreUnavailable(f"{path} can't be created: {error.strerror}") from error


def _connect(path: str, busy_timeout: float) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
    # Decoded row by row: a text that is not UTF-8 must not spoil its neighbours.
    db.text_factory = bytes
    return db


def _prepare(db: sqlite3.Connection, path: str, busy_timeout: float) -> None:
    # Checked before anything is written, the journal mode included.
    _schema(db, path)
    _use_wal(db, path, time.monotonic() + busy_timeout)
    db.execute("PRAGMA synchronous = FULL")
    if _schema(db, path) == 0:
        db.execute("BEGIN IMMEDIATE")
        if _schema(db, path) == 0:  # no other process was faster
            for statement in files("reset_flow.stores.sqlite").joinpath("schema.sql").read_text().split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA}")
        db.execute("COMMIT")


def _schema(db: sqlite3.Connection, path: str) -> int:
    """Return the schema of a database of this library; 0 if it is empty."""
    # One statement sees one state, also while another process makes the tables.
    ((version, application, tables),) = db.execute(
        "SELECT (SELECT user_version FROM pragma_user_version), (SELECT application_id FROM pragma_application_id), "
        "(SELECT count(*) FROM sqlite_schema)"
    ).fetchall()
    if application != APPLICATION_ID and (version, application, tables) != (0, 0, 0):
        raise ConfigurationError(f"{path} holds something else: give the store a file of its own")
    if version > SCHEMA:
        raise ConfigurationError(
            f"{path} has schema {version}, and this release knows {SCHEMA}: it was written by a newer one, run that"
        )
    return int(version)


def _use_wal(db: sqlite3.Connection, path: str, deadline: float) -> None:
    while True:
        try:
            ((mode,),) = db.execute("PRAGMA journal_mode = WAL").fetchall()
        except sqlite3.OperationalError as error:
            # Two that switch at once would wait for each other, so SQLite refuses without waiting.
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            if mode != b"wal":
                raise ConfigurationError(f"{path} can't have a write-ahead log: put it on a local file system")
            return
