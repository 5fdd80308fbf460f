"""A host is emptied and filled again: those that run leave alive, those that are off leave cold."""

from collections.abc import Callable

import pytest

from tests.lab.conftest import Grounds

pytestmark = pytest.mark.lab


def test_drained_and_brought_back(grounds: Grounds, name: Callable[[], str]) -> None:
    novactl = grounds.novactl
    runs, off, locked = name(), name(), name()
    for one in (runs, off, locked):
        novactl.ok("boot", one, "--flavor", "tiny", "--image", "tiny", "--network", "lan", "--host", "kvm1")
    novactl.ok("stop", off, "--force")
    novactl.ok("lock", locked)
    shown = novactl.json("host", "drain", "kvm1", "--dry-run")
    by_name = {move["instance"]: move for move in shown["moves"]}
    assert (shown["before"], shown["after"]) == ({"instances": 3}, {"instances": 1})
    assert (by_name[runs]["method"], by_name[off]["method"]) == ("live", "cold")
    assert by_name[locked]["blocker"] == "is locked"
    assert novactl("host", "drain", "kvm1").code == 8  # it asks
    assert novactl.json("host", "show", "kvm1")["enabled"]

    drained = novactl("host", "drain", "kvm1", "--yes", "-o", "json")
    assert drained.code == 3 and f"{locked} is locked" in drained.err
    assert {one["target"]: one["result"] for one in drained.json} == {runs: "done", off: "done"}
    host = novactl.json("host", "show", "kvm1")
    assert (host["enabled"], host["disabled_reason"]) == (False, "is drained")
    where = {one["name"]: (one["host"], one["status"]) for one in novactl.json("list")}
    assert where[locked] == ("kvm1", "ACTIVE")
    assert where[runs][0] != "kvm1" and where[runs][1] == "ACTIVE"
    assert where[off][0] != "kvm1" and where[off][1] == "SHUTOFF"
    novactl.ok("unlock", locked)
    novactl.ok("delete", locked, "--yes")
    assert grounds.domains("kvm1") == [] and grounds.files("kvm1") == []

    novactl.ok("host", "undrain", "kvm1", "--bring-back")
    assert {one["host"] for one in novactl.json("list")} == {"kvm1"}
    assert novactl.json("host", "show", "kvm1")["enabled"]
    assert novactl("host", "undrain", "kvm1", "--bring-back", "-o", "json").json == []


def test_nothing_is_begun_without_room_for_all(grounds: Grounds, name: Callable[[], str]) -> None:
    novactl, one = grounds.novactl, name()
    novactl.ok("boot", one, "--flavor", "tiny", "--image", "tiny", "--host", "kvm1")
    for host in ("kvm2", "kvm3"):
        novactl.ok("host", "set", host, "--disable", "--reason", "a test")
    try:
        refused = novactl("host", "drain", "kvm1", "--yes")
        assert refused.code == 5 and "cannot be drained" in refused.err and one in refused.err
        assert novactl.json("host", "show", "kvm1")["enabled"]
        assert novactl.json("show", one)["host"] == "kvm1"
        assert novactl("host", "drain", "nowhere", "--yes").code == 4
        assert novactl("host", "drain", "kvm1", "--method", "warp", "--yes").code == 2
    finally:
        for host in ("kvm2", "kvm3"):
            novactl.ok("host", "set", host, "--enable")
