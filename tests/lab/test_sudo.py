"""A host reached as a user who may sudo, and a host that another fleet takes over."""

import os

import pytest

from novactl import lab
from tests.lab.conftest import Grounds, enrol
from tests.support.command import Command

pytestmark = pytest.mark.lab

MAKE_USER = """set -e
useradd -M -d /run/op -s /bin/sh -G libvirt op
usermod -p '*' op
mkdir -p /run/op/.ssh
cat >/run/op/.ssh/authorized_keys
chown -R op /run/op
chmod 700 /run/op /run/op/.ssh
echo 'op ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/op
chmod 440 /etc/sudoers.d/op
"""


@pytest.fixture
def alone(tmp_path):
    """A lab of one host of our own: its users and its fleet mark are changed."""
    name = f"s{os.getpid() % 1000000}"
    lab.down(name)
    fleet = lab.up(name, 1)
    try:
        yield enrol(fleet, tmp_path / "first")
    finally:
        lab.down(name)


def test_a_sudo_user_of_another_fleet_takes_the_host_over(alone: Grounds, tmp_path):
    host = alone.host("kvm1")
    made = host.run(["sh", "-c", MAKE_USER], stdin=alone.fleet.identity.with_suffix(".pub").read_text())
    assert made.returncode == 0, made.stderr
    alone.novactl.ok("boot", "theirs", "--flavor", "tiny", "--image", "tiny")
    other = Command(tmp_path / "second")
    words = [*alone.add_words("kvm1"), "--user", "op"]
    refused = other(*words)
    assert refused.code == 5 and "belongs to fleet" in refused.err and "--takeover" in refused.err
    assert other.json("host", "list") == []
    taken = other.json(*words, "--takeover")
    assert taken["user"] == "op" and taken["foreign_memory_mib"] == 96
    image = alone.novactl.json("image", "show", "tiny")
    file = image["locations"][0].removeprefix("file:")
    other.ok("image", "add", "tiny", "--file", file, "--format", "raw")
    other.ok("flavor", "create", "tiny", "--vcpus", "1", "--memory", "96", "--disk", "1")
    ours = other.json("boot", "ours", "--flavor", "tiny", "--image", "tiny")
    assert alone.state("kvm1", ours["uuid"]) == "running"
    # the fleet that lost the host can act there no more, neither on new nor on its old instances
    late = alone.novactl("boot", "late", "--flavor", "tiny", "--image", "tiny")
    assert late.code == 1 and "not enrolled in this fleet" in late.err
    stopped = alone.novactl("stop", "theirs", "--force")
    assert stopped.code == 5 and "not enrolled in this fleet" in stopped.err
    assert alone.state("kvm1", alone.novactl.json("show", "theirs")["uuid"]) == "running"
    other.ok("delete", "ours", "--yes")


def test_a_machine_is_enrolled_once_whatever_its_address(alone: Grounds):
    host = alone.host("kvm1")
    second = f"{alone.fleet.network.rpartition('.')[0]}.77"
    assert host.run(["ip", "address", "add", f"{second}/24", "dev", "br0"]).returncode == 0
    words = alone.add_words("kvm1")
    again = alone.novactl("host", "add", "kvm2", "--address", second, *words[5:])
    assert again.code == 5 and "is host kvm1 already" in again.err
    assert [row["name"] for row in alone.novactl.json("host", "list")] == ["kvm1"]
