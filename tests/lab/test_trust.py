"""Trust between two hosts: one operation's key does the one thing it is for, from one address, and goes."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from novactl.cloud import Cloud
from novactl.db import hosts
from novactl.errors import HostFault
from novactl.settings import Settings
from tests.lab.conftest import Grounds

pytestmark = pytest.mark.lab

OP = "op-0abc"
KEYS = "/root/.ssh/authorized_keys"


@contextmanager
def opened(grounds: Grounds) -> Iterator[Cloud]:
    made = Cloud(Settings(config=grounds.novactl.config), tell=print)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def trusting(grounds: Grounds, *receives: str, seconds: int = 600) -> Iterator[Cloud]:
    """kvm1 gets in at kvm2 under a key of OP."""
    with opened(grounds) as made:
        source, target = made.hypervisor("kvm1"), made.hypervisor("kvm2")
        where = made.db.read(lambda tx: hosts.get(tx, "kvm2"))
        came_from, key = source.trust_key(OP, where.address)
        try:
            target.trust_allow(OP, key, came_from, seconds, receives=receives)
            source.trust_to(OP, where.address, where.port, where.host_keys)
            yield made
        finally:
            source.trust_end(OP)
            target.trust_end(OP)


def ssh(grounds: Grounds, *words: str, after: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """What the source's root can do with the key and any options of his own."""
    base = f"/var/lib/novactl/trust/{OP}"
    options = ["-F", "none", "-i", f"{base}/key", "-o", f"UserKnownHostsFile={base}/known_hosts"]
    options += ["-o", "HostKeyAlias=target", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]
    return grounds.host("kvm1").run(["ssh", *options, *words, grounds.host("kvm2").address, *after])


def test_a_key_that_forwards_runs_nothing_and_leaves_nothing(grounds: Grounds) -> None:
    before = grounds.host("kvm2").run(["cat", KEYS]).stdout
    with trusting(grounds) as made:
        made.hypervisor("kvm1").trust_try(OP)
        line = grounds.host("kvm2").run(["cat", KEYS]).stdout.removeprefix(before)
        assert line.startswith('restrict,from="') and 'port-forwarding,command="/bin/false"' in line
        assert line.rstrip().endswith(f" novactl {OP}")
        ran = ssh(grounds, after=["id"])
        assert (ran.returncode, ran.stdout) == (1, "")
        assert made.hypervisor("kvm1").trusts() == [OP] == made.hypervisor("kvm2").trusts()
    assert grounds.host("kvm2").run(["cat", KEYS]).stdout == before
    for name in ("kvm1", "kvm2"):
        assert grounds.host(name).run(["ls", "/var/lib/novactl/trust"]).stdout == ""


def test_a_key_that_receives_carries_out_its_one_call(grounds: Grounds) -> None:
    with trusting(grounds, "echo", "received") as made:
        made.hypervisor("kvm1").trust_try(OP)
        assert "received" in ssh(grounds).stdout
        forwarding = ssh(grounds, "-N", "-o", "ExitOnForwardFailure=yes", "-R", "/run/x:/run/y")
        assert forwarding.returncode == 255


def test_a_key_that_has_expired_lets_nobody_in(grounds: Grounds) -> None:
    with trusting(grounds, seconds=-60) as made, pytest.raises(HostFault, match="does not let it in"):
        made.hypervisor("kvm1").trust_try(OP)


def test_another_host_key_is_refused(grounds: Grounds) -> None:
    with trusting(grounds) as made:
        source = made.hypervisor("kvm1")
        other = made.db.read(lambda tx: hosts.get(tx, "kvm3"))
        where = made.db.read(lambda tx: hosts.get(tx, "kvm2"))
        source.trust_to(OP, where.address, where.port, other.host_keys)
        with pytest.raises(HostFault, match="does not let it in"):
            source.trust_try(OP)


def test_audit_removes_what_is_left_of_a_key(grounds: Grounds) -> None:
    with opened(grounds) as made:
        made.hypervisor("kvm1").trust_key(OP, grounds.host("kvm2").address)
    found = grounds.novactl("audit", "-o", "json")
    assert [one["finding"] for one in found.json] == ["trust-left"]
    grounds.novactl.ok("audit", "--heal", "--yes")
    assert grounds.novactl("audit").code == 0
    assert grounds.host("kvm1").run(["ls", "/var/lib/novactl/trust"]).stdout == ""
