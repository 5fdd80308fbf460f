"""Living instances against the hosts: are they where the record says, and as it says. Pure."""

import re
from collections.abc import Iterator

from novactl.actions.audit.asides import ASIDE_DISK
from novactl.actions.audit.records import fits, of
from novactl.actions.audit.scene import Scene, is_operation
from novactl.actions.steps.domains import OFF
from novactl.objects.finding import Finding
from novactl.objects.instance import Instance
from novactl.objects.states import PLAIN, VmState, vm_state_of
from novactl.objects.survey import SeenDomain

OF_OPERATION = re.compile(r"(op-[0-9a-f]+)\..+")
MADE_AGAIN = ("disk.info", "libvirt.xml", "disk.config")
"""What a start writes anew."""


def of_guests(scene: Scene) -> Iterator[Finding]:
    """Findings about living instances that no operation works on."""
    for instance in scene.seen.living.values():
        if instance.uuid not in scene.busy and instance.vm_state is not VmState.BUILDING:
            yield from _of_guest(scene, instance)


def _of_guest(scene: Scene, instance: Instance) -> Iterator[Finding]:
    home, uuid = instance.host, instance.uuid
    others = scene.elsewhere(uuid, home)
    if instance.vm_state is VmState.SHELVED_OFFLOADED:
        yield from _of_offloaded(scene, instance, others)
        return
    if home is None or home in scene.dark or home not in scene.hosts:
        for name, domain in others.items():
            yield _away(instance, name, domain, f"{home} does not answer" if home else "it has no host")
        return
    here = scene.domain(home, uuid)
    if here is None:
        yield from _missing(scene, instance, home, others)
    else:
        yield from _at_home(scene, instance, home, here, others)


def _of_offloaded(scene: Scene, instance: Instance, others: dict[str, SeenDomain]) -> Iterator[Finding]:
    """All there is of it is in the store; a host that was lost while it left may have it still."""
    for name in scene.hosts:
        domain = others.get(name)
        if domain is not None and domain.state not in OFF:
            yield _away(instance, name, domain, "it has no host")
        elif domain is not None or scene.directory(name, instance.uuid) is not None:
            made_by = domain.operation or "" if domain else ""
            message = f"{instance.name}: is on no host; {name} has a copy that is off"
            healed = "removes it" if domain is None or is_operation(made_by) else None
            yield of(instance, "stale-copy", "warning", message, healed, host=name, subject=made_by)


# --- where the record says ---


def _at_home(
    scene: Scene, instance: Instance, home: str, here: SeenDomain, others: dict[str, SeenDomain]
) -> Iterator[Finding]:
    name = instance.name
    if here.autostart:
        yield of(
            instance,
            "autostart-on",
            "warning",
            f"{name}: libvirt would start it when {home} boots",
            "turns autostart off",
            host=home,
        )
    yield from _files(scene, instance, home)
    yield from _left(scene, instance, home)
    runs_elsewhere = False
    for other, domain in others.items():
        if domain.state in OFF:
            yield _stale(scene, instance, home, other, domain.operation)
            continue
        runs_elsewhere = True
        if here.state in OFF:
            yield _away(instance, other, domain, f"its domain on {home} is off")
        else:
            message = f"{name}: runs on {home} and on {other}: its disks are not one"
            yield of(instance, "runs-twice", "error", message, host=other)
    yield from _stale_files(scene, instance, home)
    if not runs_elsewhere:
        yield from _power(instance, home, here)


def _power(instance: Instance, home: str, here: SeenDomain) -> Iterator[Finding]:
    state = vm_state_of(here.state, here.saved)
    recorded = (instance.vm_state, instance.power_state)
    if instance.vm_state in PLAIN and recorded != (state, here.state):
        memory = ", its memory is saved" if here.saved else ""
        if instance.vm_state is VmState.SUSPENDED and not here.saved:
            memory = ", its saved memory is gone"
        yield of(
            instance,
            "power-differs",
            "warning",
            f"{instance.name}: the record says {recorded[0]} ({recorded[1]}), {home} says"
            f" {here.state}{memory}",
            f"records {state}",
            host=home,
        )


def _files(scene: Scene, instance: Instance, home: str) -> Iterator[Finding]:
    directory = scene.directory(home, instance.uuid)
    there = set(directory.files) if directory else set()
    name = instance.name
    if directory is None and scene.is_aside(home, instance.uuid):
        yield _aside(instance, home)
    elif any(ASIDE_DISK.fullmatch(file) for file in there):
        pass  # asides.of_disks() says what becomes of them
    elif "disk" not in there:
        what = "its disk is" if directory else "its directory, and all its disks, are"
        message = f"{name}: {what} missing on {home}; nothing brings that back"
        yield of(instance, "files-missing", "error", message, host=home)
    elif lost := [file for file in MADE_AGAIN if file not in there]:
        message = (
            f"{name}: {', '.join(lost)} missing on {home}: novactl stop {name}, then novactl start {name}"
        )
        yield of(instance, "files-missing", "warning", message, host=home)


def _left(scene: Scene, instance: Instance, home: str) -> Iterator[Finding]:
    """What operations made of its disks; none works on it now."""
    directory = scene.directory(home, instance.uuid)
    made = [OF_OPERATION.fullmatch(file) for file in (directory.files if directory else ())]
    for op in sorted({found[1] for found in made if found}):
        message = f"{instance.name}: {home} has files that operation {op} made of its disks and left"
        yield of(instance, "files-left", "warning", message, "removes them", host=home, subject=op)


def _aside(instance: Instance, home: str) -> Finding:
    message = f"{instance.name}: has on {home} only files that a move has set aside"
    return of(instance, "files-aside", "error", message, "gives them their name again", host=home)


# --- where it should not be ---


def _missing(scene: Scene, instance: Instance, home: str, others: dict[str, SeenDomain]) -> Iterator[Finding]:
    name, directory = instance.name, scene.directory(home, instance.uuid)
    for other, domain in others.items():
        alone = len(others) == 1 and directory is None and scene.directory(other, instance.uuid) is not None
        yield (
            _moved(scene, instance, other)
            if alone
            else _away(
                instance,
                other,
                domain,
                f"its disks are on {home}" if directory else "its disks are not there",
            )
        )
    if others:
        return
    if directory is not None:
        message = f"{name}: has no domain on {home}; its files are there: novactl start {name} makes it again"
    elif scene.is_aside(home, instance.uuid):
        yield _aside(instance, home)
        return
    else:
        message = f"{name}: neither its domain nor its files are on {home}: it is lost{scene.unknown}"
    yield of(instance, "missing-domain", "error", message, host=home)


def _moved(scene: Scene, instance: Instance, other: str) -> Finding:
    room = fits(scene.seen.hosts.get(other), instance.resources)
    return of(
        instance,
        "wrong-host",
        "error",
        f"{instance.name}: is on {other}, recorded on {instance.host}" + ("" if room else "; no room there"),
        f"records {other} as its host and moves its claim" if room else None,
        host=other,
    )


def _away(instance: Instance, other: str, domain: SeenDomain, why: str) -> Finding:
    how = "a domain of it is off" if domain.state in OFF else f"it is {domain.state}"
    message = f"{instance.name}: {how} on {other}, recorded on {instance.host or 'no host'}, and {why}"
    return of(instance, "wrong-host", "error", message, host=other)


def _stale(scene: Scene, instance: Instance, home: str, other: str, made_by: str | None) -> Finding:
    """A domain that is off. What may be the only disk there is, is kept."""
    healed = _is_not_all(scene, instance, home, other) and is_operation(made_by)
    if scene.share(home, other):
        return of(
            instance,
            "stale-domain",
            "warning",
            f"{instance.name}: is on {home}; {other}, on the same storage, has a domain of it that is off",
            f"removes the domain on {other}" if healed else None,
            host=other,
            subject=made_by or "",
        )
    return of(
        instance,
        "stale-copy",
        "warning",
        f"{instance.name}: is on {home}; {other} has a copy that is off",
        f"removes the copy on {other}" if healed else None,
        host=other,
        subject=made_by or "",
    )


def _stale_files(scene: Scene, instance: Instance, home: str) -> Iterator[Finding]:
    """Files on another host, with no domain there."""
    for other in scene.directories.get(instance.uuid, {}):
        healed = _is_not_all(scene, instance, home, other)
        if other != home and scene.domain(other, instance.uuid) is None and not scene.share(home, other):
            yield of(
                instance,
                "stale-copy",
                "warning",
                f"{instance.name}: is on {home}; {other} has files of it",
                f"removes the files on {other}" if healed else None,
                host=other,
            )


def _is_not_all(scene: Scene, instance: Instance, home: str, other: str) -> bool:
    """Whether what another host has of it may go."""
    return scene.has_disk(home, instance.uuid) and not scene.may_go_back(other, instance.uuid)
