"""A NIC for each network that is asked for, with the first free address."""

from collections.abc import Iterator, Sequence

from novactl.db import instances
from novactl.db.session import Tx
from novactl.errors import Refused
from novactl.objects.names import mac_address, port_id, tap_name
from novactl.objects.network import Network, Port, free_addresses
from novactl.objects.request import NetworkRequest


def ports(tx: Tx, uuid: str, wanted: Sequence[NetworkRequest], networks: Sequence[Network]) -> Iterator[Port]:
    """A port for each network asked for. Raises Refused when it has no free address, or not that one."""
    for index, (request, network) in enumerate(zip(wanted, networks, strict=True)):
        ip = _address(tx, network, request.ip)
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


def _address(tx: Tx, network: Network, wanted: str | None) -> str:
    """The address asked for, or the lowest that is free; those of this transaction count as taken."""
    taken = _taken(tx, network)
    if wanted is not None:
        ip = next(free_addresses(network, taken, _elsewhere(tx), wanted), None)
    else:
        key = f"free {network.id}"
        if key not in tx.memo:
            tx.memo[key] = free_addresses(network, taken, _elsewhere(tx), None)
        ip = next(tx.memo[key], None)
    if ip is None:
        raise Refused(f"network {network.name} ({network.cidr}) has no free address")
    taken.add(ip)
    return ip


def _taken(tx: Tx, network: Network) -> set[str]:
    key = f"taken {network.id}"
    if key not in tx.memo:
        tx.memo[key] = set(instances.taken_addresses(tx, network.id))
    found: set[str] = tx.memo[key]
    return found


def _elsewhere(tx: Tx) -> list[str]:
    """The hosts' own addresses: never given to a guest."""
    if "elsewhere" not in tx.memo:
        tx.memo["elsewhere"] = [row[0] for row in tx.tuples("SELECT address FROM hosts")]
    found: list[str] = tx.memo["elsewhere"]
    return found
