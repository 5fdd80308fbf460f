"""Finding what a person means, and keeping what an instance is."""

import pytest

from novactl.db import catalogue, instances, pages
from novactl.db.pages import Wanted
from novactl.db.session import Database
from novactl.errors import NotFound, Refused, UsageError
from novactl.objects.instance import Instance
from novactl.objects.keypair import Keypair
from novactl.objects.states import PowerState, TaskState, VmState
from tests.support import fleet


@pytest.fixture
def db(db: Database) -> Database:
    fleet.furnish(db)
    return db


def find(db: Database, name: str, project: str = "default", **options: bool) -> Instance:
    with db.reading() as tx:
        return instances.find(tx, name, project, **options)


def test_everything_of_an_instance_comes_back(db: Database) -> None:
    uuid = fleet.uuid(1)
    made = fleet.instance(
        1,
        task_state=TaskState.SPAWNING,
        host="kvm1",
        ports=(fleet.port(uuid), fleet.port(uuid, 1)),
        key_name="me",
        public_key="ssh-ed25519 AAAA",
        metadata={"a": "<é&\"'>"},
        tags=("x", "y"),
        launch_index=3,
        locked=True,
        epoch=5,
        image=fleet.image(properties={"hw_disk_bus": "scsi"}, locations=("file:/x",), cmdline="a=b"),
        flavor=fleet.flavor(extra_specs={"k": "v"}, swap_mib=5),
    )
    fleet.add_instance(db, made)
    assert find(db, "web1") == made


def test_an_exact_name_or_uuid(db: Database) -> None:
    one = fleet.add_instance(db, fleet.instance(1))
    fleet.add_instance(db, fleet.instance(2, name="web1", project="other"))
    assert find(db, "web1").uuid == one.uuid
    assert find(db, one.uuid.upper()).uuid == one.uuid
    assert find(db, "web1", "other").uuid == fleet.uuid(2)
    with pytest.raises(NotFound, match=r"^instance 'WEB1' does not exist$"):
        find(db, "WEB1")


def test_a_prefix_only_where_it_is_asked_for(db: Database) -> None:
    fleet.add_instance(db, fleet.instance(0xABCDEF01))
    assert find(db, "abcdef01", prefix=True).uuid == fleet.uuid(0xABCDEF01)
    assert find(db, "ABCDEF01-0000", prefix=True).uuid == fleet.uuid(0xABCDEF01)
    for wrong in ("abcdef01", "ABCDEF01-0000"):
        with pytest.raises(NotFound) as caught:
            find(db, wrong)
        assert caught.value.code == 4
    with pytest.raises(NotFound):
        find(db, "abcdef0", prefix=True)  # 7 digits
    with pytest.raises(NotFound):
        find(db, "abcdef0%", prefix=True)
    with pytest.raises(NotFound):
        find(db, "abcdef0_", prefix=True)


def test_a_name_wins_over_a_prefix(db: Database) -> None:
    fleet.add_instance(db, fleet.instance(0xABCDEF01))
    fleet.add_instance(db, fleet.instance(2, name="abcdef01"))
    assert find(db, "abcdef01", prefix=True).uuid == fleet.uuid(2)


def test_an_ambiguous_prefix_names_the_candidates(db: Database) -> None:
    one = fleet.add_instance(db, fleet.instance(0xABCDEF01))
    two = fleet.add_instance(db, fleet.instance(1, uuid=one.uuid[:-1] + "9", name="other"))
    with pytest.raises(UsageError, match=r"^'abcdef01' is ambiguous$") as caught:
        find(db, "abcdef01", prefix=True)
    assert (caught.value.code, set(caught.value.candidates)) == (2, {one.uuid, two.uuid})


def test_near_names_are_offered(db: Database) -> None:
    for number, name in enumerate(["web-front", "web-back", "database"], start=1):
        fleet.add_instance(db, fleet.instance(number, name=name))
    with pytest.raises(NotFound, match=r"^instance 'web-frnt' does not exist$") as caught:
        find(db, "web-frnt")
    assert caught.value.candidates[0] == "web-front"
    assert caught.value.hint.startswith("did you mean web-front")
    with pytest.raises(NotFound) as caught:
        find(db, "zzz")
    assert (caught.value.candidates, caught.value.hint) == ([], "novactl list shows what exists")


def test_near_names_are_of_the_same_project(db: Database) -> None:
    fleet.add_instance(db, fleet.instance(1, name="web-front", project="other"))
    with pytest.raises(NotFound) as caught:
        find(db, "web-frnt")
    assert caught.value.candidates == []


def test_deleted_ones_by_uuid_and_only_where_asked_for(db: Database) -> None:
    uuid = fleet.uuid(1)
    fleet.add_instance(db, fleet.instance(1, host="kvm1", ports=(fleet.port(uuid),), user_data="secret:x"))
    with db.writing() as tx:
        instances.bury(tx, uuid, "2026-01-02T00:00:00Z", "the host burned")
        instances.bury(tx, uuid, "2026-01-03T00:00:00Z", None)  # twice is fine
    for name in ("web1", uuid):
        with pytest.raises(NotFound):
            find(db, name)
    with pytest.raises(NotFound):
        find(db, uuid[:8], prefix=True, deleted=True)
    gone = find(db, uuid, deleted=True)
    assert (gone.status, gone.vm_state, gone.task_state) == ("DELETED", VmState.DELETED, None)
    assert (gone.host, gone.ports, gone.user_data, gone.power_state) == (None, (), None, PowerState.NOSTATE)
    assert gone.fault == {"message": "the host burned", "time": "2026-01-02T00:00:00Z"}
    fleet.add_instance(
        db, fleet.instance(2, name="web1", ports=(fleet.port(uuid),))
    )  # name, ip, mac are free
    with db.reading() as tx:
        assert [i.uuid for i in instances.everything(tx)] == [fleet.uuid(2)]
        assert [i.uuid for i in pages.page(tx, Wanted(deleted=True))] == [uuid]


def test_update_counts_the_version(db: Database) -> None:
    fleet.add_instance(db, fleet.instance(1))
    with db.writing() as tx:
        instances.update(tx, fleet.uuid(1), host="kvm1")
        instances.update(tx, fleet.uuid(1), task_state=None)
        assert instances.get(tx, fleet.uuid(1)).version == 2
        assert instances.raise_epoch(tx, fleet.uuid(1)) == 2
        assert instances.raise_epoch(tx, fleet.uuid(1)) == 3
        for missing in (instances.get, instances.raise_epoch, instances.update):
            with pytest.raises(NotFound, match=rf"^instance {fleet.uuid(9)} is not in the database$"):
                missing(tx, fleet.uuid(9), **({"host": None} if missing is instances.update else {}))


# --- the catalogue ---


def test_catalogue_round_trips(db: Database) -> None:
    big = fleet.flavor("big", vcpus=8, extra_specs={"a": "é"})
    debian = fleet.image("debian", properties={"os_distro": "debian"}, locations=("file:/a b",), cmdline="x")
    wan = fleet.network("wan", cidr="198.51.100.0/24", gateway=None, dns=())
    key = Keypair(name="me", fingerprint="SHA256:x", public_key="ssh-ed25519 AAAA me@here")
    with db.writing() as tx:
        catalogue.add_flavor(tx, big)
        catalogue.add_image(tx, debian)
        catalogue.add_network(tx, wan)
        catalogue.add_keypair(tx, "default", key)
        assert catalogue.flavor(tx, "big") == big
        assert catalogue.image(tx, "debian") == catalogue.image(tx, debian.id) == debian
        assert catalogue.network(tx, "wan") == wan
        assert catalogue.keypair(tx, "default", "me") == key
        assert [f.name for f in catalogue.flavors(tx)] == ["small", "big"]
        assert [i.name for i in catalogue.images(tx)] == ["debian", "tiny"]
        assert [n.name for n in catalogue.networks(tx)] == ["lan", "wan"]
        assert catalogue.keypairs(tx, "other") == []


@pytest.mark.parametrize("what", ["flavor", "image", "network", "keypair"])
def test_a_name_is_taken_once_and_missed_with_near_ones(db: Database, what: str) -> None:
    made = {
        "flavor": lambda tx: catalogue.add_flavor(tx, fleet.flavor("medium", id="x")),
        "image": lambda tx: catalogue.add_image(tx, fleet.image("medium", id="x")),
        "network": lambda tx: catalogue.add_network(
            tx, fleet.network("medium", id="x", cidr="198.51.100.0/24", gateway=None)
        ),
        "keypair": lambda tx: catalogue.add_keypair(
            tx, "default", Keypair(name="medium", fingerprint="", public_key="")
        ),
    }[what]
    got = {
        "flavor": lambda tx: catalogue.flavor(tx, "mediun"),
        "image": lambda tx: catalogue.image(tx, "mediun"),
        "network": lambda tx: catalogue.network(tx, "mediun"),
        "keypair": lambda tx: catalogue.keypair(tx, "default", "mediun"),
    }[what]
    with db.writing() as tx:
        made(tx)
        with pytest.raises(Refused, match=rf"^{what} medium exists already$") as refused:
            made(tx)
        assert refused.value.code == 5
        with pytest.raises(NotFound, match=rf"^{what} 'mediun' does not exist$") as missed:
            got(tx)
        assert (missed.value.code, missed.value.candidates) == (4, ["medium"])
        assert missed.value.hint == "did you mean medium?"


def test_removing(db: Database) -> None:
    with db.writing() as tx:
        catalogue.remove_flavor(tx, "small")
        for remove in (
            lambda: catalogue.remove_flavor(tx, "small"),
            lambda: catalogue.remove_keypair(tx, "default", "me"),
            lambda: catalogue.remove_network(tx, "wan"),
        ):
            with pytest.raises(NotFound):
                remove()
    fleet.add_instance(db, fleet.instance(1, ports=(fleet.port(fleet.uuid(1)),)))
    with db.writing() as tx:
        assert catalogue.addresses_used(tx, "id-lan") == 1
        with pytest.raises(Refused, match=r"^network lan: 1 addresses are in use$"):
            catalogue.remove_network(tx, "lan")
        instances.bury(tx, fleet.uuid(1), fleet.WHEN, None)
        catalogue.remove_network(tx, "lan")


def test_files_that_are_still_needed(db: Database) -> None:
    kernel, own = "cd" * 32, "ef" * 32
    fleet.add_instance(db, fleet.instance(1, image=fleet.image(sha256=own, kernel_sha256=kernel)))
    with db.writing() as tx:
        assert catalogue.stored_files_in_use(tx) == {fleet.SHA256, own, kernel}
        catalogue.remove_image(tx, "id-tiny")
        assert catalogue.stored_files_in_use(tx) == {own, kernel}
        instances.bury(tx, fleet.uuid(1), fleet.WHEN, None)
        assert catalogue.stored_files_in_use(tx) == set()
