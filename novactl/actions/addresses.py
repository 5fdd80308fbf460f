"""A NIC for each network that is asked for, with the first free address."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from socket import inet_aton

from novactl.db import addresses, instances
from novactl.db.session import MANY, Tx
from novactl.errors import Refused
from novactl.objects.instance import Instance
from novactl.objects.names import mac_address, port_id, tap_name
from novactl.objects.network import Network, Port, free_addresses
from novactl.objects.request import NetworkRequest


def drafts(uuid: str, networks: Sequence[Network]) -> tuple[Port, ...]:
    """The ports of an instance without their addresses, each with the first of its MACs."""
    ids = [port_id(uuid, index) for index in range(len(networks))]
    return tuple(
        Port(
            id=port,
            index=index,
            network=network.name,
            bridge=network.bridge,
            mac=mac_address(port),
            ip="",
            prefix=int(network.cidr.rpartition("/")[2]),
            gateway=network.gateway,
            dns=network.dns,
            mtu=network.mtu,
            tap=tap_name(port),
        )
        for index, (port, network) in enumerate(zip(ids, networks, strict=True))
    )


def ports(
    tx: Tx,
    drafted: Sequence[Port],
    wanted: Sequence[NetworkRequest],
    networks: Sequence[Network],
    *,
    alike: Sequence[Instance] = (),
) -> Iterator[Port]:
    """The drafted ports with an address each. `alike`: all instances that ask the same in this transaction;
    what is given is looked up once for them. Raises Refused when a network has no free address, or not that
    one."""
    for draft, request, network in zip(drafted, wanted, networks, strict=True):
        ip = _address(tx, network, request.ip, len(alike) or 1)
        yield replace(draft, ip=ip, mac=_mac(tx, draft, alike))


def _mac(tx: Tx, draft: Port, alike: Sequence[Instance]) -> str:
    """The first of the port's own that nobody has."""
    free: dict[str, bool] = tx.memo.setdefault("macs", {})
    for salt in range(64):
        mac = mac_address(draft.id, salt) if salt else draft.mac
        if mac not in free:
            asked = [one.ports[draft.index].mac for one in alike if not salt] or [mac]
            taken = instances.taken_macs(tx, asked)
            free.update((one, one not in taken) for one in asked if one not in free)
        if free[mac]:
            free[mac] = False
            return mac
    raise Refused(f"port {draft.id}: all its MAC addresses are taken")


def _address(tx: Tx, network: Network, wanted: str | None, ahead: int) -> str:
    """The address asked for, or the lowest that is free; those that this transaction has chosen are not."""
    given: set[str] = tx.memo.setdefault(f"given {network.id}", set())
    if wanted is not None:
        taken = {*given, *addresses.taken(tx, network.id, [wanted])}
        free = free_addresses(network, taken, addresses.of_hosts(tx), wanted)
    else:
        free = tx.memo.setdefault(f"free {network.id}", _free(tx, network, given, min(ahead, MANY)))
    if (ip := next(free, None)) is None:
        raise Refused(f"network {network.name} ({network.cidr}) has no free address")
    given.add(ip)
    return ip


def _free(tx: Tx, network: Network, given: set[str], ahead: int) -> Iterator[str]:
    """Addresses that nobody has, lowest first. Mostly those at the mark are free, and so many are looked up
    at once; after the first that is not, all that are given are read. Those that only a host or a name server
    had are found by the second look, from the beginning."""
    everything: set[str] | None = None
    for since in dict.fromkeys((addresses.lowest(tx, network.id), 0)):
        untried = free_addresses(network, given, (), None, since=since)
        while some := list(islice(untried, ahead)):
            taken = addresses.taken(tx, network.id, some) if everything is None else everything
            if taken and everything is None:
                taken = everything = addresses.all_taken(tx, network.id)
            for ip in some:
                if ip not in taken and ip not in given:
                    addresses.mark(tx, network.id, int.from_bytes(inet_aton(ip)) + 1)
                    yield ip
