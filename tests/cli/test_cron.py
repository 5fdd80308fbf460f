"""cron, check, metrics, image prune: what they print, and when they print nothing."""

import configparser
import json
import re
import shutil
import stat
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from novactl.actions.cron import TASKS
from novactl.db import hosts, instances, settings, tasks
from novactl.db.session import Tx
from novactl.db.sqlite import SqliteDatabase
from novactl.objects.states import VmState
from tests.support import fleet
from tests.support.command import Command

NAMES = [task.name for task in TASKS]
NOWHERE = {"address": "127.0.0.1", "port": 1}


def add_host(db: SqliteDatabase, name: str = "kvm1", **values: Any) -> None:
    with db.writing() as tx:
        hosts.add(tx, fleet.host(name, **{**NOWHERE, **values}))


def refused(novactl: Command, *words: str, code: int, says: str, hint: str = "") -> None:
    ended = novactl(*words, "-o", "json")
    assert (ended.code, ended.out) == (code, ""), ended
    assert says in ended.error["message"] and hint in ended.error["hint"], ended


# --- cron ---


def test_silent_when_all_is_well(novactl: Command) -> None:
    for _ in range(2):
        ended = novactl("cron")
        assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_rows(novactl: Command) -> None:
    rows = novactl.json("cron")
    assert [row["task"] for row in rows] == NAMES
    assert {row["result"] for row in rows} == {"done"}
    keys = "task result message changes attention news started_at finished_at due_at".split()
    assert all(list(row) == keys for row in rows)
    stamp = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
    assert all(stamp.fullmatch(row[key]) for row in rows for key in keys if key.endswith("_at"))
    again = novactl.json("cron")
    assert {(row["result"], row["message"], row["started_at"]) for row in again} == {
        ("skipped", "is not due", None)
    }
    moments = [[datetime.fromisoformat(row["due_at"]) for row in each] for each in (rows, again)]
    assert all(abs(a - b) <= timedelta(seconds=2) for a, b in zip(*moments, strict=True))


def test_a_host_that_does_not_answer_is_told_once(novactl: Command, db: SqliteDatabase) -> None:
    add_host(db)
    first = novactl("cron", "--task", "facts")
    assert first.code == 10 and first.err == ""
    assert re.fullmatch(r"facts: kvm1: .*refused.*\n", first.out)
    second = novactl("cron", "--task", "facts")
    assert (second.code, second.out, second.err) == (10, "", "")  # it still needs attention, and is no news
    (row,) = novactl("cron", "--task", "facts", "-o", "json").json
    assert row["result"] == "done" and row["news"] == [] and len(row["attention"]) == 1
    assert [h["state"] for h in novactl.json("host", "list")] == ["down"]
    with db.writing() as tx:
        hosts.remove(tx, "kvm1")
    over = novactl("cron", "--task", "facts")
    assert over.code == 0 and over.out.startswith("facts: over: kvm1: ") and "(since 20" in over.out


def test_what_was_done_with_v(novactl: Command) -> None:
    ended = novactl("cron", "-v")
    assert ended.code == 0 and ended.out == ""
    assert ended.err.splitlines() == [f"{name}: done" for name in NAMES]


def test_list_of_tasks(novactl: Command, db: SqliteDatabase) -> None:
    before = novactl.json("cron", "--list")
    assert [row["task"] for row in before] == NAMES and {row["result"] for row in before} == {None}
    db.write(lambda tx: settings.put(tx, "cron", {"facts": {"every": 7200, "jitter": 0, "enabled": False}}))
    novactl.ok("cron")
    rows = {row["task"]: row for row in novactl.json("cron", "--list")}
    assert rows["facts"]["enabled"] is False and rows["facts"]["due_at"] is None
    assert rows["facts"]["every_seconds"] == 7200 and rows["facts"]["result"] is None
    assert rows["leases"]["result"] == "done" and rows["leases"]["succeeded_at"] is not None
    table = novactl.ok("cron", "--list").out.splitlines()
    assert table[0].split() == ["TASK", "ENABLED", "DUE_AT", "RESULT", "FINISHED_AT", "MESSAGE"]


def test_a_task_that_fails(novactl: Command, db: SqliteDatabase) -> None:
    bad = [{"name": "x", "do": "explode"}]
    with db.writing() as tx:
        tx.insert("settings", id="p", name="policies", value=json.dumps(bad))
    ended = novactl("cron")
    assert ended.code == 3
    assert ended.out.startswith("policies: policies: policy x: do 'explode' is not one of")
    alone = novactl("cron", "--task", "policies")
    assert (alone.code, alone.out) == (1, "")
    (row,) = novactl("cron", "--task", "policies", "-o", "json").json
    assert row["result"] == "failed" and "explode" in row["message"]


def test_bad_words(novactl: Command, db: SqliteDatabase) -> None:
    refused(novactl, "cron", "--task", "fact", code=4, says="task 'fact' does not exist", hint="facts")
    refused(novactl, "cron", "--timeout", "0", code=2, says="--timeout is more than 0 seconds")
    refused(
        novactl, "cron", "--example", "x", code=2, says="--example 'x' is not one of cron.d, service, timer"
    )
    db.write(
        lambda tx: tasks.take(
            tx, "facts", tasks.Runner.of("a" * 32, "", shared=True), 600, horizon=1, due_or_not=True, now="x"
        )
    )
    with db.writing() as tx:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        tx.run("UPDATE tasks SET runner = :runner", runner=f"{boot}.another")
    refused(novactl, "cron", "--task", "facts", code=6, says="task facts: another novactl works on it")
    rows = {row["task"]: row["message"] for row in novactl.json("cron")}
    assert rows["facts"] == "another novactl works on it"


def test_a_dry_run_leaves_nothing(novactl: Command, db: SqliteDatabase) -> None:
    add_host(db)
    ended = novactl("cron", "--dry-run")
    assert ended.code == 10 and ended.err == ""
    assert ended.out.startswith("facts: kvm1: is down, was up\nfacts: kvm1: ")
    assert db.read(tasks.all_of) == {}
    assert [h["state"] for h in novactl.json("host", "list")] == ["up"]


def test_many_at_once(empty: Command, db: SqliteDatabase) -> None:
    """Real processes: of each task one run was done, whoever did it."""
    started = [empty.popen("cron", "-o", "json") for _ in range(20)]
    rows = []
    for process in started:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, ""), err
        rows += json.loads(out)
    done = sorted(row["task"] for row in rows if row["result"] == "done")
    assert done == sorted(NAMES)
    assert {row["message"] for row in rows if row["result"] == "skipped"} <= {
        "is not due",
        "another novactl works on it",
    }


# --- examples ---


def example(novactl: Command, name: str, directory: Path) -> configparser.ConfigParser:
    path = directory / f"novactl-cron.{name}"
    path.write_text(novactl.ok("cron", "--example", name).out)
    found = configparser.ConfigParser(strict=True, interpolation=None)
    found.optionxform = str  # type: ignore[assignment, method-assign]
    found.read(path)
    return found


def test_systemd_units(novactl: Command, tmp_path: Path) -> None:
    service, timer = (example(novactl, name, tmp_path) for name in ("service", "timer"))
    assert service["Service"]["ExecStart"].endswith("/novactl cron")
    assert service["Service"]["Type"] == "oneshot" and service["Service"]["SuccessExitStatus"] == "10"
    assert timer["Timer"]["OnCalendar"] == "minutely" and timer["Install"]["WantedBy"] == "timers.target"
    assert "Install" not in service  # the timer starts it
    if tool := shutil.which("systemd-analyze"):
        unit = tmp_path / "novactl-cron.service"
        unit.write_text(unit.read_text().replace("/usr/local/bin/novactl", "/bin/true"))
        paths = [str(unit), str(tmp_path / "novactl-cron.timer")]
        verified = subprocess.run([tool, "verify", *paths], capture_output=True, text=True, timeout=60)
        told = [line for line in verified.stderr.splitlines() if "novactl-cron" in line]
        assert told == [], told


def test_crontab(novactl: Command) -> None:
    lines = novactl.ok("cron", "--example", "cron.d").out.splitlines()
    jobs = [line for line in lines if line and line[0] not in "#" and "=" not in line.split()[0]]
    assert jobs == ["* * * * * root novactl cron"]
    names = {line.split("=")[0] for line in lines if re.match(r"[A-Z_]+=", line)}
    assert names == {"SHELL", "PATH", "MAILTO", "NOVACTL_CONFIG"}


# --- check ---


def test_check_of_a_fleet_that_is_well(novactl: Command, db: SqliteDatabase) -> None:
    novactl.ok("cron")
    ended = novactl("check", "-o", "json")
    assert ended.code == 0
    assert [(row["check"], row["result"]) for row in ended.json] == [
        (kind, "ok") for kind in ("hosts", "operations", "instances", "capacity", "cron")
    ]
    line = novactl("check", "--nagios")
    assert line.code == 0 and line.out.startswith("NOVACTL OK - 0 up; ") and line.out.count("\n") == 1


def wrong(db: SqliteDatabase) -> None:
    """One of each."""
    now = "2020-01-01T00:00:00.000000Z"
    add_host(db, "down", state="down", checked_at=now)
    add_host(db, "off", port=2, state="down", enabled=False, disabled_reason="new | fans", checked_at=now)
    add_host(db, "stale", port=3, checked_at=now, vcpus=4, vcpus_used=15, memory_mib=1 << 20)
    with db.writing() as tx:
        instances.add(tx, fleet.instance(1, vm_state=VmState.ERROR))


def test_check_of_what_is_wrong(novactl: Command, db: SqliteDatabase) -> None:
    wrong(db)
    ended = novactl("check", "-o", "json")
    assert ended.code == 10
    found = [(row["check"], row["target"], row["result"], row["message"]) for row in ended.json]
    assert ("hosts", "down", "fail", "down: is down") in found
    assert ("hosts", "off", "warn", "off: is down and disabled (new | fans)") in found
    assert any(row[:3] == ("hosts", "stale", "warn") and "was last looked at" in row[3] for row in found)
    assert ("instances", None, "warn", f"1 in ERROR: {fleet.instance(1).name}") in found
    assert ("capacity", "vcpus", "warn", "94 % of all vcpus are claimed") in found
    assert ("cron", None, "warn", "never ran") in found
    assert ("operations", None, "ok", "none is left half way") in found


def test_a_task_that_only_the_settings_know(novactl: Command, db: SqliteDatabase) -> None:
    novactl.ok("cron")
    db.write(lambda tx: settings.put(tx, "cron", {"fcats": {"every": 60, "jitter": 0, "enabled": True}}))
    (wrong,) = [row for row in novactl("check", "-o", "json").json if row["result"] != "ok"]
    assert wrong["message"] == "fcats: is no task, and the settings have one of that name"


def test_nagios(novactl: Command, db: SqliteDatabase) -> None:
    wrong(db)
    ended = novactl("check", "--nagios")
    assert ended.code == 2 and ended.err == ""
    text, _, data = ended.out.rstrip("\n").partition(" | ")
    assert text.startswith("NOVACTL CRITICAL - down: is down; ") and "(new / fans)" in text
    perf = re.compile(r"[a-z_]+=[0-9.]+%?;[0-9.]*;[0-9.]*;[0-9.]*;[0-9.]*")
    assert all(perf.fullmatch(part) for part in data.split(" ")), data
    assert "hosts_not_up=2;0;0;0;3" in data and "vcpus_used=93.8%;90;98;0;" in data
    with db.writing() as tx:
        tx.run("UPDATE hosts SET state = 'up'")
    assert novactl("check", "--nagios").code == 1
    assert novactl("check", "--nagios", "--warning", "10", "--critical", "20").code == 2


def test_nagios_when_it_cannot_look(novactl: Command, tmp_path: Path) -> None:
    ended = novactl("check", "--nagios", "--db", str(tmp_path / "none.db"))
    assert ended.code == 3 and ended.out.startswith("NOVACTL UNKNOWN - ") and "does not exist" in ended.out


def test_check_refuses(novactl: Command) -> None:
    refused(novactl, "check", "--warning", "99", "--critical", "98", code=2, says="--warning is more than 0")
    refused(novactl, "check", "--stale", "soon", code=2, says="--stale 'soon' is not a length of time")


# --- metrics ---


def families(text: str) -> dict[str, Any]:
    found = list(text_string_to_metric_families(text))
    assert len({family.name for family in found}) == len(found)
    assert all(family.documentation and family.type == "gauge" for family in found)
    return {family.name: {tuple(s.labels.values()): s.value for s in family.samples} for family in found}


def test_metrics(novactl: Command, db: SqliteDatabase) -> None:
    novactl.ok("cron")
    wrong(db)
    found = families(novactl.ok("metrics").out)
    assert found["novactl_host_up"] == {("down",): 0, ("off",): 0, ("stale",): 1}
    assert found["novactl_host_enabled"][("off",)] == 0
    assert found["novactl_host_memory_bytes_total"][("stale",)] == 1 << 40
    assert found["novactl_host_vcpus_capacity"][("stale",)] == 16
    assert found["novactl_host_vcpus_used"][("stale",)] == 15
    assert found["novactl_instances"][("ERROR",)] == 1
    assert found["novactl_operations_left"] == {(): 0}
    assert set(found["novactl_cron_task_last_success_timestamp_seconds"]) == {(name,) for name in NAMES}
    assert sum(found["novactl_cron_task_failed"].values()) == 0
    assert found["novactl_host_checked_timestamp_seconds"][("stale",)] == 1577836800


def test_labels_are_escaped(novactl: Command, db: SqliteDatabase) -> None:
    hostile = 'a"b\\c\nd'
    add_host(db)

    def work(tx: Tx) -> None:
        tx.run("UPDATE hosts SET name = :name", name=hostile)

    db.write(work)
    assert (hostile,) in families(novactl.ok("metrics").out)["novactl_host_up"]


def test_textfile(novactl: Command, tmp_path: Path) -> None:
    path = tmp_path / "novactl.prom"
    path.write_text("old")
    path.chmod(0o600)
    ended = novactl("metrics", "--textfile", str(path))
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert "novactl_build_info" in families(path.read_text())
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["novactl.prom"]
    nowhere = tmp_path / "none" / "x.prom"
    refused(novactl, "metrics", "--textfile", str(nowhere), code=5, says="No such file or directory")
    refused(novactl, "metrics", "--textfile", str(tmp_path), code=5, says=f"--textfile {tmp_path}: ")
    assert [p.name for p in tmp_path.iterdir()] == ["novactl.prom"]


# --- image prune ---


def test_a_host_without_instances_is_fenced_too(novactl: Command, db: SqliteDatabase) -> None:
    """A move that waits is ended without the host that it may go back to."""
    add_host(db)
    (novactl.config / "fencing.yaml").write_text('fencing: {off: ["true"], fails: ["false"]}\n')
    words = ["host", "evacuate", "kvm1", "--fenced-by"]
    refused(novactl, *words, "fails", "--yes", code=5, says="ended with 1")
    assert novactl.json("host", "show", "kvm1")["state"] != "fenced"
    assert novactl(*words, "off", "--dry-run", "-o", "json").json == []
    assert novactl.json("host", "show", "kvm1")["state"] != "fenced"
    assert novactl(*words, "off", "--yes", "-o", "json").json == []
    assert novactl.json("host", "show", "kvm1")["state"] == "fenced"


def test_image_prune_refuses(novactl: Command, db: SqliteDatabase) -> None:
    refused(novactl, "image", "prune", code=2, says="give hosts with --on, or --all")
    refused(novactl, "image", "prune", "--all", "--on", "x", code=2, says="give hosts with --on, or --all")
    refused(novactl, "image", "prune", "--on", "kvm9", code=4, says="host 'kvm9' does not exist")
    refused(novactl, "image", "prune", "--all", "--older-than", "x", code=2, says="--older-than 'x'")
    assert novactl.json("image", "prune", "--all") == []
    add_host(db)
    ended = novactl("image", "prune", "--all", "-o", "json")
    assert ended.code == 7 and "1 of 1 places: nothing was pruned" in ended.err
    (row,) = ended.json
    assert list(row) == ["host", "file", "size_bytes", "last_used", "removed", "reason"]
    assert (row["host"], row["removed"]) == ("kvm1", False) and "refused" in row["reason"]
