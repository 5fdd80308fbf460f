"""A NIC for each network that is asked for, with the first free address."""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address

from novactl.db import addresses, instances
from novactl.db.session import Tx
from novactl.errors import Refused
from novactl.objects.names import mac_address, port_id, tap_name
from novactl.objects.network import Network, Port, free_addresses
from novactl.objects.request import NetworkRequest


def ports(
    tx: Tx, uuid: str, wanted: Sequence[NetworkRequest], networks: Sequence[Network], *, many: bool = False
) -> Iterator[Port]:
    """A port for each network asked for; `many` more will ask in this transaction. Raises Refused when it has
    no free address, or not that one."""
    for index, (request, network) in enumerate(zip(wanted, networks, strict=True)):
        ip = _address(tx, network, request.ip, many=many)
        port = port_id(uuid, index)
        yield Port(
            id=port,
            index=index,
            network=network.name,
            bridge=network.bridge,
            mac=next(
                mac for salt in range(64) if not instances.mac_is_taken(tx, mac := mac_address(port, salt))
            ),
            ip=ip,
            prefix=int(network.cidr.rpartition("/")[2]),
            gateway=network.gateway,
            dns=network.dns,
            mtu=network.mtu,
            tap=tap_name(port),
        )


def _address(tx: Tx, network: Network, wanted: str | None, *, many: bool) -> str:
    """The address asked for, or the lowest that is free; those that this transaction has chosen are not."""
    given: set[str] = tx.memo.setdefault(f"given {network.id}", set())
    if wanted is not None:
        taken = {*given, wanted} if addresses.is_taken(tx, network.id, wanted) else given
        free = free_addresses(network, taken, _elsewhere(tx), wanted)
    else:
        free = tx.memo.setdefault(f"free {network.id}", _free(tx, network, given, many=many))
    if (ip := next(free, None)) is None:
        raise Refused(f"network {network.name} ({network.cidr}) has no free address")
    given.add(ip)
    return ip


def _free(tx: Tx, network: Network, given: set[str], *, many: bool) -> Iterator[str]:
    """Addresses that nobody has, lowest first. Mostly the one at the mark is free; after the first that is
    not, or for many, all that are given are read. Those that only a host or a name server had are found by
    the second look, from the beginning."""
    taken = set(instances.taken_addresses(tx, network.id)) if many else None
    for since in dict.fromkeys((addresses.lowest(tx, network.id), 0)):
        for ip in free_addresses(network, given, _elsewhere(tx), None, since=since):
            if taken is None and addresses.is_taken(tx, network.id, ip):
                taken = set(instances.taken_addresses(tx, network.id))
            if taken is None or ip not in taken:
                addresses.mark(tx, network.id, int(IPv4Address(ip)) + 1)
                yield ip


def _elsewhere(tx: Tx) -> list[str]:
    """The hosts' own addresses: never given to a guest."""
    if "elsewhere" not in tx.memo:
        tx.memo["elsewhere"] = [row[0] for row in tx.tuples("SELECT address FROM hosts")]
    found: list[str] = tx.memo["elsewhere"]
    return found
