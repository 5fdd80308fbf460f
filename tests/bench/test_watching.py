"""What is called each minute: cron with nothing to do, metrics of a large fleet."""

from dataclasses import replace
from pathlib import Path

import pytest

from novactl.db import hosts, instances, tables
from novactl.db.sqlite import SqliteDatabase
from tests.bench import limits
from tests.bench.harness import Results, take_turns
from tests.bench.test_start import host, instance, novactl
from tests.support.command import Command


@pytest.fixture
def large(tmp_path: Path) -> Command:
    """FLEET_HOSTS hosts, FLEET_INSTANCES instances, and as many operations that have ended."""
    assert tables
    command = Command(tmp_path / "large")
    command.ok("db", "init")
    db = SqliteDatabase(command.config / "novactl.db")
    when = "2026-01-01T00:00:00.000000Z"
    with db.writing() as tx:
        for n in range(limits.FLEET_HOSTS):
            hosts.add(tx, host(n))
        for n in range(limits.FLEET_INSTANCES):
            made = replace(instance(n, f"h{n % limits.FLEET_HOSTS}"), name=f"web-{n}")
            instances.add(tx, made)
            tx.insert(
                "operations",
                id=f"op-{n:011x}",
                kind="boot",
                target=made.name,
                target_uuid=made.uuid,
                project="default",
                request="{}",
                state="done",
                attempt=1,
                epoch=1,
                owner="me",
                owner_key="{}",
                user="me",
                written_by="0",
                cancel_requested=0,
                started_at=when,
                finished_at=when,
            )
    db.close()
    return command


def test_cron_with_nothing_to_do(results: Results, empty: Command) -> None:
    empty.ok("cron")
    name = "cron, nothing due"
    take_turns(results, results.repeat(21, 5), {name: novactl(empty, "cron")})
    results.check_time(name, limits.CRON_SECONDS)
    results.verdict(name)


def test_a_large_fleet(results: Results, large: Command) -> None:
    name = f"metrics of {limits.FLEET_INSTANCES} instances"
    take_turns(results, results.repeat(11, 3), {name: novactl(large, "metrics")})
    results.check_time(name, limits.METRICS_SECONDS)
    results.verdict(name)
