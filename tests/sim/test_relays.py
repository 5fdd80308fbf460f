"""Handed over, or several at once: each process dies at each of its transactions, in each direction."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.actions import GROUPS, SCENARIOS
from tests.sim.relays import Crowd, Relay
from tests.sim.stage import Stage, check
from tests.support import databases

BACK = pytest.mark.parametrize("back", [False, True], ids=["resume", "rollback"])
SERVERS = pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
HAND = pytest.mark.parametrize("handed", [False, True], ids=["alone", "handed-over"])


@pytest.fixture(params=SCENARIOS, ids=str)
def stage(request: pytest.FixtureRequest, quick: Path) -> Iterator[Stage]:
    made = Stage(SCENARIOS[request.param], quick)
    yield made
    made.first.close()


@BACK
def test_deaths_of_giver_and_runner(stage: Stage, back: bool) -> None:
    turn = list(SCENARIOS.values()).index(stage.scenario) + back
    deaths = Relay(stage).deaths(back=back, every=2, turn=turn)
    check(deaths, at_least=stage.scenario.dies, what="deaths around a hand-over")


@BACK
@pytest.mark.parametrize("stage", ["boot-large", "stop", "start", "delete"], indirect=True)
def test_deaths_of_the_runner_in_every_act(stage: Stage, back: bool) -> None:
    check(Relay(stage).deaths_in_acts(back=back), at_least=3, what="deaths around a hand-over")


@SERVERS
@BACK
@pytest.mark.parametrize("scenario", ["boot", "delete"])
def test_deaths_of_giver_and_runner_on_a_server(kind: str, scenario: str, back: bool, quick: Path) -> None:
    stage = Stage(SCENARIOS[scenario], quick / "stage", databases.place(kind))
    deaths = Relay(stage).deaths(back=back, every=8, turn=3 * back)
    check(deaths, at_least=2, what="deaths around a hand-over", kind=kind)
    stage.first.close()


@pytest.mark.parametrize("stage", ["boot", "stop", "start", "delete", "heal"], indirect=True)
def test_what_nobody_takes_up_is_taken_back(stage: Stage) -> None:
    check(Relay(stage).taken_back(), what="hand-overs taken back, with deaths")


@pytest.mark.parametrize("stage", ["boot", "stop", "start", "delete"], indirect=True)
def test_of_two_runners_one_has_it(stage: Stage) -> None:
    check(Relay(stage).rivals(), at_least=3, what="rivals of a runner")


@BACK
@HAND
@pytest.mark.parametrize("name", GROUPS)
def test_deaths_with_several_at_once(name: str, handed: bool, back: bool, quick: Path) -> None:
    """A seed decides how the children mix; it is another one for each of these."""
    crowd = Crowd(GROUPS[name], quick / "crowd")
    seed = 4 * list(GROUPS).index(name) + 2 * handed + back
    deaths = crowd.deaths(back=back, handed=handed, every=3, turn=seed, seed=seed)
    check(deaths, at_least=5, what="deaths with several at once")
    crowd.first.close()


@SERVERS
@BACK
def test_deaths_with_several_at_once_on_a_server(kind: str, back: bool, quick: Path) -> None:
    crowd = Crowd(GROUPS["boot-three"], quick / "crowd", databases.place(kind))
    deaths = crowd.deaths(back=back, every=25, turn=12 * back, seed=back)
    check(deaths, at_least=2, what="deaths with several at once", kind=kind)
    crowd.first.close()
