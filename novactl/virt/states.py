"""What nv_states (remote/states.sh) prints: a host and the power of all its domains. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from novactl.errors import HostFault
from novactl.objects.names import UUID
from novactl.objects.states import PowerState
from novactl.virt.calls import told_mark
from novactl.virt.survey import POWER_STATES

ROW = re.compile(r" *(?:[0-9]+|-) +(?P<name>\S(?:.*\S)?) {2,}(?P<state>[a-z]+(?: [a-z]+)*) *")
NAMED = re.compile(rf"({UUID.pattern}) (.+?) *")


@dataclass(frozen=True)
class Power:
    """What libvirt says of a domain; `saved`: it keeps the memory of one that is off (managed save)."""

    state: PowerState
    saved: bool = False


@dataclass(frozen=True, kw_only=True)
class States:
    """One look at a host. `mark` is the highest of the fleet's that it was told before this, "" for none;
    `copy` the version of the catalogue copy there, 0 for none; `disk_free` in bytes. `domains` has every
    domain by its uuid, whosever it is; None for one whose state just changed."""

    boot_id: str
    disk_free: int
    memory_available_mib: int
    mark: str
    copy: int
    domains: Mapping[str, Power | None] = field(default_factory=dict)


def parse(host: str, answer: str, mark: str) -> States:
    """Raises HostFault when what was printed is not nv_states's."""
    head, found, lists = answer.partition("domains\n")
    one = dict(line.split(" ", 1) for line in head.splitlines() if " " in line)
    names, between, table = lists.partition(mark)
    whole = bool(found and between)
    try:
        blocks, size = one["disk_free"].split()
        return States(
            boot_id=one["boot_id" if whole else ""],
            disk_free=int(blocks) * int(size),
            memory_available_mib=int(one["available_kib"]) // 1024,
            mark=told_mark(host, one["mark"]),
            copy=int(one["copy"]),
            domains=_domains(names, table),
        )
    except (KeyError, ValueError) as error:
        raise HostFault(f"{host}: what it says of its guests was cut") from error


def _domains(names: str, table: str) -> dict[str, Power | None]:
    rows = [ROW.fullmatch(line) for line in table.splitlines()]
    powers = {row["name"]: _power(row["state"]) for row in rows if row}
    named = [NAMED.fullmatch(line) for line in names.splitlines()]
    return {one[1]: powers.get(one[2]) for one in named if one}


def _power(word: str) -> Power | None:
    """virsh says "saved" of one that is off and was saved (virsh(1), list --managed-save)."""
    if word == "saved":
        return Power(PowerState.SHUTDOWN, saved=True)
    return Power(POWER_STATES[word]) if word in POWER_STATES else None
