"""Operations, their attempts and records, as the journal keeps them."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from novactl.engine.step import Kind, Step


class OpState(StrEnum):
    """The first four are active and hold their locks."""

    PLANNED = "planned"
    RUNNING = "running"
    UNDOING = "undoing"
    INCOMPLETE = "incomplete"
    DONE = "done"
    UNDONE = "undone"
    ABANDONED = "abandoned"


ACTIVE = frozenset({OpState.PLANNED, OpState.RUNNING, OpState.UNDOING, OpState.INCOMPLETE})


class StepState(StrEnum):
    PENDING = "pending"
    STARTED = "started"
    DONE = "done"
    FAILED = "failed"
    UNDONE = "undone"
    STUCK = "stuck"  # its undo failed


TOUCHED = frozenset({StepState.STARTED, StepState.DONE, StepState.FAILED, StepState.STUCK})


class Mode(StrEnum):
    SHARED = "S"
    EXCLUSIVE = "X"


class Lock(NamedTuple):
    """What an operation holds while it is active. Taken in sorted order."""

    kind: str
    id: str
    mode: Mode


@dataclass
class Record:
    """One step of one attempt, and how far it came."""

    n: int
    attempt: int
    step: Step
    state: StepState = StepState.PENDING
    started_at: str | None = None
    finished_at: str | None = None
    error: str | None = None
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.step.type

    @property
    def kind(self) -> Kind:
        return self.step.kind


@dataclass
class Operation:
    """One change asked for. `attempt` 0 holds the steps common to all attempts."""

    id: str
    kind: str
    target: str
    target_uuid: str | None
    project: str
    request: dict[str, Any]
    state: OpState = OpState.PLANNED
    attempt: int = 1
    epoch: int = 0
    parent: str | None = None
    owner: str = ""
    user: str = ""
    written_by: str = ""
    cancel_requested: bool = False
    started_at: str = ""
    finished_at: str | None = None
    error: str | None = None
    mark: str = ""  # what the hosts are told of it
    step: str | None = None  # the one it is at, when its records were not loaded
    records: list[Record] = field(default_factory=list)

    @property
    def steps_done(self) -> int:
        return sum(record.state is StepState.DONE for record in self.records)

    @property
    def past_pivot(self) -> bool:
        """Whether the journal says that there is no way back."""
        return any(r.kind is Kind.PIVOT and r.state is StepState.DONE for r in self.records)

    def of_attempt(self, attempt: int) -> list[Record]:
        return [record for record in self.records if record.attempt == attempt]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What the next attempt will do on its host, and what it holds besides what the operation does.
    `common` (of the first one of a deferred plan) and `applied` as in Plan."""

    steps: tuple[Step, ...]
    common: tuple[Step, ...] = ()
    applied: frozenset[str] = frozenset()
    locks: frozenset[Lock] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one operation will do. `common` steps are done once for all attempts; `attempt` steps belong
    to the chosen host. `applied` record steps were carried out in the very transaction that journals
    the plan (the claim): they are written down as done. `deferred`: the steps are planned, by the runner's
    next_attempt, when it is the operation's turn. `preflight`: what was looked at before."""

    kind: str
    target: str
    target_uuid: str | None
    project: str
    request: dict[str, Any]
    locks: frozenset[Lock]
    common: tuple[Step, ...] = ()
    attempt: tuple[Step, ...] = ()
    applied: frozenset[str] = frozenset()
    deferred: bool = False
    epoch: int = 0
    host: str | None = None
    alternates: tuple[str, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)
    preflight: tuple[dict[str, Any], ...] = ()

    def records(self) -> list[Record]:
        """Its steps in order, numbered from 1."""
        numbered = [(0, step) for step in self.common] + [(1, step) for step in self.attempt]
        return [
            Record(
                n=n,
                attempt=attempt,
                step=step,
                state=StepState.DONE if step.type in self.applied else StepState.PENDING,
            )
            for n, (attempt, step) in enumerate(numbered, start=1)
        ]
