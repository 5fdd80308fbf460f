"""Secrets: sealed in the file, open only to who has the key, gone with the instance."""

import base64
import multiprocessing
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from novactl.db import instances
from novactl.db.secrets import Secrets
from novactl.db.session import Database
from novactl.db.sqlite import SqliteDatabase
from novactl.errors import DatabaseError, Refused, UsageError
from tests.support import fleet
from tests.support.databases import content

CONTENT = b"#cloud-config\npassword: canary-5f3a9c1e\n\x00\xff"


@pytest.fixture
def secrets(quick: Path) -> Secrets:
    return Secrets(quick / "keys" / "secret.key")


def seal(db: Database, secrets: Secrets, content: bytes = CONTENT, name: str = "s-1") -> str:
    with db.writing() as tx:
        return secrets.seal(tx, name, fleet.uuid(1), content)


def open_(db: Database, secrets: Secrets, reference: str) -> bytes:
    with db.reading() as tx:
        return secrets.open(tx, reference)


def everything_stored(db: Database) -> bytes:
    """The bytes of the file and of what SQLite keeps beside it; all rows of a server's."""
    if isinstance(db, SqliteDatabase):
        return b"".join(path.read_bytes() for path in db.path.parent.glob(f"{db.path.name}*"))
    return repr(content(db)).encode()


def test_round_trip(db: Database, secrets: Secrets, quick: Path) -> None:
    reference = seal(db, secrets)
    assert reference == "secret:s-1"
    assert open_(db, secrets, reference) == CONTENT
    assert open_(db, Secrets(quick / "keys" / "secret.key"), reference) == CONTENT
    assert open_(db, secrets, seal(db, secrets, b"", "s-2")) == b""


def test_neither_content_nor_key_is_in_the_database(db: Database, secrets: Secrets, quick: Path) -> None:
    seal(db, secrets)
    stored = everything_stored(db)
    key = (quick / "keys" / "secret.key").read_bytes().strip()
    assert b"s-1" in stored  # we look at the right bytes
    for hidden in (b"canary-5f3a9c1e", base64.b64encode(CONTENT)[:20], key, base64.b64decode(key)):
        assert hidden not in stored


def test_the_same_content_is_sealed_differently_each_time(db: Database, secrets: Secrets) -> None:
    seal(db, secrets, name="s-1")
    seal(db, secrets, name="s-2")
    with db.reading() as tx:
        sealed = [row["sealed"] for row in tx.all("SELECT sealed FROM secrets")]
    assert len({base64.b64decode(text)[:12] for text in sealed}) == 2


def test_the_key_file_is_private(db: Database, secrets: Secrets, quick: Path) -> None:
    before = os.umask(0)
    try:
        seal(db, secrets)
    finally:
        os.umask(before)
    path = quick / "keys" / "secret.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(base64.b64decode(path.read_text())) == 32


def test_another_key_is_refused(db: Database, secrets: Secrets, quick: Path) -> None:
    reference = seal(db, secrets)
    with pytest.raises(Refused, match=r"^the secret was sealed with another key$") as caught:
        open_(db, Secrets(quick / "other.key"), reference)
    assert caught.value.code == 5
    assert str(quick / "other.key") in caught.value.hint


def test_a_secret_in_the_place_of_another_is_refused(db: Database, secrets: Secrets) -> None:
    seal(db, secrets, b"one", "s-1")
    seal(db, secrets, b"two", "s-2")
    with db.writing() as tx:
        tx.run("UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE id = 's-1') WHERE id = 's-2'")
    with pytest.raises(Refused):
        open_(db, secrets, "secret:s-2")


def test_one_that_is_not_there(db: Database, secrets: Secrets) -> None:
    with pytest.raises(DatabaseError, match=r"^secret s-9 is not in the database$") as caught:
        open_(db, secrets, "secret:s-9")
    assert caught.value.code == 9


def test_the_key_of_the_environment(
    db: Database, secrets: Secrets, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOVACTL_KEY", base64.b64encode(b"k" * 32).decode())
    reference = seal(db, secrets)
    assert open_(db, secrets, reference) == CONTENT
    assert not (quick / "keys").exists()
    monkeypatch.setenv("NOVACTL_KEY", base64.b64encode(b"q" * 32).decode())
    with pytest.raises(Refused):
        open_(db, secrets, reference)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("not base64!", "^the secret key is not base64$"),
        ("é", "^the secret key is not base64$"),
        (base64.b64encode(b"short").decode(), "^the secret key has 5 bytes instead of 32$"),
    ],
)
def test_a_key_that_is_none(
    db: Database, secrets: Secrets, monkeypatch: pytest.MonkeyPatch, key: str, message: str
) -> None:
    monkeypatch.setenv("NOVACTL_KEY", key)
    with pytest.raises(UsageError, match=message) as caught:
        seal(db, secrets)
    assert caught.value.code == 2


def test_erased_with_its_instance(db: Database, secrets: Secrets) -> None:
    fleet.furnish(db)
    fleet.add_instance(db, fleet.instance(1))
    reference = seal(db, secrets)
    with db.writing() as tx:
        secrets.seal(tx, "s-other", fleet.uuid(2), b"stays")
        instances.bury(tx, fleet.uuid(1), fleet.WHEN, None)
    with pytest.raises(DatabaseError):
        open_(db, secrets, reference)
    assert open_(db, secrets, "secret:s-other") == b"stays"


def _key(path: Path, barrier: Any, answers: Any) -> None:
    barrier.wait()
    try:
        answers.put(Secrets(path)._key())
    except BaseException as error:  # noqa: BLE001 - told to the test
        answers.put(repr(error))


def test_processes_that_make_the_key_at_once_have_one_key(quick: Path) -> None:
    context = multiprocessing.get_context("fork")
    for turn in range(8):
        barrier, answers = context.Barrier(6), context.Queue()
        work = (quick / str(turn) / "secret.key", barrier, answers)
        workers = [context.Process(target=_key, args=work) for _ in range(6)]
        for worker in workers:
            worker.start()
        keys = [answers.get(timeout=30) for _ in workers]
        for worker in workers:
            worker.join()
        assert len(set(keys)) == 1
        assert isinstance(keys[0], bytes)
