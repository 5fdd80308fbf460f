"""db rebuild on simulated fleets: what comes back equals what was lost, but for what is said not to."""

import base64
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring, tostring

import pytest

from novactl.actions import restored
from novactl.actions.rebuild import EXPECTED_LOST, UNSEEN, Rebuild, Summary
from novactl.actions.rebuild_sources import Pinning, place
from novactl.db import aggregates, catalogue, groups, hosts, instances, projects, settings
from novactl.db.session import Database, dumps, meta, set_meta
from novactl.db.sqlite import SqliteDatabase
from novactl.db.tables import metadata
from novactl.errors import HostUnreachable, NeedsConfirmation, NovactlError, Refused, UsageError
from novactl.objects.aggregate import Aggregate
from novactl.objects.group import GroupPolicy, ServerGroup
from novactl.objects.host import Host
from novactl.objects.keypair import Keypair, fingerprint
from novactl.objects.names import INSTANCES_PATH
from novactl.objects.placement import Placement
from novactl.objects.policy import Policy
from novactl.objects.project import NOVA_LIMITS, Project
from novactl.objects.request import NetworkRequest
from novactl.objects.states import PowerState
from novactl.virt.domain import NAMESPACE
from tests.sim.actions import (
    back_up,
    boot,
    confirm,
    delete,
    describe,
    lock,
    migrate,
    offload,
    pause,
    reboot,
    rescue,
    resize,
    resume,
    revert,
    share,
    shelve,
    start,
    stop,
    suspend,
    unpause,
    unrescue,
    unshelve,
)
from tests.support import databases, scratch
from tests.support import fleet as records
from tests.support.sim import Fault, SimFleet, SimHost, SimHypervisor, settled

OTHERS = "22222222-2222-4333-8444-555555555555"
NOW = "2026-05-05T00:00:00.000000Z"
LAN, DMZ = NetworkRequest(network="lan"), NetworkRequest(network="dmz")


def key_of(host: str) -> str:
    return "ssh-ed25519 " + base64.b64encode(f"the key of {host}".encode()).decode()


class SimReach:
    """Hosts by the address where they answer, each with its key."""

    def __init__(self, fleet: SimFleet) -> None:
        self.fleet = fleet
        self.at = {f"{name}.example": host for name, host in fleet.hosts.items()}
        self.keys = {name: key_of(name) for name in fleet.hosts}
        self.seen: list[tuple[str, str]] = []

    def _host(self, address: str) -> SimHost:
        if address not in self.at:
            raise HostUnreachable(f"{address}: port 22: no answer")
        return self.at[address]

    def scan(self, address: str, port: int, jump: str | None) -> tuple[str, bytes]:
        key = self.keys[self._host(address).name]
        return key, base64.b64decode(key.split()[1])

    def hypervisor(self, host: Host, known: Iterable[Host]) -> Any:
        found = self._host(host.address)
        if self.keys[found.name] not in host.host_keys:
            raise HostUnreachable(f"{host.name}: the host key is not the pinned one")
        self.seen.append((host.name, host.user))
        assert host.instances_path == INSTANCES_PATH
        return SimHypervisor(found, "", self.fleet.clock, self.fleet.faults)


class Lost:
    """A fleet whose database is gone: what was in it, and a place for the next one."""

    def __init__(self, fleet: SimFleet, directory: Path) -> None:
        self.fleet = fleet
        self.reach = SimReach(fleet)
        self.before = tables(fleet.db)
        self.database: Database = SqliteDatabase(directory / "new.db")
        self.told: list[str] = []

    def rebuild(self, *words: str, dry: bool = False, **pinning: Any) -> Summary:
        work = Rebuild(self.database, self.fleet.store, NOW, self.told.append)
        work.look(self.reach, words, Pinning(**(pinning or {"accept_host_key": True})))
        rehearsed = work.rehearse()
        if dry:
            return rehearsed
        done = work.apply()
        assert done == rehearsed
        return done

    def refused(self, says: str, *words: str, error: type[NovactlError] = Refused, **pinning: Any) -> None:
        """It ends with these words and nothing was changed, here or there."""
        there = tables(self.database) if self.database.exists else None
        with pytest.raises(error, match=says):
            self.rebuild(*words, **pinning)
        assert (tables(self.database) if self.database.exists else None) == there


def tables(db: Database) -> dict[str, list[dict[str, Any]]]:
    with db.reading() as tx:
        return {name: tx.all(f"SELECT * FROM {name}") for name in sorted(metadata.tables)}


def kept(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
    """What must come back: all but EXPECTED_LOST, what is of deleted instances, and moves that have ended."""
    found = {}
    for table, all_rows in rows.items():
        lost = EXPECTED_LOST.get(table, ())
        if lost == ("*",):
            continue
        if table == "meta":
            all_rows = [row for row in all_rows if row["name"].partition(" ")[0] not in lost]
            lost = ()
        living = [row for row in all_rows if not row.get("deleted_at")]
        living = [row for row in living if table != "migrations" or row["status"] == "finished"]
        found[table] = sorted(
            repr({column: value for column, value in row.items() if column not in lost}) for row in living
        )
    return found


def furnish(fleet: SimFleet) -> None:
    """Host keys, a second network and a keypair."""
    with fleet.db.writing() as tx:
        for name in fleet.hosts:
            hosts.update(tx, name, host_keys=[key_of(name)], labels={"rack": name[-1]}, checked_at=NOW)
        catalogue.add_network(tx, records.network("dmz", cidr="198.51.100.0/24", gateway=None, dns=()))
        key = Keypair(name="me", fingerprint="SHA256:x", public_key="ssh-ed25519 AAAA me")
        for project in ("default", "other"):
            catalogue.add_keypair(tx, project, key)
        both = Aggregate(id="id-both", name="both", hosts=("kvm1", "kvm2"), metadata={"disk": "é"})
        aggregates.create(tx, both)
        for n, project in enumerate(("default", "other")):
            made = {"id": records.uuid(60 + n), "name": "web", "project": project}
            groups.create(tx, ServerGroup(policy=GroupPolicy.SOFT_AFFINITY, **made))
            limits = {"instances": 100, "keypairs": -1}
            projects.create(tx, Project(name=project, limits=limits, description="é", created_at=NOW))
        settings.put(tx, "weighers", {"memory": -1.5})
        settings.put(tx, "policies", [Policy(name="keep", do="keep-running").as_dict()])


WISHES = Placement(zone="nova", apart_from=(OTHERS,), required={"rack": "1"}, forbidden={"tier": None})


def gathered(fleet: SimFleet) -> None:
    """Some are in their project's group, with wishes, as their domains know; what is used is counted."""
    with fleet.db.writing() as tx:
        some = instances.everything(tx)[::2]
        for one in some:
            group = groups.find(tx, "web", one.project)
            instances.update(tx, one.uuid, group_id=group.id, placement=dumps(WISHES.as_dict()))
            instances.note_copy(tx, one.uuid, behind=True)
    for one in some:
        for locked in (True, False):
            assert fleet.run(lock(one.uuid, locked=locked)).code == 0
    counted(fleet)


def counted(fleet: SimFleet) -> None:
    """What projects use is as their instances have it."""
    with fleet.db.writing() as tx:
        for project in projects.everything(tx):
            projects.recount(tx, project.name)


def populate(fleet: SimFleet, seed: int, count: int = 12) -> None:
    """Instances of all kinds, at work for a while."""
    chance = random.Random(seed)
    names = [f"web{n}" for n in range(count)]
    for name in names:
        outcome = fleet.run(
            boot(
                name,
                flavor=chance.choice(["small", "disks"]),
                image=chance.choice(["tiny", "direct"]),
                networks=tuple(chance.choice([(LAN,), (LAN, DMZ), (DMZ, DMZ, LAN), ()])),
                user_data=chance.choice([None, b"#cloud-config\n", b"\0binary\xff"]),
                key=chance.choice([None, "me"]),
                metadata=chance.choice([{}, {"role": "web", "empty": "", "text": 'ä & <b> "q"'}]),
                tags=chance.choice([(), ("blue", "prod")]),
                project=chance.choice(["default", "default", "other"]),
                host=chance.choice([None, *fleet.hosts]),
            )
        )
        assert outcome.result == "done", outcome
    for _ in range(2 * count):
        verbs = [start, stop, stop, suspend, resume, pause, unpause, lock]
        verb, name = chance.choice(verbs), chance.choice(names)
        fleet.run(verb(name))
    fleet.run(lock(names[0], locked=False))
    fleet.run(delete(names[0], if_exists=True))
    for host in list(fleet.hosts)[:2]:  # a last operation on every host: it has the newest copy
        assert fleet.run(boot(f"last-{host}", host=host)).result == "done"
    gathered(fleet)
    with fleet.db.reading() as tx:
        ids = [row["id"] for row in tx.all("SELECT id FROM operations ORDER BY id")]
    for host in fleet.hosts.values():
        host.mark = f"{len(ids):012d}.{ids[-1]}"


def unlock(name: str) -> Any:
    return lock(name, locked=False)


def hard(name: str) -> Any:
    return reboot(name, hard=True)


@pytest.fixture
def make(quick: Path) -> Iterator[Callable[..., Lost]]:
    made: list[Lost] = []

    def lose(seed: int = 1, count: int = 12, hosts_: int = 2) -> Lost:
        directory = quick / f"fleet{len(made)}"
        directory.mkdir()
        sizes = {"vcpus": 64, "memory_mib": 1 << 16, "disk_gib": 1000}
        fleet = SimFleet(directory, hosts_=hosts_, seed=seed, **sizes)
        furnish(fleet)
        populate(fleet, seed, count)
        made.append(Lost(fleet, directory))
        return made[-1]

    yield lose
    for lost in made:
        lost.fleet.close()
        lost.database.close()


@pytest.fixture
def lost(make: Callable[..., Lost]) -> Lost:
    return make(count=5)


EVERY = ("kvm1.example", "kvm2")


# --- what comes back ---


@pytest.mark.parametrize("seed", range(6))
def test_all_comes_back_but_what_is_said_to_be_lost(make: Callable[..., Lost], seed: int) -> None:
    lost = make(seed)
    before = [repr(vars(host)) for host in lost.fleet.hosts.values()]
    done = lost.rebuild(*EVERY)
    assert kept(tables(lost.database)) == kept(lost.before)
    assert done.missing == [] and lost.told == []
    living = [row for row in lost.before["instances"] if not row["deleted_at"]]
    counts = done.as_dict()
    assert (counts["instances"], counts["hosts"], counts["networks"]) == (len(living), 2, 2)
    assert counts["secrets"] == len(lost.before["secrets"])
    assert (counts["aggregates"], counts["settings"]) == (1, 2)
    assert (counts["groups"], counts["projects"]) == (2, 2)
    assert {row["group_id"] for row in living} == {None, records.uuid(60), records.uuid(61)}
    assert lost.database.fleet() == scratch.FLEET
    for host in lost.fleet.hosts.values():  # only looked at
        del host.calls[:]
    for text, host in zip(before, lost.fleet.hosts.values(), strict=True):
        assert text.partition("'calls'")[0] == repr(vars(host)).partition("'calls'")[0]


def go_on(lost: Lost) -> None:
    """The fleet's database is the one that was made again."""
    fleet = lost.fleet
    fleet.db.close()
    fleet.path.write_bytes(b"")
    lost.database.close()
    fleet.path = lost.database.path  # type: ignore[attr-defined]
    fleet.db = SqliteDatabase(fleet.path)


def test_life_goes_on_with_what_was_rebuilt(lost: Lost) -> None:
    """Nothing is fenced, no host is taken for newer, and secrets open."""
    fleet = lost.fleet
    lost.rebuild(*EVERY)
    go_on(lost)
    with fleet.db.reading() as tx:
        every = instances.everything(tx)
        assert int(meta(tx, "serial") or 0) >= max(int(h.mark[:12]) for h in fleet.hosts.values())
        assert int(meta(tx, "catalogue") or 0) > max(host.copy[0] for host in fleet.hosts.values())
    with fleet.process() as process:
        for name, host in fleet.hosts.items():
            restored.check_mark(process.world, name, host.mark)
            known = process.journal.load(host.mark.partition(".")[2])
            assert (known.kind, str(known.state), known.records) == ("forgotten", "done", [])
    with fleet.db.reading() as tx:
        opened = [fleet.secrets.open(tx, one.user_data) for one in every if one.user_data]
    assert opened and set(opened) <= {b"#cloud-config\n", b"\0binary\xff"}
    for one in every:
        for verb in (unlock, hard, stop, start, delete):
            action = verb(one.uuid)
            outcome = fleet.run(action)
            assert outcome.code == 0, (one.name, outcome)
    assert fleet.run(boot("new", host="kvm1")).result == "done"
    counted(fleet)
    assert settled(fleet) == []


def test_again_and_on_what_is_there_nothing_changes(lost: Lost) -> None:
    lost.rebuild(*EVERY)
    first = tables(lost.database)
    again = lost.rebuild(*EVERY)
    assert again.made == [] and tables(lost.database) == first
    assert lost.rebuild("kvm2", "kvm1", "root@kvm1.example:22").made == []  # each host once
    assert tables(lost.database) == first


def test_half_of_the_hosts_and_then_the_rest(make: Callable[..., Lost]) -> None:
    lost = make(hosts_=2)
    done = lost.rebuild("kvm1.example")
    assert [(one["kind"], one["name"]) for one in done.missing] == [("host", "kvm2")]
    assert "--from names it" in done.missing[0]["message"]
    assert {row["host"] for row in tables(lost.database)["instances"]} == {"kvm1"}
    assert {row["name"] for row in tables(lost.database)["hosts"]} == {"kvm1", "kvm2"}
    assert [one["name"] for one in lost.rebuild("kvm1").missing] == ["kvm2"]
    assert lost.rebuild("kvm2").missing == []
    assert kept(tables(lost.database)) == kept(lost.before)
    with lost.database.reading() as tx:
        assert meta(tx, UNSEEN) is None


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_on_a_server(lost: Lost, kind: str) -> None:
    servers = databases.place(kind)
    lost.database = bare = servers.bare(Path("unused"))
    try:
        assert lost.rebuild(*EVERY).missing == [] and lost.rebuild(*EVERY).made == []
        assert kept(tables(bare)) == kept(lost.before)
    finally:
        lost.database = SqliteDatabase(lost.fleet.directory / "new.db")
        servers.discard(bare)


def test_into_one_that_was_initialised_and_is_empty(lost: Lost) -> None:
    lost.database.create(OTHERS)
    lost.rebuild(*EVERY)
    assert lost.database.fleet() == scratch.FLEET
    assert kept(tables(lost.database)) == kept(lost.before)


def test_into_an_older_copy_of_it(lost: Lost) -> None:
    """Only what is missing is added, though all else is refused there."""
    lost.rebuild(*EVERY)
    (victim, *_) = tables(lost.database)["instances"]
    with lost.database.writing() as tx:
        for table, column in (("ports", "instance_uuid"), ("secrets", "owner"), ("holds", "instance_uuid")):
            tx.run(f"DELETE FROM {table} WHERE {column} = :uuid", uuid=victim["uuid"])
        tx.run("DELETE FROM instances WHERE uuid = :uuid", uuid=victim["uuid"])
        for size in ("vcpus", "memory_mib", "disk_gib"):
            held = f"(SELECT COALESCE(SUM({size}), 0) FROM holds WHERE host = name)"
            tx.run(f"UPDATE hosts SET {size}_used = {held}")
        catalogue.remove_flavor(tx, "small")
        set_meta(tx, "restored", "a test says so")
    done = lost.rebuild(*EVERY)
    assert [one["name"] for one in done.made if one["kind"] == "instance"] == [victim["name"]]
    assert {one["kind"] for one in done.made} <= {"instance", "user-data"}  # a flavor stays deleted
    (back,) = [row for row in tables(lost.database)["instances"] if row["uuid"] == victim["uuid"]]
    assert back["epoch"] == victim["epoch"]


def test_a_dry_run_makes_no_database(lost: Lost) -> None:
    done = lost.rebuild(*EVERY, dry=True)
    assert done.as_dict()["instances"] > 0
    assert not lost.database.exists


def test_states_are_those_of_now(lost: Lost) -> None:
    uuids = [row["uuid"] for row in lost.before["instances"] if row["host"] == "kvm1"]
    domain = lost.fleet.hosts["kvm1"].domains[uuids[0]]
    for power, saved, states in (
        (PowerState.PAUSED, False, ("paused", "paused")),
        (PowerState.CRASHED, False, ("stopped", "crashed")),
        (PowerState.RUNNING, False, ("active", "running")),
        (PowerState.SHUTDOWN, False, ("stopped", "shutdown")),
        (PowerState.SHUTDOWN, True, ("suspended", "shutdown")),
    ):
        domain.state, domain.saved = power, saved
        lost.rebuild(*EVERY)
        (row,) = [row for row in tables(lost.database)["instances"] if row["uuid"] == uuids[0]]
        assert (row["vm_state"], row["power_state"]) == states
        lost.database.close()
        for file in lost.fleet.directory.glob("new.db*"):
            file.unlink()


MOVES = {"copied": migrate, "shared": migrate, "here": lambda name: resize("large", name)}
"""What leaves a move that waits, by what becomes of the disks."""


def put_away(lost: Lost) -> dict[str, str]:
    """One in rescue, one that is shelved, one that is on no host; their uuids by name."""
    run, made = lost.fleet.run, {}
    for name, then in (("res", rescue), ("kept", shelve), ("away", offload)):
        wanted = {"flavor": "disks", "metadata": {"role": "web"}, "key": "me", "host": "kvm1"}
        outcome = run(boot(name, **wanted, user_data=b"#secret"))
        made[name] = str(outcome.uuid)
        assert run(then(name)).code == 0
    assert run(describe("away", tags=["x"])).code == 0
    counted(lost.fleet)
    return made


def test_what_is_rescued_or_shelved_comes_back(make: Callable[..., Lost]) -> None:
    lost = make(count=2)
    made = put_away(lost)
    before = tables(lost.fleet.db)
    done = lost.rebuild(*EVERY)
    assert kept(tables(lost.database)) == kept(before)
    assert done.missing == []
    states = {row["uuid"]: row["vm_state"] for row in tables(lost.database)["instances"]}
    assert [states[made[name]] for name in ("res", "kept", "away")] == [
        "rescued",
        "shelved",
        "shelved_offloaded",
    ]
    go_on(lost)
    for name, verb in (("res", unrescue), ("kept", unshelve), ("away", unshelve)):
        outcome = lost.fleet.run(verb(name))
        assert (outcome.code, outcome.instance and outcome.instance.status) == (0, "ACTIVE"), outcome
    assert settled(lost.fleet) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "makes no sense"),
        (b"[]", "makes no sense"),
        (b'{"fleet": "%s"}', "makes no sense"),
        (b'{"fleet": "%s", "epoch": 1, "generation": 1, "record": {"uuid": "x"}, "sealed": null}', "another"),
    ],
)
def test_a_record_in_the_store_that_makes_no_sense(
    make: Callable[..., Lost], content: bytes, says: str
) -> None:
    lost = make(count=2)
    lost.fleet.store.put_record(OTHERS, content.replace(b"%s", scratch.FLEET.encode()))
    (missing,) = lost.rebuild(*EVERY).missing
    assert (missing["kind"], missing["name"]) == ("instance", OTHERS) and says in missing["message"]
    lost.fleet.store.put_record(OTHERS, b'{"fleet": "of others"}')
    assert lost.rebuild(*EVERY).missing == []


def test_backups_are_listed_again(make: Callable[..., Lost]) -> None:
    """As they were rotated and hang together; those whose files are gone, and records that make no sense, are
    told."""
    lost = make(count=1)
    run, store = lost.fleet.run, lost.fleet.store
    assert run(boot("one")).code == 0
    for name in ("mon", "tue", "wed"):
        assert run(back_up(name, "one")).code == 0
    before = tables(lost.fleet.db)["backups"]
    assert {(row["name"], bool(row["rotated_at"])) for row in before} == {
        ("mon", True),
        ("tue", False),
        ("wed", False),
    }
    done = lost.rebuild(*EVERY)
    assert done.missing == [] and done.as_dict()["backups"] == 3
    assert tables(lost.database)["backups"] == before
    assert lost.rebuild(*EVERY).as_dict()["backups"] == 0
    lost.database.close()
    for file in lost.fleet.directory.glob("new.db*"):
        file.unlink()
    (first,) = (row["id"] for row in before if row["name"] == "mon")
    good = json.loads(store.records("backups")[first])
    for wrong in (
        {"id": OTHERS, "parent": OTHERS},
        {"id": OTHERS, "name": "../x"},
        {"id": OTHERS, "files": {"disk": {"sha256": "../../secret"}}},
        {"id": first},
    ):
        content = {**good, "backup": {**good["backup"], **wrong}}
        store.put_record(OTHERS, json.dumps(content).encode(), "backups")
        (missing,) = lost.rebuild(*EVERY, dry=True).missing
        assert missing["kind"] == "backup", wrong
    store.drop_record(OTHERS, "backups")
    store.delete(good["backup"]["files"]["disk"]["sha256"])
    told = {(one["kind"], one["name"]) for one in lost.rebuild(*EVERY, dry=True).missing}
    assert {("backup", "mon"), ("backup", "tue")} <= told and ("backup", "wed") not in told


@pytest.fixture
def moved(make: Callable[..., Lost], request: pytest.FixtureRequest) -> Lost:
    """Some instances have moved, one was changed meanwhile."""
    fleet = (made := make(count=1)).fleet
    if request.param == "shared":
        share(fleet)
    for name in ("one", "two", "three"):
        assert fleet.run(boot(name)).code == 0
        assert fleet.run(MOVES[request.param](name)).code == 0
    assert fleet.run(lock("two")).code == 0 and fleet.run(lock("two", locked=False)).code == 0
    assert settled(fleet) == []
    counted(fleet)
    return Lost(fleet, made.fleet.directory)


@pytest.mark.parametrize("moved", MOVES, indirect=True)
def test_a_move_that_waits_comes_back(moved: Lost) -> None:
    """With what it holds; it is reverted and confirmed as it would have been."""
    fleet = moved.fleet
    assert moved.rebuild(*EVERY).missing == []
    assert kept(tables(moved.database)) == kept(moved.before)
    go_on(moved)
    counted(fleet)
    assert settled(fleet) == []
    assert fleet.run(revert("one")).code == 0
    assert fleet.run(confirm("two")).code == 0
    assert fleet.run(delete("three")).code == 0
    assert settled(fleet) == []


@pytest.mark.parametrize("moved", MOVES, indirect=True)
def test_a_move_that_was_confirmed_does_not(moved: Lost) -> None:
    for name in ("one", "two", "three"):
        assert moved.fleet.run(confirm(name)).code == 0
    after = Lost(moved.fleet, moved.fleet.directory)
    assert after.rebuild(*EVERY).missing == []
    assert kept(tables(after.database)) == kept(after.before)
    after.database.close()


@pytest.mark.parametrize("moved", ["copied"], indirect=True)
def test_a_move_of_which_nothing_is_left(moved: Lost) -> None:
    """It was confirmed by one that could not write so into its domain."""
    for host in moved.fleet.hosts.values():
        host.aside.clear()
    done = moved.rebuild(*EVERY)
    assert {(one["kind"], one["name"]) for one in done.missing} == {
        ("move", n) for n in ("one", "two", "three")
    }
    assert tables(moved.database)["migrations"] == []


@pytest.mark.parametrize(
    "wrong", [{"storage": "tape"}, {"old_flavor": {}}, {"id": "x"}, {"numa": 1}], ids=str
)
@pytest.mark.parametrize("moved", ["copied"], indirect=True)
def test_a_move_that_makes_no_sense(moved: Lost, wrong: dict[str, Any]) -> None:
    for host in moved.fleet.hosts.values():
        for domain in host.domains.values():
            domain.xml = retold(domain.xml, wrong)
    done = moved.rebuild(*EVERY)
    assert sum("makes no sense" in one["message"] for one in done.missing) == 3


def retold(xml: str, move: dict[str, Any]) -> str:
    """The domain carries another move."""
    root = fromstring(xml)
    (told,) = root.iter(f"{{{NAMESPACE}}}instance")
    record = json.loads(told.text or "")
    told.text = json.dumps(record | ({"move": record["move"] | move} if "move" in record else {}))
    return tostring(root, encoding="unicode")


# --- hosts and their keys ---


def test_the_first_key_is_pinned_as_host_add_does(lost: Lost) -> None:
    first = fingerprint(base64.b64decode(key_of("kvm1").split()[1]))
    lost.refused("is not pinned yet", *EVERY, error=NeedsConfirmation, accept_host_key=False)
    lost.refused("not SHA256:x", *EVERY, error=HostUnreachable, fingerprint="SHA256:x")
    asked: list[str] = []
    lost.rebuild(*EVERY, dry=True, confirm=lambda question: not asked.append(question))
    assert len(asked) == 1 and first in asked[0]
    lost.rebuild(*EVERY, fingerprint=first)


def test_a_host_with_another_key_than_the_copys_is_refused(lost: Lost) -> None:
    lost.reach.keys["kvm2"] = key_of("somebody")
    lost.refused("kvm2: the host key is not the pinned one", *EVERY, error=HostUnreachable)
    lost.refused("another host key than the one", "kvm2.example", error=HostUnreachable)


def test_a_host_reached_elsewhere_is_known_by_its_key(lost: Lost) -> None:
    lost.reach.at["192.0.2.99"] = lost.fleet.hosts["kvm2"]
    lost.rebuild("admin@192.0.2.99:2222", "kvm1")
    assert kept(tables(lost.database)) == kept(lost.before)
    assert ("kvm2", "admin") in lost.reach.seen and ("kvm1", "root") in lost.reach.seen


def test_a_host_that_does_not_answer(lost: Lost) -> None:
    lost.refused("nowhere: port 22", "kvm1.example", "nowhere", error=HostUnreachable)
    lost.fleet.faults.append(Fault("survey", "unreachable", "kvm2"))
    lost.refused("^kvm2: ", *EVERY, error=HostUnreachable)
    lost.fleet.hosts["kvm1"].up = lost.fleet.hosts["kvm2"].up = False
    lost.refused("^kvm1: no answer", *EVERY, error=HostUnreachable)


def test_only_newer_copies_know_a_host(lost: Lost) -> None:
    lost.fleet.hosts["kvm2"].copy = (0, b"")
    lost.refused("is in no copy of the catalogue", "kvm2.example")
    lost.rebuild("kvm2.example", "kvm1.example")
    assert kept(tables(lost.database)) == kept(lost.before)


@pytest.mark.parametrize(
    "broken", [b"{", b"[]", b'{"tables": {"hosts": [{}]}}', b'{"tables": {"users": []}}']
)
def test_a_copy_that_makes_no_sense_is_told_and_not_used(lost: Lost, broken: bytes) -> None:
    lost.fleet.hosts["kvm2"].copy = (99, broken)
    lost.rebuild("kvm1.example", "kvm2")
    assert kept(tables(lost.database)) == kept(lost.before)
    assert [text.partition(": ")[0] for text in lost.told] == ["kvm2"]


# --- fleets ---


def test_the_fleets_must_be_one(lost: Lost) -> None:
    other = lost.fleet.hosts["kvm2"]
    other.fleet = OTHERS
    lost.refused(f"kvm2: is of fleet {OTHERS}", *EVERY)
    other.copy = (0, b"")
    lost.refused("different fleets: kvm1 is of", *EVERY)
    other.fleet = None
    lost.refused("kvm2: has no mark of a fleet", *EVERY)
    other.fleet = "nonsense\n"
    lost.refused("kvm2: its mark of a fleet makes no sense", *EVERY)


def test_a_database_of_another_fleet(lost: Lost) -> None:
    lost.database.create(OTHERS)
    with lost.database.writing() as tx:
        catalogue.add_flavor(tx, records.flavor("theirs"))
    lost.refused(f"the database is of fleet {OTHERS}", *EVERY)


# --- contradictions ---


def twin(lost: Lost, *, running: tuple[bool, bool], epochs: tuple[int, int]) -> dict[str, Any]:
    """An instance of kvm1 is on kvm2 too."""
    row = next(row for row in lost.before["instances"] if row["host"] == "kvm1")
    for name, runs, epoch in zip(("kvm1", "kvm2"), running, epochs, strict=True):
        host = lost.fleet.hosts[name]
        domain = lost.fleet.hosts["kvm1"].domains[row["uuid"]]
        host.domains[row["uuid"]] = type(domain)(domain.xml, domain.operation)
        host.domains[row["uuid"]].state = PowerState.RUNNING if runs else PowerState.SHUTDOWN
        host.epochs[row["uuid"]] = epoch
    return row


@pytest.mark.parametrize(
    ("running", "epochs", "taken"),
    [
        ((True, False), (20, 30), "kvm1"),
        ((False, True), (30, 20), "kvm2"),
        ((False, False), (30, 20), "kvm1"),
        ((False, False), (20, 30), "kvm2"),
    ],
)
def test_an_instance_on_two_hosts(
    lost: Lost, running: tuple[bool, bool], epochs: tuple[int, int], taken: str
) -> None:
    row = twin(lost, running=running, epochs=epochs)
    done = lost.rebuild(*EVERY)
    (back,) = [one for one in tables(lost.database)["instances"] if one["uuid"] == row["uuid"]]
    assert (back["host"], back["epoch"]) == (taken, 30)
    told = [one["message"] for one in done.missing if one["name"] == row["uuid"]]
    assert len(told) == 1 and f"taken from {taken}" in told[0]


@pytest.mark.parametrize(("running", "says"), [((True, True), "runs there twice"), ((False, False), "newer")])
def test_an_instance_on_two_hosts_that_nothing_decides(
    lost: Lost, running: tuple[bool, bool], says: str
) -> None:
    row = twin(lost, running=running, epochs=(20, 20))
    lost.refused(f"{row['name']}: is on kvm1 and on kvm2: .*{says}", *EVERY)


def test_the_newest_copy_counts_whole(lost: Lost) -> None:
    """The older one still has what was deleted since."""
    old = lost.fleet.hosts["kvm2"].copy
    with lost.fleet.db.writing() as tx:
        catalogue.remove_keypair(tx, "default", "me")
        catalogue.add_flavor(tx, records.flavor("huge", vcpus=4))
    assert lost.fleet.run(boot("latest", host="kvm1")).result == "done"
    counted(lost.fleet)
    lost.before = tables(lost.fleet.db)
    lost.fleet.hosts["kvm2"].copy = old
    for host in lost.fleet.hosts.values():
        assert (host.copy == old) is (host.name == "kvm2")
    lost.rebuild(*EVERY)
    assert kept(tables(lost.database)) == kept(lost.before)


def test_a_network_that_the_copy_lacks_is_named(lost: Lost) -> None:
    for host in lost.fleet.hosts.values():
        content = host.copy[1].replace(b'"lan"', b'"wan"')
        assert b'"wan"' in content
        host.copy = (host.copy[0], content)
    lost.refused("network 'lan' is not in the database", *EVERY)


def test_images_and_flavors_that_are_gone_do_no_harm(lost: Lost) -> None:
    with lost.fleet.db.writing() as tx:
        for name in ("small", "disks"):
            catalogue.remove_flavor(tx, name)
        for image in catalogue.images(tx):
            catalogue.remove_image(tx, image.id)
        catalogue.add_flavor(tx, records.flavor("other"))
        catalogue.add_image(tx, records.image("other", sha256="cd" * 32))
    for name in lost.fleet.hosts:
        action = boot(f"late-{name}", host=name, flavor="other", image="other")
        lost.fleet.run(action)
        lost.fleet.run(stop(f"last-{name}"))
    counted(lost.fleet)
    lost.before = tables(lost.fleet.db)
    done = lost.rebuild(*EVERY)
    assert kept(tables(lost.database)) == kept(lost.before)
    assert [(one["kind"], one["name"]) for one in done.missing] == [("image file", "other")]


def test_what_makes_no_sense_on_a_host_is_told_and_left(lost: Lost) -> None:
    host = lost.fleet.hosts["kvm1"]
    every = {row["uuid"]: row for row in lost.before["instances"] if row["host"] == "kvm1"}
    user_data = [uuid for uuid, row in every.items() if row["user_data"]]
    (bare, swapped, *_), sealed = [uuid for uuid in every if uuid not in user_data[:1]], user_data[0]
    host.domains[bare].xml = host.domains[bare].xml.replace("{", "")
    host.domains[swapped].xml = host.domains[swapped].xml.replace(
        f'"uuid": "{swapped}"', f'"uuid": "{OTHERS}"'
    )
    host.domains[swapped].xml = host.domains[swapped].xml.replace(
        f"&quot;uuid&quot;: &quot;{swapped}", f"&quot;uuid&quot;: &quot;{OTHERS}"
    )
    host.directories[sealed].files["user-data.sealed"] = b"nonsense"
    host.directories[records.uuid(7)] = type(host.directories[bare])("op-1")
    foreign = records.uuid(8)
    host.domains[foreign] = type(host.domains[bare])("<domain/>", "")
    done = lost.rebuild(*EVERY)
    told = {one["name"]: one["message"] for one in done.missing}
    assert set(told) == {bare, swapped, sealed, records.uuid(7)}
    assert told[bare].endswith("carries no record") and "another instance" in told[swapped]
    assert "no domain of it" in told[records.uuid(7)] and "user-data" in told[sealed]
    back = {row["uuid"]: row for row in tables(lost.database)["instances"]}
    assert back[sealed]["user_data"] is None and not {bare, swapped, foreign} & back.keys()


@pytest.mark.parametrize(
    ("was", "made_up", "says"),
    [
        ('"zone": "nova"', '"zone": "../x"', "zone '../x' is not acceptable"),
        (OTHERS, "../../etc", "uuid '../../etc' is not acceptable"),
        ('"apart_from":', '"colour":', "its placement is not known: {'colour'}"),
        ('"rack": "1"', '"a b": "1"', "label 'a b' is not acceptable"),
        ('"rack": "1"', '"rack": 1', "1 is not a line of text"),
        (records.uuid(60), "x' OR 1=1", 'uuid "x\' OR 1=1" is not acceptable'),
    ],
)
def test_wishes_that_a_host_made_up(lost: Lost, was: str, made_up: str, says: str) -> None:
    one = next(row for row in lost.before["instances"] if row["group_id"] == records.uuid(60))
    domain = lost.fleet.hosts[one["host"]].domains[one["uuid"]]
    quoted = [(word.replace('"', "&quot;"), by.replace('"', "&quot;")) for word, by in ((was, made_up),)]
    before = domain.xml
    for word, by in ((was, made_up), *quoted):
        domain.xml = domain.xml.replace(word, by)
    assert domain.xml != before
    done = lost.rebuild(*EVERY)
    (missing,) = done.missing
    assert missing["name"] == one["uuid"] and says in missing["message"]
    assert one["uuid"] not in {row["uuid"] for row in tables(lost.database)["instances"]}


def rewrite(lost: Lost, change: Callable[[dict[str, Any]], None]) -> None:
    """The hosts' copies of the catalogue are others."""
    for host in lost.fleet.hosts.values():
        content = json.loads(host.copy[1])
        change(content["tables"])
        host.copy = (host.copy[0], json.dumps(content).encode())


def test_a_group_that_is_not_there_any_more(lost: Lost) -> None:
    rewrite(lost, lambda tables_: tables_["server_groups"].clear())
    done = lost.rebuild(*EVERY)
    members = sorted(row["name"] for row in lost.before["instances"] if row["group_id"])
    assert sorted(one["name"] for one in done.missing) == members and members
    for one in done.missing:
        assert one["kind"] == "group"
        assert re.fullmatch(r"its group [0-9a-f-]{36} is not in the database: it has none", one["message"])
    back = tables(lost.database)["instances"]
    assert {row["group_id"] for row in back} == {None} and len(back) >= len(members)


def test_a_group_of_another_project_is_none_of_its_own(lost: Lost) -> None:
    def swap(tables_: dict[str, Any]) -> None:
        for row in tables_["server_groups"]:
            row["project"] = {"default": "other", "other": "default"}[row["project"]]

    rewrite(lost, swap)
    assert {one["kind"] for one in lost.rebuild(*EVERY).missing} == {"group"}
    assert {row["group_id"] for row in tables(lost.database)["instances"]} == {None}


def test_copies_and_records_from_before_schema_4(lost: Lost) -> None:
    def older(tables_: dict[str, Any]) -> None:
        del tables_["server_groups"], tables_["projects"]
        for row in tables_["hosts"]:
            for column in ("arch", "huge_memory_mib", "dedicated_cpus", "failed_builds"):
                del row[column]

    rewrite(lost, older)
    for host in lost.fleet.hosts.values():
        for domain in host.domains.values():
            domain.xml = re.sub(r'("|&quot;)group_id\1: (null|\1[0-9a-f-]+\1), ', "", domain.xml)
            domain.xml = re.sub(r'("|&quot;)placement\1: \{.*?\}, (?=\1ports)', "", domain.xml)
            assert "group_id" not in domain.xml and "placement" not in domain.xml
    done = lost.rebuild(*EVERY)
    assert done.missing == []
    rows = tables(lost.database)
    assert [row["arch"] for row in rows["hosts"]] == ["x86_64", "x86_64"]
    assert {(row["group_id"], row["placement"]) for row in rows["instances"]} == {(None, "{}")}


def test_what_comes_back_is_counted_and_no_quota_refuses_it(lost: Lost) -> None:
    def tight(tables_: dict[str, Any]) -> None:
        for row in tables_["projects"]:
            row["limits"] = json.dumps(dict.fromkeys(NOVA_LIMITS, 0))

    rewrite(lost, tight)
    lost.rebuild(*EVERY)
    with lost.database.reading() as tx:
        living = Counter(one.project for one in instances.everything(tx))
        assert {one.name: one.instances_used for one in projects.everything(tx)} == living
        for one in projects.everything(tx):
            used = projects.usage(tx, one.name)
            assert (one.cores_used, one.memory_mib_used) == (used["cores"], used["memory_mib"])


def test_user_data_of_another_is_refused(lost: Lost) -> None:
    host = lost.fleet.hosts["kvm1"]
    (one, *_) = [r["uuid"] for r in lost.before["instances"] if r["host"] == "kvm1" and r["user_data"]]
    content = host.directories[one].files["user-data.sealed"]
    host.directories[one].files["user-data.sealed"] = content.replace(one.encode(), OTHERS.encode())
    lost.refused("kvm1: .*user-data.sealed is not its own", *EVERY)


def test_a_name_that_was_given_away_meanwhile(lost: Lost) -> None:
    lost.rebuild("kvm1.example")
    (gone, *_) = [r for r in lost.before["instances"] if r["host"] == "kvm2" and not r["deleted_at"]]
    taken = records.instance(77, name=gone["name"], project=gone["project"], host="kvm1")
    with lost.database.writing() as tx:
        instances.add(tx, taken)
    lost.refused(f"kvm2: {gone['name']}: another instance of project", "kvm2")


# --- words ---


@pytest.mark.parametrize(
    ("word", "address", "port", "user"),
    [
        ("kvm1", "kvm1", 22, None),
        ("root@192.0.2.1:2222", "192.0.2.1", 2222, "root"),
        ("2001:db8::1", "2001:db8::1", 22, None),
        ("me@[2001:db8::1]:23", "2001:db8::1", 23, "me"),
    ],
)
def test_places(word: str, address: str, port: int, user: str | None) -> None:
    found = place(word)
    assert (found.address, found.port, found.user) == (address, port, user)


@pytest.mark.parametrize(
    "word",
    [
        "",
        "@kvm1",
        "kvm1:",
        "kvm1:x",
        "kvm1:0",
        "kvm1:99999",
        "-oProxyCommand=x",
        "a b",
        "a\nb",
        "-f@kvm1",
        "$(x)",
        "[]",
    ],
)
def test_words_that_are_no_place(word: str) -> None:
    with pytest.raises(UsageError):
        place(word)


def test_no_host_at_all(lost: Lost) -> None:
    lost.refused("no host is given", error=UsageError)
