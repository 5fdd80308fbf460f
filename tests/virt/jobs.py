"""A job of a host, from its start to its end."""

from typing import Any

from novactl.remote.shell import failure
from novactl.virt.jobs import JobState

JOB = ("op-0a", 1)


def carry_out(hypervisor: Any, words: list[str]) -> None:
    """The job to its end; what its exit status means."""
    hypervisor.job_start(*JOB, *words)
    seen = JobState("running")
    while seen.state == "running":
        seen = hypervisor.job_wait(*JOB, 20)
    hypervisor.job_forget(*JOB)
    if seen.rc:
        raise failure(hypervisor.name, seen.rc, seen.log)
    assert seen.rc == 0
