"""What is wrong in the database by itself. Pure."""

from collections.abc import Iterator

from novactl.actions.audit.gather import Believed, is_active
from novactl.db import certificates
from novactl.engine.operation import Operation
from novactl.objects.finding import Finding, Severity
from novactl.objects.host import Host, Resources
from novactl.objects.instance import Instance
from novactl.objects.migration import most_use
from novactl.objects.states import VmState

SIZES = ("vcpus", "memory_mib", "disk_gib")


def in_records(seen: Believed) -> Iterator[Finding]:
    """Findings that need no host."""
    for judge in (_holds, _used, _quotas, _addresses, _secrets, _locks, _names, _instances, _operations):
        yield from judge(seen)


def fits(host: Host | None, amounts: Resources) -> bool:
    """Whether hosts.claim would give it."""
    if host is None or not host.enabled or host.state != "up":
        return False
    capacity, used = host.capacity(), host.used()
    return all(used[size] + getattr(amounts, size) <= capacity[size] for size in SIZES)


def _holds(seen: Believed) -> Iterator[Finding]:
    for hold in seen.holds:
        uuid, host = hold["instance_uuid"], hold["host"]
        living, gone = seen.living.get(uuid), seen.gone.get(uuid)
        if living is not None and (living.host == host or hold["role"] != "instance"):
            continue
        if uuid in seen.under_way:
            continue
        known = living or gone
        why = f"which is on {living.host}" if living else "which is deleted" if gone else "which is unknown"
        yield Finding(
            finding="hold-without-instance",
            severity="warning",
            host=host,
            target=known.name if known else uuid,
            message=f"{host}: {_amounts(hold)} are claimed for {uuid}, {why}",
            heal="gives the claim back",
            uuid=uuid if known else None,
            version=known.version if known else None,
            subject=f"{uuid} {hold['role']}",
        )


def _amounts(row: dict[str, object]) -> str:
    return f"{row['vcpus']} vcpus, {row['memory_mib']} MiB and {row['disk_gib']} GiB"


def _used(seen: Believed) -> Iterator[Finding]:
    for host in seen.hosts.values():
        held = {size: sum(hold[size] for hold in seen.holds if hold["host"] == host.name) for size in SIZES}
        if held != host.used():
            yield Finding(
                finding="used-differs",
                severity="warning",
                host=host.name,
                target=host.name,
                message=f"{host.name}: {_amounts(dict(host.used()))} count as used,"
                f" {_amounts(dict(held))} are claimed",
                heal="counts what is used anew from the claims",
            )


def _quotas(seen: Believed) -> Iterator[Finding]:
    for project in seen.projects:
        theirs = [one for one in seen.living.values() if one.project == project.name]
        uses = [most_use(*seen.moving.get(one.uuid, [one.flavor])) for one in theirs]
        counted = (project.instances_used, project.cores_used, project.memory_mib_used)
        are = (len(theirs), sum(one["cores"] for one in uses), sum(one["memory_mib"] for one in uses))
        if counted != are:
            told = ["{} instances, {} cores and {} MiB".format(*amounts) for amounts in (counted, are)]
            yield Finding(
                finding="quota-differs",
                severity="warning",
                target=project.name,
                message=f"project {project.name}: {told[0]} count as used, {told[1]} are",
                heal="counts what is used anew from the instances",
                subject=project.name,
            )


def _addresses(seen: Believed) -> Iterator[Finding]:
    for port in seen.ports:
        uuid = port["instance_uuid"]
        if uuid in seen.living or uuid in seen.under_way:
            continue
        yield _of_gone(
            seen,
            uuid,
            "address-without-instance",
            f"has address {port['ip']}",
            "frees the address",
            port["id"],
        )


def _secrets(seen: Believed) -> Iterator[Finding]:
    for secret in seen.secrets:
        owner = secret["owner"]
        if owner in seen.living or owner in seen.under_way or owner == certificates.OWNER:
            continue
        yield _of_gone(
            seen, owner, "secret-without-owner", "has a sealed secret", "erases the secret", secret["id"]
        )


def _of_gone(seen: Believed, uuid: str, name: str, what: str, heal: str, subject: str) -> Finding:
    gone = seen.gone.get(uuid)
    return Finding(
        finding=name,
        severity="warning",
        target=gone.name if gone else uuid,
        message=f"{uuid}: {what} and is {'deleted' if gone else 'unknown'}",
        heal=heal,
        uuid=uuid if gone else None,
        version=gone.version if gone else None,
        subject=subject,
    )


def _locks(seen: Believed) -> Iterator[Finding]:
    for lock in seen.locks:
        op = lock["operation"]
        if not is_active(seen, op):
            yield Finding(
                finding="lock-without-operation",
                severity="error",
                target=op,
                message=f"{op}: holds {lock['kind']} {lock['id']}, and has ended",
                heal="frees the lock",
                subject=f"{lock['kind']} {lock['id']} {op}",
            )


def _names(seen: Believed) -> Iterator[Finding]:
    for gone in seen.gone.values():
        if gone.live_name is not None and gone.uuid not in seen.under_way:
            yield Finding(
                finding="name-without-instance",
                severity="warning",
                target=gone.name,
                message=f"{gone.uuid}: is deleted and keeps the name {gone.live_name}",
                heal="frees the name",
                uuid=gone.uuid,
                version=gone.version,
            )


def _instances(seen: Believed) -> Iterator[Finding]:
    held = {(hold["instance_uuid"], hold["host"]) for hold in seen.holds}
    for instance in seen.living.values():
        if instance.uuid in seen.under_way:
            continue
        if instance.host is not None and (instance.uuid, instance.host) not in held:
            yield _unheld(seen, instance)
        if instance.vm_state is VmState.BUILDING:
            message = f"{instance.name}: is BUILD and no operation builds it: novactl delete {instance.name}"
            yield of(instance, "building-without-operation", "error", message)
        if instance.task_state is not None:
            yield of(
                instance,
                "task-without-operation",
                "warning",
                f"{instance.name}: shows {instance.task_state} and no operation does that",
                "clears it",
            )


def _unheld(seen: Believed, instance: Instance) -> Finding:
    room = fits(seen.hosts.get(instance.host or ""), instance.resources)
    return of(
        instance,
        "hold-missing",
        "error",
        f"{instance.name}: nothing of {instance.host} is claimed for it"
        + ("" if room else ", and there is no room"),
        f"claims its share of {instance.host}" if room else None,
        host=instance.host,
    )


def _operations(seen: Believed) -> Iterator[Finding]:
    active = {op.id for op in seen.active}
    for op in seen.active:
        if op.id in seen.left and op.parent not in active:
            yield _left(op)


def _left(op: Operation) -> Finding:
    return Finding(
        finding="operation-left",
        severity="warning",
        target=op.target,
        message=f"{op.kind} of {op.target}: is {op.state} and nobody works on it: novactl op resume {op.id}",
        subject=op.id,
    )


def of(
    instance: Instance,
    name: str,
    severity: Severity,
    message: str,
    heal: str | None = None,
    *,
    host: str | None = None,
    subject: str = "",
) -> Finding:
    """A finding about a living instance."""
    return Finding(
        finding=name,
        severity=severity,
        host=host,
        target=instance.name,
        message=message,
        heal=heal,
        uuid=instance.uuid,
        version=instance.version,
        subject=subject,
    )
