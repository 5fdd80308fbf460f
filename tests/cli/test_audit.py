"""novactl audit as far as it goes without a host: exit codes, formats, questions, left-over files."""

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from novactl.db import hosts, instances
from novactl.db.session import meta, set_meta
from novactl.db.sqlite import SqliteDatabase
from novactl.objects.states import TaskState, VmState
from tests.support import fleet
from tests.support.command import Command

FIELDS = ["finding", "severity", "host", "target", "message", "heal"]


@pytest.fixture
def stocked(novactl: Command, db: SqliteDatabase) -> Command:
    """Two instances on no host, one shows a task that nobody does."""
    fleet.furnish(db, hosts_=0)
    fleet.add_instance(db, fleet.instance(1))
    fleet.add_instance(db, fleet.instance(2, vm_state=VmState.STOPPED, task_state=TaskState.POWERING_ON))
    return novactl


def test_nothing_differs(novactl: Command) -> None:
    for words in ([], ["--heal"], ["--heal", "--dry-run"]):
        ended = novactl("audit", *words, "-o", "json")
        assert (ended.code, ended.json, ended.err) == (0, [], "")
    ended = novactl("audit")
    assert (ended.code, ended.out) == (0, "")


def test_findings(stocked: Command) -> None:
    ended = stocked("audit", "-o", "json")
    assert ended.code == 10
    assert ended.json == [
        {
            "finding": "task-without-operation",
            "severity": "warning",
            "host": None,
            "target": "web2",
            "message": "web2: shows powering-on and no operation does that",
            "heal": "clears it",
        }
    ]
    assert list(ended.json[0]) == FIELDS
    assert stocked.json("op", "list") == []


def test_every_format(stocked: Command) -> None:
    shown = {
        form: stocked("audit", "-o", form) for form in ("table", "jsonl", "yaml", "csv", "name", "value")
    }
    assert {ended.code for ended in shown.values()} == {10}
    table = shown["table"].out.splitlines()
    assert table[0].split() == ["SEVERITY", "FINDING", "HOST", "TARGET", "MESSAGE", "HEAL"]
    assert table[1].startswith("warning   task-without-operation  -     web2")
    assert json.loads(shown["jsonl"].out)["target"] == "web2"
    assert list(yaml.safe_load(shown["yaml"].out)[0]) == FIELDS
    assert shown["csv"].out.splitlines()[0] == "severity,finding,host,target,message,heal"
    assert shown["name"].out == "web2\n"
    assert stocked("audit", "-o", "csv", "-c", "finding,target").out == (
        "finding,target\ntask-without-operation,web2\n"
    )


def test_healing_asks(stocked: Command) -> None:
    ended = stocked("audit", "--heal", "-o", "json")
    assert (ended.code, ended.out) == (8, "")
    assert ended.error["message"] == "not confirmed: heal 1 of 1 findings?"
    assert "web2: shows powering-on and no operation does that: clears it\n" in ended.err
    assert stocked.json("op", "list") == []


def test_healing(stocked: Command) -> None:
    ended = stocked("audit", "--heal", "--yes", "-o", "json")
    assert (ended.code, ended.json) == (0, [])
    (op,) = stocked.json("op", "list")
    assert (op["kind"], op["target"], op["state"]) == ("heal", "web2", "done")
    assert f"web2: healed by {op['id']}\n" in ended.err
    assert stocked.json("show", "web2")["task_state"] is None
    (event,) = stocked.json("event", "list", "web2")
    assert (event["action"], event["result"]) == ("heal", "done")
    steps = stocked.json("op", "show", op["id"])["steps"]
    assert [(step["name"], step["summary"]) for step in steps] == [("heal-record", "web2: clears it")]


def test_dry_run(stocked: Command) -> None:
    ended = stocked("audit", "--heal", "--dry-run", "-o", "json")
    assert ended.code == 0
    (plan,) = ended.json
    assert list(plan) == ["kind", "target", "host", "alternates", "steps", "changes"]
    assert (plan["kind"], plan["target"], plan["steps"][0]["name"]) == ("heal", "web2", "heal-record")
    assert "heal web2:\n" in stocked("audit", "--heal", "--dry-run").err
    assert stocked("audit").code == 10
    assert stocked.json("op", "list") == []


def test_what_cannot_be_healed_remains(stocked: Command, db: SqliteDatabase) -> None:
    with db.writing() as tx:
        instances.update(tx, fleet.uuid(1), vm_state=VmState.BUILDING)
    ended = stocked("audit", "--heal", "--yes", "-o", "json")
    assert ended.code == 10
    assert [(one["finding"], one["heal"]) for one in ended.json] == [("building-without-operation", None)]
    ended = stocked("audit", "--heal", "-o", "json")  # nothing is healed: nothing is asked
    assert (ended.code, len(ended.json)) == (10, 1)


def test_a_host_that_does_not_answer(stocked: Command, db: SqliteDatabase) -> None:
    with db.writing() as tx:
        hosts.add(tx, fleet.host("kvm1", address="127.0.0.1", port=1))
    fleet.add_instance(db, fleet.instance(3, host="kvm1"))
    ended = stocked("audit", "-o", "json")
    assert ended.code == 10
    found = {one["finding"]: one for one in ended.json}
    assert set(found) == {"unreachable-host", "hold-missing", "task-without-operation"}
    assert found["unreachable-host"]["host"] == "kvm1"
    ended = stocked("audit", "--adopt", "--yes", "-o", "json")
    assert (ended.code, ended.error["code"]) == (7, 7)
    assert ended.error["message"].startswith("not every host answers: kvm1 (kvm1: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--heal", "--adopt"], "--heal and --adopt exclude each other"),
        (["--dry-run"], "--dry-run goes with --heal or --adopt"),
        (["web1"], "unexpected"),
    ],
)
def test_usage(stocked: Command, words: list[str], message: str) -> None:
    ended = stocked("audit", *words)
    assert (ended.code, message in ended.err) == (2, True), ended.err


def test_help_has_an_example(novactl: Command) -> None:
    assert "novactl audit --heal --yes" in novactl.ok("audit", "--help").out


def test_a_restored_database(stocked: Command, db: SqliteDatabase) -> None:
    """Noticed, then found to know all that the (no) hosts know."""
    with db.writing() as tx:
        set_meta(tx, "restored", "host kvm1 has seen operation op-1, which is not in it")
    assert stocked("delete", "web1", "--yes").code == 5
    ended = stocked("audit", "--heal", "--yes")
    assert (ended.code, "novactl audit --adopt" in ended.err) == (10, True)
    ended = stocked("audit", "--adopt", "--dry-run", "-o", "json")
    assert (ended.code, ended.json) == (0, [])
    assert stocked("audit", "--adopt").code == 8
    with db.reading() as tx:
        assert meta(tx, "restored") is not None
    ended = stocked("audit", "--adopt", "--yes", "-o", "json")
    assert (ended.code, ended.json) == (0, [])
    assert stocked("delete", "web1", "--yes").code == 0
    assert "nothing to adopt" in stocked.ok("audit", "--adopt").err


# --- this operator's own files ---


def _ended_child() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def test_left_over_files(novactl: Command, db: SqliteDatabase, quick: Path) -> None:
    fleet.furnish(db, hosts_=0)
    fleet.add_instance(db, fleet.instance(1))
    fleet.add_instance(db, fleet.instance(2))
    old, new = (novactl.json("delete", name, "--yes")[0]["operation"] for name in ("web1", "web2"))
    long_ago = (datetime.now(UTC) - timedelta(days=31)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    with db.writing() as tx:
        tx.run("UPDATE operations SET finished_at = :then WHERE id = :id", then=long_ago, id=old)
    ssh, log = quick / "config" / "ssh", quick / "config" / "log"
    for directory in (ssh, log):
        directory.mkdir(exist_ok=True)
    dead, us = _ended_child(), os.getpid()
    kept = [ssh / f"config.kvm1.{us}", ssh / "config", ssh / "known_hosts.kvm1", log / f"{new}.log"]
    gone = [ssh / f"config.kvm1.{dead}", ssh / f".known_hosts.{dead}", log / f"{old}.log"]
    for path in (*kept, *gone):
        path.touch()
    (ssh / "identities.json").write_text('{"kvm9": "/nowhere"}')
    ended = novactl("audit", "-o", "json")
    assert ended.code == 10
    assert {(one["finding"], one["severity"], one["target"]) for one in ended.json} == {
        ("leftover-file", "info", name) for name in (*(path.name for path in gone), "kvm9")
    }
    assert all(path.exists() for path in gone)
    assert novactl("audit", "--heal", "--dry-run", "-o", "json").json == []
    assert novactl("audit", "--heal").code == 8
    ended = novactl("audit", "--heal", "--yes", "-o", "json")
    assert (ended.code, ended.json) == (0, [])
    assert [path.name for path in gone if path.exists()] == []
    assert [path.name for path in kept if not path.exists()] == []
    assert json.loads((ssh / "identities.json").read_text()) == {}
    assert {op["kind"] for op in novactl.json("op", "list")} == {"delete"}
