"""The three databases for tests: SQLite files, and databases of the servers that the suite starts.

A place gives a fresh database, the same one as another process has it, and a copy of it with all in it.
Most tests share one server of each kind and its databases; tests that stop a server have one of their own.
"""

import contextlib
import copy
import multiprocessing
import os
import sqlite3
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
import sqlalchemy

from novactl.db import connect
from novactl.db.servers import PATIENCE, ServerDatabase
from novactl.db.session import SCHEMA, Database
from novactl.db.sqlite import SqliteDatabase
from novactl.db.tables import metadata
from tests.support import scratch
from tests.support.servers import MariadbServer, PostgresServer, Server, _shared

T = TypeVar("T")
KINDS = ("sqlite", "postgresql", "mariadb")


class Place(Protocol):
    """Where databases of one kind come from."""

    kind: str

    def fresh(self, directory: Path) -> Database:
        """An empty database with its tables and scratch.FLEET."""
        ...

    def bare(self, directory: Path) -> Database:
        """One that nobody has initialised; it is not used again."""
        ...

    def again(self, db: Database) -> Database:
        """The same one, for another process."""
        ...

    def apart(self, db: Database) -> Database:
        """The same one, with connections of its own: for a real process, or to be closed."""
        ...

    def twin(self, db: Database, directory: Path) -> Database:
        """Another one with the same in it."""
        ...

    def release(self, db: Database) -> None:
        """It is not needed any more."""
        ...

    def discard(self, db: Database) -> None:
        """It is not needed any more, and is not as others want it."""
        ...


class SqlitePlace:
    kind = "sqlite"

    def __init__(self) -> None:
        self._frozen: dict[str, tuple[object, bytes]] = {}

    def fresh(self, directory: Path) -> SqliteDatabase:
        return scratch.database(directory / "novactl.db")

    def bare(self, directory: Path) -> SqliteDatabase:
        return SqliteDatabase(directory / "bare.db")

    def again(self, db: Database) -> SqliteDatabase:
        assert isinstance(db, SqliteDatabase)
        return SqliteDatabase(db.path)

    apart = again

    def twin(self, db: Database, directory: Path) -> SqliteDatabase:
        assert isinstance(db, SqliteDatabase)
        path = directory / "novactl.db"
        path.write_bytes(self._content(db))
        return SqliteDatabase(path)

    def _content(self, db: SqliteDatabase) -> bytes:
        """The file as a whole; read again only when somebody wrote."""
        with db.writing() as tx:
            connection: Any = getattr(tx, "_connection")  # noqa: B009
            version = (tx.one("PRAGMA data_version") or {})["data_version"], connection.total_changes
        if self._frozen.get(db.where, (None,))[0] != version:
            with contextlib.closing(sqlite3.connect(db.path)) as plain:
                self._frozen[db.where] = version, plain.serialize()
        return self._frozen[db.where][1]

    def release(self, db: Database) -> None:
        self._frozen.pop(db.where, None)
        db.close()

    discard = release


class _Again(ServerDatabase):
    """Another process's view: closing it leaves the connections to the others."""

    def close(self) -> None:
        pass


class ServerPlace:
    """Databases of one server; those released are used again."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.kind = server.KIND
        self._free: list[ServerDatabase] = []
        self._count = 0
        self._pid = server.pid

    def open(self, url: str) -> ServerDatabase:
        """As the command line would."""
        with password(self.server):
            found = connect.database(url, Path("unused"))
        assert isinstance(found, ServerDatabase)
        return found

    def fresh(self, directory: Path) -> ServerDatabase:
        if self._pid != self.server.pid:  # a test has restarted it: connections from before are dead
            self._pid = self.server.pid
            for known in self._free:
                known.close()
        db = self._free.pop() if self._free else self._new()
        fill(
            db,
            {"meta": [{"name": "fleet", "value": scratch.FLEET}, {"name": "schema", "value": str(SCHEMA)}]},
        )
        return db

    def _new(self) -> ServerDatabase:
        db = self.bare(Path("unused"))
        db.create(scratch.FLEET)
        return db

    def bare(self, directory: Path) -> ServerDatabase:
        self._count += 1
        return self.open(self.server.create_database(f"test_{os.getpid()}_{self._count}"))

    def again(self, db: Database) -> Database:
        other = copy.copy(db)
        other.__class__ = _Again
        return other

    def apart(self, db: Database, patience: float = PATIENCE) -> ServerDatabase:
        assert isinstance(db, ServerDatabase)
        return ServerDatabase(db.url, db._arguments, patience=patience)

    def twin(self, db: Database, directory: Path) -> ServerDatabase:
        other = self._free.pop() if self._free else self._new()
        fill(other, content(db))
        return other

    def release(self, db: Database) -> None:
        assert isinstance(db, ServerDatabase)
        self._free.append(db)

    def discard(self, db: Database) -> None:
        assert isinstance(db, ServerDatabase)
        db.close()
        assert db.url.database
        self.server.drop_database(db.url.database)


@contextlib.contextmanager
def password(server: Server) -> Iterator[None]:
    """The environment that tells novactl the server's password."""
    before = os.environ.get("NOVACTL_DB_PASSWORD")
    os.environ["NOVACTL_DB_PASSWORD"] = server.password
    try:
        yield
    finally:
        if before is None:
            del os.environ["NOVACTL_DB_PASSWORD"]
        else:
            os.environ["NOVACTL_DB_PASSWORD"] = before


def content(db: Database) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables, in an order in which they can be inserted."""
    with db.reading() as tx:
        return {table.name: tx.all(f"SELECT * FROM {table.name}") for table in metadata.sorted_tables}


def fill(db: ServerDatabase, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Nothing but these rows are in it; its server may have been started again since it was used."""

    def once() -> None:
        with db._translated():
            _fill(db, rows)

    db._until_answered(once)


def _fill(db: ServerDatabase, rows: dict[str, list[dict[str, Any]]]) -> None:
    with db._writer.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
        for table in metadata.sorted_tables:
            if rows.get(table.name):
                connection.execute(sqlalchemy.insert(table), rows[table.name])
        if connection.dialect.name == "postgresql":  # which counts on from what it has given itself
            newest = "SELECT setval('events_id_seq', (SELECT COALESCE(MAX(id), 0) + 1 FROM events), false)"
            connection.execute(sqlalchemy.text(newest))


SERVERS: dict[str, type[Server]] = {"postgresql": PostgresServer, "mariadb": MariadbServer}


@cache
def place(kind: str) -> Place:
    """The one of this kind for the whole run; its server is started when first asked for."""
    if kind == "sqlite":
        return SqlitePlace()
    server = _shared(SERVERS[kind])
    server.start()
    return ServerPlace(server)


@cache
def _lonely(kind: str) -> ServerPlace:
    return ServerPlace(SERVERS[kind]())


def server_of_its_own(kind: str) -> ServerPlace:
    """One that nobody else minds being stopped, running."""
    found = _lonely(kind)
    found.server.start()
    return found


@pytest.fixture(params=KINDS)
def everywhere(request: pytest.FixtureRequest) -> Place:
    """Each kind of database in turn."""
    return place(request.param)


@pytest.fixture
def db(everywhere: Place, quick: Path) -> Iterator[Database]:
    """A fresh database of each kind in turn."""
    found = everywhere.fresh(quick)
    yield found
    everywhere.release(found)


def in_processes(work: Callable[[Database, int], T], make: Callable[[], Database], count: int) -> list[T]:
    """What `work` returned in each of several processes that began together, each with a database object
    that it made itself: no connection crosses a fork."""
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(count), context.Queue()

    def process(number: int) -> None:
        db = make()
        barrier.wait(60)
        try:
            answers.put((True, work(db, number)))
        except BaseException as error:  # noqa: BLE001 - told to the test
            answers.put((False, repr(error)))
        db.close()

    workers = [context.Process(target=process, args=(number,)) for number in range(count)]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    failures = [why for succeeded, why in found if not succeeded]
    assert failures == [], failures
    return [value for _, value in found]
