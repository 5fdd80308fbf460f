"""Certificates of hosts, and the fleet's authority in `meta`: named queries. What signs is db.x509."""

import json
from dataclasses import replace

from novactl.db.session import Row, Tx, dumps, meta, set_meta
from novactl.objects.certificate import Authority, Certificate

OWNER = "pki"
"""Whose the authority's sealed key is, among the secrets."""

AUTHORITY = "pki"  # in meta


def authority(tx: Tx) -> Authority | None:
    """The fleet's, once it was made."""
    text = meta(tx, AUTHORITY)
    return Authority(**json.loads(text)) if text else None


def keep_authority(tx: Tx, made: Authority) -> None:
    set_meta(tx, AUTHORITY, dumps(vars(made)))


def forget_all(tx: Tx) -> None:
    """There is no authority, its key is erased, and nothing that it signed is remembered."""
    tx.run("DELETE FROM certificates")
    tx.run("DELETE FROM secrets WHERE owner = :owner", owner=OWNER)
    tx.run("DELETE FROM meta WHERE name = :name", name=AUTHORITY)


def add(tx: Tx, made: Certificate) -> None:
    tx.insert("certificates", **{**vars(made), "names": dumps(list(made.names))})


def everything(tx: Tx) -> list[Certificate]:
    """All of them by host, the oldest first."""
    return [
        _certificate(row) for row in tx.all("SELECT * FROM certificates ORDER BY host, not_before, serial")
    ]


def of_host(tx: Tx, host: str) -> list[Certificate]:
    """A host's, the oldest first."""
    rows = tx.all("SELECT * FROM certificates WHERE host = :host ORDER BY not_before, serial", host=host)
    return [_certificate(row) for row in rows]


def placed(tx: Tx, one: Certificate, crl_number: int, now: str) -> Certificate:
    """Its host has it, and that revocation list; the host's that have expired are forgotten."""
    tx.run("DELETE FROM certificates WHERE host = :host AND not_after < :now", host=one.host, now=now)
    tx.run("UPDATE certificates SET placed_at = :now WHERE serial = :serial", now=now, serial=one.serial)
    told(tx, one.host, crl_number)
    return replace(one, placed_at=now, crl_number=crl_number)


def told(tx: Tx, host: str, crl_number: int) -> None:
    """The host has that revocation list, or a newer one."""
    tx.run(
        "UPDATE certificates SET crl_number = :number WHERE host = :host AND crl_number < :number",
        number=crl_number,
        host=host,
    )


def revoke(tx: Tx, serial: str, now: str) -> None:
    tx.run("UPDATE certificates SET revoked_at = :now WHERE serial = :serial", now=now, serial=serial)


def current(found: list[Certificate]) -> Certificate | None:
    """Of one host's: the one that it has."""
    there = sorted((one for one in found if one.placed_at), key=lambda one: one.placed_at or "")
    return there[-1] if there else None


def _certificate(row: Row) -> Certificate:
    return Certificate(**{**row, "names": tuple(json.loads(row["names"]))})
