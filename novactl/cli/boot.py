"""novactl boot."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from novactl.cli import placement, render, verbs, views
from novactl.cli.instances import SHOW_COLUMNS
from novactl.cli.options import DryRun, LockWait, NoWait, Timeout
from novactl.errors import UsageError


def register(app: typer.Typer) -> None:
    app.command()(boot)


def boot(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The instance's name; with --count N: NAME-1 … NAME-N.")],
    flavor: Annotated[str, typer.Option("--flavor", metavar="F", help="How big it is.")],
    image: Annotated[str, typer.Option("--image", metavar="I", help="What its root disk is made from.")],
    network: Annotated[
        list[str] | None, typer.Option("--network", metavar="NET[,ip=A]|none", help="A NIC; repeatable.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="K", help="Keypair for its user.")] = None,
    user_data: Annotated[
        Path | None, typer.Option("--user-data", metavar="FILE", help="For cloud-init; - is stdin.")
    ] = None,
    host: placement.Host = None,
    zone: placement.Zone = None,
    aggregate: placement.Aggregate = None,
    group: placement.Group = None,
    apart_from: placement.ApartFrom = None,
    together_with: placement.With = None,
    hint: placement.Hint = None,
    require: placement.Require = None,
    forbid: placement.Forbid = None,
    meta: Annotated[
        list[str] | None, typer.Option("--meta", metavar="K=V", help="Metadata; repeatable.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="T", help="A tag; repeatable.")] = None,
    count: Annotated[int, typer.Option("--count", metavar="N", help="So many, in parallel.")] = 1,
    partial: Annotated[bool, typer.Option("--partial", help="With --count: as many as fit.")] = False,
    ephemeral: Annotated[
        int | None, typer.Option("--ephemeral", metavar="GIB", help="Size of disk.local.")
    ] = None,
    swap: Annotated[int | None, typer.Option("--swap", metavar="MIB", help="Size of disk.swap.")] = None,
    if_not_exists: Annotated[bool, typer.Option("--if-not-exists", help="Fine if it is there.")] = False,
    wait_for: Annotated[
        str, typer.Option("--wait-for", metavar="active|ssh|cloud-init", help="When it counts as up.")
    ] = "active",
    timeout: Annotated[float, typer.Option("--wait-timeout", metavar="SEC", help="For --wait-for.")] = 300,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say of every host why it was chosen, or why not.")
    ] = False,
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    deadline: Timeout = None,
    lock_wait: LockWait = 0.0,
) -> None:
    """Make an instance and start it.

    novactl boot web1 --flavor small --image debian --network lan --key me
    """
    from novactl.actions.boot import boots
    from novactl.actions.watch import check_milestone
    from novactl.objects.names import key_values
    from novactl.objects.request import BootRequest

    session = ctx.obj
    networks = _networks(session, network or [])
    check_milestone(wait_for)
    if no_wait and wait_for != "active":
        raise UsageError("--no-wait and --wait-for exclude each other", hint="novactl wait NAME ssh")
    request = BootRequest(
        name=name,
        flavor=flavor,
        image=image,
        project=session.settings.project,
        networks=networks,
        key=key,
        user_data=content_of(user_data),
        explain=explain,
        metadata=key_values(meta or (), "--meta"),
        tags=tuple(tag or ()),
        count=count,
        partial=partial,
        ephemeral_gib=ephemeral,
        swap_mib=swap,
        if_not_exists=if_not_exists,
        **placement.wishes(ctx.params),
    )
    actions = boots(request)
    if dry_run:
        plans = verbs.dry_run(session, actions, many=count > 1, partial=partial)
        _say_why(session, [plan["changes"].get("placement") for plan in plans])
        return
    outcomes = verbs.run(
        session,
        actions,
        many=count > 1,
        together=count > 1,
        partial=partial,
        waiting=verbs.Waiting(no_wait, deadline, lock_wait),
    )
    why = _explained(session, outcomes) if explain else []
    _wait_for(session, outcomes, wait_for, timeout)
    if count == 1 and not no_wait:
        item = views.instance(verbs.find(session, outcomes[0].uuid))
        render.show(session, {**item, **({"explain": why[0]} if why else {})}, SHOW_COLUMNS)


def _explained(session: Any, outcomes: list[Any]) -> list[Any]:
    """What was journaled of each decision, said to people."""
    from novactl.db import operations

    ids = [outcome.operation for outcome in outcomes if outcome.operation]
    found = session.cloud.db.read(lambda tx: [operations.one(tx, id_)[0].request for id_ in ids])
    decisions = [request["placement"] for request in found if "placement" in request]
    _say_why(session, decisions)
    return decisions


def _say_why(session: Any, decisions: list[Any]) -> None:
    """To people, on stderr; scripts find it in the document."""
    for decision in decisions:
        if decision is not None and session.output == "table":
            for sentence in placement.sentences(decision):
                session.tell(sentence.rstrip())


def _networks(session: Any, given: list[str]) -> tuple[Any, ...]:
    """Those given, the inventory's default network without any, none for `--network none` (as Nova's)."""
    from novactl.db import settings

    if given == ["none"]:
        return ()
    default = None if given else session.cloud.db.read(lambda tx: settings.get(tx, "default_network"))
    if default is not None:
        session.tell(f"no --network given: a NIC on the default network {default}")
    elif not given:
        session.tell("no --network given: the instance has no NIC")
    return tuple(_network(text) for text in given or ([default] if default else []))


def _network(text: str) -> Any:
    from novactl.objects.request import NetworkRequest

    name, *options = text.split(",")
    ip = None
    for option in options:
        key, _, value = option.partition("=")
        if key != "ip" or not value:
            raise UsageError(f"--network {text!r}: {option!r} is not ip=ADDRESS")
        ip = value
    return NetworkRequest(network=name, ip=ip)


def content_of(path: Path | None) -> bytes | None:
    """What --user-data names."""
    if path is None:
        return None
    if str(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"--user-data {path}: {error.strerror}") from error


def _wait_for(session: Any, outcomes: list[Any], milestone: str, timeout: float) -> None:
    from novactl.actions import watch

    for outcome in outcomes:
        if milestone != "active" and outcome.result == "done":
            watch.milestone(session.cloud.world, outcome.instance, milestone, timeout)
