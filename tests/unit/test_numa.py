"""Guests in the cells of a host: nothing is given twice, nothing more than there is; reasons have numbers."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novactl.objects.numa import LARGE, Fit, HostCell, NumaRequest, shared_cpus, topology_of
from novactl.scheduler import numa

PAGES = (2048, 1 << 20)


def cell(id_: int, cores: int = 4, threads: int = 1, memory_mib: int = 8192, **pages: int) -> HostCell:
    first = id_ * cores * threads
    made = tuple(tuple(first + core + thread * cores for thread in range(threads)) for core in range(cores))
    sizes = {"mib2": 2048, "gib1": 1 << 20}
    return HostCell(
        id=id_, cores=made, memory_mib=memory_mib, pages={sizes[key]: count for key, count in pages.items()}
    )


def ask(nodes: int = 1, vcpus: int = 2, memory_mib: int = 1024, **values: Any) -> NumaRequest:
    return NumaRequest(nodes=nodes, vcpus=vcpus, memory_mib=memory_mib, **values)


def fit(request: NumaRequest, host: Any, aside: Any, held: Any, ratio: float = 4.0) -> Fit | str:
    return numa.fit(request, host, aside, held, ratio)


def fitted(*args: Any) -> Fit:
    found = fit(*args)
    assert isinstance(found, Fit), found
    return found


TWO = (cell(0, mib2=512), cell(1, mib2=1024, gib1=2))
ASIDE = frozenset({2, 3, 5, 6, 7})
SIZES = "(its sizes: 2048 KiB, 1048576 KiB)"


def test_a_dedicated_guest_is_within_one_cell_the_fullest_that_has_room() -> None:
    first = fitted(ask(dedicated=True), TWO, ASIDE, ())
    assert [(one.cell, dict(one.cpus)) for one in first.cells] == [(0, {0: 2, 1: 3})]
    second = fitted(ask(dedicated=True), TWO, ASIDE, [first.as_dict()])
    assert [(one.cell, dict(one.cpus)) for one in second.cells] == [(1, {0: 5, 1: 6})]
    third = fitted(ask(vcpus=1, dedicated=True), TWO, ASIDE, [first.as_dict(), second.as_dict()])
    assert third.pinned == {7}
    held = [one.as_dict() for one in (first, second, third)]
    reason = "dedicated cpus: 2 wanted, 0 free on one cell of the host (5 of 5 held)"
    assert fit(ask(dedicated=True), TWO, ASIDE, held) == reason


def test_whole_cores_first_and_then_those_in_use() -> None:
    host, aside = (cell(0, cores=4, threads=2),), frozenset({1, 2, 3, 5, 6, 7})
    three = fitted(ask(vcpus=3, dedicated=True), host, aside, ())
    assert list(three.cells[0].cpus.values()) == [1, 5, 2]
    one = fitted(ask(vcpus=1, dedicated=True), host, aside, [three.as_dict()])
    assert one.pinned == {6}  # the other half of that core, not a new one


@pytest.mark.parametrize(
    ("request_", "host", "aside", "reason"),
    [
        (ask(), (), ASIDE, "its NUMA topology is not known yet: novactl host check looks"),
        (ask(dedicated=True), TWO, frozenset(), "dedicated cpus: 2 wanted, the host has set none aside"),
        (ask(nodes=3), TWO, ASIDE, "numa nodes: 3 wanted, the host has 2"),
        (
            ask(nodes=2, vcpus=3, dedicated=True),
            TWO,
            ASIDE,
            "dedicated cpus: 3 wanted on each of 2 cells, 1 have that,"
            " 3 free on one cell of the host (0 of 5 held)",
        ),
        (
            ask(memory_mib=8000),
            TWO,
            ASIDE,
            "memory of a cell: 8000 MiB wanted, 7168 MiB free on one cell of the host",
        ),
        (
            ask(memory_mib=4096, page_kib=2048),
            TWO,
            ASIDE,
            "pages of 2048 KiB: 4096 MiB wanted, 2048 MiB free on one cell of the host",
        ),
        (
            ask(page_kib=16384),
            TWO,
            ASIDE,
            f"pages of 16384 KiB: the host has no such that the guest's 1024 MiB fill {SIZES}",
        ),
        (
            ask(memory_mib=1025, page_kib=LARGE),
            TWO,
            ASIDE,
            f"huge pages: the host has no such that the guest's 1025 MiB fill {SIZES}",
        ),
        (
            ask(),
            (cell(0, cores=2),),
            frozenset({0, 1}),
            "shared cpus: 2 wanted, the largest cell that has the memory has 0",
        ),
        (ask(vcpus=5), TWO, frozenset(), "shared cpus: 5 wanted, the largest cell that has the memory has 4"),
        (
            ask(nodes=2, vcpus=3),
            TWO,
            ASIDE,
            "shared cpus: 3 wanted on each of 2 cells, 0 have that,"
            " the largest cell that has the memory has 2",
        ),
    ],
)
def test_reasons(request_: NumaRequest, host: Any, aside: Any, reason: str) -> None:
    assert fit(request_, host, aside, ()) == reason


def test_processors_of_a_cell_are_shared_as_far_as_the_ratio_goes() -> None:
    """The fullest cell first, but no more vcpus on it than the host's ratio has for it."""
    held: list[Any] = []
    for at in (1, 1, 0, 0):
        found = fitted(ask(vcpus=4), TWO, frozenset(), held, 2.0)
        assert [(one.cell, dict(one.cpus)) for one in found.cells] == [(at, {})]
        held.append(found.as_dict())
    reason = "shared cpus: 1 wanted, 0 free on one cell that has the memory (16 of 16 held)"
    assert fit(ask(vcpus=1), TWO, frozenset(), held, 2.0) == reason
    pinned = fitted(ask(dedicated=True), (cell(0),), frozenset({2, 3}), ())
    fitted(ask(), (cell(0),), frozenset({2, 3}), [pinned.as_dict()], 1.0)  # theirs are not shared
    reason = "shared cpus: 2 wanted, 1 free on one cell that has the memory (0 of 1 held)"
    assert fit(ask(vcpus=2), (cell(0, cores=2),), frozenset(), (), 0.5) == reason


def test_large_pages_are_the_largest_that_there_are_enough_of() -> None:
    first = fitted(ask(vcpus=1, memory_mib=2048, page_kib=LARGE), TWO, ASIDE, ())
    assert [(one.cell, one.page_kib) for one in first.cells] == [(1, 1 << 20)]
    second = fitted(ask(vcpus=1, page_kib=LARGE), TWO, ASIDE, [first.as_dict()])
    assert [(one.cell, one.page_kib) for one in second.cells] == [(0, 2048)]


# --- whatever comes ---

cells = st.builds(
    cell,
    st.just(0),
    cores=st.integers(1, 4),
    threads=st.integers(1, 2),
    memory_mib=st.integers(1024, 16384),
    mib2=st.integers(0, 600),
    gib1=st.integers(0, 3),
)


@st.composite
def hosts(draw: Any) -> tuple[tuple[HostCell, ...], frozenset[int]]:
    """A few cells, numbered through, and some of their processors set aside."""
    found, first = [], 0
    for number, one in enumerate(draw(st.lists(cells, min_size=1, max_size=3))):
        cores = tuple(tuple(first + cpu for cpu in core) for core in one.cores)
        first += len(one.cpus)
        memory = one.memory_mib + one.huge_mib
        found.append(HostCell(id=number * 2, cores=cores, memory_mib=memory, pages=one.pages))
    aside = draw(st.frozensets(st.integers(0, first - 1)))
    return tuple(found), aside


requests = st.builds(
    NumaRequest,
    nodes=st.integers(1, 3),
    vcpus=st.integers(1, 3),
    memory_mib=st.sampled_from([2, 100, 512, 1024, 2048]),
    dedicated=st.booleans(),
    page_kib=st.sampled_from([None, LARGE, *PAGES]),
)


@settings(max_examples=300, deadline=None)
@given(hosts(), st.lists(requests, max_size=12), st.sampled_from([0.5, 1.0, 1.5, 4.0]), st.data())
def test_nothing_is_given_twice_and_nothing_more_than_there_is(
    host: Any, asked: Any, ratio: float, data: Any
) -> None:
    topology, aside = host
    held: list[Fit] = []
    for request in asked:
        found = fit(request, topology, aside, [one.as_dict() for one in held], ratio)
        if isinstance(found, Fit):
            check_shape(request, found)
            held.append(found)
        else:
            assert found
        if held and data.draw(st.booleans(), label="one goes"):
            held.pop(data.draw(st.integers(0, len(held) - 1)))
        check_room(topology, aside, held, ratio)


def check_shape(request: NumaRequest, found: Fit) -> None:
    assert Fit.from_dict(found.as_dict()) == found
    assert len({one.cell for one in found.cells}) == len(found.cells) == request.nodes
    numbers = [vcpu for one in found.cells for vcpu in one.vcpus]
    assert numbers == list(range(request.nodes * request.vcpus))
    for one in found.cells:
        assert one.memory_mib == request.memory_mib and len(one.vcpus) == request.vcpus
        assert set(one.cpus) == (set(one.vcpus) if request.dedicated else set())
        assert bool(one.page_kib) == request.huge
        assert request.page_kib in (None, LARGE, one.page_kib)


def check_room(topology: Any, aside: frozenset[int], held: list[Fit], ratio: float) -> None:
    pinned = [cpu for one in held for cpu in one.pinned]
    assert len(pinned) == len(set(pinned)) and set(pinned) <= aside
    by_id = {one.id: one for one in topology}
    used: Counter[tuple[int, int]] = Counter()
    sharing: Counter[int] = Counter()
    for one in held:
        for part in one.cells:
            assert set(part.cpus.values()) <= by_id[part.cell].cpus
            used[part.cell, part.page_kib] += part.memory_mib
            sharing[part.cell] += 0 if part.cpus else len(part.vcpus)
            assert part.cpus or len(part.vcpus) <= len(by_id[part.cell].cpus - aside)
    for number, vcpus in sharing.items():
        assert vcpus <= len(by_id[number].cpus - aside) * ratio
    for (number, page), memory in used.items():
        there = by_id[number]
        room = page * there.pages[page] // 1024 if page else there.memory_mib - there.huge_mib
        assert memory <= room


@settings(max_examples=100, deadline=None)
@given(hosts())
def test_a_host_remembers_its_cells(host: Any) -> None:
    topology, aside = host
    assert topology_of({"topology": [one.as_dict() for one in topology]}) == topology
    assert topology_of({}) == ()
    shared = shared_cpus(topology, aside)
    assert {cpu for cpus in shared.values() for cpu in cpus} == {
        cpu for one in topology for cpu in one.cpus
    } - aside


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"cells": []},
        {"cells": [{"cell": 0}]},
        {"cells": [{"cell": "0", "vcpus": [0], "cpus": {}, "memory_mib": 1, "page_kib": 0}]},
        {"cells": [{"cell": 0, "vcpus": [0], "cpus": {"0": -1}, "memory_mib": 1, "page_kib": 0}]},
        {"cells": [{"cell": 0, "vcpus": [0, 1], "cpus": {"0": 1}, "memory_mib": 1, "page_kib": 0}]},
        {"cells": [{"cell": True, "vcpus": [0], "cpus": {}, "memory_mib": 1, "page_kib": 0}]},
    ],
)
def test_what_was_never_a_fit(wrong: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        Fit.from_dict(wrong)
