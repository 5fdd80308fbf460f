"""Many guests on three real hosts: one host dies midway, and what happens behind novactl's back is seen."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.conftest import Grounds
from tests.lab.support import Running, console_until, gate

pytestmark = pytest.mark.lab

HOSTS = ("kvm1", "kvm2", "kvm3")


def two_on_each(grounds: Grounds, prefix: str, image: str) -> list[dict[str, Any]]:
    """Six guests, tagged with the prefix."""
    words = ["--flavor", "tiny", "--image", image, "--tag", prefix, "--count", "2"]
    running = [Running(grounds.novactl, "boot", f"{prefix}-{host}", *words, "--host", host) for host in HOSTS]
    assert [one.end() for one in running] == [0, 0, 0]
    found: list[dict[str, Any]] = grounds.novactl.json("list", "-l", prefix, "--sort", "name")
    return found


def test_a_host_dies_in_the_middle_of_a_bulk_verb(grounds: Grounds, name: Callable[[], str]) -> None:
    """The others' guests are stopped, the lost ones are named and finished when the host is back."""
    novactl, prefix = grounds.novactl, name()
    guests = two_on_each(grounds, prefix, "tiny")
    for guest in guests:
        console_until(grounds, guest, "tiny: ready")
    with gate(grounds.host("kvm2"), "virsh", "shutdown") as held:
        stop = Running(novactl, "stop", "-l", prefix, "-o", "json")
        held.reached(stop)
        grounds.host("kvm2").stop()  # its power is cut while its guests are asked
        assert stop.process.stdout is not None
        code, told = stop.end(150), stop.process.stdout.read()
        rows = {row["target"]: row for row in json.loads(told)}
        assert code == 3, stop.said
        grounds.host("kvm2").start()
    lost = {guest["name"] for guest in guests if guest["host"] == "kvm2"}
    assert {target: row["code"] for target, row in rows.items()} == {
        guest["name"]: 11 if guest["name"] in lost else 0 for guest in guests
    }
    assert all(f"error: {target}" in stop.said or target in stop.said for target in lost)
    left = novactl.json("op", "list", "--active")
    assert {op["target"] for op in left} >= lost
    novactl.ok("op", "resume", "--all")
    assert novactl.json("op", "list", "--active") == []
    assert {one["status"] for one in novactl.json("list", "-l", prefix)} == {"SHUTOFF"}
    assert {row["result"] for row in novactl.json("start", "-l", prefix, "--on", "kvm2")} == {"done"}


def test_list_refresh_sees_what_others_did(grounds: Grounds, name: Callable[[], str]) -> None:
    """One guest was powered off by other hands, one was paused; a host that is cut off is named."""
    novactl, prefix = grounds.novactl, name()
    guests = two_on_each(grounds, prefix, "deaf")
    off, paused = (next(one for one in guests if one["host"] == host) for host in ("kvm1", "kvm2"))
    grounds.host("kvm1").run(["virsh", "destroy", off["uuid"]]).check_returncode()
    grounds.host("kvm2").run(["virsh", "suspend", paused["uuid"]]).check_returncode()
    assert {one["status"] for one in novactl.json("list", "-l", prefix)} == {"ACTIVE"}  # as recorded
    grounds.host("kvm3").cut()
    try:
        seen = novactl("list", "-l", prefix, "--refresh", "-o", "json")
    finally:
        grounds.host("kvm3").mend()
    assert seen.code == 3, seen.err
    assert "kvm3" in seen.err
    states = {one["name"]: one["status"] for one in seen.json}
    expected = {one["name"]: "ACTIVE" for one in guests}
    assert states == {**expected, off["name"]: "SHUTOFF", paused["name"]: "PAUSED"}
    events = novactl.json("event", "list", off["name"])
    assert any("kvm1" in event["message"] and "shutdown" in event["message"] for event in events), events
    again = novactl("list", "-l", prefix, "--refresh", "-o", "json")
    assert again.code == 0, again.err
    assert {host["state"] for host in novactl.json("host", "list")} == {"up"}
