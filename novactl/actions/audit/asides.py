"""Disks and drives a rebuild or a restore kept, and whose operation ended without its host. Pure."""

import re
from collections.abc import Iterator

from novactl.actions.audit.records import of
from novactl.actions.audit.scene import Scene
from novactl.engine.operation import OpState
from novactl.objects.finding import Finding
from novactl.objects.instance import Instance

ASIDE_DISK = re.compile(
    r"(disk|disk\.local|disk\.swap|disk\.config|disk\.info|user-data\.sealed)\.(op-[0-9a-f]+)"
)
BACK, GONE = "gives them their places again", "removes them"


def of_disks(scene: Scene) -> Iterator[Finding]:
    """One finding for each instance and operation, on its own host, or on one that shares the storage."""
    for uuid, instance in scene.seen.living.items():
        if uuid not in scene.busy and instance.host is not None:
            yield from _of_instance(scene, instance, instance.host)


def _of_instance(scene: Scene, instance: Instance, home: str) -> Iterator[Finding]:
    there = [name for name in scene.hosts if name == home or _shares(scene, name, home)]
    for name in sorted(there, key=lambda one: (one != home, one))[:1]:
        directory = scene.directory(name, instance.uuid)
        kept = [ASIDE_DISK.fullmatch(file) for file in (directory.files if directory else ())]
        for op in sorted({found[2] for found in kept if found}):
            files = sorted(found[1] for found in kept if found and found[2] == op)
            yield _kept(scene, instance, name, op, files)


def _shares(scene: Scene, host: str, home: str) -> bool:
    storage = scene.hosts[host].storage
    return bool(storage) and scene.seen.hosts[home].facts.get("storage") == storage


def _kept(scene: Scene, instance: Instance, host: str, op: str, files: list[str]) -> Finding:
    """Which disk the guest is to have, the end of the operation tells."""
    heal = {OpState.DONE: GONE, OpState.UNDONE: BACK}.get(scene.seen.operations.get(op, OpState.ABANDONED))
    home = str(instance.host)
    down = home in scene.hosts or scene.seen.hosts[home].state == "fenced"
    why = "" if down else f"; {home} does not answer, and may use them"
    return of(
        instance,
        "disks-aside",
        "warning" if heal == GONE else "error",
        f"{instance.name}: {', '.join(files)} of before operation {op} {'is' if len(files) == 1 else 'are'}"
        f" kept aside on {host}{why}",
        heal if down else None,
        host=host,
        subject=" ".join([op, "back" if heal == BACK else "gone", *files]),
    )
