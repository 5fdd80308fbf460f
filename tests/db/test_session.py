"""What every database promises: SQLite, PostgreSQL and MariaDB alike."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from novactl.db import hosts
from novactl.db.session import SCHEMA, Database, Rollback, Tx, count_up, dumps, meta, set_meta
from novactl.errors import DatabaseError, Refused
from tests.support import fleet, scratch
from tests.support.databases import KINDS, Place, place

OLDER = str(SCHEMA - 1)
NEWER = str(SCHEMA + 1)
OWN = {"fleet", "schema"}


def names(db: Database) -> set[str]:
    return db.read(lambda tx: {row["name"] for row in tx.all("SELECT name FROM meta")})


def value(db: Database, name: str) -> str | None:
    return db.read(lambda tx: meta(tx, name))


def put(name: str, value: str = "x") -> Callable[[Tx], None]:
    return lambda tx: tx.insert("meta", name=name, value=value)


def in_threads(*works: Callable[[], object]) -> list[BaseException]:
    """What went wrong when all of them ran at once."""
    wrong: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told to the test
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return wrong


# --- transactions ---


@pytest.mark.parametrize("alone", [True, False])
def test_a_commit_is_there_for_all_and_gives_what_work_returned(
    db: Database, everywhere: Place, alone: bool
) -> None:
    def work(tx: Tx) -> str:
        put("a")(tx)
        return "done"

    assert db.write(work, alone=alone) == "done"
    other = everywhere.apart(db)
    assert names(other) == {*OWN, "a"}
    other.close()


@pytest.mark.parametrize("alone", [True, False])
def test_a_write_that_raises_leaves_nothing(db: Database, alone: bool) -> None:
    def raising(error: BaseException) -> Callable[[Tx], None]:
        def work(tx: Tx) -> None:
            put("a")(tx)
            raise error

        return work

    for error in (Refused("no"), KeyboardInterrupt(), ZeroDivisionError()):
        with pytest.raises(type(error)):
            db.write(raising(error), alone=alone)
    with db.writing(alone=alone) as tx:
        put("a")(tx)
        raise Rollback
    assert names(db) == OWN
    db.write(put("a"), alone=alone)  # and the connection is as good as new


def test_a_rehearsal_finds_and_leaves_nothing(db: Database) -> None:
    def work(tx: Tx) -> list[str]:
        put("a")(tx)
        put("b")(tx)
        return [row["name"] for row in tx.all("SELECT name FROM meta ORDER BY name")]

    for _ in range(2):
        assert db.rehearse(work) == ["a", "b", "fleet", "schema"]
    assert names(db) == OWN
    with pytest.raises(Refused, match=r"^no$"):
        db.rehearse(lambda tx: (_ for _ in ()).throw(Refused("no")))
    db.write(work)


def test_a_read_sees_one_moment(db: Database, everywhere: Place) -> None:
    other = everywhere.apart(db)
    with db.reading() as before:
        assert meta(before, "a") is None
        other.write(put("a"))
        other.write(lambda tx: set_meta(tx, "fleet", "another"))
        assert (meta(before, "a"), meta(before, "fleet")) == (None, scratch.FLEET)
        assert value(other, "a") == "x"
    assert (value(db, "a"), db.fleet()) == ("x", "another")
    other.close()


@pytest.mark.parametrize(
    "work", [put("a"), lambda tx: tx.run("DELETE FROM meta"), lambda tx: count_up(tx, "serial")]
)
def test_a_read_writes_nothing(db: Database, work: Callable[[Tx], object]) -> None:
    with pytest.raises(DatabaseError, match=r"(?i)read.?only") as caught:
        db.read(work)
    assert caught.value.code == 9
    assert names(db) == OWN


def test_a_decision_is_alone(db: Database, everywhere: Place) -> None:
    """Neither another decision nor a write of the journal commits between what it reads and its end."""
    for first, second in ((True, True), (True, False), (False, True)):
        other = everywhere.apart(db)
        order: list[str] = []
        inside = threading.Event()

        def hold(alone: bool = first, inside: Any = inside, order: Any = order) -> None:
            with db.writing(alone=alone) as tx:
                tx.one("SELECT 1 AS yes")
                inside.set()
                time.sleep(0.3)
                order.append("first")

        def come(alone: bool = second, inside: Any = inside, order: Any = order, other: Any = other) -> None:
            inside.wait(10)
            with other.writing(alone=alone):
                order.append("second")

        assert in_threads(hold, come) == []
        assert order == ["first", "second"], (first, second)
        other.close()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_writes_of_the_journal_do_not_wait_for_each_other(kind: str, quick: Path) -> None:
    db = place(kind).fresh(quick)
    together = threading.Barrier(8)

    def work(tx: Tx, n: int) -> None:
        put(f"a{n}")(tx)
        together.wait(10)  # all are inside at once

    def write(n: int) -> Callable[[], None]:
        return lambda: db.write(lambda tx: work(tx, n), alone=False)

    assert in_threads(*(write(n) for n in range(8))) == []
    assert names(db) == {*OWN, *(f"a{n}" for n in range(8))}
    place(kind).release(db)


def test_decisions_of_threads_and_of_others_count_exactly(db: Database, everywhere: Place) -> None:
    others = [db, everywhere.apart(db), everywhere.apart(db)]

    def counting(which: Database) -> Callable[[], None]:
        def count() -> None:
            for _ in range(20):
                which.write(lambda tx: count_up(tx, "count"))

        return count

    assert in_threads(*(counting(others[n % 3]) for n in range(9))) == []
    assert value(db, "count") == "180"
    for other in others[1:]:
        other.close()


def test_a_number_of_rows_is_of_those_that_match(db: Database) -> None:
    def work(tx: Tx) -> tuple[int, int, int]:
        same = tx.run("UPDATE meta SET value = value")
        return same, tx.run("UPDATE meta SET value = '2' WHERE name = 'x'"), tx.run("DELETE FROM commits")

    assert db.rehearse(work)[:2] == (2, 0)


def test_the_clock_goes_on_and_is_the_same_for_all(db: Database, everywhere: Place) -> None:
    other = everywhere.apart(db)
    with db.reading() as tx, other.reading() as also:
        before, between = tx.now(), also.now()
        time.sleep(0.05)
        after = tx.now()
    assert before <= between <= after
    assert 0.05 <= after - before < 5
    other.close()


# --- values ---

TEXTS = [
    "",
    " leading and trailing ",
    'it\'s "quoted" and `quoted`',
    "back\\slash \\n \\' \\\\",
    "100 % %s %(name)s %% _",
    ":colon :name ::text \\:x",
    "é ü ß 漢字 \U0001f600 e\u0301 \u202e",
    "line\nline\r\n\ttab\x01\x7f",
    "'); DROP TABLE meta; --",
    "{} {0} $1 ? @x #y /*! z */ -- w",
    "NULL",
    "x" * (64 * 1024 + 1),
    "漢" * (1 << 18) + "é" * (1 << 18),
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:12]))
def test_text_comes_back_as_it_was_given(db: Database, text: str) -> None:
    db.write(put("a", text))
    found = "SELECT value FROM meta WHERE name = 'a' AND value = :text"
    assert db.read(lambda tx: tx.all(found, text=text)) == [{"value": text}]
    assert db.read(lambda tx: tx.one("SELECT value FROM meta WHERE name = :name", name=text)) is None


def test_odd_names_are_kept_and_found(db: Database) -> None:
    odd = [text for text in TEXTS if 0 < len(text) < 64]
    db.write(lambda tx: [put(name, name)(tx) for name in odd])
    for name in odd:
        assert value(db, name) == name
    assert db.read(lambda tx: tx.all("SELECT name FROM meta WHERE name LIKE '100 %'"))


def test_numbers_come_back(db: Database) -> None:
    given = [0.1, 1.23456789012345, 1e-300, 1.7e308, 16777217.0, 1759276800.123456]

    def work(tx: Tx) -> None:
        for n, number in enumerate(given):
            tx.insert("commits", id=f"x-{n}", at=number)
        hosts.add(tx, fleet.host(memory_mib=(1 << 31) - 1))

    db.write(work)
    rows = db.read(lambda tx: tx.all("SELECT at FROM commits WHERE id LIKE 'x-%' ORDER BY id"))
    assert [row["at"] for row in rows] == given
    assert {type(row["at"]) for row in rows} == {float}
    host = db.read(lambda tx: tx.one("SELECT memory_mib, jump, version FROM hosts"))
    assert host == {"memory_mib": (1 << 31) - 1, "jump": None, "version": 0}


def test_a_number_too_large_is_refused_or_kept_but_not_changed(db: Database) -> None:
    try:
        db.write(lambda tx: hosts.add(tx, fleet.host(memory_mib=1 << 40)))
    except DatabaseError as error:
        assert "out of range" in error.message.lower()
        assert db.read(hosts.everything) == []
    else:
        assert db.read(lambda tx: hosts.get(tx, "kvm1")).memory_mib == 1 << 40


def test_ratios_of_a_host_are_as_exact_as_the_scheduler_s(db: Database) -> None:
    ratios = {"cpu_ratio": 1.23456789012, "memory_ratio": 0.1, "disk_ratio": 16.7}
    db.write(lambda tx: hosts.add(tx, fleet.host(**ratios)))
    host = db.read(lambda tx: hosts.get(tx, "kvm1"))
    assert {name: getattr(host, name) for name in ratios} == ratios
    product = db.read(lambda tx: tx.one("SELECT memory_ratio * 1000 AS n FROM hosts"))
    assert product == {"n": 0.1 * 1000}


def test_names_are_compared_and_sorted_byte_by_byte(db: Database) -> None:
    given = "web1 Web1 WEB1 web10 web2 wéb1 we\u0301b1 web-1 web_1 Z a ß ss é z \U0001f600 \uffee".split()
    db.write(lambda tx: [put(name, name)(tx) for name in given])  # no two are the same
    found = db.read(lambda tx: [row["name"] for row in tx.all("SELECT name FROM meta ORDER BY name")])
    assert found == sorted([*given, *OWN], key=str.encode)
    for name in given:
        for column in ("name", "value"):
            rows = db.read(lambda tx: tx.all(f"SELECT name FROM meta WHERE {column} = :n", n=name))  # noqa: B023
            assert rows == [{"name": name}]


def test_what_is_unique_stays_so(db: Database) -> None:
    for alone in (True, False):
        with pytest.raises(DatabaseError, match=r"(?i)unique|duplicate") as caught:
            db.write(put("fleet", "another"), alone=alone)
        assert type(caught.value.__cause__).__name__ == "IntegrityError"
        assert caught.value.code == 9
        assert db.where in caught.value.message
    assert db.fleet() == scratch.FLEET


def test_a_row_that_is_named_must_be_there(db: Database) -> None:
    row = {"kind": "host", "id": "kvm1", "mode": "S", "exclusive": None}
    with pytest.raises(DatabaseError, match=r"(?i)foreign key"):
        db.write(lambda tx: tx.insert("op_locks", operation="op-9", **row))


def test_json_for_a_column_is_sorted_and_readable() -> None:
    assert dumps({"b": "é", "a": None}) == '{"a": null, "b": "é"}'


# --- admission ---


def with_schema(db: Database, schema: str) -> None:
    with db.writing() as tx:
        set_meta(tx, "schema", schema)


HOWS: dict[str, Callable[[Database], object]] = {
    "read": lambda db: db.read(lambda tx: pytest.fail("it was opened")),
    "write": lambda db: db.write(lambda tx: pytest.fail("it was opened")),
    "journal": lambda db: db.write(lambda tx: pytest.fail("it was opened"), alone=False),
    "adopt": lambda db: db.write(lambda tx: pytest.fail("it was opened"), adopting=True),
    "rehearse": lambda db: db.rehearse(lambda tx: pytest.fail("it was opened")),
    "fleet": lambda db: db.fleet(),
}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("schema", ["1", OLDER, NEWER, "999"])
def test_another_schema_is_refused_every_time(db: Database, everywhere: Place, how: str, schema: str) -> None:
    with_schema(db, schema)
    other = everywhere.apart(db)
    for _ in range(2):  # and not only the first time
        with pytest.raises(DatabaseError) as caught:
            HOWS[how](other)
        assert caught.value.code == 9
        assert caught.value.message == f"{db.where}: has schema {schema}, this novactl needs {SCHEMA}"
        newer = "a newer novactl has upgraded it: use that one"
        assert caught.value.hint == ("novactl db upgrade" if int(schema) < SCHEMA else newer)
    assert other.exists and other.schema() == schema  # and to look does not let it pass
    with pytest.raises(DatabaseError, match=rf"has schema {schema}"):
        other.fleet()
    other.close()


@pytest.mark.parametrize("how", HOWS)
def test_a_schema_that_changes_under_an_open_connection(db: Database, everywhere: Place, how: str) -> None:
    other = everywhere.apart(db)
    other.write(put("a"))
    assert other.fleet() == scratch.FLEET
    with_schema(db, NEWER)
    with pytest.raises(DatabaseError, match=rf"has schema {NEWER}, this novactl needs {SCHEMA}$"):
        HOWS[how](other)
    other.close()


def test_a_restored_database_takes_no_decisions(db: Database) -> None:
    db.write(put("restored", "host kvm1 has seen operation op-9"), alone=False)
    refused: list[Callable[[], object]] = [
        lambda: db.write(put("a")),
        lambda: db.rehearse(put("a")),
        lambda: db.writing().__enter__(),
    ]
    for decision in refused:
        with pytest.raises(Refused) as caught:
            decision()
        words = f"{db.where}: is an older copy of the database: host kvm1 has seen operation op-9"
        assert (caught.value.message, caught.value.code) == (words, 5)
        assert "novactl audit --adopt" in caught.value.hint
    db.write(put("journal"), alone=False)
    assert db.fleet() == scratch.FLEET
    db.write(lambda tx: tx.run("DELETE FROM meta WHERE name = 'restored'"), adopting=True)
    db.write(put("a"))
    assert names(db) == {*OWN, "journal", "a"}
