"""Every filter: whom it lets pass, and the words in which it refuses."""

import json
from typing import Any

import pytest

from novactl.objects.candidate import COLUMNS, Candidate
from novactl.objects.group import GroupPolicy
from novactl.objects.host import Resources
from novactl.scheduler.compare import matches
from novactl.scheduler.filters import FILTERS, OF_AGGREGATES, active, instances, rejections
from novactl.scheduler.spec import Members, Rules, Spec

WANTED = Resources(vcpus=2, memory_mib=1024, disk_gib=10)


def host(
    name: str = "kvm1", *, aggregates: dict[str, dict[str, str]] | None = None, **values: Any
) -> Candidate:
    """A host with 16 vcpus of room, 3584 MiB and 100 GiB."""
    counted = {key: values.pop(key) for key in ("instances", "busy") if key in values}
    columns = {
        **dict.fromkeys(COLUMNS, 0),
        "name": name,
        "zone": "nova",
        "state": "up",
        "enabled": 1,
        "disabled_reason": None,
        "arch": "x86_64",
        "vcpus": 4,
        "memory_mib": 4096,
        "disk_gib": 100,
        "reserved_memory_mib": 512,
        "cpu_ratio": 4.0,
        "memory_ratio": 1.0,
        "disk_ratio": 1.0,
        "dedicated_cpus": None,
        "labels": {},
        "facts": {},
        **values,
    }
    columns |= {key: json.dumps(columns[key]) for key in ("labels", "facts")}
    found = Candidate(*(columns[column] for column in COLUMNS))
    found.aggregates = aggregates or {}
    for key, value in counted.items():
        setattr(found, key, value)
    return found


def spec(**values: Any) -> Spec:
    return Spec(resources=values.pop("resources", WANTED), **values)


def members(policy: GroupPolicy, most: int = 1, **on: int) -> Members:
    return Members(name="web", policy=policy, max_per_host=most, on=on)


def refusals(found: Candidate, asked: Spec) -> list[str]:
    """`filter: reason`, of all filters that matter."""
    tests = active(asked, aggregates=bool(found.aggregates))
    return [f"{row['filter']}: {row['reason']}" for row in rejections(found, asked, tests)]


PASSES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"enabled": 1, "state": "up"}, {"host": "kvm1", "zone": "nova"}),
    ({"arch": None}, {"arch": "aarch64"}),
    ({"vcpus_used": 14}, {}),
    ({"vcpus_used": 99}, {"resources": Resources(vcpus=0, memory_mib=1024, disk_gib=10)}),
    ({"memory_ratio": 0.5, "memory_mib": 2560}, {}),
    ({}, {"group": members(GroupPolicy.AFFINITY)}),
    ({}, {"group": members(GroupPolicy.AFFINITY, kvm1=3)}),
    ({}, {"group": members(GroupPolicy.ANTI_AFFINITY, kvm2=1)}),
    ({}, {"group": members(GroupPolicy.ANTI_AFFINITY, 3, kvm1=2)}),
    ({}, {"group": members(GroupPolicy.SOFT_ANTI_AFFINITY, kvm1=9)}),
    ({}, {"group": members(GroupPolicy.SOFT_AFFINITY, kvm2=9)}),
    ({}, {"apart": {"kvm2": "db1"}, "together": {"kvm1": "db2"}}),
    ({"labels": {"ssd": "yes"}}, {"required": {"ssd": None}, "forbidden": {"gpu": None, "ssd": "no"}}),
    ({"labels": {"gen": "7"}}, {"extra_specs": {"label:gen": ">= 7", "trait:gen": "required"}}),
    ({}, {"extra_specs": {"trait:gpu": "forbidden", "hw:cpu_policy": "shared"}}),
    ({"aggregates": {"a": {"filter_tenant_id": "blue, red"}}}, {"project": "red"}),
    (
        {"aggregates": {"a": {"filter_tenant_id": "blue"}, "b": {"filter_tenant_id2": "red"}}},
        {"project": "red"},
    ),
    ({"aggregates": {"a": {"os_distro": "debian,ubuntu"}}}, {"properties": {"os_distro": "ubuntu"}}),
    ({"aggregates": {"a": {"os_distro": "debian"}}}, {}),
    ({"aggregates": {"a": {"ssd": "true"}}}, {"extra_specs": {"ssd": "true"}}),
    (
        {"aggregates": {"a": {"cores": "8,16"}}},
        {"extra_specs": {"aggregate_instance_extra_specs:cores": ">= 12"}},
    ),
    ({"aggregates": {"a": {"instance_type": "small, tiny"}}}, {"flavor": "tiny"}),
    ({"aggregates": {"a": {"instance_type": "small"}, "b": {"instance_type": "tiny"}}}, {"flavor": "tiny"}),
    ({"aggregates": {"a": {"os": "debian"}, "b": {"os": "windows"}}}, {"properties": {"os": "debian"}}),
    (
        {"instances": 60, "aggregates": {"a": {"max_instances_per_host": "100"}}},
        {"rules": Rules(max_instances_per_host=50)},
    ),
    ({"labels": {"ssd": "nvme"}}, {"required": {"ssd": "nvme"}, "extra_specs": {"trait:ssd": "required"}}),
    ({"aggregates": {"rack2": {}}}, {"aggregate": "rack2"}),
    (
        {"facts": {"qemu_version": "7.2", "bridges": ["br0"]}},
        {"extra_specs": {"capabilities:bridges": "br0"}},
    ),
    ({"busy": 7}, {"rules": Rules(max_io_ops_per_host=8)}),
    ({"busy": 99}, {}),
    ({"instances": 49}, {"rules": Rules(max_instances_per_host=50)}),
    ({"instances": 49, "aggregates": {"a": {"max_instances_per_host": "50"}}}, {}),
]

REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"host": "kvm2"}, "forced_host: not the host asked for (kvm2)"),
    ({}, {"not_hosts": frozenset({"kvm1"})}, "tried: failed in this operation"),
    ({}, {"not_hosts": frozenset({"kvm1"}), "leaves": "kvm1"}, "tried: is where it is now"),
    ({"enabled": 0, "disabled_reason": "fans"}, {}, "enabled: disabled: fans"),
    ({"enabled": 0}, {}, "enabled: disabled: no reason given"),
    ({"state": "down"}, {}, "up: is down"),
    ({"state": "fenced"}, {}, "up: is fenced"),
    ({"zone": "a"}, {"zone": "b"}, "zone: is in zone a, not b"),
    ({}, {"aggregate": "rack2"}, "aggregate: is not in aggregate rack2"),
    ({}, {"arch": "aarch64"}, "architecture: is x86_64, the image is aarch64"),
    ({"vcpus_used": 15}, {}, "capacity: vcpus: 2 wanted, 1 free of 16"),
    (
        {"memory_mib_used": 3000, "disk_gib_used": 95},
        {},
        "capacity: memory_mib: 1024 wanted, 584 free of 3584; disk_gib: 10 wanted, 5 free of 100",
    ),
    ({"foreign_memory_mib": 4000}, {}, "capacity: memory_mib: 1024 wanted, 0 free of 0"),
    ({"huge_memory_mib": 3000}, {}, "capacity: memory_mib: 1024 wanted, 584 free of 584"),
    ({"memory_ratio": 0.1}, {}, "capacity: memory_mib: 1024 wanted, 358 free of 358"),
    ({}, {"group": members(GroupPolicy.AFFINITY, kvm2=1)}, "group: group web is together on kvm2"),
    ({}, {"group": members(GroupPolicy.ANTI_AFFINITY, kvm1=1)}, "group: has 1 of group web, 1 allowed"),
    ({}, {"group": members(GroupPolicy.ANTI_AFFINITY, 3, kvm1=3)}, "group: has 3 of group web, 3 allowed"),
    ({}, {"apart": {"kvm1": "db1"}}, "apart_from: has db1, to be apart from"),
    ({}, {"together": {"kvm2": "db1"}}, "together_with: does not have db1, to be together with"),
    ({}, {"required": {"ssd": None}}, "labels: has no label ssd"),
    ({"labels": {"ssd": "no"}}, {"required": {"ssd": "yes"}}, "labels: has no label ssd=yes"),
    (
        {"labels": {"ssd": "sata"}},
        {"required": {"ssd": "nvme"}, "extra_specs": {"trait:ssd": "required"}},
        "labels: has no label ssd=nvme",
    ),
    (
        {"instances": 1, "aggregates": {"a": {"max_instances_per_host": "0"}}},
        {},
        "instances: has 1 instances, 0 allowed",
    ),
    ({"labels": {"gpu": "x"}}, {"forbidden": {"gpu": None}}, "labels: has the forbidden label gpu"),
    ({"labels": {"gpu": "x"}}, {"forbidden": {"gpu": "x"}}, "labels: has the forbidden label gpu=x"),
    (
        {"labels": {"gpu": "x"}},
        {"forbidden": {"gpu": "y"}, "extra_specs": {"trait:gpu": "forbidden"}},
        "labels: has the forbidden label gpu",
    ),
    ({}, {"extra_specs": {"trait:gpu": "required"}}, "labels: has no label gpu"),
    (
        {"labels": {"gpu": ""}},
        {"extra_specs": {"trait:gpu": "forbidden"}},
        "labels: has the forbidden label gpu",
    ),
    ({"labels": {"gen": "6"}}, {"extra_specs": {"label:gen": ">= 7"}}, "labels: label gen is 6, >= 7 wanted"),
    ({}, {"extra_specs": {"label:gen": "7"}}, "labels: label gen is not set, 7 wanted"),
    ({"aggregates": {"a": {"filter_tenant_id": "red"}}}, {"project": "blue"}, "tenants: is for red"),
    (
        {"aggregates": {"a": {"os_distro": "debian"}}},
        {"properties": {"os_distro": "windows"}},
        "image_isolation: is for images with os_distro=debian, this one has windows",
    ),
    ({}, {"extra_specs": {"ssd": "true"}}, "flavor_aggregates: is in no aggregate with ssd=true"),
    (
        {"aggregates": {"a": {"ssd": "false"}}},
        {"extra_specs": {"aggregate_instance_extra_specs:ssd": "true"}},
        "flavor_aggregates: is in no aggregate with ssd=true",
    ),
    (
        {"aggregates": {"a": {"instance_type": "big"}}},
        {"flavor": "tiny"},
        "flavor_affinity: is for flavors big",
    ),
    (
        {"facts": {"qemu_version": "7.2"}},
        {"extra_specs": {"capabilities:qemu_version": ">= 8"}},
        "capabilities: qemu_version is 7.2, >= 8 wanted",
    ),
    ({}, {"extra_specs": {"capabilities:gpu": "yes"}}, "capabilities: gpu is not known, yes wanted"),
    ({"busy": 8}, {"rules": Rules(max_io_ops_per_host=8)}, "io_ops: 8 operations are on it, 8 allowed"),
    (
        {"instances": 50},
        {"rules": Rules(max_instances_per_host=50)},
        "instances: has 50 instances, 50 allowed",
    ),
    (
        {
            "instances": 5,
            "aggregates": {"a": {"max_instances_per_host": "5"}, "b": {"max_instances_per_host": "9"}},
        },
        {"rules": Rules(max_instances_per_host=50)},
        "instances: has 5 instances, 5 allowed",
    ),
]


@pytest.mark.parametrize(("has", "asks"), PASSES)
def test_passes(has: dict[str, Any], asks: dict[str, Any]) -> None:
    assert refusals(host(**has), spec(**asks)) == []


@pytest.mark.parametrize(("has", "asks", "words"), REFUSED)
def test_refuses_and_says_why(has: dict[str, Any], asks: dict[str, Any], words: str) -> None:
    assert refusals(host(**has), spec(**asks)) == [words]


def test_each_filter_refuses_somewhere_above() -> None:
    """But those of the hardware, which have a file of their own."""
    named = {test.__name__ for test in (*(test for test, _ in FILTERS), *OF_AGGREGATES, instances)}
    named -= {"firmware", "cpu", "numa"}
    assert named == {words.partition(":")[0] for _, _, words in REFUSED}


def test_a_host_with_several_faults_tells_all() -> None:
    found = refusals(host(enabled=0, state="down", vcpus_used=16), spec(zone="b"))
    assert [words.partition(":")[0] for words in found] == ["enabled", "up", "zone", "capacity"]


@pytest.mark.parametrize(
    ("value", "wanted", "fits"),
    [
        ("8", "= 8", True),
        ("9", "= 8", True),
        ("7", "= 8", False),
        ("8", "== 8.0", True),
        ("8", "!= 8", False),
        ("12", "<= 16", True),
        ("x", ">= 1", False),
        ("abc", "s== abc", True),
        ("abc", "s!= abc", False),
        ("b", "s> a", True),
        ("avx2 sse4", "<in> avx2", True),
        ("avx2 sse4", "<all-in> avx2 sse4", True),
        ("avx2", "<all-in> avx2 sse4", False),
        ("b", "<or> a <or> b", True),
        ("c", "<or> a <or> b", False),
        ("true", "true", True),
        ("True", "true", False),
        (">= 7", ">=", False),
        ("x", "<in>", False),
        ("x", "<all-in>", False),
    ],
)
def test_operators(value: str, wanted: str, fits: bool) -> None:
    """Nova's (nova/scheduler/filters/extra_specs_ops.py)."""
    assert matches(value, wanted) is fits
