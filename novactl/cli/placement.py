"""What is asked of an instance's host, as options; and novactl schedule."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from novactl.cli import render
from novactl.errors import UsageError

Host = Annotated[str | None, typer.Option("--host", metavar="H", help="This host or none.")]
Zone = Annotated[str | None, typer.Option("--zone", metavar="Z", help="A host of this zone.")]
Aggregate = Annotated[str | None, typer.Option("--aggregate", metavar="A", help="A host of this aggregate.")]
Group = Annotated[str | None, typer.Option("--group", metavar="G", help="As a member of this server group.")]
ApartFrom = Annotated[
    list[str] | None,
    typer.Option("--apart-from", metavar="NAME", help="Not where this instance is; repeatable."),
]
With = Annotated[
    list[str] | None, typer.Option("--with", metavar="NAME", help="Where this instance is; repeatable.")
]
Hint = Annotated[
    list[str] | None,
    typer.Option("--hint", metavar="K=V", help="Nova's: group=, different_host=, same_host=."),
]
Require = Annotated[
    list[str] | None,
    typer.Option("--require", metavar="LABEL[=V]", help="A host with this label; repeatable."),
]
Forbid = Annotated[
    list[str] | None,
    typer.Option("--forbid", metavar="LABEL[=V]", help="A host without this label; repeatable."),
]


def wishes(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options above, by the names that boot and schedule have them under (ctx.params), as fields of
    objects.request.Wishes. Raises UsageError."""
    from novactl.actions.wishes import forbidden, hints, required

    hinted = hints(options["hint"] or ())
    if options["group"] is not None and hinted["group"] not in ([], [options["group"]]):
        raise UsageError("--group and --hint group= name different groups")
    return {
        **{key: options[key] for key in ("host", "zone", "aggregate")},
        "group": options["group"] if options["group"] is not None else next(iter(hinted["group"]), None),
        "apart_from": (*(options["apart_from"] or ()), *hinted["different_host"]),
        "together_with": (*(options["together_with"] or ()), *hinted["same_host"]),
        "required": required(options["require"] or ()),
        "forbidden": forbidden(options["forbid"] or ()),
    }


def register(app: typer.Typer) -> None:
    """Hang the command on the root."""
    app.command()(schedule)


def schedule(
    ctx: typer.Context,
    flavor: Annotated[str, typer.Option("--flavor", metavar="F", help="How big it is.")],
    image: Annotated[
        str | None, typer.Option("--image", metavar="I", help="What it is made from; not needed.")
    ] = None,
    count: Annotated[int, typer.Option("--count", metavar="N", help="So many alike.")] = 1,
    host: Host = None,
    zone: Zone = None,
    aggregate: Aggregate = None,
    group: Group = None,
    apart_from: ApartFrom = None,
    together_with: With = None,
    hint: Hint = None,
    require: Require = None,
    forbid: Forbid = None,
    explain: Annotated[bool, typer.Option("--explain", help="Every host, and why or why not.")] = False,
) -> None:
    """Show what boot would choose, from what the database knows. Nothing is changed, no host is asked.

    novactl schedule --flavor small --zone rack2 --explain
    """
    from novactl.actions import schedule as actions
    from novactl.objects.request import BootRequest

    session = ctx.obj
    request = BootRequest(
        name=f"an instance of {flavor}",
        flavor=flavor,
        image=image or "",
        project=session.settings.project,
        count=count,
        **wishes(ctx.params),
    )
    whole = explain or session.output != "table"
    decision, refusal = actions.schedule(session.cloud.world, request, explaining=whole)
    show(session, decision, explain=explain, count=count)
    if refusal is not None:
        placed = sum(decision["placed"].values())
        told = f"{placed} of {count} fit" if count > 1 else refusal.message.split("\n")[0]
        raise type(refusal)(told, hint=refusal.hint)


def show(session: Any, decision: dict[str, Any], *, explain: bool, count: int = 1) -> None:
    """A decision: the whole of it to scripts; to people the hosts, and with `explain` the reasons."""
    if session.output != "table":
        render.show(session, decision, ("chosen", "alternates", "fixes"))
        return
    if explain:
        render.listing(session, matrix(decision), list(matrix(decision)[0]) if decision["hosts"] else ())
    elif count > 1:
        items = [{"host": host, "instances": n} for host, n in decision["placed"].items()]
        render.listing(session, items, ("host", "instances"))
    elif decision["chosen"]:
        render.show(session, {key: decision[key] for key in ("chosen", "alternates")})


def matrix(decision: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for each host with the word of each filter, the best first, then those that were rejected,
    fewest reasons first."""
    return [
        {
            "host": row["host"],
            "result": _result(row, decision["chosen"]),
            "weight": "" if row["weight"] is None else f"{row['weight']:.3f}",
            "weights": _weights(row),
            "free": "{vcpus} vcpus, {memory_mib} MiB, {disk_gib} GiB".format(**row["free"]),
            **dict.fromkeys(row["asked"], "ok"),
            **{one["filter"]: one["reason"] for one in row["rejections"]},
        }
        for row in _ordered(decision)
    ]


def sentences(decision: dict[str, Any]) -> list[str]:
    """The same, a line of text for each host."""
    return [
        f"{row['host']}: {_result(row, decision['chosen'])} "
        + ("; ".join(f"{one['filter']}: {one['reason']}" for one in row["rejections"]) or _weights(row))
        for row in _ordered(decision)
    ]


def _ordered(decision: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(
        decision["hosts"],
        key=lambda row: (not row["passed"], -(row["weight"] or 0), len(row["rejections"]), row["host"]),
    )


def _weights(row: dict[str, Any]) -> str:
    return " ".join(f"{name} {value:+.3f}" for name, value in row["weights"].items() if value)


def _result(row: dict[str, Any], chosen: str | None) -> str:
    if not row["passed"]:
        return "no"
    return "chosen" if row["host"] == chosen else "ok"
