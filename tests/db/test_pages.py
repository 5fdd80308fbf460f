"""Filters, order and pages of instances in SQL, against the same said in Python, on every database."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from novactl.db import pages
from novactl.db.pages import SORT_KEYS, Wanted
from novactl.db.session import Database
from novactl.errors import NotFound, UsageError
from novactl.objects.instance import Instance
from novactl.objects.states import PowerState, TaskState, VmState, status, words_of
from tests.support import fleet

NUMBER = 40
ODD = "100%_!' \"é\\ü"


def made(number: int) -> Instance:
    """Every one different from its neighbours, with much that looks like SQL, LIKE or JSON."""
    uuid = fleet.uuid(number * 7919 % 1009)
    states = list(VmState)[:-1]
    tasks = [None, None, *TaskState]
    return fleet.instance(
        number,
        uuid=uuid,
        name=f"{'Web' if number % 2 else 'db'}{number % 10}-{number}",
        project="other" if number % 13 == 0 else "default",
        host=None if number % 5 == 0 else f"kvm{number % 3 + 1}",
        vm_state=states[number % len(states)],
        task_state=tasks[number % len(tasks)],
        power_state=list(PowerState)[number % len(PowerState)],
        flavor=fleet.flavor(f"f{number % 3}", extra_specs={"name": "f1", "k": ODD}),
        image=None if number % 4 == 0 else fleet.image(f"img{number % 2}"),
        metadata={"role": "front" if number % 3 else ODD, "n": str(number % 4)},
        tags=("blue", ODD) if number % 4 == 1 else ("role",),
        created_at=f"2026-01-01T00:00:0{number % 4}.000000Z",
        launched_at=None if number % 6 == 0 else f"2026-01-02T00:00:0{number % 5}.000000Z",
        launch_index=number % 2,
        ports=(fleet.port(uuid, number % 3, ip=f"192.0.2.{number + 10}"),),
    )


@pytest.fixture
def everyone(db: Database) -> list[Instance]:
    fleet.furnish(db, hosts_=3)
    return [fleet.add_instance(db, made(number)) for number in range(1, NUMBER + 1)]


Fits = Callable[[Instance], bool]
FILTERS: dict[str, tuple[Wanted, Fits]] = {
    "all": (Wanted(), lambda i: True),
    "project": (Wanted(project="other"), lambda i: i.project == "other"),
    "host": (Wanted(host="kvm2"), lambda i: i.host == "kvm2"),
    "power": (Wanted(power_state="paused"), lambda i: i.power_state == "paused"),
    "name": (Wanted(name=re.compile("^Web.*[37]$")), lambda i: bool(re.search("^Web.*[37]$", i.name))),
    "metadata": (Wanted(selectors=(("role", "front"),)), lambda i: i.metadata["role"] == "front"),
    "odd metadata": (Wanted(selectors=(("role", ODD),)), lambda i: i.metadata["role"] == ODD),
    "case": (Wanted(selectors=(("role", "FRONT"),)), lambda i: False),
    "part of a value": (Wanted(selectors=(("role", "fro"),)), lambda i: False),
    "like": (Wanted(selectors=(("role", "%"),)), lambda i: False),
    "tag": (Wanted(selectors=(("blue", None),)), lambda i: "blue" in i.tags),
    "odd tag": (Wanted(selectors=((ODD, None),)), lambda i: ODD in i.tags),
    "tag and metadata": (
        Wanted(selectors=(("role", None), ("n", "2"))),
        lambda i: "role" in i.tags and i.metadata["n"] == "2",
    ),
    "flavor": (Wanted(flavor="f1"), lambda i: i.flavor.name == "f1"),
    "flavor by id": (Wanted(flavor="id-f2"), lambda i: i.flavor.name == "f2"),
    "image": (Wanted(image="img1"), lambda i: i.image is not None and i.image.name == "img1"),
    "address": (Wanted(ip="192.0.2.17"), lambda i: i.ports[0].ip == "192.0.2.17"),
    "addresses": (
        Wanted(ip=re.compile("[.]2[0-9]$")),
        lambda i: bool(re.search("[.]2[0-9]$", i.ports[0].ip)),
    ),
    "everything": (
        Wanted(project="default", host="kvm1", name=re.compile("b"), flavor="f0", selectors=(("role", ODD),)),
        lambda i: (
            (i.project, i.host, i.flavor.name, i.metadata["role"]) == ("default", "kvm1", "f0", ODD)
            and "b" in i.name
        ),
    ),
}


def oldest_first(instance: Instance) -> tuple[object, ...]:
    return instance.created_at, instance.launch_index, instance.name, instance.uuid


def test_filters(db: Database, everyone: list[Instance]) -> None:
    for what, (wanted, fits) in FILTERS.items():
        right = sorted(filter(fits, everyone), key=oldest_first)
        assert right or what in ("case", "part of a value", "like", "everything"), what
        with db.reading() as tx:
            assert [i.uuid for i in pages.page(tx, wanted)] == [i.uuid for i in right], what
            assert list(pages.names(tx, wanted).items()) == [(i.uuid, i.name) for i in right], what
            if what != "power":  # which does not choose hosts
                assert pages.hosts_of(tx, wanted) == sorted({i.host for i in right if i.host}), what


def test_what_comes_is_whole(db: Database, everyone: list[Instance]) -> None:
    with db.reading() as tx:
        found = {i.uuid: i for i in pages.page(tx, Wanted(limit=30, name=re.compile(".")))}
        whole = {i.uuid: i for i in pages.page(tx, Wanted())}
    assert len(found) == 30
    assert whole == {i.uuid: i for i in everyone}
    assert all(whole[uuid] == i for uuid, i in found.items())


def test_every_status_word(db: Database, everyone: list[Instance]) -> None:
    words = sorted({status(vm, task) for vm in VmState for task in (None, *TaskState)})
    seen = 0
    for word in words:
        right = sorted((i for i in everyone if i.status == word), key=oldest_first)
        seen += len(right)
        with db.reading() as tx:
            assert [i.uuid for i in pages.page(tx, Wanted(status=word))] == [i.uuid for i in right], word
    assert seen == NUMBER
    with pytest.raises(UsageError, match=r"^status 'nosuch' does not exist$") as caught:
        words_of("nosuch")
    assert caught.value.hint == f"there are {', '.join(words)}"


def key_of(instance: Instance, key: str) -> str:
    return str((instance.vm_state if key == "status" else getattr(instance, key)) or "")


@pytest.mark.parametrize("down", [False, True])
def test_order_and_pages(db: Database, everyone: list[Instance], down: bool) -> None:
    """Page by page is what all at once is, in every order, also with equal keys and with none."""
    for key in SORT_KEYS:
        wanted = Wanted(sort=((key, down), ("power_state", not down)), project="default")
        right = [i for i in everyone if i.project == "default"]
        right.sort(key=lambda i: i.uuid)
        right.sort(key=lambda i: i.power_state, reverse=not down)
        right.sort(key=lambda i: key_of(i, key), reverse=down)
        with db.reading() as tx:
            assert [i.uuid for i in pages.page(tx, wanted)] == [i.uuid for i in right], key
            for size, filters in ((7, {}), (3, {"name": re.compile("^db")})):
                walked: list[Instance] = []
                marker = None
                while part := pages.page(tx, replace(wanted, limit=size, marker=marker, **filters)):
                    walked += part
                    marker = part[-1].uuid
                    assert len(part) <= size
                expected = [i.uuid for i in right if not filters or i.name.startswith("db")]
                assert [i.uuid for i in walked] == expected, (key, size)


def test_the_default_order_in_pages(db: Database, everyone: list[Instance]) -> None:
    right = sorted(everyone, key=oldest_first)
    with db.reading() as tx:
        for n in range(0, NUMBER, 9):
            marker = right[n - 1].uuid if n else None
            found = pages.page(tx, Wanted(limit=9, marker=marker))
            assert [i.uuid for i in found] == [i.uuid for i in right[n : n + 9]]


def test_a_marker_that_is_none(db: Database, everyone: list[Instance]) -> None:
    others = next(i for i in everyone if i.project == "other")
    for marker in (fleet.uuid(99999), others.uuid):
        with (
            db.reading() as tx,
            pytest.raises(NotFound, match=rf"^marker {marker} is no instance$") as caught,
        ):
            pages.page(tx, Wanted(project="default", marker=marker))
        assert caught.value.code == 4


def test_the_hosts_of_a_page(db: Database, everyone: list[Instance]) -> None:
    """What a host says may bring one in that is recorded otherwise: then all hosts are meant."""
    with db.reading() as tx:
        assert pages.hosts_of(tx, Wanted(limit=1, sort=(("host", True),))) == ["kvm3"]
        assert pages.hosts_of(tx, Wanted(limit=1, status="ERROR")) == ["kvm1", "kvm2", "kvm3"]
        assert pages.hosts_of(tx, Wanted(limit=1, power_state="running", host="kvm2")) == ["kvm2"]
