"""Certificates of hosts and the authority that signs them, as remembered: no private key is in them."""

import base64
import hashlib
from dataclasses import dataclass
from enum import StrEnum

EXPIRING = 30 * 86400
"""Seconds before its end from which on a certificate is to be renewed."""


class CertificateState(StrEnum):
    """What one is good for now."""

    VALID = "valid"
    EXPIRING = "expiring"
    EXPIRED = "expired"
    REVOKED = "revoked"
    REPLACED = "replaced"  # its host has a newer one; revoke HOST revokes it too
    UNPLACED = "unplaced"  # it is not known that it ever reached its host


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """One host's. `names`: what it may be called by. `crl_number`: the revocation list that its host has."""

    serial: str
    host: str
    names: tuple[str, ...]
    pem: str
    not_before: str
    not_after: str
    placed_at: str | None = None
    revoked_at: str | None = None
    crl_number: int = 0


@dataclass(frozen=True, kw_only=True)
class Authority:
    """What signs: `key` is a reference to its sealed private key, `crl` the newest revocation list."""

    pem: str
    key: str
    not_before: str
    not_after: str
    crl: str
    crl_number: int


def fingerprint(pem: str) -> str:
    """As `openssl x509 -fingerprint -sha256` has it."""
    body = "".join(line for line in pem.splitlines() if not line.startswith("-"))
    return hashlib.sha256(base64.b64decode(body)).digest().hex(":").upper()
