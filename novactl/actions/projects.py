"""project and quota: what the instances of a project, and what belongs to it, may come to."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from novactl.actions.world import World
from novactl.db import projects
from novactl.db.session import Tx
from novactl.errors import UsageError
from novactl.objects.names import check_name
from novactl.objects.project import NOVA_LIMITS, UNLIMITED, Project, check_project


def create(world: World, name: str, description: str, limits: Mapping[str, int]) -> Project:
    """With Nova's limits where none are given, and what it uses now. Raises UsageError for what is not
    acceptable, Refused when it has limits already."""
    made = Project(
        name=name,
        description=description,
        limits={**NOVA_LIMITS, **limits},
        created_at=world.clock.now(),
    )
    check_project(made)

    def work(tx: Tx) -> Project:
        projects.create(tx, made)
        return projects.find(tx, name)

    return world.db.write(work)


def change(world: World, name: str, description: str | None, limits: Mapping[str, int]) -> Project:
    """What is given is set. Raises NotFound."""
    if description is None and not limits:
        raise UsageError("nothing to set is given", hint="--description or --limit RESOURCE=N")

    def work(tx: Tx) -> Project:
        old = projects.find(tx, name)
        told = old.description if description is None else description
        return _keep(tx, old, replace(old, description=told, limits={**old.limits, **limits}))

    return world.db.write(work)


def set_quota(world: World, name: str, limits: Mapping[str, int]) -> Project:
    """As change(); a project that was never created has these limits alone from now on."""
    if not limits:
        raise UsageError("no limit is given", hint="RESOURCE=N, as in instances=5 or cores=unlimited")
    check_name(name, "project name")

    def work(tx: Tx) -> Project:
        old = projects.get(tx, name)
        if old is not None:
            return _keep(tx, old, replace(old, limits={**old.limits, **limits}))
        made = Project(name=name, limits=dict(limits), created_at=world.clock.now())
        projects.create(tx, check_project(made))
        return projects.find(tx, name)

    return world.db.write(work)


def delete(world: World, name: str) -> None:
    """Raises NotFound, or Refused while anything is in it."""

    def work(tx: Tx) -> None:
        projects.delete(tx, projects.find(tx, name).name)

    world.db.write(work)


def quota(tx: Tx, name: str) -> list[dict[str, Any]]:
    """{resource, project, limit, used, free} of each resource, -1 for no limit, also of a project that was
    never created."""
    limits = (projects.get(tx, check_name(name, "project name")) or Project(name=name)).limit
    return [
        {
            "resource": resource,
            "project": name,
            "limit": limits(resource),
            "used": used,
            "free": UNLIMITED if limits(resource) == UNLIMITED else max(0, limits(resource) - used),
        }
        for resource, used in projects.usage(tx, name).items()
    ]


def exceeded(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each limit of quota() that the use is above of: only growth is refused."""
    return [
        f"project {row['project']}: {row['resource']}: {row['used']} used, above the limit of {row['limit']}:"
        " nothing is taken away, no more is given"
        for row in rows
        if UNLIMITED != row["limit"] < row["used"]
    ]


def _keep(tx: Tx, old: Project, new: Project) -> Project:
    if check_project(new) != old:
        projects.update(tx, new)
    return new
