"""Which kinds of operation try another host when one has failed."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from novactl.actions.world import World
from novactl.engine.operation import Attempt, Operation

NextAttemptOf = Callable[[World, Any, Operation, str], Attempt | None]


def _next_of(module: str) -> NextAttemptOf:
    """next_attempt() of an action's module, which is imported when there is one to plan."""

    def plan(world: World, tx: Any, op: Operation, failure: str) -> Attempt | None:
        planned: Attempt | None = import_module(module).next_attempt(world, tx, op, failure)
        return planned

    return plan


NEXT_ATTEMPTS: Mapping[str, NextAttemptOf] = {
    "boot": _next_of("novactl.actions.boot"),
    "evacuate": _next_of("novactl.actions.evacuate"),
    "unshelve": _next_of("novactl.actions.unshelve"),
}
"""Kinds of operation that try another host, and how they plan it."""
