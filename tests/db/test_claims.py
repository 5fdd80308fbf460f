"""Nothing is given twice: capacity, names, addresses; whatever the order, and whoever else asks."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novactl.actions import addresses
from novactl.db import catalogue, hosts, instances, placement
from novactl.db.session import Database, Tx
from novactl.errors import DatabaseError, NotFound, Refused
from novactl.objects.host import Host, Resources
from novactl.objects.network import Network, Port
from novactl.objects.request import NetworkRequest
from novactl.scheduler.select import Selection
from novactl.scheduler.spec import Spec
from tests.support import fleet, scratch
from tests.support.databases import Place, in_processes

RESOURCES = ("vcpus", "memory_mib", "disk_gib")


def _ports(
    tx: Tx, uuid: str, wanted: Sequence[NetworkRequest], networks: Sequence[Network]
) -> Iterator[Port]:
    return addresses.ports(tx, addresses.drafts(uuid, networks), wanted, networks)


def examples(kind: str, files: int, servers: int) -> Any:
    """How many hypothesis tries: a file is made and asked more quickly than a server."""
    return settings(max_examples=files if kind == "sqlite" else servers, deadline=None)


@contextmanager
def temporary(where: Place) -> Iterator[Database]:
    with TemporaryDirectory(prefix="novactl-test-", dir=scratch.quick_directory()) as directory:
        db = where.fresh(Path(directory))
        yield db
        where.release(db)


def held(db: Database) -> dict[str, dict[str, int]]:
    """What the holds of each host add up to."""
    with db.reading() as tx:
        rows = tx.all(
            "SELECT host, SUM(vcpus) AS vcpus, SUM(memory_mib) AS memory_mib, SUM(disk_gib) AS disk_gib"
            " FROM holds GROUP BY host"
        )
    return {row.pop("host"): row for row in rows}


def check_sums(db: Database) -> None:
    """used == the sum of the holds, on every host."""
    sums = held(db)
    with db.reading() as tx:
        for host in hosts.everything(tx):
            assert host.used() == sums.get(host.name, dict.fromkeys(RESOURCES, 0)), host.name


@st.composite
def acts(draw: st.DrawFn) -> tuple[Any, ...]:
    """Something that is done to a small fleet."""
    host = draw(st.sampled_from(["kvm1", "kvm2"]))
    match draw(st.sampled_from(["claim", "claim", "change", "release", "ratio", "reserve", "state"])):
        case "claim" | "change" as what:
            amounts = draw(st.tuples(st.integers(0, 20), st.integers(0, 5000), st.integers(0, 120)))
            return (
                what,
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


def test_no_sequence_overcommits_or_loses_a_hold(everywhere: Place) -> None:
    @examples(everywhere.kind, 60, 30)
    @given(st.lists(acts(), max_size=25))
    def holds(sequence: list[tuple[Any, ...]]) -> None:
        with temporary(everywhere) as db:
            carried_out(db, sequence)

    holds()


def fits(host: Host, amounts: Resources, before: Resources | None = None) -> bool:
    """Whether all that grows has room: what shrinks, or stays, is never refused."""
    limit, used = host.capacity(), host.used()
    held = vars(before) if before else dict.fromkeys(RESOURCES, 0)
    grown = {r: n - held[r] for r, n in vars(amounts).items()}
    return all(n <= 0 or used[r] + n <= limit[r] for r, n in grown.items())


def carried_out(db: Database, sequence: list[tuple[Any, ...]]) -> None:
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
            elif act[0] == "change":
                before = expected.get(key)
                given = hosts.change_hold(tx, host.name, fleet.uuid(act[2]), act[3])
                assert given == (before is not None and fits(host, act[3], before))
                if given:
                    expected[key] = act[3]
            elif key not in expected:
                passes = fits(host, act[3]) and host.enabled and host.state == "up"
                assert hosts.claim(tx, host.name, fleet.uuid(act[2]), act[3]) == passes
                if passes:
                    expected[key] = act[3]
        check_sums(db)
    with db.reading() as tx:
        rows = tx.all("SELECT * FROM holds")
    assert {(row["host"], row["instance_uuid"]): row["vcpus"] for row in rows} == {
        (host, fleet.uuid(n)): amounts.vcpus for (host, n), amounts in expected.items()
    }


@pytest.mark.parametrize("ratios", [st.floats(0.01, 20), st.integers(1, 2000).map(lambda n: n / 100)])
def test_the_scheduler_and_the_claim_agree(db: Database, everywhere: Place, ratios: Any) -> None:
    """A host that passes the filters can be claimed, and no other: boot claims what the scheduler chose in
    the same transaction and looks at nothing in between."""
    sizes = st.tuples(*[st.integers(1, 5000)] * 3)

    @examples(everywhere.kind, 150, 150)
    @given(sizes, st.tuples(*[st.integers(0, 5000)] * 3), st.tuples(*[ratios] * 3), sizes, sizes)
    def agree(sizes: Any, reserved: Any, ratios: Any, used: Any, wanted: Any) -> None:
        values = dict(zip(RESOURCES, sizes, strict=True))
        values |= {f"reserved_{r}": n for r, n in zip(RESOURCES, reserved, strict=True)}
        values |= dict(zip(("cpu_ratio", "memory_ratio", "disk_ratio"), ratios, strict=True))
        values |= {f"{r}_used": n for r, n in zip(RESOURCES, used, strict=True)}
        with db.writing() as tx:
            tx.run("DELETE FROM holds")
            tx.run("DELETE FROM hosts")
            hosts.add(tx, fleet.host(**values))
            amounts = Resources(**dict(zip(RESOURCES, wanted, strict=True)))
            best = Selection(placement.candidates(tx, counted=False), Spec(resources=amounts)).best()
            assert hosts.claim(tx, "kvm1", fleet.uuid(1), amounts) == bool(best)

    agree()


def test_a_claim_that_does_not_fit_leaves_no_trace(db: Database) -> None:
    fleet.furnish(db)
    with db.writing() as tx:
        assert hosts.claim(tx, "kvm1", fleet.uuid(1), Resources(vcpus=16, memory_mib=3584, disk_gib=100))
        assert not hosts.claim(tx, "kvm1", fleet.uuid(2), Resources(vcpus=1, memory_mib=1, disk_gib=1))
        assert not hosts.claim(tx, "nowhere", fleet.uuid(2), Resources(vcpus=1, memory_mib=1, disk_gib=1))
        assert hosts.holds_of(tx, fleet.uuid(2)) == []
        hosts.release(tx, "kvm1", fleet.uuid(2))
    check_sums(db)


def test_one_instance_has_one_hold_of_a_role_on_a_host(db: Database) -> None:
    fleet.furnish(db)
    amounts = Resources(vcpus=1, memory_mib=1, disk_gib=1)
    with db.writing() as tx:
        assert hosts.claim(tx, "kvm1", fleet.uuid(1), amounts)
        assert hosts.claim(tx, "kvm1", fleet.uuid(1), amounts, role="move-target")
    with pytest.raises(DatabaseError, match=r"UNIQUE|[Dd]uplicate"), db.writing() as tx:
        hosts.claim(tx, "kvm1", fleet.uuid(1), amounts)
    check_sums(db)


def test_releasing_below_a_lowered_ratio_works(db: Database) -> None:
    fleet.furnish(db)
    with db.writing() as tx:
        assert hosts.claim(tx, "kvm1", fleet.uuid(1), Resources(vcpus=16, memory_mib=2048, disk_gib=50))
        hosts.update(tx, "kvm1", cpu_ratio=0.5, reserved_memory_mib=9999)
        hosts.release(tx, "kvm1", fleet.uuid(1))
        assert hosts.get(tx, "kvm1").used() == dict.fromkeys(RESOURCES, 0)


def test_hosts(db: Database) -> None:
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
    with pytest.raises(DatabaseError, match=r"UNIQUE|[Dd]uplicate"), db.writing() as tx:
        hosts.add(tx, fleet.host("kvm1", id="another"))


# --- several processes at once ---

ROUNDS = 40


def _claims(db: Database, worker: int) -> tuple[list[tuple[str, str]], int]:
    """A process that claims, and sometimes gives back, as fast as it can: (what it has, how often it was
    refused)."""
    chance = random.Random(worker)
    kept: dict[int, str] = {}
    refused = 0
    for turn in range(ROUNDS):
        number = worker * 1000 + turn
        amounts = Resources(vcpus=chance.randint(1, 3), memory_mib=chance.choice([64, 128]), disk_gib=1)
        host = chance.choice(["kvm1", "kvm2"])
        claim = partial(hosts.claim, host=host, instance_uuid=fleet.uuid(number), amounts=amounts)
        if db.write(claim):
            kept[number] = host
        else:
            refused += 1
        if kept and chance.random() < 0.3:
            number, host = kept.popitem()
            db.write(partial(hosts.release, host=host, instance_uuid=fleet.uuid(number)))
    return sorted((fleet.uuid(number), host) for number, host in kept.items()), refused


def test_processes_that_claim_at_once(db: Database, everywhere: Place) -> None:
    fleet.furnish(db, hosts_=2)
    found = in_processes(_claims, lambda: everywhere.apart(db), 4)
    believed = {pair for pairs, _ in found for pair in pairs}
    assert sum(refused for _, refused in found) > 5  # the hosts were full
    with db.reading() as tx:
        rows = tx.all("SELECT * FROM holds")
        known = hosts.everything(tx)
    assert {(row["instance_uuid"], row["host"]) for row in rows} == believed  # none lost, none doubled
    assert len(believed) > 5
    for host in known:
        limit = host.capacity()
        assert all(used <= limit[resource] for resource, used in host.used().items())
    check_sums(db)


def _names(db: Database, worker: int) -> list[tuple[str, str | None, str]]:
    """A process that wants the same names and the lowest addresses as all others."""
    won = []
    for turn in range(ROUNDS):
        number = worker * 1000 + turn
        uuid, name = fleet.uuid(number), f"web{turn}"

        def work(tx: Tx, uuid: str = uuid, name: str = name, number: int = number) -> Port:
            wanted = [NetworkRequest(network="lan")]
            (port,) = _ports(tx, uuid, wanted, [catalogue.network(tx, "lan")])
            instances.add(tx, fleet.instance(number, name=name))
            instances.add_port(tx, uuid, "id-lan", port)
            return port

        try:
            port = db.write(work)
        except DatabaseError as error:
            assert "live_name" in error.message
        else:
            won.append((name, port.ip, port.mac))
    return won


def test_processes_that_want_the_same_names_and_addresses(db: Database, everywhere: Place) -> None:
    fleet.furnish(db)
    found = in_processes(_names, lambda: everywhere.apart(db), 4)
    won = [item for items in found for item in items]
    assert sorted(name for name, _, _ in won) == sorted(f"web{turn}" for turn in range(ROUNDS))
    assert len({ip for _, ip, _ in won}) == len({mac for _, _, mac in won}) == ROUNDS
    with db.reading() as tx:
        assert set(instances.taken_addresses(tx, "id-lan")) == {ip for _, ip, _ in won}


# --- addresses ---


def test_addresses_are_the_lowest_free_and_unique(db: Database) -> None:
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
    db.write(lambda tx: instances.bury(tx, fleet.uuid(3), fleet.WHEN, None))
    with db.writing() as tx:
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
def test_addresses_that_are_refused(db: Database, ip: str, message: str) -> None:
    fleet.furnish(db)
    fleet.add_instance(db, fleet.instance(1, ports=(fleet.port(fleet.uuid(1)),)))
    lan = fleet.network()
    with db.writing() as tx, pytest.raises(Refused, match=message) as caught:
        list(_ports(tx, fleet.uuid(2), [NetworkRequest(network="lan", ip=ip)], [lan]))
    assert caught.value.code == 5


def test_two_nics_on_one_network_get_two_addresses(db: Database) -> None:
    fleet.furnish(db)
    lan: Network = fleet.network()
    with db.writing() as tx:
        one, two = _ports(tx, fleet.uuid(2), [NetworkRequest(network="lan")] * 2, [lan, lan])
        assert (one.ip, two.ip) == ("192.0.2.3", "192.0.2.4")  # .2 is the name server
        assert len({one.mac, two.mac, one.tap, two.tap}) == 4
        same = [NetworkRequest(network="lan", ip="192.0.2.9")] * 2
        with pytest.raises(Refused, match=r"is taken"):
            list(_ports(tx, fleet.uuid(2), same, [lan, lan]))


def test_the_database_keeps_addresses_and_macs_unique(db: Database) -> None:
    fleet.furnish(db)
    fleet.add_instance(db, fleet.instance(1, ports=(fleet.port(fleet.uuid(1)),)))
    fleet.add_instance(db, fleet.instance(2))
    first = fleet.port(fleet.uuid(1))
    for clash in ({"ip": first.ip}, {"mac": first.mac, "ip": "192.0.2.99"}):
        with pytest.raises(DatabaseError, match=r"UNIQUE|[Dd]uplicate") as caught, db.writing() as tx:
            instances.add_port(tx, fleet.uuid(2), "id-lan", fleet.port(fleet.uuid(2), **clash))
        assert type(caught.value.__cause__).__name__ == "IntegrityError"
