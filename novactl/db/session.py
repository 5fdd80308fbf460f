"""Transactions on the database: SQL text with :named values, rows as dicts."""

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from novactl.errors import DatabaseError, NovactlError

SCHEMA = 1
BUSY_SECONDS = 30

Row = dict[str, Any]


class Tx(Protocol):
    """One transaction."""

    def all(self, sql: str, **values: Any) -> list[Row]: ...
    def one(self, sql: str, **values: Any) -> Row | None: ...
    def run(self, sql: str, **values: Any) -> int:
        """Number of rows it matched."""
        ...

    def insert(self, table: str, **values: Any) -> None: ...


class SqliteTx:
    """A transaction on one SQLite connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def all(self, sql: str, **values: Any) -> list[Row]:
        return self._connection.execute(sql, values).fetchall()

    def one(self, sql: str, **values: Any) -> Row | None:
        row: Row | None = self._connection.execute(sql, values).fetchone()
        return row

    def run(self, sql: str, **values: Any) -> int:
        return self._connection.execute(sql, values).rowcount

    def insert(self, table: str, **values: Any) -> None:
        columns = ", ".join(f'"{column}"' for column in values)
        marks = ", ".join(f":{column}" for column in values)
        self._connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", values)


class Rollback(Exception):
    """Raised inside write() to leave nothing behind."""


class Database:
    """A SQLite file: WAL, synchronous FULL, one writer connection per process (its threads take turns),
    a reader connection per thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: sqlite3.Connection | None = None
        self._write_lock = threading.RLock()
        self._readers = threading.local()

    @property
    def exists(self) -> bool:
        """Whether it was initialised."""
        if not self.path.exists():
            return False
        with _translated(self.path), contextlib.closing(self._open()) as connection:
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
        return found is not None

    @contextlib.contextmanager
    def read(self) -> Iterator[SqliteTx]:
        """A consistent view; nothing can be written in it."""
        with _translated(self.path):
            connection = getattr(self._readers, "connection", None)
            if connection is None:
                connection = self._readers.connection = self._opened()
            connection.execute("BEGIN")
            try:
                yield SqliteTx(connection)
            finally:
                _roll_back(connection)

    @contextlib.contextmanager
    def write(self) -> Iterator[SqliteTx]:
        """Committed as a whole when the block ends, rolled back when it raises (Rollback: quietly)."""
        with self._write_lock, _translated(self.path):
            if self._writer is None:
                self._writer = self._opened()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield SqliteTx(self._writer)
                self._writer.execute("COMMIT")
            except Rollback:
                _roll_back(self._writer)
            except BaseException:
                _roll_back(self._writer)
                raise

    def create(self, fleet: str) -> None:
        """Make the file (0600 in a 0700 directory) with its tables: it is there whole or not at all, and
        of several who make it at once one wins. One that is there stays as it is."""
        fresh = Database(self.path.with_name(f".{self.path.name}.{os.getpid()}"))
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.path.unlink(missing_ok=True)
            fresh.path.touch(mode=0o600)
            fresh._fill(fleet)
            if self.path.exists() and self.path.stat().st_size == 0:
                self.path.unlink()
            with contextlib.suppress(FileExistsError):
                self.path.hardlink_to(fresh.path)
            fresh.path.unlink()
        except OSError as error:
            hint = "the directory is missing or is not yours"
            raise DatabaseError(f"{self.path}: {error.strerror}", hint=hint) from error
        if not self.exists:
            raise DatabaseError(f"{self.path}: holds something else", hint="choose another with --db")

    def _fill(self, fleet: str) -> None:
        from sqlalchemy.dialects import sqlite
        from sqlalchemy.schema import CreateIndex, CreateTable

        from novactl.db.tables import metadata

        with _translated(self.path), contextlib.closing(self._open()) as connection:
            dialect = sqlite.dialect()
            connection.execute("BEGIN IMMEDIATE")
            for table in metadata.sorted_tables:
                connection.execute(str(CreateTable(table).compile(dialect=dialect)))
                for index in table.indexes:
                    connection.execute(str(CreateIndex(index).compile(dialect=dialect)))
            for name, value in (("fleet", fleet), ("schema", str(SCHEMA))):
                connection.execute("INSERT INTO meta (name, value) VALUES (?, ?)", (name, value))
            connection.execute("COMMIT")

    def fleet(self) -> str:
        """The fleet's uuid, made by `db init`."""
        with self.read() as tx:
            row = tx.one("SELECT value FROM meta WHERE name = 'fleet'")
        if row is None:
            raise DatabaseError(f"{self.path}: has no fleet uuid")
        return str(row["value"])

    def close(self) -> None:
        for connection in (self._writer, getattr(self._readers, "connection", None)):
            if connection is not None:
                connection.close()
        self._writer = None
        self._readers = threading.local()

    def _opened(self) -> sqlite3.Connection:
        """A connection to a database whose schema is ours."""
        connection = self._open()
        try:
            self._check_schema(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = _as_dict
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        row = connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
        if row is None or int(row["value"]) != SCHEMA:
            found = row["value"] if row else "none"
            raise DatabaseError(
                f"{self.path}: has schema {found}, this novactl needs {SCHEMA}",
                hint="use the novactl that wrote it",
            )


def _roll_back(connection: sqlite3.Connection) -> None:
    """Leave nothing open; SQLite may have rolled back by itself (a full disk)."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> Row:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """SQLite's errors as DatabaseError."""
    try:
        yield
    except NovactlError:
        raise
    except sqlite3.DatabaseError as error:
        hints = {
            "readonly": "the file or its directory cannot be written by you",
            "locked": "another command holds it for very long",
            "not a database": "the file is something else: choose another with --db",
            "no such table": "run novactl db init",
            "unable to open": "the directory is missing or is not yours",
        }
        hint = next((text for words, text in hints.items() if words in str(error)), "")
        raise DatabaseError(f"{path}: {error}", hint=hint) from error


def dumps(value: Any) -> str:
    """JSON for a column."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
