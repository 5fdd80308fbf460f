"""novactl playbook: what it refuses and how, plans, and runs that need no host."""

import json
from pathlib import Path

import pytest

from novactl.db import hosts, instances, operations
from novactl.db.sqlite import SqliteDatabase
from tests.support import fleet
from tests.support.command import Command

ONCE = """\
name: chores
description: what has to be done
vars:
  zone: {description: the zone}
  note: {type: text, default: hello}
steps:
  - name: all hosts
    novactl: [host, list]
    register: found
  - name: there are two
    check: {that: found.count == 2 and zone == "east", message: "not in {{ zone }}"}
"""
EACH = """\
name: each
description: something on each host
vars:
  reason: {type: text, default: chores}
hosts: {labels: {rack: r1}}
serial: 1
confirm: do it for {{ reason }}?
steps:
  - name: off
    when: host.enabled and not has(host.labels.spared)
    novactl: [host, set, "{{ target }}", --disable, --reason, "{{ reason }}"]
    undo: [host, set, "{{ target }}", --enable]
  - name: file
    when: host.zone == "nowhere"
    put: {path: "/etc/{{ target }}", content: x}
  - name: fit
    check: {that: 'not has(host.labels.bad)', message: "{{ target }} is bad"}
"""


@pytest.fixture
def known(novactl: Command, db: SqliteDatabase) -> Command:
    """novactl with two hosts in a rack, one of them spared, and two playbooks of its own."""
    with db.writing() as tx:
        hosts.add(tx, fleet.host("kvm1", labels={"rack": "r1"}))
        hosts.add(tx, fleet.host("kvm2", labels={"rack": "r1", "spared": "yes"}))
    for name, text in (("chores", ONCE), ("each", EACH)):
        write(novactl, name, text)
    return novactl


def write(novactl: Command, name: str, text: str) -> Path:
    file = novactl.config / "playbooks" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def enabled(db: SqliteDatabase) -> dict[str, tuple[bool, str | None]]:
    with db.reading() as tx:
        return {host.name: (host.enabled, host.disabled_reason) for host in hosts.everything(tx)}


def test_list_and_show(known: Command) -> None:
    listed = {one["name"]: one for one in known.json("playbook", "list")}
    assert {"chores", "each", "enroll", "rolling-reboot"} <= set(listed)
    assert (listed["each"]["targets"], listed["chores"]["targets"]) == ("hosts", "once")
    shown = known.json("playbook", "show", "each")
    assert shown["steps"][0]["undo"] == ["host", "set", "{{ target }}", "--enable"]
    assert "do it for" in known.ok("playbook", "show", "each").out


def test_an_own_one_comes_before_the_shipped_one(known: Command) -> None:
    write(known, "nightly", ONCE.replace("chores", "nightly"))
    listed = {one["name"]: one["file"] for one in known.json("playbook", "list")}
    assert listed["nightly"].startswith(str(known.config))


def test_a_bad_one_is_told_and_hides_no_other(known: Command) -> None:
    file = write(known, "bad", "name: bad\n")
    listed = known("playbook", "list", "-o", "json")
    assert f"error: {file}:" in listed.err
    assert "each" in {one["name"] for one in listed.json}


def test_it_runs_once(known: Command) -> None:
    (done,) = known.json("playbook", "run", "chores", "-e", "zone=east", "--yes")
    assert (done["target"], done["result"], done["code"]) == ("chores", "done", 0)
    shown = known.json("op", "show", done["operation"])
    assert (shown["kind"], shown["target"], shown["state"]) == ("playbook", "chores", "done")
    assert shown["steps"][0]["result"] == {"changed": True, "code": 0, "names": ["kvm1", "kvm2"], "count": 2}


def test_what_does_not_hold_ends_it(known: Command) -> None:
    failed = known("playbook", "run", "chores", "-e", "zone=west", "--yes", "-o", "json")
    assert failed.code == 1
    assert failed.error["message"] == "playbook of chores: there are two: not in west"


def test_each_target_and_what_when_leaves_out(known: Command, db: SqliteDatabase) -> None:
    done = known.json("playbook", "run", "each", "-e", "reason=new disks; and 'more'", "--yes")
    assert [(one["target"], one["result"]) for one in done] == [("kvm1", "done"), ("kvm2", "done")]
    assert enabled(db) == {"kvm1": (False, "new disks; and 'more'"), "kvm2": (True, None)}


def test_a_failure_is_undone_and_the_rest_skipped(known: Command, db: SqliteDatabase) -> None:
    known.ok("host", "set", "kvm1", "--label", "bad=yes")
    ended = known("playbook", "run", "each", "--yes", "-o", "json")
    assert ended.code == 3
    assert [(one["target"], one["result"], one["code"]) for one in ended.json] == [
        ("kvm1", "failed", 1),
        ("kvm2", "skipped", 0),
    ]
    assert "kvm1: playbook of each on kvm1: fit: kvm1 is bad" in ended.err
    assert enabled(db)["kvm1"] == (True, None)


def test_a_dry_run_shows_all_and_changes_nothing(known: Command, db: SqliteDatabase) -> None:
    plans = known.json("playbook", "run", "each", "--dry-run")
    assert [plan["target"] for plan in plans] == ["each on kvm1", "each on kvm2"]
    assert [step["name"] for step in plans[0]["steps"]] == ["run-novactl", "check-that"]
    assert plans[0]["steps"][0]["summary"] == (
        "off: novactl host set kvm1 --disable --reason chores, undo: novactl host set kvm1 --enable"
    )
    assert [one["name"] for one in plans[1]["changes"]["left_out"]] == ["off", "file"]
    told = known.ok("playbook", "run", "each", "--dry-run").err
    assert "each on kvm2: left out: off (when: host.enabled and not has(host.labels.spared))" in told
    assert enabled(db) == {"kvm1": (True, None), "kvm2": (True, None)}
    assert known.json("op", "list") == []


def test_narrowed(known: Command) -> None:
    def targets(*words: str) -> list[str]:
        return [plan["target"] for plan in known.json("playbook", "run", "each", "--dry-run", *words)]

    assert targets("--on", "kvm2") == ["each on kvm2"]
    assert targets("-l", "spared=yes") == ["each on kvm2"]
    assert targets("-l", "spared=no") == []
    assert known.json("playbook", "run", "each", "--yes", "-l", "spared=no") == []


def test_instances(known: Command, db: SqliteDatabase) -> None:
    with db.writing() as tx:
        for n, role in enumerate(("web", "web", "db"), start=1):
            one = fleet.instance(n, metadata={"role": role})
            instances.add(tx, one)
    text = """\
name: marks
description: x
instances: {metadata: {role: web}}
steps:
  - name: look
    novactl: [show, "{{ instance.uuid }}"]
"""
    write(known, "marks", text)
    done = known.json("playbook", "run", "marks", "--yes")
    assert len(done) == 2 and {one["result"] for one in done} == {"done"}


def test_a_run_that_goes_on_detached(known: Command, db: SqliteDatabase) -> None:
    items = known.json("playbook", "run", "each", "--yes", "--no-wait")
    assert len(items) == 2
    for item in items:
        known.ok("op", "wait", item["id"], "--timeout", "60")
    assert enabled(db)["kvm1"] == (False, "chores")


def test_a_hanging_file_is_not_what_runs_later(known: Command, db: SqliteDatabase) -> None:
    """What was journaled counts, and not the file as it is then."""
    (item, _) = known.json("playbook", "run", "each", "--yes", "--no-wait")
    write(known, "each", EACH.replace("--disable", "--enable"))
    known.ok("op", "wait", item["id"], "--timeout", "60")
    with db.reading() as tx:
        parent = next(op for op, _, _ in operations.listed(tx) if "targets" in op.request)
    assert "--disable" in json.dumps(parent.request["playbook"])
    assert enabled(db)["kvm1"] == (False, "chores")


@pytest.mark.parametrize("before", ["lock", "unlock"])
def test_what_was_so_before_is_not_undone(before: str, known: Command, db: SqliteDatabase) -> None:
    with db.writing() as tx:
        instances.add(tx, fleet.instance(1, host=None))
    known.ok(before, "web1")
    text = """\
name: locks
description: x
steps:
  - {name: locked, novactl: [lock, web1], undo: [unlock, web1]}
  - {name: never, check: {that: "false", message: it is not}}
"""
    write(known, "locks", text)
    failed = known("playbook", "run", "locks", "--yes", "-o", "json")
    assert failed.error["message"] == "playbook of locks: never: it is not"
    assert known.json("show", "web1")["locked"] is (before == "lock")
    assert [op["kind"] for op in known.json("op", "list")].count("unlock") == (before == "unlock")


def test_a_value_does_not_decide_what_the_run_does(known: Command, db: SqliteDatabase) -> None:
    more = "  words: {type: list, options: true}\nhosts:"
    text = EACH.replace("hosts:", more).replace('"{{ reason }}"]', '"{{ reason }}", "{{ words }}"]')
    write(known, "each", text)
    for word in ("-otable", "-cname", "-y", "--db=/x", "--no-wait"):
        ended = known("playbook", "run", "each", "--yes", "-e", f"words={word}", "-o", "json")
        assert ended.code == 5
        assert ended.error["message"] == (
            "playbook each: steps[0] (off): for kvm1 it"
            f" would give novactl {word!r}, and the run decides that"
        )
    known.ok("playbook", "run", "each", "--yes", "-e", "words=--label,o=-o")
    assert enabled(db)["kvm1"] == (False, "chores")


REFUSED = {
    "not-found": (["nightyl"], 4, "playbook 'nightyl' does not exist"),
    "no-file": (["./no/such.yaml"], 4, "there is no such file"),
    "no-tty": (["each"], 8, "not confirmed: do it for chores? (kvm1, kvm2)"),
    "missing": (["chores", "--yes"], 2, "no value for zone"),
    "unknown-var": (["each", "--yes", "-e", "raeson=x"], 2, "-e raeson: the playbook has no such variable"),
    "bad-value": (["chores", "--yes", "-e", "zone=-rf"], 2, "-e zone: '-rf' is not of type name"),
    "no-sign": (["chores", "--yes", "-e", "zone"], 2, "-e 'zone' is not of the form key=value"),
    "option": (["each", "--yes", "-e", "reason=--enable"], 5, "it would become the option '--enable'"),
    "unknown-host": (["each", "--on", "kvm9"], 4, "host 'kvm9' does not exist"),
    "selector": (["each", "-l", "rack"], 2, "selector 'rack' is not of the form key=value"),
    "narrowing-nothing": (
        ["chores", "-e", "zone=a", "--on", "kvm1"],
        2,
        "has no hosts or instances to choose",
    ),
    "waiting": (["each", "--yes", "--no-wait", "--timeout", "5"], 2, "exclude each other"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, known: Command, db: SqliteDatabase) -> None:
    words, code, told = REFUSED[case]
    ended = known("playbook", "run", *words, "-o", "json")
    assert (ended.code, ended.error["code"]) == (code, code)
    assert told in ended.error["message"]
    assert enabled(db) == {"kvm1": (True, None), "kvm2": (True, None)}
    assert {op["state"] for op in known.json("op", "list")} <= {"undone"}  # of a parent without children


BAD_FILES = {
    "step": ("  - {name: a, reboto: {}}\n", "bad.yaml:4: steps[0].reboto: is not known here"),
    "verb": ("  - {name: a, novactl: [host, sett, x]}\n", "novactl has no command 'host sett'"),
    "type": ("  - {name: a, novactl: host list}\n", "bad.yaml:4: steps[0].novactl: must be a valid list"),
    "name": (
        '  - {name: a, novactl: [show, "{{ x }}"]}\n',
        "bad.yaml:4: steps[0].novactl[1]: x is not known",
    ),
    "yaml": ("  - {name: a\n", "not YAML"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(case: str, known: Command) -> None:
    step, told = BAD_FILES[case]
    file = write(known, "bad", f"name: bad\ndescription: x\nsteps:\n{step}")
    for words in (["show", "bad"], ["run", str(file), "--yes"]):
        ended = known("playbook", *words, "-o", "json")
        assert ended.code == 2
        assert told in ended.error["message"]


def test_a_condition_that_cannot_be_decided(known: Command) -> None:
    write(known, "each", EACH.replace("host.enabled and", "host.name < 3 and"))
    ended = known("playbook", "run", "each", "--yes", "-o", "json")
    assert ended.code == 5
    assert ended.error["message"] == (
        "playbook each: steps[0] (off): for kvm1 it cannot compare 'kvm1' with 3"
    )
    assert {op["state"] for op in known.json("op", "list")} <= {"undone"}
