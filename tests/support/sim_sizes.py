"""What a simulated guest has while it runs (remote/sizes.sh)."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import fromstring

from novactl.virt.sizes import Size


@dataclass
class Running:
    """What its domain was started with, and what the guest has now. It keeps the processors that it booted
    with."""

    vcpus: int
    most_vcpus: int
    booted_vcpus: int
    memory_mib: int
    most_memory_mib: int


def started(xml: str) -> Running:
    domain = fromstring(xml)
    vcpu, memory = domain.find("vcpu"), int(domain.findtext("memory") or 0)
    most = 0 if vcpu is None else int(vcpu.text or 0)
    count = most if vcpu is None else int(vcpu.get("current", most))
    return Running(count, most, count, memory, memory)


class SimSizes:
    """Calls of virt.sizes."""

    host: Any

    def _call(self, call: str) -> AbstractContextManager[None]:
        raise NotImplementedError

    def _fenced(self, call: str, uuid: str, epoch: int) -> AbstractContextManager[None]:
        raise NotImplementedError

    def _ours(self) -> None:
        raise NotImplementedError

    def _half(self, call: str) -> None:
        raise NotImplementedError

    def _running(self, uuid: str) -> Running | None:
        domain = self.host.domains.get(uuid)
        return domain.has if domain is not None and domain.state in ("running", "paused") else None

    def size(self, uuid: str) -> Size | None:
        with self._call("size"):
            self._ours()
            has = self._running(uuid)
            if has is None:
                return None
            return Size(
                vcpus=has.vcpus,
                most_vcpus=has.most_vcpus,
                memory_mib=has.memory_mib,
                most_memory_mib=has.most_memory_mib,
                balloon=self.host.domains[uuid].balloon,
            )

    def set_vcpus(self, uuid: str, epoch: int, count: int) -> str:
        with self._fenced("set_vcpus", uuid, epoch):
            has = self._running(uuid)
            if has is None:
                return "Requested operation is not valid: domain is not running"
            if count > has.most_vcpus:
                return f"requested vcpus is greater than max allowable vcpus: {count} > {has.most_vcpus}"
            if count < has.booted_vcpus:
                return "vcpu unplug request timed out"
            self._half("set_vcpus")
            has.vcpus = count
            return ""

    def set_memory(self, uuid: str, epoch: int, mib: int) -> str:
        with self._fenced("set_memory", uuid, epoch):
            has = self._running(uuid)
            if has is None:
                return "Requested operation is not valid: domain is not running"
            if mib > has.most_memory_mib:
                return "invalid argument: cannot set memory higher than max memory"
            self._half("set_memory")
            if self.host.domains[uuid].balloon:
                has.memory_mib = mib
            return ""
