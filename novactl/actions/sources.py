"""Base files that the store here does not have come from whoever has them: which steps do that is decided
when an operation is planned, before anything is claimed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from novactl.actions import holders
from novactl.actions.steps.images import FetchBase
from novactl.actions.world import World
from novactl.engine.operation import Attempt, Plan
from novactl.engine.step import Step

T = TypeVar("T")


class Unknown(Exception):
    """Who has the files of these steps was not asked yet: a transaction is no place to ask."""

    def __init__(self, steps: list[FetchBase]) -> None:
        super().__init__()
        self.steps = steps


class Sources:
    """What is known of who has which file."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._known: dict[str, list[str]] = {}

    def asked(self, once: Callable[[], T]) -> T:
        """once(), again when hosts had to be asked. Raises NotFound when nobody has a file."""
        while True:
            try:
                return once()
            except Unknown as unknown:
                self._look(unknown)

    def _look(self, unknown: Unknown) -> None:
        wanted = {step.sha256: step.what for step in unknown.steps}
        first = [str(step.host) for step in unknown.steps]
        self._known |= holders.sought(self._world, wanted, first)

    def of_plan(self, plan: Plan) -> Plan:
        """Raises Unknown."""
        elsewhere = self._elsewhere(plan.attempt)
        unknown = [step for step in elsewhere if step.sha256 not in self._known]
        if unknown:
            raise Unknown(unknown)
        return replace(plan, attempt=tuple(self._named(plan.attempt))) if elsewhere else plan

    def of_attempt(self, attempt: Attempt) -> Attempt:
        """What was not asked before is asked by the step itself."""
        return replace(attempt, steps=tuple(self._named(attempt.steps)))

    def _elsewhere(self, steps: Iterable[Step]) -> list[FetchBase]:
        """Those whose file the store here does not have."""
        fetched = [step for step in steps if isinstance(step, FetchBase)]
        return [step for step in fetched if not self._world.store.has(step.sha256)]

    def _named(self, steps: Sequence[Step]) -> Iterable[Step]:
        elsewhere = self._elsewhere(steps)
        for step in steps:
            yield self._pulled(step) if isinstance(step, FetchBase) and step in elsewhere else step

    def _pulled(self, step: FetchBase) -> Step:
        from novactl.actions.steps.distribution import ANYBODY, PullBase

        known = self._known.get(step.sha256, [ANYBODY])
        sources = [source for source in known if source != step.host]
        return PullBase(**{**vars(step), "sources": sources})
