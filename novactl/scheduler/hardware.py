"""Reasons of the hardware against a host: firmware, processor, NUMA cells. None when it passes."""

from typing import Any, Protocol

from novactl.objects import cpuset
from novactl.objects.candidate import Candidate
from novactl.objects.extra_specs import CpuRequest
from novactl.objects.numa import Fit, NumaRequest, topology_of
from novactl.scheduler.numa import UNKNOWN, fit


class Asked(Protocol):
    """What of a Spec is asked of the hardware."""

    @property
    def firmware(self) -> str: ...
    @property
    def cpu(self) -> CpuRequest | None: ...
    @property
    def numa(self) -> NumaRequest | None: ...


def firmware(host: Candidate, spec: Asked) -> str | None:
    """It has the firmware that the image boots with."""
    if spec.firmware == "bios":
        return None  # QEMU brings it
    known: Any = host.facts.get("firmwares")
    if known is None:
        return f"its firmware {UNKNOWN}"
    return None if spec.firmware in known else f"has no {spec.firmware} firmware (package ovmf)"


def cpu(host: Candidate, spec: Asked) -> str | None:
    """Its processor runs the model and has the features asked for, by libvirt's own comparison."""
    wanted = spec.cpu
    if wanted is None:
        return None
    models, features = host.facts.get("cpu_models"), host.facts.get("cpu_features")
    if models is None or features is None:
        return f"what its processor can do {UNKNOWN}"
    if wanted.model is not None and wanted.model not in models.split():
        return f"its processor cannot be a {wanted.model}"
    missing = sorted(set(wanted.require) - set(features.split()))
    return f"its processor has no {', '.join(missing)}" if missing else None


def numa(host: Candidate, spec: Asked) -> str | None:
    """Its cells have the processors and pages asked for free."""
    found = _fit(host, spec)
    return found if isinstance(found, str) else None


def cells(host: Candidate, spec: Asked) -> dict[str, Any] | None:
    """What of the cells of a host that passes the instance gets (Fit.as_dict); None when it asks for none."""
    found = _fit(host, spec)
    return found.as_dict() if isinstance(found, Fit) else None


def take(host: Candidate, spec: Asked) -> None:
    """The instance goes there: the next decision sees what it has of the cells."""
    if (found := cells(host, spec)) is not None:
        host.numa_holds = (*host.numa_holds, found)


def more(host: Candidate, spec: Asked, most: int) -> int:
    """How many alike, `most` at most, get what they ask for of its cells, one after the other."""
    if spec.numa is None:
        return most
    topology, dedicated = topology_of(host.facts), cpuset.parse(host.dedicated_cpus)
    held = list(host.numa_holds)
    for count in range(most):
        found = fit(spec.numa, topology, dedicated, held, host.cpu_ratio)
        if isinstance(found, str):
            return count
        held.append(found.as_dict())
    return most


def _fit(host: Candidate, spec: Asked) -> Fit | str | None:
    if spec.numa is None:
        return None
    dedicated = cpuset.parse(host.dedicated_cpus)
    return fit(spec.numa, topology_of(host.facts), dedicated, host.numa_holds, host.cpu_ratio)
