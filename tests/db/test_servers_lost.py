"""Servers that go away, connections that break, answers that are lost: each write happens once or not at
all, and who waits in vain is told why."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from novactl.db import servers
from novactl.db.servers import ServerDatabase
from novactl.db.session import Tx, count_up, meta
from novactl.errors import DatabaseError, Refused
from tests.db.stopped import db, marks, proxy, through, value, where
from tests.support import counts, scratch
from tests.support.databases import ServerPlace
from tests.support.proxy import Cut, Proxy

__all__ = ["db", "proxy", "through", "where"]

REPETITIONS = 40


# --- a lost connection ---


def test_what_is_lost_before_its_commit_is_done_again_and_once(
    db: ServerDatabase, through: ServerDatabase, proxy: Proxy
) -> None:
    for turn in range(REPETITIONS):
        tries = 0

        def work(tx: Tx) -> int:
            nonlocal tries
            tries += 1
            count_up(tx, "count")
            if tries < 3:
                proxy.cut()
            return tries

        assert through.write(work, alone=turn % 2 == 0) == 3
        assert value(db, "count") == str(turn + 1)


@pytest.mark.parametrize("alone", [True, False], ids=["decision", "journal"])
@pytest.mark.parametrize("cut", Cut)
def test_a_commit_whose_answer_is_lost_happens_once(
    where: ServerPlace, db: ServerDatabase, through: ServerDatabase, proxy: Proxy, cut: Cut, alone: bool
) -> None:
    repetitions = REPETITIONS if cut is not Cut.LATE else 4
    for turn in range(1, repetitions + 1):
        tries: list[int] = []

        def work(tx: Tx) -> int:
            if not tries:  # noqa: B023
                proxy.arm(cut)
            tries.append(count_up(tx, "count"))  # noqa: B023
            return tries[-1]  # noqa: B023

        assert through.write(work, alone=alone) == turn
        assert value(db, "count") == str(turn), cut
        match cut:
            case Cut.BEFORE:
                assert len(tries) == 2
            case Cut.AFTER | Cut.LATE:
                assert len(tries) == 1
    assert proxy.commits == repetitions
    counts.record("commits whose answer was lost", **{where.kind: repetitions})
    assert marks(db) == repetitions


def test_a_commit_lost_again_and_again(db: ServerDatabase, through: ServerDatabase, proxy: Proxy) -> None:
    """Each try of one write meets another fate; the first that commits is the only one."""
    fates = [Cut.BEFORE, Cut.BEFORE, Cut.WITH, Cut.BEFORE]
    for turn in range(1, 11):
        left = list(fates)

        def work(tx: Tx) -> int:
            if left:  # noqa: B023
                proxy.arm(left.pop(0))  # noqa: B023
            return count_up(tx, "count")

        assert through.write(work) == turn
        assert value(db, "count") == str(turn)


def test_threads_whose_commits_are_lost(db: ServerDatabase, through: ServerDatabase, proxy: Proxy) -> None:
    fates = [*Cut] * 5

    def work(tx: Tx) -> None:
        with contextlib.suppress(IndexError):
            proxy.arm(fates.pop())
        count_up(tx, "count")

    assert hammered([lambda: through.write(work)] * 6, 20) == []
    assert value(db, "count") == "120"


def test_a_read_and_a_rehearsal_are_tried_again(through: ServerDatabase, proxy: Proxy) -> None:
    for method in (through.read, through.rehearse):
        tries: list[int] = []

        def work(tx: Tx) -> str | None:
            tries.append(1)  # noqa: B023
            if len(tries) == 1:  # noqa: B023
                proxy.cut()
            return meta(tx, "fleet")

        assert method(work) == scratch.FLEET
        assert len(tries) == 2
    assert value(through, "count") is None


def test_what_work_refuses_is_not_tried_again(db: ServerDatabase) -> None:
    tries: list[int] = []

    def work(tx: Tx) -> None:
        tries.append(1)
        raise Refused("no")

    with pytest.raises(Refused):
        db.write(work)
    assert tries == [1]


def test_two_that_hold_what_the_other_wants_both_succeed(db: ServerDatabase) -> None:
    db.write(lambda tx: [tx.insert("meta", name=name, value="0") for name in ("a", "b")])
    met = threading.Barrier(2)
    tries: list[str] = []

    def crossing(first: str, second: str) -> Callable[[], object]:
        def work(tx: Tx) -> None:
            tries.append(first)
            count_up(tx, first)
            with contextlib.suppress(threading.BrokenBarrierError):
                met.wait(1)  # each has its first; only the first time do they meet
            count_up(tx, second)

        return lambda: db.write(work, alone=False)

    assert hammered([crossing("a", "b"), crossing("b", "a")], 1) == []
    assert (value(db, "a"), value(db, "b")) == ("2", "2")
    assert len(tries) == 3  # one of them was the victim


# --- a server that goes away ---


def hammered(works: list[Callable[[], object]], times: int, meanwhile: Any = None) -> list[str]:
    """What went wrong while each of the works was done so often, all at once."""
    wrong: list[str] = []

    def run(work: Callable[[], object]) -> None:
        try:
            for _ in range(times):
                work()
        except BaseException as error:  # noqa: BLE001 - told to the test
            wrong.append(repr(error))

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    while meanwhile is not None and any(thread.is_alive() for thread in threads):
        meanwhile()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    return wrong


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_server_that_is_started_again_and_again(where: ServerPlace, db: ServerDatabase, how: Any) -> None:
    restarts = 0

    def restart() -> None:
        nonlocal restarts
        time.sleep(0.5)
        where.server.restart(how)
        restarts += 1

    numbers = iter(range(10**6))

    def write() -> None:
        db.write(lambda tx: count_up(tx, "count"))
        name = f"journal-{next(numbers)}"
        db.write(lambda tx: tx.insert("meta", name=name, value="x"), alone=False)
        time.sleep(0.03)

    assert hammered([write] * 8, 50, restart) == []
    assert restarts >= 3
    counts.record(
        "counted writes while a server restarts", **{where.kind: 800, f"{where.kind} restarts": restarts}
    )
    assert value(db, "count") == "400"
    rows = db.read(lambda tx: tx.all("SELECT name FROM meta WHERE name LIKE 'journal-%'"))
    assert len(rows) == 400


def test_a_server_that_stays_away_for_too_long(where: ServerPlace, db: ServerDatabase) -> None:
    impatient = where.apart(db, patience=1.5)
    assert impatient.fleet() == scratch.FLEET
    where.server.stop()
    for how in (impatient.fleet, lambda: impatient.write(lambda tx: None)):
        began = time.monotonic()
        with pytest.raises(DatabaseError) as caught:
            how()
        assert 1.4 < time.monotonic() - began < 6
        assert (caught.value.code, caught.value.hint) == (9, "is the server running?")
        assert caught.value.message.startswith(f"{db.where}: ")
    where.server.start()
    assert impatient.fleet() == scratch.FLEET
    impatient.close()


def test_a_server_that_comes_back_within_patience(where: ServerPlace, db: ServerDatabase) -> None:
    db.write(lambda tx: count_up(tx, "count"))
    where.server.stop()
    done = threading.Event()

    def write() -> None:
        db.write(lambda tx: count_up(tx, "count"))
        done.set()

    threading.Thread(target=write, daemon=True).start()
    assert not done.wait(1)
    where.server.start()
    assert done.wait(10)
    assert value(db, "count") == "2"


def test_a_server_that_is_lost_in_the_first_call_is_waited_for(
    where: ServerPlace, db: ServerDatabase, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was seen, though only in this very call."""
    monkeypatch.setattr(servers, "FIRST_PATIENCE", 0.2)
    assert db.url.database
    url = where.server.url_of(db.url.database, tcp=True)
    through = where.open(url.replace(str(where.server.port), str(proxy.port)))
    tries: list[float] = []

    def work(tx: Tx) -> int:
        tries.append(time.monotonic())
        if tries[-1] - tries[0] < 0.6:
            proxy.cut()
        return count_up(tx, "count")

    assert through.write(work) == 1
    through.close()


@pytest.mark.parametrize(("listens", "least"), [(True, 1.0), (False, 0.0)])
def test_a_server_that_ends_in_the_midst_of_a_greeting_was_seen(
    db: ServerDatabase, where: ServerPlace, monkeypatch: pytest.MonkeyPatch, listens: bool, least: float
) -> None:
    """It accepts connections and resets them. Where nobody listens there is none."""
    monkeypatch.setattr(servers, "FIRST_PATIENCE", 0.2)
    assert db.url.database
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def reset() -> None:
            with contextlib.suppress(OSError):
                while True:
                    accepted = listening.accept()[0]
                    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    accepted.close()

        if listens:
            threading.Thread(target=reset, daemon=True).start()
        else:
            listening.close()
        url = where.server.url_of(db.url.database, tcp=True).replace(str(where.server.port), str(port))
        through = where.open(url)
        through._patience = 1.0
        began = time.monotonic()
        with pytest.raises(DatabaseError):
            through.read(lambda tx: None)
        waited = time.monotonic() - began
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
    assert waited >= least
    assert listens or waited < 0.9
    through.close()


def test_closing_does_not_wait_for_a_server_that_is_gone(where: ServerPlace, db: ServerDatabase) -> None:
    other = where.apart(db)
    other.write(lambda tx: None)
    where.server.stop()
    began = time.monotonic()
    other.close()
    assert time.monotonic() - began < 1


def test_marks_go_with_their_process_and_old_ones_with_anybody_s(
    where: ServerPlace, db: ServerDatabase
) -> None:
    one, two = where.apart(db), where.apart(db)
    for each in (one, one, two):
        each.write(lambda tx: count_up(tx, "count"))
    one.write(lambda tx: tx.insert("commits", id="forgotten/1", at=time.time() - servers.KEPT - 5))
    one.write(lambda tx: tx.insert("commits", id="young/1", at=time.time() - servers.KEPT + 500))
    assert marks(db) == 7
    one.close()
    assert marks(db) == 2  # two's, and the young one
    two.close()
    two.close()
    assert [row["id"] for row in db.read(lambda tx: tx.all("SELECT id FROM commits"))] == ["young/1"]


def test_marks_go_though_the_server_was_started_again(where: ServerPlace, db: ServerDatabase) -> None:
    other = where.apart(db)
    other.write(lambda tx: count_up(tx, "count"))
    where.server.restart()
    other.close()
    assert marks(db) == 0


def test_marks_are_removed_while_others_write(where: ServerPlace, db: ServerDatabase) -> None:
    """Who leaves waits for nobody's marks."""
    other, still = where.apart(db), where.apart(db)
    other.write(lambda tx: count_up(tx, "count"))
    with still.writing(alone=False, mark="0/1"):
        began = time.monotonic()
        other.close()
        assert time.monotonic() - began < 2
        assert marks(db) == 0
    still.close()


def test_a_lost_connection_is_told_in_one_line(
    through: ServerDatabase, proxy: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    """SQLAlchemy writes of what it meets by itself: not to people."""

    for _ in range(3):
        tries: list[int] = []

        def work(tx: Tx) -> None:
            tries.append(1)  # noqa: B023
            if len(tries) == 1:  # noqa: B023
                proxy.cut()
            raise Refused("no")

        with pytest.raises(Refused):
            through.write(work)
    assert capfd.readouterr() == ("", "")
