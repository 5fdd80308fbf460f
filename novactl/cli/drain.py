"""novactl host drain, host undrain."""

from typing import Annotated, Any

import typer

from novactl.cli import render, verbs
from novactl.cli.options import DryRun, LockWait, NoWait, Timeout
from novactl.errors import Interrupted, NovactlError, PartlyDone, TimedOut, UsageError

COLUMNS = ("instance", "from", "to", "method", "cost_gib", "blocker")
Parallel = Annotated[int, typer.Option("--max-parallel", metavar="N", help="So many moves at a time.")]
Bandwidth = Annotated[
    int | None, typer.Option("--bandwidth", metavar="MIBPS", help="No live move is faster than this.")
]


def drain(
    ctx: typer.Context,
    name: str,
    method: Annotated[
        str, typer.Option("--method", metavar="auto|live|cold", help="How instances are moved.")
    ] = "auto",
    max_parallel: Parallel = 2,
    bandwidth: Bandwidth = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Move all instances of a host to others, of whatever project they are, and place nothing on it any
    more. auto: those that run are moved live, those that are off cold. Nothing is begun unless there is room
    for all.

    novactl host drain kvm1 --dry-run

    novactl host drain kvm1 --yes

    novactl host drain kvm1 --max-parallel 4 --bandwidth 100 --yes
    """
    from novactl.actions import drain as actions

    session, waiting = ctx.obj, verbs.Waiting(no_wait, timeout, lock_wait)
    waiting.check()
    if method not in actions.METHODS:
        raise UsageError(f"--method {method!r} is not one of {', '.join(actions.METHODS)}")
    _check(max_parallel, bandwidth)
    world = session.cloud.world
    found = actions.look(world, name, method)
    if dry_run:
        _show(session, actions.plan(found))
        return
    if found:
        session.confirm(f"move {len(found)} instances away from {name}?")
    parts = actions.leave(name, found, max_parallel, bandwidth)
    actions.close(world, name)
    shown = {one.instance.uuid: one.instance.name for one in found}
    failed: NovactlError | None = None
    try:
        verbs.run(session, parts, many=True, waiting=waiting, shown=shown)
    except (Interrupted, TimedOut):
        raise
    except NovactlError as error:
        failed = error
    if stay := [] if no_wait else actions.staying(world, name, found):
        also = f"; {failed.message}" if failed is not None else ""
        raise PartlyDone(f"what stays on {name}: {', '.join(stay)}{also}")
    if failed is not None:
        raise failed


def undrain(
    ctx: typer.Context,
    name: str,
    bring_back: Annotated[
        bool, typer.Option("--bring-back", help="Those that the drain moved away come back.")
    ] = False,
    max_parallel: Parallel = 2,
    bandwidth: Bandwidth = None,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Place instances on a drained host again.

    novactl host undrain kvm1 --bring-back
    """
    from novactl.actions import drain as actions

    session, waiting = ctx.obj, verbs.Waiting(no_wait, timeout, lock_wait)
    waiting.check()
    _check(max_parallel, bandwidth)
    world = session.cloud.world
    if not actions.reopen(world, name):
        session.tell(f"{name}: was not disabled by a drain and stays so: novactl host set {name} --enable")
    back = actions.come_back(world, name, max_parallel, bandwidth) if bring_back else []
    shown = {one.uuid: one.name for one, _ in back}
    verbs.run(session, [part for _, part in back], many=True, waiting=waiting, shown=shown)


def _check(parallel: int, bandwidth: int | None) -> None:
    from novactl.actions.live_migrate import check_bandwidth

    if not 1 <= parallel <= 64:
        raise UsageError(f"--max-parallel {parallel} is not within 1 to 64")
    check_bandwidth(bandwidth)


def _show(session: Any, found: dict[str, Any]) -> None:
    if session.output in ("json", "jsonl", "yaml"):
        render.show(session, found)
        return
    render.listing(session, found["moves"], COLUMNS)
    stay = found["after"]["instances"]
    session.tell(f"{found['before']['instances'] - stay} leave, {stay} stay")
