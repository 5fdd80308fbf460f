"""The domain's XML: exactly what stands in golden/, accepted by libvirt, and never more than it should be.

NOVACTL_REGENERATE=1 writes golden/ anew; look at the difference before you keep it.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, fromstring

import libvirt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novactl import resources
from novactl.errors import UsageError
from novactl.objects.extra_specs import numa_request
from novactl.objects.names import check_text
from novactl.objects.numa import HostCell, shared_cpus
from novactl.scheduler.numa import fit
from novactl.virt.domain import (
    NAMESPACE,
    PROPERTIES,
    DomainSpec,
    Marks,
    build,
    check_properties,
    disks_of,
    record,
)
from tests.support import fleet

GOLDEN = Path(__file__).parent / "golden"
SKELETON = resources.template("domain.xml", Path("/nonexistent"))
UUID = fleet.uuid(0x5A17C0DE)
KERNEL, INITRD = "cd" * 32, "ef" * 32


def spec(virt_type: str = "kvm", arch: str = "x86_64", cache: str = "none", **values: Any) -> DomainSpec:
    given = {"ports": (fleet.port(UUID),), **values}
    return DomainSpec(
        instance=fleet.instance(1, uuid=UUID, **given),
        directory=f"/var/lib/novactl/instances/{UUID}",
        base_directory="/var/lib/novactl/instances/_base",
        virt_type=virt_type,
        arch=arch,
        cache=cache,
        marks=Marks(fleet="11111111-2222-4333-8444-555555555555", operation="op-1", epoch=3, generation=4),
    )


def properties(**values: str) -> dict[str, Any]:
    return {"image": fleet.image(properties=values)}


TWO_CELLS = (
    HostCell(id=0, cores=((0, 8), (1, 9), (2, 10), (3, 11)), memory_mib=8192, pages={2048: 1024, 1048576: 4}),
    HostCell(id=1, cores=((4, 12), (5, 13), (6, 14), (7, 15)), memory_mib=8192, pages={2048: 1024}),
)
SET_ASIDE = frozenset({2, 3, 6, 7, 10, 11, 14, 15})


def fitted(vcpus: int = 2, memory_mib: int = 2048, **specs: str) -> DomainSpec:
    """A guest of such a flavor, on a host of two cells, as placement would have it."""
    flavor = fleet.flavor(
        "numa", vcpus=vcpus, memory_mib=memory_mib, extra_specs={f"hw:{key}": specs[key] for key in specs}
    )
    request = numa_request(flavor, None)
    assert request
    found = fit(request, TWO_CELLS, SET_ASIDE, (), cpu_ratio=4.0)
    assert not isinstance(found, str), found
    return replace(
        spec(flavor=flavor, numa=found.as_dict()), shared=shared_cpus(TWO_CELLS, SET_ASIDE), confined=True
    )


CASES = {
    "confined": replace(spec(), shared=shared_cpus(TWO_CELLS, SET_ASIDE), confined=True),
    "dedicated": fitted(vcpus=3, cpu_policy="dedicated"),
    "two-nodes-shared": fitted(numa_nodes="2"),
    "two-nodes-dedicated-2mib": fitted(vcpus=4, numa_nodes="2", cpu_policy="dedicated", mem_page_size="2MB"),
    "pages-1gib": fitted(mem_page_size="large"),
    "qemu-two-nodes": replace(fitted(numa_nodes="2"), virt_type="qemu"),
    "cpu-model": spec(
        flavor=fleet.flavor(
            extra_specs={"hw:cpu_model": "Nehalem", "hw:cpu_features": "aes,+avx2,-popcnt,-tsx-ctrl"}
        )
    ),
    "cpu-features-numa": replace(
        (numa := fitted(mem_page_size="2048", cpu_features="-svm")),
        instance=replace(numa.instance, image=fleet.image(properties={"hw_cpu_features": "+aes"})),
    ),
    "room-for-vcpus": spec(flavor=fleet.flavor(extra_specs={"hw:max_vcpus": "4"})),
    "uefi": spec(**properties(hw_firmware_type="uefi")),
    "plain": spec(),
    "qemu": spec("qemu", cache="writeback"),
    "kernel-initrd": spec(
        image=fleet.image(kernel_sha256=KERNEL, initrd_sha256=INITRD, cmdline="console=ttyS0 root=/dev/vda")
    ),
    "kernel-only": spec(image=fleet.image(kernel_sha256=KERNEL)),
    "ephemeral-swap": spec(flavor=fleet.flavor(ephemeral_gib=2, swap_mib=64)),
    "no-nic": spec(ports=()),
    "nics-mtu": spec(
        ports=(
            fleet.port(UUID, 0),
            fleet.port(UUID, 1, network="storage", bridge="br-storage", mtu=9000),
            fleet.port(UUID, 2, network="wan", bridge="br1", mtu=1450, gateway=None, dns=()),
        )
    ),
    "scsi": spec(flavor=fleet.flavor(ephemeral_gib=1), **properties(hw_disk_bus="scsi")),
    "sata": spec(**properties(hw_disk_bus="sata")),
    "pc-e1000": spec(**properties(hw_machine_type="pc", hw_vif_model="e1000")),
    "windows": spec(**properties(os_type="windows")),
    "windows-emulated": spec("qemu", **properties(os_type="windows")),
    "rescue": spec(
        flavor=fleet.flavor(ephemeral_gib=2, swap_mib=64),
        rescue_image=fleet.image(
            "rescuer", kernel_sha256=KERNEL, initrd_sha256=INITRD, properties={"hw_disk_bus": "sata"}
        ),
        **properties(hw_machine_type="pc", hw_disk_bus="scsi"),
    ),
    "shelved": spec(shelved_image=fleet.image("kept")),
    "everything-said": spec(
        name="web.front-1",
        project="shop",
        flavor=fleet.flavor("large", vcpus=8, memory_mib=16384, disk_gib=40, extra_specs={"a": "b"}),
        key_name="me",
        public_key="ssh-ed25519 AAAA me@here",
        metadata={"role": "front <&>", "ünïcode": "漢字 'quotes' \"double\""},
        tags=("blue", "green"),
        launch_index=2,
        user_data="secret:5f3a",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    made = build(CASES[case], SKELETON)
    path = GOLDEN / f"{case}.xml"
    if os.environ.get("NOVACTL_REGENERATE"):
        path.write_text(made)
    assert made == path.read_text()


def test_every_golden_file_has_its_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.xml")} == set(CASES)


@pytest.fixture(scope="module")
def connection() -> Iterator[Any]:
    libvirt.registerErrorHandler(lambda context, error: None, None)
    opened = libvirt.open("test:///default")
    yield opened
    opened.close()


@pytest.mark.parametrize("case", CASES)
def test_libvirt_accepts_and_keeps_it(case: str, connection: Any) -> None:
    """Validated against libvirt's own schema; our metadata comes back as it was."""
    domain = connection.defineXMLFlags(build(CASES[case], SKELETON), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    try:
        mark = fromstring(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE))
        assert json.loads(mark.text or "") == record(CASES[case].instance)
        assert (domain.UUIDString(), domain.name()) == (UUID, f"instance-{UUID.replace('-', '')[:12]}")
        assert (mark.get("operation"), mark.get("epoch")) == ("op-1", "3")
    finally:
        domain.undefine()


def test_libvirt_would_refuse_what_is_wrong(connection: Any) -> None:
    wrong = build(CASES["plain"], SKELETON).replace("<devices>", "<devices><bogus/>")
    with pytest.raises(libvirt.libvirtError, match=r"failed to validate"):
        connection.defineXMLFlags(wrong, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)


# --- what must hold in each ---


def devices(text: str) -> Counter[str]:
    found = fromstring(text).find("devices")
    assert found is not None
    return Counter(child.tag for child in found)


def every(text: str) -> Counter[str]:
    return Counter(element.tag for element in fromstring(text).iter())


@pytest.mark.parametrize("case", CASES)
def test_every_disk_states_its_format_and_is_in_disk_info(case: str) -> None:
    instance = CASES[case].instance
    disks = fromstring(build(CASES[case], SKELETON)).findall("devices/disk")
    seen = []
    for disk in disks:
        driver, source, target = disk.find("driver"), disk.find("source"), disk.find("target")
        assert driver is not None
        assert source is not None
        assert target is not None
        assert (driver.get("cache"), driver.get("discard")) == (CASES[case].cache, "unmap")
        seen.append((str(source.get("file")).rpartition("/")[2], driver.get("type")))
    assert seen == disks_of(instance)
    targets = [str(disk.find("target").get("dev")) for disk in disks]  # type: ignore[union-attr]
    assert targets == sorted(set(targets))
    readonly = [disk for disk in disks if disk.find("readonly") is not None]
    assert len(readonly) == 1  # the config drive


@pytest.mark.parametrize("case", CASES)
def test_no_secret_and_no_user_data_is_in_it(case: str) -> None:
    assert "secret:" not in build(CASES[case], SKELETON)


def test_the_skeleton_is_the_operator_s() -> None:
    own = """<domain><name>mine</name><vcpu>99</vcpu><devices><watchdog model="itco"/></devices>
             <seclabel type="none"/></domain>"""
    made = fromstring(build(spec(), own))
    assert made.findtext("vcpu") == "1"
    assert str(made.findtext("name")).startswith("instance-")
    assert devices(build(spec(), own)) == {"disk": 2, "interface": 1, "serial": 1, "watchdog": 1}
    assert made.find("seclabel") is not None
    assert devices(build(spec(), "<domain/>")) == {"disk": 2, "interface": 1, "serial": 1}


@pytest.mark.parametrize(
    ("skeleton", "message"),
    [
        ("", r"^templates/domain.xml is not XML: "),
        ("<domain>", r"^templates/domain.xml is not XML: "),
        ("<network/>", r"^templates/domain.xml does not hold a <domain>$"),
        ("<domain>&undefined;</domain>", r"^templates/domain.xml is not XML: "),
    ],
)
def test_a_skeleton_that_is_none(skeleton: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        build(spec(), skeleton)
    assert caught.value.code == 2


def test_image_properties() -> None:
    for name, values in PROPERTIES.items():
        for value in values:
            check_properties({name: value, "other": "anything"})
        for wrong in ("", "x", f"{values[0]} ", values[0].upper(), "q35'/><disk/>"):
            with pytest.raises(UsageError, match=rf"^image property {name}=.*: one of ") as caught:
                check_properties({name: wrong})
            assert caught.value.code == 2
    check_properties({})


# --- hostile text in every field ---

HOSTILE = [
    "</name><devices><disk type='file'/></devices><name>",
    '"/><disk type="file" device="disk"><source file="/etc/shadow"/></disk><x a="',
    "'/><hostdev/>",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<?xml version='1.0'?>",
    "<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>&e;",
    "&amp;&lt;&#60;disk&#62;",
    "&e; & < > \" '",
    "{curly} %s $x `x`",
    "ünïcode 漢字 🙂",
    "x" * 255,
]


def hostile(text: str) -> DomainSpec:
    """That text wherever a person's text can be, and in some places where it never could."""
    port = fleet.port(UUID, network=text, bridge=text, tap=text)
    image = fleet.image(text, properties={text: text}, kernel_sha256=text, initrd_sha256=text, cmdline=text)
    made = spec(
        name=text,
        project=text,
        key_name=text,
        public_key=text,
        metadata={text: text},
        tags=(text, text),
        image=image,
        flavor=fleet.flavor(text, extra_specs={text: text}, ephemeral_gib=1, swap_mib=1),
        ports=(port, replace(port, index=1)),
    )
    marks = Marks(fleet=text, operation=text, epoch=1, generation=1)
    return replace(made, directory=text, base_directory=text, marks=marks)


HARMLESS = build(hostile("harmless"), SKELETON)


def check_hostile(text: str) -> Element:
    made = build(hostile(text), SKELETON)
    assert every(made) == every(HARMLESS)
    assert devices(made) == devices(HARMLESS)
    return fromstring(made)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    root = check_hostile(text)
    mark = root.find(f"metadata/{{{NAMESPACE}}}instance")
    assert mark is not None
    assert json.loads(mark.text or "") == record(hostile(text).instance)
    assert (mark.get("fleet"), mark.get("operation")) == (text, text)
    assert root.findtext("os/cmdline") == text
    assert root.findtext("os/kernel") == f"{text}/{text}"
    sources = [str(source.get("file")) for source in root.findall("devices/disk/source")]
    assert sources == [f"{text}/{file}" for file, _ in disks_of(hostile(text).instance)]
    assert {source.get("bridge") for source in root.findall("devices/interface/source")} == {text}


@pytest.mark.parametrize("text", HOSTILE)
def test_libvirt_takes_hostile_text_as_text(text: str, connection: Any) -> None:
    """What verbs accept: metadata and a kernel's command line."""
    image = fleet.image(kernel_sha256=KERNEL, cmdline=text)
    made = spec(metadata={"k": text}, tags=(text[:60],), image=image)
    domain = connection.defineXMLFlags(build(made, SKELETON), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    try:
        mark = fromstring(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE))
        assert json.loads(mark.text or "")["metadata"] == {"k": text}
        kept = fromstring(domain.XMLDesc())
        assert kept.findtext("os/cmdline") == text
        assert len(kept.findall("devices/disk")) == 2
        assert kept.find("devices/hostdev") is None
    finally:
        domain.undefine()


def acceptable(text: str) -> bool:
    try:
        check_text(text, "text")
    except UsageError:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(acceptable))
def test_whatever_a_person_may_say_stays_text(text: str) -> None:
    root = check_hostile(text)
    mark = root.find(f"metadata/{{{NAMESPACE}}}instance")
    assert mark is not None
    assert json.loads(mark.text or "") == record(hostile(text).instance)
    assert root.findtext("os/cmdline") == text


@pytest.mark.parametrize("number", [*range(32), 127, *range(0x80, 0xA0), 0xD800, 0xFFFE, 0xFFFF, 0x1FFFE])
def test_what_xml_or_a_terminal_cannot_carry_is_not_acceptable(number: int) -> None:
    with pytest.raises(UsageError, match=r"^text .* has control characters$") as caught:
        check_text(f"a{chr(number)}b", "text")
    assert caught.value.code == 2
