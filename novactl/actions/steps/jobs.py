"""Host work of a step that takes long: a job on the host (remote/jobs.sh), which survives the link and us."""

from collections.abc import Callable
from typing import Any

from novactl.errors import Fenced, HostFault, HostUnreachable
from novactl.remote.shell import failure
from novactl.virt.jobs import JobState

SLICE = 2.0  # seconds between two looks whether to stop
PATIENCE = 30.0  # seconds that a lost link is waited for
STARTS = 3  # how often a job may die without a word: a host that boots again and again, or out of memory


def carry_out(ctx: Any, host: Any, *words: str, meanwhile: Callable[[], None] = lambda: None) -> str:
    """The function of host.sh was carried out on the host as the job of this step; one that another
    process started is gone on with. Returns the end of what it said. Raises what its exit status means
    (shell.failure), or HostFault when it always dies. Interrupted and a link that stays lost leave it
    running: undo() ends it, as does whoever has `meanwhile`, called now and then, raise something."""
    for n in range(STARTS):
        ctx.check()
        host.job_start(ctx.operation_id, ctx.record.n, *words)
        seen = _ended(ctx, host, meanwhile)
        if seen.rc is not None:
            patiently(ctx, lambda: host.job_forget(ctx.operation_id, ctx.record.n))
            if not seen.rc:
                return seen.log
            fault = failure(host.name, seen.rc, seen.log)
            if n or not isinstance(fault, Fenced):  # the first may be an earlier owner's, under his epoch
                raise fault
    said = f": {seen.log.strip()}" if seen.log.strip() else ""
    raise HostFault(f"{host.name}: {words[0]} died there {STARTS} times{said}")


def end(ctx: Any, host: Any) -> None:
    """The job of this step does not run any more; for undo(). None is fine."""
    host.job_end(ctx.operation_id, ctx.record.n)


def is_over(ctx: Any, host: Any) -> bool:
    """Whether the job of this step has ended, and is forgotten; one that runs is waited for a while. For
    happened()."""
    began = ctx.world.clock.monotonic()
    while host.job_wait(ctx.operation_id, ctx.record.n, SLICE).state == "running":
        if ctx.world.clock.monotonic() - began > PATIENCE:
            return False
    host.job_forget(ctx.operation_id, ctx.record.n)
    return True


def _ended(ctx: Any, host: Any, meanwhile: Callable[[], None]) -> JobState:
    """The job when it runs no more."""
    told = ""
    while True:
        seen: JobState = patiently(ctx, lambda: host.job_wait(ctx.operation_id, ctx.record.n, SLICE))
        if seen.state != "running":
            return seen
        meanwhile()
        if seen.progress not in ("", told):
            told = seen.progress
            ctx.observe(ctx.op, ctx.record, "progress", told)


def patiently(ctx: Any, call: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """call(), made again while the link is down; the job does not need it."""
    began = ctx.world.clock.monotonic()
    while True:
        ctx.check()
        try:
            return call()
        except HostUnreachable:
            if ctx.world.clock.monotonic() - began > patience:
                raise
            ctx.pause(1)
