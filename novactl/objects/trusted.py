"""Networks that the operator trusts: guests may travel there in clear."""

import ipaddress
from collections.abc import Mapping

from novactl.errors import UsageError
from novactl.objects.names import check_name


def check_trusted(networks: Mapping[str, str]) -> Mapping[str, str]:
    """`networks` ({name: CIDR}) when each is one, else UsageError."""
    for name, cidr in networks.items():
        check_name(name, "trusted network")
        try:
            ipaddress.ip_network(cidr if isinstance(cidr, str) else "")
        except ValueError as error:
            raise UsageError(f"trusted network {name}: {cidr!r} is not a network", hint=str(error)) from error
    return networks


def trusted_by(networks: Mapping[str, str], *addresses: str) -> str | None:
    """The name of a network that all these addresses are in; None for none, or when one is a name."""
    try:
        asked = [ipaddress.ip_address(address) for address in addresses]
    except ValueError:
        return None
    for name, cidr in networks.items():
        if all(address in ipaddress.ip_network(cidr) for address in asked):
            return name
    return None
