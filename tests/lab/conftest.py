"""Real hypervisors for the lab tests: one lab for the whole run, enrolled as a user would."""

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from novactl import lab
from novactl.db import hosts, instances, operations
from novactl.db.session import Tx
from novactl.db.sqlite import SqliteDatabase
from novactl.lab import guests
from tests.support.command import Command

HOSTS = 3
T = TypeVar("T")


@dataclass
class Grounds:
    """The lab's fleet and a novactl that has enrolled it. `kvm3` has a small instance disk only in tests
    that make their own lab."""

    fleet: lab.Fleet
    novactl: Command

    def host(self, name: str) -> lab.LabHost:
        return self.fleet.host(name)

    def add_words(self, name: str) -> list[str]:
        """`host add` for a lab host, as `lab up` prints it."""
        host = self.host(name)
        words = ["host", "add", name, "--address", host.address, "--identity", str(self.fleet.identity)]
        return [*words, "--fingerprint", host.fingerprint]

    def domains(self, name: str) -> list[str]:
        """uuids of all domains on a host, by virsh there."""
        ended = self.host(name).run(["virsh", "-q", "list", "--all", "--uuid"])
        return [line.strip() for line in ended.stdout.splitlines() if line.strip()]

    def state(self, name: str, instance: str) -> str:
        return self.host(name).run(["virsh", "domstate", instance]).stdout.strip()

    def files(self, name: str) -> list[str]:
        """What lies beside `_base` in a host's instance directory."""
        ended = self.host(name).run(["ls", "-A", "/var/lib/novactl/instances"])
        return sorted(set(ended.stdout.split()) - {"_base"})

    def leftovers(self) -> dict[str, list[str]]:
        """Domains and files on every host; empty when nothing is left."""
        found = {host.name: self.domains(host.name) + self.files(host.name) for host in self.fleet.hosts}
        return {name: left for name, left in found.items() if left}


def enrol(fleet: lab.Fleet, config: Path) -> Grounds:
    """A new novactl configuration with every host of the lab, the tiny image, flavors and a network."""
    grounds = Grounds(fleet, Command(config))
    for host in fleet.hosts:
        grounds.novactl.ok(*grounds.add_words(host.name))
        grounds.novactl.ok("host", "set", host.name, "--cpu-ratio", "32")
    weighers = config / "weighers.yaml"
    weighers.write_text(
        "weighers: {disk: 0}\n"
    )  # one disk is all hosts': what is free of it differs by chance
    grounds.novactl.ok("inventory", "apply", str(weighers), "--yes")
    tiny = guests.tiny()
    kernel = ["--kernel", str(tiny.kernel), "--initrd", str(tiny.initrd)]
    image = ["image", "add", "tiny", "--file", str(tiny.disk), "--format", "raw", *kernel]
    grounds.novactl.ok(*image, "--cmdline", tiny.cmdline)
    grounds.novactl.ok("image", "add", "deaf", *image[3:], "--cmdline", f"{tiny.cmdline} tiny.noacpi")
    grounds.novactl.ok("flavor", "create", "tiny", "--vcpus", "1", "--memory", "96", "--disk", "1")
    network = ["--cidr", fleet.network, "--gateway", fleet.gateway, "--bridge", "br0"]
    grounds.novactl.ok("network", "create", "lan", *network)
    return grounds


@pytest.fixture(scope="session")
def _grounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    name = f"t{os.getpid() % 1000000}"
    lab.down(name)
    fleet = lab.up(name, HOSTS)
    try:
        yield enrol(fleet, tmp_path_factory.mktemp("novactl"))
    finally:
        lab.down(name)


@pytest.fixture
def grounds(_grounds: Grounds) -> Iterator[Grounds]:
    """The shared lab; what operations a test leaves are ended, what instances deleted, and then nothing may
    be left. A host that an earlier test had down, or fail, is up and well again by the record too."""
    novactl = _grounds.novactl
    if any(host.state != "up" or host.failed_builds for host in recorded(_grounds, hosts.everything)):
        novactl("host", "check")
    yield _grounds
    for host in _grounds.fleet.hosts:
        if not host.alive():
            host.start()
    if recorded(_grounds, lambda tx: operations.listed(tx, active=True)):
        novactl("op", "resume", "--all")
    if left := [one.name for one in recorded(_grounds, instances.everything) if one.project == "default"]:
        novactl.ok("delete", *left, "--yes")
    assert _grounds.leftovers() == {}


def recorded(grounds: Grounds, look: Callable[[Tx], T]) -> T:
    """What the database has, without the start of a novactl."""
    db = SqliteDatabase(grounds.novactl.config / "novactl.db")
    try:
        return db.read(look)
    finally:
        db.close()


@pytest.fixture
def name() -> Callable[[], str]:
    """Names that no other test uses."""
    return lambda: f"i{uuid.uuid4().hex[:8]}"


@pytest.fixture
def address(_grounds: Grounds) -> Callable[[int], str]:
    """The n-th address of the lab's network, beyond those of its hosts."""
    return lambda n: f"{_grounds.fleet.network.rpartition('.')[0]}.{100 + n}"
