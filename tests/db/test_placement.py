"""A boot looks at the hosts before the transaction that claims: what changed in between is seen, and a
transaction that is tried again decides anew."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from novactl.actions import placement
from novactl.actions.boot import AT_ONCE, Boot, boots
from novactl.actions.moving import choose
from novactl.actions.operate import Operator
from novactl.actions.outcome import Outcome
from novactl.db import (
    aggregates,
    catalogue,
    groups,
    hosts,
    instances,
    operations,
    projects,
    second_copy,
    settings,
)
from novactl.db.session import Rollback, Tx
from novactl.db.sqlite import SqliteDatabase
from novactl.engine.operation import OpState
from novactl.errors import (
    NotFound,
    NovactlError,
    NoValidHost,
    OperationFailed,
    QuotaExceeded,
    Refused,
    UsageError,
)
from novactl.objects.aggregate import Aggregate
from novactl.objects.group import GroupPolicy, ServerGroup
from novactl.objects.project import Project
from novactl.objects.request import BootRequest, NetworkRequest
from tests.db.claimer import operator
from tests.support import fleet, scratch
from tests.support.scratch import quick

LAN = (NetworkRequest(network="lan"),)


@pytest.fixture
def db(quick: Path) -> Iterator[SqliteDatabase]:
    """Three hosts with room for seven each; a group whose members are apart."""
    made = scratch.database(quick / "novactl.db")
    fleet.furnish(made, hosts_=3)
    with made.writing() as tx:
        group = ServerGroup(id="g", name="apart", project="default", policy=GroupPolicy.ANTI_AFFINITY)
        groups.create(tx, group)
        projects.create(tx, Project(name="default", limits={"instances": 1000}))
    yield made
    made.close()


@pytest.fixture
def novactl(db: SqliteDatabase, quick: Path) -> Operator:
    return operator(db, 1, quick)


def boot(name: str, **values: Any) -> Boot:
    return Boot(
        request=BootRequest(name=name, image="tiny", flavor="small", networks=LAN, **values), name=name
    )


def looked(novactl: Operator, action: Boot) -> Callable[[Tx], str | None]:
    """Its look is taken now; what is returned decides in a transaction, as often as it is called."""
    facts = action.check(novactl.world)

    def decide(tx: Tx) -> str | None:
        op_id = novactl.world.ids.operation()
        plan = action.plan(novactl.world, tx, op_id, facts)
        assert plan is not None
        novactl.journal.insert(tx, op_id, plan, None, OpState.RUNNING)
        return plan.host

    return decide


def rolled_back(db: SqliteDatabase, work: Callable[[Tx], Any]) -> None:
    """A try that the server lost."""
    with db.writing() as tx:
        work(tx)
        raise Rollback


def test_a_second_try_keeps_the_rules_of_a_group(novactl: Operator, db: SqliteDatabase) -> None:
    one = looked(novactl, boot("a", group="apart"))
    taken = [db.write(looked(novactl, boot("m1", group="apart")))]
    rolled_back(db, one)
    taken.append(db.write(looked(novactl, boot("m2", group="apart"))))
    taken.append(db.write(one))
    assert sorted(map(str, taken)) == ["kvm1", "kvm2", "kvm3"]


def test_a_second_try_does_not_count_the_first(novactl: Operator, db: SqliteDatabase) -> None:
    with db.writing() as tx:
        tx.run("UPDATE hosts SET enabled = 0 WHERE name <> 'kvm1'")
        hosts.update(tx, "kvm1", memory_mib=1024)  # room for one
    one = looked(novactl, boot("a"))
    rolled_back(db, one)
    assert db.write(one) == "kvm1"


A = Aggregate(id="a", name="a", hosts=("kvm1", "kvm2"))
CHANGES: list[tuple[dict[str, Any], Callable[[Tx], None], str]] = [
    ({"zone": "nova"}, lambda tx: hosts.update(tx, "kvm1", zone="other"), "kvm2"),
    ({"required": {"ssd": None}}, lambda tx: hosts.update(tx, "kvm1", labels={}), "kvm2"),
    ({}, lambda tx: hosts.update(tx, "kvm1", enabled=0), "kvm2"),
    ({}, lambda tx: hosts.update(tx, "kvm1", state="down"), "kvm2"),
    ({}, lambda tx: hosts.fence(tx, "kvm1", "now"), "kvm2"),
    ({}, lambda tx: hosts.seen(tx, ["kvm1"], "down", "now"), "kvm2"),
    ({}, lambda tx: hosts.update(tx, "kvm1", arch="aarch64"), "kvm2"),
    ({}, lambda tx: hosts.update(tx, "kvm1", memory_ratio=0.0), "kvm2"),
    ({}, lambda tx: settings.put(tx, "weighers", {"memory": 0, "vcpu": 0, "disk": -1}), "kvm1"),
    (
        {"aggregate": "a"},
        lambda tx: aggregates.update(tx, Aggregate(id="a", name="a", hosts=("kvm2",))),
        "kvm2",
    ),
    (
        {},
        lambda tx: aggregates.update(tx, replace(A, hosts=("kvm1",), metadata={"filter_tenant_id": "other"})),
        "kvm2",
    ),
]


@pytest.mark.parametrize(("asks", "change", "goes"), CHANGES)
def test_what_changed_since_the_look_is_seen(
    novactl: Operator, db: SqliteDatabase, asks: dict[str, Any], change: Callable[[Tx], None], goes: str
) -> None:
    with db.writing() as tx:
        for name in ("kvm1", "kvm2"):
            hosts.update(tx, name, labels={"ssd": "yes"})
        hosts.update(tx, "kvm3", enabled=0)
        aggregates.create(tx, A)
    decide = looked(novactl, boot("a", **asks))
    with db.writing() as tx:
        change(tx)
    assert db.write(decide) == goes


def test_a_limit_that_is_lower_since_the_look(novactl: Operator, db: SqliteDatabase) -> None:
    decide = looked(novactl, boot("a", metadata={"one": "1", "two": "2"}))
    lower = Project(name="default", limits={"instances": 1000, "metadata_items": 1})
    db.write(lambda tx: projects.update(tx, lower))
    with pytest.raises(QuotaExceeded, match="metadata_items: 2 wanted, 1 left of 1"):
        db.write(decide)


@pytest.mark.parametrize("policy", [GroupPolicy.AFFINITY, GroupPolicy.ANTI_AFFINITY])
def test_a_group_of_another_policy_since_the_look(
    novactl: Operator, db: SqliteDatabase, policy: GroupPolicy
) -> None:
    first = db.write(looked(novactl, boot("m1", group="apart")))
    decide = looked(novactl, boot("m2", group="apart"))
    other = ServerGroup(id="g", name="apart", project="default", policy=policy)
    db.write(lambda tx: groups.update(tx, other))
    assert (db.write(decide) == first) is (policy is GroupPolicy.AFFINITY)


def test_limits_hold_for_those_who_look_at_once(novactl: Operator, db: SqliteDatabase) -> None:
    with db.writing() as tx:
        settings.put(tx, "scheduler", {"max_instances_per_host": 1})
    decisions = [looked(novactl, boot(name)) for name in ("a", "b", "c", "d")]
    assert sorted(str(db.write(decide)) for decide in decisions[:3]) == ["kvm1", "kvm2", "kvm3"]
    with pytest.raises(NoValidHost, match="has 1 instances, 1 allowed"):
        db.write(decisions[3])


def test_a_refusal_is_about_the_hosts_as_they_are(novactl: Operator, db: SqliteDatabase) -> None:
    with db.writing() as tx:
        hosts.update(tx, "kvm2", enabled=0, disabled_reason="fans")
        hosts.update(tx, "kvm3", enabled=0, disabled_reason="fans")
    decide, other = looked(novactl, boot("a")), looked(novactl, boot("b"))
    with db.writing() as tx:
        hosts.update(tx, "kvm1", enabled=0, disabled_reason="smoke")
        hosts.update(tx, "kvm2", enabled=1)
    assert db.write(decide) == "kvm2"
    with db.writing() as tx:
        hosts.update(tx, "kvm2", enabled=0, disabled_reason="fire")
    with pytest.raises(NoValidHost) as caught:
        db.write(other)
    assert "kvm1: disabled: smoke\n  kvm2: disabled: fire" in caught.value.message


def test_names_that_are_gone_since_the_look(novactl: Operator, db: SqliteDatabase) -> None:
    decisions = {
        "image": looked(novactl, boot("a")),
        "group": looked(novactl, boot("b", group="apart")),
    }
    with db.writing() as tx:
        groups.delete(tx, groups.find(tx, "apart", "default"))
    with pytest.raises(Refused, match="group apart was deleted just now"):
        db.write(decisions["group"])
    with db.writing() as tx:
        catalogue.remove_network(tx, "lan")
    with pytest.raises(NotFound, match="network 'id-lan' does not exist"):
        db.write(decisions["image"])
    image = looked(novactl, replace(boot("c"), request=replace(boot("c").request, networks=())))
    with db.writing() as tx:
        catalogue.remove_image(tx, "id-tiny")
    with pytest.raises(Refused, match="image tiny was deleted just now"):
        db.write(image)
    with db.reading() as tx:
        assert instances.everything(tx) == []


def test_partial_tells_what_the_last_try_found(
    novactl: Operator, db: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try has room for one of two and is lost; by the second there is room for both."""
    with db.writing() as tx:
        tx.run("UPDATE hosts SET enabled = 0 WHERE name <> 'kvm1'")
        hosts.update(tx, "kvm1", memory_mib=1024)
    write = db.write

    def twice(work: Callable[[Tx], Any], **options: Any) -> Any:
        rolled_back(db, work)
        with db.writing() as tx:
            hosts.update(tx, "kvm1", memory_mib=4096)
        return write(work, **options)

    request = BootRequest(name="p", image="tiny", flavor="small", networks=LAN, count=2)
    many = boots(request)
    outcomes = [Outcome(target=one.name) for one in many]
    monkeypatch.setattr(db, "write", twice)
    ops = novactl.submit_all(many, None, OpState.RUNNING, outcomes)
    assert [op is not None for op in ops] == [True, True]
    assert [outcome.error for outcome in outcomes] == [None, None]


# --- many at once ---


def batch(novactl: Operator, count: int, between: Callable[[], object], **values: Any) -> list[Any]:
    """The operations of `--count`, journaled after something has happened since its look at the hosts."""
    request = BootRequest(name="b", image="tiny", flavor="small", networks=LAN, count=count, **values)
    many = boots(request)
    check = Boot.check

    def looked_first(self: Boot, world: Any) -> dict[str, Any]:
        facts = check(self, world)
        if self is many[-1]:
            patch.undo()
            between()
        return facts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Boot, "check", looked_first)
        return novactl.submit_all(many, None, OpState.RUNNING)


def check_batch(db: SqliteDatabase, ops: list[Any]) -> Counter[str]:
    """Each holds its share of the host that its steps are for, and has its own address in its config drive;
    nothing else is counted. How many have gone where."""
    went: Counter[str] = Counter()
    with db.reading() as tx:
        for one in hosts.everything(tx):
            held = "SELECT SUM(memory_mib) AS memory, COUNT(*) AS n FROM holds WHERE host = :host"
            assert tx.one(held, host=one.name) == {"memory": one.memory_mib_used or None, "n": one.instances}
            assert all(one.used()[size] <= room for size, room in one.capacity().items())
        assert projects.find(tx, "default").instances_used == len(instances.everything(tx))
        for op in ops:
            made = instances.get(tx, op.target_uuid)
            steps = [record.step for record in op.records]
            assert {step.host for step in steps if step.host} == {made.host}
            (drive,) = (step for step in steps if step.type == "write-config-drive")
            assert [nic["ip"] for nic in drive.metadata["nics"]] == [port.ip for port in made.ports] != [""]
            written = tx.all("SELECT step FROM steps WHERE operation = :id ORDER BY n", id=op.id)
            assert [json.loads(row["step"])["fields"] for row in written] == [
                json.loads(json.dumps(vars(step))) for step in steps
            ]
            went[str(made.host)] += 1
    return went


FULLER = [
    ((0, 0, 0), {"kvm1": 2, "kvm2": 2, "kvm3": 2}),
    ((7, 0, 0), {"kvm2": 3, "kvm3": 3}),
    ((5, 5, 5), {"kvm1": 2, "kvm2": 2, "kvm3": 2}),
    ((6, 7, 2), {"kvm1": 1, "kvm3": 5}),
]


def filled(novactl: Operator, db: SqliteDatabase, taken: tuple[int, ...]) -> None:
    """So many are booted on each host by another."""
    for nth, count in enumerate(taken, start=1):
        for n in range(count):
            assert db.write(looked(novactl, boot(f"other{nth}-{n}", host=f"kvm{nth}"))) == f"kvm{nth}"


@pytest.mark.parametrize(("taken", "went"), FULLER, ids=lambda value: "-".join(map(str, value)))
def test_a_batch_whose_hosts_are_fuller_than_they_were(
    novactl: Operator, db: SqliteDatabase, taken: tuple[int, ...], went: dict[str, int]
) -> None:
    ops = batch(novactl, 6, lambda: filled(novactl, db, taken))
    assert check_batch(db, ops) == went


def placed(db: SqliteDatabase) -> Counter[str]:
    """How many instances each host has."""
    with db.reading() as tx:
        return Counter(str(one.host) for one in instances.everything(tx))


PACKED = {"memory": -1.0, "vcpus": -1.0, "disk": -1.0, "io_ops": 0.0}


@pytest.mark.parametrize("count", [4, 7, 9])
@pytest.mark.parametrize("metadata", [None, {}, {"max_instances_per_host": "8"}])
def test_an_aggregate_does_not_change_where_a_packed_batch_goes(
    novactl: Operator, db: SqliteDatabase, metadata: dict[str, str] | None, count: int
) -> None:
    with db.writing() as tx:
        settings.put(tx, "weighers", PACKED)
        if metadata is not None:
            aggregates.create(tx, replace(A, metadata=metadata))
    expected = {"kvm1": min(count, 7), "kvm2": max(0, count - 7)}
    assert check_batch(db, batch(novactl, count, lambda: None)) == +Counter(expected)


def test_a_packed_batch_with_processors_for_themselves_fills_one_host_after_the_other(
    novactl: Operator, db: SqliteDatabase
) -> None:
    cells = [{"id": 0, "cores": "0 1 2 3", "memory_mib": 2048, "pages": {}}]
    with db.writing() as tx:
        settings.put(tx, "weighers", PACKED)
        catalogue.add_flavor(tx, fleet.flavor("pinned", extra_specs={"hw:cpu_policy": "dedicated"}))
        for name in ("kvm1", "kvm2", "kvm3"):
            hosts.update(tx, name, facts={"topology": cells}, dedicated_cpus="2-3", dedicated_vcpus=2)
    many = boots(BootRequest(name="b", image="tiny", flavor="pinned", networks=LAN, count=3))
    novactl.submit_all(many, None, OpState.RUNNING)
    assert placed(db) == {"kvm1": 2, "kvm2": 1}


@pytest.mark.parametrize("shown", [False, True])
def test_no_host_is_worked_on_by_more_of_a_batch_than_may_be(
    novactl: Operator, db: SqliteDatabase, shown: bool
) -> None:
    with db.writing() as tx:
        settings.put(tx, "scheduler", {"max_io_ops_per_host": 2})
    many = boots(BootRequest(name="b", image="tiny", flavor="small", networks=LAN, count=9, partial=True))
    outcomes = [Outcome(target=one.name) for one in many]
    if shown:
        plans = novactl.show(many, partial=True)
        went = Counter(plan["host"] for plan in plans if "refused" not in plan)
    else:
        novactl.submit_all(many, None, OpState.RUNNING, outcomes)
        assert [one.error is None for one in outcomes] == [True] * 6 + [False] * 3
        went = placed(db)
    assert went == {"kvm1": 2, "kvm2": 2, "kvm3": 2}


def test_a_packed_batch_goes_on_to_the_next_host_when_one_is_worked_on_enough(
    novactl: Operator, db: SqliteDatabase
) -> None:
    with db.writing() as tx:
        settings.put(tx, "scheduler", {"max_io_ops_per_host": 4})
        settings.put(tx, "weighers", PACKED)
    assert check_batch(db, batch(novactl, 5, lambda: None)) == {"kvm1": 4, "kvm2": 1}


@pytest.mark.parametrize(
    ("policy", "went"),
    [
        (GroupPolicy.SOFT_AFFINITY, {"kvm1": 3}),
        (GroupPolicy.SOFT_ANTI_AFFINITY, {"kvm1": 1, "kvm2": 1, "kvm3": 1}),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_members_of_a_soft_group_go_where_they_would_one_by_one(
    novactl: Operator, db: SqliteDatabase, policy: GroupPolicy, went: dict[str, int], together: bool
) -> None:
    with db.writing() as tx:
        groups.create(tx, ServerGroup(id="s", name="soft", project="default", policy=policy))
        hosts.update(tx, "kvm1", memory_mib=6144 if policy is GroupPolicy.SOFT_ANTI_AFFINITY else 4096)
    if together:
        batch(novactl, 3, lambda: None, group="soft")
    else:
        for name in ("a", "b", "c"):
            db.write(looked(novactl, boot(name, group="soft")))
            db.write(lambda tx: tx.run("DELETE FROM op_locks"))
    assert placed(db) == went


def test_a_batch_is_explained_by_the_hosts_as_they_were_before_it(
    novactl: Operator, db: SqliteDatabase
) -> None:
    ops = batch(novactl, 3, lambda: None, group="apart", explain=True)
    told = ops[0].request["placement"]
    assert told["chosen"] == "kvm1"
    assert [(row["passed"], row["rejections"], row["free"]["vcpus"]) for row in told["hosts"]] == [
        (True, [], 16)
    ] * 3


def test_a_batch_that_has_no_room_any_more_leaves_nothing(novactl: Operator, db: SqliteDatabase) -> None:
    with pytest.raises(NoValidHost, match=r"^b-6: no host can take it"):
        batch(novactl, 6, lambda: filled(novactl, db, (7, 7, 2)))
    assert check_batch(db, []) == {}
    with db.reading() as tx:
        assert [one.instances for one in hosts.everything(tx)] == [7, 7, 2]


@pytest.mark.parametrize(
    ("full", "there", "hint"),
    [
        ((7, 7, 2), "a", "boot --partial: 4 of them fit"),
        ((7, 7, 2), "b-2", "boot --partial: 4 of them fit"),
        ((7, 7, 6), "b-1", "free 512 MiB on kvm1; or free 512 MiB on kvm2; or free 512 MiB on kvm3"),
    ],
)
def test_what_helps_a_batch_is_not_the_room_that_its_own_have_taken(
    novactl: Operator, db: SqliteDatabase, full: tuple[int, ...], there: str, hint: str
) -> None:
    filled(novactl, db, full)
    db.write(looked(novactl, boot(there, host="kvm3")))
    with pytest.raises(NoValidHost) as refused:
        batch(novactl, 7, lambda: None, if_not_exists=True)
    assert refused.value.hint == hint


def test_a_batch_of_members_that_are_apart_counts_who_came_meanwhile(
    novactl: Operator, db: SqliteDatabase
) -> None:
    def another() -> None:
        assert db.write(looked(novactl, boot("other", group="apart", host="kvm2"))) == "kvm2"

    ops = batch(novactl, 2, another, group="apart")
    assert check_batch(db, ops) == {"kvm1": 1, "kvm3": 1}


@pytest.mark.parametrize("full", [(7, 0, 0), (0, 7, 0), (0, 0, 7)])
def test_a_batch_of_members_that_are_apart_has_no_host_for_one(
    novactl: Operator, db: SqliteDatabase, full: tuple[int, ...]
) -> None:
    """Those who have got theirs already count as members, though their rows are not written yet."""
    with pytest.raises(NoValidHost):
        batch(novactl, 3, lambda: filled(novactl, db, full), group="apart")
    assert check_batch(db, []) == {}


def test_a_batch_whose_network_was_changed_meanwhile(novactl: Operator, db: SqliteDatabase) -> None:
    def changed() -> None:
        with db.writing() as tx:
            tx.run("UPDATE networks SET dns = :dns, bridge = 'br7'", dns='["192.0.2.9"]')
            second_copy.changed(tx)

    ops = batch(novactl, 2, changed)
    check_batch(db, ops)
    for op in ops:
        looks, drive = (
            next(record.step for record in op.records if record.step.type == kind)
            for kind in ("check-host", "write-config-drive")
        )
        assert looks.bridges == ["br7"]
        assert drive.metadata["nics"][0]["dns"] == ["192.0.2.9"]


def test_a_batch_over_its_quota_says_how_much_it_wants(novactl: Operator, db: SqliteDatabase) -> None:
    with db.writing() as tx:
        projects.update(tx, Project(name="default", limits={"instances": 5}))
    with pytest.raises(QuotaExceeded, match="instances: 6 wanted, 5 left of 5"):
        batch(novactl, 6, lambda: None)
    assert check_batch(db, []) == {}


def test_of_a_batch_those_that_are_there_are_not_counted_again(novactl: Operator, db: SqliteDatabase) -> None:
    with db.writing() as tx:
        projects.update(tx, Project(name="default", limits={"instances": 4}))
    db.write(looked(novactl, boot("b-2")))
    ops = batch(novactl, 4, lambda: None, if_not_exists=True)
    assert [op is not None for op in ops] == [True, False, True, True]
    check_batch(db, [op for op in ops if op is not None])


def later(novactl: Operator, db: SqliteDatabase) -> Any:
    """One of many, whose steps are not written yet."""
    request = BootRequest(name="many", image="tiny", flavor="small", networks=LAN, count=AT_ONCE + 1)
    op = novactl.submit(Boot(request=request, name="many-2", index=1), None, OpState.RUNNING)
    assert op is not None and (op.attempt, op.records) == (0, [])
    return op


def gone(db: SqliteDatabase, op: Any) -> None:
    with db.reading() as tx:
        assert instances.everything(tx) == [] and tx.all("SELECT * FROM holds") == []
        assert operations.one(tx, op.id)[0].state is OpState.UNDONE
        assert projects.find(tx, "default").instances_used == 0


def broken(name: str) -> str:
    raise UsageError("templates/domain.xml is not XML")


def test_one_whose_steps_cannot_be_planned_is_undone(novactl: Operator, db: SqliteDatabase) -> None:
    op = later(novactl, db)
    novactl.world = replace(novactl.world, template=broken)
    with pytest.raises(OperationFailed, match="is not XML"):
        novactl.runner().run(op)
    gone(db, op)


def test_one_whose_steps_cannot_be_planned_is_rolled_back(novactl: Operator, db: SqliteDatabase) -> None:
    op = later(novactl, db)
    novactl.world = replace(novactl.world, template=broken)
    novactl.runner().roll_back(op)
    gone(db, op)


def test_many_whose_steps_cannot_be_planned_are_refused(novactl: Operator, db: SqliteDatabase) -> None:
    novactl.world = replace(novactl.world, template=broken)
    request = BootRequest(name="many", image="tiny", flavor="small", networks=LAN, count=AT_ONCE + 4)
    many = boots(request)
    with pytest.raises(NovactlError, match="is not XML"):
        novactl.submit_all(many, None, OpState.RUNNING)
    with db.reading() as tx:
        assert instances.everything(tx) == []


def test_a_retry_stays_away_from_those_who_want_to_be_apart(novactl: Operator, db: SqliteDatabase) -> None:
    """b is apart from a: when a's host fails, a does not come to b's."""
    first = novactl.submit(boot("a"), None, OpState.RUNNING)
    assert first is not None
    assert db.write(looked(novactl, boot("b", apart_from=("a",)))) == "kvm2"
    with db.writing() as tx:
        hosts.update(tx, "kvm3", memory_mib=1536)  # the emptier kvm2 would be better
        attempt = novactl._next_attempt(tx, first, "kvm1: failed")
    assert attempt is not None
    assert {step.host for step in attempt.steps if step.host} == {"kvm3"}


@pytest.mark.parametrize(
    ("moves", "full", "goes"), [(True, (), "kvm2"), (True, ("kvm2",), "kvm3"), (False, (), "kvm3")]
)
def test_a_move_stays_in_its_zone(
    novactl: Operator, db: SqliteDatabase, moves: bool, full: tuple[str, ...], goes: str
) -> None:
    """kvm3, of another zone, is emptier: a boot that failed on kvm1 goes there, and what moves only when kvm2
    cannot take it."""
    assert db.write(looked(novactl, boot("a", host="kvm1"))) == "kvm1"
    with db.writing() as tx:
        hosts.update(tx, "kvm3", zone="other", memory_mib=1 << 20)
        for name in full:
            hosts.update(tx, name, memory_mib=0)
        role = "move-target" if moves else "instance"
        found = instances.find(tx, "a", "default")
        assert placement.claim(tx, found, tried=frozenset({"kvm1"}), role=role).host == goes


__all__ = ["quick"]


def test_a_move_says_of_the_own_host_that_it_is_there(db: SqliteDatabase) -> None:
    made = fleet.add_instance(db, fleet.instance(1, host="kvm1"))
    with db.writing() as tx:
        for name in ("kvm2", "kvm3"):
            hosts.update(tx, name, enabled=0)
    with pytest.raises(NoValidHost) as caught:
        db.rehearse(lambda tx: choose(tx, made, tried=frozenset({"kvm2"})))
    assert caught.value.message.splitlines()[1:] == [
        "  kvm1: is where it is now",
        "  kvm2: failed in this operation; disabled: no reason given",
        "  kvm3: disabled: no reason given",
    ]
