"""Every operation, every step, every instant: the process dies there, another one ends it."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from novactl.actions.steps import REGISTRY
from novactl.db import instances
from novactl.engine.ports import INSTANTS
from novactl.errors import OperationFailed, OperationIncomplete, Refused
from tests.sim.actions import boot, delete, start, stop
from tests.support.sim import Fault, SimFleet, Watching, always, settled
from tests.support.toys import DieAt, Died, Reached


def _deaf(fleet: SimFleet) -> None:
    for host in fleet.hosts.values():
        for domain in host.domains.values():
            domain.deaf = True


@dataclass(frozen=True)
class Scenario:
    """One operation: what was done before, what goes wrong on the hosts, and what it leaves."""

    action: Callable[[], Any]
    before: tuple[Callable[[], Any], ...] = ()
    prepare: Callable[[SimFleet], None] = lambda fleet: None
    faults: tuple[Fault, ...] = ()
    ends: str | None = "ACTIVE"  # the instance's status when it is done, None for gone
    undone: str | None = None  # and when it was undone
    fails: bool = False  # it ends undone even when nobody dies


SCENARIOS = {
    "boot": Scenario(boot),
    "boot-with-everything": Scenario(lambda: boot(image="direct", flavor="disks")),
    "boot-next-host": Scenario(boot, faults=(Fault("start", "fails"),)),
    "boot-no-host": Scenario(
        lambda: boot(host="kvm1"), faults=(Fault("start", "fails", times=99),), ends=None, fails=True
    ),
    "stop": Scenario(stop, (boot,), ends="SHUTOFF", undone="ACTIVE"),
    "stop-deaf": Scenario(stop, (boot,), _deaf, ends="SHUTOFF", undone="ACTIVE"),
    "stop-force": Scenario(lambda: stop(force=True), (boot,), ends="SHUTOFF", undone="ACTIVE"),
    "start": Scenario(start, (boot, stop), ends="ACTIVE", undone="SHUTOFF"),
    "start-fails": Scenario(
        start,
        (boot, stop),
        faults=(Fault("start", "fails", times=99),),
        ends="SHUTOFF",
        undone="SHUTOFF",
        fails=True,
    ),
    "delete": Scenario(delete, (boot,), ends=None, undone="ACTIVE"),
    "delete-stopped": Scenario(delete, (boot, stop), ends=None, undone="SHUTOFF"),
}


Trial = tuple[Any, list[str]]  # where it was disturbed, and what was wrong then


class Stage:
    """A scenario ready to be played as often as wanted."""

    def __init__(self, scenario: Scenario, directory: Path) -> None:
        self.scenario = scenario
        self.directory = directory
        self.count = 0
        (directory / "first").mkdir(parents=True)
        self.first = SimFleet(directory / "first")
        for action in scenario.before:
            assert self.first.run(action()).code == 0
        scenario.prepare(self.first)
        assert settled(self.first) == []

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

    # --- how it can be disturbed ---

    def undisturbed(self) -> list[str]:
        """What is wrong when nothing is in its way."""
        with self.play() as fleet:
            watching = Watching(fleet)
            outcome = fleet.run(self.scenario.action(), failpoints=watching)
            wrong = watching.wrong + settled(fleet)
            if (outcome.code != 0) != self.scenario.fails:
                wrong.append(f"it ended with {outcome.code}: {outcome.error}")
            return wrong

    def deaths(self, *, back: bool) -> Iterator[Trial]:
        """The process dies at each instant; another one ends the operation."""
        for point, n in self.instants():
            with self.play() as fleet:
                with contextlib.suppress(Died):
                    fleet.run(self.scenario.action(), failpoints=DieAt(point, n))
                yield (point, n), always(fleet) + self.ended(fleet, back=back)

    def deaths_in_acts(self, *, back: bool) -> Iterator[Trial]:
        """It dies in the middle of each act on a host, after the act where that has no middle."""
        for call, n in self.calls():
            with self.play() as fleet:
                fleet.faults.insert(0, nth(call, n, "dies"))
                with contextlib.suppress(Died):
                    fleet.run(self.scenario.action())
                    assert fleet.faults[0].times > 0  # a planned fault of the scenario came first
                    continue
                wrong = always(fleet)
                yield (call, n), wrong + (self.ended(fleet, back=back) if fleet.active() else settled(fleet))

    def sleeps(self, *, back: bool) -> Iterator[Trial]:
        """It stands still before and after each act and record, is taken over, and wakes when the
        operation has ended."""
        for point, n in self.instants(
            "before-intent", "after-intent", "after-act", "before-undo", "after-undo"
        ):
            with self.play() as fleet:
                wrong: list[str] = []
                asleep = Sleeper(
                    fleet, (point, n), lambda f=fleet, w=wrong: w.extend(self.ended(f, back=back))
                )
                outcome = fleet.run(self.scenario.action(), failpoints=asleep)
                wrong += settled(fleet)
                if outcome.code not in (0, 6) and not self.scenario.fails:
                    wrong.append(f"it woke up and ended with {outcome.code}: {outcome.error}")
                yield (point, n), wrong

    def company(self, other: Callable[[], Any]) -> Iterator[Trial]:
        """Before and after each act somebody else wants the same instance."""
        for point, n in self.instants("before-intent", "after-act", "after-record"):
            with self.play() as fleet:
                wrong: list[str] = []
                visitor = Visitor(fleet, (point, n), other, wrong)
                fleet.run(self.scenario.action(), failpoints=visitor)
                yield (point, n), wrong + settled(fleet)

    def ended(self, fleet: SimFleet, *, back: bool) -> list[str]:
        """Another process ends what was left; what is wrong afterwards."""
        watching = Watching(fleet)
        how = take_over(fleet, back=back, watching=watching)
        wrong = watching.wrong + settled(fleet)
        expected = self.scenario.ends if how == "done" else self.scenario.undone
        if (now := status(fleet)) != expected:
            wrong.append(f"it was {how} and the instance is {now}")
        return wrong


@dataclass
class Sleeper:
    """Failpoints: at one instant the process counts as dead until `meanwhile` is over."""

    fleet: SimFleet
    at: tuple[str, int]
    meanwhile: Callable[[], object]

    def reach(self, point: str, record: Any) -> None:
        if (point, record.n) == self.at:
            self.at = ("", 0)
            alive = set(self.fleet.living)
            self.fleet.living.clear()
            self.meanwhile()
            self.fleet.living.update(alive)


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


@pytest.fixture(params=SCENARIOS, ids=str)
def stage(request: pytest.FixtureRequest, quick: Path) -> Iterator[Stage]:
    made = Stage(SCENARIOS[request.param], quick)
    yield made
    made.first.close()


DISTINCT = [name for name in SCENARIOS if name not in ("boot-with-everything", "stop-force", "start-fails")]
"""Scenarios that differ in more than the number of their steps."""

BACK = pytest.mark.parametrize("back", [False, True], ids=["resume", "rollback"])


def check(trials: Iterator[Trial], at_least: int = 1) -> None:
    """Nothing was ever wrong, and there was something that could have been."""
    count = 0
    for where, wrong in trials:
        assert wrong == [], where
        count += 1
    assert count >= at_least


def test_undisturbed(stage: Stage) -> None:
    assert stage.undisturbed() == []


@BACK
def test_death_at_every_instant(stage: Stage, back: bool) -> None:
    check(stage.deaths(back=back), at_least=5)


@BACK
def test_death_in_every_act_on_a_host(stage: Stage, back: bool) -> None:
    check(stage.deaths_in_acts(back=back))


@BACK
@pytest.mark.parametrize("stage", ["boot", "boot-no-host", "stop", "start", "delete"], indirect=True)
def test_a_process_that_sleeps_and_is_taken_over(stage: Stage, back: bool) -> None:
    """Refused by the database and by the host, whichever it meets first."""
    check(stage.sleeps(back=back), at_least=5)


@pytest.mark.parametrize("scenario", ["boot", "start", "stop", "delete"])
@pytest.mark.parametrize("other", [start, stop, delete], ids=["start", "stop", "delete"])
def test_somebody_else_at_every_instant(scenario: str, other: Callable[[], Any], quick: Path) -> None:
    check(Stage(SCENARIOS[scenario], quick).company(other), at_least=5)


@pytest.mark.parametrize("how", ["unreachable", "lost", "fails"])
@pytest.mark.parametrize("stage", DISTINCT, indirect=True)
def test_a_fault_at_every_call(stage: Stage, how: str) -> None:
    """A host that fails at any call: the command ends with a code that tells the truth."""
    for call, n in stage.calls():
        with stage.play() as fleet:
            fleet.faults.insert(0, nth(call, n, how))
            outcome = fleet.run(stage.scenario.action())
            assert always(fleet) == [], (call, n)
            fleet.faults[0].times = 0
            if outcome.code == 11:
                assert fleet.active() == [outcome.operation]
                assert outcome.error is not None
                assert "left half way" in outcome.error.message
                watching = Watching(fleet)
                take_over(fleet, back=False, watching=watching)
                assert watching.wrong == []
            else:
                assert outcome.code in (0, 1, 7), (call, n, outcome)
                assert fleet.active() == []
                if outcome.code == 7:
                    assert outcome.operation is None  # nothing was journaled yet
            assert settled(fleet) == [], (call, n, outcome)


def test_the_matrix_is_complete(quick: Path) -> None:
    """Every instant was reached, and every step of novactl was in it: a new step must have a scenario."""
    reached: set[str] = set()
    steps: set[str] = set()

    class Names(Reached):
        def reach(self, point: str, record: Any) -> None:
            reached.add(point)

    for name, scenario in SCENARIOS.items():
        with Stage(scenario, quick / name).play() as fleet:
            fleet.run(scenario.action(), failpoints=Names())
            with fleet.db.reading() as tx:
                rows = tx.all("SELECT step FROM steps")
        steps |= {json.loads(row["step"])["type"] for row in rows}
    assert reached == set(INSTANTS)
    assert steps == {step.type for step in REGISTRY}
