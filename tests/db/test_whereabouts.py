"""Where instances are, and what they have a share of, on every database."""

from novactl.db import hosts, instances, placement
from novactl.db.session import Database
from novactl.objects.placement import Placement
from tests.support import fleet


def placed(db: Database) -> list[str]:
    """web1 is on kvm1, web2 was deleted, web3 is on the fenced kvm3, web4 has no host, web5 was pruned."""
    fleet.furnish(db, hosts_=3)
    for number, host in ((1, "kvm1"), (2, "kvm2"), (3, "kvm3"), (4, None)):
        fleet.add_instance(db, fleet.instance(number, host=host))
    with db.writing() as tx:
        instances.bury(tx, fleet.uuid(2), fleet.WHEN, None)
        hosts.fence(tx, "kvm3", fleet.WHEN)
    return [fleet.uuid(number) for number in range(1, 6)]


def test_whereabouts(db: Database) -> None:
    uuids = placed(db)
    with db.reading() as tx:
        assert placement.whereabouts(tx, uuids) == {"kvm1": "web1"}
        assert placement.whereabouts(tx, []) == {}


def test_what_may_be_theirs_too(db: Database) -> None:
    """web2 was deleted."""
    uuids, amounts = placed(db), fleet.instance(1).resources
    with db.writing() as tx:
        hosts.add(tx, fleet.host("kvm4"))
        assert hosts.claim(tx, "kvm1", fleet.uuid(1), amounts)
        assert hosts.claim(tx, "kvm4", fleet.uuid(1), amounts, "move-source")
        assert hosts.claim(tx, "kvm2", fleet.uuid(2), amounts)
        hosts.hold(tx, "kvm3", fleet.uuid(1), amounts, "move-target")  # it is fenced
        assert placement.whereabouts(tx, uuids) == {"kvm1": "web1"}
        assert placement.whereabouts(tx, uuids, held=True) == {"kvm1": "web1", "kvm4": "web1"}


def test_who_names_it(db: Database) -> None:
    """Those that live, and have a host."""
    fleet.furnish(db)
    wishes = Placement(apart_from=(fleet.uuid(9),), together_with=(fleet.uuid(8),))
    for number, host, wish in ((1, "kvm1", wishes), (2, None, wishes), (3, "kvm1", Placement())):
        fleet.add_instance(db, fleet.instance(number, host=host, placement=wish))
    with db.reading() as tx:
        assert placement.naming(tx, fleet.uuid(9)) == {fleet.uuid(1): wishes}
        assert placement.naming(tx, fleet.uuid(7)) == {}


def test_who_has_a_share(db: Database) -> None:
    fleet.furnish(db, hosts_=2)
    one = fleet.add_instance(db, fleet.instance(1, host="kvm1"))
    with db.writing() as tx:
        assert hosts.claim(tx, "kvm2", one.uuid, one.resources, "move-source")
        assert (hosts.holder(tx, "kvm1"), hosts.holder(tx, "kvm2")) == (None, "web1")
        assert hosts.claim(tx, "kvm1", fleet.uuid(2), one.resources)
        assert hosts.holder(tx, "kvm1") == fleet.uuid(2)


def test_how_many_a_host_has_or_may_have(db: Database) -> None:
    """web1 is on kvm1, and may go back to kvm2; web2 has no room yet, web3 has room but no host yet."""
    fleet.furnish(db, hosts_=3)
    one = fleet.add_instance(db, fleet.instance(1, host="kvm1"))
    fleet.add_instance(db, fleet.instance(2, host="kvm1"))
    with db.writing() as tx:
        assert hosts.claim(tx, "kvm1", one.uuid, one.resources)
        assert hosts.claim(tx, "kvm2", one.uuid, one.resources, "move-source")
        assert hosts.claim(tx, "kvm2", fleet.uuid(3), one.resources)
        found = placement.candidates(tx, counted=True)
        assert [host.instances for host in found] == [2, 2, 0]
        assert [host.instances for host in placement.candidates(tx, counted=False)] == [0, 0, 0]
        for host in found:
            (alone,) = placement.candidates(tx, counted=True, name=host.name)
            assert alone.instances == host.instances
