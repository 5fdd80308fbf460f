"""Limits of projects: never passed, whoever asks at once; what does not grow is never refused."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novactl.db import catalogue, groups, instances, projects
from novactl.db.session import Database, Tx
from novactl.errors import NotFound, QuotaExceeded, Refused
from novactl.objects.group import GroupPolicy, ServerGroup
from novactl.objects.keypair import Keypair
from novactl.objects.project import COUNTED, NOVA_LIMITS, UNLIMITED, Project
from tests.db.test_claims import temporary
from tests.support import fleet
from tests.support.databases import Place, in_processes

PROCESSES = 8


def project(name: str = "dev", **limits: int) -> Project:
    return Project(name=name, limits=limits, created_at=fleet.WHEN)


def group(number: int = 1, **values: Any) -> ServerGroup:
    made: dict[str, Any] = {"name": f"group{number}", "project": "default", **values}
    return ServerGroup(**{"id": fleet.uuid(number), "policy": GroupPolicy.AFFINITY, **made})


def key(name: str) -> Keypair:
    return Keypair(name=name, fingerprint="SHA256:x", public_key="ssh-ed25519 AAAA")


def used(db: Database, name: str = "dev") -> tuple[int, ...]:
    with db.reading() as tx:
        found = projects.find(tx, name)
    return tuple(getattr(found, f"{resource}_used") for resource in COUNTED)


# --- what instances take ---


def test_up_to_the_limit_and_no_further(db: Database) -> None:
    db.write(lambda tx: projects.create(tx, project(instances=2, cores=5, memory_mib=UNLIMITED)))
    db.write(lambda tx: projects.take(tx, "dev", instances=1, cores=4, memory_mib=1 << 30))
    with pytest.raises(QuotaExceeded) as caught:
        db.write(lambda tx: projects.take(tx, "dev", instances=2, cores=2, memory_mib=7))
    error = caught.value
    assert error.code == 5
    assert error.message == (
        "project dev is at its quota: instances: 2 wanted, 1 left of 2; cores: 2 wanted, 1 left of 5"
    )
    assert error.hint == "novactl quota show dev; novactl quota set dev changes it"
    assert error.targets == [
        {"project": "dev", "resource": "instances", "wanted": 2, "left": 1, "limit": 2},
        {"project": "dev", "resource": "cores", "wanted": 2, "left": 1, "limit": 5},
    ]
    assert used(db) == (1, 4, 1 << 30)
    db.write(lambda tx: projects.take(tx, "dev", instances=1, cores=1))
    assert used(db) == (2, 5, 1 << 30)


def test_without_a_row_there_is_no_limit(db: Database) -> None:
    db.write(lambda tx: projects.take(tx, "default", instances=10**6, cores=10**6, memory_mib=10**6))
    db.write(lambda tx: projects.force(tx, "default", instances=1))
    db.write(lambda tx: projects.give_back(tx, "default", instances=1))
    assert db.read(projects.everything) == []


def test_a_limit_below_the_use_refuses_only_what_grows(db: Database) -> None:
    db.write(lambda tx: projects.create(tx, project(instances=9, cores=9)))
    db.write(lambda tx: projects.take(tx, "dev", instances=3, cores=6, memory_mib=10))
    db.write(lambda tx: projects.update(tx, project(instances=1, cores=2)))
    db.write(lambda tx: projects.take(tx, "dev", cores=-1, memory_mib=500))  # a resize to another shape
    assert used(db) == (3, 5, 510)
    with pytest.raises(QuotaExceeded, match=r"cores: 1 wanted, 0 left of 2$"):
        db.write(lambda tx: projects.take(tx, "dev", cores=1))
    db.write(lambda tx: projects.give_back(tx, "dev", instances=1, cores=5))
    assert used(db) == (2, 0, 510)


def test_what_is_there_counts_whatever_the_limit_is(db: Database) -> None:
    db.write(lambda tx: projects.create(tx, project(instances=0)))
    db.write(lambda tx: projects.force(tx, "dev", instances=2, cores=2, memory_mib=2))
    assert used(db) == (2, 2, 2)


def test_a_count_that_is_wrong_keeps_nobody_from_deleting(db: Database) -> None:
    fleet.furnish(db)  # type: ignore[arg-type]
    with db.writing() as tx:
        projects.create(tx, project("default"))
        instances.add(tx, fleet.instance(1))
        instances.bury(tx, fleet.uuid(1), fleet.WHEN, None)
    assert used(db, "default") == (0, 0, 0)


LIMITS = st.sampled_from([UNLIMITED, 0, 1, 3, 8])
AMOUNTS = st.tuples(*[st.integers(0, 4)] * 3)
ACTS = st.tuples(
    st.sampled_from(["take", "take", "take", "give back", "limit"]), AMOUNTS, st.tuples(*[LIMITS] * 3)
)


def test_no_sequence_passes_a_limit(everywhere: Place) -> None:
    @settings(max_examples=60 if everywhere.kind == "sqlite" else 25, deadline=None)
    @given(st.lists(ACTS, max_size=20))
    def holds(acts: list[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> None:
        with temporary(everywhere) as db:
            carried_out(db, acts)

    holds()


def carried_out(db: Database, acts: list[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> None:
    limits, now = dict.fromkeys(COUNTED, UNLIMITED), dict.fromkeys(COUNTED, 0)
    db.write(lambda tx: projects.create(tx, project(**limits)))
    for what, amounts, others in acts:
        wanted = dict(zip(COUNTED, amounts, strict=True))
        if what == "limit":
            limits = dict(zip(COUNTED, others, strict=True))
            db.write(lambda tx, told=dict(limits): projects.update(tx, project(**told)))
        elif what == "give back":
            back = {resource: min(amount, now[resource]) for resource, amount in wanted.items()}
            db.write(lambda tx, told=back: projects.give_back(tx, "dev", **told))
            now = {resource: now[resource] - back[resource] for resource in COUNTED}
        else:
            fits = all(
                not wanted[r] or limits[r] == UNLIMITED or now[r] + wanted[r] <= limits[r] for r in COUNTED
            )
            try:
                db.write(lambda tx, told=wanted: projects.take(tx, "dev", **told))
            except QuotaExceeded as error:
                assert not fits
                over = {row["resource"] for row in error.targets}
                assert over == {
                    r
                    for r in COUNTED
                    if wanted[r] and limits[r] != UNLIMITED and now[r] + wanted[r] > limits[r]
                }
            else:
                assert fits
                now = {resource: now[resource] + wanted[resource] for resource in COUNTED}
        assert used(db) == tuple(now.values())


# --- at once ---


def test_the_last_of_a_quota_goes_to_so_many_and_no_more(db: Database, everywhere: Place) -> None:
    """Eight processes race for the last eleven instances."""
    limit, rounds = 11, 6
    db.write(lambda tx: projects.create(tx, project(instances=limit, cores=2 * limit, memory_mib=10**6)))

    def race(mine: Database, number: int) -> list[str]:
        ended = []
        for _ in range(rounds):
            try:
                mine.write(lambda tx: projects.take(tx, "dev", instances=1, cores=2, memory_mib=number))
                ended.append("taken")
            except QuotaExceeded as error:
                assert error.targets[0]["left"] == 0
                ended.append("refused")
        return ended

    found = in_processes(race, lambda: everywhere.apart(db), PROCESSES)
    told = [each for one in found for each in one]
    assert (told.count("taken"), told.count("refused")) == (limit, PROCESSES * rounds - limit)
    taken = [one.count("taken") for one in found]
    assert used(db) == (limit, 2 * limit, used(db)[2]) and sum(taken) == limit


def test_keypairs_and_groups_are_not_one_too_many(db: Database, everywhere: Place) -> None:
    db.write(lambda tx: projects.create(tx, project(keypairs=3, server_groups=3)))

    def race(mine: Database, number: int) -> list[bool]:
        def works(work: Any) -> bool:
            try:
                mine.write(work)
            except QuotaExceeded:
                return False
            return True

        return [
            works(lambda tx: catalogue.add_keypair(tx, "dev", key(f"key{number}"))),
            works(lambda tx: groups.create(tx, group(number + 1, project="dev"))),
        ]

    found = in_processes(race, lambda: everywhere.apart(db), PROCESSES)
    assert [sum(one[n] for one in found) for n in (0, 1)] == [3, 3]
    with db.reading() as tx:
        assert (len(catalogue.keypairs(tx, "dev")), len(groups.everything(tx, "dev"))) == (3, 3)


# --- counting ---


def inhabited(tx: Tx) -> None:
    """Three instances of `default`, one of them deleted, and one of `other`."""
    for number, values in enumerate(
        (
            {"metadata": {"a": "1", "b": "2"}, "group_id": fleet.uuid(1)},
            {"flavor": fleet.flavor(vcpus=3, memory_mib=100), "group_id": fleet.uuid(1)},
            {},
            {"project": "other"},
        ),
        start=1,
    ):
        instances.add(tx, fleet.instance(number, **values))
    instances.bury(tx, fleet.uuid(3), fleet.WHEN, None)


def test_what_a_project_uses(db: Database) -> None:
    fleet.furnish(db)  # type: ignore[arg-type]
    with db.writing() as tx:
        groups.create(tx, group(1))
        groups.create(tx, group(2, project="other"))
        catalogue.add_keypair(tx, "default", key("me"))
        inhabited(tx)
        assert projects.usage(tx, "default") == {
            **dict.fromkeys(NOVA_LIMITS, 0),
            "instances": 2,
            "cores": 4,
            "memory_mib": 612,
            "metadata_items": 2,
            "keypairs": 1,
            "server_groups": 1,
            "server_group_members": 2,
        }
        assert projects.usage(tx, "nobody") == dict.fromkeys(NOVA_LIMITS, 0)
        projects.create(tx, project("default"))  # it counts what is there
        projects.take(tx, "default", instances=5)
    assert used(db, "default") == (7, 4, 612)
    db.write(lambda tx: projects.recount(tx, "default"))
    assert used(db, "default") == (2, 4, 612)
    db.write(lambda tx: instances.bury(tx, fleet.uuid(1), fleet.WHEN, None))
    db.write(lambda tx: instances.bury(tx, fleet.uuid(1), fleet.WHEN, None))  # twice is once
    assert used(db, "default") == (1, 3, 100)


def test_a_project_goes_when_nothing_is_in_it(db: Database) -> None:
    fleet.furnish(db)  # type: ignore[arg-type]
    with db.writing() as tx:
        projects.create(tx, project("default"))
        groups.create(tx, group(1))
        catalogue.add_keypair(tx, "default", key("me"))
        inhabited(tx)
        with pytest.raises(Refused) as caught:
            projects.delete(tx, "default")
        assert caught.value.message == (
            "project default has 2 instances (web1, web2); 1 keypairs (me); 1 networks (lan);"
            " 1 groups (group1)"
        )
        projects.create(tx, project("empty"))
        projects.delete(tx, "empty")
        with pytest.raises(NotFound) as missing:
            projects.find(tx, "defalt")
    assert (missing.value.code, missing.value.candidates) == (4, ["default"])


def test_room_for_what_no_row_counts(db: Database) -> None:
    with db.writing() as tx:
        projects.create(tx, project(metadata_items=2))
        projects.check_room(tx, "dev", "metadata_items", 5, -1)
        projects.check_room(tx, "dev", "metadata_items", 5, 0)
        projects.check_room(tx, "dev", "metadata_items", 1)
        projects.check_room(tx, "dev", "snapshots", 10**6)
        projects.check_room(tx, "other", "metadata_items", 10**6)
        with pytest.raises(QuotaExceeded, match=r"metadata_items: 2 wanted, 1 left of 2$"):
            projects.check_room(tx, "dev", "metadata_items", 1, 2)


# --- groups ---


def test_members_of_a_group_are_counted(db: Database) -> None:
    with db.writing() as tx:
        projects.create(tx, project("default", server_group_members=2))
        groups.create(tx, group(1))
        inhabited(tx)
        with pytest.raises(QuotaExceeded, match=r"server_group_members: 1 wanted, 0 left of 2$"):
            groups.check_room(tx, group(1), "default")
        groups.create(tx, group(2))
        groups.check_room(tx, group(2), "default", 2)
        with pytest.raises(QuotaExceeded, match=r"server_group_members: 3 wanted, 2 left of 2$"):
            groups.check_room(tx, group(2), "default", 3)


def test_a_group_that_goes_leaves_its_members(db: Database) -> None:
    """Living members lose it with it, and their second copies are behind; deleted ones keep their history."""
    with db.writing() as tx:
        groups.create(tx, group(1))
        inhabited(tx)
        instances.add(tx, fleet.instance(5, group_id=fleet.uuid(1)))
        instances.bury(tx, fleet.uuid(5), fleet.WHEN, None)
        before = instances.get(tx, fleet.uuid(1)).version
        members = {fleet.uuid(1): ["web1", "web2"]}
        assert {id_: [row["name"] for row in rows] for id_, rows in groups.all_members(tx).items()} == members
        assert [row["name"] for row in groups.delete(tx, group(1))] == ["web1", "web2"]
        for number in (1, 2):
            assert instances.get(tx, fleet.uuid(number)).group_id is None
            assert instances.copy_is_behind(tx, fleet.uuid(number))
        assert instances.get(tx, fleet.uuid(1)).version == before + 1
        assert not instances.copy_is_behind(tx, fleet.uuid(4))
        assert instances.get(tx, fleet.uuid(5)).group_id == fleet.uuid(1)
        assert groups.everything(tx) == [] and groups.all_members(tx) == {}


def test_names_of_groups_are_a_project_s_own(db: Database) -> None:
    with db.writing() as tx:
        groups.create(tx, group(1))
        groups.create(tx, group(2, name="group1", project="other"))
        with pytest.raises(Refused, match=r"^group group1 exists already$"):
            groups.create(tx, group(3, name="group1"))
        assert groups.find(tx, "group1", "other").id == fleet.uuid(2)
        assert groups.find(tx, fleet.uuid(2), "other").name == "group1"
        with pytest.raises(NotFound):  # also by its id: whose members count is whose quota holds
            groups.find(tx, fleet.uuid(2), "default")
        with pytest.raises(NotFound) as caught:
            groups.find(tx, "group1", "third")
    assert (caught.value.code, caught.value.hint) == (4, "novactl group list shows what exists")
