"""novactl evacuate, host evacuate."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from novactl.cli import verbs
from novactl.cli.chosen import Chosen, over_instances
from novactl.cli.options import DryRun, LockWait, NoWait, Timeout
from novactl.errors import NotFound, UsageError

To = Annotated[str | None, typer.Option("--to", metavar="H", help="To this host; else placement chooses.")]
FencedBy = Annotated[
    str | None,
    typer.Option(
        "--fenced-by", metavar="COMMAND", help="Switch the host off by this command of fencing.yaml."
    ),
]
Verified = Annotated[
    str | None,
    typer.Option(
        "--i-have-verified-host-is-down", metavar="HOST", help="Its name: you have looked, it is off."
    ),
]


def register(app: typer.Typer) -> None:
    """Hang the command on the root."""
    app.command()(evacuate)


@over_instances
def evacuate(chosen: Chosen, to: To = None, fenced_by: FencedBy = None, verified: Verified = None) -> None:
    """Run instances of a host that is down on other hosts. Disks on shared storage are kept, others are made
    anew from the image.

    novactl evacuate web1 --i-have-verified-host-is-down kvm1

    novactl evacuate --on kvm1 --fenced-by ipmi --yes
    """
    found = [verbs.find(chosen.session, target) for target in chosen.targets]
    there = {one.host for one in found if one.host is not None}
    if found and not there and not chosen.dry_run:
        raise NotFound("none of them is on a host")
    _evacuate(chosen.session, found, there, to, fenced_by, verified, chosen.dry_run, chosen.waiting)


def of_host(
    ctx: typer.Context,
    name: str,
    to: To = None,
    fenced_by: FencedBy = None,
    verified: Verified = None,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Run all instances of a host that is down on other hosts, of whatever project they are.

    novactl host evacuate kvm1 --fenced-by ipmi --yes

    One without instances is fenced too: a move that waits may go back to it.
    """
    from novactl.db import instances

    verbs.check_host(ctx.obj, name)
    found = ctx.obj.cloud.db.read(lambda tx: instances.on_host(tx, name))
    waiting = verbs.Waiting(no_wait, timeout, lock_wait)
    _evacuate(ctx.obj, found, {name}, to, fenced_by, verified, dry_run, waiting)


def _evacuate(
    session: Any,
    found: Sequence[Any],
    there: set[str],
    to: str | None,
    fenced_by: str | None,
    verified: str | None,
    dry_run: bool,
    waiting: verbs.Waiting,
) -> None:
    from novactl.actions.evacuate import Evacuate

    waiting.check()
    verbs.check_host(session, to)
    if (fenced_by is None) == (verified is None) and not dry_run:
        raise UsageError("give --fenced-by COMMAND or --i-have-verified-host-is-down HOST")
    proofs = {} if dry_run or not there else _proofs(session, found, sorted(there), fenced_by, verified)
    actions = [
        Evacuate(name=one.uuid, project=one.project, host=to, proof=proofs.get(one.host)) for one in found
    ]
    shown = {one.uuid: one.name for one in found}
    if dry_run:
        verbs.dry_run(session, actions, many=True, partial=True, shown=shown)
    else:
        verbs.run(session, actions, many=True, waiting=waiting, shown=shown)


def _proofs(
    session: Any, found: Sequence[Any], names: Sequence[str], fenced_by: str | None, verified: str | None
) -> dict[str, Any]:
    """Why each host counts as down; they are fenced then. Nothing is done before all were asked for and
    understood."""
    from novactl.actions import fencing
    from novactl.db import hosts

    if verified is not None and len(names) > 1:
        raise UsageError(f"they are on several hosts: {', '.join(names)}", hint="evacuate one host at a time")
    cloud = session.cloud
    known = [cloud.db.read(lambda tx, name=name: hosts.get(tx, name)) for name in names]
    argvs = {
        host.name: fencing.command(session.settings.config, fenced_by, host) for host in known if fenced_by
    }
    what = ", ".join(one.name for one in found) or "nothing"
    session.confirm(f"evacuate {what} from {', '.join(names)}? What is not on shared storage is lost")
    user, now = cloud.journal.owner.user, cloud.world.clock.now()
    proofs = {}
    for host in known:
        if fenced_by is not None:
            proof = fencing.by_command(host, fenced_by, argvs[host.name])
        else:
            proof = fencing.by_word(cloud.world, host, str(verified))
        cloud.db.write(lambda tx, proof=proof: fencing.record(tx, proof, user=user, now=now))
        session.tell(f"{host.name}: {proof.words}; it is fenced")
        proofs[host.name] = proof
    return proofs
