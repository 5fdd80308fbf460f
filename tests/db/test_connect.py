"""Which database a URL means, where passwords come from and where they never stand."""

import contextlib
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from novactl.db import connect
from novactl.db.servers import ServerDatabase
from novactl.db.session import Database
from novactl.db.sqlite import SqliteDatabase
from novactl.errors import DatabaseError, NovactlError, UsageError
from tests.support import scratch
from tests.support.databases import KINDS, ServerPlace, password, place

DEFAULT = Path("/nowhere/novactl.db")
QUICK = 6.5  # seconds: five of patience, and a try that was begun before they were over


@pytest.fixture(autouse=True)
def no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOVACTL_DB_PASSWORD", raising=False)
    monkeypatch.delenv("NOVACTL_DB_PASSWORD_FILE", raising=False)


@pytest.fixture(params=KINDS[1:])
def where(request: pytest.FixtureRequest) -> ServerPlace:
    found = place(request.param)
    assert isinstance(found, ServerPlace)
    return found


@pytest.fixture
def server_db(where: ServerPlace, quick: Path) -> Iterator[ServerDatabase]:
    found = where.fresh(quick)
    yield found
    where.release(found)


def tcp(where: ServerPlace, db: ServerDatabase) -> str:
    assert db.url.database
    return where.server.url_of(db.url.database, tcp=True)


@contextlib.contextmanager
def failing(kind: type[NovactlError] = DatabaseError) -> Iterator[pytest.ExceptionInfo[NovactlError]]:
    """Fails soon with words."""
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        yield caught
    assert time.monotonic() - began < QUICK
    assert caught.value.code == (9 if kind is DatabaseError else 2)


# --- URLs ---


@pytest.mark.parametrize(
    ("url", "path"),
    [
        (None, DEFAULT),
        ("/var/lib/x.db", Path("/var/lib/x.db")),
        ("x.db", Path("x.db").absolute()),
        ("sqlite:///var/lib/x.db", Path("/var/lib/x.db")),
        ("sqlite:////var/lib/x%20y.db", Path("//var/lib/x y.db")),
    ],
)
def test_files(url: str | None, path: Path) -> None:
    found = connect.database(url, DEFAULT)
    assert isinstance(found, SqliteDatabase)
    assert found.path == path
    assert not found.shared


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("postgresql://me@db.example/fleet", "postgresql://me@db.example/fleet"),
        ("postgres://me@db.example:5433/fleet", "postgresql://me@db.example:5433/fleet"),
        ("mysql://me@db.example/fleet", "mysql://me@db.example/fleet"),
        ("mariadb://me@[::1]:3307/fleet", "mysql://me@[::1]:3307/fleet"),
    ],
)
def test_servers(url: str, where: str) -> None:
    found = connect.database(url, DEFAULT)  # nothing is connected to yet
    assert (found.where, found.shared) == (where, True)
    found.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("oracle://me@host/fleet", "--db oracle: is not known"),
        ("postgresql+psycopg2://me@host/fleet", "--db postgresql+psycopg2: is not known"),
        ("sqlite://", "--db sqlite://: names no file"),
        ("sqlite://host/x.db", "--db sqlite://host/x.db: names no file"),
        ("postgresql://me@host", "--db postgresql://me@host: names no database"),
        ("mysql://me@host/", "--db mysql://me@host/: names no database"),
        ("postgresql://me@host:port/fleet", "--db: "),
        ("postgresql://me@[::1/fleet", "--db: "),
    ],
)
def test_what_is_not_understood(url: str, message: str) -> None:
    with failing(UsageError) as caught:
        connect.database(url, DEFAULT)
    assert caught.value.message.startswith(message)
    assert caught.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:canary@host/fleet",
        "postgresql://me:@host/fleet",
        "mysql://me:canary%40@host/fleet",
        "postgresql://host/fleet?user=me&password=canary",
        "mysql://me@host/fleet?passwd=canary",
        "postgresql://me@host/fleet?sslpassword=canary",
        "oracle://me:canary@host/fleet",
        "sqlite://me:canary@host/fleet",
        "postgresql://me:canary@host:port/fleet",
        "postgresql://me:canary@host",
    ],
)
def test_a_password_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    with failing(UsageError) as caught:
        connect.database(url, DEFAULT)
    assert caught.value.message == "--db holds a password"
    assert "$NOVACTL_DB_PASSWORD" in caught.value.hint
    assert "canary" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [("postgresql://me@h/d", "psycopg", "postgresql"), ("mysql://me@h/d", "pymysql", "mysql")],
)
def test_a_driver_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, url: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with failing() as caught:
        connect.database(url, DEFAULT)
    assert caught.value.message == f"--db: {module} is not installed"
    assert caught.value.hint == f"pip install 'novactl[{extra}]'"


def test_an_option_that_the_driver_does_not_know(where: ServerPlace, server_db: ServerDatabase) -> None:
    url = tcp(where, server_db) + "?no_such_option=1"
    with pytest.raises(NovactlError, match=r"no_such_option") as caught:
        where.open(url).fleet()
    assert caught.value.code in (2, 9)


# --- passwords ---


def test_where_a_password_may_come_from(
    where: ServerPlace, server_db: ServerDatabase, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, file = tcp(where, server_db), quick / "password"
    file.write_text(f"{where.server.password}\nanother line\n")

    def fleet() -> str:
        db = connect.database(url, DEFAULT)
        try:
            return db.fleet()
        finally:
            db.close()

    monkeypatch.setenv("NOVACTL_DB_PASSWORD_FILE", str(file))
    assert fleet() == scratch.FLEET
    monkeypatch.setenv("NOVACTL_DB_PASSWORD", "wrong")  # the word itself goes before the file
    with failing():
        fleet()
    monkeypatch.setenv("NOVACTL_DB_PASSWORD", where.server.password)
    file.write_text("wrong")
    assert fleet() == scratch.FLEET
    monkeypatch.delenv("NOVACTL_DB_PASSWORD")
    file.write_text(where.server.password)  # without an end of line
    assert fleet() == scratch.FLEET


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_password_file_that_cannot_be_read(
    quick: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    file = quick / "password"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("NOVACTL_DB_PASSWORD_FILE", str(file))
    with failing(UsageError) as caught:
        connect.database("postgresql://me@host/fleet", DEFAULT)
    assert caught.value.message.startswith(f"$NOVACTL_DB_PASSWORD_FILE: {file}: ")


def test_postgresql_s_own_password_file(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = place("postgresql")
    assert isinstance(where, ServerPlace)
    db = where.fresh(quick)
    file = quick / "pgpass"
    escaped = where.server.password.replace("\\", "\\\\").replace(":", "\\:")
    file.write_text(f"*:*:*:*:{escaped}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    other = connect.database(tcp(where, db), DEFAULT)
    assert other.fleet() == scratch.FLEET
    other.close()
    where.release(db)


def everything_said(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def test_a_password_stands_nowhere(where: ServerPlace, server_db: ServerDatabase) -> None:
    secret = where.server.password
    db = where.open(tcp(where, server_db))
    assert db.fleet() == scratch.FLEET
    said = [db.where, repr(db), str(db), repr(db.url), repr(db._writer), repr(db._reader.pool)]
    wrongs: list[Callable[[], object]] = [
        lambda: db.write(lambda tx: tx.insert("meta", name="fleet", value="x")),
        lambda: db.read(lambda tx: tx.all("SELECT * FROM nothing")),
        lambda: where.open(tcp(where, server_db).replace("/test_", "/no_test_")).fleet(),
    ]
    for wrong in wrongs:
        with pytest.raises(DatabaseError) as caught:
            wrong()
        said.append(everything_said(caught.value) + caught.value.hint)
    assert [text for text in said if secret in text] == []
    db.close()


# --- what cannot be reached ---


def test_a_wrong_password(
    where: ServerPlace, server_db: ServerDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOVACTL_DB_PASSWORD", "canary-wrong")
    db = connect.database(tcp(where, server_db), DEFAULT)
    began = time.monotonic()
    with failing() as caught:
        db.fleet()
    assert time.monotonic() - began < 2  # another try would end the same
    assert "canary" not in everything_said(caught.value)
    assert "$NOVACTL_DB_PASSWORD" in caught.value.hint
    assert caught.value.message.startswith(f"{db.where}: ")


def test_no_password(where: ServerPlace, server_db: ServerDatabase) -> None:
    began = time.monotonic()
    with failing() as caught:
        connect.database(tcp(where, server_db), DEFAULT).fleet()
    assert time.monotonic() - began < 2
    assert "$NOVACTL_DB_PASSWORD" in caught.value.hint


def test_an_unknown_database(where: ServerPlace) -> None:
    """MariaDB does not tell who may not use it whether it is there."""
    with password(where.server):
        db = connect.database(where.server.url_of("nothing_here", tcp=True), DEFAULT)
    began = time.monotonic()
    with failing() as caught:
        db.write(lambda tx: None)
    assert time.monotonic() - began < 2
    assert "nothing_here" in caught.value.message
    assert caught.value.hint


def test_a_port_where_nobody_listens(where: ServerPlace) -> None:
    with socket.socket() as held, password(where.server):
        held.bind(("127.0.0.1", 0))
        url = make_url(where.server.tcp_url).set(port=held.getsockname()[1])
        db = connect.database(url.render_as_string(), DEFAULT)
        with failing() as caught:
            db.fleet()
    assert caught.value.hint == "is the server running?"


def test_a_host_that_does_not_exist(where: ServerPlace) -> None:
    with password(where.server):
        url = make_url(where.server.tcp_url).set(host="no-such-host.invalid")
        db: Database = connect.database(url.render_as_string(), DEFAULT)
        with failing() as caught:
            db.fleet()
    assert "no-such-host.invalid" in caught.value.message


def test_a_listener_that_says_nothing(where: ServerPlace) -> None:
    """Something else is on the port, or the server hangs: the driver's own patience ends it."""
    with socket.create_server(("127.0.0.1", 0)) as mute, password(where.server):
        url = make_url(where.server.tcp_url).set(port=mute.getsockname()[1])
        db = connect.database(url.render_as_string(), DEFAULT)
        assert isinstance(db, ServerDatabase)
        if where.kind == "mariadb":
            assert db._arguments["read_timeout"] == 60
            db = ServerDatabase(db.url, {**db._arguments, "read_timeout": 2})
        with failing() as caught:
            db.fleet()
    assert caught.value.message.startswith(f"{db.where}: ")
