"""Which addresses a download may go to: what a web server says must not make us talk to our own networks."""

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from novactl.errors import NovactlError, Refused, UsageError

PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")  # all that is given out of IPv6
_APART = tuple(map(ipaddress.ip_network, ("3fff::/20", "192.0.0.0/24", "192.88.99.0/24")))
"""Documentation, protocols and relays, which this Python takes for public."""
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Target:
    """Where a URL leads. `path` has the query; `shown` has neither query nor fragment: they may be secret."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def shown(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path.partition('?')[0]}"

    @property
    def place(self) -> tuple[str, int]:
        return self.host, self.port


def target_of(url: str) -> Target:
    """Raises UsageError for what is no URL of a file that we may fetch."""
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode() if parts.hostname else ""
    except ValueError as error:
        raise UsageError(f"URL cannot be understood: {error}") from error
    if parts.scheme not in PORTS:
        raise UsageError(
            f"URL scheme {parts.scheme or 'none'}: only http and https", hint="a local file: --file"
        )
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "URL has a user or password in it", hint="others see it: fetch the file, then --file"
        )
    if not host or any(ord(letter) <= 32 or ord(letter) > 126 for letter in url):
        raise UsageError("URL cannot be understood", hint="https://HOST/PATH, other characters as %XX")
    return Target(parts.scheme, host, port or PORTS[parts.scheme], _path(parts))


def _path(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def resolve(target: Target, trusted: tuple[str, int] | None) -> list[str]:
    """The addresses of its host, to connect to and to no other. `trusted` is the place that the operator
    named and vouches for. Raises Refused when one is not public, NovactlError when there is none."""
    try:
        found = socket.getaddrinfo(*target.place, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NovactlError(f"{target.shown}: host {target.host} has no address: {error}") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if trusted != target.place:
        for address in addresses:
            if not is_public(address):
                why = f"{target.shown}: {target.host} is {address}, not a public address"
                raise Refused(why, hint="if that is meant: --allow-private, for the host in the URL itself")
    return addresses


def is_public(text: str) -> bool:
    """Whether the address is one of the public internet; what wraps an IPv4 address is as that one is."""
    try:
        address: Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return all(_is_global(one) for one in (address, *_inside(address)))


def _is_global(address: Address) -> bool:
    """As ipaddress has it, and more carefully."""
    if address.version == 6 and address not in _UNICAST and address not in _NAT64:
        return False
    return address.is_global and not address.is_multicast and not any(address in net for net in _APART)


def _inside(address: Address) -> list[Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return []
    held: list[Address | None] = [address.ipv4_mapped, address.sixtofour]
    if address in _NAT64:
        held.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.teredo:
        held.extend(address.teredo)
    return [one for one in held if one is not None]


def named_by(target: Target) -> bool:
    """Whether it says an address itself, or localhost: then that is what is meant."""
    try:
        ipaddress.ip_address(target.host)
    except ValueError:
        return target.host == "localhost"
    return True
