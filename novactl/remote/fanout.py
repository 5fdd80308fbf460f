"""The same work for many hosts at once, where some answer late or never."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from novactl.errors import HostUnreachable, NovactlError

AT_ONCE = 64

T = TypeVar("T")
Arrivals = Callable[[Sequence[str]], Iterator[tuple[str, NovactlError | None]]]
"""Hosts in the order in which they may be worked on; those that cannot be with the reason."""


def all_at_once(hosts: Sequence[str]) -> Iterator[tuple[str, NovactlError | None]]:
    """Arrivals of hosts that nobody has to wait for."""
    for host in hosts:
        yield host, None


@dataclass
class _Event(Generic[T]):
    """A host arrived (`result` is None), or its work ended; or without a host, the arrivals did."""

    host: str | None = None
    result: T | BaseException | None = None
    arrived: bool = False


def fan_out(
    work: Callable[[str], T],
    hosts: Sequence[str],
    *,
    deadline: float,
    at_once: int = AT_ONCE,
    arrivals: Arrivals = all_at_once,
) -> Iterator[tuple[str, T | NovactlError]]:
    """What `work` returns for each host, or the NovactlError it raises, as they end. At most `at_once` are
    worked on, each when it has arrived; one that takes longer than `deadline` seconds is given up
    (HostUnreachable) and holds up no other: its thread ends with the process."""
    events: queue.SimpleQueue[_Event[T]] = queue.SimpleQueue()
    waiting: deque[str] = deque()
    began: dict[str, float] = {}
    coming = bool(hosts)
    if coming:
        _start(_gather, events, arrivals, hosts)
    while coming or waiting or began:
        while waiting and len(began) < at_once:
            host = waiting.popleft()
            began[host] = time.monotonic()
            _start(_do, events, work, host)
        try:
            limit = max(0.0, min(began.values()) + deadline - time.monotonic()) if began else None
            event = events.get(timeout=limit)
        except queue.Empty:
            late = min(began, key=lambda name: began[name])
            event = _Event(late, HostUnreachable(f"{late}: no answer within {deadline:g} s"))
        if isinstance(event.result, BaseException) and not isinstance(event.result, NovactlError):
            raise event.result
        if event.host is None:
            coming = False
        elif event.arrived and event.result is None:
            waiting.append(event.host)
        elif event.arrived or began.pop(event.host, None) is not None:
            yield event.host, event.result  # type: ignore[misc]


def _start(target: Callable[..., None], *words: object) -> None:
    threading.Thread(target=target, args=words, daemon=True).start()


def _gather(events: "queue.SimpleQueue[_Event[T]]", arrivals: Arrivals, hosts: Sequence[str]) -> None:
    try:
        for host, error in arrivals(hosts):
            events.put(_Event(host, error, arrived=True))
        events.put(_Event())
    except BaseException as error:  # noqa: BLE001 - raised where it is waited for
        events.put(_Event(None, error))


def _do(events: "queue.SimpleQueue[_Event[T]]", work: Callable[[str], T], host: str) -> None:
    try:
        events.put(_Event(host, work(host)))
    except BaseException as error:  # noqa: BLE001 - raised where it is waited for
        events.put(_Event(host, error))
