"""Nothing is given twice: capacity, names, addresses; whatever the order, and whoever else asks."""

import multiprocessing
import random
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novactl.actions.boot import _ports
from novactl.db import catalogue, hosts, instances
from novactl.db.sqlite import SqliteDatabase
from novactl.errors import DatabaseError, NotFound, Refused
from novactl.objects.host import Resources
from novactl.objects.network import Network
from novactl.objects.request import NetworkRequest
from novactl.scheduler.filters import Spec
from novactl.scheduler.select import candidates
from tests.support import fleet, scratch

RESOURCES = ("vcpus", "memory_mib", "disk_gib")


@contextmanager
def temporary() -> Iterator[SqliteDatabase]:
    with TemporaryDirectory(prefix="novactl-test-", dir=scratch.quick_directory()) as directory:
        db = scratch.database(Path(directory) / "novactl.db")
        yield db
        db.close()


@pytest.fixture
def db(quick: Path) -> Iterator[SqliteDatabase]:
    database = scratch.database(quick / "novactl.db")
    yield database
    database.close()


def held(db: SqliteDatabase) -> dict[str, dict[str, int]]:
    """What the holds of each host add up to."""
    with db.reading() as tx:
        rows = tx.all(
            "SELECT host, SUM(vcpus) AS vcpus, SUM(memory_mib) AS memory_mib, SUM(disk_gib) AS disk_gib"
            " FROM holds GROUP BY host"
        )
    return {row.pop("host"): row for row in rows}


def check_sums(db: SqliteDatabase) -> None:
    """used == the sum of the holds, on every host."""
    sums = held(db)
    with db.reading() as tx:
        for host in hosts.everything(tx):
            assert host.used() == sums.get(host.name, dict.fromkeys(RESOURCES, 0)), host.name


@st.composite
def acts(draw: st.DrawFn) -> tuple[Any, ...]:
    """Something that is done to a small fleet."""
    host = draw(st.sampled_from(["kvm1", "kvm2"]))
    match draw(st.sampled_from(["claim", "claim", "claim", "release", "ratio", "reserve", "state"])):
        case "claim":
            amounts = draw(st.tuples(st.integers(0, 20), st.integers(0, 5000), st.integers(0, 120)))
            return (
                "claim",
                host,
                draw(st.integers(1, 9)),
                Resources(**dict(zip(RESOURCES, amounts, strict=True))),
            )
        case "release":
            return ("release", host, draw(st.integers(1, 9)))
        case "ratio":
            ratio = draw(st.floats(0.01, 16, allow_nan=False))
            return ("set", host, {draw(st.sampled_from(["cpu_ratio", "memory_ratio", "disk_ratio"])): ratio})
        case "reserve":
            column = draw(st.sampled_from(["reserved_", "foreign_"])) + draw(st.sampled_from(RESOURCES))
            return ("set", host, {column: draw(st.integers(0, 200))})
        case _:
            return (
                "set",
                host,
                draw(st.sampled_from([{"enabled": 0}, {"enabled": 1}, {"state": "down"}, {"state": "up"}])),
            )


@settings(max_examples=60, deadline=None)
@given(st.lists(acts(), max_size=25))
def test_no_sequence_overcommits_or_loses_a_hold(sequence: list[tuple[Any, ...]]) -> None:
    with temporary() as db:
        fleet.furnish(db, hosts_=2)
        expected: dict[tuple[str, int], Resources] = {}
        for act in sequence:
            with db.writing() as tx:
                host = hosts.get(tx, act[1])
                if act[0] == "set":
                    hosts.update(tx, host.name, **act[2])
                    continue
                key = (host.name, act[2])
                if act[0] == "release":
                    hosts.release(tx, host.name, fleet.uuid(act[2]))
                    hosts.release(tx, host.name, fleet.uuid(act[2]))
                    expected.pop(key, None)
                elif key not in expected:
                    amounts = act[3]
                    limit, used = host.capacity(), host.used()
                    fits = all(used[r] + n <= limit[r] for r, n in vars(amounts).items())
                    passes = fits and host.enabled and host.state == "up"
                    given = hosts.claim(tx, host.name, fleet.uuid(act[2]), amounts)
                    if all(vars(amounts).values()):  # every instance takes some of each
                        assert given == passes, (amounts, limit, used)
                    assert not given or passes
                    if given:
                        expected[key] = amounts
            check_sums(db)
        with db.reading() as tx:
            rows = tx.all("SELECT * FROM holds")
        assert {(row["host"], row["instance_uuid"]): row["vcpus"] for row in rows} == {
            (host, fleet.uuid(n)): amounts.vcpus for (host, n), amounts in expected.items()
        }


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 5000)] * 3),
    reserved=st.tuples(*[st.integers(0, 5000)] * 3),
    ratios=st.tuples(*[st.floats(0.01, 20, allow_nan=False)] * 3),
    used=st.tuples(*[st.integers(0, 5000)] * 3),
    wanted=st.tuples(*[st.integers(1, 5000)] * 3),
)
def test_the_scheduler_and_the_claim_agree(
    sizes: tuple[int, ...],
    reserved: tuple[int, ...],
    ratios: tuple[float, ...],
    used: tuple[int, ...],
    wanted: tuple[int, ...],
) -> None:
    """A host that passes the filters can be claimed, and no other: boot claims what the scheduler chose in
    the same transaction and looks at nothing in between."""
    db = _shared()
    values = dict(zip(RESOURCES, sizes, strict=True))
    values |= {f"reserved_{r}": n for r, n in zip(RESOURCES, reserved, strict=True)}
    values |= dict(zip(("cpu_ratio", "memory_ratio", "disk_ratio"), ratios, strict=True))  # type: ignore[arg-type]
    values |= {f"{r}_used": n for r, n in zip(RESOURCES, used, strict=True)}
    with db.writing() as tx:
        tx.run("DELETE FROM holds")
        tx.run("DELETE FROM hosts")
        hosts.add(tx, fleet.host(**values))
        amounts = Resources(**dict(zip(RESOURCES, wanted, strict=True)))
        passed, _ = candidates(hosts.everything(tx), Spec(resources=amounts))
        assert hosts.claim(tx, "kvm1", fleet.uuid(1), amounts) == bool(passed)


_kept: list[Any] = []


def _shared() -> SqliteDatabase:
    if not _kept:
        context = temporary()
        _kept.extend([context, context.__enter__()])
    db: SqliteDatabase = _kept[1]
    return db


def test_a_claim_that_does_not_fit_leaves_no_trace(db: SqliteDatabase) -> None:
    fleet.furnish(db)
    with db.writing() as tx:
        assert hosts.claim(tx, "kvm1", fleet.uuid(1), Resources(vcpus=16, memory_mib=3584, disk_gib=100))
        assert not hosts.claim(tx, "kvm1", fleet.uuid(2), Resources(vcpus=1, memory_mib=1, disk_gib=1))
        assert not hosts.claim(tx, "nowhere", fleet.uuid(2), Resources(vcpus=1, memory_mib=1, disk_gib=1))
        assert hosts.holds_of(tx, fleet.uuid(2)) == []
        hosts.release(tx, "kvm1", fleet.uuid(2))
    check_sums(db)


def test_one_instance_has_one_hold_of_a_role_on_a_host(db: SqliteDatabase) -> None:
    fleet.furnish(db)
    amounts = Resources(vcpus=1, memory_mib=1, disk_gib=1)
    with db.writing() as tx:
        assert hosts.claim(tx, "kvm1", fleet.uuid(1), amounts)
        assert hosts.claim(tx, "kvm1", fleet.uuid(1), amounts, role="move-target")
    with pytest.raises(DatabaseError, match=r"UNIQUE"), db.writing() as tx:
        hosts.claim(tx, "kvm1", fleet.uuid(1), amounts)
    check_sums(db)


def test_releasing_below_a_lowered_ratio_works(db: SqliteDatabase) -> None:
    fleet.furnish(db)
    with db.writing() as tx:
        assert hosts.claim(tx, "kvm1", fleet.uuid(1), Resources(vcpus=16, memory_mib=2048, disk_gib=50))
        hosts.update(tx, "kvm1", cpu_ratio=0.5, reserved_memory_mib=9999)
        hosts.release(tx, "kvm1", fleet.uuid(1))
        assert hosts.get(tx, "kvm1").used() == dict.fromkeys(RESOURCES, 0)


def test_hosts(db: SqliteDatabase) -> None:
    fleet.furnish(db, hosts_=2, labels={"rack": "é"}, host_keys=("ssh-ed25519 AAAA",))
    with db.writing() as tx:
        assert hosts.get(tx, "kvm2").labels == {"rack": "é"}
        assert hosts.get(tx, "kvm2").host_keys == ("ssh-ed25519 AAAA",)
        hosts.update(tx, "kvm2", labels={"a": "b"}, enabled=0)
        assert (hosts.get(tx, "kvm2").labels, hosts.get(tx, "kvm2").enabled) == ({"a": "b"}, False)
        assert hosts.get(tx, "kvm2").version == 1
        with pytest.raises(NotFound, match=r"^host 'kvm' does not exist$") as caught:
            hosts.get(tx, "kvm")
        assert (caught.value.code, set(caught.value.candidates)) == (4, {"kvm1", "kvm2"})
        with pytest.raises(NotFound, match=r"^host kvm9 is not in the database$"):
            hosts.update(tx, "kvm9", enabled=0)
        hosts.remove(tx, "kvm2")
        assert [host.name for host in hosts.everything(tx)] == ["kvm1"]
    with pytest.raises(DatabaseError, match=r"UNIQUE"), db.writing() as tx:
        hosts.add(tx, fleet.host("kvm1", id="another"))


# --- several processes at once ---

WORKERS = 4
ROUNDS = 25


def _claims(path: Path, worker: int, barrier: Any, answers: Any) -> None:
    """A process that claims, and sometimes gives back, as fast as it can."""
    db, chance = SqliteDatabase(path), random.Random(worker)
    kept: dict[int, str] = {}
    barrier.wait()
    for turn in range(ROUNDS):
        number = worker * 1000 + turn
        amounts = Resources(vcpus=chance.randint(1, 3), memory_mib=chance.choice([64, 128]), disk_gib=1)
        host = chance.choice(["kvm1", "kvm2"])
        with db.writing() as tx:
            if hosts.claim(tx, host, fleet.uuid(number), amounts):
                kept[number] = host
        if kept and chance.random() < 0.3:
            number, host = kept.popitem()
            with db.writing() as tx:
                hosts.release(tx, host, fleet.uuid(number))
    db.close()
    answers.put(sorted((fleet.uuid(number), host) for number, host in kept.items()))


def in_processes(work: Any, path: Path) -> list[Any]:
    """What `work` answered in each of several processes that began together."""
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(WORKERS), context.Queue()
    workers = [
        context.Process(target=work, args=(path, number, barrier, answers)) for number in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    return found


def test_processes_that_claim_at_once(db: SqliteDatabase) -> None:
    fleet.furnish(db, hosts_=2)
    db.close()  # no connection crosses a fork
    believed = {pair for found in in_processes(_claims, db.path) for pair in found}
    with db.reading() as tx:
        rows = tx.all("SELECT * FROM holds")
        known = hosts.everything(tx)
    assert {(row["instance_uuid"], row["host"]) for row in rows} == believed  # none lost, none doubled
    assert len(believed) > 5
    for host in known:
        limit = host.capacity()
        assert all(used <= limit[resource] for resource, used in host.used().items())
        assert any(used + 3 > limit[resource] for resource, used in host.used().items())  # it was full
    check_sums(db)


def _names(path: Path, worker: int, barrier: Any, answers: Any) -> None:
    """A process that wants the same names and the lowest addresses as all others."""
    db = SqliteDatabase(path)
    won = []
    barrier.wait()
    for turn in range(ROUNDS):
        number = worker * 1000 + turn
        uuid, name = fleet.uuid(number), f"web{turn}"
        try:
            with db.writing() as tx:
                wanted = [NetworkRequest(network="lan")]
                (port,) = _ports(tx, uuid, wanted, [catalogue.network(tx, "lan")])
                instances.add(tx, fleet.instance(number, name=name))
                instances.add_port(tx, uuid, "id-lan", port)
            won.append((name, port.ip, port.mac))
        except DatabaseError as error:
            assert "instances.live_name" in error.message
    db.close()
    answers.put(won)


def test_processes_that_want_the_same_names_and_addresses(db: SqliteDatabase) -> None:
    fleet.furnish(db)
    db.close()
    won = [item for found in in_processes(_names, db.path) for item in found]
    assert sorted(name for name, _, _ in won) == sorted(f"web{turn}" for turn in range(ROUNDS))
    assert len({ip for _, ip, _ in won}) == len({mac for _, _, mac in won}) == ROUNDS
    with db.reading() as tx:
        assert set(instances.taken_addresses(tx, "id-lan")) == {ip for _, ip, _ in won}


def _first(path: Path, worker: int, barrier: Any, answers: Any) -> None:
    """A process that finds no database and makes one, as all others do."""
    db = SqliteDatabase(path)
    barrier.wait()
    try:
        db.create(f"fleet-{worker}")
        answers.put(db.fleet())
    except BaseException as error:  # noqa: BLE001 - told to the test
        answers.put(repr(error))
    db.close()


def test_processes_that_make_the_database_at_once(tmp_path: Path) -> None:
    for turn in range(5):
        fleets = in_processes(_first, tmp_path / str(turn) / "novactl.db")
        assert len(set(fleets)) == 1
        assert fleets[0].startswith("fleet-")


# --- addresses ---


def test_addresses_are_the_lowest_free_and_unique(db: SqliteDatabase) -> None:
    fleet.furnish(db)
    small = fleet.network("small", id="id-small", cidr="198.51.100.0/29", gateway="198.51.100.1")
    with db.writing() as tx:
        catalogue.add_network(tx, small)
        found = []
        for number in range(1, 6):
            (port,) = _ports(tx, fleet.uuid(number), [NetworkRequest(network="small")], [small])
            instances.add(tx, fleet.instance(number))
            instances.add_port(tx, fleet.uuid(number), small.id, port)
            found.append(port.ip)
        assert found == [f"198.51.100.{n}" for n in (2, 3, 4, 5, 6)]
        with pytest.raises(
            Refused, match=r"^network small \(198.51.100.0/29\) has no free address$"
        ) as caught:
            list(_ports(tx, fleet.uuid(9), [NetworkRequest(network="small")], [small]))
        assert caught.value.code == 5
        instances.bury(tx, fleet.uuid(3), fleet.WHEN, None)
        (again,) = _ports(tx, fleet.uuid(9), [NetworkRequest(network="small")], [small])
        assert again.ip == "198.51.100.4"


@pytest.mark.parametrize(
    ("ip", "message"),
    [
        ("192.0.2.0", "is not one of network lan"),
        ("192.0.2.255", "is not one of network lan"),
        ("192.0.2.1", "is not one of network lan"),
        ("198.51.100.7", "is not one of network lan"),
        ("192.0.2.10", "of network lan is taken"),
    ],
)
def test_addresses_that_are_refused(db: SqliteDatabase, ip: str, message: str) -> None:
    fleet.furnish(db)
    fleet.add_instance(db, fleet.instance(1, ports=(fleet.port(fleet.uuid(1)),)))
    lan = fleet.network()
    with db.writing() as tx, pytest.raises(Refused, match=message) as caught:
        list(_ports(tx, fleet.uuid(2), [NetworkRequest(network="lan", ip=ip)], [lan]))
    assert caught.value.code == 5


def test_two_nics_on_one_network_get_two_addresses(db: SqliteDatabase) -> None:
    fleet.furnish(db)
    lan: Network = fleet.network()
    with db.writing() as tx:
        one, two = _ports(tx, fleet.uuid(2), [NetworkRequest(network="lan")] * 2, [lan, lan])
        assert (one.ip, two.ip) == ("192.0.2.3", "192.0.2.4")  # .2 is the name server
        assert len({one.mac, two.mac, one.tap, two.tap}) == 4
        same = [NetworkRequest(network="lan", ip="192.0.2.9")] * 2
        with pytest.raises(Refused, match=r"is taken"):
            list(_ports(tx, fleet.uuid(2), same, [lan, lan]))


def test_the_database_keeps_addresses_and_macs_unique(db: SqliteDatabase) -> None:
    fleet.furnish(db)
    fleet.add_instance(db, fleet.instance(1, ports=(fleet.port(fleet.uuid(1)),)))
    fleet.add_instance(db, fleet.instance(2))
    first = fleet.port(fleet.uuid(1))
    for clash in ({"ip": first.ip}, {"mac": first.mac, "ip": "192.0.2.99"}):
        with pytest.raises(DatabaseError, match=r"UNIQUE") as caught, db.writing() as tx:
            instances.add_port(tx, fleet.uuid(2), "id-lan", fleet.port(fleet.uuid(2), **clash))
        assert isinstance(caught.value.__cause__, sqlite3.IntegrityError)
