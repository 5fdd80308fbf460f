"""`recover`: whatever was left half way anywhere, one word ends it, and it says what it found."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from novactl.actions import diagnosis
from novactl.actions.diagnosis import Course, Diagnosis
from novactl.errors import Busy, NotFound, NovactlError, OperationFailed, OperationIncomplete
from tests.sim.actions import SCENARIOS, boot, live_migrate, migrate
from tests.sim.effort import sample
from tests.sim.stage import Stage, check
from tests.support.sim import SimFleet, settled
from tests.support.toys import DieAt, Died

WORDS = ("boot", "stop", "suspend", "migrate", "migrate-revert", "live-migrate", "live-migrate-finish-lost")
WORDS += ("resize-elsewhere", "evacuate-shared", "drain", "heal-moved")
EVERY = 4
"""Of the instants of a scenario one in so many is played."""


def seen(fleet: SimFleet, word: str = "web1") -> Diagnosis:
    with fleet.process("c") as process:
        operator = process.operator
        return diagnosis.diagnose(operator, *diagnosis.subject(operator, word, "default"))


def recovered(fleet: SimFleet, word: str = "web1") -> Diagnosis:
    """As the command does it: what was found first."""
    with fleet.process("c") as process:
        operator = process.operator
        first = found = diagnosis.diagnose(operator, *diagnosis.subject(operator, word, "default"))
        while found.course is not Course.NOTHING:
            with contextlib.suppress(OperationFailed):  # it was undone instead
                diagnosis.follow(operator, found)
            found = diagnosis.diagnose(operator, found.instance, found.operation)
        return first


def left(fleet: SimFleet, action: Any, *at: Any) -> str:
    """It died there."""
    with pytest.raises(Died):
        fleet.run(action, failpoints=DieAt(*at))
    (op_id,) = fleet.active()
    return op_id


@pytest.mark.parametrize("scenario", WORDS)
def test_ends_what_was_left_anywhere(scenario: str, quick: Path) -> None:
    stage = Stage(SCENARIOS[scenario], quick)

    def trials() -> Any:
        for point, n in sample(stage.instants(), EVERY, WORDS.index(scenario)):
            with stage.play() as fleet:
                with contextlib.suppress(Died):
                    fleet.run(stage.scenario.action(), failpoints=DieAt(point, n))
                ops = fleet.active()
                wrong = stage.always(fleet)
                for op_id in ops:
                    recovered(fleet, op_id)
                now = fleet.active()
                yield (point, n), wrong + stage.always(fleet) + stage.settled(fleet) + now

    check(trials(), at_least=1, what="instants after which recover ends it")
    stage.first.close()


@pytest.fixture
def fleet(quick: Path) -> Any:
    (quick / "fleet").mkdir()
    made = SimFleet(quick / "fleet", vcpus=32)
    assert made.run(boot(host="kvm1")).code == 0
    yield made
    made.close()


def test_nothing_to_do(fleet: SimFleet) -> None:
    found = recovered(fleet)
    assert (found.course, found.well) == (Course.NOTHING, True)
    says = {sight.where: sight.says for sight in found.sights}
    assert says["record"] == "ACTIVE on kvm1"
    assert says["kvm1"].startswith("domain is running; directory with")
    assert "kvm2" not in says


def test_waits_for_a_person(fleet: SimFleet) -> None:
    assert fleet.run(migrate(host="kvm2")).code == 0
    found = recovered(fleet)
    assert (found.course, found.well) == (Course.NOTHING, True)
    assert "resize-confirm or resize-revert" in found.why
    says = {sight.where: sight.says for sight in found.sights}
    assert says["migration"] == "migration, kvm1 to kvm2: finished"
    assert "directory _resize" in says["kvm1"] and "domain is running" in says["kvm2"]


def test_by_the_operations_id(fleet: SimFleet) -> None:
    op_id = left(fleet, migrate(host="kvm2"), "after-record", 3)
    found = recovered(fleet, op_id)
    assert found.course is Course.FINISH and found.operation is not None and found.operation.id == op_id
    assert {sight.where for sight in found.sights} == {"record", "operation", "migration", "kvm1", "kvm2"}
    again = recovered(fleet, op_id)
    assert again.course is Course.NOTHING and settled(fleet) == []


def test_a_target_that_does_not_answer(fleet: SimFleet) -> None:
    """What is ahead needs it, what is behind does not: it goes back."""
    left(fleet, live_migrate(host="kvm2"), "before-intent", 2)
    fleet.hosts["kvm2"].up = False
    found = seen(fleet)
    assert (found.course, found.dark) == (Course.UNDO, ("kvm2",))
    assert "kvm2 does not answer" in found.why
    recovered(fleet)
    fleet.hosts["kvm2"].up = True
    assert fleet.active() == [] and settled(fleet) == []


def test_a_source_that_does_not_answer(fleet: SimFleet) -> None:
    """Nothing may be decided without it: it is left again, and told."""
    op_id = left(fleet, live_migrate(host="kvm2"), "after-act", 11)
    fleet.hosts["kvm1"].up = False
    with pytest.raises(OperationIncomplete, match="kvm1"):
        recovered(fleet)
    assert fleet.active() == [op_id]
    fleet.hosts["kvm1"].up = True
    recovered(fleet)
    assert fleet.active() == [] and settled(fleet) == []


def test_its_host_does_not_answer(fleet: SimFleet) -> None:
    fleet.hosts["kvm1"].up = False
    found = recovered(fleet)
    assert (found.course, found.dark, found.well) == (Course.NOTHING, ("kvm1",), False)


def test_somebody_is_at_it(fleet: SimFleet) -> None:
    met: list[NovactlError] = []

    class Looks:
        def reach(self, point: str, record: Any) -> None:
            if (point, record.n) == ("after-act", 3):
                with pytest.raises(Busy, match="is at migrate since") as caught:
                    seen(fleet)
                met.append(caught.value)

    assert fleet.run(migrate(), failpoints=Looks()).code == 0
    assert met[0].operation is not None


def test_its_record_follows_it(fleet: SimFleet, quick: Path) -> None:
    stage = Stage(SCENARIOS["heal-moved"], quick / "moved")
    with stage.play() as moved:
        found = recovered(moved)
        assert found.course is Course.HEAL
        assert {one.finding for one in found.findings} >= {"wrong-host"}
        assert settled(moved) == []
    stage.first.close()


@pytest.mark.parametrize("word", ["nobody", "op-00"])
def test_nothing_of_that_name(fleet: SimFleet, word: str) -> None:
    with pytest.raises(NotFound):
        seen(fleet, word)


def test_the_plan_shows_the_steps(fleet: SimFleet) -> None:
    left(fleet, migrate(host="kvm2"), "after-record", 3)
    with fleet.process("c") as process:
        operator = process.operator
        found = diagnosis.diagnose(operator, *diagnosis.subject(operator, "web1", "default"))
        plan = diagnosis.plan(operator, found)
    assert plan["kind"] == "recover" and plan["course"] == "finish"
    assert [step["n"] for step in plan["steps"]] == list(range(4, 4 + len(plan["steps"])))
