"""Clients that die or stand still in the middle of a write do not keep the others waiting for long."""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator

import pytest

from novactl.db import servers
from novactl.db.servers import ServerDatabase
from novactl.db.session import count_up
from novactl.errors import NovactlError
from tests.db.stopped import db, where
from tests.support import scratch
from tests.support.databases import ServerPlace

__all__ = ["db", "where"]


@contextlib.contextmanager
def holder(db: ServerDatabase, *, alone: bool) -> Iterator[int]:
    """A process that is in the middle of a write and stays there: its pid."""
    reader, writer = os.pipe()

    def hold() -> None:
        with db.writing(alone=alone) as tx:
            count_up(tx, "count")
            os.write(writer, b"x")
            time.sleep(600)

    process = multiprocessing.get_context("fork").Process(target=hold)
    process.start()
    try:
        assert os.read(reader, 1) == b"x"
        assert process.pid
        yield process.pid
    finally:
        process.kill()
        process.join()
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("alone", [True, False])
def test_a_client_that_was_killed_blocks_nobody(where: ServerPlace, db: ServerDatabase, alone: bool) -> None:
    with holder(where.apart(db), alone=alone) as pid:
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        assert db.write(lambda tx: count_up(tx, "count")) == 1  # nothing of it was committed
        assert time.monotonic() - began < 3


def test_a_client_that_stands_still_blocks_nobody_for_long(
    where: ServerPlace, db: ServerDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine lost the network: the server ends its transaction (after 30 s, here 2 s)."""
    assert servers.IDLE == 30
    quickly = {
        family: [words.replace("30", "2") for words in lines] for family, lines in servers.FIRST_WORDS.items()
    }
    with monkeypatch.context() as patch:
        patch.setattr(servers, "FIRST_WORDS", quickly)
        still = where.apart(db)
        with holder(still, alone=True) as pid:
            os.kill(pid, signal.SIGSTOP)
            began = time.monotonic()
            assert db.write(lambda tx: count_up(tx, "count")) == 1
            assert 0.5 < time.monotonic() - began < 6


def test_one_who_waits_for_a_lock_in_vain_is_told(where: ServerPlace, db: ServerDatabase) -> None:
    impatient = where.apart(db, patience=0.5)
    shorter = {"postgresql": "SET lock_timeout = '1s'", "mysql": "SET SESSION innodb_lock_wait_timeout = 1"}
    impatient._writer = impatient._engine("READ COMMITTED", shorter)
    assert impatient.fleet() == scratch.FLEET
    with db.writing(), pytest.raises(NovactlError, match=r"(?i)lock") as caught:
        impatient.write(lambda tx: None)
    assert caught.value.code == 9
    impatient.close()
