"""What of a host's NUMA cells is set aside, and whose it is."""

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
    found = fit(request, topology_of(host.facts), cpuset.parse(host.dedicated_cpus), held)
    if isinstance(found, str):
        raise Refused(f"{host.name}: {found}")
    return found.as_dict()


def check_cells(instance: Instance) -> None:
    """Raises Refused for a guest that must not be started: it asks for cells of its host and has none."""
    if instance.numa is None and numa_request(instance.flavor, instance.image) is not None:
        raise Refused(
            f"{instance.name}: which cells of {instance.host} it has is not in its claim",
            hint="novactl audit tells what is wrong with its claim",
        )


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
