"""What of a host's NUMA cells is set aside, and whose it is."""

from dataclasses import replace
from typing import Any

from novactl.db import hosts
from novactl.db.session import Tx
from novactl.errors import Refused
from novactl.objects import cpuset
from novactl.objects.extra_specs import numa_request
from novactl.objects.host import Host
from novactl.objects.instance import Instance
from novactl.objects.numa import Fit, topology_of
from novactl.scheduler.numa import fit


def cells_for(tx: Tx, host: Host, instance: Instance) -> dict[str, Any] | None:
    """What the instance may have of the host's cells (Fit.as_dict), None when it asks for nothing of them.
    Raises Refused. Nobody else may claim there until its hold says so: call it in a transaction that decides
    alone, or after the claim of its other shares."""
    request = numa_request(instance.flavor, instance.image)
    if request is None:
        return None
    held = [numa for uuid, numa in hosts.numa_holds(tx, host.name) if uuid != instance.uuid]
    dedicated = cpuset.parse(host.dedicated_cpus)
    found = fit(request, topology_of(host.facts), dedicated, held, host.cpu_ratio)
    if isinstance(found, str):
        raise Refused(f"{host.name}: {found}")
    return found.as_dict()


def with_cells(tx: Tx, instance: Instance) -> Instance:
    """The instance, to be started: one that asks for cells of its host and has none yet (its flavor was made
    when nobody minded) holds them from now on. Raises Refused when there are none for it."""
    if instance.numa is not None or numa_request(instance.flavor, instance.image) is None:
        return instance
    host = hosts.get(tx, str(instance.host))
    numa = cells_for(tx, host, instance)
    if not hosts.change_hold(tx, host.name, instance.uuid, instance.resources):
        raise Refused(
            f"{instance.name}: has no claim on {host.name} that its cells could stand in",
            hint="novactl audit --heal claims its share anew",
        )
    hosts.hold_cells(tx, host.name, instance.uuid, numa)
    return replace(instance, numa=numa)


def dedicated(tx: Tx, host: Host, text: str | None) -> dict[str, Any]:
    """The columns of a host whose processors `text` ("2-7,10"; "" for none) are for pinned guests. Raises
    UsageError; Refused when the host has no such, or guests on others that would go."""
    wanted = cpuset.parse(text)
    there = frozenset(cpu for cell in topology_of(host.facts) for cpu in cell.cpus)
    if wanted and not there:
        raise Refused(
            f"host {host.name}: its processors are not known yet", hint=f"novactl host check {host.name}"
        )
    if missing := wanted - there:
        raise Refused(f"host {host.name} has no cpu {cpuset.render(missing)}: it has {cpuset.render(there)}")
    if wanted and wanted == there:
        raise Refused(f"host {host.name}: no cpu is left for itself and for guests that share")
    for uuid, numa in hosts.numa_holds(tx, host.name):
        if gone := Fit.from_dict(numa).pinned - wanted:
            raise Refused(
                f"host {host.name}: cpu {cpuset.render(gone)} is held by instance {uuid}",
                hint=f"novactl show {uuid}",
            )
    return {"dedicated_cpus": cpuset.render(wanted) or None, "dedicated_vcpus": len(wanted)}
