"""A job of its host finishes a large base file: it survives the process, ends with the operation, and starts
again when the host was switched off."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.actions import SCENARIOS
from tests.sim.stage import Stage, check, nth
from tests.support.sim import Fault, settled
from tests.support.toys import Died

JOB = ("job_start", "job_wait", "job_forget")


@pytest.fixture
def stage(quick: Path) -> Iterator[Stage]:
    made = Stage(SCENARIOS["boot-large"], quick)
    yield made
    made.first.close()


def test_the_scenario_has_a_job(stage: Stage) -> None:
    """Else nothing here means anything; what is done leaves no job."""
    assert {call for call, _ in stage.calls()} >= set(JOB)
    with stage.play() as fleet:
        assert fleet.run(stage.scenario.action()).code == 0
        assert [host.jobs for host in fleet.hosts.values()] == [{}, {}, {}]


@pytest.mark.parametrize("call", JOB)
@pytest.mark.parametrize("how", ["dies", "dies-after"])
def test_after_a_rollback_no_job_is_left_anywhere(stage: Stage, call: str, how: str) -> None:
    with stage.play() as fleet:
        fleet.faults.append(Fault(call, how))
        with pytest.raises(Died):
            fleet.run(stage.scenario.action())
        working = [host for host in fleet.hosts.values() if any(job.running for job in host.jobs.values())]
        assert bool(working) == (call != "job_forget")
        left = stage.ended(fleet, back=True)
        assert left == []
        assert [host.jobs for host in fleet.hosts.values()] == [{}, {}, {}]


def test_a_job_that_another_process_started_is_gone_on_with(stage: Stage) -> None:
    with stage.play() as fleet:
        fleet.faults.append(Fault("job_start", "dies-after"))
        with pytest.raises(Died):
            fleet.run(stage.scenario.action())
        (job,) = [job for host in fleet.hosts.values() for job in host.jobs.values()]
        assert job.running
        assert stage.ended(fleet, back=False) == []
        assert job.rc == 0  # that very one


def test_the_host_is_switched_off_and_on(stage: Stage) -> None:
    check(stage.reboots(back=None), at_least=6, what="hosts switched off and on in a job")


@pytest.mark.parametrize("back", [False, True], ids=["resume", "rollback"])
def test_the_host_is_switched_off_and_the_process_dies(stage: Stage, back: bool) -> None:
    check(stage.reboots(back=back), at_least=6, what="hosts switched off and on in a job")


def test_a_host_that_never_finishes_it_is_given_up(stage: Stage) -> None:
    """It dies there each time; the next host does it."""
    with stage.play() as fleet:
        fleet.faults += [nth("job_wait", n, "reboots") for n in range(3)]  # each second one
        outcome = fleet.run(stage.scenario.action())
        assert outcome.code == 0
        assert outcome.instance is not None
        assert outcome.instance.host == "kvm2"
        assert settled(fleet) == []
        assert [host.jobs for host in fleet.hosts.values()] == [{}, {}, {}]
