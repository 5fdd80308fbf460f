"""Sets of a host's processors as libvirt and Linux write them: "0-3,7"."""

import re
from collections.abc import Iterable

from novactl.errors import UsageError

HIGHEST = 4095
"""Linux knows no higher processor number than 8191; no machine of today has half of them."""
_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")


def parse(text: str | None) -> frozenset[int]:
    """The numbers of "2-7,10"; none of "" and None. Raises UsageError."""
    found: set[int] = set()
    for part in (text or "").split(",") if text else ():
        match = _RANGE.fullmatch(part.strip())
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not low <= high <= HIGHEST:
            raise UsageError(f"cpus {text!r} are not acceptable", hint="numbers and ranges, as in 2-7,10")
        found.update(range(low, high + 1))
    return frozenset(found)


def render(cpus: Iterable[int]) -> str:
    """The shortest text that parse() makes these numbers of."""
    parts: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if parts and parts[-1][1] == cpu - 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)
