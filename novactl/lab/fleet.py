"""Make, find and remove labs.

A lab's names are written to its state file before anything is made under them, so `down` can clear away what
is there at any moment of `up`: its processes by their mark, its link by its name, its directory.
"""

import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from novactl.lab import network, state
from novactl.lab.disk import create_disk, create_key, fingerprint, host_key
from novactl.lab.errors import LabError, NoLabError
from novactl.lab.host import LabHost
from novactl.lab.processes import init_of, kill_marked, run
from novactl.lab.requirements import check_name, check_packages, check_root, check_size
from novactl.lab.state import LabState

ROOT = Path("/var/lib/novactl-lab")

_LOG = "lab.log"


@dataclass(frozen=True)
class Fleet:
    """A lab that is up. `identity` is the private key that logs in as root on every host; `shared` is
    /srv/shared of every host."""

    name: str
    network: str
    gateway: str
    identity: Path
    shared: Path
    hosts: list[LabHost]

    def host(self, name: str) -> LabHost:
        """Return the host of this name."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(f"lab {self.name} has no host {name}")


def up(name: str = "lab", hosts: int = 2, *, root: Path = ROOT, instances_mib: int | None = None) -> Fleet:
    """Make a lab of `hosts` hypervisors and return when ssh and libvirt answer on each of them.

    `instances_mib` limits each host's /var/lib/novactl to so many MiB. LabError if it is up already or cannot
    be made; what was made of it by then is removed.
    """
    check_name(name)
    check_size(hosts, instances_mib)
    check_root()
    check_packages()
    directory = root / name
    with state.locked(directory, create=True):
        _refuse_existing(directory, name)
        try:
            return _make(directory, tuple(f"kvm{n}" for n in range(1, hosts + 1)), instances_mib)
        except BaseException:
            _unmake(directory)
            raise


def load(name: str = "lab", root: Path = ROOT) -> Fleet:
    """Return the lab of this name; LabError if it is not up."""
    check_name(name)
    check_root()
    found = state.read(root / name)
    if found is None:
        raise NoLabError(name)
    if not found.ready:
        raise LabError(f"lab {name} is half made", hint=f"novactl lab down --name {name}")
    network.switch_pid(found)
    return _fleet(root / name, found)


def status(root: Path = ROOT) -> list[dict[str, Any]]:
    """Return every lab under `root` with its hosts: JSON-able. A host's state is up, off or incomplete."""
    check_root()
    return [_describe(found) for directory in state.directories(root) if (found := state.read(directory))]


def down(name: str = "lab", root: Path = ROOT) -> bool:
    """Remove a lab, whole or half made, and return whether there was one."""
    check_name(name)
    check_root()
    try:
        with state.locked(root / name):
            _unmake(root / name)
    except NoLabError:
        return False
    return True


def _refuse_existing(directory: Path, name: str) -> None:
    state.check_ours(directory)
    found = state.read(directory)
    if found is not None:
        condition = "up already" if found.ready else "half made"
        raise LabError(f"lab {name} is {condition}", hint=f"novactl lab down --name {name}")


def _make(directory: Path, hosts: tuple[str, ...], instances_mib: int | None) -> Fleet:
    with network.choosing():
        made = _plan(directory.name, hosts, instances_mib)
        state.write(directory, made)
        network.create_switch(made, directory / _LOG)
    create_key(directory / "id_ed25519", f"novactl-lab-{made.name}", made)
    (directory / "shared").mkdir()
    authorized_key = (directory / "id_ed25519.pub").read_text()
    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(lambda host: _make_host(directory, made, host, authorized_key), hosts))
    made = replace(made, ready=True)
    state.write(directory, made)
    return _fleet(directory, made)


def _plan(name: str, hosts: tuple[str, ...], instances_mib: int | None) -> LabState:
    token = secrets.token_hex(16)
    link = f"nv{token[:4]}-{name}"
    if network.link_exists(link):
        raise LabError(f"link {link} exists already", hint="try again: its name is random")
    return LabState(name, token, str(network.free_network()), link, hosts, instances_mib)


def _make_host(directory: Path, made: LabState, host: str, authorized_key: str) -> None:
    disk = directory / host / "disk"
    create_disk(disk, made, host, authorized_key)
    if made.instances_mib is not None:
        # In the switch's namespaces, so that it outlives the host's power failures.
        size = f"size={made.instances_mib}m,mode=755"
        inside = ["nsenter", "--target", str(network.switch_pid(made)), "--mount"]
        run([*inside, "mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk / "var/lib/novactl")], made.tool)
    _host(directory, made, host).boot()


def _unmake(directory: Path) -> None:
    found = state.read(directory)
    if found is not None:
        kill_marked(found.token)
        network.delete_gateway_link(found)
    state.remove(directory)


def _fleet(directory: Path, made: LabState) -> Fleet:
    return Fleet(
        name=made.name,
        network=made.network,
        gateway=made.gateway,
        identity=directory / "id_ed25519",
        shared=directory / "shared",
        hosts=[_host(directory, made, host) for host in made.hosts],
    )


def _host(directory: Path, made: LabState, host: str) -> LabHost:
    key = host_key(directory / host / "disk")
    return LabHost(host, made.address(host), fingerprint(key), key, directory / host, made)


def _describe(found: LabState) -> dict[str, Any]:
    hosts = []
    for host in found.hosts:
        pid = init_of(found.mark(host))
        condition = "incomplete" if not found.ready else "off" if pid is None else "up"
        hosts.append({"name": host, "address": found.address(host), "state": condition, "pid": pid})
    return {"name": found.name, "network": found.network, "hosts": hosts}
