"""Many hosts, many instances, many at once: list --refresh, pages, completion, bulk verbs."""

import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from novactl import lab
from novactl.db import catalogue, hosts, instances
from novactl.db.sqlite import SqliteDatabase
from novactl.objects.network import Network
from tests.bench import limits
from tests.bench.harness import Results, take_turns, timed
from tests.bench.many_hosts import SLOWEST, ManyHosts
from tests.bench.test_instances import seconds
from tests.bench.test_start import host, instance, novactl, port
from tests.lab.conftest import Grounds, enrol
from tests.support.command import NOVACTL, Command

HOSTS = ("kvm1", "kvm2", "kvm3")


@pytest.fixture
def crowd(tmp_path: Path) -> Command:
    """MANY_INSTANCES with an address each on MANY_HOSTS."""
    command = Command(tmp_path / "crowd")
    command.ok("db", "init")
    db = SqliteDatabase(command.config / "novactl.db")
    with db.writing() as tx:
        for n in range(limits.MANY_HOSTS):
            hosts.add(tx, host(n))
        lan = Network(id="n1", name="lan", cidr="10.0.0.0/15", gateway="10.0.0.1", bridge="br0")
        catalogue.add_network(tx, lan)
        for n in range(limits.MANY_INSTANCES):
            made = instance(n, f"h{n % limits.MANY_HOSTS}")
            instances.add(tx, made)
            mac = f"fa:16:3e:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x}"
            instances.add_port(tx, made.uuid, lan.id, replace(port(made.uuid, n, lan), mac=mac))
    db.close()
    return command


def test_twenty_thousand_instances(results: Results, crowd: Command) -> None:
    page = [
        "list",
        "--status",
        "ACTIVE",
        "-l",
        "role=web",
        "--name",
        "7$",
        "--sort",
        "name",
        "--limit",
        "100",
    ]
    runs = {
        "list, a filtered page of 20,000": novactl(crowd, *page),
        "list --on HOST, of 20,000": novactl(crowd, "list", "--on", "h7"),
        "show NAME, of 20,000": novactl(crowd, "show", "web-12345"),
        "show of a name that is none, of 20,000": lambda: seconds_of_failing(crowd),
        "host list, 1,000 hosts": novactl(crowd, "host", "list"),
        "completion of names, of 20,000": novactl(crowd, "__complete", "--line", "novactl stop web-19"),
    }
    assert len(crowd.json(*page)) == 100
    assert len(crowd.ok("__complete", "--line", "novactl stop web-1999").out.split()) == 11
    take_turns(results, results.repeat(15, 3), runs)
    for name in runs:
        limit = limits.HELP_SECONDS if name.startswith("completion") else limits.PAGE_SECONDS
        results.check_time(name, limit)
    results.verdict(*runs)


def seconds_of_failing(crowd: Command) -> float:
    began = time.perf_counter()
    assert crowd("show", "web-99999x").code == 4
    return time.perf_counter() - began


@pytest.fixture
def simulated(results: Results, tmp_path: Path) -> Iterator[ManyHosts]:
    name = f"m{os.getpid() % 1000000}"
    lab.down(name)
    count = results.repeat(limits.REFRESH_HOSTS, 100)
    try:
        yield ManyHosts(lab.up(name, 1), tmp_path / "many", count, dead=count // 20, slow=count // 20)
    finally:
        lab.down(name)


@pytest.mark.lab
def test_refresh(results: Results, simulated: ManyHosts) -> None:
    """Cold: nothing is connected. Dead hosts are named, slow ones answer, and all others are as they are."""
    name = "list --refresh"
    for _ in range(results.repeat(3, 1)):
        measure(results, simulated, name, own_virsh=True)
    if results.full:
        measure(results, simulated, "list --refresh, real virsh on one machine", own_virsh=False)
    what = f"{len(simulated.names)} hosts, 5 % dead, 5 % slow (first word after 3 to {SLOWEST:g} s)"
    results.check_time(name, limits.REFRESH_SECONDS, what)
    results.verdict(name)


def measure(results: Results, many: ManyHosts, name: str, *, own_virsh: bool) -> None:
    with many.answering(own_virsh=own_virsh):
        server = many.server_cpu()
        taken, client, ended = many.refresh()
        server = many.server_cpu() - server
    results.add(name, taken)
    results.add(f"{name}: CPU of novactl", client)
    results.add(f"{name}: CPU of the simulated hosts", server)
    print(f"  {name}: {taken:.1f} s; CPU: novactl {client:.1f} s, hosts {server:.1f} s")
    error = json.loads(ended.stderr.splitlines()[-1])["error"]
    assert (ended.returncode, error["type"]) == (3, "PartlyDone"), ended.stderr
    assert {target["target"] for target in error["targets"]} == many.dead
    if own_virsh:
        status = {one["host"]: one["status"] for one in json.loads(ended.stdout)}
        off = {f"h{n}" for n in range(0, len(many.names), 10)} - many.dead
        assert {host for host, word in status.items() if word == "SHUTOFF"} == off


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Grounds]:
    name = f"n{os.getpid() % 1000000}"
    lab.down(name)
    try:
        yield enrol(lab.up(name, len(HOSTS)), tmp_path / "three")
    finally:
        lab.down(name)


@pytest.mark.lab
def test_bulk_stop(results: Results, three: Grounds) -> None:
    """All are asked at once: it takes as long as the slowest guest."""
    count = results.repeat(limits.BULK_GUESTS, 6)
    where = ["--image", "tiny", "--flavor", "tiny"]
    base = f"bulk{secrets.token_hex(2)}"
    three.novactl.ok("boot", base, *where, "--count", str(count), timeout=900)
    for n in range(1, count + 1):
        three.novactl.ok("wait", f"{base}-{n}", "status=ACTIVE")
    booted(three)
    name, startup = f"stop of {count} guests", "start-up, with bulk"
    taken = timed([NOVACTL, "stop", "--all"], three.novactl.environment)[0]
    results.add(name, taken)
    results.add(startup, timed([NOVACTL, "list"], three.novactl.environment)[0])
    stops = [row["id"] for row in three.novactl.json("op", "list") if row["target"].startswith(base)]
    slowest = max(took(three, op_id) for op_id in stops)
    results.add("the slowest guest of them", slowest)
    results.check_ratio("bulk stop", name, "the slowest guest of them", limits.BULK_OF_SLOWEST, startup)
    results.verdict("bulk stop")


def took(grounds: Grounds, op_id: str) -> float:
    """Seconds from its first step to its last, of a stop."""
    op = grounds.novactl.json("op", "show", op_id)
    if op["kind"] != "stop" or not op["steps"]:
        return 0.0
    return seconds(op["steps"][0]["started_at"], op["steps"][-1]["finished_at"])


def booted(grounds: Grounds) -> None:
    """Every guest has said its first words: one that boots ignores ACPI."""
    until = time.monotonic() + 600
    for one in grounds.novactl.json("list"):
        while "tiny: ready" not in grounds.novactl.ok("console-log", one["name"]).out:
            assert time.monotonic() < until
            time.sleep(1)
