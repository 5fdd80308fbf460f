"""Objects as the contract shows them (docs/cli.md, JSON). Fields are only ever added."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from novactl.engine.operation import Operation
    from novactl.objects.flavor import Flavor
    from novactl.objects.group import ServerGroup
    from novactl.objects.host import Host
    from novactl.objects.image import Image
    from novactl.objects.instance import Instance
    from novactl.objects.network import Network
    from novactl.objects.project import Project


def time(stamp: str | None) -> str | None:
    """RFC 3339 UTC in whole seconds."""
    return re.sub(r"\.\d+Z$", "Z", stamp) if stamp else None


def instance(found: "Instance") -> dict[str, Any]:
    addresses: dict[str, list[dict[str, str]]] = {}
    for port in found.ports:
        addresses.setdefault(port.network, []).append({"ip": port.ip, "mac": port.mac})
    return {
        "uuid": found.uuid,
        "name": found.name,
        "status": found.status,
        "vm_state": found.vm_state,
        "task_state": found.task_state,
        "power_state": found.power_state,
        "host": found.host,
        "flavor": found.flavor.name,
        "image": found.image.name if found.image else None,
        "project": found.project,
        "created_at": time(found.created_at),
        "launched_at": time(found.launched_at),
        "addresses": addresses,
        "vcpus": found.flavor.vcpus,
        "memory_mib": found.flavor.memory_mib,
        "disk_gib": found.root_gib,
        "ephemeral_gib": found.flavor.ephemeral_gib,
        "swap_mib": found.flavor.swap_mib,
        "metadata": found.metadata,
        "tags": list(found.tags),
        "key_name": found.key_name,
        "volumes": [],
        "security_groups": [],
        "locked": found.locked,
        "fault": found.fault,
        "group_id": found.group_id,
        "placement": found.placement.as_dict(),
        "deleted_at": time(found.deleted_at),
    }


def ips(found: dict[str, Any]) -> str:
    """Addresses of an instance in one cell."""
    return ", ".join(entry["ip"] for entries in found["addresses"].values() for entry in entries)


def host(found: "Host", aggregates: Sequence[str] = ()) -> dict[str, Any]:
    facts = found.facts
    return {
        "name": found.name,
        "address": found.address,
        "state": found.state,
        "enabled": found.enabled,
        "disabled_reason": found.disabled_reason,
        "vcpus": found.vcpus,
        "vcpus_used": found.vcpus_used,
        "memory_mib": found.memory_mib,
        "memory_mib_used": found.memory_mib_used,
        "disk_gib": found.disk_gib,
        "disk_gib_used": found.disk_gib_used,
        "reserved_vcpus": found.reserved_vcpus,
        "reserved_memory_mib": found.reserved_memory_mib,
        "reserved_disk_gib": found.reserved_disk_gib,
        "foreign_vcpus": found.foreign_vcpus,
        "foreign_memory_mib": found.foreign_memory_mib,
        "cpu_ratio": found.cpu_ratio,
        "memory_ratio": found.memory_ratio,
        "disk_ratio": found.disk_ratio,
        "dedicated_cpus": found.dedicated_cpus,
        "huge_memory_mib": found.huge_memory_mib,
        "instances": found.instances,
        "cpu_model": facts.get("cpu_model"),
        "virt_type": found.virt_type,
        "libvirt_version": facts.get("libvirt_version"),
        "qemu_version": facts.get("qemu_version"),
        "aggregates": list(aggregates),
        "zone": found.zone,
        "labels": found.labels,
        "port": found.port,
        "user": found.user,
        "jump": found.jump,
        "instances_path": found.instances_path,
        "host_keys": list(found.host_keys),
        "arch": found.arch,
        "failed_builds": found.failed_builds,
        "checked_at": time(found.checked_at),
    }


def hardware(found: "Host", held: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """What `host show` adds: `held` is what guests have of its cells."""
    from novactl.objects.cpuset import parse, render
    from novactl.objects.numa import topology_of

    facts, dedicated = found.facts, parse(found.dedicated_cpus)
    parts = [part for _, numa in held for part in numa["cells"]]
    cells = []
    for cell in topology_of(facts):
        mine = [part for part in parts if part["cell"] == cell.id]
        pinned = {cpu for part in mine for cpu in part["cpus"].values()}
        pages = {
            size: sum(part["memory_mib"] * 1024 // size for part in mine if part["page_kib"] == size)
            for size in cell.pages
        }
        cells.append(
            {
                "cell": cell.id,
                "cpus": render(cell.cpus),
                "dedicated_cpus": render(cell.cpus & dedicated),
                "dedicated_free": render((cell.cpus & dedicated) - pinned),
                "memory_mib": cell.memory_mib,
                "pages": [
                    {"size_kib": size, "total": total, "free": total - pages[size]}
                    for size, total in cell.pages.items()
                ],
            }
        )
    words = {key: (facts.get(key) or "").split() for key in ("cpu_models", "cpu_features")}
    return {"numa_cells": cells, **words, "firmwares": facts.get("firmwares") or []}


def flavor(found: "Flavor") -> dict[str, Any]:
    return found.as_dict()


def image(found: "Image") -> dict[str, Any]:
    return {**found.as_dict(), "created_at": time(found.created_at)}


def network(found: "Network", used: int) -> dict[str, Any]:
    from novactl.objects.network import capacity

    return {
        "id": found.id,
        "name": found.name,
        "cidr": found.cidr,
        "gateway": found.gateway,
        "dns": list(found.dns),
        "mtu": found.mtu,
        "segment": found.segment,
        "pool": found.pool,
        "project": found.project,
        "used": used,
        "free": capacity(found) - used,
    }


def project(found: "Project") -> dict[str, Any]:
    return {**found.as_dict(), "created_at": time(found.created_at)}


def group(found: "ServerGroup", members: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": found.id,
        "name": found.name,
        "project": found.project,
        "policy": found.policy,
        "max_per_host": found.max_per_host,
        "members": [{key: one[key] for key in ("uuid", "name", "host")} for one in members],
    }


def operation(op: "Operation", done: int, total: int) -> dict[str, Any]:
    return {
        "id": op.id,
        "kind": op.kind,
        "target": op.target,
        "target_uuid": op.target_uuid,
        "state": op.state,
        "step": op.step,
        "steps_done": done,
        "steps_total": total,
        "owner": op.owner,
        "user": op.user,
        "started_at": time(op.started_at),
        "finished_at": time(op.finished_at),
        "error": op.error,
    }


def operation_in_full(op: "Operation", children: list[dict[str, Any]]) -> dict[str, Any]:
    current = next((r.name for r in op.records if r.state not in ("done", "undone")), None)
    steps = [
        {
            "n": record.n,
            "attempt": record.attempt,
            "name": record.name,
            "kind": record.kind,
            "host": record.step.host,
            "state": record.state,
            "summary": record.step.summary(),
            "started_at": record.started_at,
            "finished_at": record.finished_at,
            "error": record.error,
            "result": record.result,
        }
        for record in op.records
    ]
    return {
        **operation(op, op.steps_done, len(op.records)),
        "step": current,
        "attempts": op.attempt,
        "children": children,
        "steps": steps,
    }


def event(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "time": time(row["time"]),
        "action": row["action"],
        "operation": row["operation"],
        "result": row["result"],
        "message": row["message"],
        "user": row["user"],
    }


def outcome(found: Any) -> dict[str, Any]:
    """`{target, uuid, result, code, operation, instance, error}`, of `resize --live` also `takes_effect`."""
    return {
        "target": found.target,
        "uuid": found.uuid,
        "result": found.result,
        "code": found.code,
        "operation": found.operation,
        "instance": instance(found.instance) if found.instance else None,
        "error": found.error.as_dict() if found.error else None,
        **({"takes_effect": found.takes_effect} if found.takes_effect else {}),
    }
