"""Ctrl-C, kill -9 and a cut link at chosen instants of real operations: undone, or finished by another."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab.conftest import Grounds
from tests.lab.support import (
    INSTANCES,
    MIB,
    Running,
    active,
    gate,
    last,
    nothing_left,
    refused,
    step,
    unchanged,
    wait_until,
)

pytestmark = pytest.mark.lab

TINY = ["--flavor", "tiny", "--image", "tiny", "--network", "lan"]
DEAF = ["--flavor", "tiny", "--image", "deaf", "--network", "lan"]
SIZE = 64 * MIB


@pytest.fixture(scope="module")
def big(_grounds: Grounds, tmp_path_factory) -> Iterator[dict[str, Any]]:
    """An image that takes seconds to arrive: random bytes, nothing to compress and no hole."""
    disk = tmp_path_factory.mktemp("big") / "big.raw"
    disk.write_bytes(os.urandom(SIZE))
    yield _grounds.novactl.json("image", "add", "big", "--file", str(disk), "--format", "raw")
    _grounds.novactl.ok("image", "delete", "big", "--yes")


@contextmanager
def transfer(grounds: Grounds, big: dict[str, Any], web: str) -> Iterator[Running]:
    """A boot on kvm2 whose image is a third there, over a link so slow that the rest takes ten seconds."""
    link = grounds.host("kvm2").lab.link
    grounds.host("kvm2").run(["sh", "-c", f"rm -f {INSTANCES}/_base/{big['sha256']}*"])
    slow = "tbf rate 35mbit burst 256kb latency 100ms".split()
    subprocess.run(["tc", "qdisc", "add", "dev", link, "root", *slow], check=True)
    words = ["--flavor", "tiny", "--image", "big", "--network", "lan", "--host", "kvm2"]
    running = Running(grounds.novactl, "boot", web, *words)
    try:
        wait_until(lambda: arrived(grounds, big) > SIZE // 3, 60, "a third of the image")
        yield running
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", link, "root"], check=True)
        if running.process.poll() is None:
            running.process.kill()


@pytest.fixture
def arriving(grounds: Grounds, big, name) -> Iterator[Running]:
    with transfer(grounds, big, name()) as running:
        yield running


def arrived(grounds: Grounds, image: dict[str, Any]) -> int:
    """How many bytes of an image are on kvm2 in part; 0 once it is whole."""
    seen = grounds.host("kvm2").run(["stat", "-c", "%s", f"{INSTANCES}/_base/.{image['sha256']}.part"])
    return int(seen.stdout or 0)


@contextmanager
def held(grounds: Grounds, words: list[str], at: str, when: str = "before") -> Iterator[tuple[Running, Any]]:
    """A command on an instance of kvm1 that stands still where virsh does what `at` says."""
    with gate(grounds.host("kvm1"), "virsh", at, when) as still:
        running = Running(grounds.novactl, *words)
        still.reached(running)
        yield running, still
        if running.process.poll() is None:
            running.process.kill()


# --- Ctrl-C ---


@pytest.mark.parametrize(
    ("number", "at", "when"),
    [
        (signal.SIGINT, "define", "before"),
        (signal.SIGTERM, "start", "before"),
        (signal.SIGHUP, "start", "after"),
    ],
)
def test_an_interrupted_boot_is_undone(grounds: Grounds, name, number, at, when):
    web = name()
    with unchanged(grounds), held(grounds, ["boot", web, *TINY, "--host", "kvm1"], at, when) as (boot, still):
        boot.signal(number)
        boot.until("interrupted: undoing")
        still.open()
        assert boot.end() == 130
        assert f"error: boot of {web}: interrupted" in boot.said
    done = last(grounds.novactl, web)
    assert done["state"] == "undone" and "interrupted" in done["error"]
    assert {s["state"] for s in done["steps"]} <= {"undone", "pending"}
    nothing_left(grounds)


def test_what_arrived_of_an_interrupted_transfer_is_kept(grounds: Grounds, arriving, big, name):
    before = time.monotonic()
    arriving.signal(signal.SIGINT)
    assert arriving.end() == 130 and time.monotonic() - before < 20
    nothing_left(grounds)
    here, web = arrived(grounds, big), name()
    assert SIZE // 4 < here < SIZE
    grounds.novactl.ok("boot", web, "--flavor", "tiny", "--image", "big", "--host", "kvm2")
    fetched = step(last(grounds.novactl, web), "fetch-base")["result"]
    assert not fetched["cached"] and 0 < fetched["resumed_from"] <= here
    path = f"{INSTANCES}/_base/{big['sha256']}"
    assert grounds.host("kvm2").run(["sha256sum", path]).stdout.split()[0] == big["sha256"]
    assert arrived(grounds, big) == 0
    grounds.novactl.ok("delete", web, "--yes")


@pytest.mark.parametrize("seconds", [0, 0.25, 0.6])
def test_a_boot_interrupted_at_any_time_is_undone_or_done(grounds: Grounds, name, seconds):
    web = name()
    before = grounds.novactl.json("list")
    boot = Running(grounds.novactl, "boot", web, "--flavor", "tiny", "--image", "deaf")
    boot.until("no --network given")
    time.sleep(seconds)
    boot.signal(signal.SIGINT)
    code = boot.end()
    assert code in (0, 130), boot.said
    if code == 130:
        assert grounds.novactl.json("list") == before == []
        nothing_left(grounds)
    else:
        assert grounds.novactl.json("show", web)["status"] == "ACTIVE"


def test_an_interrupted_stop_leaves_the_guest_running(grounds: Grounds, name):
    deaf, novactl = name(), grounds.novactl
    made = novactl.json("boot", deaf, *DEAF, "--host", "kvm1")
    with held(grounds, ["stop", deaf], "shutdown", "after") as (stop, still):
        still.open()
        time.sleep(1)
        stop.signal(signal.SIGINT)
        assert stop.end(20) == 130
    assert grounds.state("kvm1", made["uuid"]) == "running"
    shown = novactl.json("show", deaf)
    assert (shown["status"], shown["task_state"]) == ("ACTIVE", None)
    assert novactl.json("op", "list", "--active") == []


def test_a_delete_goes_on_to_its_end(grounds: Grounds, name):
    web, novactl = name(), grounds.novactl
    novactl.ok("boot", web, *DEAF, "--host", "kvm1")
    with held(grounds, ["delete", web, "--yes"], "undefine") as (delete, still):
        delete.signal(signal.SIGINT)
        still.open()
        assert delete.end() == 0
    nothing_left(grounds)


def test_an_interrupted_image_add_leaves_nothing(grounds: Grounds, name, tmp_path):
    disk, incoming = tmp_path / "disk", grounds.novactl.config / "images/.incoming"
    with disk.open("wb") as file:
        file.truncate(4 << 30)
    with unchanged(grounds):
        add = Running(grounds.novactl, "image", "add", name(), "--file", str(disk), "--format", "raw")
        wait_until(lambda: list(incoming.iterdir()), 30, "the copy to begin")
        add.signal(signal.SIGINT)
        assert add.end(20) == 130


def test_a_wait_ends_at_once(grounds: Grounds, name):
    web, novactl = name(), grounds.novactl
    novactl.ok("boot", web, *DEAF)
    waiting = Running(novactl, "wait", web, "deleted")
    time.sleep(1.5)
    waiting.signal(signal.SIGINT)
    assert waiting.end(5) == 130
    assert novactl.json("show", web)["status"] == "ACTIVE"


def test_an_interrupted_boot_of_several_is_undone_as_a_whole(grounds: Grounds, name):
    base, novactl = name(), grounds.novactl
    words = ["boot", base, *TINY, "--host", "kvm1", "--count", "3"]
    with unchanged(grounds), held(grounds, words, "start") as (boot, still):
        boot.signal(signal.SIGINT)
        boot.until("interrupted: undoing")
        still.open()
        assert boot.end() == 130
        assert "3 of 3 failed" in boot.said
    parent = last(novactl, "3 instances")
    assert parent["state"] == "undone" and {c["state"] for c in parent["children"]} == {"undone"}
    nothing_left(grounds)


# --- left half way: a second signal, kill -9 ---


@pytest.mark.parametrize("verb", ["rollback", "resume"])
def test_a_second_signal_stops_at_once_and_the_journal_covers_it(grounds: Grounds, name, verb):
    web, novactl = name(), grounds.novactl
    before = time.monotonic()
    with held(grounds, ["boot", web, *TINY, "--host", "kvm1"], "start", "after") as (boot, _):
        boot.signal(signal.SIGINT)
        boot.until("interrupted: undoing")
        boot.signal(signal.SIGINT)
        assert boot.end(5) == 11 and "op list --active" in boot.said
    left = active(novactl)
    assert left["kind"] == "boot" and step(left, "start-domain")["state"] == "started"
    novactl.ok("op", verb, left["id"])
    assert time.monotonic() - before < 60
    if verb == "resume":
        made = novactl.json("show", web)
        assert made["status"] == "ACTIVE" and grounds.domains("kvm1") == [made["uuid"]]
        assert grounds.state("kvm1", made["uuid"]) == "running"
        refused(novactl, "op", "resume", left["id"], code=5, says="is done already")
        novactl.ok("delete", web, "--yes")
    else:
        assert last(novactl, web)["state"] == "undone"
        refused(novactl, "op", "rollback", left["id"], code=5, says="is undone already")
    nothing_left(grounds)


@pytest.mark.parametrize(("at", "verb"), [("define", "resume"), ("start", "rollback")])
def test_a_killed_boot_is_ended_by_another_run(grounds: Grounds, name, at, verb):
    web, novactl = name(), grounds.novactl
    with held(grounds, ["boot", web, *TINY, "--host", "kvm1"], at) as (boot, _):
        boot.signal(signal.SIGKILL)
        assert boot.end() == -signal.SIGKILL
        left = active(novactl)
        refused(novactl, "op", "wait", left["id"], code=11, says="owner is gone", hint="op resume")
        assert novactl.json("show", web)["status"] == "BUILD"
    novactl.ok("op", verb, left["id"])
    if verb == "resume":
        made = novactl.json("show", web)
        assert made["status"] == "ACTIVE" and grounds.state("kvm1", made["uuid"]) == "running"
        novactl.ok("delete", web, "--yes")
    nothing_left(grounds)


def test_a_killed_transfer_is_resumed_where_it_was(grounds: Grounds, arriving, big):
    novactl = grounds.novactl
    arriving.signal(signal.SIGKILL)
    arriving.end()
    here, left = arrived(grounds, big), active(novactl)
    novactl.ok("op", "resume", left["id"])
    done = novactl.json("op", "show", left["id"])
    fetched = step(done, "fetch-base")["result"]
    assert done["state"] == "done" and not fetched["cached"] and SIZE // 4 <= fetched["resumed_from"] <= here
    assert novactl.json("show", done["target"])["status"] == "ACTIVE"
    novactl.ok("delete", done["target"], "--yes")


def test_a_killed_delete_only_goes_forward(grounds: Grounds, name):
    web, novactl = name(), grounds.novactl
    novactl.ok("boot", web, *DEAF, "--host", "kvm1")
    with held(grounds, ["delete", web, "--yes"], "undefine") as (delete, _):
        delete.signal(signal.SIGKILL)
        delete.end()
    left = active(novactl)
    back = ["op", "rollback", left["id"]]
    refused(novactl, *back, code=5, says="point of no return", hint=f"op resume {left['id']}")
    novactl.ok("op", "resume", left["id"])
    nothing_left(grounds)


def test_an_operation_whose_owner_lives_is_left_alone(grounds: Grounds, name):
    web, novactl = name(), grounds.novactl
    with held(grounds, ["boot", web, *TINY, "--host", "kvm1"], "start") as (boot, still):
        found = active(novactl)
        owner = f"pid {boot.process.pid}"
        assert owner in found["owner"]
        for verb in ("resume", "rollback"):
            busy = refused(novactl, "op", verb, found["id"], code=6, says=found["id"])
            assert owner in busy.error["message"] and " since 2" in busy.error["message"]
        still.open()
        assert boot.end() == 0
    novactl.ok("delete", web, "--yes")
    nothing_left(grounds)


# --- the link ---


def test_a_cut_link_ends_what_went_over_it(grounds: Grounds, big, name):
    """At once: a transfer to kvm2, which leaves nothing to undo there, and a boot on kvm1 that has made
    something, which only a host that answers can undo. The one that stands still begins first, so that the
    link is cut while the other is under way."""
    novactl, hosts, web = grounds.novactl, (grounds.host("kvm1"), grounds.host("kvm2")), name()
    standing = held(grounds, ["boot", web, *TINY, "--host", "kvm1"], "start")
    with standing as (boot, _), transfer(grounds, big, name()) as arriving:
        began = time.monotonic()
        for host in hosts:
            host.cut()
        try:
            transferred, made = arriving.end(60), boot.end(60)
            assert time.monotonic() - began < 60
        finally:
            for host in hosts:
                host.mend()
        assert transferred == 1 and "error: boot of " in arriving.said and ": kvm2: " in arriving.said
        left = active(novactl)
        assert made == 11 and (left["target"], left["state"]) == (web, "incomplete")
        assert "kvm1: " in boot.said and f"op rollback {left['id']}" in boot.said
    novactl.ok("op", "rollback", left["id"])
    nothing_left(grounds)
    novactl.ok("boot", web, "--flavor", "tiny", "--image", "big", "--host", "kvm2")
    assert step(last(novactl, web), "fetch-base")["result"]["resumed_from"] > 0
    novactl.ok("delete", web, "--yes")
