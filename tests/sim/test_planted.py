"""The harness is tested too: each planted fault is found by the matrix that passes without it.

Here, and only here, our own code is changed by tests: that is the fault that is planted.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from novactl.actions import delete as delete_action
from novactl.actions import recover
from novactl.actions.operate import Operator
from novactl.actions.steps import domains, files, images, memory, records
from novactl.db import hosts, instances, operations
from novactl.db.journal import LEASE, DbJournal
from novactl.engine import runner
from novactl.engine.operation import Operation, OpState, StepState
from novactl.engine.step import Answer
from novactl.errors import Busy
from tests.sim.actions import GROUPS, SCENARIOS, delete, stop
from tests.sim.relays import Crowd, Relay
from tests.sim.stage import Stage, Trial
from tests.support import counts
from tests.support.sim import JOB_TAKES, SimHost, SimHypervisor, SimJob

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


def undo_is_done_on_the_wrong_host(patch: Patch) -> None:
    def undo(self: Any, ctx: Any) -> None:
        ctx.world.hypervisor("kvm3").unmake_directory(self.uuid, ctx.epoch, ctx.operation_id)

    patch.setattr(files.MakeDirectory, "undo", undo)


def undoing_begins_with_the_oldest(patch: Patch) -> None:
    """So the claim is free before the files are gone."""
    of_attempt = Operation.of_attempt
    patch.setattr(Operation, "of_attempt", lambda self, attempt: of_attempt(self, attempt)[::-1])


def intent_is_written_after_the_act(patch: Patch) -> None:
    started, done = DbJournal.started, DbJournal.done

    def both(self: Any, op: Any, record: Any, apply: Any = None) -> None:
        if apply is None:
            started(self, op, record)
        done(self, op, record, apply)

    patch.setattr(DbJournal, "started", nothing)
    patch.setattr(DbJournal, "done", both)


def done_is_not_written(patch: Patch) -> None:
    done = DbJournal.done

    def forgets(self: Any, op: Any, record: Any, apply: Any = None) -> None:
        if apply is None:
            record.state = StepState.DONE
        else:
            done(self, op, record, apply)

    patch.setattr(DbJournal, "done", forgets)


def result_is_not_written(patch: Patch) -> None:
    save = DbJournal._save

    def forgets(self: Any, op: Any, record: Any, *words: Any) -> None:
        kept, record.result = record.result, {}
        save(self, op, record, *words)
        record.result = kept

    patch.setattr(DbJournal, "_save", forgets)


def undo_leaves_the_job(patch: Patch) -> None:
    patch.setattr(images.FetchBase, "undo", nothing)


def success_leaves_the_job(patch: Patch) -> None:
    patch.setattr(SimHypervisor, "job_forget", nothing)
    patch.setattr(SimHypervisor, "_forget", nothing)


def a_job_that_runs_is_started_again(patch: Patch) -> None:
    def starts(self: Any, op: str, n: int, *words: str) -> None:
        with self._call("job_start"):
            self.host.jobs[op, n] = SimJob(words, self.clock.monotonic() + JOB_TAKES)

    patch.setattr(SimHypervisor, "job_start", starts)


def a_take_over_does_not_fence(patch: Patch) -> None:
    patch.setattr(recover, "fence", nothing)


def a_guest_that_was_saved_is_left_off(patch: Patch) -> None:
    patch.setattr(memory.SaveMemory, "undo", nothing)


def cancel_is_ignored(patch: Patch) -> None:
    patch.setattr(DbJournal, "refresh_cancel", lambda self, op: False)
    patch.setattr(DbJournal, "wishes", lambda self: {})


def a_parent_ends_before_its_children(patch: Patch) -> None:
    turn = DbJournal.turn

    def hasty(self: Any, op: Any, state: OpState, error: str | None = None) -> None:
        turn(self, op, OpState.DONE if "targets" in op.request else state, error)

    patch.setattr(DbJournal, "turn", hasty)


def a_parent_is_forgotten(patch: Patch) -> None:
    patch.setattr(Operator, "end", nothing)


def a_hand_over_without_compare_and_swap(patch: Patch) -> None:
    class Anybody(str):
        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = str.__hash__

    patch.setattr(operations, "runner", lambda tx, op_id: Anybody())


def a_lease_is_never_over(patch: Patch) -> None:
    owner = operations.owner
    patch.setattr(operations, "owner", lambda tx, op_id: (owner(tx, op_id)[0], False))


def a_lease_is_always_over(patch: Patch) -> None:
    owner = operations.owner
    patch.setattr(operations, "owner", lambda tx, op_id: (owner(tx, op_id)[0], True))


def a_lease_is_not_renewed(patch: Patch) -> None:
    patch.setattr(DbJournal, "renew", nothing)


# --- where each is found ---


def deaths(stage: Stage) -> Iterator[Trial]:
    yield "undisturbed", stage.undisturbed()
    yield from stage.deaths(back=True)
    yield from stage.deaths(back=False)


def acts(stage: Stage) -> Iterator[Trial]:
    yield from stage.deaths_in_acts(back=True)


def forward_acts(stage: Stage) -> Iterator[Trial]:
    yield from stage.deaths_in_acts(back=False)


def sleeps(stage: Stage) -> Iterator[Trial]:
    yield from stage.sleeps(back=True)
    yield from stage.sleeps(back=False)


def company(stage: Stage) -> Iterator[Trial]:
    with mock.patch.object(recover, "PATIENCE", 2.0):  # the one who is waited for is the one who waits
        yield from stage.company(delete)


def cancels(stage: Stage) -> Iterator[Trial]:
    yield from stage.cancels()


def rivals(stage: Stage) -> Iterator[Trial]:
    yield from Relay(stage).rivals()


def crowds(stage: Stage) -> Iterator[Trial]:
    """Of several at once, whatever the stage is."""
    yield from Crowd(GROUPS["boot-three"], stage.directory / "crowd").deaths(back=False, every=5)


def waits(stage: Stage) -> Iterator[Trial]:
    """A process that waits for long is alive: nobody takes over what it does."""
    with stage.play() as fleet:
        wrong: list[str] = []

        def wants(_: float) -> None:
            for op_id in fleet.active():
                with contextlib.suppress(Busy), fleet.process("hasty") as process:
                    recover.take_over(process.operator, op_id, back=True)
                    wrong.append(f"{op_id} was taken over while its owner waits")

        fleet.clock.on_sleep.append(wants)
        fleet.run(stop(timeout=2 * LEASE))
        yield "waiting", wrong


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
    Planted(record_comes_before_the_act, "boot", deaths, "web1: is active and shutdown"),
    Planted(undoing_is_not_written, "boot-no-host", deaths, "in an operation that was undone"),
    Planted(an_undoing_operation_is_resumed_forward, "boot-no-host", deaths, "here and no claim"),
    Planted(locks_are_not_taken, "boot", company, "a second operation was let in"),
    Planted(locks_are_freed_too_early, "boot", company, "a second operation was let in"),
    Planted(the_host_compares_no_epochs, "boot", sleeps, "has things here"),
    Planted(the_database_compares_no_epochs, "boot", sleeps, "is done in an operation that was undone"),
    Planted(a_take_over_raises_no_epoch, "start", sleeps, "kvm1 has seen epoch 2 of web1"),
    Planted(the_pivot_is_not_asked, "start", deaths, "web1: is stopped and running"),
    Planted(a_cut_removal_is_not_finished, "boot-no-host", acts, ".del was left"),
    Planted(undo_is_done_on_the_wrong_host, "boot-no-host", deaths, "has things here"),
    Planted(undoing_begins_with_the_oldest, "boot-no-host", deaths, "has things here and no claim"),
    Planted(intent_is_written_after_the_act, "boot", deaths, "has things here"),
    Planted(done_is_not_written, "boot", deaths, "is started in an operation that is done"),
    Planted(result_is_not_written, "boot", deaths, "was launched at another time"),
    Planted(undo_leaves_the_job, "boot-large", acts, "is left"),
    Planted(success_leaves_the_job, "boot-large", deaths, "is left"),
    Planted(a_job_that_runs_is_started_again, "boot-large", forward_acts, "a job was started twice"),
    Planted(a_take_over_does_not_fence, "start", sleeps, "an older process did define"),
    Planted(a_guest_that_was_saved_is_left_off, "suspend", deaths, "web1: is active and shutdown, saved"),
    Planted(cancel_is_ignored, "boot", cancels, "it was cancelled and ended with 0"),
    Planted(a_parent_ends_before_its_children, "boot", crowds, "ended before its child"),
    Planted(a_parent_is_forgotten, "boot", crowds, "boot of 3 instances is running"),
    Planted(a_hand_over_without_compare_and_swap, "boot", rivals, "two runners have it"),
    Planted(a_lease_is_never_over, "boot", sleeps, "is working on it"),
    Planted(a_lease_is_always_over, "boot", sleeps, "taken over before its lease was over"),
    Planted(a_lease_is_not_renewed, "stop-deaf", waits, "taken over while its owner waits"),
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
    counts.record("planted faults", **{planted.fault.__name__: 1})


USED = sorted({(planted.scenario, planted.trials.__name__): planted for planted in PLANTED}.items())


@pytest.mark.parametrize("planted", [one for _, one in USED], ids=["-".join(of) for of, _ in USED])
def test_without_it_nothing_is_found(planted: Planted, quick: Path) -> None:
    """What finds a planted fault finds nothing in novactl as it is."""
    stage = Stage(SCENARIOS[planted.scenario], quick / "stage")
    assert [wrong for _, wrong in planted.trials(stage) if wrong] == []
