"""Which addresses of a network are given. A mark of each network says below which number none is free, so the
next one is found at once however many there are."""

from collections.abc import Sequence
from ipaddress import IPv4Address

from novactl.db.session import Tx, meta, set_meta


def taken(tx: Tx, network_id: str, ips: Sequence[str]) -> set[str]:
    """Which of these, MANY at the most, an instance or a host has."""
    keys = {f"ip{n}": ip for n, ip in enumerate(ips)}
    among = f"IN ({', '.join(f':{key}' for key in keys)})"
    sql = (
        f"SELECT ip FROM ports WHERE network_id = :id AND ip {among}"
        f" UNION ALL SELECT address FROM hosts WHERE address {among}"
    )
    return {row[0] for row in tx.tuples(sql, id=network_id, **keys)}


def all_taken(tx: Tx, network_id: str) -> set[str]:
    """All that instances or hosts have."""
    sql = "SELECT ip FROM ports WHERE network_id = :id UNION ALL SELECT address FROM hosts"
    return {row[0] for row in tx.tuples(sql, id=network_id)}


def of_hosts(tx: Tx) -> list[str]:
    """The hosts' own: never given to a guest."""
    return [row[0] for row in tx.tuples("SELECT address FROM hosts")]


def lowest(tx: Tx, network_id: str) -> int:
    """The mark: every address with a lower number is given."""
    return int(meta(tx, mark_name(network_id)) or 0)


def mark(tx: Tx, network_id: str, number: int) -> None:
    """No address below this number is free."""
    set_meta(tx, mark_name(network_id), str(number))


def freed(tx: Tx, network_id: str, ip: str) -> None:
    """This one is free again. The mark is locked first: of two freed at once the lower one counts."""
    locked = tx.run("UPDATE meta SET value = value WHERE name = :name", name=mark_name(network_id))
    if locked and (number := int(IPv4Address(ip))) < lowest(tx, network_id):
        mark(tx, network_id, number)


def forget(tx: Tx, network_id: str) -> None:
    """The network, or what of it is not to be given, has changed."""
    tx.memo.get("meta", {}).pop(mark_name(network_id), None)
    tx.run("DELETE FROM meta WHERE name = :name", name=mark_name(network_id))


def mark_name(network_id: str) -> str:
    """Under which it is kept (session.meta)."""
    return f"lowest {network_id}"
