"""aggregate: groups of hosts, and what they have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from novactl.actions.world import World
from novactl.db import aggregates, hosts
from novactl.db.session import Tx
from novactl.errors import NotFound, Refused, UsageError
from novactl.objects.aggregate import Aggregate, check_aggregate


def create(world: World, name: str, members: Sequence[str], metadata: Mapping[str, str]) -> Aggregate:
    """Raises UsageError for what is not acceptable, NotFound for a host, Refused for a name that is taken."""
    kept = {key: value for key, value in metadata.items() if value}
    made = Aggregate(id=world.ids.uuid(), name=name, hosts=tuple(sorted(set(members))), metadata=kept)
    check_aggregate(made)

    def work(tx: Tx) -> Aggregate:
        for host in made.hosts:
            hosts.get(tx, host)
        aggregates.create(tx, made)
        return made

    return world.db.write(work)


def set_metadata(world: World, name: str, metadata: Mapping[str, str]) -> Aggregate:
    """What is given is set; an empty value removes it. Raises NotFound."""
    if not metadata:
        raise UsageError("nothing to set is given")

    def work(tx: Tx) -> Aggregate:
        old = aggregates.get(tx, name)
        merged = {key: value for key, value in {**old.metadata, **metadata}.items() if value}
        return _keep(tx, check_aggregate(replace(old, metadata=merged)))

    return world.db.write(work)


def add_hosts(world: World, name: str, members: Sequence[str]) -> Aggregate:
    """They are in it. Raises NotFound for the aggregate or a host."""

    def work(tx: Tx) -> Aggregate:
        old = aggregates.get(tx, name)
        new = {hosts.get(tx, host).name for host in members}
        return _keep(tx, replace(old, hosts=tuple(sorted({*old.hosts, *new}))))

    return world.db.write(work)


def remove_hosts(world: World, name: str, members: Sequence[str]) -> Aggregate:
    """They are not in it any more. Raises NotFound for one that was not."""

    def work(tx: Tx) -> Aggregate:
        old = aggregates.get(tx, name)
        if absent := [host for host in members if host not in old.hosts]:
            known = ", ".join(old.hosts) or "none"
            raise NotFound(f"host {absent[0]} is not in aggregate {old.name}", hint=f"its hosts: {known}")
        return _keep(tx, replace(old, hosts=tuple(host for host in old.hosts if host not in members)))

    return world.db.write(work)


def delete(world: World, name: str) -> None:
    """Raises NotFound, or Refused while hosts are in it (as Nova)."""

    def work(tx: Tx) -> None:
        old = aggregates.get(tx, name)
        if old.hosts:
            raise Refused(
                f"aggregate {old.name} has hosts: {', '.join(old.hosts)}",
                hint=f"novactl aggregate remove-host {old.name} {' '.join(old.hosts)}",
            )
        aggregates.delete(tx, old.name)

    world.db.write(work)


def _keep(tx: Tx, aggregate: Aggregate) -> Aggregate:
    if aggregate != aggregates.get(tx, aggregate.name):
        aggregates.update(tx, aggregate)
    return aggregate
