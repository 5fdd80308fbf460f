"""The fleet as files at the size of a large fleet: diff, which a git hook or cron runs, stays quick."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from novactl.db import catalogue, hosts, instances
from novactl.db.sqlite import SqliteDatabase
from novactl.objects.network import Network
from tests.bench import limits
from tests.bench.harness import Results, take_turns
from tests.bench.test_start import host, instance, novactl, port
from tests.support.command import Command

HOSTS, INSTANCES = 1000, 20000


@pytest.fixture
def large(tmp_path: Path) -> Command:
    """HOSTS hosts with labels, INSTANCES instances with an address each, and the inventory that says so, but
    for one label."""
    command = Command(tmp_path / "config")
    command.ok("db", "init")
    db = SqliteDatabase(command.config / "novactl.db")
    with db.writing() as tx:
        for n in range(HOSTS):
            hosts.add(tx, host(n))
            hosts.update(tx, f"h{n}", labels={"rack": f"r{n // 20}", "tier": "front"})
        network = Network(id="n1", name="lan", cidr="10.0.0.0/16", gateway="10.0.0.1", bridge="br0")
        catalogue.add_network(tx, network)
        for n in range(INSTANCES):
            made = instance(n, f"h{n % HOSTS}")
            instances.add(tx, made)
            mac = f"fa:16:3e:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x}"
            instances.add_port(tx, made.uuid, network.id, replace(port(made.uuid, n, network), mac=mac))
    db.close()
    command.ok("inventory", "export", str(command.config / "inventory"))
    path = command.config / "inventory" / "hosts.yaml"
    path.write_text(path.read_text().replace("rack: r0", "rack: r99", 1))
    return command


def test_diff(results: Results, large: Command) -> None:
    ended = large("inventory", "diff", "-o", "json")
    assert ended.code == 10, ended.err
    (row,) = json.loads(ended.out)
    assert row["fields"] == {"labels": [{"rack": "r0", "tier": "front"}, {"rack": "r99", "tier": "front"}]}
    large.ok("inventory", "apply")
    runs = {
        "inventory diff": novactl(large, "inventory", "diff"),
        "inventory diff --prune": novactl(large, "inventory", "diff", "--prune"),
        "inventory export": novactl(large, "inventory", "export"),
    }
    take_turns(results, results.repeat(9, 2), runs)
    what = f"inventory diff, {HOSTS} hosts and {INSTANCES} instances"
    results.check_time("inventory diff", limits.DIFF_SECONDS, what)
    results.verdict("inventory diff")
