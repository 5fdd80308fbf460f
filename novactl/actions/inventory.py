"""The inventory's files against the database: what differs, what that would take, and what forbids it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from novactl.actions.cron.registry import TASKS
from novactl.actions.hardware import dedicated
from novactl.actions.inventory_state import Fields, State, key_fingerprint, name_in_files
from novactl.db import hosts, projects
from novactl.errors import NovactlError, Refused
from novactl.files.inventory import Inventory, Item, load_inventory, refusal
from novactl.objects.network import overlap
from novactl.scheduler.select import WEIGHERS
from novactl.virt.domain import check_properties

ORDER = (
    *("flavor", "image", "project", "keypair", "network", "group", "host", "aggregate"),
    *("weigher", "scheduler", "policy", "cron", "trusted-network", "setting"),
)
CONTENT = ("sha256", "kernel_sha256", "initrd_sha256", "format")
"""Of an image: what makes it another one."""
PLACE = ("address", "port", "instances_path")
"""Of a host: what cannot change while it is enrolled."""
NUMBERS = ("cidr", "bridge", "project")
"""Of a network: what cannot change while instances have addresses in it."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """`prune`: what is in the database and not in the files goes. `accept`: unknown host keys are pinned."""

    prune: bool = False
    accept: bool = False


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference. `fields` are {field: (have, want)}; `refused` says why it cannot be made."""

    kind: str
    name: str
    change: str  # create, update, replace, remove, extra
    fields: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    refused: str | None = None
    item: Item | None = field(default=None, compare=False, repr=False)

    @property
    def wanted(self) -> Fields:
        """What changes, as it will be."""
        return {key: want for key, (_, want) in self.fields.items()}

    def as_dict(self) -> dict[str, Any]:
        """As `inventory diff` shows it."""
        return {
            "kind": self.kind,
            "name": self.name,
            "change": self.change,
            "fields": {key: list(pair) for key, pair in self.fields.items()},
            "refused": self.refused,
        }


def read(path: Path) -> Inventory:
    """The files of a directory, or one. Raises UsageError that names every wrong place."""
    return load_inventory(path)


class Content:
    """What the image files of an inventory hold. A SHA-256 that the inventory states is believed until the
    file is taken in; without it the file is read, here, once."""

    def __init__(self, inventory: Inventory, store: Any) -> None:
        from novactl.images.blocks import sha256_of

        self.store = store
        self.fields: dict[str, Fields] = {}
        self.faults: dict[str, str] = {}
        for name, item in inventory.items.get("image", {}).items():
            found = dict(item.fields)
            try:
                for key, path in item.files.items():
                    column = "sha256" if key == "file" else f"{key}_sha256"
                    if found.get(column) is None:
                        found[column] = sha256_of(path)
            except NovactlError as error:
                self.faults[name] = error.message
            self.fields[name] = found

    def missing(self, item: Item) -> str | None:
        """Why the image cannot be taken in, when it cannot."""
        wanted = self.fields[item.name]
        for key, column in (("file", "sha256"), ("kernel", "kernel_sha256"), ("initrd", "initrd_sha256")):
            path: Path | None = item.files.get(key)
            if path is not None and not path.is_file():
                return f"{path}: no such file"
            if path is None and wanted[column] is not None and not self.store.has(wanted[column]):
                return f"{column} {wanted[column]} is not in the store, and no {key} is given"
        return None


def plan(state: State, inventory: Inventory, content: Content, options: Options) -> list[Change]:
    """Every difference, in the order of ORDER and then by name. Raises UsageError, with every place, when
    the files refer to what is neither in them nor in the database."""
    if faults := list(_dangling(state, inventory, options)):
        raise refusal(faults)
    found = [change for kind in ORDER for change in _changes(state, inventory, content, options, kind)]
    return [replace(change, refused=_why_not(change, state, inventory, content, options)) for change in found]


def _changes(
    state: State, inventory: Inventory, content: Content, options: Options, kind: str
) -> Iterator[Change]:
    items = inventory.items.get(kind)
    if items is None:
        return
    have = state.of(kind)
    for name in sorted(items):
        item = items[name]
        wanted = content.fields[name] if kind == "image" else item.fields
        if name not in have:
            fields = {key: (None, want) for key, want in wanted.items()}
            yield Change(kind=kind, name=name, change="create", fields=fields, item=item)
            continue
        there = _as_pinned(state, name, wanted, have[name]) if kind == "host" else have[name]
        fields = {key: (there[key], want) for key, want in wanted.items() if there[key] != want}
        if fields or (name in content.faults and kind == "image"):
            anew = kind == "image" and not fields.keys().isdisjoint(CONTENT)
            change = "replace" if anew else "update"
            yield Change(kind=kind, name=name, change=change, fields=fields, item=item)
    for name in sorted(have.keys() - items.keys()):
        yield Change(kind=kind, name=name, change="remove" if options.prune else "extra")


def _as_pinned(state: State, name: str, wanted: Mapping[str, Any], have: Fields) -> Fields:
    """A host with several pinned keys has each of their fingerprints."""
    pinned = {key_fingerprint(line) for line in state.hosts[name].host_keys}
    return {**have, "fingerprint": wanted["fingerprint"]} if wanted.get("fingerprint") in pinned else have


# --- what cannot be ---


def _why_not(
    change: Change, state: State, inventory: Inventory, content: Content, options: Options
) -> str | None:
    match change.kind, change.change:
        case "host", "create":
            return _host_cannot_come(change, state, inventory, options)
        case "host", "update":
            return _host_cannot_change(change, state)
        case "host", "remove":
            return _host_cannot_go(change, state)
        case "network", "remove":
            return _network_cannot_go(change, state, inventory)
        case "network", "create" | "update":
            return _network_cannot_be(change, state, inventory, options)
        case "image", "create" | "replace" | "update":
            return _image_cannot_come(change, state, content)
        case "image", "remove":
            image = state.images[change.name]
            return _in_use(state.images_used.get(image.id, 0), state.lock("image", image.id))
        case "project", "remove":
            return _project_cannot_go(change, state, inventory)
        case "group", "remove" | "update":
            return _group_is_used(change, state)
        case "flavor", "remove":
            return _in_use(state.flavors_used.get(state.flavor_ids[change.name], 0), None)
    return None


def _in_use(instances: int, operation: str | None) -> str | None:
    if instances:
        return f"{instances} instances are of it"
    return f"is in use by operation {operation}" if operation else None


def _host_cannot_come(change: Change, state: State, inventory: Inventory, options: Options) -> str | None:
    place = (change.wanted["address"], change.wanted["port"])
    for host in state.hosts.values():
        goes = options.prune and host.name not in inventory.items["host"]
        if (host.address, host.port) == place and not goes:
            return f"{host.address}:{host.port} is host {host.name} already"
    if change.wanted.get("fingerprint") is None and not options.accept:
        return "its fingerprint is not stated; --accept-host-key pins the key that it shows"
    return None


def _host_cannot_change(change: Change, state: State) -> str | None:
    for key in PLACE:
        if key in change.fields:
            what = key.replace("_", " ")
            return f"the {what} of an enrolled host cannot change: novactl host remove {change.name} first"
    if "dedicated_cpus" in change.fields:
        try:
            dedicated(state.tx, state.hosts[change.name], change.wanted["dedicated_cpus"])
        except Refused as error:
            return error.message.removeprefix(f"host {change.name}").removeprefix(":").strip()
    return None


def _host_cannot_go(change: Change, state: State) -> str | None:
    host = state.hosts[change.name]
    if host.instances:
        return f"has {host.instances} instances"
    if operation := state.lock("host", host.name):
        return f"is in use by operation {operation}"
    if who := hosts.holder(state.tx, host.name):
        return f"{who} still has a share of it: novactl resize-confirm {who} or novactl resize-revert {who}"
    return None


def _network_cannot_go(change: Change, state: State, inventory: Inventory) -> str | None:
    if used := state.used.get(state.networks[change.name].id, 0):
        return f"{used} addresses are in use"
    if "setting" not in inventory.items and state.setting("default_network") == change.name:
        return "is the default network"
    return None


def _network_cannot_be(change: Change, state: State, inventory: Inventory, options: Options) -> str | None:
    from novactl.objects.network import Network

    assert change.item
    wanted = {**change.item.fields, "dns": tuple(change.item.fields["dns"])}
    made = Network(id="", name=change.name, **wanted)
    if change.change == "update":
        old = state.networks[change.name]
        used = state.used.get(old.id, 0)
        if used and (fixed := [key for key in NUMBERS if key in change.fields]):
            return f"its {fixed[0]} cannot change: {used} addresses are in use"
        kept = {ip for ip in (made.gateway, *made.dns) if ip} - {old.gateway, *old.dns}
        if used and (clash := sorted(kept & state.taken(old))):
            return f"{clash[0]} is an instance's address"
    for other in state.networks.values():
        stays = other.name not in inventory.items["network"] and not options.prune
        if stays and overlap(made, other):
            return f"network {other.name} ({other.cidr}) has some of these addresses on {other.bridge}"
    return None


def _project_cannot_go(change: Change, state: State, inventory: Inventory) -> str | None:
    """What leaves with it is not in it any more; a project only goes with --prune."""
    held = projects.contents(state.tx, change.name)
    for what, kind in (("keypairs", "keypair"), ("groups", "group"), ("networks", "network")):
        stay = inventory.items.get(kind)
        if stay is not None and what in held:
            of = "default" if kind == "network" else change.name
            held[what] = [name for name in held[what] if name_in_files(of, name) in stay]
    left = {what: names for what, names in held.items() if names}
    return f"has {projects.in_words(left)}" if left else None


def _group_is_used(change: Change, state: State) -> str | None:
    if used := state.members.get(state.groups[change.name].id, 0):
        what = "is" if change.change == "remove" else f"its {next(iter(change.fields))} cannot change: it is"
        return f"{what} the group of {used} instances"
    return None


def _image_cannot_come(change: Change, state: State, content: Content) -> str | None:
    if why := content.faults.get(change.name):
        return why
    if change.change == "update":
        return None
    assert change.item
    if why := content.missing(change.item):
        return why
    old = state.images.get(change.name)
    return _in_use(0, state.lock("image", old.id)) if old else None


# --- what the files refer to ---


def _dangling(
    state: State, inventory: Inventory, options: Options
) -> Iterator[tuple[Any, tuple[str | int, ...], str]]:
    hosts = _known(state, inventory, options, "host")
    networks = _known(state, inventory, options, "network")
    for item in _each(inventory, "host"):
        if item.fields["jump"] is not None and item.fields["jump"] not in hosts:
            yield item.document, (*item.place, "jump"), _no("host", item.fields["jump"])
    for item in _each(inventory, "aggregate"):
        for host in item.fields["hosts"]:
            if host not in hosts:
                at = item.document.data["aggregates"][item.name]["hosts"].index(host)
                yield item.document, (*item.place, "hosts", at), _no("host", host)
    for item in _each(inventory, "policy"):
        if item.fields["on"] is not None and item.fields["on"] not in hosts:
            yield item.document, (*item.place, "on"), _no("host", item.fields["on"])
    for item in _each(inventory, "setting"):
        if item.fields["value"] is not None and item.fields["value"] not in networks:
            yield item.document, item.place, _no("network", item.fields["value"])
    tasks = [task.name for task in TASKS]
    for item in _each(inventory, "cron"):
        if item.name not in tasks:
            yield item.document, item.place, f"there is no such task: {', '.join(tasks)}"
    for item in _each(inventory, "weigher"):
        if item.name not in WEIGHERS:
            yield item.document, item.place, f"there is no such weigher: {', '.join(WEIGHERS)}"
    for item in _each(inventory, "image"):
        try:
            check_properties(dict(item.fields["properties"]))
        except NovactlError as error:
            yield item.document, (*item.place, "properties"), error.message


def _each(inventory: Inventory, kind: str) -> Iterable[Item]:
    return inventory.items.get(kind, {}).values()


def _known(state: State, inventory: Inventory, options: Options, kind: str) -> set[str]:
    """Names of a kind that will be there."""
    named = inventory.items.get(kind)
    if named is not None and options.prune:
        return set(named)
    return {*(named or ()), *(state.hosts if kind == "host" else state.networks)}


def _no(kind: str, name: str) -> str:
    return f"{kind} {name!r} is neither in the files nor in the database"
