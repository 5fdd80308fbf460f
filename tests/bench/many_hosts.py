"""Hundreds of simulated hosts over real sshd: one lab host whose loopback has as many addresses as wanted.

What stands behind their sshd is the real library in a real shell; only virsh is a stand-in that prints what
libvirt would, since hundreds of libvirt clients on this machine's few cores would be measured instead of
novactl: `own_virsh=False` has the real one. Dead hosts are addresses whose packets are dropped; slow ones let
their sshd's first word wait for 3 to 8 s. novactl runs in the lab host's network, where 127.0.0.0/8 is.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from novactl import lab
from novactl.db import hosts, instances
from novactl.db.sqlite import SqliteDatabase
from tests.support import fleet
from tests.support.command import NOVACTL, Command

PORT, SLOW_PORT = 2022, 2200
SLOWEST = 8.0

VIRSH = """#!/bin/sh
for words in "$@"; do :; done
mark=${words#*echo }
mark=${mark%%;*}
set -- $SSH_CONNECTION
read -r uuid state <"/etc/simulated/$3"
printf '%s instance-x\\n%s -   instance-x   %s\\n' "$uuid" "$mark" "$state"
"""
SSHD = """
mkdir -p /etc/simulated/bin
cat >/etc/simulated/bin/virsh
chmod 755 /etc/simulated/bin/virsh
cd /etc/simulated
sed 's|^MaxStartups.*|MaxStartups 2000:30:2000|' /etc/ssh/sshd_config >real
sed 's|PATH=|PATH=/etc/simulated/bin:|' real >own
sed -i 's|^root:x:0:0:root:/root:/bin/bash|root:x:0:0:root:/root:/bin/sh|' /etc/passwd
ip addr add 198.18.0.1/16 dev lo
iptables -A INPUT -d 198.18.0.0/16 -j DROP
"""
SLOW = f"""
import asyncio, random
async def one(reader, writer):
    await asyncio.sleep(random.Random(writer.get_extra_info("sockname")[0]).uniform(3, {SLOWEST}))
    back, forth = await asyncio.open_connection(writer.get_extra_info("sockname")[0], {PORT})
    async def pump(source, target):
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        finally:
            target.close()
    await asyncio.gather(pump(reader, forth), pump(back, writer), return_exceptions=True)
async def main():
    await (await asyncio.start_server(one, "0.0.0.0", {SLOW_PORT}, backlog=500)).serve_forever()
asyncio.run(main())
"""


class ManyHosts:
    """`count` hosts with an instance each, some `dead`, some `slow`; every tenth instance is off by now and
    ACTIVE by its record."""

    def __init__(self, fleet_: lab.Fleet, directory: Path, count: int, dead: int, slow: int) -> None:
        self.host = fleet_.hosts[0]
        self.command = Command(directory)
        self.names = [f"h{n}" for n in range(count)]
        self.dead = set(self.names[3 : 3 + dead])
        self.slow = set(self.names[-slow:]) if slow else set()
        add = ["host", "add", "kvm1", "--address", self.host.address, "--identity", str(fleet_.identity)]
        self.command.ok(*add, "--fingerprint", self.host.fingerprint)
        self._record(fleet_.identity)

    def _record(self, identity: Path) -> None:
        db = SqliteDatabase(self.command.config / "novactl.db")
        answers: dict[str, str] = {}
        with db.writing() as tx:
            keys = hosts.get(tx, "kvm1").host_keys
            for n, name in enumerate(self.names):
                address = f"{'198.18' if name in self.dead else '127.1'}.{n // 200}.{n % 200 + 1}"
                port = SLOW_PORT if name in self.slow else PORT
                hosts.add(tx, fleet.host(name, address=address, port=port, host_keys=keys, facts={}))
                instances.add(tx, fleet.instance(n + 1, host=name, name=f"web{n}"))
                answers[address] = f"{fleet.uuid(n + 1)} {'shut off' if n % 10 == 0 else 'running'}\n"
        db.close()
        identities = json.dumps(dict.fromkeys(self.names, str(identity)))
        (self.command.config / "ssh/identities.json").write_text(identities)
        self._sh(SSHD, VIRSH)
        for address, text in answers.items():
            Path(f"/proc/{self.host.pid}/root/etc/simulated/{address}").write_text(text)

    def _sh(self, script: str, stdin: str = "") -> None:
        self.host.run(["sh", "-ec", script], stdin=stdin).check_returncode()

    @contextmanager
    def answering(self, *, own_virsh: bool = True) -> Iterator[None]:
        """Their sshd runs; -r: it does not execute itself anew for each connection."""
        config = f"/etc/simulated/{'own' if own_virsh else 'real'}"
        self._sh(f"/usr/sbin/sshd -r -f {config} -p {PORT} -o PidFile=/run/simulated.pid")
        slow = subprocess.Popen([*self._inside(), sys.executable, "-c", SLOW])
        try:
            time.sleep(0.5)
            yield
        finally:
            slow.kill()
            slow.wait()
            self._sh("kill $(cat /run/simulated.pid)")

    def _inside(self) -> list[str]:
        return ["nsenter", "--target", str(self.host.pid), "--net", "--"]

    def refresh(self) -> tuple[float, float, subprocess.CompletedProcess[str]]:
        """`list --refresh` in a process of its own, cold: (seconds, its CPU seconds, how it ended)."""
        for changed in ("config", "known_hosts"):
            (self.command.config / "ssh" / changed).unlink(missing_ok=True)
        used, began = os.times(), time.perf_counter()
        ended = subprocess.run(
            [*self._inside(), NOVACTL, "list", "--refresh", "-o", "json"],
            env=self.command.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        now = os.times()
        cpu = now.children_user + now.children_system - used.children_user - used.children_system
        return time.perf_counter() - began, cpu, ended

    def server_cpu(self) -> float:
        """CPU seconds that the lab host's processes have used, those that ended too."""
        inside = os.stat(f"/proc/{self.host.pid}/ns/pid").st_ino
        return sum(_used(path) for path in Path("/proc").glob("[0-9]*") if _namespace(path) == inside)


def _namespace(path: Path) -> Any:
    try:
        return (path / "ns/pid").stat().st_ino
    except OSError:
        return None


def _used(path: Path) -> float:
    try:
        fields = (path / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
