"""A lab's network: a switch in namespaces of its own, a cable to each host and one to the machine.

The switch is a bridge in a network namespace that one sleeping process holds. No name is bound for it under
/run/netns: that would leave a mount on the machine.
"""

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from novactl.lab.errors import LabError
from novactl.lab.processes import environment, init_of, marked, run, spawn, wait_until
from novactl.lab.state import LabState

_RANGES = ("10.213.0.0/16", "172.29.0.0/16", "192.168.0.0/16", "198.18.0.0/15")
_BRIDGE = "br0"
_UPLINK = "gateway"
_SWITCH_SYSCTLS = ("net.ipv6.conf.all.disable_ipv6=1", "net.bridge.bridge-nf-call-iptables=0")


@contextmanager
def choosing() -> Iterator[None]:
    """Let one process at a time look for a free network and take it, on the whole machine."""
    handle = os.open("/run", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def free_network() -> IPv4Network:
    """Return a /24 that overlaps no address and no route of the machine; LabError if there is none."""
    busy = _networks_in_use()
    for candidate in (net for wide in _RANGES for net in IPv4Network(wide).subnets(new_prefix=24)):
        if not any(candidate.overlaps(network) for network in busy):
            return candidate
    raise LabError(f"no /24 in {', '.join(_RANGES)} is free of the machine's routes and addresses")


def link_exists(link: str) -> bool:
    """Say whether the machine has a network link of this name."""
    return Path("/sys/class/net", link).exists()


def create_switch(state: LabState, log: Path) -> None:
    """Make the switch and the machine's cable to it, with the gateway's address on the machine's end."""
    # setsid forks once the namespaces exist: when this returns, so do they.
    spawn(["unshare", "--mount", "--net", "setsid", "--fork", "sleep", "infinity"], state.switch, log)
    holder = switch_pid(state)
    _in_namespace(holder, state, ["sysctl", "-e", "-q", "-w", *_SWITCH_SYSCTLS])
    _ip_in(holder, state, [f"link add {_BRIDGE} type bridge", f"link set {_BRIDGE} up"])
    cable = ["type", "veth", "peer", "name", _UPLINK, "netns", str(holder)]
    run(["ip", "link", "add", state.link, *cable], state.tool)
    _ip_in(holder, state, [f"link set {_UPLINK} master {_BRIDGE} up"])
    commands = [
        f"link set {state.link} addrgenmode none",
        f"address add {state.gateway}/{state.prefix_length} dev {state.link}",
        f"link set {state.link} up",
    ]
    run(["ip", "-batch", "-"], state.tool, stdin=_batch(commands))


def delete_gateway_link(state: LabState) -> None:
    """Remove the machine's end of its cable, if it is there; its switch end goes with it."""
    if link_exists(state.link):
        # Ending the switch's namespace removes it too, some time later: whichever comes first.
        with suppress(LabError):
            run(["ip", "link", "delete", state.link], state.tool)
        wait_until(lambda: not link_exists(state.link), 10, f"link {state.link} to go")


def plug(state: LabState, host: str) -> None:
    """Connect a host that runs: eth0 in its bridge br0, which has the host's address."""
    pid = init_of(state.mark(host))
    if pid is None:
        raise LabError(f"lab host {host} ended while it started")
    cable = f"type veth peer name eth0 netns {pid}"
    _ip_in(switch_pid(state), state, [f"link add {host} {cable}", f"link set {host} master {_BRIDGE} up"])
    address = state.address(host)
    commands = [
        "link set lo up",
        # The bridge's own address is given, or it would change with each guest's port.
        f"link add {_BRIDGE} address {_mac(address)} type bridge",
        f"link set eth0 master {_BRIDGE} up",
        f"address add {address}/{state.prefix_length} dev {_BRIDGE}",
        f"link set {_BRIDGE} up",
    ]
    _ip_in(pid, state, commands)


def unplug(state: LabState, host: str) -> None:
    """Remove the cable of a host that was switched off, if it is still there: the kernel takes its time."""
    with suppress(LabError):
        _ip_in(switch_pid(state), state, [f"link delete {host}"])


def set_cable(state: LabState, host: str, *, up: bool) -> None:
    """Cut or mend a host's cable, at the switch."""
    _ip_in(switch_pid(state), state, [f"link set {host} {'up' if up else 'down'}"])


def switch_pid(state: LabState) -> int:
    """Return the pid of the process that holds the switch; LabError if the lab does not run."""
    for process in marked(state.token):
        if process.member == state.switch.member:
            return process.pid
    raise LabError(f"lab {state.name} does not run", hint=f"novactl lab down --name {state.name}")


def _in_namespace(pid: int, state: LabState, argv: Sequence[str], stdin: str = "") -> str:
    return run(["nsenter", "--target", str(pid), "--net", *argv], state.tool, stdin=stdin)


def _ip_in(pid: int, state: LabState, commands: Sequence[str]) -> None:
    _in_namespace(pid, state, ["ip", "-batch", "-"], _batch(commands))


def _batch(commands: Sequence[str]) -> str:
    return "".join(f"{command}\n" for command in commands)


def _mac(address: str) -> str:
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x6E, *IPv4Address(address).packed))


def _networks_in_use() -> list[IPv4Network]:
    routes = _ip_json(["ip", "-j", "-4", "route", "show", "table", "all"])
    links = _ip_json(["ip", "-j", "-4", "address"])
    destinations = [route["dst"] for route in routes if route["dst"] != "default"]
    addresses = [f"{a['local']}/{a['prefixlen']}" for link in links for a in link.get("addr_info", [])]
    return [IPv4Network(text, strict=False) for text in (*destinations, *addresses) if text != "0.0.0.0/0"]


def _ip_json(argv: Sequence[str]) -> list[dict[str, Any]]:
    done = subprocess.run(argv, capture_output=True, text=True, env=environment(), check=True)
    return [entry for entry in json.loads(done.stdout or "[]") if entry]
