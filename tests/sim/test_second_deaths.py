"""Who takes over dies too, in each direction: pairs of deaths that a seed draws, ended by a third one."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.actions import SCENARIOS
from tests.sim.effort import OFFSET, number
from tests.sim.stage import Stage, Trial, check, ends_of
from tests.support import databases

PAIRS, MANY = 22, 400
"""Of each scenario: in each run, and when everything is wanted."""
LONGEST = 24  # transactions of one that takes over; beyond, it does not die


def pairs(stage: Stage, count: int, seed: int) -> Iterator[Trial]:
    """So many that are drawn."""
    chance = random.Random(seed)
    writes = stage.writes()
    for _ in range(count):
        first, second = chance.choice(writes), chance.choice(ends_of(LONGEST))
        back, again = chance.random() < 0.5, chance.random() < 0.5
        yield stage.second_deaths(first, second, back=back, again=again)


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_deaths(name: str, quick: Path) -> None:
    stage = Stage(SCENARIOS[name], quick / "stage")
    seed = 1000 * OFFSET + list(SCENARIOS).index(name)
    check(pairs(stage, number(PAIRS, MANY), seed), PAIRS, what="pairs of deaths")
    stage.first.close()


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
@pytest.mark.parametrize("name", ["boot", "delete"])
def test_two_deaths_on_a_server(kind: str, name: str, quick: Path) -> None:
    stage = Stage(SCENARIOS[name], quick / "stage", databases.place(kind))
    check(pairs(stage, number(6, 100), OFFSET), 6, what="pairs of deaths", kind=kind)
    stage.first.close()
