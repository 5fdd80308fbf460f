"""A host that is lost while what an instance is made of is copied, put away, or made anew: the instance is
used again elsewhere, no image is lost, nothing runs twice, and the host is cleaned when it is back."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from novactl.db import instances
from novactl.engine.operation import OpState
from novactl.errors import OperationFailed
from novactl.objects.instance import Instance
from tests.sim.actions import (
    Restoring,
    back_up,
    boot,
    evacuate,
    heal,
    lose_host,
    offload,
    rebuild,
    rescue,
    share,
    shelve,
    snapshot,
    stop,
    unrescue,
    unshelve,
)
from tests.sim.effort import FULL
from tests.sim.test_evacuate import deaths, returned
from tests.support.sim import SimFleet, always, audited, settled


def only(fleet: SimFleet) -> Instance:
    (one,) = fleet.db.read(instances.everything)
    return one


def on_kvm1() -> Any:
    return boot(flavor="disks", host="kvm1")


EVERY = 1 if FULL else 2
Verb = Callable[[], Any]

CASES: dict[str, tuple[Verb, tuple[Verb, ...]]] = {
    "shelve": (shelve, (on_kvm1,)),
    "shelve-offload": (offload, (on_kvm1,)),
    "offload": (offload, (on_kvm1, shelve)),
    "unshelve": (unshelve, (on_kvm1, shelve)),
    "unshelve-offloaded": (lambda: unshelve(host="kvm1"), (on_kvm1, offload)),
    "rebuild": (rebuild, (on_kvm1,)),
    "rebuild-another": (lambda: rebuild(image="direct", preserve_ephemeral=True), (on_kvm1,)),
    "rescue": (rescue, (on_kvm1,)),
    "unrescue": (unrescue, (on_kvm1, rescue)),
    "snapshot": (snapshot, (on_kvm1,)),
    "backup": (back_up, (on_kvm1,)),
    "restore": (lambda: Restoring(here=True), (on_kvm1, back_up, stop)),
}
"""The verb, and what goes before."""
WAYS: dict[str, Verb] = {"SHELVED": offload, "SHELVED_OFFLOADED": unshelve, "RESCUE": unrescue}
"""By status, what brings one whose host is lost nearer to being used; others are evacuated."""


def end_all(fleet: SimFleet) -> list[OpState]:
    """`op resume` or `op rollback` of what is left, with its host away; how each ended."""
    left = fleet.active()
    for op_id in left:
        with fleet.process("b") as process:
            back = not process.journal.load(op_id).past_pivot
        with contextlib.suppress(OperationFailed):
            fleet.take_over(op_id, back=back)
    assert fleet.active() == []
    with fleet.process("c") as process:
        return [process.journal.load(op_id).state for op_id in left]


def used_again(fleet: SimFleet, n: Any) -> None:
    """A verb or two have it run elsewhere."""
    for _ in range(3):
        one = only(fleet)
        if one.host not in ("kvm1", None):
            return
        outcome = fleet.run(WAYS.get(one.status, evacuate)())
        assert outcome.code == 0, (n, one.status, outcome.error)
    raise AssertionError(n)


@pytest.mark.parametrize("name", CASES)
def test_it_is_used_again_elsewhere(name: str, quick: Path) -> None:
    action, before = CASES[name]
    fleet = SimFleet(quick)
    fleet.limit()
    for one in before:
        assert fleet.run(one()).code == 0
    met = 0
    for n, twin in deaths(fleet, action, EVERY):
        lose_host(twin)
        met += bool(end_all(twin))
        assert always(twin) == [], n
        used_again(twin, n)
        returned(twin)
        assert settled(twin) == [] and audited(twin) == [], n
        assert twin.hosts["kvm1"].everything() == set(), n
    assert met > 1
    fleet.close()


@pytest.mark.parametrize("name", ["rebuild", "rebuild-another", "restore"])
def test_disks_kept_aside_on_shared_storage(name: str, quick: Path) -> None:
    """Its evacuation is refused until an audit has put them back, or dropped them, as the operation ended."""
    action, before = CASES[name]
    fleet = SimFleet(quick)
    fleet.limit()
    share(fleet)
    for one in before:
        assert fleet.run(one()).code == 0
    fleet.hosts["kvm1"].directories[only(fleet).uuid].files["disk"] = ("written", 1)
    met = set()
    for n, twin in deaths(fleet, action, 1):
        files = twin.hosts["kvm1"].directories[only(twin).uuid].files
        lose_host(twin)
        ended = end_all(twin)
        if any(".op-" in file for file in files):
            refused = twin.run(evacuate())
            assert refused.error is not None and "novactl audit --heal" in refused.error.message, n
            assert any("disks-aside" in line for line in audited(twin)), n
            assert twin.run(heal()).result == "done", n
            met.update(ended)
        assert not any(".op-" in file for file in files), n
        if ended:
            assert (files["disk"] == ("written", 1)) is (ended == [OpState.UNDONE]), n
        assert twin.run(evacuate()).code == 0, n
        returned(twin)
        assert settled(twin) == [], n
    assert met == {OpState.UNDONE, OpState.DONE}
    fleet.close()


def test_another_rebuild_waits_for_disks_kept_aside(quick: Path) -> None:
    """Else what an audit puts back would be older than what is there."""
    fleet = SimFleet(quick)
    assert fleet.run(on_kvm1()).code == 0
    files = fleet.hosts["kvm1"].directories[only(fleet).uuid].files
    files["disk.op-abcdef"] = files["disk"]
    outcome = fleet.run(rebuild())
    assert outcome.code != 0 and "novactl audit --heal" in str(outcome.error)
    assert only(fleet).status == "ACTIVE"
    fleet.close()


def test_a_host_that_is_not_fenced_is_waited_for(quick: Path) -> None:
    fleet = SimFleet(quick)
    for one in (on_kvm1, shelve):
        assert fleet.run(one()).code == 0
    fleet.hosts["kvm1"].up = False
    assert fleet.run(offload()).code == 7
    assert only(fleet).status == "SHELVED"
    fleet.close()
