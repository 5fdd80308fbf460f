"""An engine's world of toys: steps that put things into a set, and all that can go wrong with them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from novactl.db.journal import DbJournal, Owner
from novactl.db.operations import events
from novactl.db.session import Database
from novactl.engine.operation import Attempt, Lock, Mode, Operation, Plan, Record
from novactl.engine.ports import INSTANTS, Failpoints, Interrupt, NoFailpoints
from novactl.engine.runner import Runner
from novactl.engine.step import Answer, Kind, RecordStep, Registry, Step
from tests.support.clock import SimClock
from tests.support.memory_journal import MemoryJournal

TOYS = Registry()


class Died(BaseException):
    """The process is gone: nothing of novactl may catch it."""


@dataclass
class ToyWorld:
    """What steps act on. `faults` maps ("do" | "undo", key) to what is raised there, half way through the
    act; `answers` what the pivot says instead of the truth."""

    clock: SimClock
    things: set[str] = field(default_factory=set)
    faults: dict[tuple[str, str], BaseException] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def act(self, what: str, key: str) -> None:
        """Half done first, then the fault if there is one, then wholly done."""
        self.log.append(f"{what} {key}")
        if what == "do":
            self.things.add(f"{key}.part")
            self._fault(what, key)
            self.things.add(key)
        else:
            self._fault(what, key)
            self.things.discard(key)
        self.things.discard(f"{key}.part")

    def _fault(self, what: str, key: str) -> None:
        if error := self.faults.get((what, key)):
            raise error


@TOYS.add
@dataclass(frozen=True, kw_only=True)
class Put(Step):
    """A thing is there."""

    type: ClassVar[str] = "put"
    key: str

    def do(self, ctx: Any) -> dict[str, Any]:
        ctx.world.act("do", self.key)
        return {"made": self.key, "of": ctx.result("put").get("made")}

    def undo(self, ctx: Any) -> None:
        ctx.world.act("undo", self.key)


@TOYS.add
@dataclass(frozen=True, kw_only=True)
class Note(RecordStep):
    """A name is in the database."""

    type: ClassVar[str] = "note"
    key: str

    def apply(self, tx: Any, ctx: Any) -> None:
        ctx.world.log.append(f"apply {self.key}")
        tx.insert("meta", name=self.key, value="noted")
        if error := ctx.world.faults.get(("apply", self.key)):
            raise error

    def revert(self, tx: Any, ctx: Any) -> None:
        ctx.world.log.append(f"revert {self.key}")
        tx.run("DELETE FROM meta WHERE name = :name", name=self.key)
        if error := ctx.world.faults.get(("revert", self.key)):
            raise error


@TOYS.add
@dataclass(frozen=True, kw_only=True)
class Claim(Note):
    """A name that the transaction wrote which journaled the plan."""

    type: ClassVar[str] = "claim"

    def apply(self, tx: Any, ctx: Any) -> None:
        """Already there."""


@TOYS.add
@dataclass(frozen=True, kw_only=True)
class Turn(Step):
    """There is no way back."""

    type: ClassVar[str] = "turn"
    kind: ClassVar[Kind] = Kind.PIVOT
    key: str

    def do(self, ctx: Any) -> None:
        ctx.world.act("do", self.key)

    def happened(self, ctx: Any) -> Answer:
        ctx.world.log.append(f"ask {self.key}")
        truth = Answer.YES if self.key in ctx.world.things else Answer.NO
        return ctx.world.answers.get(self.key, truth)


@TOYS.add
@dataclass(frozen=True, kw_only=True)
class TurnRecord(Note):
    """There is no way back, and only the database knows."""

    type: ClassVar[str] = "turn-record"
    kind: ClassVar[Kind] = Kind.PIVOT

    def revert(self, tx: Any, ctx: Any) -> None:
        """A pivot has none."""


@TOYS.add
@dataclass(frozen=True, kw_only=True)
class Tidy(Step):
    """A thing is there for good."""

    type: ClassVar[str] = "tidy"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    key: str

    def do(self, ctx: Any) -> None:
        ctx.world.act("do", self.key)


@TOYS.add
@dataclass(frozen=True, kw_only=True)
class NoteAfter(Note):
    """A name is in the database for good."""

    type: ClassVar[str] = "note-after"
    kind: ClassVar[Kind] = Kind.RETRIABLE


@dataclass
class DieAt:
    """Failpoints that end the process at one instant of one step (the nth time it is reached)."""

    point: str
    n: int
    error: BaseException = field(default_factory=Died)
    reached: list[tuple[str, int]] = field(default_factory=list)

    def reach(self, point: str, record: Record) -> None:
        self.reached.append((point, record.n))
        if (point, record.n) == (self.point, self.n):
            raise self.error


@dataclass
class Reached:
    """Failpoints that only write down where a process could have died."""

    instants: list[tuple[str, int]] = field(default_factory=list)

    def reach(self, point: str, record: Record) -> None:
        assert point in INSTANTS
        self.instants.append((point, record.n))


class Journaled(Protocol):
    """A journal of either kind, as tests see it."""

    journal: Any

    def submit(self, plan: Plan, applied: Sequence[str] = ()) -> Operation: ...
    def names(self) -> set[str]: ...
    def held(self) -> set[tuple[str, str]]: ...
    def ended(self) -> list[tuple[str, str]]: ...
    def request_cancel(self, op_id: str) -> None: ...
    def take(self, op: Operation) -> None: ...


class InMemory:
    """tests/support/memory_journal."""

    def __init__(self, clock: SimClock) -> None:
        self.journal = MemoryJournal(TOYS, clock)
        self._count = 0

    def submit(self, plan: Plan, applied: Sequence[str] = ()) -> Operation:
        self._count += 1
        with self.journal.transaction() as tx:
            for name in applied:
                tx.insert("meta", name=name)
            return self.journal.insert(tx, f"op-{self._count}", plan)

    def names(self) -> set[str]:
        return set(self.journal.names)

    def held(self) -> set[tuple[str, str]]:
        return self.journal.held()

    def ended(self) -> list[tuple[str, str]]:
        return self.journal.ended

    def request_cancel(self, op_id: str) -> None:
        self.journal.request_cancel(op_id)

    def take(self, op: Operation) -> None:
        with self.journal.transaction() as tx:
            self.journal.take(tx, op, op.epoch + 1)


class OnDatabase:
    """The real journal on a real database."""

    def __init__(self, clock: SimClock, db: Database) -> None:
        self.db = db
        owner = Owner(words="tester@here (pid 1)", user="tester", key={"pid": 1})
        self.journal = DbJournal(self.db, TOYS, clock, owner)
        self._own = {"fleet", "schema", "serial"}
        self._count = 0

    def submit(self, plan: Plan, applied: Sequence[str] = ()) -> Operation:
        self._count += 1
        with self.db.writing() as tx:
            for name in applied:
                tx.insert("meta", name=name, value="claimed")
            return self.journal.insert(tx, f"op-{self._count}", plan)

    def names(self) -> set[str]:
        with self.db.reading() as tx:
            return {row["name"] for row in tx.all("SELECT name FROM meta")} - self._own

    def held(self) -> set[tuple[str, str]]:
        with self.db.reading() as tx:
            rows = tx.all("SELECT * FROM op_locks")
        return {(f"{row['kind']}/{row['id']}/{row['mode']}", row["operation"]) for row in rows}

    def ended(self) -> list[tuple[str, str]]:
        with self.db.reading() as tx:
            return [(row["operation"], row["result"]) for row in events(tx, "u-1")]

    def request_cancel(self, op_id: str) -> None:
        with self.db.writing() as tx:
            tx.run("UPDATE operations SET cancel_requested = 1 WHERE id = :id", id=op_id)

    def take(self, op: Operation) -> None:
        with self.db.writing() as tx:
            self.journal.take(tx, op, op.epoch + 1)


class Recorder:
    """A journal in front of a journal: what was written, in order, between what was done."""

    WRITES = ("started", "done", "failed", "undone", "stuck")

    def __init__(self, journal: Any, log: list[str]) -> None:
        self._journal = journal
        self._log = log

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._journal, name)

        def recorded(op: Operation, *words: Any, **named: Any) -> Any:
            result = method(op, *words, **named)
            if name in self.WRITES:
                self._log.append(f"{name} {words[0].step.key}")
            elif name == "turn":
                self._log.append(str(words[0]))
            elif name == "append_attempt" and result:
                self._log.append(f"attempt {op.attempt}")
            return result

        return recorded if name in (*self.WRITES, "turn", "append_attempt") else method


@dataclass
class Bench:
    """One journal, one world, and as many processes as a test wants."""

    journaled: Journaled
    world: ToyWorld
    interrupt: Interrupt = field(default_factory=Interrupt)
    observed: list[tuple[str, str]] = field(default_factory=list)
    next_steps: list[tuple[Step, ...]] = field(default_factory=list)
    next_locks: frozenset[Lock] = frozenset()

    @property
    def log(self) -> list[str]:
        return self.world.log

    def submit(
        self,
        *attempt: Step,
        common: tuple[Step, ...] = (),
        locks: frozenset[Lock] = frozenset({Lock("instance", "u-1", Mode.EXCLUSIVE)}),
        target: str = "web1",
    ) -> Operation:
        """A journaled plan; its Claim steps are applied with it."""
        plan = Plan(
            kind="toy",
            target=target,
            target_uuid="u-1",
            project="default",
            request={"wish": "é\n"},
            locks=locks,
            common=common,
            attempt=attempt,
            applied=frozenset({Claim.type}),
            epoch=1,
        )
        return self.journaled.submit(plan, [s.key for s in (*common, *attempt) if isinstance(s, Claim)])

    def runner(self, failpoints: Failpoints | None = None) -> Runner:
        return Runner(
            Recorder(self.journaled.journal, self.world.log),  # type: ignore[arg-type]
            self.world,
            clock=self.world.clock,
            interrupt=self.interrupt,
            failpoints=failpoints or NoFailpoints(),
            observe=lambda op, record, event, detail="": self.observed.append((event, record.step.key)),
            next_attempt=self._next_attempt,
        )

    def _next_attempt(self, tx: Any, op: Operation, failure: str) -> Any:
        if not self.next_steps:
            return None
        steps = self.next_steps.pop(0)
        for step in steps:
            if isinstance(step, Claim):
                tx.insert("meta", name=step.key, value="claimed")
        return Attempt(steps=steps, applied=frozenset({Claim.type}), locks=self.next_locks)

    def load(self, op_id: str = "op-1") -> Operation:
        """As another process finds it."""
        return self.journaled.journal.load(op_id)

    def take(self, op_id: str) -> Operation:
        """As a process that takes it over finds it: it is its own from now on."""
        op = self.load(op_id)
        self.journaled.take(op)
        return op

    def states(self, op_id: str = "op-1") -> dict[str, str]:
        return {record.step.key: str(record.state) for record in self.load(op_id).records}

    def left(self) -> set[str]:
        """All that is there: things and names."""
        return self.world.things | self.journaled.names()


BenchMaker = Callable[[], Bench]


def memory_bench() -> Bench:
    clock = SimClock()
    return Bench(InMemory(clock), ToyWorld(clock))


def database_bench(db: Database) -> Bench:
    clock = SimClock()
    return Bench(OnDatabase(clock, db), ToyWorld(clock))
