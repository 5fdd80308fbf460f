"""One operation of the simulation, played as often as wanted and disturbed in every way."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from novactl.actions import recover
from novactl.db import instances
from novactl.db.journal import LEASE
from novactl.engine.step import Kind
from novactl.errors import Busy, NovactlError, OperationFailed, OperationIncomplete, Refused
from tests.sim.actions import Scenario
from tests.sim.effort import sample
from tests.support import counts
from tests.support.databases import Place
from tests.support.sim import Fault, SimFleet, Watching, always, settled
from tests.support.toys import DieAt, Died, Reached

Trial = tuple[Any, list[str]]  # where it was disturbed, and what was wrong then
Point = tuple[str, int]  # "before-write" or "after-write", and which of a process's transactions


class Stage:
    """A scenario ready to be played as often as wanted."""

    def __init__(self, scenario: Scenario, directory: Path, place: Place | None = None) -> None:
        self.scenario = scenario
        self.directory = directory
        self.count = 0
        (directory / "first").mkdir(parents=True)
        self.first = SimFleet(directory / "first", place=place)
        self.first.limit()
        for action in scenario.before:
            assert self.first.run(action()).code == 0
        scenario.prepare(self.first)
        assert bool(settled(self.first)) == scenario.heals
        self.known = always(self.first)

    @contextlib.contextmanager
    def play(self) -> Iterator[SimFleet]:
        """Another fleet just before the action."""
        self.count += 1
        directory = self.directory / str(self.count)
        directory.mkdir()
        fleet = self.first.clone(directory)
        fleet.faults += [Fault(**vars(fault)) for fault in self.scenario.faults]
        try:
            yield fleet
        finally:
            fleet.close()
            shutil.rmtree(directory)

    # --- where it can be disturbed ---

    def instants(self, *points: str) -> list[tuple[str, int]]:
        """Where the process could die when nothing is in its way; of these points, or of all. When a host
        fails, only from there on: up to there it goes as without the failure."""
        with self.play() as fleet:
            reached = Reached()
            fleet.run(self.scenario.action(), failpoints=reached)
        names = [point for point, _ in reached.instants]
        begin = names.index("before-undo") - 1 if self.scenario.faults and "before-undo" in names else 0
        return [(point, n) for point, n in reached.instants[begin:] if not points or point in points]

    def calls(self) -> list[tuple[str, int]]:
        """(call, which of its kind) of each act on a host; of many of a kind the first and the last two."""
        with self.play() as fleet:
            before = {name: len(host.calls) for name, host in fleet.hosts.items()}
            fleet.run(self.scenario.action())
            made = [call for name, host in fleet.hosts.items() for call in host.calls[before[name] :]]
        counts = {call: made.count(call) for call in made}
        return [(call, n) for call, of in counts.items() for n in range(of) if n < 2 or n > of - 3]

    def writes(self) -> list[Point]:
        """Before and after each transaction of the process when nothing is in its way."""
        with self.play() as fleet, fleet.process() as process:
            process.operator.run([self.scenario.action()])
            return ends_of(process.life.writes)

    # --- what is wrong ---

    def always(self, fleet: SimFleet, watched: Sequence[str] = ()) -> list[str]:
        """What is wrong now and was wrong meanwhile, but for what a heal is there for."""
        wrong = [*watched, *always(fleet)]
        return [line for line in wrong if not any(line.endswith(known) for known in self.known)]

    def settled(self, fleet: SimFleet) -> list[str]:
        """What is wrong in the end; when it was to heal something, after healing it again."""
        while self.scenario.heals and fleet.run(self.scenario.healer()).result == "done":
            pass
        return settled(fleet)

    # --- how it can be disturbed ---

    def undisturbed(self) -> list[str]:
        """What is wrong when nothing is in its way."""
        with self.play() as fleet:
            watching = Watching(fleet)
            outcome = fleet.run(self.scenario.action(), failpoints=watching)
            wrong = self.always(fleet, watching.wrong) + settled(fleet)
            if (outcome.code != 0) != self.scenario.fails:
                wrong.append(f"it ended with {outcome.code}: {outcome.error}")
            return wrong

    def deaths(self, *, back: bool, every: int = 1, turn: int = 0) -> Iterator[Trial]:
        """The process dies at each instant; another one ends the operation."""
        for point, n in sample(self.instants(), every, turn):
            with self.play() as fleet:
                with contextlib.suppress(Died):
                    fleet.run(self.scenario.action(), failpoints=DieAt(point, n))
                yield (point, n), self.always(fleet) + self.ended(fleet, back=back)

    def deaths_in_acts(self, *, back: bool, every: int = 1, turn: int = 0) -> Iterator[Trial]:
        """It dies in the middle of each act on a host, after the act where that has no middle."""
        for call, n in sample(self.calls(), every, turn):
            with self.play() as fleet:
                fleet.faults.insert(0, nth(call, n, "dies"))
                with contextlib.suppress(Died):
                    fleet.run(self.scenario.action())
                    assert fleet.faults[0].times > 0  # a planned fault of the scenario came first
                    continue
                yield (call, n), self.always(fleet) + self.left_ended(fleet, back=back)

    def second_deaths(self, first: Point, second: Point, *, back: bool, again: bool) -> Trial:
        """The process dies at one of its transactions, the one that takes over at one of its own, and a
        third one ends it."""
        with self.play() as fleet:
            with contextlib.suppress(Died), fleet.process("a", dies_at=first) as process:
                process.operator.run([self.scenario.action()])
            wrong = self.always(fleet)
            for op_id in fleet.active():
                with contextlib.suppress(Died, NovactlError):
                    fleet.take_over(op_id, back=back, dies_at=second)
                wrong += self.always(fleet)
            return (first, second, back, again), wrong + self.left_ended(fleet, back=again, either=True)

    def reboots(self, *, back: bool | None) -> Iterator[Trial]:
        """The host is switched off and on at each call while a job of it works. `back`: the process dies
        there too, and is taken over; None: it goes on."""
        for call, n in [(call, n) for call, n in self.calls() if call.startswith(("job_", "base_"))]:
            with self.play() as fleet:
                if back is None:
                    fleet.faults.insert(0, nth(call, n, "reboots"))
                    outcome = fleet.run(self.scenario.action())
                    yield (call, n), ([] if outcome.code == 0 else [str(outcome)]) + settled(fleet)
                    continue
                fleet.faults.insert(0, nth(call, n, "dies"))
                with contextlib.suppress(Died):
                    fleet.run(self.scenario.action())
                for host in fleet.hosts.values():
                    host.power_cycle()
                yield (call, n), self.always(fleet) + self.left_ended(fleet, back=back)

    def sleeps(self, *, back: bool) -> Iterator[Trial]:
        """It stands still before and after each act and record: it is taken over when its lease is over, not
        earlier, and wakes when the operation has ended."""
        for point, n in self.instants(
            "before-intent", "after-intent", "after-act", "before-undo", "after-undo"
        ):
            with self.play() as fleet:
                wrong: list[str] = []

                def meanwhile(fleet: SimFleet = fleet, wrong: list[str] = wrong) -> None:
                    wrong += held_by_its_lease(fleet, back=back) + self.ended(fleet, back=back)

                asleep = Sleeper(fleet, (point, n), meanwhile)
                outcome = fleet.run(self.scenario.action(), failpoints=asleep)
                wrong += settled(fleet) + older_acts(fleet, asleep.acted)
                if outcome.code not in (0, 6) and not self.scenario.fails:
                    wrong.append(f"it woke up and ended with {outcome.code}: {outcome.error}")
                yield (point, n), wrong

    def cancels(self) -> Iterator[Trial]:
        """Somebody wants its end after each step: before its pivot it is undone, with all that it did."""
        with self.play() as fleet, fleet.process() as process:
            (outcome,) = process.operator.run([self.scenario.action()])
            records = process.journal.load(str(outcome.operation)).records
        pivot = next(record.n for record in records if record.kind is Kind.PIVOT)
        for point, n in [(point, n) for point, n in self.instants("after-record") if n < pivot]:
            with self.play() as fleet:
                wants = Cancels(fleet, (point, n))
                outcome = fleet.run(self.scenario.action(), failpoints=wants)
                wrong = [] if outcome.code == 130 else [f"it was cancelled and ended with {outcome.code}"]
                if (now := status(fleet)) != self.scenario.undone:
                    wrong.append(f"it was cancelled and the instance is {now}")
                yield (point, n), wrong + settled(fleet) + jobs_left(fleet)

    def company(self, other: Callable[[], Any]) -> Iterator[Trial]:
        """Before and after each act somebody else wants the same instance."""
        for point, n in self.instants("before-intent", "after-act", "after-record"):
            with self.play() as fleet:
                wrong: list[str] = []
                visitor = Visitor(fleet, (point, n), other, wrong)
                fleet.run(self.scenario.action(), failpoints=visitor)
                yield (point, n), wrong + settled(fleet)

    def left_ended(self, fleet: SimFleet, *, back: bool, either: bool = False) -> list[str]:
        """The same, when there is anything left."""
        return self.ended(fleet, back=back, either=either) if fleet.active() else self.settled(fleet)

    def ended(self, fleet: SimFleet, *, back: bool, either: bool = False) -> list[str]:
        """Another process ends what was left; what is wrong afterwards. `either`: others tried before."""
        watching = Watching(fleet)
        how = take_over(fleet, back=back, watching=watching)
        wrong = self.always(fleet, watching.wrong) + (settled if how == "done" else self.settled)(fleet)
        wrong += jobs_left(fleet) + launched_otherwise(fleet)
        ways = {"done": self.scenario.ends, "undone": self.scenario.undone}
        expected = set(ways.values()) if either else {ways.get(how)}
        if (now := status(fleet)) not in expected:
            wrong.append(f"it was {how} and the instance is {now}")
        return wrong


def ends_of(writes: int) -> list[Point]:
    """Before and after each of so many transactions."""
    return [(point, n) for n in range(1, writes + 1) for point in ("before-write", "after-write")]


def jobs_left(fleet: SimFleet) -> list[str]:
    """Jobs on hosts, though no operation is under way."""
    return [f"{name}: job {op}.{n} is left" for name, host in fleet.hosts.items() for op, n in host.jobs]


def launched_otherwise(fleet: SimFleet) -> list[str]:
    """Instances whose record and domain differ in what a step has journaled as its result."""
    with fleet.db.reading() as tx:
        launched = {found.uuid: found.launched_at for found in instances.everything(tx)}
    return [
        f"{name}: {uuid} was launched at another time, as its domain has it"
        for name, host in fleet.hosts.items()
        for uuid, domain in host.domains.items()
        if (launched.get(uuid) or "") not in domain.xml
    ]


def older_acts(fleet: SimFleet, since: Mapping[str, int]) -> list[str]:
    """Acts that a host has let in since then under an epoch that is over."""
    with fleet.db.reading() as tx:
        newest = {row["uuid"]: row["epoch"] for row in tx.all("SELECT uuid, epoch FROM instances")}
    return [
        f"{name}: an older process did {call}"
        for name, host in fleet.hosts.items()
        for call, uuid, epoch in host.acted[since.get(name, len(host.acted)) :]
        if epoch < newest[uuid]
    ]


def held_by_its_lease(fleet: SimFleet, *, back: bool) -> list[str]:
    """What is wrong when a process that stands still is taken over before its lease is over; then it is."""
    wrong = []
    for op_id in fleet.active():
        try:
            fleet.take_over(op_id, back=back, name="hasty")
            wrong.append(f"{op_id} was taken over before its lease was over")
        except Busy:
            pass
        except NovactlError as error:
            wrong.append(f"{op_id} was taken over before its lease was over: {error}")
    fleet.clock.sleep(LEASE + 1)
    return wrong


@dataclass
class Sleeper:
    """Failpoints: at one instant all processes stand still until `meanwhile` is over."""

    fleet: SimFleet
    at: tuple[str, int]
    meanwhile: Callable[[], object]
    acted: dict[str, int] = field(default_factory=dict)  # how many acts each host had let in until it woke

    def reach(self, point: str, record: Any) -> None:
        if (point, record.n) == self.at:
            self.at = ("", 0)
            self.fleet.asleep.update(self.fleet.living)
            self.meanwhile()
            self.fleet.asleep.clear()
            self.acted = {name: len(host.acted) for name, host in self.fleet.hosts.items()}


@dataclass
class Cancels:
    """Failpoints: at one instant somebody else cancels the operation."""

    fleet: SimFleet
    at: tuple[str, int]

    def reach(self, point: str, record: Any) -> None:
        if (point, record.n) == self.at:
            with self.fleet.process("other") as process:
                recover.cancel(process.operator, self.fleet.active()[0])


@dataclass
class Visitor:
    """Failpoints: at one instant somebody else wants something; `always` must hold then."""

    fleet: SimFleet
    at: tuple[str, int]
    wants: Callable[[], Any]
    wrong: list[str]

    def reach(self, point: str, record: Any) -> None:
        if (point, record.n) == self.at:
            outcome = self.fleet.run(self.wants(), name="visitor")
            self.wrong += always(self.fleet)
            held = "op-" in (outcome.error.message if outcome.error else "")
            in_vain = outcome.result == "unchanged" or outcome.code in (4, 5)
            if not in_vain and not (outcome.code == 6 and held):
                self.wrong.append(f"a second operation was let in: {outcome.code} {outcome.error}")


class Nth(Fault):
    """A fault at the nth call of its kind."""

    skip: int = 0

    def matches(self, host: str, call: str) -> bool:
        if not super().matches(host, call):
            return False
        self.skip -= 1
        return self.skip < 0


def nth(call: str, n: int, how: str) -> Fault:
    fault = Nth(call, how)
    fault.skip = n
    return fault


def status(fleet: SimFleet) -> str | None:
    """What `list` would show; None when it is gone."""
    with fleet.db.reading() as tx:
        found = instances.everything(tx)
    assert len(found) <= 1
    return found[0].status if found else None


def take_over(fleet: SimFleet, *, back: bool, watching: Watching) -> str:
    """How the operation that a dead process left ended: done, undone, or refused and then done."""
    active = fleet.active()
    if len(active) != 1:
        watching.wrong.append(f"{active} are active")
        return "lost"
    try:
        op = fleet.take_over(active[0], back=back, failpoints=watching)
    except OperationFailed as error:
        if (error.code, error.operation) != (1, active[0]):
            watching.wrong.append(f"wrong error: {error.as_dict()}")
        return "undone"
    except Refused as error:
        if not back or error.code != 5 or "past its point of no return" not in error.message:
            watching.wrong.append(f"wrong refusal: {error.as_dict()}")
            return "lost"
        return take_over(fleet, back=False, watching=watching)
    except OperationIncomplete as error:
        watching.wrong.append(f"it stays half way: {error.message}")
        return "lost"
    return str(op.state)


def check(trials: Iterator[Trial], at_least: int = 1, *, what: str, kind: str = "sqlite") -> int:
    """Nothing was ever wrong, and there was something that could have been. `what` they are counted as."""
    count, began = 0, time.monotonic()
    for where, wrong in trials:
        assert wrong == [], where
        count += 1
    assert count >= at_least
    counts.record(what, **{kind: count, f"{kind} seconds": round(time.monotonic() - began, 2)})
    return count
