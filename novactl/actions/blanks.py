"""Empty base files (ephemeral, swap) under disks whose content goes to another host."""

from collections.abc import Iterable, Iterator

from novactl.actions import guest
from novactl.actions.steps.images import SameBlank, unlike
from novactl.actions.world import World
from novactl.errors import Refused
from novactl.objects.instance import Instance
from novactl.virt.survey import BLANK


def under(instance: Instance, files: Iterable[str]) -> dict[str, str]:
    """Of these disks those that stand on one, by the record, and its name."""
    steps = guest.disk_steps(instance, str(instance.host))
    found = {step.file: step.base for step in steps if BLANK.fullmatch(step.base)}
    return {file: found[file] for file in files if file in found}


def steps(instance: Instance, files: Iterable[str], target: str) -> Iterator[SameBlank]:
    """They are seen to fit there, once the target has them and before the guest is touched."""
    for base in under(instance, files).values():
        yield SameBlank(host=instance.host, target=target, name=base)


def check(world: World, instance: Instance, files: Iterable[str], target: str) -> None:
    """Raises Refused for a disk that would stand on other bytes there than here."""
    here, there = world.hypervisor(str(instance.host)), world.hypervisor(target)
    for file, base in under(instance, files).items():
        (layer,) = here.layers(instance.uuid, [file])
        if layer.base.rpartition("/")[2] != base:
            why = f"its {file} stands on {layer.base or 'nothing'}, and not on {base} that hosts have alike"
        elif found := unlike(here, there, base):
            why = f"its {file} cannot go to {target}: {found}"
        else:
            continue
        raise Refused(f"{instance.name}: {why}", hint=instead(instance))


def instead(instance: Instance) -> str:
    """How it gets there all the same."""
    return f"novactl shelve {instance.name}, and unshelve it there: its disks are made anew"
