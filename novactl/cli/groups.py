"""novactl group …"""

from typing import Annotated, Any

import typer

from novactl.cli import render, views

COLUMNS = ("name", "policy", "max_per_host", "members")

app = typer.Typer(
    help="Server groups: instances that are kept together, or apart.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name or id of a group.")]


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="group")


@app.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name within the project.")],
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            metavar="affinity|anti-affinity|soft-affinity|soft-anti-affinity",
            help="Together or apart; the soft ones are wishes.",
        ),
    ],
    max_per_host: Annotated[
        int,
        typer.Option("--max-per-host", metavar="N", help="With anti-affinity: members that a host may have."),
    ] = 1,
) -> None:
    """Make a server group.

    novactl group create web --policy anti-affinity --max-per-host 2
    """
    from novactl.actions import groups

    session = ctx.obj
    made = groups.create(session.cloud.world, session.settings.project, name, policy, max_per_host)
    render.show(session, views.group(made, ()))


@app.command("list")
def list_(ctx: typer.Context) -> None:
    """List the project's server groups.

    novactl group list
    """
    from novactl.db import groups

    session = ctx.obj

    def work(tx: Any) -> list[dict[str, Any]]:
        members = groups.all_members(tx)
        found = groups.everything(tx, session.settings.project)
        return [views.group(group, members.get(group.id, ())) for group in found]

    items = session.cloud.db.read(work)
    render.listing(session, [_plain(session, item) for item in items], COLUMNS)


@app.command()
def show(ctx: typer.Context, name: Name) -> None:
    """Show a server group, its members and their hosts.

    novactl group show web
    """
    from novactl.db import groups

    session = ctx.obj

    def work(tx: Any) -> dict[str, Any]:
        group = groups.find(tx, name, session.settings.project)
        return dict(views.group(group, groups.members(tx, group.id)))

    render.show(session, _plain(session, session.cloud.db.read(work)))


@app.command()
def delete(ctx: typer.Context, name: Name) -> None:
    """Delete a server group; its members stay where they are and lose the rule.

    novactl group delete web
    """
    from novactl.actions import groups

    session = ctx.obj
    left = groups.delete(session.cloud.world, session.settings.project, name)
    session.tell(f"group {name} deleted")
    if left:
        session.tell(f"{len(left)} of its members go on without the rule")


def _plain(session: Any, item: dict[str, Any]) -> dict[str, Any]:
    """In a table, members in words."""
    if session.output != "table":
        return item
    told = [f"{one['name']} on {one['host']}" if one["host"] else one["name"] for one in item["members"]]
    return {**item, "members": told}
