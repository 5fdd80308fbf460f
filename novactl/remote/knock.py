"""Which of many hosts answer at all: TCP connections to all of them from one thread, in the order in which
their sshd says its first word. Those that say nothing keep no one waiting."""

import contextlib
import os
import selectors
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

CONNECT_TIMEOUT = 5.0  # as for any connection
BANNER_TIMEOUT = 10.0
KNOCKS = 256  # file descriptors; silent hosts hold one for no longer than the times above

Place = tuple[str, int]


@dataclass
class _Knock:
    host: str
    sock: socket.socket
    until: float
    connected: bool = False


def is_numeric(address: str) -> bool:
    """Whether nothing has to be looked up for it."""
    try:
        ip_address(address)
    except ValueError:
        return False
    return True


def knock(places: Mapping[str, Place]) -> Iterator[tuple[str, socket.socket | OSError]]:
    """Each host's open socket, on which its banner waits to be read, or why there is none, as they come.
    Addresses are numeric."""
    waiting = iter(places.items())
    pending: dict[str, _Knock] = {}
    selector = selectors.DefaultSelector()
    try:
        while True:
            while len(pending) < KNOCKS and (one := next(waiting, None)) is not None:
                host, place = one
                try:
                    pending[host] = _begin(selector, host, place)
                except OSError as error:
                    yield host, error
            if not pending:
                return
            for each, result in _events(selector, pending):
                selector.unregister(each.sock)
                del pending[each.host]
                if isinstance(result, OSError):
                    each.sock.close()
                yield each.host, result
    finally:
        selector.close()
        for each in pending.values():
            each.sock.close()


def _begin(selector: selectors.BaseSelector, host: str, place: Place) -> _Knock:
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(place)
        made = _Knock(host, sock, time.monotonic() + CONNECT_TIMEOUT)
        selector.register(sock, selectors.EVENT_WRITE, made)
    except OSError:
        sock.close()
        raise
    return made


def _events(
    selector: selectors.BaseSelector, pending: Mapping[str, _Knock]
) -> Iterator[tuple[_Knock, socket.socket | OSError]]:
    """Wait until something happens: those that are through, or failed."""
    soonest = min(each.until for each in pending.values())
    for key, _ in selector.select(max(0.0, soonest - time.monotonic())):
        each: _Knock = key.data
        if each.connected:
            each.sock.settimeout(CONNECT_TIMEOUT)
            yield each, each.sock
        elif code := each.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            yield each, OSError(code, os.strerror(code))
        else:
            each.connected, each.until = True, time.monotonic() + BANNER_TIMEOUT
            selector.modify(each.sock, selectors.EVENT_READ, each)
    now = time.monotonic()
    for each in [each for each in pending.values() if each.until <= now]:
        yield each, TimeoutError("no answer")
