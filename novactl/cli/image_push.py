"""novactl image push."""

from typing import Annotated, Any

import typer

from novactl.cli import verbs
from novactl.cli.options import DryRun, LockWait, NoWait, Timeout
from novactl.errors import Refused, UsageError


def push(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The image.")],
    to: Annotated[
        list[str] | None, typer.Option("--to", metavar="HOST", help="To this host; repeatable.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="To all hosts that are up.")] = False,
    store: Annotated[bool, typer.Option("--store", help="To where operators share images.")] = False,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Bring an image to hosts before anybody boots from it.

    novactl image push debian --all

    novactl image push debian --to kvm1 --to kvm2

    novactl image push debian --store

    It is sent once: each host gives on what it receives while it receives it. One that is down, or slower
    than the host before it, is left out of the chain.
    """
    from novactl.actions import push as actions

    session = ctx.obj
    if [everything, bool(to), store].count(True) != 1:
        raise UsageError(
            "give hosts with --to, or --all, or --store", hint="novactl host list shows what exists"
        )
    chain: list[Any]
    if store:
        chain = [_shared(session, name)]
    else:
        chain = actions.chain(session.cloud.world, name, None if everything else to)
    if dry_run:
        verbs.dry_run(session, chain, many=True)
        return
    waiting = verbs.Waiting(no_wait, timeout, lock_wait)
    verbs.run(session, chain, many=True, together=True, waiting=waiting)


def _shared(session: Any, name: str) -> Any:
    from novactl.actions import share

    place = session.cloud.db.read(share.place_of)
    if place is None:
        raise Refused("images are shared nowhere", hint="novactl image store PLACE")
    return share.Share(image=name, place=place)
