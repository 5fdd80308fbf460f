"""A real Debian with cloud-init: what was asked for is there, checked over SSH from inside the guest."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path
from typing import Any

import pytest

from novactl.lab import guests
from tests.lab.conftest import Grounds
from tests.lab.support import console, nothing_left
from tests.support.command import Command, Ended

pytestmark = pytest.mark.lab

CLOUD_CONFIG = """#cloud-config
write_files:
  - path: /etc/from-cloud-config
    content: "written as asked"
cloud_final_modules: [keys-to-console, scripts-user, final-message]
"""
SCRIPT = """#!/bin/sh
echo "script ran as $(id -un) on $(hostname)" >/etc/from-script
"""


@dataclass
class Full:
    """The guest, and how to get into it."""

    grounds: Grounds
    made: dict[str, Any]
    identity: Path
    address: str

    @property
    def novactl(self) -> Command:
        return self.grounds.novactl

    def ssh(self, *words: str, **options: Any) -> Ended:
        login = ["--identity", str(self.identity), "--login", "debian"]
        return self.novactl("ssh", self.made["name"], *login, *words, **options)

    def inside(self, command: str) -> str:
        """What a command line in the guest prints; it must end well."""
        ended = self.ssh("--", command)
        assert ended.code == 0, f"{command}: {ended.code}: {ended.out}{ended.err}"
        return ended.out.strip()

    @property
    def pinned(self) -> Path:
        return self.novactl.config / "ssh/guests" / str(self.made["uuid"])


def user_data(directory: Path) -> Path:
    """A cloud-config and a script in one, as cloud-init takes several parts."""
    whole = MIMEMultipart()
    for text, kind in ((CLOUD_CONFIG, "cloud-config"), (SCRIPT, "x-shellscript")):
        whole.attach(MIMEText(text, kind))
    path = directory / "user-data"
    path.write_bytes(whole.as_bytes())
    return path


@pytest.fixture(scope="module")
def full(_grounds: Grounds, tmp_path_factory) -> Iterator[Full]:
    """One Debian for the whole module: it takes a minute or two to come up."""
    directory, novactl = tmp_path_factory.mktemp("full"), _grounds.novactl
    identity = directory / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(identity)], check=True)
    novactl.ok("keypair", "add", "debian", "--public-key", f"{identity}.pub")
    novactl.ok("image", "add", "debian", "--file", str(guests.debian()), "--property", "os_distro=debian")
    novactl.ok("flavor", "create", "full", "--vcpus", "1", "--memory", "512", "--disk", "4")
    address = f"{_grounds.fleet.network.rpartition('.')[0]}.90"
    made = novactl.json(
        "boot", "full.guest", "--flavor", "full", "--image", "debian", "--network", f"lan,ip={address}",
        "--key", "debian", "--user-data", str(user_data(directory)), "--ephemeral", "1", "--swap", "128",
        "--wait-for", "cloud-init", "--wait-timeout", "400", timeout=600,
    )  # fmt: skip
    yield Full(_grounds, made, identity, address)
    novactl.ok("delete", "full.guest", "--yes")
    for what, name in (("image", "debian"), ("flavor", "full"), ("keypair", "debian")):
        novactl.ok(what, "delete", name, "--yes")
    nothing_left(_grounds)


def test_the_guest_is_as_asked(full: Full):
    assert full.made["status"] == "ACTIVE" and "Cloud-init v." in console(full.grounds, full.made)
    found = full.inside("""
        hostname
        cat /etc/from-cloud-config; echo
        cat /etc/from-script
        ip -4 -o address show scope global
        ip route show default
        cat .ssh/authorized_keys
        sudo cat /run/cloud-init/instance-data-sensitive.json
    """)
    host, config, script, address, route, key, metadata = found.split("\n", 6)
    assert host == "full-guest" and config == "written as asked"
    assert script == "script ran as root on full-guest"
    assert f" {full.address}/24 " in address and f"via {full.grounds.fleet.gateway} " in route
    assert key == full.identity.with_suffix(".pub").read_text().strip()
    assert full.made["uuid"] in metadata


def test_its_disks_are_as_asked(full: Full):
    root, sizes, label, kind = full.inside("""
        df -B1 --output=size / | tail -n 1
        lsblk -bdnro SIZE /dev/vda /dev/vdb /dev/vdc | xargs
        sudo blkid -o value -s LABEL /dev/vdb
        sudo blkid -o value -s TYPE /dev/vdc
    """).splitlines()
    assert 3.6 * 2**30 < int(root) <= 4 * 2**30, f"the root file system has {root} bytes"
    assert sizes.split() == [str(4 << 30), str(1 << 30), str(128 << 20)]
    assert (label, kind) == ("ephemeral0", "swap")


def test_ssh_passes_on_code_words_and_streams(full: Full):
    both = full.ssh("--", "echo out; echo err >&2; exit 7")
    assert (both.out, both.err, both.code) == ("out\n", "err\n", 7)
    assert full.ssh("--", "printf", "%s|", "a b", "$HOME", "'").out == "a b|$HOME|'|"
    assert full.ssh("--", "cat", input="to the guest\n").out == "to the guest\n"
    by_prefix = ["ssh", full.made["uuid"][:8], "-i", str(full.identity)]
    assert full.novactl(*by_prefix, "--", "whoami").out == "debian\n"
    full.novactl.ok("wait", "full.guest", "ssh", "--timeout", "30")


def test_the_guests_own_keys_are_pinned_from_its_console(full: Full):
    key = full.inside("cat /etc/ssh/ssh_host_ed25519_key.pub").split()[:2]
    assert [full.made["uuid"], *key] in [line.split() for line in full.pinned.read_text().splitlines()]


def replace_console(full: Full, change: Callable[[str], str]) -> None:
    """What the guest's console says of its keys, changed."""
    path = f"/var/lib/novactl/instances/{full.made['uuid']}/console.log"
    host = full.grounds.host(full.made["host"])
    new = change(console(full.grounds, full.made))
    host.run(["dd", f"of={path}", "status=none"], stdin=new).check_returncode()


def test_a_guest_with_another_key_is_refused(full: Full, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    wrong = (tmp_path / "key.pub").read_text().split()[1]
    old = console(full.grounds, full.made)
    right = [line.split()[2] for line in full.pinned.read_text().splitlines()]
    assert right

    def forged(text: str) -> str:
        for key in right:
            text = text.replace(key, wrong)
        return text

    replace_console(full, forged)
    refused_by_ssh = full.ssh("--", "touch /tmp/reached")
    replace_console(full, lambda text: old)
    assert refused_by_ssh.code == 255 and refused_by_ssh.out == ""
    assert full.ssh("--", "test -e /tmp/reached").code == 1


def test_ssh_that_cannot_be(full: Full, name, tmp_path):
    novactl, web = full.novactl, name()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    other = novactl("ssh", "full.guest", "-i", str(tmp_path / "other"), "--", "true")
    assert other.code == 255 and "denied" in other.err
    nobody = novactl("ssh", "nosuch", "--", "true")
    assert nobody.code == 255 and "does not exist" in nobody.err
    novactl.ok("boot", web, "--flavor", "tiny", "--image", "deaf")
    no_address = novactl("ssh", web, "--", "true")
    assert no_address.code == 255 and f"{web}: has no address" in no_address.err
    novactl.ok("delete", web, "--yes")
