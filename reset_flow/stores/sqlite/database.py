"""The file: opened, created where it is missing, and kept from being used across a fork."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import attrs

from reset_flow.domain.errors import ConfigurationError, StoreUnavailable
from reset_flow.stores.sqlite.open_file import LOCKS, SPOILT, OpenFile, examine, inode
from reset_flow.stores.statements import script

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = 1
"""`PRAGMA user_version` of the databases that this release writes; 0 is an empty database."""

APPLICATION_ID = 0x72666C77
OLDEST_SQLITE = (3, 37)

NO_LOG = b"\1\1"
"""At byte 18 of a database without a write-ahead log (https://sqlite.org/fileformat.html#the_database_header)."""

_OPEN: list[Database] = []
"""
Every database that is open, those that a fork inherited included. An inherited connection must be neither used nor
closed. Nor can the file be opened anew beside it: SQLite counts its locks by process, and would take those that the
parent holds for its own; the parent's last close then deletes the log that the child writes to.
"""


@attrs.define(eq=False)
class Database:
    """
    An open file.

    The cursors have a connection each: one for the thread that writes, which waits for other processes that write, and
    one for reads in the event loop, which waits for nobody. Each is used under its lock: the thread may find that the
    file is another one, and close both.
    """

    writer: sqlite3.Cursor
    reader: sqlite3.Cursor
    file: OpenFile
    busy_timeout: float
    pid: int = attrs.field(factory=os.getpid)
    writing: threading.Lock = attrs.field(factory=threading.Lock)
    reading: threading.Lock = attrs.field(factory=threading.Lock)
    closed: bool = False

    def read(self, statement: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        """Return all rows: a statement that is left half-way holds a snapshot, and the log can't be reused."""
        with self.reading:
            return self.reader.execute(statement, values).fetchall()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """
        Keep other stores from writing, and this database from being closed.

        Raises:
            StoreUnavailable: The log was cut off.
        """
        with self.writing, LOCKS.writing(self.file.file, self.busy_timeout):
            self.file.check_log()
            yield

    def check(self) -> None:
        """
        Return if what was committed is where others look for it. Else the database is closed.

        Raises:
            StoreUnavailable: It is not; the message says what to do.
        """
        try:
            self.file.check()
        except StoreUnavailable:
            self._close(write_back=self.file.lost_its_log and LOCKS.has(self.file.file))
            raise

    def explain(self, error: Exception) -> None:
        """
        Return if nothing is known that says more than this error of the driver, and see that it does not stay for good.

        Raises:
            StoreUnavailable: The file or its log is not what it was; the message says what to do.
        """
        self.check()
        if primary_code(error) == sqlite3.SQLITE_IOERR:
            self._close(write_back=False)

    def checkpoint(self) -> None:
        """Copy the log into the file, as far as nobody else reads or writes it."""
        with self.alone():
            self.writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        """Close both connections. The last one that is closed writes the log back, and deletes it."""
        with suppress(StoreUnavailable, sqlite3.Error):
            self.check()
            self.checkpoint()
        self._close(write_back=True)

    def _close(self, *, write_back: bool) -> None:
        with self.writing, self.reading:
            if self.closed:
                return
            self.closed = True
            writer, reader = self.writer.connection, self.reader.connection
            self.writer.close()  # a statement that failed would keep its connection open
            self.reader.close()
            if write_back:
                reader.close()
            else:
                # One that can't write is then the last: the log is not of this file any more, or not of it alone.
                writer.close()
            for _, file, span in self.file.held:
                LOCKS.let_go(file, span)
            (writer if write_back else reader).close()
            for _, file, _ in self.file.held:
                LOCKS.close(file)
            _OPEN.remove(self)


def primary_code(error: Exception) -> int:
    """Return SQLite's code for the kind of an error, or 0: its lower byte, whatever detail stands above it."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_busy(error: Exception) -> bool:
    """Return True if another process was in the way."""
    return primary_code(error) == sqlite3.SQLITE_BUSY


def open_database(path: str, busy_timeout: float, before: OpenFile | None = None) -> Database:
    """
    Open a database; create the file and its tables where they are missing.

    Args:
        before: What was open there a moment ago, if anything. An empty database would stand for one that was lost, so
            none is created.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise ConfigurationError(f"SQLite {sqlite3.sqlite_version} is too old: 3.37 or newer is needed")
    if before is None:
        _create(path)
    found = examine(path)
    if before is not None:
        _check_successor(path, found, before)
    others = [each for each in _OPEN if each.file.file == inode(found)]
    if not others:  # to open it and close it again would drop their locks
        _check_log(path)
    for other in others:
        if other.pid != os.getpid():
            raise StoreUnavailable(
                f"{path} was open when this process was forked, and can't be used in it: fork before a store is "
                "opened, or start the process afresh (spawn)"
            )
        # All connections of a process share the index of the log: one that is not at its place must not be taken over.
        with suppress(StoreUnavailable):
            other.check()
    try:
        return _connected(path, busy_timeout, before, inode(found))
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise ConfigurationError(f"{path} is no SQLite database: give the store a file of its own") from error
        raise


def _check_log(path: str) -> None:
    """Raise `StoreUnavailable` if a log lies beside a file that has none: a backup that was copied there."""
    with suppress(OSError):
        if Path(os.path.realpath(path) + "-wal").stat().st_size:
            with Path(path).open("rb") as file:
                header = file.read(20)
            if header.endswith(NO_LOG):
                raise StoreUnavailable(f"{path} was replaced, {SPOILT}")


def _check_successor(path: str, found: os.stat_result, before: OpenFile) -> None:
    """Raise `StoreUnavailable` if a file can't go on where another one was open."""
    if not found.st_size:
        raise StoreUnavailable(
            f"{path} is empty now: put the database back, restore a backup, or start the service anew to"
            " begin with none"
        )
    with suppress(OSError):
        another = before.overwritten or inode(found) != before.file
        if another and inode(os.lstat(os.path.realpath(path) + "-wal")) == before.log:
            raise StoreUnavailable(f"{path} was replaced, {SPOILT}")


def _connected(path: str, busy_timeout: float, before: OpenFile | None, file: tuple[int, int]) -> Database:
    real = os.path.realpath(path)
    with ExitStack() as undo:
        # Closed in this order if the opening fails: the one that can't write is the last, and writes no log back.
        reader = undo.enter_context(closing(connect(real, 0, read_only=True)))
        writer = undo.enter_context(closing(connect(real, busy_timeout)))
        if before is not None and not schema(writer, path):
            raise StoreUnavailable(f"{path} has lost its tables: put the database back, or restore a backup")
        _prepare(writer, path, busy_timeout)
        opened = OpenFile.at(path)
        schema(reader, path)  # opens the log
        if file != opened.file or opened.inodes != OpenFile.at(path).inodes:
            raise StoreUnavailable(f"{path} or its log was replaced while it was opened: try again")
        if before is not None and file == before.file and opened.size < before.size:
            ((sound,),) = writer.execute("PRAGMA quick_check(1)").fetchall()
            if sound != b"ok":
                raise StoreUnavailable(f"{path} was cut off: restore a backup")
        for each in opened.held:
            LOCKS.hold(*each)
        undo.pop_all()
    database = Database(writer.cursor(), reader.cursor(), opened, busy_timeout)
    _OPEN.append(database)
    with suppress(StoreUnavailable, sqlite3.Error):
        # If one was broken off, nobody knows until its end whether somebody else writes to the file.
        database.checkpoint()
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


def connect(path: str, busy_timeout: float, *, read_only: bool = False) -> sqlite3.Connection:
    """Return a connection that gives texts as bytes, and begins no transaction by itself."""
    mode = "ro" if read_only else "rw"
    db = sqlite3.connect(
        f"file://{quote(os.fsencode(Path(path).absolute()))}?mode={mode}",
        timeout=busy_timeout, isolation_level=None, check_same_thread=False, uri=True,
    )  # fmt: skip
    # Decoded row by row: a text that is not UTF-8 must not spoil its neighbours.
    db.text_factory = bytes
    return db


def _prepare(db: sqlite3.Connection, path: str, busy_timeout: float) -> None:
    # Checked before anything is written, the journal mode included.
    schema(db, path)
    _use_wal(db, path, time.monotonic() + busy_timeout)
    db.execute("PRAGMA synchronous = FULL")
    if schema(db, path) == 0:
        db.execute("BEGIN IMMEDIATE")
        if schema(db, path) == 0:  # no other process was faster
            for statement in script("sqlite", "schema.sql").split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA}")
        db.execute("COMMIT")


def schema(db: sqlite3.Connection, path: str) -> int:
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
