"""db init, upgrade, check and rebuild: what they print and how they refuse."""

import json
import sqlite3
from pathlib import Path

import pytest

from novactl.db.session import SCHEMA
from novactl.db.sqlite import SqliteDatabase
from tests.db import schema1
from tests.support.command import Command
from tests.support.databases import ServerPlace, password, place


def refused(novactl: Command, *words: str, code: int, says: str, hint: str = "") -> None:
    ended = novactl(*words, "-o", "json")
    assert (ended.code, ended.out) == (code, ""), ended
    assert says in ended.error["message"] and hint in ended.error["hint"], ended


# --- init, upgrade, check ---


def test_init(empty: Command) -> None:
    path = str(empty.config / "novactl.db")
    made = empty.ok("db", "init", "-o", "json")
    assert made.json == {"path": path, "database": path, "fleet": made.json["fleet"]}
    assert made.err == f"{path}: created\n"
    again = empty.ok("db", "init", "-o", "json")
    assert (again.json, again.err) == (made.json, f"{path}: unchanged\n")


def test_one_that_is_ours(novactl: Command, db: SqliteDatabase) -> None:
    path, schema = str(db.path), str(SCHEMA)
    checked = novactl.ok("db", "check", "-o", "json")
    assert checked.json == {"database": path, "schema": schema, "needs": schema, "differences": []}
    assert checked.err == ""
    done = novactl.ok("db", "upgrade", "-o", "json")
    assert done.json == {"database": path, "schema": schema, "applied": []}
    assert done.err == f"{path}: unchanged\n"


def test_one_of_an_older_novactl(empty: Command, quick: Path) -> None:
    path = quick / "config" / "novactl.db"
    path.parent.mkdir()
    old = SqliteDatabase(path)
    schema1.make(old)
    old.close()
    refused(
        empty, "list", code=9, says=f"has schema 1, this novactl needs {SCHEMA}", hint="novactl db upgrade"
    )
    checked = empty("db", "check", "-o", "json")
    assert (checked.code, checked.err) == (10, "hint: novactl db upgrade\n")
    assert checked.json["schema"] == "1"
    assert checked.json["differences"][0] == f"schema: 1, this novactl needs {SCHEMA}"
    assert any("commits" in text for text in checked.json["differences"])
    done = empty.ok("db", "upgrade", "-o", "json")
    assert [text.partition(":")[0] for text in done.json["applied"]] == [
        f"{number:04d}" for number in range(2, SCHEMA + 1)
    ]
    assert (done.json["schema"], done.err) == (str(SCHEMA), f"{path}: upgraded\n")
    assert empty.json("db", "check")["differences"] == []
    assert [host["name"] for host in empty.json("host", "list")] == ["kvm1", "kvm2"]


def test_one_of_a_newer_novactl(novactl: Command, db: SqliteDatabase) -> None:
    with db.writing() as tx:
        tx.run("UPDATE meta SET value = '99' WHERE name = 'schema'")
    refused(novactl, "db", "upgrade", code=9, says="has schema 99", hint="newer novactl")
    checked = novactl("db", "check", "-o", "json")
    assert (checked.code, checked.err) == (10, "hint: use the newer novactl that upgraded it\n")


def test_one_that_somebody_changed(novactl: Command, db: SqliteDatabase) -> None:
    with sqlite3.connect(db.path) as connection:
        connection.execute("DROP TABLE events")
        connection.execute("ALTER TABLE hosts ADD COLUMN theirs TEXT")
    checked = novactl("db", "check")
    assert checked.code == 10
    assert "events" in checked.out and "theirs" in checked.out


@pytest.mark.parametrize("verb", ["check", "upgrade"])
def test_one_that_is_not_there(empty: Command, tmp_path: Path, verb: str) -> None:
    path = tmp_path / "none" / "x.db"
    for words in ((), ("--db", str(path))):
        refused(empty, *words, "db", verb, code=9, says="does not exist", hint="novactl db init")
    assert not empty.config.exists() and not path.parent.exists()


@pytest.mark.parametrize("verb", ["check", "upgrade", "init"])
def test_something_else(empty: Command, tmp_path: Path, verb: str) -> None:
    (tmp_path / "x.db").write_text("no database\n" * 100)
    refused(empty, "--db", str(tmp_path / "x.db"), "db", verb, code=9, says="not a database", hint="--db")


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_on_a_server(empty: Command, kind: str) -> None:
    servers = place(kind)
    assert isinstance(servers, ServerPlace)
    with password(servers.server):
        bare = servers.bare(Path("unused"))
        url = servers.server.url_of(str(bare.url.database))
    empty.environment |= {"NOVACTL_DB_PASSWORD": servers.server.password, "NOVACTL_DB": url}
    try:
        refused(empty, "db", "check", code=9, says="does not exist", hint="novactl db init")
        made = empty.ok("db", "init", "-o", "json")
        assert made.json == {"database": bare.where, "fleet": bare.fleet()}
        assert made.err == f"{bare.where}: created\n"
        assert "unchanged" in empty.ok("db", "init").err
        assert empty.json("db", "check")["differences"] == []
        assert empty.json("db", "upgrade")["applied"] == []
        everything = made.out + made.err + json.dumps(empty.json("db", "check"))
        assert servers.server.password not in everything
    finally:
        servers.discard(bare)


# --- rebuild ---


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "missing option '--from'"),
        (["--from", ""], "--from '' is not acceptable"),
        (["--from=-oProxyCommand=x"], "address '-oProxyCommand=x'"),
        (["--from", "kvm1:0"], "port 0"),
        (["--from", "kvm1:x"], "is not acceptable"),
        (["--from", "a b"], "address 'a b'"),
        (["--from", "$(x)@kvm1"], "user '$(x)'"),
        (["--from", "kvm1", "--identity", "/nonexistent"], "identity /nonexistent is not a file"),
    ],
)
def test_rebuild_refuses_bad_words(empty: Command, words: list[str], says: str) -> None:
    refused(empty, "db", "rebuild", *words, code=2, says=says)
    assert not empty.config.exists()


def test_rebuild_from_a_host_that_does_not_answer(empty: Command) -> None:
    refused(
        empty, "db", "rebuild", "--from", "127.0.0.1:1", "--yes", code=7, says="port 1: connection refused"
    )
    assert not empty.config.exists()


def test_rebuild_of_an_older_schema(empty: Command, quick: Path) -> None:
    path = quick / "config" / "novactl.db"
    path.parent.mkdir()
    old = SqliteDatabase(path)
    schema1.make(old)
    old.close()
    refused(empty, "db", "rebuild", "--from", "kvm1", code=9, says="has schema 1", hint="db upgrade")
