"""novactl project …, novactl quota …"""

from typing import Annotated, Any

import typer

from novactl.cli import render, views
from novactl.errors import UsageError

COLUMNS = ("name", "description", "instances_used", "cores_used", "memory_mib_used")
QUOTA_COLUMNS = ("resource", "limit", "used", "free")

project = typer.Typer(
    help="Projects that have limits; default and others need none.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
quota = typer.Typer(
    help="What a project may use, and what it uses.", no_args_is_help=True, rich_markup_mode=None
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a project.")]
Description = Annotated[str | None, typer.Option("--description", metavar="TEXT", help="What it is for.")]
Limits = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="RESOURCE=N", help="A limit, or unlimited; repeatable."),
]


def register(root: typer.Typer) -> None:
    root.add_typer(project, name="project")
    root.add_typer(quota, name="quota")


@project.command()
def create(ctx: typer.Context, name: Name, description: Description = None, limit: Limits = None) -> None:
    """Make a project with Nova's limits, or with others.

    novactl project create dev --description "for trying" --limit instances=20 --limit cores=unlimited
    """
    from novactl.actions import projects
    from novactl.objects.project import parse_limits

    made = projects.create(ctx.obj.cloud.world, name, description or "", parse_limits(limit or ()))
    render.show(ctx.obj, views.project(made))
    _warn(ctx.obj, name)


@project.command("list")
def list_(ctx: typer.Context) -> None:
    """List the projects that have limits.

    novactl project list
    """
    from novactl.db import projects

    found = ctx.obj.cloud.db.read(projects.everything)
    render.listing(ctx.obj, [views.project(one) for one in found], COLUMNS)


@project.command()
def show(ctx: typer.Context, name: Name) -> None:
    """Show a project.

    novactl project show dev
    """
    from novactl.db import projects

    render.show(ctx.obj, views.project(ctx.obj.cloud.db.read(lambda tx: projects.find(tx, name))))


@project.command("set")
def set_(ctx: typer.Context, name: Name, description: Description = None, limit: Limits = None) -> None:
    """Give a project another description or other limits; the other ones stay.

    novactl project set dev --limit instances=5
    """
    from novactl.actions import projects
    from novactl.objects.project import parse_limits

    changed = projects.change(ctx.obj.cloud.world, name, description, parse_limits(limit or ()))
    render.show(ctx.obj, views.project(changed))
    _warn(ctx.obj, name)


@project.command()
def delete(ctx: typer.Context, name: Name) -> None:
    """Delete a project that nothing is in.

    novactl project delete dev
    """
    from novactl.actions import projects

    projects.delete(ctx.obj.cloud.world, name)
    ctx.obj.tell(f"project {name} deleted")


@quota.command("show")
def quota_show(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[PROJECT]", help="Name of a project; else that of --project.")
    ] = None,
) -> None:
    """Show what a project may use, what it uses and what is left; -1 is no limit.

    novactl quota show dev
    """
    session = ctx.obj
    _show(session, _rows(session, session.settings.project if name is None else name))


@quota.command("set")
def quota_set(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[PROJECT] RESOURCE=N…", help="Which project, else that of --project; its new limits."
        ),
    ],
) -> None:
    """Set limits of a project; the others stay. -1 or unlimited takes one away.

    novactl quota set dev instances=5 cores=unlimited
    """
    from novactl.actions import projects
    from novactl.objects.project import parse_limits

    session = ctx.obj
    named = [word for word in words if "=" not in word]
    if len(named) > 1 or (named and words[0] != named[0]):
        raise UsageError(f"{named[-1]!r} is not of the form RESOURCE=N", hint="as in instances=5")
    name = named[0] if named else session.settings.project
    projects.set_quota(session.cloud.world, name, parse_limits(word for word in words if "=" in word))
    _show(session, _rows(session, name))
    _warn(session, name)


def _rows(session: Any, name: str) -> list[dict[str, Any]]:
    from novactl.actions import projects

    found: list[dict[str, Any]] = session.cloud.db.read(lambda tx: projects.quota(tx, name))
    return found


def _show(session: Any, rows: list[dict[str, Any]]) -> None:
    if session.output == "table":
        keys = ("limit", "free")
        rows = [{**row, **{key: "unlimited" for key in keys if row[key] == -1}} for row in rows]
    render.listing(session, rows, QUOTA_COLUMNS)


def _warn(session: Any, name: str) -> None:
    """Say which limits are below the use."""
    from novactl.actions import projects

    for line in projects.exceeded(_rows(session, name)):
        session.tell(line)
