"""One look for all who ask at the same time: of fifty that wait for their guests, one asks libvirt."""

import copy
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedLook(Generic[T]):
    """Asks one at a time. Who asks meanwhile is answered by the next look, with all others who do: an answer
    is never older than its question."""

    def __init__(self, one: Callable[[str], T], many: Callable[[], Mapping[str, T]]) -> None:
        self._one = one
        self._many = many
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._next: tuple[set[str], Future[Mapping[str, T]]] | None = None

    def ask(self, key: str) -> T | None:
        """What is known of `key`: one alone is asked for by itself, several together; None when a look at all
        did not tell. Raises what the look raised."""
        with self._lock:
            first = self._next is None
            if self._next is None:
                self._next = set(), Future()
            keys, answer = self._next
            keys.add(key)
        if first:
            with self._turn:
                with self._lock:
                    self._next = None
                self._look(keys, answer)
        try:
            return answer.result().get(key)
        except Exception as error:
            raise copy.copy(error) from error  # each has its own to say more in

    def _look(self, keys: set[str], answer: "Future[Mapping[str, T]]") -> None:
        try:
            (only,) = keys if len(keys) == 1 else (None,)
            answer.set_result(self._many() if only is None else {only: self._one(only)})
        except BaseException as error:  # noqa: BLE001 - for all who asked
            answer.set_exception(error)
