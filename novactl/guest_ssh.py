"""`novactl ssh`: the system's ssh to a guest, through its host, with the guest's own keys pinned.

The keys are those that cloud-init prints on the serial console, which is read over the host's pinned
connection; a guest that prints none is left to ssh's own question.
"""

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from novactl.errors import Refused
from novactl.objects.instance import Instance
from novactl.remote.ssh_config import write_file

if TYPE_CHECKING:
    from novactl.cloud import Cloud

HOST_KEYS = re.compile(rb"-----BEGIN SSH HOST KEY KEYS-----(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL)
KEY_LINE = re.compile(r"(ssh-[a-z0-9]+|ecdsa-sha2-[a-z0-9]+) ([A-Za-z0-9+/=]{40,})")
USERS = {"debian": "debian", "ubuntu": "ubuntu", "fedora": "fedora", "centos": "centos", "alpine": "alpine"}


def ssh_argv(
    cloud: "Cloud", instance: Instance, command: list[str], login: str | None, identity: Path | None
) -> list[str]:
    """The ssh command line. Raises Refused for an instance without host or address."""
    if instance.host is None or not instance.ports:
        raise Refused(f"{instance.name}: has no {'address' if instance.host else 'host'}")
    known_hosts = _pin(cloud, instance)
    config = cloud.ssh_files().config
    options = {
        "ProxyCommand": f"ssh -F {shlex.quote(str(config))} -W %h:%p {instance.host}",
        "HostKeyAlias": instance.uuid,
        "UserKnownHostsFile": _word(known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "ask" if _is_empty(known_hosts) else "yes",
        "ForwardAgent": "no",
        "LogLevel": "ERROR",
    }
    argv = ["ssh", "-F", "/dev/null"]
    for option, value in options.items():
        argv += ["-o", f"{option}={value}"]
    if identity is not None:
        argv += ["-i", str(identity), "-o", "IdentitiesOnly=yes"]
    return [*argv, "-l", login or _default_user(instance), "--", instance.ports[0].ip, *_remote(command)]


def _remote(command: list[str]) -> list[str]:
    """One word is a line for the guest's shell, as with ssh; several are words, kept as they are."""
    return [shlex.join(command)] if len(command) > 1 else command


def _default_user(instance: Instance) -> str:
    properties = instance.image.properties if instance.image else {}
    return properties.get("os_admin_user") or USERS.get(properties.get("os_distro", ""), "root")


def _pin(cloud: "Cloud", instance: Instance) -> Path:
    """The guest's known_hosts, filled from its console when that shows its keys."""
    directory = cloud.settings.config / "ssh" / "guests"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / instance.uuid
    assert instance.host
    _, text = cloud.hypervisor(instance.host).console_tail(instance.uuid, 0)
    shown = HOST_KEYS.findall(text)
    if shown:
        keys = KEY_LINE.findall(shown[-1].decode(errors="replace"))
        write_file(path, "".join(f"{instance.uuid} {kind} {key}\n" for kind, key in keys))
    elif not path.exists():
        write_file(path, "")
    return path


def _is_empty(path: Path) -> bool:
    return path.stat().st_size == 0


def _word(path: Path) -> str:
    """A path as one word of an ssh option."""
    return '"' + str(path) + '"'
