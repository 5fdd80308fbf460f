"""What the machine must have before a lab can be made, and what a lab may be called."""

import os
import re
import shutil

from novactl.lab.errors import LabError
from novactl.lab.processes import PATH

MAX_HOSTS = 32

_PACKAGES = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setsid": "util-linux",
    "mount": "mount",
    "tini": "tini",
    "ip": "iproute2",
    "sysctl": "procps",
    "iptables": "iptables",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "libvirtd": "libvirt-daemon-system",
    "virtlogd": "libvirt-daemon-system",
    "virsh": "libvirt-clients",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
}


def check_root() -> None:
    """Raise LabError unless this process is root."""
    if os.geteuid() != 0:
        raise LabError("a lab needs root: it makes namespaces, links and mounts", hint="run it with sudo")


def check_packages() -> None:
    """Raise LabError naming the packages to install, if a program is missing."""
    missing = sorted(
        {package for program, package in _PACKAGES.items() if not shutil.which(program, path=PATH)}
    )
    if missing:
        raise LabError(
            f"packages are missing: {', '.join(missing)}",
            hint=f"apt-get install --no-install-recommends {' '.join(missing)}",
        )


def check_name(name: str) -> None:
    """Raise LabError unless `name` can name a lab (it goes into link names of 15 bytes)."""
    if not re.fullmatch(r"[a-z][a-z0-9]{0,7}", name):
        raise LabError(
            f"lab name {name!r} cannot be used",
            hint="a letter, then up to seven letters or digits, all lower case",
        )


def check_size(hosts: int, instances_mib: int | None) -> None:
    """Raise LabError unless a lab can have so many hosts, with instance file systems of so many MiB."""
    if not 1 <= hosts <= MAX_HOSTS:
        raise LabError(f"a lab of {hosts} hosts cannot be made", hint=f"1 to {MAX_HOSTS} hosts")
    if instances_mib is not None and instances_mib < 1:
        raise LabError(
            f"an instances file system of {instances_mib} MiB cannot be made", hint="1 MiB or more"
        )
