"""Decisions get their turn although others write all the time."""

import threading
import time
from pathlib import Path

import pytest

from novactl.db.session import Tx, count_up
from tests.support import databases


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_decision_is_not_kept_waiting_by_many_writers(kind: str, tmp_path: Path) -> None:
    place = databases.place(kind)
    db = place.fresh(tmp_path)
    over = threading.Event()

    def note(tx: Tx) -> None:
        tx.one("SELECT value FROM meta WHERE name = 'fleet'")
        time.sleep(0.01)  # the way to a server far away

    def write() -> None:
        while not over.is_set():
            db.write(note, alone=False)

    writers = [threading.Thread(target=write) for _ in range(16)]
    for writer in writers:
        writer.start()
    try:
        waits = []
        for _ in range(5):
            began = time.monotonic()
            db.write(lambda tx: count_up(tx, "serial"))
            waits.append(time.monotonic() - began)
    finally:
        over.set()
        for writer in writers:
            writer.join(60)
    place.release(db)
    assert max(waits) < 5  # row locks of PostgreSQL: 15 to 28 s
