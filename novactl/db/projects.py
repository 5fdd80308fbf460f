"""Projects, their limits and what they use: named queries. A project without a row has no limits."""

import json

from novactl.db import second_copy
from novactl.db.session import Row, Tx, dumps
from novactl.errors import NotFound, Refused
from novactl.objects.names import near
from novactl.objects.project import COUNTED, UNLIMITED, Project


def create(tx: Tx, project: Project) -> None:
    """With what its instances use now. Raises Refused when there is one of that name."""
    if get(tx, project.name) is not None:
        raise Refused(f"project {project.name} exists already", hint=f"novactl project show {project.name}")
    tx.insert("projects", **{**project.as_dict(), "limits": dumps(project.limits)})
    recount(tx, project.name)
    second_copy.changed(tx)


def update(tx: Tx, project: Project) -> None:
    """Keep its description and limits."""
    tx.run(
        "UPDATE projects SET description = :description, limits = :limits WHERE name = :name",
        name=project.name,
        description=project.description,
        limits=dumps(project.limits),
    )
    second_copy.changed(tx)


def delete(tx: Tx, name: str) -> None:
    """It has no limits any more."""
    tx.run("DELETE FROM projects WHERE name = :name", name=name)
    second_copy.changed(tx)


def get(tx: Tx, name: str) -> Project | None:
    row = tx.one("SELECT * FROM projects WHERE name = :name", name=name)
    return _project(row) if row else None


def find(tx: Tx, name: str) -> Project:
    """Raises NotFound with near names."""
    found = get(tx, name)
    if found is None:
        close = near(name, [one.name for one in everything(tx)])
        raise NotFound(
            f"project {name!r} does not exist",
            hint=f"did you mean {', '.join(close)}?" if close else "novactl project list shows what exists",
            candidates=close,
        )
    return found


def everything(tx: Tx) -> list[Project]:
    return [_project(row) for row in tx.all("SELECT * FROM projects ORDER BY name")]


def take(tx: Tx, name: str, *, instances: int = 0, cores: int = 0, memory_mib: int = 0) -> None:
    """Count it, within the project's limits: what does not grow is never refused. One UPDATE decides, so no
    two callers can be given the same room. Raises Refused."""
    project = get(tx, name)
    if project is None:
        return
    wanted = dict(zip(COUNTED, (instances, cores, memory_mib), strict=True))
    tests = [
        f"{resource}_used + :{resource} <= {int(project.limit(resource))}"
        for resource, amount in wanted.items()
        if amount > 0 and project.limit(resource) != UNLIMITED
    ]
    sets = ", ".join(f"{resource}_used = {resource}_used + :{resource}" for resource in COUNTED)
    where = " AND ".join(["name = :name", *tests])
    if not tx.run(f"UPDATE projects SET {sets} WHERE {where}", name=name, **wanted):
        raise _over(find(tx, name), wanted)


def give_back(tx: Tx, name: str, *, instances: int = 0, cores: int = 0, memory_mib: int = 0) -> None:
    """The opposite of take()."""
    take(tx, name, instances=-instances, cores=-cores, memory_mib=-memory_mib)


def recount(tx: Tx, name: str) -> None:
    """What its living instances use is what is counted."""
    rows = tx.all(
        "SELECT flavor FROM instances WHERE project = :name AND deleted_at IS NULL",
        name=name,
    )
    flavors = [json.loads(row["flavor"]) for row in rows]
    tx.run(
        "UPDATE projects SET instances_used = :instances, cores_used = :cores, memory_mib_used = :memory"
        " WHERE name = :name",
        name=name,
        instances=len(flavors),
        cores=sum(flavor["vcpus"] for flavor in flavors),
        memory=sum(flavor["memory_mib"] for flavor in flavors),
    )


def _over(project: Project, wanted: dict[str, int]) -> Refused:
    used = {resource: getattr(project, f"{resource}_used") for resource in COUNTED}
    short = [
        f"{resource}: {amount} wanted, {max(0, project.limit(resource) - used[resource])} left"
        f" of {project.limit(resource)}"
        for resource, amount in wanted.items()
        if amount > 0 and UNLIMITED != project.limit(resource) < used[resource] + amount
    ]
    return Refused(
        f"project {project.name} is at its quota: {'; '.join(short)}",
        hint=f"novactl quota show {project.name}; novactl quota set {project.name} changes it",
    )


def _project(row: Row) -> Project:
    return Project(**{**row, "limits": json.loads(row["limits"])})
