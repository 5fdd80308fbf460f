"""How a guest's memory and disks travel: through ssh, by TLS, or in clear on a network that is trusted."""

import ipaddress

from novactl.db import hosts, settings
from novactl.db.session import Tx
from novactl.objects.trusted import trusted_by

SSH, TLS, TCP = "ssh", "tls", "tcp"
TRANSPORTS = (SSH, TLS, TCP)


def unfit(tx: Tx, transport: str, source: str, target: str, now: str) -> str | None:
    """Why nothing can travel so from one host to the other; None when it can."""
    if transport == SSH:
        return None
    here, there = hosts.get(tx, source).address, hosts.get(tx, target).address
    try:
        ipaddress.ip_address(there)
    except ValueError:
        return f"{target} is enrolled as {there}, which is a name: its QEMU listens on an address"
    if transport == TLS:
        from novactl.actions import pki

        return pki.tls_ready(tx, source, now) or pki.tls_ready(tx, target, now)
    if trusted_by(settings.get(tx, "trusted_networks"), here, there) is None:
        return f"no trusted network has both {here} and {there}: trusted_networks of the inventory"
    return None
