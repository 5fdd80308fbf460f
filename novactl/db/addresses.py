"""Which addresses of a network are given. A mark of each network says below which number none is free, so the
next one is found at once however many there are."""

from ipaddress import IPv4Address

from novactl.db.session import Tx, meta, set_meta


def is_taken(tx: Tx, network_id: str, ip: str) -> bool:
    """Whether an instance has it."""
    sql = "SELECT 1 AS yes FROM ports WHERE network_id = :id AND ip = :ip"
    return tx.one(sql, id=network_id, ip=ip) is not None


def lowest(tx: Tx, network_id: str) -> int:
    """The mark: every address with a lower number is given."""
    return int(meta(tx, _name(network_id)) or 0)


def mark(tx: Tx, network_id: str, number: int) -> None:
    """No address below this number is free."""
    set_meta(tx, _name(network_id), str(number))


def freed(tx: Tx, network_id: str, ip: str) -> None:
    """This one is free again. The mark is locked first: of two freed at once the lower one counts."""
    locked = tx.run("UPDATE meta SET value = value WHERE name = :name", name=_name(network_id))
    if locked and (number := int(IPv4Address(ip))) < lowest(tx, network_id):
        mark(tx, network_id, number)


def forget(tx: Tx, network_id: str) -> None:
    """The network, or what of it is not to be given, has changed."""
    tx.run("DELETE FROM meta WHERE name = :name", name=_name(network_id))


def _name(network_id: str) -> str:
    return f"lowest {network_id}"
