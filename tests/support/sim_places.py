"""What virt.places.ImageStore promises, of a simulated host."""

from collections.abc import Callable
from typing import Any

from novactl.objects.names import SHA256, check_pattern
from novactl.virt.calls import Feed


class SimPlaces:
    """Files in `host.stored` by (where, name), and when they came; `host.rotten` is of those too."""

    host: Any
    fleet: str
    clock: Any
    _call: Any
    _ours: Any
    _die: Any
    _half: Any
    _forget: Any
    receiver: Callable[..., Any]

    def store_ready(self, where: str) -> int | None:
        with self._call("store_ready"):
            self._ours()
            return int(self.host.free) if where.startswith("/") else None

    def store_state(self, where: str, name: str, job: tuple[str, int] | None = None) -> tuple[bool, int]:
        check_pattern(name, SHA256, "image checksum")
        with self._call("store_state"):
            self._ours()
            if (where, name) not in self.host.stored:
                return False, len(self.host.coming.get((where, name), b""))
            if job:
                self._forget(*job)
            return True, 0

    def store_receive(self, where: str, name: str, size: int, start: int, feed: Feed) -> None:
        check_pattern(name, SHA256, "image checksum")
        with self._call("store_receive"):
            part = self.host.coming.setdefault((where, name), bytearray())
            if start != len(part):
                self._die(77, f"the transfer stands at byte {len(part)} by now")
            receiver = self.receiver(part, size, ready=(where, name) in self.host.stored)
            feed(receiver.readline, receiver.write)
            if not receiver.finished:
                self._die(1, "the transfer was cut")

    def store_finish_words(self, where: str, name: str, size: int) -> list[str]:
        check_pattern(name, SHA256, "image checksum")
        return ["nv_store_finish", self.fleet, where, name, "sim", str(size)]

    def store_files(self, where: str) -> dict[str, int]:
        with self._call("store_files"):
            self._ours()
            now = self.clock.monotonic()
            there = dict.fromkeys(self.host.coming, now) | self.host.stored
            return {name: int(now - came) for (at, name), came in there.items() if at == where}

    def store_verify(self, where: str, name: str, *, act: bool) -> str:
        check_pattern(name, SHA256, "image checksum")
        with self._call("store_verify"):
            self._ours()
            if (where, name) not in self.host.stored:
                return "gone"
            if name not in self.host.rotten:
                return "ok"
            if act:
                del self.host.stored[where, name]
            return "corrupt"

    def store_drop(self, where: str, name: str) -> None:
        check_pattern(name, SHA256, "image checksum")
        with self._call("store_drop"):
            self._ours()
            self.host.coming.pop((where, name), None)
            self._half("store_drop")
            self.host.stored.pop((where, name), None)

    def store_serve_words(self, where: str, name: str) -> list[str]:
        check_pattern(name, SHA256, "image checksum")
        return ["nv_store_serve", self.fleet, where, name]
