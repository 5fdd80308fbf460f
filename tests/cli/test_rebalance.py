"""novactl rebalance: the plan, what keeps instances where they are, and plans that are kept."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from novactl.db import aggregates, groups, hosts, instances
from novactl.db.sqlite import SqliteDatabase
from novactl.objects.aggregate import Aggregate
from novactl.objects.group import GroupPolicy, ServerGroup
from novactl.objects.moments import as_text
from novactl.objects.placement import Placement
from novactl.objects.states import TaskState, VmState
from tests.support import fleet
from tests.support.command import Command

FIELDS = ["instance", "uuid", "project", "from", "to", "method", "reason", "cost_gib", "gain", "blocker"]
SCORE = ["score", "memory_spread", "vcpus_spread", "disk_spread", "violations"]


@pytest.fixture
def uneven(novactl: Command, db: SqliteDatabase) -> Command:
    """Four instances on kvm1, none on kvm2."""
    fleet.furnish(db, hosts_=2)
    for n in range(1, 5):
        put(db, n)
    return novactl


def put(db: SqliteDatabase, number: int, on: str = "kvm1", numa: str | None = None, **values: Any) -> str:
    """An instance with its room on that host."""
    made = fleet.instance(number, host=on, **values)
    with db.writing() as tx:
        instances.add(tx, made)
        assert hosts.claim(tx, on, made.uuid, made.resources, numa=numa)
    return made.uuid


def change(db: SqliteDatabase, number: int, **values: Any) -> None:
    with db.writing() as tx:
        instances.update(tx, fleet.uuid(number), **values)


def operation(db: SqliteDatabase, number: int, kind: str, state: str, finished_at: str | None) -> str:
    with db.writing() as tx:
        tx.insert(
            "operations",
            id=f"op-{number}",
            kind=kind,
            target=f"web{number}",
            target_uuid=fleet.uuid(number),
            project="default",
            request="{}",
            state=state,
            attempt=1,
            epoch=1,
            owner="me",
            owner_key="{}",
            user="me",
            written_by="0",
            cancel_requested=0,
            started_at=fleet.WHEN,
            finished_at=finished_at,
        )
    return f"op-{number}"


def planned(command: Command, *words: str) -> list[tuple[str, str, str | None, str | None]]:
    return [
        (move["instance"], move["from"], move["to"], move["blocker"])
        for move in command.json("rebalance", "--dry-run", *words)["moves"]
    ]


# --- the plan ---


def test_a_plan(uneven: Command) -> None:
    ended = uneven("rebalance", "--dry-run", "-o", "json")
    assert (ended.code, list(ended.json)) == (0, ["moves", "before", "after"])
    first, second = ended.json["moves"]
    assert list(first) == FIELDS
    assert {**first, "gain": 0} == {
        "instance": "web1",
        "uuid": fleet.uuid(1),
        "project": "default",
        "from": "kvm1",
        "to": "kvm2",
        "method": "live",
        "reason": "memory: kvm1 has 57% claimed, kvm2 0%",
        "cost_gib": 1.5,
        "gain": 0,
        "blocker": None,
    }
    assert second["instance"] == "web2"
    assert list(ended.json["before"]) == list(ended.json["after"]) == SCORE
    assert ended.json["before"]["memory_spread"] == 0.285714
    assert (ended.json["after"]["score"], ended.json["after"]["violations"]) == (0, [])
    score = ended.json["before"]["score"]
    summary = f"2 moves, 3 GiB: score {score} to 0.0, memory's spread 0.285714 to 0.0\n"
    assert ended.err == summary
    assert [op["kind"] for op in uneven.json("op", "list")] == []
    assert uneven.json("show", "web1")["host"] == "kvm1"


def test_no_hosts(novactl: Command) -> None:
    ended = novactl("rebalance", "--dry-run", "-o", "json")
    assert (ended.code, ended.json["moves"], ended.json["after"]["score"]) == (0, [], 0)
    assert (novactl.ok("rebalance", "--dry-run").out, novactl.ok("rebalance", "--dry-run", "-q").err) == (
        "",
        "",
    )


def test_every_format(uneven: Command) -> None:
    table = uneven("rebalance", "--dry-run").out.splitlines()
    assert table[0].split() == ["INSTANCE", "FROM", "TO", "METHOD", "COST_GIB", "REASON", "BLOCKER"]
    assert table[1].split()[:5] == ["web1", "kvm1", "kvm2", "live", "1.5"]
    assert (
        uneven("rebalance", "--dry-run", "-o", "csv", "-c", "instance,to").out
        == "instance,to\nweb1,kvm2\nweb2,kvm2\n"
    )
    assert len(yaml.safe_load(uneven("rebalance", "--dry-run", "-o", "yaml").out)["moves"]) == 2
    assert len(json.loads(uneven("rebalance", "--dry-run", "-o", "jsonl").out)["moves"]) == 2


def test_limits(uneven: Command) -> None:
    assert len(planned(uneven, "--max-moves", "1")) == 1
    assert planned(uneven, "--min-gain", "1") == []
    assert planned(uneven, "--only-rules") == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-moves", "0"], "--max-moves 0 is less than 1"),
        (["--max-moves", "-3"], "--max-moves -3 is less than 1"),
        (["--max-moves", "few"], "invalid value for '--max-moves'"),
        (["--min-gain", "1.5"], "--min-gain 1.5 is not within 0 to 1"),
        (["--min-gain", "-0.1"], "--min-gain -0.1 is not within 0 to 1"),
        (["--min-gain", "nan"], "--min-gain nan is not within 0 to 1"),
        (["--cooldown", "soon"], "--cooldown 'soon' is not a length of time"),
        (["--plan", "a", "--plan-out", "b"], "--plan goes with no other option of rebalance"),
        (["--plan", "a", "--only-rules"], "--plan goes with no other option of rebalance"),
        (["web1"], "unexpected"),
    ],
)
def test_usage(uneven: Command, words: list[str], message: str) -> None:
    ended = uneven("rebalance", *words)
    assert (ended.code, message in ended.err) == (2, True), ended.err


def test_help_has_an_example(novactl: Command) -> None:
    assert "novactl rebalance --max-moves 10 --plan-out plan.json" in novactl.ok("rebalance", "--help").out


# --- carried out ---


def test_it_asks(uneven: Command, tmp_path: Path) -> None:
    """Without a terminal and --yes nothing is moved; nor while a plan is kept."""
    ended = uneven("rebalance", "-o", "json")
    assert (ended.code, ended.out, ended.error["message"]) == (8, "", "not confirmed: move 2 instances?")
    uneven.ok("rebalance", "--plan-out", str(tmp_path / "plan"))
    assert uneven("rebalance", "--plan", str(tmp_path / "plan")).code == 8
    assert uneven.json("op", "list") == []


def test_a_move_that_fails_is_named(uneven: Command, db: SqliteDatabase) -> None:
    """No host answers here: each target says so, and all is where it was."""
    ended = uneven("rebalance", "--yes", "-o", "json")
    assert [(one["target"], one["result"]) for one in ended.json] == [("web1", "failed"), ("web2", "failed")]
    assert ended.code == ended.json[0]["code"] and "2 of 2 failed: web1, web2" in ended.err
    assert "web1: kvm1 to kvm2, live: memory: kvm1 has 57% claimed, kvm2 0%" in ended.err
    (parent,) = [op for op in uneven.json("op", "list") if op["kind"] == "rebalance"]
    assert (parent["state"], parent["target"]) == ("undone", "the fleet")
    assert uneven.json("show", "web1")["host"] == "kvm1"


def test_nothing_to_move(uneven: Command) -> None:
    ended = uneven("rebalance", "--only-rules", "--yes", "-o", "json")
    assert (ended.code, ended.json) == (0, [])


def test_what_should_move_and_cannot_is_named(pressing: tuple[Command, SqliteDatabase]) -> None:
    novactl, db = pressing
    change(db, 1, locked=1)
    ended = novactl("rebalance", "-o", "json")
    assert (ended.code, ended.json) == (3, [])
    assert "what should move and cannot: web1 is locked" in ended.err


# --- what stays ---


@pytest.fixture
def pressing(novactl: Command, db: SqliteDatabase) -> Iterator[tuple[Command, SqliteDatabase]]:
    """web1 is on kvm1 and should be in the zone of kvm2."""
    fleet.furnish(db, hosts_=2)
    with db.writing() as tx:
        hosts.update(tx, "kvm2", zone="z2")
    put(db, 1, placement=Placement(zone="z2"))
    yield novactl, db


def test_a_rule(pressing: tuple[Command, SqliteDatabase]) -> None:
    novactl, _ = pressing
    found = novactl.json("rebalance", "--dry-run", "--only-rules")
    (move,) = found["moves"]
    assert (move["to"], move["reason"]) == ("kvm2", "web1 is on kvm1: is in zone nova, not z2")
    assert found["before"]["violations"] == ["web1 is on kvm1: is in zone nova, not z2"]
    assert (found["after"]["violations"], found["before"]["score"] >= 1 > found["after"]["score"]) == (
        [],
        True,
    )


def blocked(novactl: Command, *words: str) -> str | None:
    ended = novactl("rebalance", "--dry-run", "--only-rules", "-o", "json", *words)
    (move,) = ended.json["moves"]
    assert (move["to"], "remains: web1 is on kvm1: is in zone nova, not z2\n" in ended.err) == (None, True)
    return str(move["blocker"])


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"locked": 1}, "is locked"),
        ({"vm_state": VmState.PAUSED}, "is PAUSED"),
        ({"vm_state": VmState.SUSPENDED}, "is SUSPENDED"),
        ({"vm_state": VmState.RESCUED}, "is RESCUE"),
        ({"vm_state": VmState.RESIZED}, "is VERIFY_RESIZE"),
        ({"vm_state": VmState.ERROR}, "is ERROR"),
        ({"task_state": TaskState.POWERING_OFF}, "is powering-off"),
    ],
)
def test_states(pressing: tuple[Command, SqliteDatabase], values: dict[str, Any], why: str) -> None:
    novactl, db = pressing
    change(db, 1, **values)
    assert blocked(novactl) == why


def test_an_operation(pressing: tuple[Command, SqliteDatabase]) -> None:
    novactl, db = pressing
    op = operation(db, 1, "stop", "running", None)
    with db.writing() as tx:
        tx.insert("op_locks", kind="instance", id=fleet.uuid(1), operation=op, mode="X", exclusive="i/1")
    assert blocked(novactl) == f"operation {op} works on it"


def test_a_move_that_is_not_confirmed(pressing: tuple[Command, SqliteDatabase]) -> None:
    novactl, db = pressing
    with db.writing() as tx:
        assert hosts.claim(tx, "kvm2", fleet.uuid(1), fleet.instance(1).resources, "move-source")
    assert blocked(novactl) == "its last move is not confirmed"


def test_cooldown(pressing: tuple[Command, SqliteDatabase]) -> None:
    novactl, db = pressing
    recently = as_text(datetime.now(UTC) - timedelta(minutes=5))
    change(db, 1, launched_at=recently)
    assert str(blocked(novactl)).startswith("was launched ")
    assert str(blocked(novactl)).endswith(" ago: cooldown is 1h")
    assert planned(novactl, "--cooldown", "1m") == [("web1", "kvm1", "kvm2", None)]
    change(db, 1, launched_at=fleet.WHEN)
    operation(db, 1, "boot", "done", recently)
    assert planned(novactl) == [("web1", "kvm1", "kvm2", None)]
    with db.writing() as tx:
        tx.run("UPDATE operations SET kind = 'live-migrate'")
    assert str(blocked(novactl)).startswith("was moved ")


def test_a_pinned_one(novactl: Command, db: SqliteDatabase) -> None:
    """It stays, whatever else; and it keeps its host over its limit, which is said with the reason."""
    fleet.furnish(db, hosts_=2)
    put(db, 1, numa='{"cpus": "2-3"}')
    with db.writing() as tx:
        hosts.update(tx, "kvm1", reserved_memory_mib=4000)
    (move,) = novactl.json("rebalance", "--dry-run")["moves"]
    assert move["reason"] == "kvm1: 512 MiB of memory are claimed, 96 may be"
    assert move["blocker"] == "has processors or pages of kvm1 for itself"


def test_stopped_ones_move_cold(pressing: tuple[Command, SqliteDatabase]) -> None:
    novactl, db = pressing
    change(db, 1, vm_state=VmState.STOPPED)
    (move,) = novactl.json("rebalance", "--dry-run")["moves"]
    assert (move["method"], move["cost_gib"]) == ("cold", 1)


def test_disabled_hosts_and_hosts_that_are_down(uneven: Command, db: SqliteDatabase) -> None:
    for values in ({"enabled": 0, "disabled_reason": "x"}, {"enabled": 1, "state": "down"}):
        with db.writing() as tx:
            hosts.update(tx, "kvm2", **values)
        assert planned(uneven) == []


# --- the rules ---


def test_groups_pairs_labels_and_aggregates(novactl: Command, db: SqliteDatabase) -> None:
    """Everything that placement refuses by, placement's own words for it, and the plan mends it."""
    fleet.furnish(db, hosts_=3)
    with db.writing() as tx:
        groups.create(
            tx, ServerGroup(id="g1", name="web", project="default", policy=GroupPolicy.ANTI_AFFINITY)
        )
        groups.create(tx, ServerGroup(id="g2", name="db", project="default", policy=GroupPolicy.AFFINITY))
        hosts.update(tx, "kvm2", labels={"disk": "ssd"})
        aggregates.create(tx, Aggregate(id="a1", name="fast", hosts=("kvm3",), metadata={"cpu": "new"}))
    put(db, 1, group_id="g1")
    put(db, 2, group_id="g1")
    put(db, 3, group_id="g2")
    put(db, 4, on="kvm2", group_id="g2")
    put(db, 5, placement=Placement(required={"disk": "ssd"}))
    put(db, 6, flavor=replace(fleet.flavor(), extra_specs={"cpu": "new"}))
    put(db, 7, placement=Placement(apart_from=(fleet.uuid(1),)))
    found = novactl.json("rebalance", "--dry-run", "--only-rules")
    assert found["before"]["violations"] == [
        "web5 is on kvm1: has no label disk=ssd",
        "web6 is on kvm1: is in no aggregate with cpu=new",
        "kvm1 has 2 of group web, 1 may be",
        "web1 and web7 should be apart and are both on kvm1",
        "web4 should be with web3 on kvm1, not on kvm2",
    ]
    assert found["after"]["violations"] == []
    to = {move["instance"]: move["to"] for move in found["moves"]}
    assert (to["web5"], to["web6"], to["web4"]) == ("kvm2", "kvm3", "kvm1")


def test_the_processor(novactl: Command, db: SqliteDatabase) -> None:
    """An instance never goes where its processor model is not."""
    fleet.furnish(db, hosts_=3)
    with db.writing() as tx:
        for name, models in (("kvm1", "Nehalem"), ("kvm2", "qemu64"), ("kvm3", "Nehalem")):
            hosts.update(tx, name, facts={"cpu_models": models, "cpu_features": "aes"})
    for n in range(1, 5):
        put(db, n, flavor=replace(fleet.flavor(), extra_specs={"hw:cpu_model": "Nehalem"}))
    assert {move[2] for move in planned(novactl)} == {"kvm3"}


# --- plans that are kept ---


@pytest.fixture
def kept(uneven: Command, tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    uneven.ok("rebalance", "--plan-out", str(path))
    return path


def test_a_plan_that_is_kept(uneven: Command, kept: Path) -> None:
    ended = uneven("rebalance", "--dry-run", "--plan", str(kept), "-o", "json")
    assert (ended.code, ended.json) == (0, uneven.json("rebalance", "--dry-run"))
    content = json.loads(kept.read_text())
    assert (content["kind"], content["format"]) == ("novactl rebalance plan", 1)
    assert sorted(content["read"]["hosts"]) == ["kvm1", "kvm2"]


def test_nothing_is_overwritten(uneven: Command, kept: Path) -> None:
    before = kept.read_bytes()
    ended = uneven("rebalance", "--plan-out", str(kept), "-o", "json")
    assert (ended.code, ended.error["message"]) == (5, f"{kept}: exists already")
    assert kept.read_bytes() == before
    ended = uneven("rebalance", "--plan-out", str(kept / "below"), "-o", "json")
    assert (ended.code, ended.error["message"]) == (
        5,
        f"{kept / 'below'}: cannot be written: Not a directory",
    )


def refused(command: Command, path: Path) -> str:
    ended = command("rebalance", "--dry-run", "--plan", str(path), "-o", "json")
    assert (ended.code, ended.out) == (5, "")
    head, _, rest = str(ended.error["message"]).partition("\n")
    assert head == f"{path}: the fleet is not as it was when this was planned"
    return rest


def test_an_instance_that_was_changed(uneven: Command, db: SqliteDatabase, kept: Path) -> None:
    uneven.ok("lock", "web3")
    assert uneven("rebalance", "--dry-run", "--plan", str(kept)).code == 0
    uneven.ok("set", "web1", "--tag", "x")
    assert refused(uneven, kept) == "  web1: was changed"
    with db.writing() as tx:
        instances.bury(tx, fleet.uuid(2), fleet.WHEN, None)
    assert refused(uneven, kept).splitlines()[:2] == ["  web1: was changed", "  web2: is gone"]


def test_an_instance_that_is_worked_on(uneven: Command, db: SqliteDatabase, kept: Path) -> None:
    op = operation(db, 1, "stop", "running", None)
    with db.writing() as tx:
        tx.insert("op_locks", kind="instance", id=fleet.uuid(1), operation=op, mode="X", exclusive="i/1")
    assert refused(uneven, kept) == "  web1: is held now"


def test_a_host_that_was_changed(uneven: Command, db: SqliteDatabase, kept: Path) -> None:
    with db.writing() as tx:
        hosts.update(tx, "kvm2", checked_at=fleet.WHEN)
    assert uneven("rebalance", "--dry-run", "--plan", str(kept)).code == 0
    put(db, 9, on="kvm2")
    assert refused(uneven, kept) == "  kvm2: used was [0, 0, 0], is [512, 1, 1]"
    with db.writing() as tx:
        hosts.update(tx, "kvm2", state="down")
    assert refused(uneven, kept) == "  kvm2: up was True, is False"


@pytest.mark.parametrize(
    ("change_", "code", "message"),
    [
        (lambda text: "{", 2, "is no plan of rebalance"),
        (lambda text: "[" * 100000, 2, "is no plan of rebalance"),
        (lambda text: "\udcff", 2, "is no plan of rebalance"),
        (lambda text: '{"moves": []}', 2, "is no plan of rebalance"),
        (lambda text: text.replace('"format": 1', '"format": 2'), 5, "has format 2, this novactl reads 1"),
    ],
)
def test_files_that_are_no_plan(uneven: Command, kept: Path, change_: Any, code: int, message: str) -> None:
    kept.write_bytes(change_(kept.read_text()).encode(errors="surrogateescape"))
    ended = uneven("rebalance", "--dry-run", "--plan", str(kept), "-o", "json")
    assert (ended.code, ended.error["message"]) == (code, f"{kept}: {message}")


NUMBER = "must be a valid number"
TEXT = "must be a valid string"


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        *(("moves[0].instance", value, TEXT) for value in (7, None, [], {})),
        *(("moves[0].uuid", value, TEXT) for value in (7, ["x"], True)),
        ("moves[1].project", {}, TEXT),
        ("moves[0].from", 7, TEXT),
        *(("moves[0].to", value, TEXT) for value in ([], 7)),
        ("moves[0]", "web1", "must be a valid dictionary"),
        ("moves", {}, "must be a valid list"),
        ("moves[0].blocker", [], TEXT),
        ("moves[0].blocker", ..., "is missing"),
        ("moves[0].blocked", None, "is not known here"),
        *(("moves[0].method", value, "must be 'live' or 'cold'") for value in ("teleport", ["live"], None)),
        *((f"moves[0].{key}", value, NUMBER) for key in ("cost_gib", "gain") for value in ("1", [], None)),
        ("moves[0].cost_gib", True, NUMBER),
        ("moves[0].cost_gib", ..., "is missing"),
        ("moves[0].cost_gib", -1, "greater than or equal to 0"),
        *(("moves[0].cost_gib", value, "finite number") for value in (float("nan"), float("inf"))),
        ("moves[0].cost_gib", 10**400, ""),
        ("moves[0].cost_gib", 10**20, "less than or equal to"),
        ("moves[0].gain", float("-inf"), "finite number"),
        ("before", [], "must be a valid dictionary"),
        ("before", ..., "is missing"),
        ("before.score", "0.5", NUMBER),
        ("after.memory_spread", None, NUMBER),
        *(("after.violations", value, "must be a valid list") for value in (7, None, "ab", {})),
        ("after.violations[0]", 7, TEXT),
        ("read", ..., "is missing"),
        ("read.instances", [], "must be a valid dictionary"),
        ("read.hosts", None, "must be a valid dictionary"),
        ("read.hosts.kvm1", [1], "must be a valid dictionary"),
        ("read.hosts.kvm1.up", 1, "must be a valid boolean"),
        ("read.hosts.kvm1.used", "0", "must be a valid list"),
        ("read.hosts.kvm1.used", [0, 0], "at least 3 items"),
        ("read.hosts.kvm1.limit[1]", float("nan"), "finite number"),
        ("read.hosts.kvm2.more", None, "is not known here"),
        ("read.instances.UUID.version", "1", "must be a valid integer"),
        ("read.instances.UUID.more", None, "is not known here"),
        ("read.instances.UUID.name", None, TEXT),
    ],
)
def test_a_plan_that_was_damaged_is_refused(
    uneven: Command, kept: Path, place: str, value: Any, says: str
) -> None:
    place = place.replace("UUID", fleet.uuid(1))
    content = json.loads(kept.read_text())
    content["after"]["violations"] = ["one"]
    *way, last = [int(part) if part.isdecimal() else part for part in re.split(r"[.\[\]]+", place) if part]
    at = content
    for part in way:
        at = at[part]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    kept.write_text(json.dumps(content))
    ended = uneven("rebalance", "--dry-run", "--plan", str(kept), "-o", "json")
    message = ended.error["message"]
    assert (ended.code, ended.out) == (2, "") and says in message, message
    assert message.startswith(f"{kept}: is a damaged plan: {place}: ")


def test_a_move_in_a_plan_has_a_host_or_a_blocker(
    pressing: tuple[Command, SqliteDatabase], tmp_path: Path
) -> None:
    novactl, db = pressing
    change(db, 1, locked=1)
    kept = tmp_path / "plan.json"
    novactl.ok("rebalance", "--plan-out", str(kept))
    (move,) = novactl.json("rebalance", "--dry-run", "--plan", str(kept))["moves"]
    assert (move["to"], move["blocker"]) == (None, "is locked")
    content = json.loads(kept.read_text())
    content["moves"][0]["blocker"] = None
    kept.write_text(json.dumps(content))
    ended = novactl("rebalance", "--yes", "--plan", str(kept), "-o", "json")
    says = f"{kept}: is a damaged plan: moves[0]: has neither a host to go to nor a blocker"
    assert (ended.code, ended.error["message"]) == (2, says)


def test_a_plan_of_another_fleet(uneven: Command, kept: Path) -> None:
    content = json.loads(kept.read_text())
    kept.write_text(json.dumps({**content, "fleet": "another"}))
    ended = uneven("rebalance", "--dry-run", "--plan", str(kept), "-o", "json")
    assert (ended.code, ended.error["message"]) == (5, f"{kept}: is a plan for another fleet (another)")
    assert uneven("rebalance", "--dry-run", "--plan", str(kept.with_name("none"))).code == 2


def test_a_plan_that_hides_what_it_read(uneven: Command, kept: Path) -> None:
    whole = json.loads(kept.read_text())
    for kind, first in ("instances", fleet.uuid(1)), ("hosts", "kvm1"):
        kept.write_text(json.dumps({**whole, "read": {**whole["read"], kind: {}}}))
        told = refused(uneven, kept).splitlines()[0]
        assert told == f"  {first}: is not among what the plan says it read"
