"""The processors and memory that a guest has while it runs (remote/sizes.sh)."""

import re
from dataclasses import dataclass

from novactl.errors import HostFault
from novactl.virt.calls import Calls, check_uuid

KIB = 1024


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a running guest has, and the most that it may get before its domain starts anew. `balloon`:
    whether a driver in the guest has answered, which is what gives memory back."""

    vcpus: int
    most_vcpus: int
    memory_mib: int
    most_memory_mib: int
    balloon: bool


class Sizes(Calls):
    """A running guest is given other sizes. What libvirt refuses comes back as its words, "" for none."""

    def size(self, uuid: str) -> Size | None:
        """None for a guest that does not run."""
        return parse(self.name, self._ours("nv_size", check_uuid(uuid)))

    def set_vcpus(self, uuid: str, epoch: int, count: int) -> str:
        """So many processors; the guest may take its time to let one go, or keep it."""
        return self._set(uuid, epoch, "setvcpus", count)

    def set_memory(self, uuid: str, epoch: int, mib: int) -> str:
        """Its balloon driver, if it has one, is asked for this size; size() says what it has done."""
        return self._set(uuid, epoch, "setmem", mib * KIB)

    def _set(self, uuid: str, epoch: int, command: str, number: int) -> str:
        answer = self._fenced(uuid, epoch, "nv_resize_live", uuid, command, str(number))
        return " ".join(answer.split()).removeprefix("error: ")


def parse(host: str, answer: str) -> Size | None:
    """Raises HostFault when virsh said something else."""
    if not answer.strip():
        return None
    found = {" ".join(name.split()): int(number) for name, number in LINE.findall(answer)}
    try:
        return Size(
            vcpus=found["current live"],
            most_vcpus=found["maximum live"],
            memory_mib=-(-found["actual"] // KIB),
            most_memory_mib=found["Max memory:"] // KIB,
            balloon=found.get("last_update", 0) > 0,
        )
    except KeyError as error:
        raise HostFault(f"{host}: virsh does not say how large the guest is: {answer}") from error


LINE = re.compile(r"^(Max memory:|current +live|maximum +live|actual|last_update) +(\d+)", re.MULTILINE)
