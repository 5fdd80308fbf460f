"""Processors of a guest's own, the processor that it sees, and UEFI, on real hypervisors."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from novactl.lab import guests
from tests.lab.conftest import Grounds
from tests.lab.support import refused, wait_until

pytestmark = pytest.mark.lab

NVRAM = "/var/lib/libvirt/qemu/nvram"
PINNED = ["cpu_policy=dedicated", "mem_page_size=small", "cpu_model=Nehalem", "cpu_features=aes,-popcnt"]


@pytest.fixture
def asking(grounds: Grounds, name: Callable[[], str]) -> Iterator[Callable[..., list[str]]]:
    """Words of boot for a flavor and an image that ask for this; what was made for it goes again."""
    made: list[tuple[str, str]] = []

    def words(*specs: str, memory: str = "96", **properties: str) -> list[str]:
        flavor, image = name(), name() if properties else "tiny"
        asked = [word for spec in specs for word in ("--property", f"hw:{spec}")]
        grounds.novactl.ok(
            "flavor", "create", flavor, "--vcpus", "1", "--memory", memory, "--disk", "1", *asked
        )
        made.append(("flavor", flavor))
        if properties:
            file = ["--file", str(guests.tiny().disk), "--format", "raw"]
            wanted = [word for key, value in properties.items() for word in ("--property", f"{key}={value}")]
            grounds.novactl.ok("image", "add", image, *file, *wanted)
            made.append(("image", image))
        return ["--flavor", flavor, "--image", image]

    yield words
    for kind, which in made:
        grounds.novactl.ok(kind, "delete", which, *(["--yes"] if kind == "image" else []))


def affinity(grounds: Grounds, host: str, uuid: str) -> list[str]:
    """Where each vcpu's thread may really run, as the kernel says ("-y": on processor 1 alone)."""
    said = grounds.host(host).run(["virsh", "vcpuinfo", uuid]).stdout
    return [line.split()[-1] for line in said.splitlines() if line.startswith("CPU Affinity")]


def cells(grounds: Grounds, host: str) -> Any:
    return grounds.novactl.json("host", "show", host)["numa_cells"]


def test_a_processor_of_its_own(grounds: Grounds, name: Any, asking: Any) -> None:
    novactl, words = grounds.novactl, asking(*PINNED)
    pinned, other, third = name(), name(), name()
    refused(
        novactl, "boot", pinned, *words, code=5, says="dedicated cpus: 1 wanted, the host has set none aside"
    )
    last = _last(grounds, "kvm2")
    try:
        shown = novactl.json("host", "set", "kvm2", "--dedicated-cpus", str(last))
        assert shown["dedicated_cpus"] == str(last)
        made = novactl.json("boot", pinned, *words)
        shares = novactl.json("boot", other, "--flavor", "tiny", "--image", "tiny", "--host", "kvm2")
        assert made["host"] == "kvm2"  # no other host has set any aside
        alone = "".join("y" if cpu == last else "-" for cpu in range(last + 1))
        beside = "".join("-" if cpu == last else "y" for cpu in range(last + 1))
        assert affinity(grounds, "kvm2", made["uuid"]) == [alone]
        assert affinity(grounds, "kvm2", shares["uuid"]) == [beside]
        held = "dedicated cpus: 1 wanted, 0 free on one cell of the host (1 of 1 held)"
        refused(novactl, "boot", third, *words, code=5, says=held)
        refused(novactl, "host", "set", "kvm2", "--dedicated-cpus", "", code=5, says="is held by instance")
        assert cells(grounds, "kvm2")[0]["dedicated_free"] == ""
        xml = grounds.host("kvm2").run(["virsh", "dumpxml", made["uuid"]]).stdout
        for part in (
            ">Nehalem</model>",
            "<feature policy='require' name='aes'/>",
            "policy='disable' name='popcnt'",
        ):
            assert part in xml
        novactl.ok("reboot", pinned, other, "--hard")
        assert affinity(grounds, "kvm2", made["uuid"]) == [alone]
        novactl.ok("delete", pinned, other, "--yes")
        assert cells(grounds, "kvm2")[0]["dedicated_free"] == str(last)
    finally:
        if left := {pinned, other} & set(novactl.ok("list", "-o", "name").out.split()):
            novactl.ok("delete", *left, "--yes")
        novactl.ok("host", "set", "kvm2", "--dedicated-cpus", "")


def _last(grounds: Grounds, host: str) -> int:
    """Its last processor."""
    return max(int(cpu) for cell in cells(grounds, host) for cpu in cell["cpus"].replace("-", ",").split(","))


def test_a_processor_that_no_host_can_be(grounds: Grounds, name: Any, asking: Any) -> None:
    novactl = grounds.novactl
    known = novactl.json("host", "show", "kvm1")
    assert "qemu64" in known["cpu_models"] and "sse2" in known["cpu_features"]
    assert known["numa_cells"][0]["memory_mib"] > 0
    model = asking("cpu_model=Icelake-Server")
    refused(novactl, "boot", name(), *model, code=5, says="its processor cannot be a Icelake-Server")
    feature = asking("cpu_features=avx512f,sse2")
    refused(novactl, "boot", name(), *feature, code=5, says="its processor has no avx512f")
    pages = asking("mem_page_size=1GB", memory="1024")
    refused(novactl, "boot", name(), *pages, code=5, says="pages of 1048576 KiB: the host has no such")


def test_uefi_and_what_it_remembers(grounds: Grounds, name: Any, asking: Any) -> None:
    novactl, guest = grounds.novactl, name()
    made = novactl.json("boot", guest, *asking(memory="256", hw_firmware_type="uefi"))
    host = grounds.host(made["host"])
    xml = host.run(["virsh", "dumpxml", made["uuid"]]).stdout
    assert "OVMF_CODE" in xml and "secboot" not in xml

    def nvram() -> str:
        return host.run(["sh", "-c", f"stat -c %w {NVRAM}/*"]).stdout

    born = nvram()
    assert born.count("\n") == 1
    wait_until(lambda: "Shell" in novactl.ok("console-log", guest).out, 60, "the shell of the firmware")
    novactl.ok("reboot", guest, "--hard")
    assert nvram() == born  # what the guest wrote into it is still there
    novactl.ok("delete", guest, "--yes")
    assert nvram() == ""


def test_what_its_firmware_remembers_moves_too(grounds: Grounds, name: Any, asking: Any) -> None:
    """Alive with the guest, cold as a file; the host that it left keeps nothing of it."""
    novactl, guest = grounds.novactl, name()
    words = asking(memory="256", hw_firmware_type="uefi")
    uuid = novactl.json("boot", guest, *words, "--host", "kvm1")["uuid"]
    wait_until(lambda: "Shell" in novactl.ok("console-log", guest).out, 60, "the shell of the firmware")

    def nvram(host: str) -> str:
        return grounds.host(host).run(["sh", "-c", f"sha256sum {NVRAM}/* | cut -c 1-64"]).stdout

    novactl.ok("migrate", guest, "--live", "--host", "kvm2")
    assert grounds.state("kvm2", uuid) == "running" and nvram("kvm1") == ""
    novactl.ok("stop", guest, "--force")
    written = nvram("kvm2")
    assert len(written) == 65
    novactl.ok("migrate", guest, "--host", "kvm3")
    assert nvram("kvm3") == written
    novactl.ok("resize-revert", guest)
    assert (nvram("kvm2"), nvram("kvm3")) == (written, "")
    novactl.ok("migrate", guest, "--host", "kvm1", "--confirm")
    assert (nvram("kvm1"), nvram("kvm2")) == (written, "")
    novactl.ok("start", guest)
    assert grounds.state("kvm1", uuid) == "running"
