"""The choice among hosts: the same as looking at all of them each time, and with words for it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novactl.objects.candidate import Candidate
from novactl.objects.extra_specs import CpuRequest
from novactl.objects.group import GroupPolicy
from novactl.objects.host import Resources
from novactl.objects.numa import NumaRequest
from novactl.scheduler.fixes import nearest
from novactl.scheduler.select import Selection, explain, no_valid_host
from novactl.scheduler.spec import Members, Rules, Spec
from novactl.scheduler.weighers import WEIGHERS, Scale
from tests.unit.test_filters import WANTED, host, members, spec

POLICIES = st.sampled_from([None, *GroupPolicy])
MULTIPLIERS = st.dictionaries(
    st.sampled_from(sorted(WEIGHERS)), st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]), max_size=4
)


@st.composite
def hosts(draw: st.DrawFn) -> list[Candidate]:
    """A few hosts of different fullness."""
    return [
        host(
            f"kvm{n}",
            enabled=draw(st.sampled_from([1, 1, 1, 0])),
            vcpus_used=draw(st.integers(0, 18)),
            memory_mib_used=draw(st.integers(0, 4000)),
            disk_gib_used=draw(st.integers(0, 110)),
            failed_builds=draw(st.sampled_from([0, 0, 0, 2])),
            busy=draw(st.integers(0, 3)),
            instances=draw(st.integers(0, 3)),
        )
        for n in range(draw(st.integers(0, 8)))
    ]


@given(hosts(), POLICIES, MULTIPLIERS, st.integers(1, 40))
def test_many_are_placed_as_if_all_hosts_were_looked_at_each_time(
    found: list[Candidate], policy: GroupPolicy | None, multipliers: dict[str, float], count: int
) -> None:
    """The best host, at every step, is one with the most weight among those that pass then; nothing is
    overcommitted, and no group rule broken."""
    group = Members(name="g", policy=policy, max_per_host=2, on={}) if policy else None
    asked = spec(group=group, rules=Rules(multipliers=multipliers))
    selection = Selection(found, asked)
    for _ in range(count):
        passing = [row["host"] for row in explain(found, asked) if row["passed"]]
        best = selection.best()
        assert (best is None) == (not passing)
        if best is None:
            break
        assert best.name in passing
        weights = {one.name: selection.scale.weight(one) for one in found if one.name in passing}
        assert weights[best.name] == pytest.approx(max(weights.values()))
        selection.take(best)
    for one in found:
        if one.instances > 3:
            assert one.vcpus_used <= one.vcpus_limit
            assert one.memory_used <= one.memory_limit and one.disk_used <= one.disk_limit
    if group is not None and policy is GroupPolicy.ANTI_AFFINITY:
        assert all(n <= 2 for n in group.on.values())
    if group is not None and policy is GroupPolicy.AFFINITY:
        assert len(group.on) <= 1


@given(hosts(), POLICIES, MULTIPLIERS, st.integers(1, 40), st.integers(1, 3))
def test_a_look_ahead_leaves_all_as_it_was(
    found: list[Candidate],
    policy: GroupPolicy | None,
    multipliers: dict[str, float],
    count: int,
    size: int,
) -> None:
    group = Members(name="g", policy=policy, on={"kvm0": 1}) if policy else None
    asked = spec(group=group, rules=Rules(multipliers=multipliers, host_subset_size=size))
    selection, before = Selection(found, asked), explain(found, asked)
    ahead = selection.ahead(3, count)
    assert explain(found, asked) == before
    assert group is None or group.on == {"kvm0": 1}
    assert selection.taken(3, count) == ahead


@given(hosts(), st.integers(1, 5), st.integers(0, 100))
def test_a_subset_shares_out_the_best(found: list[Candidate], size: int, pick: int) -> None:
    asked = spec(rules=Rules(host_subset_size=size))
    best = [one.name for one in Selection(found, asked).ordered(size)]
    chosen = Selection(found, asked).best(pick)
    assert (chosen.name if chosen else None) == (best[pick % len(best)] if best else None)


def test_weights_are_normalised_over_the_candidates() -> None:
    """nova/weights.py: the most is 1; free amounts count from 0; what all have alike is 0."""
    rules = Rules(multipliers={"memory": 2.0, "vcpus": 1.0, "disk": 0.0, "io_ops": -1.0})
    found = [host("a", busy=1), host("b", memory_mib_used=1792, busy=3), host("c", vcpus_used=8)]
    rows = {row["host"]: row for row in explain(found, spec(rules=rules))}
    assert rows["a"]["weights"] == {"memory": 2.0, "vcpus": 1.0, "io_ops": pytest.approx(-1 / 3, abs=1e-6)}
    assert rows["b"]["weights"] == {"memory": 1.0, "vcpus": 1.0, "io_ops": -1.0}
    assert rows["c"]["weights"] == {"memory": 2.0, "vcpus": 0.5, "io_ops": 0.0}
    assert rows["a"]["weight"] == pytest.approx(2.666667)


RAW: list[tuple[str, dict[str, Any], dict[str, Any], float]] = [
    ("memory", {"memory_mib_used": 1000}, {}, 2584),
    ("vcpus", {"vcpus_used": 3}, {}, 13),
    ("disk", {"disk_gib_used": 3}, {}, 97),
    ("io_ops", {"busy": 3}, {}, 3),
    ("instances", {"instances": 4}, {}, 4),
    ("failed_builds", {"failed_builds": 2}, {}, -2),
    ("soft_affinity", {}, {"group": members(GroupPolicy.SOFT_AFFINITY, kvm1=3)}, 3),
    ("soft_affinity", {}, {"group": members(GroupPolicy.SOFT_ANTI_AFFINITY, kvm1=3)}, 0),
    ("soft_anti_affinity", {}, {"group": members(GroupPolicy.SOFT_ANTI_AFFINITY, kvm1=3)}, -3),
    ("cross_zone", {}, {"from_zone": "nova"}, 0),
    ("cross_zone", {"zone": "b"}, {"from_zone": "nova"}, -1),
    ("cross_zone", {"zone": "b"}, {}, 0),
]


@pytest.mark.parametrize(("name", "has", "asks", "raw"), RAW)
def test_what_each_weigher_counts(name: str, has: dict[str, Any], asks: dict[str, Any], raw: float) -> None:
    assert WEIGHERS[name][0](host(**has), spec(**asks)) == raw


def test_every_weigher_is_above() -> None:
    assert {name for name, *_ in RAW} == set(WEIGHERS)


@pytest.mark.parametrize(
    ("multipliers", "best"),
    [
        ({}, "empty"),
        ({"memory": -1.0, "vcpus": -1.0, "disk": -1.0}, "full"),
        ({"failed_builds": 0.0}, "empty"),
    ],
)
def test_spread_and_pack(multipliers: dict[str, float], best: str) -> None:
    found = [host("full", memory_mib_used=2000, vcpus_used=10, disk_gib_used=50), host("empty")]
    chosen = Selection(found, spec(rules=Rules(multipliers=multipliers))).best()
    assert chosen is not None and chosen.name == best


def test_a_host_where_boots_failed_comes_last() -> None:
    found = [host("broken", failed_builds=1), host("busy", memory_mib_used=2500, vcpus_used=14)]
    assert [one.name for one in Selection(found, spec()).ordered(9)] == ["busy", "broken"]


def test_soft_groups_weigh() -> None:
    for policy, expected in (
        (GroupPolicy.SOFT_AFFINITY, {"kvm1": 4}),
        (GroupPolicy.SOFT_ANTI_AFFINITY, {"kvm1": 2, "kvm2": 2}),
    ):
        group = Members(name="g", policy=policy, on={})
        asked = spec(
            group=group, rules=Rules(multipliers=dict.fromkeys(("memory", "vcpus", "disk", "io_ops"), 0.0))
        )
        found = [host("kvm1"), host("kvm2")]
        group.on["kvm1"] = 1
        selection = Selection(found, asked)
        for _ in range(3):
            best = selection.best()
            assert best is not None
            selection.take(best)
        assert group.on == expected


@pytest.mark.parametrize(
    ("policy", "memory_mib", "expected"),
    [
        (GroupPolicy.SOFT_AFFINITY, 4096, {"kvm0": 3}),
        (GroupPolicy.SOFT_ANTI_AFFINITY, 8192, {"kvm0": 1, "kvm1": 1, "kvm2": 1}),
    ],
)
def test_a_soft_group_weighs_from_its_first_member_on(
    policy: GroupPolicy, memory_mib: int, expected: dict[str, int]
) -> None:
    """The free memory alone would spread them, or have all on the first."""
    group = Members(name="g", policy=policy, on={})
    rules = Rules(multipliers={"memory": 0.5, "vcpus": 0.0, "disk": 0.0, "io_ops": 0.0})
    found = [host("kvm0", memory_mib=memory_mib), host("kvm1"), host("kvm2")]
    selection = Selection(found, spec(group=group, rules=rules))
    for _ in range(3):
        best = selection.best()
        assert best is not None
        selection.take(best)
    assert group.on == expected


def test_a_scale_of_one_weighs_nothing() -> None:
    assert Scale([host()], spec()).weights(host()) == {}


# --- what would help ---

THERE = frozenset({"x"})  # of one that is there already


@pytest.mark.parametrize(
    ("has", "asks", "fixes"),
    [
        (
            [{"memory_mib_used": 3072}, {"memory_mib_used": 3500}],
            {},
            ["free 512 MiB on kvm0", "free 940 MiB on kvm1"],
        ),
        ([{"zone": "a"}], {"zone": "b"}, ["drop --zone"]),
        ([{"enabled": 0}], {}, ["novactl host set kvm0 --enable"]),
        ([{"state": "down"}], {}, ["novactl host check kvm0"]),
        ([{"state": "fenced"}], {}, ["novactl audit --heal"]),
        ([{}], {"resources": Resources(vcpus=2, memory_mib=65536, disk_gib=10)}, []),
        (
            [{"disk_gib_used": 95, "foreign_vcpus": 3}, {"memory_mib": 512}],
            {},
            ["free 5 GiB of disk on kvm0"],
        ),
        ([{}], {"host": "other"}, ["drop --host"]),
        ([{}], {"apart": {"kvm0": "db1"}}, ["drop --apart-from"]),
        ([{}], {"together": {"x": "db1"}}, ["drop --with"]),
        ([{}], {"aggregate": "a"}, ["drop --aggregate"]),
        ([{}], {"group": members(GroupPolicy.ANTI_AFFINITY, kvm0=1)}, ["drop --group web"]),
        ([{"vcpus_used": 15.5}], {}, ["free 2 vcpus on kvm0"]),
        ([{"enabled": 0, "zone": "a"}], {"zone": "b"}, ["drop --zone"]),
        ([{"enabled": 0, "state": "down"}], {}, []),
        ([{}], {"firmware": "uefi"}, ["novactl host check kvm0"]),
        (
            [{"facts": {"firmwares": ["bios"]}}],
            {"firmware": "uefi"},
            ["install the package ovmf on kvm0, then novactl host check kvm0"],
        ),
        ([{}], {"cpu": CpuRequest(model="EPYC")}, ["novactl host check kvm0"]),
        ([{}], {"numa": NumaRequest(nodes=1, vcpus=1, memory_mib=64)}, ["novactl host check kvm0"]),
        (
            [{}],
            {"numa": NumaRequest(nodes=1, vcpus=1, memory_mib=64, dedicated=True)},
            ["novactl host check kvm0"],
        ),
        ([{"zone": "a"}], {"zone": "b", "not_hosts": THERE}, []),
        ([{}], {"apart": {"kvm0": "db1"}, "not_hosts": THERE}, []),
        ([{}], {"together": {"x": "db1"}, "not_hosts": THERE}, []),
        ([{}], {"aggregate": "a", "not_hosts": THERE}, []),
        ([{"enabled": 0}], {"aggregate": "a", "not_hosts": THERE}, []),
        ([{}], {"group": members(GroupPolicy.ANTI_AFFINITY, kvm0=1), "not_hosts": THERE}, []),
        ([{}], {"host": "other", "not_hosts": THERE}, ["drop --host"]),
        (
            [{"facts": {"cpu_models": "qemu64", "cpu_features": ""}}],
            {"cpu": CpuRequest(model="EPYC")},
            [],
        ),
    ],
)
def test_the_nearest_fixes(has: list[dict[str, Any]], asks: dict[str, Any], fixes: list[str]) -> None:
    found = [host(f"kvm{n}", **one) for n, one in enumerate(has)]
    asked = spec(**asks)
    assert nearest(found, asked, explain(found, asked)) == fixes


def test_the_refusal_names_hosts_reasons_and_fixes() -> None:
    found = [host("kvm1", enabled=0, disabled_reason="fans"), host("kvm2", memory_mib_used=3000)]
    error = no_valid_host("web1", found, spec())
    assert error.code == 5
    assert error.message == (
        "web1: no host can take it\n  kvm1: disabled: fans\n  kvm2: memory_mib: 1024 wanted, 584 free of 3584"
    )
    assert error.hint == "novactl host set kvm1 --enable; or free 440 MiB on kvm2"
    assert [row["host"] for row in error.targets] == ["kvm1", "kvm2"]


def test_no_hosts_at_all() -> None:
    error = no_valid_host("web1", [], spec())
    assert (error.message, error.hint) == (
        "web1: there are no hosts yet",
        "novactl host add NAME --address ADDR",
    )


def test_a_thousand_reasons_are_cut() -> None:
    found = [host(f"kvm{n}", enabled=0) for n in range(30)]
    lines = no_valid_host("web1", found, Spec(resources=Resources(**vars(WANTED)))).message.splitlines()
    assert (len(lines), lines[-1]) == (12, "  … and 20 more")
