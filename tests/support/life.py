"""The life of a simulated process: where it dies, that nothing of it is heard afterwards, how its lease is
renewed; and threads that take turns, so that a seed decides how they mix."""

import contextlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from novactl.actions.batches import MOST
from novactl.actions.operate import Operator
from novactl.db.journal import DbJournal
from novactl.db.session import Database, Tx
from novactl.engine.ports import Failpoints
from tests.support.clock import SimClock
from tests.support.toys import Died

STAYS = 0.5  # how often a thread goes on though others could


# --- turns ---


class _Member:
    """A thread that takes turns."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.error: BaseException | None = None


class Turns:
    """Threads of which exactly one runs, until it ends or comes to `switch`."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._now: _Member | None = None
        self._ready: list[_Member] = []
        self._away: list[tuple[int, _Member]] = []

    def together(self, works: Sequence[Callable[[], None]]) -> None:
        """Carry all out, the caller waits. Raises the error of the first that has one."""
        caller, members = self._now or _Member(), [_Member() for _ in works]
        left = list(members)

        def live(member: _Member, work: Callable[[], None]) -> None:
            member.go.acquire()
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised for the caller
                member.error = error
            left.remove(member)
            if not left:
                self._ready.append(caller)
            self._pass_on()

        threads = [threading.Thread(target=live, args=pair) for pair in zip(members, works, strict=True)]
        for thread in threads:
            thread.start()
        before, self._ready = self._now, self._ready + members
        self._pass_on()
        caller.go.acquire()
        self._now = before
        for thread in threads:
            thread.join()
        for member in members:
            if member.error is not None:
                raise member.error

    def switch(self, *, yields: bool = False, away: int = 0) -> None:
        """Another one may go on here; one does if there is one and the thread `yields`. `away`: after so
        many turns of others at the earliest."""
        me = self._now
        if me is None or (not yields and not away and self._chance.random() < STAYS):
            return
        others = bool(self._ready or self._away)
        if away:
            self._away.append((away, me))
        elif not (yields and others):
            self._ready.append(me)
        if not others:
            self._away = [(n, one) for n, one in self._away if one is not me]
            self._ready = [one for one in self._ready if one is not me]
            return
        following = self._next()
        if yields and not away:
            self._ready.append(me)
        if following is not me:
            self._now = following
            following.go.release()
            me.go.acquire()

    def _pass_on(self) -> None:
        self._now = self._next()
        self._now.go.release()

    def _next(self) -> _Member:
        self._away = [(n - 1, one) for n, one in self._away]
        self._ready += [one for n, one in self._away if n <= 0]
        self._away = [(n, one) for n, one in self._away if n > 0]
        if not self._ready:
            self._ready.append(self._away.pop(0)[1])
        return self._ready.pop(self._chance.randrange(len(self._ready)))


# --- life and death ---


@dataclass(eq=False)
class Life:
    """One process's. `dies_at`: ("before-write" or "after-write", which of its transactions)."""

    number: int
    dies_at: tuple[str, int] | None = None
    over: bool = False
    writes: int = 0

    def check(self) -> None:
        """For all that reaches out of the process."""
        if self.over:
            raise Died("it is gone already")

    def end(self, why: str) -> NoReturn:
        self.over = True
        raise Died(why)

    def at(self, point: str) -> None:
        if self.dies_at == (point, self.writes):
            self.end(f"{point} {self.writes}")


@dataclass
class Mortal:
    """Failpoints of a process: others may go on there, and one that dies there stays dead."""

    life: Life
    inner: Failpoints
    turns: Turns | None

    def reach(self, point: str, record: Any) -> None:
        self.life.check()
        if self.turns is not None:
            self.turns.switch()
            self.life.check()
        try:
            self.inner.reach(point, record)
        except Died:
            self.life.over = True
            raise


def mortal(db: Database, life: Life, clock: SimClock) -> Database:
    """The database for one process: as the simulated clock has it, and gone with the process."""
    reading, writing = db.reading, db.writing

    @contextlib.contextmanager
    def reads() -> Iterator[Tx]:
        life.check()
        with reading() as tx:
            tx.now = clock.monotonic  # type: ignore[method-assign]
            yield tx

    @contextlib.contextmanager
    def writes(**how: Any) -> Iterator[Tx]:
        life.check()
        life.writes += 1
        life.at("before-write")
        with writing(**how) as tx:
            tx.now = clock.monotonic  # type: ignore[method-assign]
            yield tx
        life.at("after-write")

    db.reading, db.writing = reads, writes  # type: ignore[method-assign]
    return db


@dataclass
class Heart:
    """engine.heartbeat.Heartbeat by the simulated clock: it beats whenever time passes, unless the process
    stands still."""

    journal: DbJournal
    life: Life
    clock: SimClock
    beats: dict[int, "Heart"]  # of the fleet: those that work
    asleep: set[int]
    renewed: float = 0.0
    inside: int = field(default=0)

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        self.inside += 1
        self.renewed = self.clock.monotonic()
        self.beats[self.life.number] = self
        try:
            yield
        finally:
            self.inside -= 1
            if not self.inside:
                self.beats.pop(self.life.number, None)

    def cancelled(self, op_id: str) -> bool:
        return self.journal.wishes().get(op_id, False)

    def missing(self, op_id: str) -> bool:
        return op_id not in self.journal.wishes()

    def beat(self) -> None:
        due = self.clock.monotonic() >= self.renewed + self.journal.lease / 4
        if due and not self.life.over and self.life.number not in self.asleep:
            self.renewed = self.clock.monotonic()
            dies_at, self.life.dies_at = self.life.dies_at, None  # it is another thread
            self.journal.renew()
            self.life.writes -= 1
            self.life.dies_at = dies_at


class SimOperator(Operator):
    """Its threads take turns where somebody decides about turns."""

    turns: Turns | None = None

    def in_threads(self, work: Callable[[int], None], indices: Sequence[int], most: int = MOST) -> None:
        if len(indices) == 1:
            work(indices[0])
        elif self.turns is not None and indices:
            self.turns.together([lambda n=index: work(n) for index in indices])  # type: ignore[misc]
        else:
            super().in_threads(work, indices, most)


class Guard:
    """A lock that several threads of one process want, also when they take turns."""

    def __init__(self, clock: SimClock) -> None:
        self._clock = clock
        self._lock = threading.Lock()

    def __enter__(self) -> bool:
        while not self._lock.acquire(timeout=0.001):
            self._clock.sleep(0.01)
        return True

    def __exit__(self, *_: object) -> None:
        self._lock.release()
