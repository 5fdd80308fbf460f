"""What flavors and images may ask of the hardware, and what becomes of it together."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novactl.errors import NovactlError, Refused, UsageError
from novactl.objects import cpuset
from novactl.objects.extra_specs import (
    PARSERS,
    CpuRequest,
    check_image_properties,
    cpu_request,
    firmware,
    max_vcpus,
    numa_request,
)
from novactl.objects.flavor import check_flavor
from novactl.objects.numa import LARGE, NumaRequest
from novactl.virt.domain import check_properties
from tests.support import fleet

SIZES = {"vcpus": 4, "memory_mib": 2048}


def flavor(**specs: str) -> Any:
    return fleet.flavor("f", **SIZES, extra_specs={f"hw:{key}": value for key, value in specs.items()})


def image(**properties: str) -> Any:
    return fleet.image("i", properties={f"hw_{key}": value for key, value in properties.items()})


def request(nodes: int = 1, **values: Any) -> NumaRequest:
    return NumaRequest(nodes=nodes, vcpus=4 // nodes, memory_mib=2048 // nodes, **values)


@pytest.mark.parametrize(
    ("ours", "theirs", "wanted"),
    [
        ({}, {}, None),
        ({"cpu_policy": "shared"}, {}, None),
        ({"cpu_policy": "shared"}, {"cpu_policy": "shared"}, None),
        ({"cpu_policy": "dedicated"}, {}, request(dedicated=True)),
        ({"cpu_policy": "dedicated"}, {"cpu_policy": "shared"}, request(dedicated=True)),
        ({}, {"cpu_policy": "dedicated"}, request(dedicated=True)),
        ({"mem_page_size": "small"}, {}, None),
        ({"mem_page_size": "any"}, {}, None),
        ({"mem_page_size": "any"}, {"mem_page_size": "small"}, None),
        ({"mem_page_size": "large"}, {"mem_page_size": "small"}, None),
        ({"mem_page_size": "4KB"}, {}, None),
        ({"mem_page_size": "large"}, {}, request(page_kib=LARGE)),
        ({"mem_page_size": "large"}, {"mem_page_size": "any"}, request(page_kib=LARGE)),
        ({"mem_page_size": "any"}, {"mem_page_size": "large"}, request(page_kib=LARGE)),
        ({"mem_page_size": "any"}, {"mem_page_size": "2MB"}, request(page_kib=2048)),
        ({"mem_page_size": "large"}, {"mem_page_size": "1GB"}, request(page_kib=1 << 20)),
        ({"mem_page_size": "2048"}, {}, request(page_kib=2048)),
        ({"mem_page_size": "2MiB"}, {}, request(page_kib=2048)),
        ({"mem_page_size": "2048kb"}, {}, request(page_kib=2048)),
        ({"numa_nodes": "1"}, {}, request()),
        ({"numa_nodes": "2"}, {"numa_nodes": "2"}, request(nodes=2)),
        ({}, {"numa_nodes": "4"}, request(nodes=4)),
        (
            {"numa_nodes": "2", "cpu_policy": "dedicated", "mem_page_size": "1GB"},
            {},
            request(nodes=2, dedicated=True, page_kib=1 << 20),
        ),
    ],
)
def test_what_flavor_and_image_ask_together(ours: Any, theirs: Any, wanted: Any) -> None:
    assert numa_request(flavor(**ours), image(**theirs)) == wanted


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ({"cpu_policy": "shared"}, {"cpu_policy": "dedicated"}, "image i asks for dedicated processors,"),
        ({}, {"mem_page_size": "2MB"}, "image i asks for a page size, flavor f says nothing of it"),
        (
            {"mem_page_size": "small"},
            {"mem_page_size": "large"},
            "image i asks for a page size, flavor f has",
        ),
        (
            {"mem_page_size": "2MB"},
            {"mem_page_size": "2MB"},
            "image i asks for a page size, flavor f has 2MB",
        ),
        ({"numa_nodes": "2"}, {"numa_nodes": "4"}, "image i has hw_numa_nodes=4, flavor f hw:numa_nodes=2"),
    ],
)
def test_flavor_and_image_contradict_each_other(ours: Any, theirs: Any, message: str) -> None:
    with pytest.raises(Refused, match=f"^{message}") as caught:
        numa_request(flavor(**ours), image(**theirs))
    assert caught.value.code == 5 and caught.value.hint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("cpu_policy", value) for value in ("", "Dedicated", "mixed", "pinned")],
        *[
            ("mem_page_size", value)
            for value in ("", "0", "-1", "-2MB", "1", "3MB", "huge", "2TB", "2 MB", "0GB")
        ],
        *[("numa_nodes", value) for value in ("", "0", "-1", "1.5", "two", "65", "99999", "²")],
        *[("cpu_model", value) for value in ("", "-x", "a b", "<x/>", "x" * 65)],
        *[
            ("cpu_features", value)
            for value in ("", ",", "avx2,", "--x", "AVX2", "a b", "avx,-avx", "avx,avx")
        ],
    ],
)
def test_values_that_make_no_sense(key: str, value: str) -> None:
    for work, what in (
        (lambda: check_flavor(flavor(**{key: value})), f"extra spec hw:{key}={value!r}: "),
        (lambda: check_properties({f"hw_{key}": value}), f"image property hw_{key}={value!r}: "),
    ):
        with pytest.raises(UsageError) as caught:
            work()
        assert caught.value.code == 2 and caught.value.message.startswith(what)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        *[({"max_vcpus": value}, "extra spec hw:max_vcpus=") for value in ("", "0", "-1", "256", "²", "3")],
        ({"max_vcpus": "8", "cpu_policy": "dedicated"}, "extra spec hw:max_vcpus: not with processors"),
        ({"max_vcpus": "8", "mem_page_size": "2MB"}, "extra spec hw:max_vcpus: not with processors"),
    ],
)
def test_room_for_processors_that_makes_no_sense(specs: dict[str, str], message: str) -> None:
    """Of a flavor with 4."""
    with pytest.raises(UsageError, match=f"^{message}"):
        check_flavor(flavor(**specs))


def test_an_image_asks_for_no_room() -> None:
    assert max_vcpus(check_flavor(flavor(max_vcpus="8"))) == 8
    check_properties({"hw_max_vcpus": "many"})  # it is not looked at


@pytest.mark.parametrize(
    "key",
    ["hw:", "hw:cpu_polcy", "hw:cpu_thread_policy", "hw:numa_cpus.0", "hw:numa_mem.0", "hw:watchdog_action"],
)
def test_a_key_that_is_not_known_is_not_silently_ignored(key: str) -> None:
    with pytest.raises(UsageError, match=rf"^extra spec {key} is not supported$") as caught:
        check_flavor(fleet.flavor(extra_specs={key: "1"}))
    assert "hw:numa_nodes" in caught.value.hint


def test_other_namespaces_pass() -> None:
    specs = {
        "trait:X": "required",
        "aggregate_instance_extra_specs:ssd": "true",
        "ssd": "true",
        "quota:cpu": "1",
    }
    assert check_flavor(fleet.flavor(extra_specs=specs)).extra_specs == specs


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ({"numa_nodes": "3"}, "numa_nodes 3: 4 vcpus cannot be divided evenly"),
        (
            {"numa_nodes": "4", "mem_page_size": "1GB"},
            "mem_page_size 1048576 KiB: 512 MiB of a NUMA node are not",
        ),
    ],
)
def test_sizes_that_cannot_be_split(specs: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        check_flavor(flavor(**specs))


def test_memory_that_cannot_be_split() -> None:
    odd = fleet.flavor("f", vcpus=4, memory_mib=2047, extra_specs={"hw:numa_nodes": "2"})
    with pytest.raises(UsageError, match=r"^numa_nodes 2: 2047 MiB cannot be divided evenly$"):
        check_flavor(odd)


def test_sizes_that_an_image_asks_to_split_in_vain() -> None:
    with pytest.raises(Refused, match=r"^numa_nodes 3: 4 vcpus cannot be divided evenly$"):
        numa_request(flavor(), image(numa_nodes="3"))
    with pytest.raises(Refused, match=r"^mem_page_size 1048576 KiB: 512 MiB of a NUMA node are not"):
        numa_request(flavor(numa_nodes="4", mem_page_size="large"), image(mem_page_size="1GB"))


def test_the_processor_asked_for() -> None:
    assert cpu_request(flavor(), None) is None
    ours = flavor(cpu_model="Skylake-Server", cpu_features="+avx2, -tsx-ctrl")
    theirs = image(cpu_features="aes", cpu_model="Skylake-Server")
    wanted = CpuRequest(model="Skylake-Server", require=("aes", "avx2"), disable=("tsx-ctrl",))
    assert cpu_request(ours, theirs) == wanted
    assert cpu_request(flavor(), image(cpu_model="Nehalem")) == CpuRequest(model="Nehalem")
    with pytest.raises(Refused, match=r"^image i has hw_cpu_model=Nehalem, flavor f hw:cpu_model=Skylake-"):
        cpu_request(ours, image(cpu_model="Nehalem"))
    with pytest.raises(Refused, match=r"^processor feature avx2 is required and disabled$"):
        cpu_request(ours, image(cpu_features="-avx2"))


def test_firmware() -> None:
    assert [firmware(None), firmware(image()), firmware(image(firmware_type="uefi"))] == [
        "bios",
        "bios",
        "uefi",
    ]
    check_properties({"hw_firmware_type": "uefi", "hw_machine_type": "q35"})
    for wrong in ({"hw_firmware_type": "efi"}, {"hw_firmware_type": "uefi", "hw_machine_type": "pc"}):
        with pytest.raises(UsageError, match=r"^image property hw_firmware_type="):
            check_properties(wrong)
    with pytest.raises(UsageError, match=r"^image property hw_architecture='x86-64': one of x86_64, "):
        check_properties({"hw_architecture": "x86-64"})


def test_dedicated_processors_and_huge_pages_are_not_charged_to_what_is_shared() -> None:
    def charged(**specs: str) -> tuple[int, int, int]:
        found = fleet.instance(flavor=flavor(**specs)).resources
        return found.vcpus, found.memory_mib, found.disk_gib

    assert charged() == charged(numa_nodes="2") == charged(mem_page_size="any") == (4, 2048, 1)
    assert charged(cpu_policy="dedicated") == (0, 2048, 1)
    assert charged(mem_page_size="large") == (4, 0, 1)
    assert charged(cpu_policy="dedicated", mem_page_size="2MB") == (0, 0, 1)


@given(st.sampled_from(sorted(PARSERS)), st.text(max_size=20))
def test_any_text_is_understood_or_refused(key: str, value: str) -> None:
    try:
        check_flavor(flavor(**{key: value}))
        check_image_properties({f"hw_{key}": value})
    except NovactlError as error:
        assert error.code == 2


@given(st.frozensets(st.integers(0, cpuset.HIGHEST), max_size=40))
def test_cpu_sets_come_back(cpus: frozenset[int]) -> None:
    assert cpuset.parse(cpuset.render(cpus)) == cpus


@pytest.mark.parametrize("text", ["x", "1-", "-1", "3-2", "1,,2", "1,", "4096", "0-99999", "1 2", "²"])
def test_cpu_sets_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"^cpus .* are not acceptable$") as caught:
        cpuset.parse(text)
    assert caught.value.code == 2


def test_cpu_sets() -> None:
    assert cpuset.parse(None) == cpuset.parse("") == frozenset()
    assert cpuset.parse("2-4, 10,3") == {2, 3, 4, 10}
    assert cpuset.render([10, 3, 2, 4, 5, 0]) == "0,2-5,10"
