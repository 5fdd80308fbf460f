"""The harness is tested too: each planted fault is found by the matrix that passes without it.

Here, and only here, our own code is changed by tests: that is the fault that is planted.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from novactl.actions import delete as delete_action
from novactl.actions.steps import domains, files, records
from novactl.db import hosts, instances
from novactl.db.journal import DbJournal
from novactl.engine import runner
from novactl.engine.operation import OpState, StepState
from novactl.engine.step import Answer
from tests.sim.actions import SCENARIOS, delete
from tests.sim.stage import Stage, Trial
from tests.support.sim import SimHost, SimHypervisor

Patch = pytest.MonkeyPatch


def nothing(*_: Any, **__: Any) -> None:
    """What a planted fault does instead."""


# --- faults ---


def undo_of_the_directory_is_missing(patch: Patch) -> None:
    patch.setattr(files.MakeDirectory, "undo", nothing)


def undo_of_the_domain_is_missing(patch: Patch) -> None:
    patch.setattr(domains.DefineDomain, "undo", nothing)


def claim_is_not_given_back(patch: Patch) -> None:
    patch.setattr(records.ClaimHost, "revert", nothing)


def record_is_not_buried(patch: Patch) -> None:
    patch.setattr(records.RecordInstance, "revert", nothing)


def claim_is_freed_early(patch: Patch) -> None:
    apply = records.MarkDeleting.apply

    def frees_first(self: Any, tx: Any, ctx: Any) -> None:
        apply(self, tx, ctx)
        for hold in hosts.holds_of(tx, self.uuid):
            hosts.release(tx, hold["host"], self.uuid, hold["role"])

    patch.setattr(records.MarkDeleting, "apply", frees_first)


def record_is_deleted_before_the_files(patch: Patch) -> None:
    plan = delete_action.Delete.plan

    def hasty(self: Any, *words: Any) -> Any:
        from dataclasses import replace

        planned = plan(self, *words)
        first, domain, directory, last = planned.attempt
        return replace(planned, attempt=(first, domain, last, directory))

    patch.setattr(delete_action.Delete, "plan", hasty)


def half_a_release(patch: Patch) -> None:
    def forgets(tx: Any, host: str, uuid: str, role: str = "instance") -> None:
        tx.run("DELETE FROM holds WHERE instance_uuid = :uuid AND host = :host", uuid=uuid, host=host)

    patch.setattr(hosts, "release", forgets)


def intent_is_not_written(patch: Patch) -> None:
    patch.setattr(DbJournal, "started", nothing)


def record_comes_before_the_act(patch: Patch) -> None:
    def done_already(self: Any, op: Any, record: Any) -> None:
        self.done(op, record)

    patch.setattr(DbJournal, "started", done_already)


def undoing_is_not_written(patch: Patch) -> None:
    def forgets(self: Any, op: Any, record: Any, revert: Any = None) -> None:
        if revert is not None:
            with self.db.writing() as tx:
                revert(tx)
        record.state = StepState.UNDONE

    patch.setattr(DbJournal, "undone", forgets)


def an_undoing_operation_is_resumed_forward(patch: Patch) -> None:
    patch.setattr(runner, "_left_undoing", lambda op: None)


def locks_are_not_taken(patch: Patch) -> None:
    patch.setattr(DbJournal, "_lock", nothing)


def locks_are_freed_too_early(patch: Patch) -> None:
    turn = DbJournal.turn

    def frees(self: Any, op: Any, state: OpState, error: str | None = None) -> None:
        turn(self, op, state, error)
        with self.db.writing() as tx:
            tx.run("DELETE FROM op_locks WHERE operation = :id", id=op.id)

    patch.setattr(DbJournal, "turn", frees)


def the_host_compares_no_epochs(patch: Patch) -> None:
    patch.setattr(SimHost, "fencing", False)


def the_database_compares_no_epochs(patch: Patch) -> None:
    patch.setattr(DbJournal, "_own", nothing)


def a_take_over_raises_no_epoch(patch: Patch) -> None:
    def same(tx: Any, uuid: str) -> int:
        return instances.get(tx, uuid).epoch

    patch.setattr(instances, "raise_epoch", same)


def the_pivot_is_not_asked(patch: Patch) -> None:
    patch.setattr(domains.PowerOn, "happened", lambda self, ctx: Answer.NO)


def a_cut_removal_is_not_finished(patch: Patch) -> None:
    """As nv_unmake_directory once was: what `mv` had renamed stayed for ever."""
    unmake = SimHypervisor.unmake_directory

    def forgets(self: Any, uuid: str, epoch: int, operation: str) -> None:
        left = f"{uuid}.del" in self.host.strays
        unmake(self, uuid, epoch, operation)
        if left:
            self.host.strays.add(f"{uuid}.del")

    patch.setattr(SimHypervisor, "unmake_directory", forgets)


# --- where each is found ---


def deaths(stage: Stage) -> Iterator[Trial]:
    yield "undisturbed", stage.undisturbed()
    yield from stage.deaths(back=True)
    yield from stage.deaths(back=False)


def acts(stage: Stage) -> Iterator[Trial]:
    yield from stage.deaths_in_acts(back=True)


def sleeps(stage: Stage) -> Iterator[Trial]:
    yield from stage.sleeps(back=True)
    yield from stage.sleeps(back=False)


def company(stage: Stage) -> Iterator[Trial]:
    yield from stage.company(delete)


@dataclass(frozen=True)
class Planted:
    fault: Callable[[Patch], None]
    scenario: str
    trials: Callable[[Stage], Iterator[Trial]]
    words: str  # in what is said of it


PLANTED = [
    Planted(undo_of_the_directory_is_missing, "boot-no-host", deaths, "has things here"),
    Planted(undo_of_the_domain_is_missing, "boot-no-host", deaths, "has things here"),
    Planted(claim_is_not_given_back, "boot-no-host", deaths, "is claimed for and does not live here"),
    Planted(record_is_not_buried, "boot-no-host", deaths, "web1: is "),
    Planted(claim_is_freed_early, "delete", deaths, "has things here and no claim"),
    Planted(record_is_deleted_before_the_files, "delete", deaths, "has things here and is deleted"),
    Planted(half_a_release, "delete", deaths, "used is not what is held"),
    Planted(intent_is_not_written, "boot", deaths, "has things here"),
    Planted(record_comes_before_the_act, "boot", deaths, "web1: is active and does not run"),
    Planted(undoing_is_not_written, "boot-no-host", deaths, "in an operation that was undone"),
    Planted(an_undoing_operation_is_resumed_forward, "boot-no-host", deaths, "here and no claim"),
    Planted(locks_are_not_taken, "boot", company, "a second operation was let in"),
    Planted(locks_are_freed_too_early, "boot", company, "a second operation was let in"),
    Planted(the_host_compares_no_epochs, "boot", sleeps, "has things here"),
    Planted(the_database_compares_no_epochs, "boot", sleeps, "is done in an operation that was undone"),
    Planted(a_take_over_raises_no_epoch, "start", sleeps, "in an operation that is done"),
    Planted(the_pivot_is_not_asked, "start", deaths, "web1: is stopped and runs"),
    Planted(a_cut_removal_is_not_finished, "boot-no-host", acts, ".del was left"),
]


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.fault.__name__)
def test_a_planted_fault_is_found(planted: Planted, quick: Path, monkeypatch: Patch) -> None:
    stage = Stage(SCENARIOS[planted.scenario], quick / "stage")
    planted.fault(monkeypatch)
    said: list[str] = []
    try:
        for _, wrong in planted.trials(stage):
            said += wrong
            if any(planted.words in line for line in said):
                break
    except Exception as error:  # noqa: BLE001 - the fault may break an operation altogether
        said.append(f"{type(error).__name__}: {error}")
    assert any(planted.words in line for line in said), "\n".join(said) or "it was not found"
