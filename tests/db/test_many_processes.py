"""Fifty processes boot at once for more than the fleet has, while the servers are started again and again:
nothing is given twice, no acknowledged boot is lost, and none is there that nobody was told of."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from novactl.db import catalogue, groups, hosts, projects
from novactl.db.servers import ServerDatabase
from novactl.db.session import Database
from novactl.db.sqlite import SqliteDatabase
from novactl.objects.group import GroupPolicy, ServerGroup
from novactl.objects.project import Project
from tests.db.claimer import GROUP
from tests.support import counts, fleet
from tests.support.databases import KINDS, ServerPlace, place, server_of_its_own

ROOT = Path(__file__).parents[2]
PROCESSES = 50
CLAIMS = 20
HOSTS = 15
FIT = 30  # instances on each
MEMBERS = 5  # of the group on each: fewer than want to be in it
RESTARTS = {"postgresql": (2.0, 6), "mariadb": (3.0, 2)}  # (seconds between them, at most)
RESOURCES = ("vcpus", "memory_mib", "disk_gib")


def furnish(db: Database) -> None:
    size = fleet.flavor().memory_mib
    with db.writing() as tx:
        for n in range(HOSTS):
            memory = size * FIT + fleet.host().reserved_memory_mib
            hosts.add(tx, fleet.host(f"kvm{n}", memory_mib=memory, vcpus=FIT))
        catalogue.add_flavor(tx, fleet.flavor())
        catalogue.add_image(tx, fleet.image())
        catalogue.add_network(tx, fleet.network(cidr="10.0.0.0/22", gateway="10.0.0.1"))
        policy = GroupPolicy.ANTI_AFFINITY
        group = ServerGroup(id=GROUP, name=GROUP, project="default", policy=policy, max_per_host=MEMBERS)
        groups.create(tx, group)
        projects.create(tx, Project(name="default", limits={"instances": HOSTS * FIT}))


def run(db: Database, url: str, where: Any, directory: Path) -> int:
    """All of the processes to their end; how often the server was started again meanwhile."""
    asked = {"url": url, "processes": PROCESSES, "claims": CLAIMS, "directory": str(directory)}
    environment = {**os.environ}
    if isinstance(where, ServerPlace):
        environment["NOVACTL_DB_PASSWORD"] = where.server.password
    restarts = 0
    with subprocess.Popen(
        [sys.executable, "-m", "tests.db.claimer"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdin and parent.stdout
        parent.stdin.write(json.dumps(asked) + "\n")
        parent.stdin.flush()
        while parent.poll() is None and not any(directory.glob("*.told")):
            time.sleep(0.05)
        pause, most = RESTARTS.get(where.kind, (0, 0))
        while parent.poll() is None:
            began = time.monotonic()
            while parent.poll() is None and time.monotonic() - began < pause:
                time.sleep(0.05)
            if isinstance(where, ServerPlace) and parent.poll() is None and restarts < most:
                where.server.restart("immediate" if restarts % 2 else "fast")
                restarts += 1
        assert json.loads(parent.stdout.read()) == [0] * PROCESSES
    return restarts


def told(directory: Path) -> list[list[str]]:
    """What each process was told, in all."""
    files = [directory / f"{number}.told" for number in range(PROCESSES)]
    found = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert len(found) == PROCESSES * CLAIMS
    return found


def check(db: Database, answers: list[list[str]]) -> None:
    """The invariants."""
    tables = ("hosts", "holds", "instances", "ports", "operations", "steps", "op_locks")
    rows = db.read(lambda tx: {table: tx.all(f"SELECT * FROM {table}") for table in tables})
    known = db.read(hosts.everything)
    assert db.read(lambda tx: projects.find(tx, "default")).instances_used == len(rows["instances"])
    assert [answer for answer in answers if answer[1] == "error"] == []
    acknowledged = sorted(
        (name, op, uuid) for name, what, op, *uuid_ in answers if what == "done" for uuid in uuid_
    )
    operations = {row["target_uuid"]: row["id"] for row in rows["operations"]}
    assert acknowledged == sorted((i["name"], operations[i["uuid"]], i["uuid"]) for i in rows["instances"])
    assert len(operations) == len(rows["operations"]) == len(acknowledged) == HOSTS * FIT
    for column in ("live_name", "uuid"):
        assert max(Counter(row[column] for row in rows["instances"]).values()) == 1
    for column in ("ip", "mac", "instance_uuid"):
        assert max(Counter(row[column] for row in rows["ports"]).values()) == 1
    assert len(rows["ports"]) == len(acknowledged)
    for host in known:
        held = [row for row in rows["holds"] if row["host"] == host.name]
        assert host.used() == {r: sum(row[r] for row in held) for r in RESOURCES}
        assert all(host.used()[r] <= host.capacity()[r] for r in RESOURCES)
        assert len(held) == FIT
        members = [i for i in rows["instances"] if i["group_id"] == GROUP and i["host"] == host.name]
        assert len(members) == MEMBERS
    assert {row["instance_uuid"] for row in rows["holds"]} == {uuid for _, _, uuid in acknowledged}
    exclusive = [row for row in rows["op_locks"] if row["mode"] == "X"]
    assert sorted(row["id"] for row in exclusive) == sorted(uuid for _, _, uuid in acknowledged)
    steps = Counter(row["operation"] for row in rows["steps"])
    assert len(set(steps.values())) == 1 and len(steps) == len(acknowledged)  # each was journaled as a whole


@pytest.mark.parametrize("kind", KINDS)
def test_fifty_processes(kind: str, quick: Path) -> None:
    where = place(kind) if kind == "sqlite" else server_of_its_own(kind)
    db = where.bare(quick)
    db.create("fleet")
    furnish(db)
    if isinstance(db, SqliteDatabase):
        url = f"sqlite://{db.path}"
    else:
        assert isinstance(db, ServerDatabase) and isinstance(where, ServerPlace)
        assert db.url.database
        url = where.server.url_of(db.url.database)
    restarts = run(db, url, where, quick)
    answers = told(quick)
    check(db, answers)
    assert {answer[1] for answer in answers} == {"done", "refused"}
    assert any("exists already" in answer[2] for answer in answers if answer[1] == "refused")
    assert restarts >= (kind != "sqlite")
    counts.record("claims of fifty processes", **{kind: len(answers), f"{kind} restarts": restarts})
    where.discard(db)
