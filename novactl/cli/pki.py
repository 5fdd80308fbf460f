"""novactl pki …"""

from typing import Annotated, Any

import typer

from novactl.cli import render, verbs
from novactl.cli.options import DryRun
from novactl.errors import PartlyDone

COLUMNS = ("host", "serial", "not_after", "state")
AUTHORITY_COLUMNS = ("not_before", "not_after", "fingerprint", "crl_number")

app = typer.Typer(
    help="Certificates by which hosts know each other.", no_args_is_help=True, rich_markup_mode=None
)


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="pki")


@app.command()
def init(
    ctx: typer.Context,
    days: Annotated[int, typer.Option("--days", metavar="N", help="How long it is good.")] = 3650,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make another: each host then needs a new certificate.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Make the fleet's certificate authority, unless it has one.

    novactl pki init
    """
    from novactl.actions import pki

    session = ctx.obj
    if dry_run:
        verbs.show_plans(session, [pki.planned_init(session.cloud.world, days, replace=replace)], many=False)
        return
    if replace:
        session.confirm("replace the authority? TLS fails at each host until it has a new certificate")
    found, made = pki.init(session.cloud.world, days, replace=replace)
    session.tell(f"authority {'made; its key is sealed in the database' if made else 'unchanged'}")
    render.show(session, _authority(found), AUTHORITY_COLUMNS)


@app.command()
def issue(
    ctx: typer.Context,
    host: Annotated[str, typer.Argument(metavar="HOST", help="A host of the fleet.")],
    days: Annotated[int, typer.Option("--days", metavar="N", help="How long it is good.")] = 730,
    dry_run: DryRun = False,
) -> None:
    """Give a host a new key and certificate, where its QEMU looks for them; again renews them.

    novactl pki issue kvm1
    """
    from novactl.actions import pki

    session = ctx.obj
    if dry_run:
        verbs.show_plans(session, [pki.planned_issue(session.cloud.world, host, days)], many=False)
        return
    made = pki.issue(session.cloud.world, host, days)
    session.tell(f"{host}: certificate placed")
    render.show(session, _view(made, pki.state_of(made, made, session.cloud.world.clock.now())), COLUMNS)


@app.command("list")
def list_(ctx: typer.Context) -> None:
    """List the hosts' certificates, and what each is good for.

    novactl pki list
    """
    from novactl.actions import pki

    world = ctx.obj.cloud.world
    found = world.db.read(lambda tx: pki.listed(tx, world.clock.now()))
    render.listing(ctx.obj, [_view(*one) for one in found], COLUMNS)


@app.command()
def revoke(
    ctx: typer.Context,
    which: Annotated[
        str, typer.Argument(metavar="HOST|SERIAL", help="All certificates of a host, or the one of a serial.")
    ],
    dry_run: DryRun = False,
) -> None:
    """Make certificates void, and tell all hosts that have some: 3 when one cannot be told; again tells it.

    novactl pki revoke kvm3
    """
    from novactl.actions import pki

    session = ctx.obj
    if dry_run:
        verbs.show_plans(session, [pki.planned_revoke(session.cloud.world, which)], many=False)
        return
    done = pki.revoke(session.cloud.world, which)
    rows = [_told(one) for one in done.hosts]
    if session.output == "table":
        render.listing(session, rows, ("host", "result"))
    else:
        changed = done.serials or any(row["result"] == "done" for row in rows)
        result = "done" if changed else "unchanged"
        item = {"target": which, "result": result, "serials": done.serials, "crl_number": done.crl_number}
        render.show(session, {**item, "hosts": rows})
    session.tell(f"{len(done.serials)} revoked" if done.serials else "unchanged: revoked already")
    _raise_untold(done.hosts)


def _raise_untold(hosts: Any) -> None:
    failed = [one for one in hosts if one.error is not None]
    for one in failed:
        verbs.tell_error(one.host, one.error)
    if failed:
        raise PartlyDone(
            f"{len(failed)} of {len(hosts)} hosts were not told: {', '.join(one.host for one in failed)}",
            hint="the same again tells them",
            targets=[_told(one) for one in hosts],
        )


def _told(one: Any) -> dict[str, Any]:
    code, error = (one.error.code, one.error.message) if one.error else (0, None)
    return {"host": one.host, "result": one.result, "code": code, "error": error}


def _authority(one: Any) -> dict[str, Any]:
    from novactl.objects.certificate import fingerprint

    known = {key: getattr(one, key) for key in ("not_before", "not_after", "crl_number")}
    return {**known, "fingerprint": fingerprint(one.pem), "certificate": one.pem, "crl": one.crl}


def _view(one: Any, state: str) -> dict[str, Any]:
    from novactl.objects.certificate import fingerprint

    known = {key: value for key, value in vars(one).items() if key != "pem"}
    item = {**known, "names": list(one.names), "state": str(state), "fingerprint": fingerprint(one.pem)}
    return {**item, "certificate": one.pem}
