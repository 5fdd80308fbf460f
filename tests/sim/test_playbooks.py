"""Playbooks on several hosts: the order of batches, how far a run goes when some fail, what is taken back,
and a process that dies at each of its transactions, with the novactl that works for it or without."""

import contextlib
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from novactl.actions import handover, recover
from novactl.actions.playbook import Narrow, actions, prepare
from novactl.db import hosts, operations
from novactl.engine.operation import OpState
from novactl.errors import Busy, NovactlError
from novactl.files.playbook import load
from tests.sim.actions import HOST_CHORES, Scan, bare, boot, furnish, playbook, ready, step, stop
from tests.sim.stage import ends_of, nth
from tests.support.life import Turns
from tests.support.sim import Fault, SimFleet, SimNovactl, settled
from tests.support.source import CHECKOUT
from tests.support.toys import Died

ALL = {"hosts": {"all": True}, "serial": 1}


@pytest.fixture
def fleet(quick: Path) -> Any:
    made = SimFleet(quick)
    furnish(made)
    yield made
    made.close()


def on_hosts(fleet: SimFleet, **values: Any) -> list[Any]:
    run = ready(**{**ALL, "steps": HOST_CHORES, **values})
    with fleet.process() as process:
        return actions(process.world, run, Narrow())


def carry_out(fleet: SimFleet, made: list[Any], **how: Any) -> list[Any]:
    with fleet.process(**how) as process:
        return list(process.operator.run(made, together=True))


def children(fleet: SimFleet) -> dict[str, Any]:
    """The operation of each target."""
    with fleet.db.reading() as tx:
        found = [op for op, _, _ in operations.listed(tx) if op.parent is not None]
    return {op.request["target"]: op for op in found}


def parent(fleet: SimFleet) -> Any:
    with fleet.db.reading() as tx:
        (found,) = [op for op, _, _ in operations.listed(tx) if "targets" in op.request]
    return found


def resume(fleet: SimFleet, op_id: str, **how: Any) -> NovactlError | None:
    try:
        fleet.take_over(op_id, back=False, **how)
    except NovactlError as error:
        return error
    return None


def overlaps(fleet: SimFleet) -> list[tuple[str, str]]:
    """Hosts of which the later one began before the earlier one had ended."""
    spans, found = {}, children(fleet)
    with fleet.db.reading() as tx:
        for target, op in found.items():
            times = tx.all("SELECT started_at, finished_at FROM steps WHERE operation = :id", id=op.id)
            began = [row["started_at"] for row in times if row["started_at"]]
            spans[target] = (min(began, default="~"), max(row["finished_at"] or "" for row in times))
    names = sorted(spans)
    return [
        (one, other)
        for n, one in enumerate(names)
        for other in names[n + 1 :]
        if spans[other][0] < spans[one][1]
    ]


def done_on(fleet: SimFleet) -> list[str]:
    return sorted(name for name, host in fleet.hosts.items() if "/made" in host.made and host.put)


def test_one_batch_after_the_other(fleet: SimFleet) -> None:
    outcomes = carry_out(fleet, on_hosts(fleet))
    assert [(one.target, one.result) for one in outcomes] == [(f"kvm{n}", "done") for n in (1, 2, 3)]
    assert done_on(fleet) == ["kvm1", "kvm2", "kvm3"]
    assert overlaps(fleet) == []
    assert parent(fleet).state is OpState.DONE
    assert settled(fleet) == []


def test_without_serial_all_go_together(fleet: SimFleet) -> None:
    """Else the test above could not fail."""
    made = on_hosts(fleet, serial=None)
    fleet.turns = Turns(random.Random(1))
    carry_out(fleet, made)
    assert done_on(fleet) == ["kvm1", "kvm2", "kvm3"]
    assert len(overlaps(fleet)) > 0


FAILS = [*HOST_CHORES, step("wrong", run=["false"], when='target == "kvm1"')]


def test_a_failure_takes_back_what_was_changed_and_nothing_more(fleet: SimFleet) -> None:
    outcomes = carry_out(fleet, on_hosts(fleet, steps=FAILS))
    assert [(one.result, one.code) for one in outcomes] == [("failed", 1), ("skipped", 0), ("skipped", 0)]
    assert outcomes[0].error.message == "playbook of chores on kvm1: wrong: false ended with 1"
    host = fleet.hosts["kvm1"]
    assert (host.made, host.put, dict(host.jobs)) == ({"/had"}, {}, {})
    assert done_on(fleet) == []
    skipped = children(fleet)["kvm2"]
    assert skipped.error == "was not started: 1 of 3 failed (max_fail_percentage 0)"
    assert {op.state for op in children(fleet).values()} == {OpState.UNDONE}
    assert parent(fleet).state is OpState.UNDONE
    assert settled(fleet) == []


def test_what_has_no_undo_is_told(fleet: SimFleet) -> None:
    bare = [{key: value for key, value in chore.items() if key != "undo"} for chore in HOST_CHORES]
    carry_out(fleet, on_hosts(fleet, steps=[*bare, step("wrong", run=["false"])], hosts={"names": ["kvm1"]}))
    assert [line for line in fleet.told if "stays" in line] == [
        "kvm1: wrong: was begun, and stays as it is",
        "kvm1: made: was done, and stays",
        "kvm1: file: was done, and stays",
    ]
    assert fleet.hosts["kvm1"].made == {"/had", "/made"}


@pytest.mark.parametrize(("limit", "done"), [(32, []), (34, ["kvm2", "kvm3"])])
def test_further_batches_begin_while_few_have_failed(fleet: SimFleet, limit: int, done: list[str]) -> None:
    outcomes = carry_out(fleet, on_hosts(fleet, steps=FAILS, max_fail_percentage=limit))
    assert outcomes[0].code == 1
    assert done_on(fleet) == done
    assert settled(fleet) == []


def test_after_a_host_that_is_lost_the_rest_waits_and_resume_goes_on(fleet: SimFleet) -> None:
    fleet.faults.append(Fault("job_wait", "unreachable", host="kvm1", times=10**6))
    fleet.faults.append(Fault("job_end", "unreachable", host="kvm1", times=10**6))
    outcomes = carry_out(fleet, on_hosts(fleet))
    assert [(one.result, one.code) for one in outcomes] == [("failed", 11), ("skipped", 0), ("skipped", 0)]
    states = {target: op.state for target, op in children(fleet).items()}
    assert states == {"kvm1": OpState.INCOMPLETE, "kvm2": OpState.PLANNED, "kvm3": OpState.PLANNED}
    assert parent(fleet).state is OpState.INCOMPLETE
    fleet.faults.clear()
    error = resume(fleet, parent(fleet).id)
    assert error is not None and error.code == 1  # it was being undone, and is now
    assert fleet.hosts["kvm1"].made == {"/had"}
    assert done_on(fleet) == []
    assert settled(fleet) == []


def test_two_runs_exclude_each_other_and_not_the_work_of_their_steps(fleet: SimFleet) -> None:
    """The locks are of playbooks: a step may boot, stop and set what it likes on its host."""
    assert fleet.run(boot()).code == 0
    held: list[Any] = []

    class Meanwhile:
        def reach(self, point: str, record: Any) -> None:
            if point == "after-act" and record.name == "put-file" and not held:
                held.append("begun")
                with pytest.raises(Busy, match=r"^playbook-host is held by playbook of chores on kvm1: "):
                    carry_out(fleet, on_hosts(fleet, hosts={"names": ["kvm1"]}))
                held.append(fleet.run(stop()).code)

    carry_out(fleet, on_hosts(fleet), failpoints=Meanwhile())
    assert held == ["begun", 0]


def test_a_signal_ends_all(fleet: SimFleet) -> None:
    with fleet.process() as process:

        class Signal:
            def reach(self, point: str, record: Any) -> None:
                if point == "after-act" and record.name == "run-on-host":
                    process.interrupt.set()

        process.operator.failpoints.inner = Signal()  # type: ignore[attr-defined]
        outcomes = process.operator.run(on_hosts(fleet), together=True)
    assert [one.code for one in outcomes] == [130, 130, 130]
    assert [host.made for host in fleet.hosts.values()] == [{"/had"}] * 3
    assert settled(fleet) == []


def each_death(quick: Path, steps: list[Any], before: Callable[[SimFleet], None]) -> Any:
    """(where, fleet) after a process has died at each of its transactions in a run on all hosts."""
    first = SimFleet(quick / "first")
    furnish(first)
    before(first)
    made = on_hosts(first, steps=steps)
    with first.clone(quick / "count").process() as process:
        process.operator.run(made, together=True)
        points = ends_of(process.life.writes)
    for point in points[::3]:
        directory = quick / f"{point[0]}-{point[1]}"
        directory.mkdir()
        fleet = first.clone(directory)
        with contextlib.suppress(Died):
            carry_out(fleet, made, dies_at=point)
        yield point, fleet
        fleet.close()
    first.close()


@pytest.fixture
def roomy(quick: Path) -> Path:
    for name in ("first", "count"):
        (quick / name).mkdir()
    return quick


def test_killed_anywhere_it_goes_on_with_its_batches(roomy: Path) -> None:
    trials = 0
    for point, fleet in each_death(roomy, HOST_CHORES, lambda fleet: None):
        left = fleet.active()
        if left:
            assert resume(fleet, parent(fleet).id) is None, point
            assert done_on(fleet) in ([f"kvm{n}" for n in (1, 2, 3)], []), (
                point
            )  # [] before any was journaled
        assert overlaps(fleet) == [], point
        assert settled(fleet) == [], point
        trials += bool(left)
    assert trials > 20


def test_killed_anywhere_and_rolled_back(roomy: Path) -> None:
    for point, fleet in each_death(roomy, HOST_CHORES, lambda fleet: None):
        if fleet.active():
            done = {target for target, op in children(fleet).items() if op.state is OpState.DONE}
            with contextlib.suppress(NovactlError):
                fleet.take_over(parent(fleet).id, back=True)
            assert set(done_on(fleet)) == done, point
            assert all("/had" in host.made for host in fleet.hosts.values()), point
        assert settled(fleet) == [], point


NOVACTL = [
    step("running", novactl=["list"], register="running"),
    step("stop", novactl=["stop", "{{ running }}"], undo=["start", "{{ running }}"]),
]


FAILS_LATER = [*NOVACTL, step("wrong", novactl=["no", "such"])]


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of `stop` say what came of it, as those of the command do."""
    plain = SimNovactl._carry_out

    def carry_out(self: SimNovactl, process: Any, words: list[str]) -> tuple[int, Any]:
        if words[0] != "stop":
            return plain(self, process, words)
        outcomes = process.operator.run([stop(name) for name in words[1:]])
        return 0, [{"target": one.target, "result": one.result} for one in outcomes]

    monkeypatch.setattr(SimNovactl, "_carry_out", carry_out)


def vm_states(fleet: SimFleet) -> list[str]:
    with fleet.db.reading() as tx:
        return [row["vm_state"] for row in tx.all("SELECT vm_state FROM instances")]


@pytest.mark.parametrize("off", [False, True], ids=["ran", "was-off"])
def test_a_guest_that_was_off_is_not_started(fleet: SimFleet, telling: None, off: bool) -> None:
    assert fleet.run(boot()).code == 0
    if off:
        assert fleet.run(stop()).code == 0
    (outcome,) = carry_out(fleet, on_hosts(fleet, steps=FAILS_LATER, hosts={"names": ["kvm1"]}))
    assert (outcome.code, vm_states(fleet)) == (1, ["stopped" if off else "active"])
    assert settled(fleet) == []


def test_what_a_process_that_died_had_changed_is_undone(fleet: SimFleet, telling: None) -> None:
    """The one that goes on finds it so, and the change is the step's all the same."""
    assert fleet.run(boot()).code == 0
    fleet.faults.append(nth("shutdown", 0, "dies-after"))
    with pytest.raises(Died):
        carry_out(fleet, on_hosts(fleet, steps=FAILS_LATER, hosts={"names": ["kvm1"]}))
    error = resume(fleet, fleet.active()[0])
    assert error is not None and error.code == 1
    assert vm_states(fleet) == ["active"]
    assert settled(fleet) == []


@pytest.mark.parametrize(
    "other", [{}, {"port": 23}, {"address": "192.0.2.33"}], ids=["same", "port", "address"]
)
def test_a_machine_that_became_a_host_by_another_name_keeps_its_mark(
    fleet: SimFleet, other: dict[str, Any]
) -> None:
    with fleet.db.reading() as tx:
        kvm3 = hosts.get(tx, "kvm3")
    bare(fleet)
    became = {"name": "kvm-three", "address": "192.0.2.3", "port": 22, **other}
    run = ready(
        new_host={"name": "kvm3", "address": "192.0.2.3"}, steps=[*HOST_CHORES, step("wrong", run=["false"])]
    )

    class Meanwhile:
        def reach(self, point: str, record: Any) -> None:
            if point == "after-act" and record.name == "put-file":
                with fleet.db.writing() as tx:
                    hosts.add(tx, replace(kvm3, **became))

    with fleet.process(failpoints=Meanwhile()) as process:
        (outcome,) = process.operator.run(actions(process.world, run, Narrow()))
    assert outcome.code == 1
    assert (fleet.hosts["kvm3"].fleet is not None) is (not other)


@pytest.mark.parametrize("code", [1, 3, 5, 6, 7])
def test_nightly_looks_at_the_hosts_though_a_cache_is_not_pruned(
    fleet: SimFleet, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    ran: list[str] = []

    def carry_out(self: SimNovactl, process: Any, words: list[str]) -> tuple[int, Any]:
        ran.append(" ".join(words[:2]))
        return code if words[0] == "image" else 0, []

    monkeypatch.setattr(SimNovactl, "_carry_out", carry_out)
    file = load(CHECKOUT / "playbooks" / "nightly.yaml")
    with fleet.process() as process:
        run = prepare(file, {}, "default", Scan(), lambda question: True)
        (outcome,) = process.operator.run(actions(process.world, run, Narrow()))
    assert ran == ["image prune", "host check", "audit"]
    assert outcome.error.message == (
        "playbook of nightly: the caches were pruned: not every cache was pruned;"
        " novactl image prune --all says why"
    )


@pytest.mark.parametrize("back", [False, True], ids=["resume", "rollback"])
def test_it_dies_with_the_novactl_that_works_for_it(quick: Path, back: bool) -> None:
    """What that one left is finished first: it holds the instance, and is marked with the step."""
    (quick / "first").mkdir()
    first = SimFleet(quick / "first")
    assert first.run(boot()).code == 0
    made = on_hosts(first, steps=NOVACTL, hosts={"names": ["kvm1"]})
    calls = ("greet", "power_state", "shutdown")
    for n, call in enumerate(calls):
        directory = quick / str(n)
        directory.mkdir()
        fleet = first.clone(directory)
        fleet.faults.append(nth(call, 0, "dies-after"))
        with pytest.raises(Died):
            carry_out(fleet, made)
        left = fleet.active()
        assert len(left) == (1 if call == "greet" else 2)
        fleet.take_over(left[0], back=back)
        assert fleet.active() == []
        with fleet.db.reading() as tx:
            states = [row["vm_state"] for row in tx.all("SELECT vm_state FROM instances")]
        assert states == ["active" if back else "stopped"], call
        assert settled(fleet) == []
        fleet.close()
    first.close()


def test_all_that_is_left_is_resumed_with_what_worked_for_it(fleet: SimFleet) -> None:
    """The playbook ends the stop that was journaled for it; that one is no failure of `op resume --all`."""
    assert fleet.run(boot()).code == 0
    fleet.faults.append(nth("shutdown", 0, "dies-after"))
    with pytest.raises(Died):
        carry_out(fleet, on_hosts(fleet, steps=NOVACTL, hosts={"names": ["kvm1"]}))
    assert len(fleet.active()) == 2
    with fleet.process("b") as process:
        outcomes = recover.take_over_all(process.operator)
    assert [(one.result, one.code) for one in outcomes] == [("done", 0), ("done", 0)]
    assert settled(fleet) == []


def test_somebody_elses_operation_is_waited_for_and_not_resumed(fleet: SimFleet) -> None:
    assert fleet.run(boot()).code == 0
    fleet.faults.append(nth("shutdown", 0, "dies-after"))
    with pytest.raises(Died):
        fleet.run(stop())
    (theirs,) = fleet.active()
    (outcome,) = carry_out(fleet, on_hosts(fleet, steps=NOVACTL, hosts={"names": ["kvm1"]}))
    assert outcome.code == 11 and theirs in outcome.error.message  # what it had stopped cannot be started
    assert set(fleet.active()) == {theirs, outcome.operation}
    for op_id in (theirs, outcome.operation):
        resume(fleet, op_id)
    assert settled(fleet) == []


def test_nothing_registered_is_nothing_to_do(fleet: SimFleet) -> None:
    (outcome,) = carry_out(fleet, on_hosts(fleet, steps=NOVACTL, hosts={"names": ["kvm1"]}))
    assert outcome.result == "done"


def test_handed_over_it_keeps_its_order(fleet: SimFleet) -> None:
    made = on_hosts(fleet, steps=FAILS, max_fail_percentage=34)
    with fleet.process("giver") as giver:
        handed = handover.journal(giver.operator, made, together=True)
        assert handed.head is not None
        assert {op.state for op in children(fleet).values()} == {OpState.PLANNED}
        with fleet.process("runner") as runner:
            family = handover.take_up(runner.operator, handed.head.id, giver.journal.owner.runner)
            outcomes = handover.carry_out(runner.operator, family)
    assert sorted(one.code for one in outcomes) == [0, 0, 1]
    assert overlaps(fleet) == []
    assert settled(fleet) == []


def test_the_host_reboots_once_though_the_process_dies_at_each_act(quick: Path) -> None:
    (quick / "first").mkdir()
    first = SimFleet(quick / "first")
    furnish(first)
    assert first.run(boot()).code == 0
    for n, (call, how) in enumerate([("reboot", "dies-after"), ("reboot", "lost"), ("boot", "dies-after")]):
        directory = quick / str(n)
        directory.mkdir()
        fleet = first.clone(directory)
        fleet.faults.append(Fault(call, how))
        with contextlib.suppress(Died):
            assert fleet.run(playbook()).code == 0
        for op_id in fleet.active():
            with fleet.process() as process:
                recover.take_over(process.operator, op_id, back=False)
        assert fleet.hosts["kvm2"].boots == 2
        assert settled(fleet) == []
        fleet.close()
    first.close()
