"""A move whose hosts are lost while it is under way: it ends one way or the other, its instance is used
again, and what has to go back stays until it has."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from novactl.actions import last_copy
from novactl.actions.evacuate import Evacuate
from novactl.actions.fencing import Proof
from tests.sim.actions import (
    boot,
    confirm,
    live_migrate,
    lose_host,
    migrate,
    revert,
    share,
    stop,
    trust_a_network,
)
from tests.sim.test_evacuate import deaths, made_directory, returned, returns
from tests.sim.test_lost_hosts import EVERY, end_all, only
from tests.support.sim import SimFleet, always, audited, settled
from tests.support.toys import Died

Ways = dict[str, tuple[Callable[[SimFleet], None], dict[str, Any]]]
WAYS: Ways = {
    "copied": (lambda fleet: None, {}),
    "shared": (share, {}),
    "direct": (trust_a_network, {"direct": True, "transport": "tcp"}),
}


@pytest.fixture
def fleet(quick: Path) -> Iterator[SimFleet]:
    fleet = SimFleet(quick, hosts_=3)
    fleet.limit()
    assert fleet.run(boot(host="kvm1", flavor="disks")).code == 0
    yield fleet
    fleet.close()


def evacuated(fleet: SimFleet) -> Any:
    host = str(only(fleet).host)
    return fleet.run(Evacuate(name="web1", project="default", proof=Proof(host=host, words="it is off")))


@pytest.mark.parametrize("way", WAYS)
def test_a_live_move_whose_new_host_is_lost_ends(fleet: SimFleet, way: str) -> None:
    """Before it has arrived the guest runs on where it was."""
    prepare, values = WAYS[way]
    prepare(fleet)
    undone = 0
    for n, twin in deaths(fleet, lambda: live_migrate(host="kvm2", **values), EVERY):
        lose_host(twin, "kvm2")
        here = twin.hosts["kvm1"].running() == {only(twin).uuid}
        if here:
            end_all(twin)
            assert (only(twin).host, only(twin).status) == ("kvm1", "ACTIVE"), n
            assert twin.run(stop()).code == 0, n
        undone += here
        returned(twin)
        assert always(twin) == [], n
        assert not here or (settled(twin) == [] and audited(twin) == []), n
    assert undone > 3


@pytest.mark.parametrize("way", WAYS)
def test_a_live_move_whose_hosts_are_both_lost_makes_way(fleet: SimFleet, way: str) -> None:
    """Nobody has the guest, which is known for certain."""
    prepare, values = WAYS[way]
    prepare(fleet)
    for n, twin in deaths(fleet, lambda: live_migrate(host="kvm2", **values), EVERY):
        lose_host(twin, "kvm1")
        lose_host(twin, "kvm2")
        while only(twin).host != "kvm3":
            outcome = evacuated(twin)
            assert outcome.error is None, n
        assert (only(twin).host, only(twin).status) == ("kvm3", "ACTIVE"), n
        returned(twin)
        assert settled(twin) == [] and audited(twin) == [], n


# --- all that is left of an instance is on the host that a live move has left ---


def waiting(fleet: SimFleet) -> Iterator[SimFleet]:
    """novactl died when the guest had come, its new host was lost then, and the move waits."""
    (directory,) = fleet.hosts["kvm1"].directories.values()
    directory.files["written"] = b"by the guest"
    met = 0
    for _, twin in deaths(fleet, lambda: live_migrate(host="kvm2"), 1):
        if only(twin).host == "kvm2" and only(twin).uuid in twin.hosts["kvm1"].directories:
            lose_host(twin, "kvm2")
            yield twin
            met += 1
    assert met > 1


def test_it_stays_when_the_new_host_is_there_again(fleet: SimFleet) -> None:
    """The disk there may be torn: what the old one has goes only when the move is confirmed."""
    for twin in waiting(fleet):
        assert evacuated(twin).code == 5 and only(twin).status == "VERIFY_RESIZE"
        returned(twin)
        kept = twin.clone(made_directory(fleet))
        assert kept.run(revert()).code == 0
        assert (only(kept).host, only(kept).status) == ("kvm1", "ACTIVE")
        directory = kept.hosts["kvm1"].directories[only(kept).uuid]
        assert directory.files["written"] == b"by the guest"
        returns(kept, "kvm2")
        assert twin.run(confirm()).code == 0
        assert twin.hosts["kvm1"].everything() == set()
        with twin.db.reading() as tx:
            assert [hold["host"] for hold in tx.all("SELECT host FROM holds")] == ["kvm2"]
        returns(twin, "kvm2")


def test_it_stays_when_confirming_dies_and_the_new_host_is_lost_again(fleet: SimFleet) -> None:
    for twin in waiting(fleet):
        assert evacuated(twin).code == 5
        returned(twin)
        for n, again in deaths(twin, confirm, 1):
            has = bool({*again.hosts["kvm1"].aside, *again.hosts["kvm1"].directories})
            lose_host(again, "kvm2")
            outcome = evacuated(again)
            assert (outcome.code == 5) is has, (n, outcome.error)
            if has:
                assert again.run(revert()).code == 0, n
                directory = again.hosts["kvm1"].directories[only(again).uuid]
                assert directory.files["written"] == b"by the guest", n


def test_an_evacuation_that_dies_before_the_move_waits(
    fleet: SimFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is set aside already, and the record does not say so."""

    def dies(*anything: Any) -> None:
        raise Died

    twin = next(waiting(fleet))
    with monkeypatch.context() as patched, contextlib.suppress(Died):
        patched.setattr(last_copy, "wait", dies)
        evacuated(twin)
    assert twin.hosts["kvm1"].aside and only(twin).status != "VERIFY_RESIZE"
    assert evacuated(twin).code == 5 and only(twin).status == "VERIFY_RESIZE"
    assert twin.run(revert()).code == 0


# --- an instance that waits, and both of its hosts are lost ---


@pytest.mark.parametrize("prepare", [lambda fleet: None, share], ids=["copied", "shared"])
def test_a_move_is_confirmed_by_its_record_alone(
    fleet: SimFleet, prepare: Callable[[SimFleet], None]
) -> None:
    """So that the instance can be evacuated. While one of its hosts may answer, that one is asked."""
    prepare(fleet)
    assert fleet.run(migrate(host="kvm2")).code == 0
    lose_host(fleet, "kvm2")
    assert "resize-revert" in str(evacuated(fleet).error.hint)
    assert fleet.run(confirm()).code == 7
    lose_host(fleet, "kvm1")
    assert "resize-confirm" in str(evacuated(fleet).error.hint)
    assert fleet.run(confirm()).error is None
    assert evacuated(fleet).error is None
    assert (only(fleet).host, only(fleet).status) == ("kvm3", "ACTIVE")
    returned(fleet)
    assert settled(fleet) == [] and audited(fleet) == []
    assert fleet.hosts["kvm1"].running() | fleet.hosts["kvm2"].running() == set()


@pytest.mark.parametrize("left", [confirm, revert])
@pytest.mark.parametrize("lost", [("kvm2",), ("kvm1", "kvm2")], ids="-".join)
def test_what_was_left_of_its_end_makes_way(
    fleet: SimFleet, left: Callable[[], Any], lost: tuple[str, ...]
) -> None:
    """What it waits for is told once nothing holds it."""
    assert fleet.run(migrate(host="kvm2")).code == 0
    met = 0
    for n, twin in deaths(fleet, left, 1):
        if only(twin).host != "kvm2" or only(twin).status in ("ACTIVE", "SHUTOFF"):
            continue
        for host in lost:
            lose_host(twin, host)
        outcome = evacuated(twin)
        assert outcome.code == 5 and "VERIFY_RESIZE" in str(outcome.error), (n, outcome.error)
        assert twin.active() == [] and only(twin).status == "VERIFY_RESIZE", n
        assert twin.run((confirm if len(lost) > 1 else revert)()).error is None, n
        met += 1
    assert met > 0
