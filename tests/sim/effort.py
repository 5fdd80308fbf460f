"""How much of each suite is played: a part in every run, all of it for `make reliability`.

NOVACTL_RELIABILITY=full plays every point on every database; NOVACTL_OFFSET=n turns to other points of those
that are sampled. A sample is the same in each run, so that a failure can be seen again.
"""

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
FULL = os.environ.get("NOVACTL_RELIABILITY") == "full"
OFFSET = int(os.environ.get("NOVACTL_OFFSET", "0"))


def sample(points: Sequence[T], every: int, turn: int = 0) -> list[T]:
    """Each `every`th point, all of them when everything is wanted. `turn` differs from one caller to the
    next, so that together they meet points of each kind."""
    return list(points) if FULL else list(points[(OFFSET + turn) % every :: every] or points[:1])


def least(number: int, every: int) -> int:
    """Of so many points at least, how many at least a sample has."""
    return number if FULL else number // every


def number(few: int, many: int) -> int:
    """How many random trials."""
    return many if FULL else few
