"""The tests' own database servers: real, quick, and nothing stays of them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from sqlalchemy import make_url

from tests.support.servers import (
    MariadbServer,
    PostgresServer,
    Server,
    ServerError,
    mariadb,
    postgres,
    state,
)

__all__ = ["mariadb", "postgres"]
KINDS = (PostgresServer, MariadbServer)
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["postgres", "mariadb"])
def server(request: pytest.FixtureRequest) -> Server:
    """The run's servers, running."""
    shared: Server = request.getfixturevalue(request.param)
    shared.start()
    return shared


def connect(server: Server, url: str, password: str | None = None) -> Any:
    """A connection by a URL, as an application makes it."""
    password = server.password if password is None else password
    if isinstance(server, PostgresServer):
        return psycopg.connect(url, password=password)
    parts = make_url(url)
    place: dict[str, Any] = {"host": parts.host, "port": parts.port or 0, **parts.query}
    return pymysql.connect(user=parts.username, password=password, database=parts.database, **place)


def asked(server: Server, url: str, *statements: str) -> Any:
    """Run statements in one transaction; the rows of the last one."""
    connection = connect(server, url)
    try:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        rows = cursor.fetchall() if cursor.description else ()
        connection.commit()
        return list(rows)
    finally:
        connection.close()


def gone(pids: set[int], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(state, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(map(state, pids))


def test_both_urls_reach_the_first_database(server: Server) -> None:
    for url in (server.url, server.tcp_url):
        assert server.password not in url
        assert asked(server, url, "SELECT 'ü😀'") == [("ü😀",)]


def test_the_password_is_asked_for(server: Server) -> None:
    with pytest.raises((psycopg.OperationalError, pymysql.err.OperationalError), match=r"password|denied"):
        connect(server, server.tcp_url, "wrong")


def test_no_process_is_root_and_the_directory_is_private(server: Server) -> None:
    pids = server.pids()
    assert server.pid in pids
    for pid in pids:
        assert Path(f"/proc/{pid}").stat().st_uid != 0
    assert server.directory.stat().st_mode & 0o777 == 0o700
    assert all(len(str(path)) < 100 for path in server.directory.iterdir() if path.is_socket())


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_what_is_committed_outlives_the_server(server: Server, how: Any) -> None:
    url = server.create_database(f"kept_{how}")
    try:
        asked(server, url, "CREATE TABLE t (n INTEGER)", "INSERT INTO t VALUES (7)")
        before = server.pids()
        open_one = connect(server, url)
        open_one.cursor().execute("INSERT INTO t VALUES (8)")
        server.stop(how)
        assert server.pid is None and gone(before, 0)
        server.start()
        assert asked(server, url, "SELECT n FROM t") == [(7,)]
        open_one.close()
    finally:
        server.start()
        server.drop_database(f"kept_{how}")


def test_a_database_goes_though_it_is_in_use(server: Server) -> None:
    url = server.create_database("in_use")
    connection = connect(server, url)
    connection.cursor().execute("CREATE TABLE t (n INTEGER)")
    connection.cursor().execute("INSERT INTO t VALUES (1)")
    server.drop_database("in_use")
    with pytest.raises((psycopg.OperationalError, pymysql.err.OperationalError)):
        connect(server, url)
    connection.close()
    assert asked(server, server.create_database("in_use"), "SELECT 1") == [(1,)]
    server.drop_database("in_use")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stays_after_close(kind: type[Server]) -> None:
    with kind(durable=True) as server:
        server.start()
        pids, directory = server.pids(), server.directory
        assert pids and asked(server, server.url, "SELECT 1") == [(1,)]
    assert gone(pids, 0) and not directory.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_it_dies_with_the_test_process_and_the_next_one_clears_up(kind: type[Server]) -> None:
    code = (
        f"from tests.support.servers import {kind.__name__} as Kind; server = Kind(); server.start();"
        "print(server.directory, *server.pids(), flush=True); input()"
    )
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        directory, *pids = process.stdout.readline().split()
        process.kill()
    assert pids and gone(set(map(int, pids)))
    assert Path(directory).exists()
    kind().close()
    assert not Path(directory).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_start_shows_the_log(kind: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    argv: Callable[[Server], list[str]] = kind._argv
    with kind() as server:
        monkeypatch.setattr(kind, "_argv", lambda self: [*argv(self), "--no-such-option=1"])
        with pytest.raises(ServerError, match=r"(?s)ended at its start\n.*no.such.option"):
            server.start()
        assert server.pid is None


def test_a_forked_child_leaves_the_server_alone(server: Server) -> None:
    child = os.fork()
    if child == 0:
        try:
            server.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert asked(server, server.url, "SELECT 1") == [(1,)]
