"""The fleet as its operator wants it: every YAML file of a directory, as one."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from novactl.errors import NovactlError, UsageError
from novactl.files.document import Document, Place, load
from novactl.files.inventory_models import FilePart, RatiosPart
from novactl.files.inventory_things import MAKERS, Context, Maker, made_host
from novactl.objects.names import check_name
from novactl.objects.network import Network, overlap

KINDS = {
    "flavors": "flavor",
    "images": "image",
    "projects": "project",
    "keypairs": "keypair",
    "networks": "network",
    "groups": "group",
    "hosts": "host",
    "aggregates": "aggregate",
    "weighers": "weigher",
    "scheduler": "scheduler",
    "policies": "policy",
    "cron": "cron",
    "trusted_networks": "trusted-network",
    "default_network": "setting",
}
"""Sections of the files, and what one thing of each is called."""

OF_PROJECTS = ("keypair", "group")
"""Whose names are PROJECT/NAME, or NAME in the default project."""

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that the files define: what it must be, where that stands, and files it names."""

    kind: str
    name: str
    fields: Mapping[str, Any]
    document: Document
    place: Place
    files: Mapping[str, Path] = field(default_factory=dict)


Fault = tuple[Document, Place, str]
Items = dict[str, dict[str, Item]]


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """By kind, then by name. A kind that no file has a section of is not managed, and not in `items`."""

    items: Mapping[str, Mapping[str, Item]]


def load_inventory(path: Path) -> Inventory:
    """The *.yaml and *.yml files of a directory and of those below it, or one file.

    Raises UsageError that names every wrong place; no file at all is an error too."""
    documents = [load(file) for file in _files(path)]
    parts = _parts(documents)
    items: Items = {}
    faults = list(_merged(parts, items))
    if not faults:
        faults = [*_zones(parts, items), *_hosts_together(items), *_networks_together(items)]
    if faults:
        raise refusal(faults)
    return Inventory(items=items)


def refusal(faults: list[Fault]) -> UsageError:
    """One error that tells faults of several files."""
    return _joined([document.refuse([(place, text)]) for document, place, text in faults])


def _joined(errors: list[UsageError]) -> UsageError:
    if len(errors) == 1:
        return errors[0]
    rows = [row for error in errors for row in error.targets]
    told = [f"{row['file']}:{row['line']}: {row['path']}: {row['message']}" for row in rows]
    return UsageError(f"{len(rows)} faults\n  " + "\n  ".join(told), targets=rows)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(
            f"{path}: there is no inventory",
            hint="give its directory, or set $NOVACTL_INVENTORY; novactl inventory export DIR makes one",
        )
    found = [
        Path(where) / name
        for where, below, names in os.walk(path)
        for name in names
        if name.endswith(SUFFIXES) and not name.startswith(".") and _shown(below)
    ]
    if not found:
        raise UsageError(f"{path}: holds no *.yaml files")
    return sorted(found)


def _shown(below: list[str]) -> bool:
    """Directories like .git are not walked into."""
    below[:] = [name for name in below if not name.startswith(".")]
    return True


def _parts(documents: list[Document]) -> list[tuple[Document, FilePart]]:
    parts, errors = [], []
    for document in documents:
        if document.data is None:
            continue
        try:
            parts.append((document, document.as_model(FilePart)))
        except UsageError as error:
            errors.append(error)
    if errors:
        raise _joined(errors)
    return parts


# --- one by one ---


def _merged(parts: list[tuple[Document, FilePart]], items: Items) -> Iterator[Fault]:
    """Fills `items`; what is wrong with single ones."""
    ratios = yield from _ratios(parts)
    makers: dict[str, Maker] = {**MAKERS, "hosts": lambda context: made_host(context, ratios)}
    for document, part in parts:
        for section, kind in KINDS.items():
            if section not in part.model_fields_set:
                continue
            known = items.setdefault(kind, {})
            found = getattr(part, section)
            each = {section: found} if kind == "setting" else found
            for name, one in each.items():
                place: Place = (section,) if kind == "setting" else (section, name)
                if name in known:
                    there = known[name].document.where(known[name].place)
                    yield document, place, f"is defined at {there} already"
                    continue
                try:
                    _check_key(kind, name)
                    fields, files = makers[section](Context(name, document, one))
                except NovactlError as error:
                    yield document, place, _told(kind, name, error)
                    continue
                known[name] = Item(
                    kind=kind, name=name, fields=fields, document=document, place=place, files=files
                )


def _told(kind: str, name: str, error: NovactlError) -> str:
    """Without the name, which the place has."""
    text = error.message.removeprefix(f"{kind} {name}: ").removeprefix(f"cron task {name}: ")
    text = text.removeprefix(f"{kind}: ")
    return "; ".join(filter(None, (text, error.hint)))


def _check_key(kind: str, name: str) -> None:
    project, _, rest = name.rpartition("/") if kind in OF_PROJECTS else ("", "", name)
    check_name(rest, f"{kind} name")
    if project:
        check_name(project, "project")


def _ratios(parts: list[tuple[Document, FilePart]]) -> Any:
    """Generator of faults that returns {cpu_ratio: …} of those that are given."""
    found: dict[str, float] = {}
    places: dict[str, str] = {}
    for document, part in parts:
        stated: RatiosPart = part.ratios
        for key in sorted(stated.model_fields_set):
            place: Place = ("ratios", key)
            if key in places:
                yield document, place, f"is defined at {places[key]} already"
            elif (value := getattr(stated, key)) is not None:
                places[key], found[f"{key}_ratio"] = document.where(place), value
    return found


# --- together ---


def _zones(parts: list[tuple[Document, FilePart]], items: Items) -> Iterator[Fault]:
    """Each zone once; a host's is one of them, when there are any."""
    known: dict[str, str] = {}
    for document, part in parts:
        for n, zone in enumerate(part.zones):
            place: Place = ("zones", n)
            if zone in known:
                yield document, place, f"{zone} is defined at {known[zone]} already"
            known.setdefault(zone, document.where(place))
    for item in items.get("host", {}).values() if known else ():
        zone = item.fields.get("zone", "nova")
        if zone not in known:
            yield item.document, (*item.place, "zone"), f"{zone!r} is not one of zones: {', '.join(known)}"


def _hosts_together(items: Items) -> Iterator[Fault]:
    """No two at one address; jumps end somewhere."""
    hosts = items.get("host", {})
    there: dict[tuple[str, int], Item] = {}
    for item in hosts.values():
        first = there.setdefault((item.fields["address"], item.fields["port"]), item)
        if first is not item:
            where = first.document.where(first.place)
            yield item.document, (*item.place, "address"), f"is that of {first.name} ({where}) too"
        path, at = [item.name], item.fields["jump"]
        while at in hosts and at not in path:
            path, at = [*path, at], hosts[at].fields["jump"]
        if at == item.name:
            yield item.document, (*item.place, "jump"), f"goes in a circle: {' → '.join([*path, at])}"


def _networks_together(items: Items) -> Iterator[Fault]:
    """No address twice on one bridge."""
    made: list[tuple[Item, Network]] = []
    for item in items.get("network", {}).values():
        network = Network(id="", name=item.name, **{**item.fields, "dns": tuple(item.fields["dns"])})
        for other, theirs in made:
            if overlap(network, theirs):
                where = other.document.where(other.place)
                text = f"has addresses of {other.name} ({where}) on the same bridge {network.bridge}"
                yield item.document, (*item.place, "cidr"), text
        made.append((item, network))
