"""Placement: one decision and thousands, on up to 10,000 hosts; claims of many processes at once."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from novactl.actions.boot import boots
from novactl.db import catalogue, groups, hosts, instances, placement, projects
from novactl.db.servers import ServerDatabase
from novactl.db.session import Database, Tx
from novactl.db.sqlite import SqliteDatabase
from novactl.engine.operation import OpState
from novactl.objects.group import GroupPolicy, ServerGroup
from novactl.objects.host import Host, Resources
from novactl.objects.network import Network
from novactl.objects.project import Project
from novactl.objects.request import BootRequest, NetworkRequest
from novactl.scheduler.select import Selection
from novactl.scheduler.spec import Members, Spec
from tests.bench import limits
from tests.bench.claiming import GROUPS
from tests.bench.harness import Results, settle, take_turns
from tests.bench.test_start import novactl
from tests.db.claimer import operator
from tests.support import fleet
from tests.support.command import Command
from tests.support.databases import Place, ServerPlace, place

ROOT = Path(__file__).parents[2]
SIZES = (100, 1000, 10_000)
GROUP = 50


def host(n: int) -> Host:
    """Hosts are not alike, or a tie would decide."""
    facts = {
        "arch": "x86_64",
        "cpu_model": "any",
        "bridges": ["br0"],
        "bridge_ports": {},
        "qemu_version": "7.2",
    }
    return fleet.host(
        f"h{n:05}",
        address=f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}",
        vcpus=64,
        memory_mib=262_144 - n * 37 % 4096,
        disk_gib=4000,
        arch="x86_64",
        facts=facts,
        labels={"rack": str(n % 40)},
    )


def furnish(tx: Tx, count: int) -> None:
    """So many hosts, and a group of GROUP members, each on a host of its own."""
    for n in range(count):
        hosts.add(tx, host(n))
    catalogue.add_flavor(tx, fleet.flavor())
    catalogue.add_image(tx, fleet.image())
    catalogue.add_network(
        tx, Network(id="n1", name="lan", cidr="172.16.0.0/14", gateway="172.16.0.1", bridge="br0")
    )
    for policy in (GroupPolicy.ANTI_AFFINITY, GroupPolicy.SOFT_ANTI_AFFINITY):
        made = ServerGroup(id=str(policy), name=str(policy), project="default", policy=policy)
        groups.create(tx, made)
    for n in range(min(GROUP, count)):
        member = fleet.instance(n, host=f"h{n:05}", group_id=str(GroupPolicy.ANTI_AFFINITY))
        instances.add(tx, replace(member, ports=()))


@pytest.fixture(scope="module")
def fleets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Command]]:
    """A fleet of each size."""
    found = {}
    for size in SIZES:
        command = Command(tmp_path_factory.mktemp("fleet") / str(size))
        command.ok("db", "init")
        db = SqliteDatabase(command.config / "novactl.db")
        db.write(lambda tx, size=size: furnish(tx, size))
        db.close()
        found[size] = command
    yield found


def database(command: Command) -> SqliteDatabase:
    return SqliteDatabase(command.config / "novactl.db")


def test_one_decision(results: Results, fleets: dict[int, Command]) -> None:
    """All default filters, an anti-affinity group of GROUP: in process, and as a command."""
    runs = {}
    for size, command in fleets.items():
        db = database(command)
        with db.reading() as tx:
            on = placement.group_hosts(tx, str(GroupPolicy.ANTI_AFFINITY))
            assert len(on) == min(GROUP, size)
        runs[f"decision, {size} hosts"] = deciding(db, on)
        runs[f"reading {size} hosts"] = reading(db)
        words = ("schedule", "--flavor", "small", "--group", str(GroupPolicy.ANTI_AFFINITY))
        runs[f"novactl schedule, {size} hosts"] = novactl(command, *words)
    take_turns(results, results.repeat(9, 2), runs)
    most = SIZES[-1]
    name, command_name = f"decision, {most} hosts", f"novactl schedule, {most} hosts"
    results.check_time(name, limits.DECISION_SECONDS)
    results.check_time(command_name, limits.SCHEDULE_SECONDS)
    results.verdict(name, command_name)


def deciding(db: Database, on: dict[str, int]):
    found = db.read(lambda tx: placement.candidates(tx, counted=False))
    wanted = Resources(vcpus=2, memory_mib=4096, disk_gib=20)

    def once() -> float:
        began = time.perf_counter()
        group = Members(name="g", policy=GroupPolicy.ANTI_AFFINITY, on=dict(on))
        best = Selection(found, Spec(resources=wanted, group=group)).best()
        taken = time.perf_counter() - began
        assert best is not None and best.name not in on
        return taken

    return once


def reading(db: Database):
    def once() -> float:
        began = time.perf_counter()
        assert db.read(lambda tx: placement.candidates(tx, counted=False))
        return time.perf_counter() - began

    return once


@pytest.mark.parametrize("size", SIZES)
def test_many_at_once(results: Results, fleets: dict[int, Command], size: int) -> None:
    """As many instances as hosts, placed in one pass and committed at once, as boot --count does."""
    count = size if results.full or size < SIZES[-1] else SIZES[-2]
    db = database(fleets[size])
    operating = operator(db, size, fleets[size].config)
    there = len(db.read(instances.everything))
    request = BootRequest(
        name=f"many{there}",
        image="tiny",
        flavor="small",
        networks=(NetworkRequest(network="lan"),),
        count=count,
    )
    many = boots(request)
    began = time.perf_counter()
    parent = operating.parent(many)
    ops = operating.submit_all(many, parent, OpState.RUNNING)
    name = f"{count} instances onto {size} hosts"
    results.add(name, time.perf_counter() - began)
    assert len({op.target_uuid for op in ops if op}) == count
    within(db, there + count)
    if size == SIZES[-1]:
        results.check_time(name, limits.BATCH_SECONDS, f"{name}, with the commit")
        results.verdict(name)
    db.close()


def within(db: Database, count: int) -> None:
    """Nothing is overcommitted, nothing given twice."""
    with db.reading() as tx:
        for one in hosts.everything(tx):
            assert all(one.used()[size] <= room for size, room in one.capacity().items()), one.name
        assert tx.one("SELECT COUNT(*) AS n FROM instances") == {"n": count}
        given = tx.one("SELECT COUNT(*) AS n, COUNT(DISTINCT ip) AS ips FROM ports") or {}
        assert given["n"] == given["ips"]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("each", [1, 10, limits.CLAIMS_AT_ONCE])
def test_claims_of_many_processes(results: Results, tmp_path: Path, kind: str, each: int) -> None:
    """Full claims: name, quota, group, address, allocation, operation with its steps; a transaction for each
    command of `each` instances. More are asked for than fit."""
    where = place(kind)
    commands = {1: results.repeat(100, 10), 10: results.repeat(25, 3)}.get(each, results.repeat(20, 4))
    name = f"claims/s, {kind}, {limits.CLAIMERS} processes, {each} a command"

    def measure() -> None:
        seconds, done = claimed(where, Path(tempfile.mkdtemp(dir=tmp_path)), commands, each)
        results.add(f"{name}: milliseconds each", 1000 * seconds / done)
        print(f"  {name}: {done / seconds:.0f}/s ({done} in {seconds:.1f} s)")
        if each == limits.CLAIMS_AT_ONCE:
            results.check(name, "seconds a claim", seconds / done, limits.CLAIM_SECONDS)
            results.verdict(name)

    settle(measure)


def claimed(where: Place, directory: Path, commands: int, each: int) -> tuple[float, int]:
    """Seconds, and how many were claimed or refused."""
    db = where.fresh(directory)
    wanted = limits.CLAIMERS * commands * each
    fit = 20 * max(1, wanted * 9 // 200)
    db.write(lambda tx: stage(tx, fit))
    seconds, made, refused = claim(db, where, directory, commands, each)
    assert made <= fit and made + refused == wanted
    assert made > fit - limits.CLAIMERS * each
    within(db, made)
    with db.reading() as tx:
        assert projects.find(tx, "default").instances_used == made
    where.release(db)
    return seconds, made + refused


def stage(tx: Tx, fit: int) -> None:
    for n in range(20):
        hosts.add(
            tx,
            fleet.host(
                f"h{n}", vcpus=10_000, memory_mib=512 + fleet.flavor().memory_mib * fit // 20, disk_gib=10**6
            ),
        )
    catalogue.add_flavor(tx, fleet.flavor())
    catalogue.add_image(tx, fleet.image())
    catalogue.add_network(tx, fleet.network(cidr="10.0.0.0/16", gateway="10.0.0.1"))
    for n in range(GROUPS):
        policy = GroupPolicy.SOFT_ANTI_AFFINITY
        groups.create(tx, ServerGroup(id=f"g{n}", name=f"web{n}", project="default", policy=policy))
    projects.create(tx, Project(name="default", limits={"instances": 100_000, "cores": 1_000_000}))


def claim(db: Database, where: Place, directory: Path, commands: int, each: int) -> tuple[float, int, int]:
    if isinstance(where, ServerPlace):
        assert isinstance(db, ServerDatabase) and db.url.database
        url = where.server.url_of(db.url.database)
    else:
        assert isinstance(db, SqliteDatabase)
        url = f"sqlite://{db.path}"
    asked = {
        "url": url,
        "processes": limits.CLAIMERS,
        "commands": commands,
        "each": each,
        "directory": str(directory),
    }
    environment = {**os.environ}
    if isinstance(where, ServerPlace):
        environment["NOVACTL_DB_PASSWORD"] = where.server.password
    ended = subprocess.run(
        [sys.executable, "-m", "tests.bench.claiming"],
        cwd=ROOT,
        env=environment,
        input=json.dumps(asked) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    seconds, made, refused = json.loads(ended.stdout)
    return seconds, made, refused
