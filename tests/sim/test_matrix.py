"""Every operation, every step, every instant: the process dies there, another one ends it.

The operations are those of tests.sim.actions.SCENARIOS, tests.sim.stage plays them.
"""

import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from novactl import actions
from novactl.actions import recover
from novactl.actions.steps import REGISTRY
from novactl.engine.ports import INSTANTS
from tests.sim.actions import SCENARIOS, delete, heal, start, stop
from tests.sim.effort import FULL, least, sample
from tests.sim.stage import Stage, check, nth, take_over
from tests.support import counts, databases
from tests.support.sim import Watching
from tests.support.toys import Reached


@pytest.fixture(params=SCENARIOS, ids=str)
def stage(request: pytest.FixtureRequest, quick: Path) -> Iterator[Stage]:
    made = Stage(SCENARIOS[request.param], quick)
    yield made
    made.first.close()


ALIKE = {
    "boot-with-everything",
    "stop-force",
    "start-fails",
    "reboot-deaf",
    "reboot-stopped",
    "delete-suspended",
}
DISTINCT = [name for name in SCENARIOS if name not in ALIKE]
"""Scenarios that differ in more than the number of their steps."""

FAULTS = ["unreachable", "lost", "fails"]
SLEEPERS = ["boot", "boot-no-host", "stop", "start", "suspend", "resume", "delete"]
BACK = pytest.mark.parametrize("back", [False, True], ids=["resume", "rollback"])
SERVERS = ("postgresql", "mariadb")
HERE, EVERY = 3, 10
"""Of the points on SQLite, and of those on a server, one in so many is played in each run: which, is another
one from scenario to scenario. `make matrix` plays all on SQLite, `make reliability` all."""


def test_undisturbed(stage: Stage) -> None:
    assert stage.undisturbed() == []


@pytest.fixture
def turn(request: pytest.FixtureRequest) -> int:
    """Which of the points a scenario plays."""
    return list(SCENARIOS).index(request.node.callspec.params["stage"])


@BACK
def test_death_at_every_instant(stage: Stage, turn: int, back: bool) -> None:
    deaths = stage.deaths(back=back, every=HERE, turn=turn + back)
    check(deaths, at_least=least(stage.scenario.dies, HERE), what="deaths at an instant")


@BACK
def test_death_in_every_act_on_a_host(stage: Stage, turn: int, back: bool) -> None:
    deaths = stage.deaths_in_acts(back=back, every=HERE, turn=turn + back)
    check(deaths, at_least=min(1, least(stage.scenario.dies, HERE)), what="deaths in an act on a host")


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("kind", SERVERS)
def test_deaths_on_a_server(kind: str, scenario: str, quick: Path) -> None:
    """The same there; forward and back are other points, and, unless all are wanted, on other servers."""
    stage = Stage(SCENARIOS[scenario], quick / "stage", databases.place(kind))
    turn = list(SCENARIOS).index(scenario)
    ways = [(False, turn), (True, turn + EVERY // 2)]
    if not FULL:
        ways = [ways[(turn + SERVERS.index(kind)) % 2]]
    try:
        for back, of in ways:
            deaths = stage.deaths(back=back, every=EVERY, turn=of)
            check(deaths, at_least=min(1, stage.scenario.dies), what="deaths at an instant", kind=kind)
            acts = stage.deaths_in_acts(back=back, every=EVERY, turn=of)
            check(acts, at_least=0, what="deaths in an act on a host", kind=kind)
    finally:
        stage.first.close()


@BACK
@pytest.mark.parametrize("stage", SLEEPERS, indirect=True)
def test_a_process_that_sleeps_and_is_taken_over(stage: Stage, back: bool) -> None:
    """Refused by the database and by the host, whichever it meets first."""
    check(stage.sleeps(back=back), at_least=5, what="processes that stand still and wake")


@pytest.mark.parametrize(
    "stage",
    ["boot", "boot-large", "start", "stop", "suspend", "reboot", "snapshot", "snapshot-cold"],
    indirect=True,
)
def test_cancelled_at_every_instant(stage: Stage) -> None:
    check(stage.cancels(), what="cancels before the point of no return")


@pytest.mark.parametrize("scenario", ["boot", "start", "stop", "delete"])
@pytest.mark.parametrize("other", [start, stop, delete], ids=["start", "stop", "delete"])
def test_somebody_else_at_every_instant(
    scenario: str, other: Callable[[], Any], quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover, "PATIENCE", 2.0)  # the one who is waited for is the one who waits
    met = Stage(SCENARIOS[scenario], quick / "stage").company(other)
    check(met, at_least=5, what="somebody else who wants the same instance")


@pytest.mark.parametrize("how", FAULTS)
@pytest.mark.parametrize("stage", DISTINCT, indirect=True)
def test_a_fault_at_every_call(stage: Stage, turn: int, how: str) -> None:
    """A host that fails at any call: the command ends with a code that tells the truth."""
    calls = sample(stage.calls(), HERE, turn + FAULTS.index(how))
    counts.record("faults of a host at a call", sqlite=len(calls))
    for call, n in calls:
        with stage.play() as fleet:
            fleet.faults.insert(0, nth(call, n, how))
            outcome = fleet.run(stage.scenario.action())
            assert stage.always(fleet) == [], (call, n)
            fleet.faults[0].times = 0
            if outcome.code == 11:
                assert fleet.active() == [outcome.operation]
                assert outcome.error is not None
                assert "left half way" in outcome.error.message
                watching = Watching(fleet)
                take_over(fleet, back=False, watching=watching)
                assert stage.always(fleet, watching.wrong) == []
            else:
                assert outcome.code in (0, 1, 7), (call, n, outcome)
                assert fleet.active() == []
                if outcome.code == 7:
                    assert outcome.operation is None  # nothing was journaled yet
            if call == "trust_end" and (how == "unreachable" or (how == "fails" and pulled(fleet))):
                assert fleet.run(heal()).code == 0  # it keeps the key until then
            assert stage.settled(fleet) == [], (call, n, outcome)


def pulled(fleet: Any) -> bool:
    """Whether a base file came from another host, one that may be anybody's: its faults are not ours."""
    with fleet.db.reading() as tx:
        return bool(tx.all("SELECT step FROM steps WHERE step LIKE '%\"pull-base\"%'"))


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


def action_classes() -> dict[str, type]:
    """All of novactl.actions that can be journaled: what has check and plan."""
    found = {}
    for module in pkgutil.walk_packages(actions.__path__, "novactl.actions."):
        for name, one in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            protocol = getattr(one, "_is_protocol", False)
            if (
                one.__module__ == module.name
                and hasattr(one, "plan")
                and hasattr(one, "check")
                and not protocol
            ):
                found[name] = one
    return found


def test_every_action_has_a_scenario(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has none is in no suite: it needs a line in tests.sim.actions."""
    planned: set[str] = set()

    def noted(name: str, plan: Callable[..., Any]) -> Callable[..., Any]:
        def plans(*words: Any) -> Any:
            planned.add(name)
            return plan(*words)

        return plans

    known = action_classes()
    for name, one in known.items():
        monkeypatch.setattr(one, "plan", noted(name, one.plan))  # type: ignore[attr-defined]
    for name, scenario in SCENARIOS.items():
        stage = Stage(scenario, quick / name)
        with stage.play() as fleet:
            fleet.run(scenario.action())
        stage.first.close()
    assert {"Boot", "Delete", "Start", "Stop"} <= set(known)
    assert planned == set(known)
