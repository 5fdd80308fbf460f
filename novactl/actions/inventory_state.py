"""What the database has of what an inventory can define, in the inventory's words."""

import base64
import json
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from novactl.db import aggregates, catalogue, groups, hosts, instances, projects, settings
from novactl.db.session import Tx
from novactl.objects.group import ServerGroup
from novactl.objects.host import Host
from novactl.objects.image import Image
from novactl.objects.keypair import fingerprint
from novactl.objects.network import Network
from novactl.objects.policy import CronTask, Policy
from novactl.objects.project import NOVA_LIMITS

Fields = dict[str, Any]
HOST = (
    *("address", "port", "user", "jump", "virt_type", "instances_path", "zone", "labels"),
    *("reserved_vcpus", "reserved_memory_mib", "reserved_disk_gib"),
    *("cpu_ratio", "memory_ratio", "disk_ratio", "dedicated_cpus", "enabled", "disabled_reason"),
)
FLAVOR = ("vcpus", "memory_mib", "disk_gib", "ephemeral_gib", "swap_mib", "extra_specs")
NETWORK = ("cidr", "bridge", "gateway", "dns", "mtu", "pool", "project")
IMAGE = (
    "sha256",
    "kernel_sha256",
    "initrd_sha256",
    "cmdline",
    "properties",
    "min_disk_gib",
    "min_memory_mib",
)


def name_in_files(project: str, name: str) -> str:
    """Of a keypair or a group: of the default project plain, else PROJECT/NAME."""
    return name if project == "default" else f"{project}/{name}"


def split_project(name: str) -> tuple[str, str]:
    """(project, name) of what name_in_files() made."""
    project, _, rest = name.rpartition("/")
    return project or "default", rest


class State:
    """One consistent view, read when first asked for."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx

    @cached_property
    def hosts(self) -> dict[str, Host]:
        return {host.name: host for host in hosts.everything(self._tx)}

    @cached_property
    def networks(self) -> dict[str, Network]:
        return {network.name: network for network in catalogue.networks(self._tx)}

    @cached_property
    def images(self) -> dict[str, Image]:
        return {image.name: image for image in catalogue.images(self._tx)}

    @cached_property
    def flavor_ids(self) -> dict[str, str]:
        return {flavor.name: flavor.id for flavor in catalogue.flavors(self._tx)}

    @cached_property
    def used(self) -> Mapping[str, int]:
        """Addresses in use, by network's id."""
        rows = self._tx.all("SELECT network_id, COUNT(*) AS n FROM ports GROUP BY network_id")
        return {row["network_id"]: int(row["n"]) for row in rows}

    def taken(self, network: Network) -> set[str]:
        return set(instances.taken_addresses(self._tx, network.id))

    @cached_property
    def flavors_used(self) -> Mapping[str, int]:
        """Living instances by their flavor's id."""
        return self._used("flavor")

    @cached_property
    def images_used(self) -> Mapping[str, int]:
        """Living instances by their image's id."""
        return self._used("image")

    def _used(self, column: str) -> Mapping[str, int]:
        """Counted here: MariaDB groups long texts by their beginnings alone."""
        rows = self._tx.all(
            f"SELECT {column} AS body FROM instances WHERE deleted_at IS NULL AND {column} IS NOT NULL"  # noqa: S608
        )
        found: Counter[str] = Counter()
        for body, count in Counter(row["body"] for row in rows).items():
            found[json.loads(body)["id"]] += count
        return found

    @cached_property
    def groups(self) -> dict[str, ServerGroup]:
        """By their names in the files."""
        return {name_in_files(group.project, group.name): group for group in groups.everything(self._tx)}

    @cached_property
    def members(self) -> Mapping[str, int]:
        """Living instances by their group's id."""
        return {id_: len(found) for id_, found in groups.all_members(self._tx).items()}

    def lock(self, kind: str, id_: str) -> str | None:
        """The operation that has it locked."""
        row = self._tx.one(
            "SELECT operation FROM op_locks WHERE kind = :kind AND id = :id LIMIT 1", kind=kind, id=id_
        )
        return None if row is None else str(row["operation"])

    def of(self, kind: str) -> dict[str, Fields]:
        """Everything of a kind, by name."""
        found: dict[str, Fields] = READERS[kind](self)
        return found

    def setting(self, name: str) -> Any:
        return settings.get(self._tx, name)

    @property
    def tx(self) -> Tx:
        return self._tx


def key_fingerprint(line: str) -> str:
    """Of a pinned host key as it stands in known_hosts ("type base64")."""
    return fingerprint(base64.b64decode(line.split()[1]))


def host_fields(host: Host) -> Fields:
    fields = {key: getattr(host, key) for key in HOST}
    return {**fields, "fingerprint": key_fingerprint(host.host_keys[0]) if host.host_keys else None}


def _flavors(state: State) -> dict[str, Fields]:
    return {f.name: {key: getattr(f, key) for key in FLAVOR} for f in catalogue.flavors(state.tx)}


def network_fields(network: Network) -> Fields:
    return {**{key: getattr(network, key) for key in NETWORK}, "dns": list(network.dns)}


def image_fields(image: Image) -> Fields:
    return {**{key: getattr(image, key) for key in IMAGE}, "format": image.disk_format}


def _keypairs(state: State) -> dict[str, Fields]:
    rows = state.tx.all("SELECT * FROM keypairs ORDER BY project, name")
    return {
        name_in_files(row["project"], row["name"]): {
            "fingerprint": row["fingerprint"],
            "public_key": row["public_key"],
        }
        for row in rows
    }


def _aggregates(state: State) -> dict[str, Fields]:
    found = aggregates.everything(state.tx)
    return {one.name: {"hosts": sorted(one.hosts), "metadata": one.metadata} for one in found}


def _projects(state: State) -> dict[str, Fields]:
    return {
        one.name: {
            "description": one.description,
            "limits": {resource: one.limit(resource) for resource in NOVA_LIMITS},
        }
        for one in projects.everything(state.tx)
    }


def _groups(state: State) -> dict[str, Fields]:
    return {
        name: {"policy": group.policy, "max_per_host": group.max_per_host}
        for name, group in state.groups.items()
    }


def _policies(state: State) -> dict[str, Fields]:
    policies = [Policy.from_dict(one).as_dict() for one in state.setting("policies")]
    return {one["name"]: {key: one[key] for key in one if key != "name"} for one in policies}


def _cron(state: State) -> dict[str, Fields]:
    tasks = state.setting("cron").items()
    return {name: CronTask.from_dict(name, given).as_dict() for name, given in tasks}


READERS: dict[str, Any] = {
    "flavor": _flavors,
    "image": lambda state: {name: image_fields(one) for name, one in state.images.items()},
    "keypair": _keypairs,
    "network": lambda state: {name: network_fields(one) for name, one in state.networks.items()},
    "host": lambda state: {name: host_fields(one) for name, one in state.hosts.items()},
    "project": _projects,
    "group": _groups,
    "aggregate": _aggregates,
    "weigher": lambda state: {
        name: {"multiplier": value} for name, value in state.setting("weighers").items()
    },
    "scheduler": lambda state: {name: {"value": value} for name, value in state.setting("scheduler").items()},
    "policy": _policies,
    "cron": _cron,
    "trusted-network": lambda state: {
        name: {"cidr": cidr} for name, cidr in state.setting("trusted_networks").items()
    },
    "setting": lambda state: {"default_network": {"value": state.setting("default_network")}},
}
