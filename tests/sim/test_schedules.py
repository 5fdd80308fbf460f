"""Random schedules: 3 to 8 operators, faults, deaths, hand-overs, cancels and take-overs, decided by a seed.

NOVACTL_SEEDS=10000 runs more of them, NOVACTL_SEED=17 one of them.
"""

import os
import time
from collections import Counter

import pytest

from tests.sim.effort import number
from tests.sim.schedule import played
from tests.support import counts, databases

SEEDS = int(os.environ.get("NOVACTL_SEEDS", "300"))
ON_SERVERS = number(15, 150)
BATCH = 10


def seeds() -> list[range]:
    if "NOVACTL_SEED" in os.environ:
        one = int(os.environ["NOVACTL_SEED"])
        return [range(one, one + 1)]
    return [range(first, min(first + BATCH, SEEDS)) for first in range(0, SEEDS, BATCH)]


_seen: Counter[str] = Counter()  # on SQLite, in this process: with pytest -n in a part of the batches
_played: set[range] = set()


def play(some: range, kind: str) -> Counter[str]:
    """These seeds on one kind of database, counted."""
    seen: Counter[str] = Counter()
    began = time.monotonic()
    for seed in some:
        seen.update(played(seed, databases.place(kind)))
    seconds = round(time.monotonic() - began, 2)
    counts.record("random schedules", **{kind: len(some), f"{kind} seconds": seconds})
    counts.record("met in the schedules", **seen)
    return seen


@pytest.mark.parametrize("batch", seeds(), ids=lambda batch: f"{batch[0]}-{batch[-1]}")
def test_schedules(batch: range) -> None:
    _played.add(batch)
    _seen.update(play(batch, "sqlite"))


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_schedules_on_a_server(kind: str) -> None:
    play(seeds()[0] if "NOVACTL_SEED" in os.environ else range(ON_SERVERS), kind)


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_is_the_same_future_again(seed: int) -> None:
    """On whatever database."""
    first: list[str] = []
    played(seed, history=first)
    for kind in ("sqlite", "mariadb"):
        again: list[str] = []
        played(seed, databases.place(kind), history=again)
        assert again == first


def test_the_schedules_met_everything() -> None:
    """Else they prove nothing: each verb went well, failed, met a busy instance and was left half way."""
    if "NOVACTL_SEED" in os.environ:
        return  # one that was asked for
    wanted = {f"{verb} 0" for verb in ("boot", "stop", "start", "delete", "take over", "cancel", "audit")}
    wanted |= {"boot 1", "boot 5", "boot 11", "boot 130", "delete 7", "take over 1", "take over 5"}
    wanted |= {"take over 6", "take up 0", "take up 6", "follow 0", "taken back", "several 0"}
    wanted |= {"died", "slept", "fenced", "delete won", "heal 0"}

    def missed() -> set[str]:
        return {what for what in wanted if not _seen[what]}

    for batch in seeds():
        if missed() and batch not in _played:  # another process of pytest -n played it
            _seen.update(play(batch, "sqlite"))
    assert missed() == set(), _seen
