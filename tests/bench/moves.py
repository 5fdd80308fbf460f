"""Moves of a guest between two lab hosts: by novactl, and by a script that an operator would write with virsh
and ssh, which has a key between the hosts for ever."""

import os
import select
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from novactl.lab import LabHost
from tests.bench.harness import timed
from tests.lab.conftest import Grounds
from tests.support.command import NOVACTL

INSTANCES = "/var/lib/novactl/instances"
KEY = "/root/.ssh/raw"
SSH = f"ssh -i {KEY} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"

LIVE = f"""set -e
uuid=$1 target=$2 sockets=/run/raw-$$ files={INSTANCES}/$1
base=$(basename "$(readlink -f {INSTANCES}/_base)"/"$3")
tar -C "$files" -c disk.config disk.info libvirt.xml console.log | {SSH} "$target" "
  mkdir -p $files && tar -C $files -x && cd $files &&
  qemu-img create -q -f qcow2 -F raw -b ../_base/$base disk $4 &&
  mkdir -p $sockets && chown libvirt-qemu:libvirt-qemu $sockets"
mkdir -p $sockets
{SSH} -N -o ExitOnForwardFailure=yes -L $sockets/libvirt:/run/libvirt/libvirt-sock \\
  -L $sockets/memory:$sockets/memory -L $sockets/disks:$sockets/disks "$target" &
tunnel=$!
trap 'kill $tunnel || true' EXIT  # else it keeps the output open for ever
until [ -S $sockets/disks ]; do sleep 0.05; done
chown libvirt-qemu:libvirt-qemu $sockets/memory $sockets/disks
virsh -q migrate "$uuid" --desturi "qemu+unix:///system?socket=$sockets/libvirt" --live --p2p --suspend \\
  --persistent --undefinesource --abort-on-error --migrateuri unix://$sockets/memory \\
  --copy-storage-inc --migrate-disks vda --disks-uri unix://$sockets/disks
virsh -q -c "qemu+unix:///system?socket=$sockets/libvirt" resume "$uuid"
rm -r "$sockets" "$files"
"""
"""sh on the source: uuid, target's address, name of the base file, size of the disk in bytes."""

COLD = f"""set -e
cat {INSTANCES}/$1/disk | {SSH} -o Ciphers=aes128-gcm@openssh.com "$2" "
  cat >{INSTANCES}/copied && sync {INSTANCES}/copied"
"""
"""The same for the bytes of a disk alone: what the link gives."""

RSYNC = f"""cd {INSTANCES}
exec rsync --sparse --fsync -e "{SSH} -o Ciphers=aes128-gcm@openssh.com" "$1/disk" "$2:{INSTANCES}/copied"
"""
"""What leaves out holes and compares checksums, as novactl does."""


@dataclass
class Pair:
    """A lab of two hosts and a guest that goes back and forth between them."""

    grounds: Grounds
    guest: dict[str, Any]
    base: str
    gaps: dict[str, list[float]] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The host that it is on, by virsh."""
        return next(name for name in ("kvm1", "kvm2") if self.guest["uuid"] in self.grounds.domains(name))

    @property
    def way(self) -> tuple[LabHost, LabHost]:
        here = self.where
        return self.grounds.host(here), self.grounds.host("kvm2" if here == "kvm1" else "kvm1")

    def trust(self) -> None:
        """root of each host may log in on the other with a key that stays."""
        hosts = [self.grounds.host(name) for name in ("kvm1", "kvm2")]
        for host in hosts:
            made = host.run(
                ["sh", "-c", f"[ -e {KEY} ] || ssh-keygen -q -t ed25519 -N '' -f {KEY}; cat {KEY}.pub"]
            )
            for other in hosts:
                if other is not host:
                    line = made.stdout.strip()
                    other.run(["sh", "-c", f"echo '{line}' >>/root/.ssh/authorized_keys"])

    def by_novactl(self, *words: str) -> float:
        _, there = self.way
        argv = [NOVACTL, "migrate", self.guest["name"], "--host", there.name, *words]
        return timed(argv, self.grounds.novactl.environment)[0]

    def live(self) -> float:
        with self._watched("novactl"):
            return self.by_novactl("--live")

    def raw_live(self) -> float:
        """By the script; the record is told afterwards, and not measured."""
        here, there = self.way
        size = str(self.guest["disk_gib"] << 30)
        with self._watched("raw"):
            began = time.perf_counter()
            ended = here.run(["sh", "-c", LIVE, "-", self.guest["uuid"], there.address, self.base, size])
            seconds = time.perf_counter() - began
        assert ended.returncode == 0, ended.stderr
        healed = self.grounds.novactl("audit", "--heal", "--yes")
        assert healed.code == 0, healed.out + healed.err
        return seconds

    def streamed(self, script: str = COLD) -> float:
        """The disk of the guest, which is off, to a file on the other host."""
        here, there = self.way
        began = time.perf_counter()
        ended = here.run(["sh", "-c", script, "-", self.guest["uuid"], there.address])
        seconds = time.perf_counter() - began
        assert ended.returncode == 0, ended.stderr
        assert there.run(["rm", f"{INSTANCES}/copied"]).returncode == 0
        return seconds

    @contextmanager
    def _watched(self, name: str) -> Iterator[None]:
        address = self.guest["addresses"]["lan"][0]["ip"]
        with Pinging(address, self._wake) as pinging:
            yield
            time.sleep(0.5)
        self.gaps.setdefault(name, []).append(pinging.longest())

    def _wake(self) -> None:
        """An idle guest of a QEMU without KVM may sleep on after a move until its monitor is asked
        (docs/live-migration.md)."""
        here, _ = self.way
        asked = ["virsh", "qemu-monitor-command", self.guest["uuid"], "--hmp", "info status"]
        assert here.run(asked).returncode == 0

    def gap(self, name: str) -> float:
        return statistics.median(self.gaps[name])


class Pinging:
    """Echo requests to an address each 10 ms while the block runs: the longest silence is the downtime that
    others see. `wake` is called for one that does not answer for a while before that."""

    EVERY = 0.01

    def __init__(self, address: str, wake: Callable[[], None]) -> None:
        self.address, self.wake = address, wake
        self.heard: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Pinging":
        self._thread.start()
        began = time.monotonic()
        while not self.heard:
            waited = time.monotonic() - began
            assert waited < 60, f"{self.address} does not answer"
            if waited > 5:
                self.wake()
            time.sleep(0.05 if waited < 5 else 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def longest(self) -> float:
        return max(after - before for before, after in zip(self.heard, self.heard[1:], strict=False))

    def _run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as pinger:
            pinger.connect((self.address, 0))
            number = 0
            while not self._stop.is_set():
                number = (number + 1) & 0xFFFF
                pinger.send(_echo(os.getpid() & 0xFFFF, number))
                until = time.monotonic() + self.EVERY
                while (left := until - time.monotonic()) > 0:
                    if select.select([pinger], [], [], left)[0] and pinger.recv(2048)[20] == 0:
                        self.heard.append(time.monotonic())


def _echo(ident: int, number: int) -> bytes:
    """An ICMP echo request (RFC 792)."""
    body = struct.pack("!BBHHH", 8, 0, 0, ident, number)
    total = sum(struct.unpack("!4H", body))
    total = (total >> 16) + (total & 0xFFFF)
    return body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]


def filled(grounds: Grounds, guest: dict[str, Any], mib: int, at_mib: int = 0) -> None:
    """Its disk holds so much of its own that does not compress, from there on; it must be off."""
    host = grounds.host(guest["host"])
    script = (
        f"cd {INSTANCES}/{guest['uuid']} && head -c {mib}M /dev/urandom >/tmp/noise &&"
        f" qemu-io -f qcow2 -c 'write -s /tmp/noise {at_mib}M {mib}M' disk >/dev/null && rm /tmp/noise"
    )
    ended = host.run(["sh", "-c", script])
    assert ended.returncode == 0, ended.stderr
