"""What libvirt says of a host's hardware, and the reasons it gives against a host."""

from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import fromstring

import pytest

from novactl.objects.candidate import COLUMNS, Candidate
from novactl.objects.extra_specs import CpuRequest
from novactl.objects.numa import HostCell, NumaRequest
from novactl.scheduler import hardware
from novactl.virt import capabilities
from novactl.virt.capabilities import Hardware
from tests.support import fleet

CAPABILITIES = """
<capabilities><host><cpu><arch>x86_64</arch></cpu><topology><cells num='3'>
  <cell id='0'>
    <memory unit='KiB'>8388608</memory>
    <pages unit='KiB' size='4'>1048576</pages>
    <pages unit='KiB' size='2048'>1024</pages>
    <pages unit='KiB' size='1048576'>4</pages>
    <cpus num='4'>
      <cpu id='0' socket_id='0' core_id='0' siblings='0,2'/><cpu id='1' core_id='1' siblings='1,3'/>
      <cpu id='2' socket_id='0' core_id='0' siblings='0,2'/><cpu id='3' core_id='1' siblings='1,3'/>
    </cpus>
  </cell>
  <cell id='1'>
    <memory unit='KiB'>8388608</memory>
    <pages unit='KiB' size='4'>2097152</pages><pages unit='KiB' size='2048'>0</pages>
    <cpus num='2'><cpu id='4' siblings='4'/><cpu id='5' siblings='5'/></cpus>
  </cell>
  <cell id='2'><memory unit='KiB'>16777216</memory><cpus num='0'/></cell>
</cells></topology></host></capabilities>
"""
DOMAIN_CAPABILITIES = """
<domainCapabilities>
  <os supported='yes'><enum name='firmware'><value>bios</value><value>efi</value></enum></os>
  <cpu>
    <mode name='host-passthrough' supported='yes'/>
    <mode name='host-model' supported='yes'>
      <model fallback='forbid'>EPYC</model><vendor>AMD</vendor>
      <feature policy='require' name='clwb'/><feature policy='disable' name='svm'/>
    </mode>
    <mode name='custom' supported='yes'>
      <model usable='no'>Skylake-Server</model><model usable='yes'>qemu64</model>
      <model usable='unknown'>max</model><model usable='yes'>EPYC</model>
    </mode>
  </cpu>
</domainCapabilities>
"""


def test_cells_cores_and_pages() -> None:
    """Ordinary pages, sizes that there are none of and cells without processors are left out."""
    found = capabilities.topology(fromstring(CAPABILITIES))
    first = HostCell(id=0, cores=((0, 2), (1, 3)), memory_mib=8192, pages={2048: 1024, 1048576: 4})
    assert found == (first, HostCell(id=1, cores=((4,), (5,)), memory_mib=8192))
    assert first.huge_mib == 6144 and first.cpus == {0, 1, 2, 3}
    assert capabilities.topology(fromstring("<capabilities/>")) == ()


def test_models_features_and_firmwares() -> None:
    told = fromstring(DOMAIN_CAPABILITIES)
    assert capabilities.cpu_models(told) == ("EPYC", "qemu64")
    assert capabilities.firmwares(told) == ("bios", "uefi")
    model = fromstring(capabilities.host_model(told))
    assert (model.tag, model.get("mode"), model.findtext("model")) == ("cpu", "custom", "EPYC")
    assert capabilities.cpu_features(model) == ("clwb",)
    nothing = fromstring("<domainCapabilities/>")
    assert capabilities.cpu_models(nothing) == capabilities.firmwares(nothing) == ()


def test_facts_are_short_and_the_keys_that_are_kept() -> None:
    facts = Hardware(
        topology=capabilities.topology(fromstring(CAPABILITIES)),
        cpu_models=("EPYC", "qemu64"),
        cpu_features=("avx", "avx2"),
        firmwares=("uefi",),
    ).as_facts()
    assert tuple(facts) == capabilities.HARDWARE
    assert (facts["cpu_models"], facts["cpu_features"]) == ("EPYC qemu64", "avx avx2")
    pages = {"2048": 1024, "1048576": 4}
    assert facts["topology"][0] == {"id": 0, "cores": "0,2 1,3", "memory_mib": 8192, "pages": pages}
    empty = Hardware().as_facts()
    assert empty == {"topology": [], "cpu_models": None, "cpu_features": None, "firmwares": None}


# --- filters ---


@dataclass
class Asked:
    firmware: str = "bios"
    cpu: CpuRequest | None = None
    numa: NumaRequest | None = None


def candidate(**values: Any) -> Candidate:
    made = fleet.host(**values)
    row = {column: getattr(made, column) for column in COLUMNS if column not in ("labels", "facts")}
    from novactl.db.session import dumps

    return Candidate(**row, labels=dumps(made.labels), facts=dumps(made.facts))


FACTS = {
    "cpu_models": "EPYC qemu64",
    "cpu_features": "aes avx2",
    "firmwares": ["uefi"],
    "topology": [{"id": 0, "cores": "0 1 2 3", "memory_mib": 4096, "pages": {}}],
}


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (Asked(), None),
        (Asked(firmware="uefi"), None),
        (Asked(cpu=CpuRequest(model="EPYC", require=("aes",), disable=("svm",))), None),
        (Asked(cpu=CpuRequest(model="Skylake-Server")), "its processor cannot be a Skylake-Server"),
        (Asked(cpu=CpuRequest(require=("avx512f", "aes", "amx"))), "its processor has no amx, avx512f"),
        (Asked(numa=NumaRequest(nodes=1, vcpus=2, memory_mib=512, dedicated=True)), None),
        (
            Asked(numa=NumaRequest(nodes=1, vcpus=3, memory_mib=512, dedicated=True)),
            "dedicated cpus: 3 wanted, 2 free on one cell of the host (0 of 2 held)",
        ),
    ],
)
def test_a_host_and_what_is_asked(asked: Asked, reason: str | None) -> None:
    host = candidate(facts=FACTS, dedicated_cpus="2-3", dedicated_vcpus=2)
    assert host.vcpus_limit == 2 * 4.0
    found = [test(host, asked) for test in (hardware.firmware, hardware.cpu, hardware.numa)]
    assert [one for one in found if one is not None] == ([reason] if reason else [])


def test_what_other_guests_hold_counts() -> None:
    host = candidate(facts=FACTS, dedicated_cpus="2-3", dedicated_vcpus=2)
    held = {"cell": 0, "vcpus": [0], "cpus": {"0": 3}, "memory_mib": 512, "page_kib": 0}
    host.numa_holds = ({"cells": [held]},)
    asked = Asked(numa=NumaRequest(nodes=1, vcpus=2, memory_mib=512, dedicated=True))
    reason = "dedicated cpus: 2 wanted, 1 free on one cell of the host (1 of 2 held)"
    assert hardware.numa(host, asked) == reason


def test_a_host_that_was_not_looked_at_since() -> None:
    host = candidate(facts={"arch": "x86_64"})
    looks = "is not known yet: novactl host check looks"
    assert hardware.firmware(host, Asked(firmware="uefi")) == f"its firmware {looks}"
    assert hardware.cpu(host, Asked(cpu=CpuRequest(model="EPYC"))) == f"what its processor can do {looks}"
    asked = Asked(numa=NumaRequest(nodes=1, vcpus=1, memory_mib=1))
    assert hardware.numa(host, asked) == f"its NUMA topology {looks}"
    assert hardware.firmware(candidate(facts={**FACTS, "firmwares": []}), Asked(firmware="uefi")) == (
        "has no uefi firmware (package ovmf)"
    )
