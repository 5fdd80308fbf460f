"""Transactions: SQL text with :named values, rows as dicts; one code path for every database.

A unit of work is a function of one transaction. It may be called again when the server was lost or two
transactions met, so it changes nothing but the database (and objects that it made itself).
"""

import functools
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from novactl.errors import DatabaseError, Refused

SCHEMA = 8
"""The schema this novactl reads and writes: the newest revision of db/migrations."""

MANY = 500  # values of one IN

Row = dict[str, Any]
T = TypeVar("T")


class Tx(Protocol):
    """One transaction. `memo` is its user's own, for what one decision over many targets reads once."""

    memo: dict[str, Any]

    def all(self, sql: str, **values: Any) -> list[Row]: ...
    def one(self, sql: str, **values: Any) -> Row | None: ...
    def tuples(self, sql: str, **values: Any) -> list[Any]:
        """The rows as tuples in the order of the columns: half the time, for thousands."""
        ...

    def run(self, sql: str, **values: Any) -> int:
        """Number of rows it matched."""
        ...

    def run_all(self, statements: Sequence[tuple[str, Row]]) -> list[int]:
        """run() of each with its values; none depends on what another has done."""
        ...

    def insert(self, table: str, **values: Any) -> None: ...
    def insert_many(self, table: str, rows: Sequence[Row]) -> None:
        """Rows with the same columns; none is fine."""
        ...

    def later(self, table: str, row: str, sql: str, **values: Any) -> None:
        """A statement that changes this row of a table, and whose answer nobody asks for. It waits as inserts
        do; of several that are alike the last one counts."""
        ...

    def settle(self) -> None:
        """Write what waits (Inserting)."""
        ...

    def now(self) -> float:
        """Seconds on the clock that leases are measured by: the same for all who use the database."""
        ...


PARENTS = ("instances", "operations", "networks")
"""Tables that rows of others refer to."""
PLAIN = ("SELECT", "INSERT", "UPDATE", "DELETE")


class Inserting(ABC):
    """How a transaction inserts: rows wait until a statement names their table, or the commit. Then all of a
    table are one statement, however many parts of a decision they come from."""

    def __init__(self) -> None:
        self.memo: dict[str, Any] = {}
        self._waiting: dict[tuple[str, tuple[str, ...]], list[Row]] = {}
        self._late: dict[tuple[str, str, str], Row] = {}
        self._tables: set[str] = set()  # of what waits

    def insert(self, table: str, **values: Any) -> None:
        self.insert_many(table, (values,))

    def insert_many(self, table: str, rows: Sequence[Row]) -> None:
        if rows:
            self._tables.add(table)
            self._waiting.setdefault((table, tuple(rows[0])), []).extend(rows)

    def later(self, table: str, row: str, sql: str, **values: Any) -> None:
        self._tables.add(table)
        self._late[table, row, sql] = values

    def settle(self) -> None:
        """Rows that others refer to first."""
        waiting, late, self._waiting, self._late = self._waiting, self._late, {}, {}
        self._tables.clear()
        for (_, _, sql), values in late.items():
            self.send(sql, values)
        for table, columns in sorted(waiting, key=lambda key: key[0] not in PARENTS):
            self._insert(table, columns, waiting[table, columns])

    def _settle_for(self, sql: str) -> None:
        """Before this statement: it would see what waits, or is none that sees rows (a savepoint)."""
        if self._tables:
            words = _words(sql)
            if not words or not words.isdisjoint(self._tables):
                self.settle()

    @abstractmethod
    def send(self, sql: str, values: Row) -> None:
        """A statement whose answer nobody asks for, now."""

    @abstractmethod
    def _insert(self, table: str, columns: tuple[str, ...], rows: Sequence[Row]) -> None: ...


@functools.lru_cache(maxsize=1024)
def _words(sql: str) -> frozenset[str]:
    """All words of a statement that reads or changes rows, its tables among them; of others none."""
    words = re.findall(r"\w+", sql)
    return frozenset(words) if words[0] in PLAIN else frozenset()


class Rollback(Exception):
    """Raised inside writing() to leave nothing behind."""


class Database(ABC):
    """Where the state of record is. Raises DatabaseError for all that goes wrong with it."""

    shared: bool
    """Whether processes of other machines use it too."""

    @property
    @abstractmethod
    def where(self) -> str:
        """What it is called in messages; holds no password."""

    @property
    @abstractmethod
    def exists(self) -> bool:
        """Whether it was initialised."""

    @abstractmethod
    def create(self, fleet: str) -> None:
        """Make its tables and the fleet's uuid: whole or not at all; of several who do so one wins, and
        one that is there stays as it is."""

    @abstractmethod
    def reading(self) -> AbstractContextManager[Tx]:
        """One try of a consistent view; nothing can be written in it."""

    @abstractmethod
    def writing(self, *, alone: bool = True, adopting: bool = False) -> AbstractContextManager[Tx]:
        """One try of a transaction, committed as a whole when the block ends and rolled back when it
        raises (Rollback: quietly). `alone`: no other write is under way meanwhile, as a decision that
        reads before it writes needs; else only decisions are kept out. Decisions are Refused on a database
        that was restored from an older copy, but for those of `adopting`."""

    @abstractmethod
    def read(self, work: Callable[[Tx], T]) -> T:
        """What `work` finds in a consistent view."""

    @abstractmethod
    def write(self, work: Callable[[Tx], T], *, alone: bool = True, adopting: bool = False) -> T:
        """Commit what `work` does, exactly once, however often the server is lost meanwhile."""

    def rehearse(self, work: Callable[[Tx], T]) -> T:
        """What `work` would find and do; nothing of it stays."""
        kept: list[T] = []
        with self.writing() as tx:
            kept.append(work(tx))
            tx.settle()
            raise Rollback
        return kept[0]

    @abstractmethod
    def schema(self) -> str | None:
        """The schema that it has; None when it has none."""

    @abstractmethod
    def upgrade(self) -> list[str]:
        """Bring it to this novactl's schema; what was done, a line each. Nobody writes meanwhile."""

    @abstractmethod
    def differences(self) -> list[str]:
        """What is not as this novactl makes it, a line each: tables, columns, damage."""

    @abstractmethod
    def close(self) -> None: ...

    def fleet(self) -> str:
        """The fleet's uuid, made by `db init`."""
        value = self.read(lambda tx: meta(tx, "fleet"))
        if value is None:
            raise DatabaseError(f"{self.where}: has no fleet uuid")
        return value


@functools.lru_cache(maxsize=256)
def insertion(table: str, columns: tuple[str, ...], value: str = ":{}") -> str:
    """The statement of an insert; `value` stands for that of a column."""
    quoted = ", ".join(f'"{column}"' for column in columns)
    return f"INSERT INTO {table} ({quoted}) VALUES ({', '.join(map(value.format, columns))})"


def among(tx: Tx, sql: str, values: Sequence[str], rest: str = "", **named: Any) -> list[Row]:
    """Rows of `sql` whose last word is IN, for any number of values."""
    found: list[Row] = []
    for start in range(0, len(values), MANY):
        keys = {f"in{n}": value for n, value in enumerate(values[start : start + MANY])}
        found += tx.all(f"{sql} ({', '.join(f':{key}' for key in keys)}) {rest}", **keys, **named)
    return found


def foresee(tx: Tx, *names: str) -> None:
    """Read at once what meta() will be asked for by a transaction that is alone: nobody else changes it."""
    found = {
        row["name"]: row["value"] for row in among(tx, "SELECT name, value FROM meta WHERE name IN", names)
    }
    tx.memo.setdefault("meta", {}).update(dict.fromkeys(names) | found)


def meta(tx: Tx, name: str) -> str | None:
    """A value of the database's own."""
    foreseen: dict[str, str | None] = tx.memo.get("meta", {})
    if name in foreseen:
        return foreseen[name]
    row = tx.one("SELECT value FROM meta WHERE name = :name", name=name)
    return str(row["value"]) if row else None


def set_meta(tx: Tx, name: str, value: str) -> None:
    """Keep a value of the database's own."""
    change = "UPDATE meta SET value = :value WHERE name = :name"
    foreseen: dict[str, str | None] = tx.memo.get("meta", {})
    if foreseen.get(name) is not None:
        foreseen[name] = value
        tx.later("meta", name, change, name=name, value=value)
    elif not tx.run(change, name=name, value=value):
        tx.insert("meta", name=name, value=value)
        foreseen.pop(name, None)


def count_up(tx: Tx, name: str, by: int = 1) -> int:
    """The next value of a counter of the database's own, or the last one of so many."""
    count = int(meta(tx, name) or 0) + by
    set_meta(tx, name, str(count))
    return count


ADMISSION = "SELECT name, value FROM meta WHERE name IN ('schema', 'restored')"
"""What every transaction reads first, and on servers locks."""


def admit(where: str, rows: list[Row], *, deciding: bool) -> None:
    """Raises DatabaseError unless the schema is ours; Refused for a decision on a database that was found
    to be older than what the hosts know."""
    found = {row["name"]: row["value"] for row in rows}
    if found.get("schema") != str(SCHEMA):
        raise not_ours(where, found.get("schema"))
    if deciding and "restored" in found:
        raise Refused(
            f"{where}: is an older copy of the database: {found['restored']}",
            hint="novactl audit shows the differences, novactl audit --adopt takes over what the hosts know",
        )


def not_ours(where: str, found: object) -> DatabaseError:
    """The error for another schema, or for none."""
    if found is None:
        hint = "novactl db init"
    else:
        older = int(str(found)) < SCHEMA
        hint = "novactl db upgrade" if older else "a newer novactl has upgraded it: use that one"
    return DatabaseError(f"{where}: has schema {found or 'none'}, this novactl needs {SCHEMA}", hint=hint)


_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False)  # json.dumps makes one for each call


def dumps(value: Any) -> str:
    """JSON for a column."""
    return _JSON.encode(value)
