"""What guests and the wire tell of moves: nothing is lost over many of them, nothing is sent in clear, and on
storage that two hosts share nothing is sent at all."""

import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from novactl import lab
from tests.lab import test_evacuate
from tests.lab.conftest import Grounds
from tests.lab.support import INSTANCES, console, console_until, refused, unchanged, unsettled, wait_until
from tests.lab.test_live_migration import is_there_alone
from tests.sim.effort import number

pytestmark = pytest.mark.lab

Name = Callable[[], str]
sharing = test_evacuate.sharing
MOVES = number(4, 20)

# It seldom rests: without KVM QEMU may miss what an idle guest's kernel writes (docs/live-migration.md)
COUNTER = """#!/bin/sh
dd if=/dev/urandom of=/disk/data bs=64k count=8 2>/dev/null
sync
sum=$(md5sum </disk/data)
n=0
while sleep 0.1; do
    n=$((n + 1))
    echo $n >/disk/count
    sync
    echo 3 >/proc/sys/vm/drop_caches
    if [ "$(cat /disk/count)" = $n ] && [ "$(md5sum </disk/data)" = "$sum" ]; then
        echo "tiny: count $n"
    else
        echo "tiny: lost $n"
    fi
done &
"""


def counts(grounds: Grounds, shown: dict[str, Any]) -> list[int]:
    return [int(n) for n in re.findall(r"tiny: count (\d+)\r?$", console(grounds, shown), re.MULTILINE)]


def test_a_counter_over_many_moves(grounds: Grounds, name: Name, tmp_path: Path) -> None:
    """A guest that writes and checks its disk all the time loses nothing, and never goes back."""
    novactl, web = grounds.novactl, name()
    (tmp_path / "counter").write_text(COUNTER)
    words = ["--flavor", "tiny", "--image", "tiny", "--network", "lan", "--host", "kvm1"]
    shown = novactl.json("boot", web, *words, "--user-data", str(tmp_path / "counter"))
    console_until(grounds, shown, "tiny: count 3")
    counted = 3
    for n in range(MOVES):
        novactl.ok("migrate", web, "--live", "--host", ("kvm2", "kvm1")[n % 2])
        shown = novactl.json("show", web)
        wait_until(lambda: counts(grounds, shown)[-1:] > [counted], 30, "the next count")  # noqa: B023
        told = counts(grounds, shown)
        assert told == sorted(set(told)) and "tiny: lost" not in console(grounds, shown)
        counted = told[-1]
    is_there_alone(grounds, shown, shown["host"])
    novactl.ok("stop", web, "--force")
    check = ["qemu-img", "check", "-f", "qcow2", f"{INSTANCES}/{shown['uuid']}/disk"]
    assert grounds.host(shown["host"]).run(check).returncode == 0


# --- the wire ---

WIRE = """
import os, socket, sys
marker, control, stop = sys.argv[1].encode(), sys.argv[2].encode(), sys.argv[3]
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(("eth0", 0))
wire.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
wire.settimeout(0.2)
open(stop + ".ready", "w").close()
size, seen, heard = 0, 0, 0
while not os.path.exists(stop):
    try:
        packet = wire.recv(1 << 17)
    except TimeoutError:
        continue
    size, seen, heard = size + len(packet), seen + (marker in packet), heard + (control in packet)
drops = int.from_bytes(wire.getsockopt(263, 6, 8)[4:], sys.byteorder)
print(size, seen, heard, drops)
"""


@contextmanager
def wire(host: lab.LabHost, marker: str, control: str) -> Iterator[Callable[[], tuple[int, ...]]]:
    """Everything on the host's cable is looked at; gives (bytes, packets with the marker, with the control,
    packets lost), once."""
    stop = f"/run/wire-{secrets.token_hex(4)}"
    said: list[str] = []

    def look() -> None:
        ended = host.run(["/usr/bin/python3", "-c", WIRE, marker, control, stop], timeout=300)
        said.append(ended.stdout + ended.stderr)

    def end() -> tuple[int, ...]:
        host.run(["touch", stop])
        thread.join(60)
        return tuple(map(int, said[0].split()))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    wait_until(lambda: host.run(["test", "-e", f"{stop}.ready"]).returncode == 0, 20, "the capture")
    try:
        yield end
    finally:
        host.run(["touch", stop])


def say(grounds: Grounds, words: str) -> None:
    """From kvm1 to kvm2, in clear."""
    target = grounds.host("kvm2").address
    code = "import socket, sys; s = socket.socket(2, 2); s.sendto(sys.argv[1].encode(), (sys.argv[2], 9))"
    grounds.host("kvm1").run(["/usr/bin/python3", "-c", code, words, target]).check_returncode()


def test_nothing_goes_in_clear(grounds: Grounds, name: Name, tmp_path: Path) -> None:
    novactl, web, source = grounds.novactl, name(), grounds.host("kvm1")
    marker, control = (secrets.token_hex(8) for _ in range(2))
    (tmp_path / "user-data").write_text(
        f"#!/bin/sh\ni=0; while [ $i -lt 20000 ]; do echo {marker}; i=$((i + 1)); done >/tmp/marker\n"
    )
    words = ["--flavor", "tiny", "--image", "tiny", "--network", "lan", "--host", "kvm1"]
    shown = novactl.json("boot", web, *words, "--user-data", str(tmp_path / "user-data"))
    console_until(grounds, shown, "tiny: ready")
    novactl.ok("stop", web, "--force")
    (source.directory / "disk/root/marker").write_text(f"{marker}\n" * 100_000)
    write = ["qemu-io", "-f", "qcow2", "-c", "write -s /root/marker 100M 1M"]
    disk = f"{INSTANCES}/{shown['uuid']}/disk"
    source.run([*write, disk]).check_returncode()
    assert source.run(["grep", "-qa", marker, disk]).returncode == 0
    novactl.ok("start", web)
    wait_until(lambda: console(grounds, shown).count("tiny: ready") > 1, 60, "its second start")
    dump = ["virsh", "dump", "--live", "--memory-only", shown["uuid"], "/run/memory"]
    source.run(dump).check_returncode()
    assert source.run(["grep", "-qa", marker, "/run/memory"]).returncode == 0
    source.run(["rm", "-f", "/run/memory", "/root/marker"])
    with wire(source, marker, control) as seen:
        say(grounds, f"xx{control}xx")
        novactl.ok("migrate", web, "--live", "--host", "kvm2")
        novactl.ok("stop", web, "--force")
        novactl.ok("migrate", web, "--host", "kvm1", "--confirm")
        size, marked, heard, lost = seen()
    assert (marked, lost) == (0, 0) and heard and size > 16 << 20


# --- storage that two hosts share ---


@pytest.mark.long
def test_shared_storage_moves_no_disk(sharing: Grounds) -> None:
    """Live and cold, confirmed or reverted, the disk stays the same file; and unfit targets are refused."""
    novactl, web = sharing.novactl, "web"
    made = novactl.json("boot", web, *test_evacuate.TINY)
    console_until_shared(sharing, made)
    inode = ["stat", "-c", "%i", f"{test_evacuate.SHARED}/{made['uuid']}/disk"]
    before = sharing.host("kvm1").run(inode).stdout
    live = ["migrate", web, "--live", "--host", "kvm2"]
    refused(novactl, *live, "--block", code=5, says="--block")
    novactl.ok("host", "set", "kvm2", "--disable", "--reason", "fans")
    refused(novactl, *live, code=5, says="disabled")
    refused(novactl, "migrate", web, "--host", "kvm2", code=5, says="disabled")
    novactl.ok("host", "set", "kvm2", "--enable")
    novactl.ok(*live)
    at(sharing, made, "kvm2", "ACTIVE", "running")
    for end, host in (("resize-revert", "kvm2"), ("resize-confirm", "kvm1")):
        novactl.ok("migrate", web, "--host", "kvm1")
        at(sharing, made, "kvm1", "VERIFY_RESIZE", "running")
        novactl.ok(end, web)
        at(sharing, made, host, "ACTIVE", "running")
    assert sharing.host("kvm1").run(inode).stdout == before
    novactl.ok("delete", web, "--yes")


def console_until_shared(grounds: Grounds, made: dict[str, Any]) -> None:
    path = f"{test_evacuate.SHARED}/{made['uuid']}/console.log"
    ready = ["grep", "-q", "tiny: ready", path]
    wait_until(lambda: grounds.host(made["host"]).run(ready).returncode == 0, 60, "its console")


def at(grounds: Grounds, made: dict[str, Any], host: str, status: str, state: str) -> None:
    shown = grounds.novactl.json("show", made["name"])
    assert (shown["host"], shown["status"], shown["task_state"]) == (host, status, None)
    for one in grounds.fleet.hosts:
        assert grounds.domains(one.name) == ([made["uuid"]] if one.name == host else [])
    assert grounds.state(host, made["uuid"]) == state
    assert [row for row in grounds.novactl.json("audit") if row["severity"] != "info"] == []


# --- targets that are refused ---


def test_targets_that_are_refused(grounds: Grounds, name: Name) -> None:
    novactl, web = grounds.novactl, name()
    words = ["--flavor", "tiny", "--image", "tiny", "--network", "lan", "--host", "kvm1"]
    novactl.ok("boot", web, *words)
    moves = (["migrate", web, "--live", "--host", "kvm2"], ["migrate", web, "--host", "kvm2"])
    for off, on, says in (
        (["--disable", "--reason", "fans"], ["--enable"], "disabled"),
        (["--memory-ratio", "0.001"], ["--memory-ratio", "1"], "memory"),
    ):
        novactl.ok("host", "set", "kvm2", *off)
        try:
            with unchanged(grounds):
                for move in moves:
                    refused(novactl, *move, code=5, says=says)
        finally:
            novactl.ok("host", "set", "kvm2", *on)
    novactl.ok("suspend", web)
    with unchanged(grounds):
        for move in moves:
            refused(novactl, *move, code=5, says="SUSPENDED")
    assert unsettled(grounds) == []
