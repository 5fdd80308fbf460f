"""SQLite's own: who may read the file, what is not one of ours, one writer, settings."""

import errno
import os
import shutil
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from novactl.db.sqlite import SqliteDatabase, refuse_network_filesystem
from novactl.errors import DatabaseError
from tests.support import scratch

NOBODY = 65534


@pytest.fixture
def db(quick: Path) -> Iterator[SqliteDatabase]:
    database = scratch.database(quick / "novactl.db")
    yield database
    database.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_create_is_private(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "one" / "two" / "novactl.db")
    assert not database.exists
    before = os.umask(0)
    try:
        database.create("fleet-1")
    finally:
        os.umask(before)
    assert (mode(database.path), mode(database.path.parent)) == (0o600, 0o700)
    assert database.exists
    assert database.fleet() == "fleet-1"
    with database.writing() as tx:
        tx.insert("meta", name="a", value="b")
        assert {mode(path) for path in database.path.parent.iterdir()} == {0o600}
    database.close()


def test_create_leaves_nothing_beside_it(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "novactl.db")
    database.create("fleet-1")
    database.create("fleet-2")
    database.close()
    assert [path.name for path in tmp_path.iterdir()] == ["novactl.db"]


def test_create_fills_an_empty_file_and_leaves_another_program_s_alone(tmp_path: Path) -> None:
    empty = SqliteDatabase(tmp_path / "empty.db")
    empty.path.touch()
    empty.create("fleet-1")
    assert empty.fleet() == "fleet-1"
    empty.close()
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE cookies (id INTEGER)")
    connection.close()
    with pytest.raises(DatabaseError, match=r"foreign\.db: holds something else$") as caught:
        SqliteDatabase(foreign).create("fleet-1")
    assert caught.value.code == 9
    with sqlite3.connect(foreign) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("cookies",)]
    connection.close()


def test_settings_that_durability_needs(db: SqliteDatabase) -> None:
    with db.writing() as tx:
        assert tx.one("PRAGMA journal_mode") == {"journal_mode": "wal"}
        assert tx.one("PRAGMA synchronous") == {"synchronous": 1}  # NORMAL; the next test has the rest
        assert tx.one("PRAGMA foreign_keys") == {"foreign_keys": 1}


def test_a_write_that_has_ended_is_on_the_disk(
    db: SqliteDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had been synced when the last of many ended, SQLite's own checkpoints among them, has them all."""
    sync, log, disk = os.fdatasync, Path(f"{db.path}-wal"), tmp_path / "disk"
    disk.mkdir()

    def synced(file: int) -> None:
        assert os.path.samestat(os.fstat(file), log.stat())
        sync(file)
        for path in (db.path, log):
            shutil.copy(path, disk)

    monkeypatch.setattr(os, "fdatasync", synced)
    for n in range(60):
        db.write(lambda tx, n=n: tx.insert("meta", name=f"m{n}", value="x" * 90_000))
        if n % 20 == 19:
            with sqlite3.connect(disk / db.path.name) as left:
                assert left.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                names = {row[0] for row in left.execute("SELECT name FROM meta")}
            left.close()
            assert {f"m{k}" for k in range(n + 1)} <= names
    assert log.stat().st_size < 60 * 90_000  # it began anew: there were checkpoints


def test_others_write_while_one_waits_for_the_disk(
    db: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, goes_on, sync = threading.Event(), threading.Event(), os.fdatasync

    def slow(file: int) -> None:
        if threading.current_thread() is first:
            waits.set()
            assert goes_on.wait(60)
        sync(file)

    monkeypatch.setattr(os, "fdatasync", slow)
    first = threading.Thread(target=lambda: db.write(lambda tx: tx.insert("meta", name="a", value="")))
    first.start()
    assert waits.wait(60)
    other = SqliteDatabase(db.path)
    for one, name in ((db, "b"), (other, "c")):
        one.write(lambda tx, name=name: tx.insert("meta", name=name, value=""))
    assert first.is_alive()
    goes_on.set()
    first.join(60)
    found = db.read(lambda tx: tx.all("SELECT name FROM meta WHERE name IN ('a', 'b', 'c')"))
    assert [row["name"] for row in found] == ["a", "b", "c"]
    other.close()


def test_a_disk_that_does_not_keep_what_is_written(
    db: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fails)
    db.write(lambda tx: tx.run("DELETE FROM meta WHERE name = 'nothing'"))  # nothing that could be lost
    with pytest.raises(DatabaseError, match=r"-wal: Input/output error: what was written may be lost$"):
        db.write(lambda tx: tx.insert("meta", name="a", value=""))


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (b"this is not a database, it is a text of some length" * 10, "file is not a database", "another"),
        (b"", "no such table", "novactl db init"),
    ],
)
def test_what_is_not_ours(tmp_path: Path, content: bytes, message: str, hint: str) -> None:
    path = tmp_path / "novactl.db"
    path.write_bytes(content)
    for how in (SqliteDatabase.read, SqliteDatabase.write, SqliteDatabase.rehearse):
        with pytest.raises(DatabaseError, match=message) as caught:
            how(SqliteDatabase(path), lambda tx: pytest.fail("it was opened"))
        assert caught.value.code == 9
        assert hint in caught.value.hint
        assert str(path) in caught.value.message


def test_a_directory_in_its_place(tmp_path: Path) -> None:
    with (
        pytest.raises(DatabaseError, match=r"unable to open database file"),
        SqliteDatabase(tmp_path).reading(),
    ):
        pytest.fail("it was opened")


def test_a_truncated_database(quick: Path) -> None:
    path = scratch.database(quick / "novactl.db").path
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 + 100])
    broken = r"malformed|not a database|disk I/O error"
    with pytest.raises(DatabaseError, match=broken) as caught, SqliteDatabase(path).writing() as tx:
        for table in ("instances", "operations", "steps", "events", "secrets"):
            tx.all(f"SELECT * FROM {table}")
    assert caught.value.code == 9


def as_nobody(work: Callable[[], str]) -> str:
    """What `work` returns in a process that file permissions bind: as root, in one of nobody's."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        os.close(reader)
        try:
            if os.getuid() == 0:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            text = work()
        except BaseException as error:  # noqa: BLE001 - told to the test
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return text


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that others may enter."""
    directory = Path(tempfile.mkdtemp(prefix="novactl-test-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    directory.chmod(0o755)
    shutil.rmtree(directory)


def refused(work: Callable[[], object]) -> Callable[[], str]:
    def told() -> str:
        try:
            work()
        except DatabaseError as error:
            return f"{error.code}: {error.message} ({error.hint})"
        return "it went through"

    return told


def written(path: Path) -> None:
    with SqliteDatabase(path).writing() as tx:
        tx.insert("meta", name="a", value="b")


def test_a_file_that_may_only_be_read(public: Path) -> None:
    path = scratch.database(public / "novactl.db").path
    path.chmod(0o444)
    public.chmod(0o555)
    told = as_nobody(refused(lambda: written(path)))
    assert told.startswith(f"9: {path}: ")
    assert "cannot be written by you" in told or "not yours" in told


def test_a_directory_that_may_not_be_written(public: Path) -> None:
    public.chmod(0o555)
    told = as_nobody(refused(lambda: SqliteDatabase(public / "novactl.db").create("fleet")))
    assert told.startswith(f"9: {public / 'novactl.db'}: ")
    assert "not yours" in told or "cannot be written by you" in told
    told = as_nobody(refused(lambda: SqliteDatabase(public / "more" / "novactl.db").create("fleet")))
    assert told.startswith(f"9: {public / 'more' / 'novactl.db'}: ")
    assert list(public.iterdir()) == []


def test_a_file_of_somebody_else(public: Path) -> None:
    path = scratch.database(public / "novactl.db").path
    path.chmod(0o600)
    if os.getuid() != 0:
        path.chmod(0)
    told = as_nobody(refused(lambda: SqliteDatabase(path).fleet()))
    assert told.startswith(f"9: {path}: unable to open database file")


# --- one writer ---


def test_every_write_is_alone(db: SqliteDatabase) -> None:
    """There is nothing to be had from letting two in: SQLite has one writer."""
    other, came = SqliteDatabase(db.path), threading.Event()

    def write() -> None:
        other.write(lambda tx: tx.insert("meta", name="b", value="b"), alone=False)
        came.set()

    with db.writing(alone=False) as tx:
        thread = threading.Thread(target=write)
        thread.start()
        assert not came.wait(0.2)
        tx.insert("meta", name="a", value="a")
    thread.join(10)
    assert came.is_set()
    other.close()


def test_readers_of_threads_see_commits_while_one_reads_on(db: SqliteDatabase) -> None:
    def count() -> int:
        return len(db.read(lambda tx: tx.all("SELECT * FROM meta")))

    with db.reading() as before:
        db.write(lambda tx: tx.insert("meta", name="a", value="b"))
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(count()))
        thread.start()
        thread.join()
        assert (found, len(before.all("SELECT * FROM meta"))) == ([3], 2)


def test_sqlites_errors_are_the_cause_of_ours(db: SqliteDatabase) -> None:
    with pytest.raises(DatabaseError, match=r"UNIQUE constraint failed: meta.name") as caught:
        db.write(lambda tx: tx.insert("meta", name="fleet", value="another"))
    assert isinstance(caught.value.__cause__, sqlite3.IntegrityError)


def test_a_database_that_somebody_holds_for_very_long(
    db: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("novactl.db.sqlite.BUSY_SECONDS", 0.1)
    other = SqliteDatabase(db.path)
    with (
        db.writing(),
        pytest.raises(DatabaseError, match=r"database is locked") as caught,
    ):
        other.write(lambda tx: None)
    assert caught.value.hint == "another command holds it for very long"
    other.close()


# --- network file systems ---

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/local\\040disk xfs rw 0 0
host:/x /srv/with\\040space fuse.sshfs rw 0 0
tmpfs /home/me/ram tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/novactl.db", None),
        ("/home/me/novactl.db", "nfs4"),
        ("/home/local disk/novactl.db", None),
        ("/srv/with space/a/novactl.db", "fuse.sshfs"),
        ("/home/me/ram/novactl.db", None),
        ("/homely/novactl.db", None),
    ],
)
def test_a_network_file_system_is_refused(path: str, kind: str | None) -> None:
    mounts = MOUNTS.replace("\\\\", "\\")
    if kind is None:
        refuse_network_filesystem(Path(path), mounts)
        return
    with pytest.raises(DatabaseError, match=rf"network file system \({kind}\)") as caught:
        refuse_network_filesystem(Path(path), mounts)
    assert caught.value.code == 9
    assert "PostgreSQL or MariaDB" in caught.value.hint
