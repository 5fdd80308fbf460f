"""Operations that more than one process or child has a part in: handed over, or several under a parent; each
process dies at each of its transactions, and somebody ends what was left."""

import contextlib
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from novactl.actions import handover
from novactl.db import instances, operations
from novactl.engine.operation import ACTIVE
from novactl.errors import Busy, NovactlError, OperationFailed, Refused
from tests.sim.actions import Group
from tests.sim.effort import sample
from tests.sim.stage import Point, Stage, Trial, ends_of, nth
from tests.support.databases import Place
from tests.support.life import Turns
from tests.support.sim import SimFleet, Watching, always, settled
from tests.support.toys import Died

NEVER = ("", 0)


class Relay:
    """One scenario that one process journals and another carries out."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def run(self, fleet: SimFleet, dies: Mapping[str, Point], failpoints: Any = None) -> dict[str, int]:
        """The giver journals, the runner (if the giver came so far as to start it) takes up and carries out.
        Returns how many transactions each has made."""
        writes, handed = {"giver": 0, "runner": 0}, None
        with contextlib.suppress(Died), fleet.process("giver", dies_at=dies.get("giver")) as giver:
            try:
                handed = handover.journal(giver.operator, [self.stage.scenario.action()], together=False)
            finally:
                writes["giver"] = giver.life.writes
        if handed is None or handed.head is None:
            return writes
        with (
            contextlib.suppress(Died),
            fleet.process("runner", failpoints, dies.get("runner")) as runner,
        ):
            try:
                family = handover.take_up(runner.operator, handed.head.id, giver.journal.owner.runner)
                handover.carry_out(runner.operator, family)
            finally:
                writes["runner"] = runner.life.writes
        return writes

    def writes(self) -> dict[str, int]:
        """How many transactions there are when nobody dies."""
        with self.stage.play() as fleet:
            return self.run(fleet, {})

    def deaths(self, *, back: bool, every: int = 1, turn: int = 0) -> Iterator[Trial]:
        """One of the two dies at one of its transactions. What was left is taken up by anybody, or undone."""
        points = [(who, at) for who, writes in self.writes().items() for at in ends_of(writes)]
        for who, at in sample(points, every, turn):
            with self.stage.play() as fleet:
                self.run(fleet, {who: at})
                wrong = self.stage.always(fleet)
                if not back and who == "giver":
                    self._taken_up(fleet)
                yield (who, at), wrong + self.stage.left_ended(fleet, back=back)

    def _taken_up(self, fleet: SimFleet) -> None:
        """As `novactl op run` does it by hand."""
        for op_id in fleet.active():
            with fleet.process("anybody") as process:
                handover.carry_out(process.operator, handover.take_up(process.operator, op_id, None))

    def deaths_in_acts(self, *, back: bool) -> Iterator[Trial]:
        """The runner dies in the middle of each act on a host."""
        for call, n in self.stage.calls():
            with self.stage.play() as fleet:
                fleet.faults.insert(0, nth(call, n, "dies"))
                self.run(fleet, {})
                if not self.stage.scenario.faults or fleet.faults[0].times == 0:
                    yield (call, n), self.stage.always(fleet) + self.stage.left_ended(fleet, back=back)

    def taken_back(self) -> Iterator[Trial]:
        """The runner cannot be started: the giver undoes what it has journaled, and dies at each transaction
        of that; a runner that comes late is refused."""
        n, most = 0, 99
        while n < most:
            n += 1
            with self.stage.play() as fleet:
                with contextlib.suppress(Died), fleet.process("giver") as giver:
                    handed = handover.journal(giver.operator, [self.stage.scenario.action()], together=False)
                    giver.life.dies_at = ("after-write", giver.life.writes + n)
                    handover.take_back(giver.operator, handed)
                    most = n
                wrong = self.stage.always(fleet)
                ended = not fleet.active()
                wrong += self._late(fleet, handed, giver.journal.owner.runner) if ended else []
                yield n, wrong + self.stage.left_ended(fleet, back=True, either=True)

    def _late(self, fleet: SimFleet, handed: Any, giver: str) -> list[str]:
        with fleet.process("late") as process:
            try:
                handover.take_up(process.operator, handed.head.id, giver)
            except Refused:
                return []
        return ["what was taken back is taken up"]

    def rivals(self) -> Iterator[Trial]:
        """A second runner comes at each instant of the first, and the giver wants to take it back."""
        for point, n in self.stage.instants("before-intent", "after-act"):
            with self.stage.play() as fleet:
                rival = Rival(fleet, self.stage.scenario.action(), (point, n))
                wrong = rival.compete()
                yield (point, n), wrong + self.stage.always(fleet) + self.stage.settled(fleet)


class Rival:
    """Failpoints of the first runner: at one instant others want the operation that it has."""

    def __init__(self, fleet: SimFleet, action: Any, at: tuple[str, int]) -> None:
        self.fleet = fleet
        self.action = action
        self.at = at
        self.wrong: list[str] = []

    def compete(self) -> list[str]:
        with self.fleet.process("giver") as self.giver:
            self.handed = handover.journal(self.giver.operator, [self.action], together=False)
            with self.fleet.process("runner", self) as runner:
                head = self.handed.head
                assert head is not None
                family = handover.take_up(runner.operator, head.id, self.giver.journal.owner.runner)
                (outcome,) = handover.carry_out(runner.operator, family)
            handover.follow(self.giver.operator, self.handed, 1)
        if outcome.code not in (0, 1):
            self.wrong.append(f"the first runner ended with {outcome.code}: {outcome.error}")
        if self.handed.outcomes[0].code != outcome.code:
            self.wrong.append(f"the giver was told {self.handed.outcomes[0]}")
        return self.wrong

    def reach(self, point: str, record: Any) -> None:
        if (point, record.n) != self.at:
            return
        self.at = ("", 0)
        head = self.handed.head
        assert head is not None
        with self.fleet.process("rival") as rival:
            try:
                handover.take_up(rival.operator, head.id, self.giver.journal.owner.runner)
                self.wrong.append("two runners have it")
            except Busy:
                pass
        handover.take_back(self.giver.operator, self.handed)
        if head.id not in self.fleet.active():
            self.wrong.append("it was taken back from its runner")


class Crowd:
    """A group ready to be played as often as wanted. A seed decides how its children mix."""

    def __init__(self, group: Group, directory: Path, place: Place | None = None) -> None:
        self.group = group
        self.directory = directory
        self.count = 0
        (directory / "first").mkdir(parents=True)
        self.first = SimFleet(directory / "first", place=place)
        for action in group.before:
            assert self.first.run(action()).code == 0

    @contextlib.contextmanager
    def play(self, seed: int = 0) -> Iterator[SimFleet]:
        self.count += 1
        directory = self.directory / str(self.count)
        directory.mkdir()
        fleet = self.first.clone(directory)
        fleet.turns = Turns(random.Random(seed))
        try:
            yield fleet
        finally:
            fleet.close()
            shutil.rmtree(directory)

    def run(self, fleet: SimFleet, dies_at: Point = NEVER, *, handed: bool = False) -> int:
        """All of them in one process, or handed over to one that dies. Returns its transactions."""
        actions, together = self.group.actions(), self.group.together
        head = giver = None
        if handed:
            with fleet.process("giver") as process:
                head = handover.journal(process.operator, actions, together=together).head
                giver = process.journal.owner.runner
        with contextlib.suppress(Died), fleet.process("a", dies_at=dies_at) as process:
            if head is not None:
                handover.carry_out(process.operator, handover.take_up(process.operator, head.id, giver))
            else:
                process.operator.run(actions, together=together)
        return process.life.writes

    def deaths(
        self, *, back: bool, handed: bool = False, every: int = 1, turn: int = 0, seed: int = 0
    ) -> Iterator[Trial]:
        """The process dies at each of its transactions; the parent is taken over."""
        with self.play(seed) as fleet:
            points = ends_of(self.run(fleet, handed=handed))
            yield "undisturbed", settled(fleet)
        for at in sample(points, every, turn):
            with self.play(seed) as fleet:
                self.run(fleet, at, handed=handed)
                yield at, always(fleet) + early_parents(fleet) + self.ended(fleet, back=back)

    def ended(self, fleet: SimFleet, *, back: bool) -> list[str]:
        """Another process ends the parent; what is wrong afterwards."""
        watching = Watching(fleet)
        with fleet.db.reading() as tx:
            parents = [row["id"] for row in tx.all("SELECT * FROM operations WHERE target = '3 instances'")]
        for parent in [one for one in parents if one in fleet.active()]:
            try:
                fleet.take_over(parent, back=back, failpoints=watching)
            except OperationFailed:
                pass
            except NovactlError as error:
                if error.code != 5 or not back:
                    watching.wrong.append(f"the parent: {error.code} {error}")
        for left in fleet.active():  # a parent's child past its pivot
            with contextlib.suppress(NovactlError):
                fleet.take_over(left, back=False)
        return watching.wrong + settled(fleet) + self._told(fleet, parents)

    def _told(self, fleet: SimFleet, parents: list[str]) -> list[str]:
        """Whether what is there is what the children's states say, and the parent's."""
        with fleet.db.reading() as tx:
            there = {found.name for found in instances.everything(tx)}
            states = {parent: operations.states_of_children(tx, parent) for parent in parents}
            done = {op.target for op, _, _ in operations.listed(tx) if op.parent and op.state == "done"}
        wanted = done if self.group.makes else {action.target for action in self.group.actions()} - done
        wrong = [] if there == wanted else [f"{sorted(there)} are there, {sorted(wanted)} should be"]
        active = [child for of in states.values() for child, state in of if state in ACTIVE]
        return wrong + [f"{child} is active" for child in active]


def early_parents(fleet: SimFleet) -> list[str]:
    """Parents that ended before a child of theirs."""
    with fleet.db.reading() as tx:
        rows = tx.all(
            "SELECT p.id AS id, c.id AS child FROM operations p JOIN operations c ON c.parent = p.id"
            " WHERE p.finished_at IS NOT NULL AND c.finished_at IS NULL"
        )
    return [f"{row['id']}: ended before its child {row['child']}" for row in rows]
