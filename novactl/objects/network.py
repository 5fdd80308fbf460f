"""Networks that instances are put on, and the ports that put them there."""

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from novactl.errors import Refused, UsageError
from novactl.objects.names import BRIDGE, check_name, check_pattern


@dataclass(frozen=True, kw_only=True)
class Network:
    """An IPv4 network on a bridge that every host of it has. `pool` ("first-last") is where addresses are
    taken from when none is asked for; None: the whole of it."""

    id: str
    name: str
    cidr: str
    gateway: str | None
    dns: tuple[str, ...] = ()
    mtu: int = 1500
    bridge: str
    project: str = "default"
    pool: str | None = None

    @property
    def segment(self) -> dict[str, str]:
        return {"type": "flat", "bridge": self.bridge}


@dataclass(frozen=True, kw_only=True)
class Port:
    """One NIC of one instance: rows with unique address and MAC."""

    id: str
    index: int
    network: str
    bridge: str
    mac: str
    ip: str
    prefix: int
    gateway: str | None
    dns: tuple[str, ...]
    mtu: int
    tap: str


def check_network(network: Network) -> Network:
    """`network`, its CIDR with the prefix as a number, when all of it makes sense, else UsageError."""
    check_name(network.name, "network name")
    check_pattern(network.bridge, BRIDGE, "bridge", "a link name of at most 15 characters")
    try:
        net = ipaddress.IPv4Network(network.cidr)
    except ValueError as error:
        raise UsageError(f"network {network.name}: {error}", hint="for example --cidr 10.1.0.0/24") from error
    if net.num_addresses < 4:
        raise UsageError(f"network {network.name}: {network.cidr} has no room for instances")
    if network.gateway is not None and parse_ip(network.gateway) not in set_of_hosts(net):
        raise UsageError(f"network {network.name}: gateway {network.gateway} is not within {network.cidr}")
    for server in network.dns:
        parse_ip(server)
    if network.pool is not None and network.pool.count("-") != 1:
        raise UsageError(f"network {network.name}: pool {network.pool!r} is not of the form FIRST-LAST")
    first, last = pool_of(network)
    if first > last or first not in set_of_hosts(net) or last not in set_of_hosts(net):
        raise UsageError(
            f"network {network.name}: pool {network.pool} is not within {network.cidr}",
            hint="--pool FIRST-LAST, two addresses of the network",
        )
    if not 576 <= network.mtu <= 65535:
        raise UsageError(f"network {network.name}: mtu {network.mtu} is not within 576 to 65535")
    return replace(network, cidr=str(net))


class set_of_hosts:  # noqa: N801 - reads as the set it is
    """Membership among a network's assignable addresses, without listing them."""

    def __init__(self, net: ipaddress.IPv4Network) -> None:
        self.net = net

    def __contains__(self, ip: ipaddress.IPv4Address) -> bool:
        return ip in self.net and ip not in (self.net.network_address, self.net.broadcast_address)


def parse_ip(text: str) -> ipaddress.IPv4Address:
    """`text` as an IPv4 address, else UsageError."""
    try:
        return ipaddress.IPv4Address(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not an IPv4 address") from error


def pool_of(network: Network) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]:
    """The first and the last address that may be given without being asked for."""
    if network.pool is None:
        net = ipaddress.IPv4Network(network.cidr)
        return net.network_address + 1, net.broadcast_address - 1
    first, _, last = network.pool.partition("-")
    return parse_ip(first.strip()), parse_ip(last.strip())


def free_addresses(
    network: Network, taken: Iterable[str], elsewhere: Iterable[str], wanted: str | None, *, since: int = 0
) -> Iterator[str]:
    """Addresses to try, lowest first; only `wanted` when one is asked for. `elsewhere` are addresses that
    something else has (hosts, name servers): never given. `since`: a number below which none is tried.

    Raises Refused for a wanted address that is outside, reserved or taken.
    """
    net = ipaddress.IPv4Network(network.cidr)
    used = taken if isinstance(taken, set | frozenset) else set(taken)
    kept = {network.gateway, *network.dns, *elsewhere}
    if wanted is not None:
        ip = parse_ip(wanted)
        if ip not in set_of_hosts(net) or str(ip) in kept:
            raise Refused(f"address {wanted} is not one of network {network.name} ({network.cidr})")
        if str(ip) in used:
            raise Refused(f"address {wanted} of network {network.name} is taken")
        yield str(ip)
        return
    first, last = pool_of(network)
    for number in range(max(int(first), since), int(last) + 1):
        text = str(ipaddress.IPv4Address(number))
        if text not in kept and text not in used:
            yield text


def overlap(one: Network, other: Network) -> bool:
    """Whether an address could be given twice on one bridge."""
    same = one.bridge == other.bridge
    return same and ipaddress.IPv4Network(one.cidr).overlaps(ipaddress.IPv4Network(other.cidr))


def capacity(network: Network) -> int:
    """How many addresses instances may have."""
    first, last = pool_of(network)
    kept = {ip for ip in (network.gateway, *network.dns) if ip and first <= parse_ip(ip) <= last}
    return int(last) - int(first) + 1 - len(kept)
