"""Guests that run go from host to host: what the guest, both hosts and the record show of it."""

import re
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.conftest import Grounds
from tests.lab.support import (
    Running,
    active,
    console,
    console_until,
    gate,
    last,
    refused,
    unchanged,
    unsettled,
    wait_until,
)
from tests.lab.test_lifecycle import images  # noqa: F401 - guests that count

pytestmark = pytest.mark.lab

Name = Callable[[], str]


@pytest.fixture
def guest(grounds: Grounds, name: Name) -> dict[str, Any]:
    """One that counts in its memory, on kvm1."""
    words = ["--flavor", "tiny", "--image", "beat", "--host", "kvm1", "--network", "lan"]
    made: dict[str, Any] = grounds.novactl.json("boot", name(), *words)
    console_until(grounds, made, "tiny: heartbeat 3")
    return made


def now(grounds: Grounds, guest: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = grounds.novactl.json("show", guest["uuid"])
    return shown


def beats(grounds: Grounds, guest: dict[str, Any]) -> list[int]:
    told = console(grounds, now(grounds, guest))
    return [int(n) for n in re.findall(r"tiny: heartbeat (\d+)\r?$", told, re.MULTILINE)]


def counts_on(grounds: Grounds, guest: dict[str, Any], after: int) -> None:
    """Its memory is that of before: it has not booted."""
    wait_until(lambda: beats(grounds, guest)[-1:] > [after], 30, "its heart")
    told = beats(grounds, guest)
    assert told == sorted(told)


def is_there_alone(grounds: Grounds, guest: dict[str, Any], host: str, status: str = "ACTIVE") -> None:
    shown = now(grounds, guest)
    assert (shown["host"], shown["status"], shown["task_state"]) == (host, status, None)
    assert unsettled(grounds) == []
    for one in grounds.fleet.hosts:
        left = "ls -d /run/novactl-* /var/lib/novactl/trust/* /var/lib/novactl/instances/.probe-*"
        assert one.run(["sh", "-c", f"{left} 2>/dev/null"]).stdout == ""
        assert " novactl op-" not in one.run(["cat", "/root/.ssh/authorized_keys"]).stdout
        assert one.run(["pgrep", "-af", "trust/op-"]).stdout == ""  # no connection outlives its operation


def test_there_and_back(grounds: Grounds, guest: dict[str, Any]) -> None:
    """It keeps its memory, its address and its config drive; the old host keeps nothing."""
    drive = f"/var/lib/novactl/instances/{guest['uuid']}/disk.config"
    before = grounds.host("kvm1").run(["sha256sum", drive]).stdout
    for host in ("kvm2", "kvm1"):
        counted = beats(grounds, guest)[-1]
        grounds.novactl.ok("migrate", guest["name"], "--live", "--host", host)
        is_there_alone(grounds, guest, host)
        counts_on(grounds, guest, counted)
    assert grounds.host("kvm1").run(["sha256sum", drive]).stdout == before
    assert now(grounds, guest)["addresses"] == guest["addresses"]


def test_a_paused_guest_stays_paused(grounds: Grounds, guest: dict[str, Any]) -> None:
    grounds.novactl.ok("pause", guest["name"])
    counted = beats(grounds, guest)[-1]
    grounds.novactl.ok("migrate", guest["name"], "--live", "--host", "kvm2")
    assert grounds.state("kvm2", guest["uuid"]) == "paused"
    is_there_alone(grounds, guest, "kvm2", "PAUSED")
    grounds.novactl.ok("unpause", guest["name"])
    counts_on(grounds, guest, counted)


def begin(grounds: Grounds, guest: dict[str, Any], mibps: int = 2) -> Running:
    """A migration to kvm2 that takes its time, under way."""
    slow = ["migrate", guest["name"], "--live", "--host", "kvm2", "--bandwidth", str(mibps)]
    moving = Running(grounds.novactl, *slow)
    told = ["sh", "-c", "cat /var/lib/novactl/job/*/progress"]
    under_way = lambda: "remaining" in grounds.host("kvm1").run(told).stdout  # noqa: E731
    wait_until(lambda: moving.process.poll() is not None or under_way(), 60, "its progress")
    assert moving.process.poll() is None, moving.said
    return moving


def test_abort_in_the_middle(grounds: Grounds, guest: dict[str, Any]) -> None:
    moving = begin(grounds, guest)
    counted = beats(grounds, guest)[-1]
    ended = grounds.novactl.json("migrate-abort", guest["name"])
    assert ended["state"] == "undone"
    assert moving.end() == 130
    is_there_alone(grounds, guest, "kvm1")
    counts_on(grounds, guest, counted)


def test_interrupted_it_stays(grounds: Grounds, guest: dict[str, Any]) -> None:
    moving = begin(grounds, guest)
    moving.signal(signal.SIGINT)
    assert moving.end() == 130
    is_there_alone(grounds, guest, "kvm1")


@pytest.mark.parametrize("how", ["resume", "recover", "abort"])
def test_killed_it_goes_on_or_is_aborted(grounds: Grounds, guest: dict[str, Any], how: str) -> None:
    """The job needs nobody: resuming attaches to it; an abort ends it though its owner is gone."""
    moving = begin(grounds, guest)
    moving.signal(signal.SIGKILL)
    moving.end()
    op = active(grounds.novactl)
    if how == "resume":
        grounds.novactl.ok("op", "resume", op["id"], timeout=170)
        is_there_alone(grounds, guest, "kvm2")
    elif how == "recover":
        plan = grounds.novactl.json("recover", guest["name"], "--dry-run")
        assert (plan["course"], plan["operation"]) == ("finish", op["id"])
        found = {sight["where"]: sight["says"] for sight in plan["found"]}
        assert "domain is running" in found["kvm1"] and "job of step" in found["kvm1"]
        assert "domain is paused" in found["kvm2"]
        ended = grounds.novactl.ok("recover", guest["name"], timeout=170)
        assert "has lost its owner, and goes on" in ended.err
        is_there_alone(grounds, guest, "kvm2")
        assert grounds.novactl.json("recover", guest["name"])["course"] == "nothing"
    else:
        grounds.novactl.ok("migrate-abort", guest["name"])
        is_there_alone(grounds, guest, "kvm1")


def test_the_targets_guest_dies_meanwhile(grounds: Grounds, guest: dict[str, Any]) -> None:
    moving = begin(grounds, guest)
    target = grounds.host("kvm2")
    target.run(["sh", "-c", f"kill -9 $(pgrep -f '^/usr/bin/qemu.*{guest['uuid']}')"])
    assert moving.end() == 1, moving.said
    is_there_alone(grounds, guest, "kvm1")


def test_the_job_dies_before_it_resumes_the_guest(grounds: Grounds, guest: dict[str, Any]) -> None:
    """It stands still on the target and is gone from the source: whoever looks next lets it go on."""
    with gate(grounds.host("kvm1"), "virsh", " migrate ", "after") as held:
        moving = Running(grounds.novactl, "migrate", guest["name"], "--live", "--host", "kvm2")
        held.reached(moving)
        assert grounds.state("kvm2", guest["uuid"]) == "paused" and grounds.domains("kvm1") == []
        moving.signal(signal.SIGINT)  # past what can be undone
        assert moving.end() == 0, moving.said
    is_there_alone(grounds, guest, "kvm2")


@pytest.mark.parametrize("dies", ["virsh .*/libvirt$", "^ssh .*trust/op-"])
def test_what_was_to_resume_the_guest_dies(grounds: Grounds, guest: dict[str, Any], dies: str) -> None:
    """The virsh that is connected to the target before the guest stands still: the job connects another one.
    The tunnel: whoever looks next lets it go on."""
    source = grounds.host("kvm1")
    with gate(source, "virsh", " migrate ", "after") as held:
        moving = Running(grounds.novactl, "migrate", guest["name"], "--live", "--host", "kvm2")
        held.reached(moving)
        assert grounds.state("kvm2", guest["uuid"]) == "paused"
        source.run(["pkill", "-KILL", "-f", dies]).check_returncode()
    assert moving.end() == 0, moving.said
    is_there_alone(grounds, guest, "kvm2")


def test_what_is_refused_changes_nothing(grounds: Grounds, guest: dict[str, Any]) -> None:
    novactl, name = grounds.novactl, guest["name"]
    live = ["migrate", name, "--live"]
    with unchanged(grounds):
        refused(novactl, *live, "--host", "kvm1", code=5, says="is on kvm1 already")
        refused(novactl, *live, "--host", "nosuch", code=4, says="nosuch")
        refused(novactl, *live, "--shared", code=5, says="--shared is not for")
        refused(novactl, *live, "--direct", "--transport", "ssh", code=2, says="--direct goes with")
        refused(novactl, *live, "--post-copy", code=5, says="--post-copy")
        refused(novactl, *live, "--bandwidth", "0", code=2, says="--bandwidth")
        refused(novactl, *live, "--max-downtime", "0", code=2, says="--max-downtime")
        refused(novactl, "migrate-abort", name, code=5, says="no live migration")
    target = grounds.host("kvm2")
    target.run(["ip", "link", "set", "br0", "name", "br9"])
    try:
        with unchanged(grounds):
            refused(novactl, *live, "--host", "kvm2", code=5, says="has no bridge br0")
    finally:
        target.run(["ip", "link", "set", "br9", "name", "br0"])
    novactl.ok("lock", name)
    refused(novactl, *live, code=5, says="is locked")
    novactl.ok("unlock", name)
    novactl.ok("suspend", name)
    refused(novactl, *live, code=5, says="SUSPENDED")


def test_dry_run_is_what_is_journaled(grounds: Grounds, guest: dict[str, Any]) -> None:
    words = ["migrate", guest["name"], "--live", "--host", "kvm2"]
    (plan,) = grounds.novactl.json(*words, "--dry-run")
    assert {item["result"] for item in plan["preflight"]} == {"ok"}
    assert {"state", "cpu", "storage", "network", "space"} <= {item["item"] for item in plan["preflight"]}
    grounds.novactl.ok(*words)
    assert [s["name"] for s in last(grounds.novactl, guest["name"])["steps"]] == [
        s["name"] for s in plan["steps"]
    ]
