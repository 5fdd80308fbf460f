"""A transaction on a connection to PostgreSQL or MariaDB."""

import contextlib
import functools
import re
import time
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine

from novactl.db.session import Inserting, Row, dumps, insertion

NAMED = re.compile(r"(?<![:\w]):(\w+)")
NOW = {
    "postgresql": "EXTRACT(EPOCH FROM clock_timestamp())::double precision",
    "mysql": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1e6",
}
"""The server's clock, in seconds."""


class ServerTx(Inserting):
    """A transaction on one connection. Statements go to its driver: by way of SQLAlchemy each costs three
    times as much here, and decisions wait for each other."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self._family = family(connection.engine)
        self._ahead: float | None = None  # of our monotonic clock

    def all(self, sql: str, **values: Any) -> list[Row]:
        cursor = self._execute(sql, values)
        rows = cursor.fetchall()
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def one(self, sql: str, **values: Any) -> Row | None:
        cursor = self._execute(sql, values)
        row = cursor.fetchone()
        return row and dict(zip((column[0] for column in cursor.description), row, strict=True))

    def tuples(self, sql: str, **values: Any) -> list[Any]:
        return list(self._execute(sql, values).fetchall())

    def run(self, sql: str, **values: Any) -> int:
        return int(self._execute(sql, values).rowcount)

    def run_all(self, statements: Sequence[tuple[str, Row]]) -> list[int]:
        with self.together():
            cursors = [self._execute(sql, values) for sql, values in statements]
        return [int(cursor.rowcount) for cursor in cursors]

    def settle(self) -> None:
        if self._tables:
            with self.together():
                super().settle()

    def _insert(self, table: str, columns: tuple[str, ...], rows: Sequence[Row]) -> None:
        """One statement. PyMySQL makes one of many rows itself; for psycopg they are one value, since each
        that is bound costs both sides more than all else."""
        if self._family == "mysql":
            self._execute(insertion(table, columns), [_plain(row) for row in rows])
        else:
            self._execute(_many(table, columns), {"rows": dumps(rows)})

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Statements within, whose answers nobody asks for, wait for none of them: one way to the server and
        back for all, where the driver can."""
        if self._family == "mysql":
            yield
            return
        driver = self._connection.connection
        try:
            with driver.driver_connection.pipeline():  # type: ignore[union-attr]
                yield
        except self._connection.dialect.loaded_dbapi.Error as error:
            raise self._as_sqlalchemy(error, "", driver, None) from error

    def now(self) -> float:
        """The server's clock, in seconds; asked once."""
        if self._ahead is None:
            self.told((self.one(f"SELECT {NOW[self._family]} AS now") or {})["now"])
        assert self._ahead is not None
        return time.monotonic() + self._ahead

    def told(self, now: Any) -> None:
        """What the server's clock shows now, if it was asked with something else."""
        if now is not None:
            self._ahead = float(now) - time.monotonic()

    def send(self, sql: str, values: Row | None = None) -> None:
        """A statement whose answer nobody asks for."""
        self._execute(sql, values or {})

    def roll_back(self) -> None:
        self._connection.rollback()

    def _execute(self, sql: str, values: Row | list[Row]) -> Any:
        self._settle_for(sql)
        driver, words = self._connection.connection, _driver_words(sql, self._family)
        cursor = driver.cursor()
        try:
            if isinstance(values, list):
                cursor.executemany(words, values)
            else:
                cursor.execute(words, _plain(values))
        except self._connection.dialect.loaded_dbapi.Error as error:
            raise self._as_sqlalchemy(error, sql, driver, cursor) from error
        return cursor

    def _as_sqlalchemy(self, error: Any, sql: str, driver: Any, cursor: Any) -> Any:
        """The error as SQLAlchemy would raise it; when the server is gone, so are all connections to it."""
        dialect = self._connection.dialect
        gone = dialect.is_disconnect(error, driver.driver_connection, cursor)
        if gone:
            self._connection.invalidate(error)
            self._connection.engine.dispose()
        base = dialect.loaded_dbapi.Error
        return exc.DBAPIError.instance(sql, None, error, base, connection_invalidated=gone, dialect=dialect)


@functools.lru_cache(maxsize=256)
def _many(table: str, columns: tuple[str, ...]) -> str:
    """insertion() of all rows of a JSON text."""
    begin, _, _ = insertion(table, columns).partition("VALUES")
    quoted = ", ".join(f'"{column}"' for column in columns)
    return f"{begin}SELECT {quoted} FROM json_populate_recordset(CAST(NULL AS {table}), CAST(:rows AS json))"


@functools.lru_cache(maxsize=1024)
def _driver_words(sql: str, family: str) -> str:
    """As both drivers take it: SQLAlchemy's own text() costs half as much again for each statement."""
    if family == "mysql":
        sql = sql.replace('"', "`")  # quotes stand only around names: values are always bound
    return NAMED.sub(r"%(\1)s", sql.replace("%", "%%"))


def _plain(values: Row) -> Row:
    """As a driver takes them."""
    return {key: value.value if isinstance(value, Enum) else value for key, value in values.items()}


def family(engine: Engine) -> str:
    """Of which kind the server is."""
    return "postgresql" if engine.dialect.name == "postgresql" else "mysql"
