"""The same work for many hosts at once, where some answer late or never."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from novactl.errors import HostUnreachable, NovactlError

AT_ONCE = 64

T = TypeVar("T")


def fan_out(
    work: Callable[[str], T], hosts: Sequence[str], *, deadline: float, at_once: int = AT_ONCE
) -> Iterator[tuple[str, T | NovactlError]]:
    """What `work` returns for each host, or the NovactlError it raises, as they end. At most `at_once` are
    worked on; one that takes longer than `deadline` seconds is given up (HostUnreachable) and holds up no
    other: its thread ends with the process."""
    waiting = iter(hosts)
    ended: queue.SimpleQueue[tuple[str, T | BaseException]] = queue.SimpleQueue()
    began: dict[str, float] = {}

    def one(host: str) -> None:
        try:
            ended.put((host, work(host)))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            ended.put((host, error))

    while True:
        while len(began) < at_once and (host := next(waiting, None)) is not None:
            began[host] = time.monotonic()
            threading.Thread(target=one, args=(host,), daemon=True).start()
        if not began:
            return
        try:
            left = min(began.values()) + deadline - time.monotonic()
            host, result = ended.get(timeout=max(0.0, left))
        except queue.Empty:
            host = min(began, key=lambda name: began[name])
            result = HostUnreachable(f"{host}: no answer within {deadline:g} s")
        if began.pop(host, None) is None:
            continue  # given up before
        if isinstance(result, BaseException) and not isinstance(result, NovactlError):
            raise result
        yield host, result
