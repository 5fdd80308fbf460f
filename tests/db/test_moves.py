"""Quota of a project while moves of its instances are open: the larger flavor counts, whoever counts."""

from dataclasses import replace

import pytest

from novactl.db import instances, moves, projects
from novactl.db.session import Database, Tx
from novactl.objects.flavor import Flavor
from novactl.objects.migration import Migration, MigrationKind, MigrationStatus, Storage
from novactl.objects.project import Project
from novactl.objects.states import VmState
from tests.support import fleet

SMALL, LARGE = fleet.flavor("small", vcpus=1), fleet.flavor("large", vcpus=4)


def moving(old: Flavor, new: Flavor) -> Migration:
    return Migration(
        id="m1",
        instance_uuid=fleet.uuid(1),
        kind=MigrationKind.RESIZE,
        source="kvm1",
        target="kvm2",
        storage=Storage.COPIED,
        old_flavor=old,
        new_flavor=new,
        was=VmState.ACTIVE,
        operation="op-1",
        created_at=fleet.WHEN,
        updated_at=fleet.WHEN,
    )


def cores(tx: Tx) -> tuple[int, int]:
    """(counted, found)."""
    found = projects.get(tx, "default")
    assert found is not None
    return found.cores_used, projects.usage(tx, "default")["cores"]


@pytest.mark.parametrize(("old", "new"), [(SMALL, LARGE), (LARGE, SMALL)], ids=["grows", "shrinks"])
@pytest.mark.parametrize("ends", ["confirmed", "reverted", "deleted"])
def test_the_larger_flavor_counts_until_the_end(db: Database, old: Flavor, new: Flavor, ends: str) -> None:
    with db.writing() as tx:
        instances.add(tx, replace(fleet.instance(1), flavor=old, host=None))
        projects.create(tx, Project(name="default", limits={}))
        moves.add(tx, moving(old, new))
        projects.take(tx, "default", cores=max(0, new.vcpus - old.vcpus))
        assert cores(tx) == (4, 4)
        kept = new if ends == "confirmed" else old
        if ends == "deleted":
            instances.bury(tx, fleet.uuid(1), fleet.WHEN, None)
            assert cores(tx) == (0, 0)
            assert moves.open_of(tx, fleet.uuid(1)) is None
            return
        moves.settle(tx, moving(old, new), MigrationStatus(ends), "default", kept, fleet.WHEN)
        moves.settle(tx, moving(old, new), MigrationStatus(ends), "default", kept, fleet.WHEN)
        assert projects.get(tx, "default").cores_used == kept.vcpus  # type: ignore[union-attr]
