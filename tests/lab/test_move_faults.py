"""What breaks in the middle of a move: a lost reply, a daemon, a guest, the link, a full disk.
Never does a guest run twice, and never is one lost."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from novactl import lab
from tests.lab import test_live_migration
from tests.lab.conftest import Grounds
from tests.lab.support import INSTANCES, Running, active, gate, last, unsettled, wait_until
from tests.lab.test_kills import audited
from tests.lab.test_lifecycle import images  # noqa: F401 - guests that count
from tests.lab.test_live_migration import beats, begin, counts_on, is_there_alone, now

pytestmark = pytest.mark.lab

Name = Callable[[], str]
guest = test_live_migration.guest


# --- the last reply ---

FINISH = 306  # REMOTE_PROC_DOMAIN_MIGRATE_FINISH3_PARAMS
PROXY = """
import os, socket, struct, sys, threading, time
REPLY = 1
path, log, finish, kind_met = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

def whole(sock, n):
    got = b""
    while len(got) < n:
        part = sock.recv(n - len(got))
        if not part:
            raise EOFError
        got += part
    return got

def pump(source, sink):
    try:
        while True:
            length = whole(source, 4)
            message = whole(source, struct.unpack(">I", length)[0] - 4)
            program, version, procedure, kind = struct.unpack(">IIiI", message[:16])
            met = (program, procedure, kind) == (0x20008086, finish, kind_met)
            if met and not os.path.exists(log):
                open(log, "w").close()
                if kind == REPLY:
                    raise EOFError
                while os.path.exists(log):
                    time.sleep(0.05)
            sink.sendall(length + message)
    except (OSError, EOFError):
        for each in (source, sink):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen(64)
print("listening", flush=True)
while True:
    client = server.accept()[0]
    real = socket.socket(socket.AF_UNIX)
    real.connect(path + ".real")
    threading.Thread(target=pump, args=(client, real), daemon=True).start()
    threading.Thread(target=pump, args=(real, client), daemon=True).start()
"""


CALL, REPLY = 0, 1
MET = "/run/finish-met"


@contextmanager
def at_finish(host: lab.LabHost, kind: int) -> Iterator[Callable[[], bool]]:
    """In front of the host's libvirt stands one who swallows the first reply to Finish, and the connection
    with it, or holds the first call until MET is gone; gives whether that has happened."""
    path = "/run/libvirt/libvirt-sock"
    start = f"""
        cat >/run/proxy.py; rm -f {MET}; mv {path} {path}.real
        /usr/bin/python3 /run/proxy.py {path} {MET} {FINISH} {kind} >/run/proxied 2>&1 &
        echo $! >/run/proxy.pid
        timeout 20 sh -c 'until grep -q listening /run/proxied; do sleep 0.05; done'
    """
    try:
        host.run(["sh", "-c", start], stdin=PROXY).check_returncode()
        yield lambda: host.run(["test", "-e", MET]).returncode == 0
    finally:
        host.run(["sh", "-c", f"kill $(cat /run/proxy.pid); mv {path}.real {path}; rm -f {MET}"])


def test_the_finish_reply_is_lost(grounds: Grounds, guest: dict[str, Any]) -> None:
    """libvirt lets the guest go on on the source; the target's stands still and is removed."""
    with at_finish(grounds.host("kvm2"), REPLY) as lost:
        moving = Running(grounds.novactl, "migrate", guest["name"], "--live", "--host", "kvm2")
        assert moving.end() == 1, moving.said
        assert lost()
        is_there_alone(grounds, guest, "kvm1")
        counted = beats(grounds, guest)[-1]
        assert last(grounds.novactl, guest["name"])["state"] == "undone"
        grounds.novactl.ok("migrate", guest["name"], "--live", "--host", "kvm2")
    is_there_alone(grounds, guest, "kvm2")
    counts_on(grounds, guest, counted)


@pytest.mark.parametrize(("verb", "host"), [("resume", "kvm2"), ("rollback", "kvm1")])
def test_the_finish_reply_is_lost_and_nobody_sees(
    grounds: Grounds, guest: dict[str, Any], verb: str, host: str
) -> None:
    """The guest runs here and stands still there until somebody looks: then it goes again, or stays."""
    with at_finish(grounds.host("kvm2"), REPLY) as lost:
        moving = begin(grounds, guest, mibps=12)
        moving.signal(signal.SIGKILL)
        moving.end()
        wait_until(lost, 120, "the reply to be lost")
        wait_until(lambda: grounds.state("kvm1", guest["uuid"]) == "running", 30, "the source's guest")
        assert grounds.state("kvm2", guest["uuid"]) == "paused"
        grounds.novactl.ok("op", verb, active(grounds.novactl)["id"], timeout=170)
    is_there_alone(grounds, guest, host)


# --- a daemon, or the guest ---


def kill_guest(host: lab.LabHost, guest: dict[str, Any]) -> None:
    kill = f"kill -9 $(pgrep -f '^/usr/bin/qemu.*{guest['uuid']}')"
    host.run(["sh", "-c", kill]).check_returncode()


@pytest.mark.parametrize(("dies", "lives", "code"), [("kvm1", "kvm2", 0), ("kvm2", "kvm1", 1)])
def test_a_guest_dies_before_finish(
    grounds: Grounds, guest: dict[str, Any], dies: str, lives: str, code: int
) -> None:
    """All of its memory has gone over and both halves stand still: when one is killed the other goes on."""
    with at_finish(grounds.host("kvm2"), CALL) as held:
        moving = Running(grounds.novactl, "migrate", guest["name"], "--live", "--host", "kvm2")
        wait_until(held, 60, "the call of Finish")
        counted = beats(grounds, guest)[-1]
        kill_guest(grounds.host(dies), guest)
        grounds.host("kvm2").run(["rm", MET])
        assert moving.end() == code, moving.said
    is_there_alone(grounds, guest, lives)
    counts_on(grounds, guest, counted)


def test_the_targets_guest_dies_after_finish(grounds: Grounds, guest: dict[str, Any]) -> None:
    """It has moved, and is off there as after any crash."""
    with gate(grounds.host("kvm1"), "virsh", " migrate ", "after") as held:
        moving = Running(grounds.novactl, "migrate", guest["name"], "--live", "--host", "kvm2")
        held.reached(moving)
        kill_guest(grounds.host("kvm2"), guest)
    assert moving.end() == 0, moving.said
    assert grounds.domains("kvm1") == [] and grounds.state("kvm2", guest["uuid"]) == "shut off"
    assert now(grounds, guest)["power_state"] == "shutdown"
    grounds.novactl.ok("audit", "--heal", "--yes")
    assert now(grounds, guest)["status"] == "SHUTOFF"
    grounds.novactl.ok("start", guest["name"])
    is_there_alone(grounds, guest, "kvm2")


@pytest.mark.parametrize(
    ("which", "verb", "then"), [("kvm1", "resume", "kvm2"), ("kvm2", "rollback", "kvm1")]
)
def test_a_libvirtd_is_killed_meanwhile(
    grounds: Grounds, guest: dict[str, Any], which: str, verb: str, then: str
) -> None:
    """While it is dead nobody knows how the guest is there: nothing is touched. Later it moves, or stays."""
    host, moving = grounds.host(which), begin(grounds, guest, mibps=6)
    counted = beats(grounds, guest)[-1]
    host.kill_libvirtd()
    try:
        code = moving.end(150)
    finally:
        host.start_libvirtd()
    assert code == 11, moving.said
    assert grounds.novactl.json("show", guest["uuid"])["host"] == "kvm1"
    assert grounds.state("kvm1", guest["uuid"]) == "running"
    grounds.novactl.ok("op", verb, active(grounds.novactl)["id"], timeout=170)
    is_there_alone(grounds, guest, then)
    assert grounds.state(then, guest["uuid"]) == "running"
    if then == "kvm1":  # after a slow move an idle guest may hang without KVM (docs/live-migration.md)
        counts_on(grounds, guest, counted)


def test_the_sources_guest_dies_meanwhile(grounds: Grounds, guest: dict[str, Any]) -> None:
    """It is off where it was, and the half of it on the target gone."""
    moving = begin(grounds, guest)
    kill_guest(grounds.host("kvm1"), guest)
    assert moving.end() == 1, moving.said
    assert grounds.domains("kvm2") == [] and grounds.state("kvm1", guest["uuid"]) == "shut off"
    shown = grounds.novactl.json("show", guest["uuid"])
    assert (shown["host"], shown["task_state"]) == ("kvm1", None)
    grounds.novactl.ok("start", guest["name"])
    is_there_alone(grounds, guest, "kvm1")


# --- the link between the two hosts, not that of novactl ---


@contextmanager
def parted(one: lab.LabHost, other: lab.LabHost) -> Iterator[None]:
    """Nothing goes from either host to the other one."""
    for here, there in ((one, other), (other, one)):
        here.run(["ip", "route", "add", "blackhole", f"{there.address}/32"]).check_returncode()
    try:
        yield
    finally:
        for here, there in ((one, other), (other, one)):
            here.run(["ip", "route", "del", "blackhole", f"{there.address}/32"])


def test_the_link_is_cut_in_a_live_move(grounds: Grounds, guest: dict[str, Any]) -> None:
    moving = begin(grounds, guest)
    counted = beats(grounds, guest)[-1]
    with parted(grounds.host("kvm1"), grounds.host("kvm2")):
        assert moving.end(150) == 1, moving.said
        is_there_alone(grounds, guest, "kvm1")
    counts_on(grounds, guest, counted)
    grounds.novactl.ok("migrate", guest["name"], "--live", "--host", "kvm2")
    is_there_alone(grounds, guest, "kvm2")


# --- cold ---

SIZE = 96 << 20
TINY = ["--flavor", "tiny", "--image", "tiny", "--network", "lan", "--host", "kvm1"]


@pytest.fixture
def off(grounds: Grounds, name: Name) -> dict[str, Any]:
    """An instance of kvm1 that is off, with 96 MiB in its disk."""
    made: dict[str, Any] = grounds.novactl.json("boot", name(), *TINY)
    grounds.novactl.ok("stop", made["name"], "--force")
    write = ["qemu-io", "-f", "qcow2", "-c", f"write -P 0x5a 100M {SIZE}", disk_of(made)]
    grounds.host("kvm1").run(write).check_returncode()
    return made


def disk_of(instance: dict[str, Any]) -> str:
    return f"{INSTANCES}/{instance['uuid']}/disk"


def digest(grounds: Grounds, host: str, path: str) -> str:
    return grounds.host(host).run(["sha256sum", path]).stdout.split()[0]


def came(grounds: Grounds, off: dict[str, Any]) -> int:
    """Bytes of the disk that are on kvm2 in part."""
    seen = grounds.host("kvm2").run(["stat", "-c", "%s", f"{INSTANCES}/{off['uuid']}/.disk.part"])
    return int(seen.stdout or 0)


@contextmanager
def copying(grounds: Grounds, off: dict[str, Any]) -> Iterator[Running]:
    """A cold move to kvm2 that takes ten seconds, with a part of it done."""
    source, slow = grounds.host("kvm1"), "tbf rate 80mbit burst 256kb latency 100ms".split()
    source.run(["tc", "qdisc", "add", "dev", "eth0", "root", *slow]).check_returncode()
    moving = Running(grounds.novactl, "migrate", off["name"], "--host", "kvm2")
    try:
        some = lambda: moving.process.poll() is not None or came(grounds, off) > SIZE // 4  # noqa: E731
        wait_until(some, 60, "a part of the disk")
        assert moving.process.poll() is None, moving.said
        yield moving
    finally:
        source.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
        if moving.process.poll() is None:
            moving.process.kill()


def sent(grounds: Grounds) -> int:
    return int(grounds.host("kvm1").run(["cat", "/sys/class/net/eth0/statistics/tx_bytes"]).stdout)


def is_back(grounds: Grounds, off: dict[str, Any], before: str) -> None:
    shown = grounds.novactl.json("show", off["name"])
    assert (shown["host"], shown["status"], shown["task_state"]) == ("kvm1", "SHUTOFF", None)
    assert digest(grounds, "kvm1", disk_of(off)) == before
    assert unsettled(grounds) == [] and audited(grounds) == []


def has_moved(grounds: Grounds, off: dict[str, Any], before: str) -> None:
    assert grounds.novactl.json("show", off["name"])["status"] == "VERIFY_RESIZE"
    assert digest(grounds, "kvm2", disk_of(off)) == before
    grounds.novactl.ok("resize-confirm", off["name"])
    shown = grounds.novactl.json("show", off["name"])
    assert (shown["host"], shown["status"]) == ("kvm2", "SHUTOFF")
    assert unsettled(grounds) == [] and audited(grounds) == []


@pytest.mark.parametrize("verb", ["resume", "rollback"])
def test_killed_in_a_cold_copy(grounds: Grounds, off: dict[str, Any], verb: str) -> None:
    """The disk is not sent twice: what has come stays, and the job goes on."""
    before, at = digest(grounds, "kvm1", disk_of(off)), sent(grounds)
    with copying(grounds, off) as moving:
        moving.signal(signal.SIGKILL)
        moving.end()
        grounds.novactl.ok("op", verb, active(grounds.novactl)["id"], timeout=170)
    if verb == "rollback":
        is_back(grounds, off, before)
        return
    assert sent(grounds) - at < SIZE * 1.15
    has_moved(grounds, off, before)


def test_the_link_is_cut_in_a_cold_copy(grounds: Grounds, off: dict[str, Any]) -> None:
    """It comes back, and the copy goes on where it was."""
    before, at = digest(grounds, "kvm1", disk_of(off)), sent(grounds)
    with copying(grounds, off) as moving:
        with parted(grounds.host("kvm1"), grounds.host("kvm2")):
            time.sleep(18)  # ssh gives up after 15
            assert moving.process.poll() is None, moving.said
        assert moving.end(150) == 0, moving.said
    assert sent(grounds) - at < SIZE * 1.3
    has_moved(grounds, off, before)


# --- the target's disk is full ---


@contextmanager
def small(host: lab.LabHost) -> Iterator[Callable[[int], None]]:
    """The host's instances are on a file system of their own; call: it has so many bytes left, no more."""

    def leave(free: int) -> None:
        used = int(host.run(["sh", "-c", f"df --output=used -B1 {INSTANCES} | tail -n 1"]).stdout)
        host.run(["mount", "-o", f"remount,size={used + free}", INSTANCES]).check_returncode()

    host.run(["mount", "-t", "tmpfs", "-o", "size=4g,mode=755", "small", INSTANCES]).check_returncode()
    host.run(["mkdir", f"{INSTANCES}/_base"])
    try:
        yield leave
    finally:
        host.run(["umount", "-l", INSTANCES])


def test_the_disk_gets_full_in_a_cold_copy(grounds: Grounds, off: dict[str, Any]) -> None:
    before = digest(grounds, "kvm1", disk_of(off))
    with small(grounds.host("kvm2")) as leave, copying(grounds, off) as moving:
        leave(8 << 20)
        assert moving.end(120) == 1, moving.said
        assert "No space left" in moving.said or "full" in moving.said, moving.said
        assert grounds.files("kvm2") == []
    is_back(grounds, off, before)


def test_the_disk_gets_full_in_a_live_move(grounds: Grounds, guest: dict[str, Any]) -> None:
    novactl = grounds.novactl
    novactl.ok("stop", guest["name"], "--force")
    write = ["qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 100M 64M", disk_of(guest)]
    grounds.host("kvm1").run(write).check_returncode()
    grounds.host("kvm1").run(["truncate", "-s", "0", f"{INSTANCES}/{guest['uuid']}/console.log"])
    novactl.ok("start", guest["name"])
    wait_until(lambda: beats(grounds, guest), 60, "its heart")
    with small(grounds.host("kvm2")) as leave:
        moving = begin(grounds, guest, mibps=6)
        leave(4 << 20)
        assert moving.end(150) == 1, moving.said
        is_there_alone(grounds, guest, "kvm1")
        assert grounds.files("kvm2") == []
    counts_on(grounds, guest, beats(grounds, guest)[-1])
