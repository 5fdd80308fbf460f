"""The database as a SQLite file of this machine."""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from novactl.db.session import ADMISSION, SCHEMA, Database, Inserting, Rollback, Row, T, Tx, admit, insertion
from novactl.db.wal import WriteAheadLog
from novactl.errors import DatabaseError, NovactlError

BUSY_SECONDS = 30
NETWORK_FILESYSTEMS = frozenset(
    "nfs nfs4 cifs smb3 smbfs 9p afs ceph fuse.sshfs fuse.glusterfs glusterfs lustre ocfs2 gfs2".split()
)
"""Where neither SQLite's locks nor its shared memory hold (sqlite.org/wal.html)."""


class SqliteTx(Inserting):
    """A transaction on one SQLite connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__()
        self._connection = connection

    def all(self, sql: str, **values: Any) -> list[Row]:
        cursor = self._looked(sql, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def one(self, sql: str, **values: Any) -> Row | None:
        cursor = self._looked(sql, values)
        row = cursor.fetchone()
        return row and dict(zip((column[0] for column in cursor.description), row, strict=True))

    def tuples(self, sql: str, **values: Any) -> list[Any]:
        return self._looked(sql, values).fetchall()

    def _looked(self, sql: str, values: Row) -> sqlite3.Cursor:
        self._settle_for(sql)
        cursor = self._connection.cursor()
        cursor.row_factory = None  # its names once, not for each row
        return cursor.execute(sql, values)

    def run(self, sql: str, **values: Any) -> int:
        self._settle_for(sql)
        return self._connection.execute(sql, values).rowcount

    def run_all(self, statements: Sequence[tuple[str, Row]]) -> list[int]:
        return [self.run(sql, **values) for sql, values in statements]

    def send(self, sql: str, values: Row) -> None:
        self._connection.execute(sql, values)

    def _insert(self, table: str, columns: tuple[str, ...], rows: Sequence[Row]) -> None:
        """By position: names are looked up for each row and value."""
        values = (tuple(map(row.__getitem__, columns)) for row in rows)
        self._connection.executemany(insertion(table, columns, "?"), values)

    def now(self) -> float:
        """Seconds since this machine's boot, those of its sleep included (clock_gettime(2))."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class SqliteDatabase(Database):
    """WAL, synced before a write has ended, one writer connection per process (its threads take turns), a
    reader connection per thread."""

    shared = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: tuple[sqlite3.Connection, WriteAheadLog] | None = None
        self._write_lock = threading.RLock()
        self._readers = threading.local()

    @property
    def where(self) -> str:
        return str(self.path)

    @property
    def exists(self) -> bool:
        return self.path.exists() and self.schema() is not None

    def schema(self) -> str | None:
        with _translated(self.path), contextlib.closing(self._open()) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                return None
            row = connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
        return row["value"] if row else None

    @contextlib.contextmanager
    def reading(self) -> Iterator[Tx]:
        with _translated(self.path):
            connection = getattr(self._readers, "connection", None)
            if connection is None:
                connection = self._open()
                connection.execute("PRAGMA query_only = ON")
                self._readers.connection = connection
            connection.execute("BEGIN")
            try:
                self._admit(connection, deciding=False)
                tx = SqliteTx(connection)
                yield tx
                tx.settle()
            finally:
                _roll_back(connection)

    @contextlib.contextmanager
    def writing(self, *, alone: bool = True, adopting: bool = False) -> Iterator[Tx]:
        """Every write is alone here, whatever is asked for. It is on the disk when the block has ended."""
        with _translated(self.path):
            with self._write_lock:
                writer, log = self._opened()
                before = writer.total_changes
                with log.turn(BUSY_SECONDS):
                    writer.execute("BEGIN IMMEDIATE")
                    try:
                        self._admit(writer, deciding=alone and not adopting)
                        tx = SqliteTx(writer)
                        yield tx
                        tx.settle()
                        writer.execute("COMMIT")
                    except Rollback:
                        _roll_back(writer)
                        return
                    except BaseException:
                        _roll_back(writer)
                        raise
                changed = writer.total_changes != before
            if changed:
                log.sync()

    def _opened(self) -> tuple[sqlite3.Connection, WriteAheadLog]:
        if self._writer is None:
            connection = self._open()
            connection.execute("PRAGMA synchronous = NORMAL")  # log.sync() does the rest
            self._writer = connection, WriteAheadLog(connection)
        return self._writer

    def read(self, work: Callable[[Tx], T]) -> T:
        with self.reading() as tx:
            return work(tx)

    def write(self, work: Callable[[Tx], T], *, alone: bool = True, adopting: bool = False) -> T:
        with self.writing(alone=alone, adopting=adopting) as tx:
            return work(tx)

    def create(self, fleet: str) -> None:
        """The file is 0600 in a 0700 directory."""
        fresh = SqliteDatabase(self.path.with_name(f".{self.path.name}.{os.getpid()}"))
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.path.unlink(missing_ok=True)
            fresh.path.touch(mode=0o600)
            fresh._fill(fleet)
            if self.path.exists():
                if self.path.stat().st_size == 0:
                    self.path.chmod(0o600)
                self._fill(fleet)
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

        from novactl.db.tables import statements

        with _translated(self.path), contextlib.closing(self._open()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                return  # somebody else was first
            for statement in statements(sqlite.dialect()):
                connection.execute(statement)
            for name, value in (("fleet", fleet), ("schema", str(SCHEMA))):
                connection.execute("INSERT INTO meta (name, value) VALUES (?, ?)", (name, value))
            connection.execute("COMMIT")

    def upgrade(self) -> list[str]:
        from novactl.db.migrations import migrate

        with _translated(self.path), self._engine() as engine:
            return migrate(engine, self.where)

    def differences(self) -> list[str]:
        from novactl.db.migrations import compare

        with _translated(self.path), contextlib.closing(self._open()) as connection:
            checks = [row["integrity_check"] for row in connection.execute("PRAGMA integrity_check")]
            keys = connection.execute("PRAGMA foreign_key_check").fetchall()
        damage = [f"damaged: {text}" for text in checks if text != "ok"]
        damage += [
            f"damaged: a row of {row['table']} names a row of {row['parent']} that is not there"
            for row in keys
        ]
        with _translated(self.path), self._engine() as engine:
            return damage + compare(engine)

    @contextlib.contextmanager
    def _engine(self) -> Iterator[Any]:
        """SQLAlchemy on the same file, for migrations: BEGIN IMMEDIATE, DDL within it."""
        import sqlalchemy
        from sqlalchemy.exc import DBAPIError

        engine = sqlalchemy.create_engine("sqlite://", creator=self._plain, poolclass=sqlalchemy.NullPool)
        sqlalchemy.event.listen(engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
        try:
            yield engine
        except DBAPIError as error:
            raise (error.orig or error) from error

    def _plain(self) -> sqlite3.Connection:
        connection = self._open()
        connection.row_factory = None
        connection.execute("PRAGMA foreign_keys = OFF")
        return connection

    def close(self) -> None:
        for one in (*(self._writer or ()), getattr(self._readers, "connection", None)):
            if one is not None:
                one.close()
        self._writer = None
        self._readers = threading.local()

    def _open(self) -> sqlite3.Connection:
        refuse_network_filesystem(self.path)
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = _as_dict
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def _admit(self, connection: sqlite3.Connection, *, deciding: bool) -> None:
        admit(str(self.path), connection.execute(ADMISSION).fetchall(), deciding=deciding)


def refuse_network_filesystem(path: Path, mounts: str | None = None) -> None:
    """Raises DatabaseError when the file's directory is on a network file system, by the mount that
    covers it in /proc/self/mounts (or `mounts`, its text)."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text()
        except OSError:
            return
    directory = path.parent.resolve()
    best, kind = -1, ""
    for line in mounts.splitlines():
        _, at, type_, *_ = line.split(" ")
        place = Path(at.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        if directory.is_relative_to(place) and len(place.parts) >= best:
            best, kind = len(place.parts), type_
    if kind in NETWORK_FILESYSTEMS:
        raise DatabaseError(
            f"{path}: is on a network file system ({kind}), where SQLite's locks do not hold",
            hint="keep it on a local disk; several machines share PostgreSQL or MariaDB",
        )


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Put the file into WAL mode. SQLite itself does not wait while others do so to the same empty file."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.005)
        else:
            return


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
