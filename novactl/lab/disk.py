"""What a lab host keeps from boot to boot: its identity, its keys and its configuration."""

import base64
import hashlib
import shutil
import uuid
from pathlib import Path

from novactl.lab.processes import run
from novactl.lab.state import LabState

_FILTERS = Path("/usr/share/libvirt/nwfilter")
_KEPT = (
    "etc/ssh",
    "etc/pki",
    "etc/libvirt/qemu/networks",
    "var/lib/libvirt/images",
    "var/cache/libvirt",
    "var/log/libvirt",
    "var/lib/novactl",
    "root",
)

_SSHD = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
MaxStartups 200:30:300
MaxSessions 100
AllowTcpForwarding yes
AllowStreamLocalForwarding yes
SetEnv PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
Subsystem sftp internal-sftp
"""

_LIBVIRTD = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "{uuid}"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""

# Not root: running guests as root would hide faults of ownership.
_QEMU = """\
user = "libvirt-qemu"
group = "libvirt-qemu"
dynamic_ownership = 1
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
"""

_HOSTS = "127.0.0.1 localhost\n{gateway} {name}\n{hosts}"


def create_key(path: Path, comment: str, state: LabState) -> None:
    """Make an ed25519 key pair without a passphrase at `path` and `path`.pub."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], state.tool)


def create_disk(disk: Path, state: LabState, host: str, authorized_key: str) -> None:
    """Lay out a new host's disk: a new identity, a new host key, and root's login with `authorized_key`."""
    for directory in _KEPT:
        (disk / directory).mkdir(parents=True)
    (disk / "var/lib/libvirt/images").chmod(0o711)
    _write_etc(disk / "etc", state, host)
    _write_libvirt(disk / "etc/libvirt")
    (disk / "etc/ssh/sshd_config").write_text(_SSHD)
    create_key(disk / "etc/ssh/ssh_host_ed25519_key", f"root@{host}", state)
    (disk / "root").chmod(0o700)
    (disk / "root/.ssh").mkdir(mode=0o700)
    keys = disk / "root/.ssh/authorized_keys"
    keys.write_text(authorized_key)
    keys.chmod(0o600)


def host_key(disk: Path) -> str:
    """Return a host's public key as in known_hosts: its type and its base64."""
    kind, key, *_ = (disk / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
    return f"{kind} {key}"


def fingerprint(public_key: str) -> str:
    """Return a public key's fingerprint as OpenSSH shows it: SHA256:..."""
    digest = hashlib.sha256(base64.b64decode(public_key.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _write_etc(etc: Path, state: LabState, host: str) -> None:
    hosts = "".join(f"{state.address(name)} {name}\n" for name in state.hosts)
    (etc / "hostname").write_text(f"{host}\n")
    (etc / "hosts").write_text(
        _HOSTS.format(gateway=state.gateway, name=f"gateway.{state.name}", hosts=hosts)
    )
    (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
    (etc / "resolv.conf").write_text("")  # none: an unknown name fails at once


def _write_libvirt(etc: Path) -> None:
    (etc / "libvirtd.conf").write_text(_LIBVIRTD.format(uuid=uuid.uuid4()))
    (etc / "qemu.conf").write_text(_QEMU)
    if _FILTERS.is_dir():
        shutil.copytree(_FILTERS, etc / "nwfilter")
