"""The database on a PostgreSQL or MySQL/MariaDB server, shared by operators on many machines.

READ COMMITTED, and one lock that every write takes: decisions alone, the journal's own writes together.
So what a decision has read holds until it commits, as on SQLite, and no isolation level of either server
has to be trusted with it.
"""

import contextlib
import itertools
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy
import tenacity
from sqlalchemy import exc
from sqlalchemy.engine import URL, Connection, Engine

from novactl.db import server_errors
from novactl.db.server_tx import NOW, ServerTx, family
from novactl.db.session import (
    ADMISSION,
    SCHEMA,
    Database,
    Rollback,
    Row,
    T,
    Tx,
    admit,
    meta,
    not_ours,
)
from novactl.errors import DatabaseError, UsageError

logging.getLogger("sqlalchemy").addHandler(logging.NullHandler())  # it says what we say better

PATIENCE = 60.0  # seconds that a server which was there may be away: a restart, a failover
FIRST_PATIENCE = 5.0  # and one that was not seen yet
IDLE = 30  # seconds after which the server ends a transaction whose client is gone
KEPT = 86400.0  # seconds that marks of commits stay, when their process did not remove them

KEY = 0x6E6F7661
ADMISSION_AND_TIME = f"{ADMISSION} UNION ALL SELECT 'now', CAST({NOW['postgresql']} AS text)"
LOCKS = {
    ("postgresql", True): [f"SELECT pg_advisory_xact_lock({KEY})", ADMISSION_AND_TIME],
    ("postgresql", False): [f"SELECT pg_advisory_xact_lock_shared({KEY})", ADMISSION_AND_TIME],
    ("mysql", True): [f"{ADMISSION} FOR UPDATE"],
    ("mysql", False): [f"{ADMISSION} LOCK IN SHARE MODE"],
}
"""How a write keeps others out, alone or not; the last one admits it. PostgreSQL's row locks are not fair:
those who share one would keep a decision waiting for ever. Its advisory locks queue."""
FIRST_WORDS = {
    "postgresql": [f"SET idle_in_transaction_session_timeout = '{IDLE}s'", f"SET lock_timeout = '{IDLE}s'"],
    "mysql": [
        "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
        f"SET SESSION time_zone = '+00:00', innodb_lock_wait_timeout = {IDLE}, lock_wait_timeout = {IDLE}"
        f" /*M! , idle_transaction_timeout = {IDLE} */",
    ],
}
"""What each connection is told first; /*M! … */ is read by MariaDB alone."""
LOOKING = {
    "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
}
"""And those that only read."""

NO_TABLES = re.compile(r"relation \"meta\" does not exist|\.meta' doesn't exist")


class ServerDatabase(Database):
    """One URL, one pool of connections each for reading and for writing."""

    shared = True

    def __init__(self, url: URL, arguments: dict[str, Any], *, patience: float = PATIENCE) -> None:
        """`arguments` go to the driver's connect(): what must not be seen in a URL."""
        self.url = url
        self._arguments = arguments
        self._patience = patience
        self._seen = self._wrote = False
        self._name = uuid.uuid4().hex
        self._writes = itertools.count(1)
        self._reader = self._engine("REPEATABLE READ", LOOKING)
        self._writer = self._engine("READ COMMITTED")

    @property
    def where(self) -> str:
        return self.url.set(drivername=self.url.get_backend_name()).render_as_string(hide_password=True)

    def _engine(self, isolation: Any, more_words: dict[str, str] | None = None) -> Engine:
        found = sqlalchemy.create_engine(
            self.url, isolation_level=isolation, pool_size=4, max_overflow=28, connect_args=self._arguments
        )

        def greet(connection: Any, _: Any) -> None:
            with contextlib.closing(connection.cursor()) as cursor:
                for words in FIRST_WORDS[family(found)]:
                    cursor.execute(words)
                if more_words is not None:
                    cursor.execute(more_words[family(found)])
            connection.commit()

        def connect(dialect: Any, _: Any, words: Any, options: Any) -> Any:
            try:
                return dialect.connect(*words, **options)
            except TypeError as error:  # PyMySQL, of an option in the URL that it does not know
                raise UsageError(f"--db {self.where}: {error}") from error

        sqlalchemy.event.listen(found, "connect", greet)
        sqlalchemy.event.listen(found, "do_connect", connect)
        return found

    # --- transactions ---

    @contextlib.contextmanager
    def reading(self) -> Iterator[Tx]:
        with self._translated(), self._reader.connect() as connection:
            self._seen = True
            tx = ServerTx(connection)
            admit(self.where, tx.all(ADMISSION), deciding=False)
            yield tx
            tx.settle()

    @contextlib.contextmanager
    def writing(self, *, alone: bool = True, adopting: bool = False, mark: str | None = None) -> Iterator[Tx]:
        """`mark` is written with it; raises _Committed when it is there already."""
        with self._translated(), self._writer.connect() as connection:
            self._seen = True
            connection.begin()
            tx = ServerTx(connection)
            admit(self.where, self._entered(tx, mark, alone=alone), deciding=alone and not adopting)
            try:
                yield tx
                tx.settle()
            except Rollback:
                return
            connection.commit()

    def _entered(self, tx: ServerTx, mark: str | None, *, alone: bool) -> list[Row]:
        """The mark is written, others are kept out: what admit() looks at."""
        *locks, admission = LOCKS[family(self._writer), alone]
        marking = f"INSERT INTO commits (id, at) VALUES (:id, {NOW[family(self._writer)]})"
        try:
            with tx.together():
                if mark is not None:
                    tx.send(marking, {"id": mark})
                for lock in locks:
                    tx.send(lock)
                found = tx.all(admission)
        except exc.IntegrityError as error:
            raise _Committed from error
        except exc.ProgrammingError:  # no such table: another schema, which is the thing to say
            tx.roll_back()
            admit(self.where, tx.all(ADMISSION), deciding=False)
            raise
        tx.told({row["name"]: row["value"] for row in found}.get("now"))
        return found

    def read(self, work: Callable[[Tx], T]) -> T:
        def once() -> T:
            with self.reading() as tx:
                return work(tx)

        return self._until_answered(once)

    def write(self, work: Callable[[Tx], T], *, alone: bool = True, adopting: bool = False) -> T:
        """A commit whose answer was lost is settled by its mark: the next try writes the same one, which
        waits until the lost transaction has ended and is refused if that was by a commit."""
        mark = f"{self._name}/{next(self._writes)}"
        kept: list[T] = []

        def once() -> T:
            with (
                contextlib.suppress(_Committed),
                self.writing(alone=alone, adopting=adopting, mark=mark) as tx,
            ):
                kept[:] = [work(tx)]
            self._wrote = True
            return kept[0]

        return self._until_answered(once)

    def rehearse(self, work: Callable[[Tx], T]) -> T:
        return self._until_answered(lambda: super(ServerDatabase, self).rehearse(work))

    def _until_answered(self, once: Callable[[], T]) -> T:
        def enough(state: tenacity.RetryCallState) -> bool:
            """One that was first seen in this very call is waited for as well."""
            waited = state.seconds_since_start or 0.0
            if self._seen:
                return waited >= self._patience
            return waited + waited / state.attempt_number >= FIRST_PATIENCE  # another try takes as long

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Lost),
            stop=enough,
            wait=tenacity.wait_random_exponential(multiplier=0.02, max=1),
            reraise=True,
        )
        return retrying(once)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors of the server and of the way to it as DatabaseError; _Lost when it may be tried again."""
        try:
            yield
        except exc.DBAPIError as error:
            words = " ".join(str(error.orig).split())
            if NO_TABLES.search(words):
                raise not_ours(self.where, None) from error
            self._seen = self._seen or server_errors.answered(words)
            kind = _Lost if server_errors.may_pass(error, words) else DatabaseError
            raise kind(f"{self.where}: {words}", hint=server_errors.hint(words)) from error
        except exc.SQLAlchemyError as error:
            raise DatabaseError(f"{self.where}: {error}") from error

    # --- the schema ---

    def schema(self) -> str | None:
        def once() -> str | None:
            with self._translated(), self._reader.connect() as connection:
                self._seen = True
                if "meta" not in sqlalchemy.inspect(connection).get_table_names():
                    return None
                return meta(ServerTx(connection), "schema")

        return self._until_answered(once)

    @property
    def exists(self) -> bool:
        return self.schema() is not None

    def create(self, fleet: str) -> None:
        """Of two servers' kinds, one cannot undo a CREATE TABLE: what was begun is gone on with."""
        for left in reversed(range(10)):
            if self.exists:
                return
            try:
                with self._translated(), self._writer.begin() as connection:
                    self._fill(connection, fleet)
            except DatabaseError as error:
                makes_it_too = any(words in error.message.lower() for words in ("exists", "duplicate"))
                if not left or not (makes_it_too or isinstance(error, _Lost)):
                    raise
                time.sleep(0.5)

    def _fill(self, connection: Connection, fleet: str) -> None:
        from novactl.db.tables import metadata

        present = set(sqlalchemy.inspect(connection).get_table_names())
        if present & set(metadata.tables) and "meta" not in present:
            raise DatabaseError(f"{self.where}: holds something else", hint="choose another with --db")
        metadata.tables["meta"].create(connection, checkfirst=True)
        metadata.create_all(connection)
        tx = ServerTx(connection)
        for name, value in (("fleet", fleet), ("schema", str(SCHEMA))):
            tx.insert("meta", name=name, value=value)
        tx.settle()

    def upgrade(self) -> list[str]:
        from novactl.db.migrations import migrate

        with self._translated():
            return migrate(self._writer, self.where)

    def differences(self) -> list[str]:
        from novactl.db.migrations import compare

        with self._translated():
            return compare(self._reader)

    def close(self) -> None:
        """Connections closed, marks of this process and forgotten ones removed."""
        for _ in range(2 if self._wrote else 0):  # the first connection may be older than its server
            try:
                with self.writing(alone=False) as tx:
                    self._forget(tx)
                break
            except DatabaseError:
                continue
        self._reader.dispose()
        self._writer.dispose()

    def _forget(self, tx: Tx) -> None:
        """What is old is looked for without locks: a DELETE that scans would wait for everybody's marks."""
        old = tx.all("SELECT id FROM commits WHERE at < :old", old=tx.now() - KEPT)
        tx.run("DELETE FROM commits WHERE id LIKE :mine", mine=f"{self._name}/%")
        for row in old:
            tx.run("DELETE FROM commits WHERE id = :id", id=row["id"])


class _Lost(DatabaseError):
    """The server went away, or two transactions met: the same work may be tried again."""


class _Committed(Exception):
    """The work was committed by an earlier try, whose answer was lost."""
