"""Changes of an inventory that are only rows of the database: one writer for each kind."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from novactl.actions.hardware import dedicated
from novactl.actions.inventory import Change
from novactl.actions.inventory_state import State, split_project
from novactl.actions.world import World
from novactl.db import aggregates, catalogue, groups, hosts, projects, settings
from novactl.objects.aggregate import Aggregate
from novactl.objects.flavor import Flavor
from novactl.objects.group import ServerGroup
from novactl.objects.keypair import Keypair
from novactl.objects.network import Network
from novactl.objects.policy import check_setting
from novactl.objects.project import Project

Writer = Callable[[World, State, Change], None]


def flavor(world: World, state: State, change: Change) -> None:
    tx = state.tx
    if change.change == "create":
        catalogue.add_flavor(tx, Flavor(id=world.ids.uuid(), name=change.name, **change.wanted))
    elif change.change == "update":
        catalogue.update_flavor(tx, replace(catalogue.flavor(tx, change.name), **change.wanted))
    else:
        catalogue.remove_flavor(tx, change.name)


def image(world: World, state: State, change: Change) -> None:
    """Not its content: that comes by file."""
    there = state.images[change.name]
    if change.change == "update":
        catalogue.update_image(state.tx, replace(there, **change.wanted))
    else:
        catalogue.remove_image(state.tx, there.id)


def keypair(world: World, state: State, change: Change) -> None:
    project, name = split_project(change.name)
    if change.change != "create":
        catalogue.remove_keypair(state.tx, project, name)
    if change.item is not None:
        catalogue.add_keypair(state.tx, project, Keypair(name=name, **change.item.fields))


def network(world: World, state: State, change: Change) -> None:
    tx = state.tx
    wanted: dict[str, Any] = {
        key: tuple(value) if key == "dns" else value for key, value in change.wanted.items()
    }
    if change.change == "create":
        catalogue.add_network(tx, Network(id=world.ids.uuid(), name=change.name, **wanted))
    elif change.change == "update":
        catalogue.update_network(tx, replace(state.networks[change.name], **wanted))
    else:
        catalogue.remove_network(tx, change.name)


def host(world: World, state: State, change: Change) -> None:
    """What it offers."""
    values: dict[str, Any] = {
        key: int(value) if key == "enabled" else value for key, value in change.wanted.items()
    }
    if "dedicated_cpus" in values:
        values |= dedicated(state.tx, state.hosts[change.name], values["dedicated_cpus"])
    hosts.update(state.tx, change.name, **values)


def aggregate(world: World, state: State, change: Change) -> None:
    tx = state.tx
    wanted: dict[str, Any] = {
        key: tuple(value) if key == "hosts" else value for key, value in change.wanted.items()
    }
    if change.change == "create":
        aggregates.create(tx, Aggregate(id=world.ids.uuid(), name=change.name, **wanted))
    elif change.change == "update":
        aggregates.update(tx, replace(aggregates.get(tx, change.name), **wanted))
    else:
        aggregates.delete(tx, change.name)


def project(world: World, state: State, change: Change) -> None:
    if change.change == "create":
        made = Project(name=change.name, created_at=world.clock.now(), **change.wanted)
        projects.create(state.tx, made)
    elif change.change == "update":
        projects.update(state.tx, replace(projects.find(state.tx, change.name), **change.wanted))
    else:
        projects.delete(state.tx, change.name)


def group(world: World, state: State, change: Change) -> None:
    of, name = split_project(change.name)
    if change.change == "create":
        groups.create(state.tx, ServerGroup(id=world.ids.uuid(), name=name, project=of, **change.wanted))
    elif change.change == "update":
        groups.update(state.tx, replace(state.groups[change.name], **change.wanted))
    else:
        groups.delete(state.tx, state.groups[change.name])


def weigher(world: World, state: State, change: Change) -> None:
    kept = {name: value for name, value in state.setting("weighers").items() if name != change.name}
    if change.item is not None:
        kept[change.name] = change.item.fields["multiplier"]
    _put(state, "weighers", kept)


def scheduler(world: World, state: State, change: Change) -> None:
    kept = {name: value for name, value in state.setting("scheduler").items() if name != change.name}
    if change.item is not None:
        kept[change.name] = change.item.fields["value"]
    _put(state, "scheduler", kept)


def policy(world: World, state: State, change: Change) -> None:
    kept = [one for one in state.setting("policies") if one["name"] != change.name]
    if change.item is not None:
        kept.append({"name": change.name, **change.item.fields})
    _put(state, "policies", sorted(kept, key=lambda one: str(one["name"])))


def cron(world: World, state: State, change: Change) -> None:
    kept = {name: value for name, value in state.setting("cron").items() if name != change.name}
    if change.item is not None:
        kept[change.name] = dict(change.item.fields)
    _put(state, "cron", kept)


def trusted_network(world: World, state: State, change: Change) -> None:
    kept = {name: cidr for name, cidr in state.setting("trusted_networks").items() if name != change.name}
    if change.item is not None:
        kept[change.name] = change.item.fields["cidr"]
    _put(state, "trusted_networks", kept)


def setting(world: World, state: State, change: Change) -> None:
    _put(state, change.name, change.wanted["value"])


def _put(state: State, name: str, value: object) -> None:
    check_setting(name, value)
    settings.put(state.tx, name, value)


WRITERS: dict[str, Writer] = {
    "flavor": flavor,
    "image": image,
    "keypair": keypair,
    "network": network,
    "project": project,
    "group": group,
    "host": host,
    "aggregate": aggregate,
    "weigher": weigher,
    "scheduler": scheduler,
    "policy": policy,
    "cron": cron,
    "trusted-network": trusted_network,
    "setting": setting,
}
