"""The image store that operators share, on a host: a directory there, or a pool of RBD that it reaches
(remote/store.sh). `where` is objects.place.Place's."""

from novactl.objects.names import SHA256, check_pattern
from novactl.version import __version__
from novactl.virt.calls import Calls, Feed, job_words

VERIFY_DEADLINE = 3600.0  # seconds in which all bytes of one file are read


class ImageStore(Calls):
    """Files that lie there as they were added, by their SHA-256."""

    def store_ready(self, where: str) -> int | None:
        """It can be used; the free bytes of a directory, which is made. HostFault when it cannot."""
        return self._number(self._ours("nv_store_ready", self.fleet, where).strip() or "0") or None

    def store_state(self, where: str, name: str, job: tuple[str, int] | None = None) -> tuple[bool, int]:
        """As base_state()."""
        words = job_words(*job) if job else ()
        answer = self._ours("nv_store_state", self.fleet, where, _check(name), *words).strip()
        return (True, 0) if answer == "ready" else (False, self._number(answer))

    def store_receive(self, where: str, name: str, size: int, start: int, feed: Feed) -> None:
        """As base_receive()."""
        words = (self.fleet, where, _check(name), str(size), str(start))
        self.shell.stream("nv_store_receive", *words, feed=feed)

    def store_finish_words(self, where: str, name: str, size: int) -> list[str]:
        """What was received is hashed and in the store; the words of a job."""
        return [
            "nv_store_finish",
            self.fleet,
            where,
            _check(name),
            f"novactl {__version__}",
            str(size),
        ]

    def store_files(self, where: str) -> dict[str, int]:
        """What is there, or came in part, and how many seconds ago."""
        lines = self._ours("nv_store_list", self.fleet, where).splitlines()
        found = {name: age for name, _, age in (line.partition(" ") for line in lines)}
        return {name: int(age) for name, age in found.items() if SHA256.fullmatch(name)}

    def store_verify(self, where: str, name: str, *, act: bool) -> str:
        """What all of its bytes say of a file: ok, gone or corrupt; `act`: then it is there no more."""
        words = ("nv_store_verify", self.fleet, where, _check(name), "act" if act else "look")
        return self._ours(*words, deadline=VERIFY_DEADLINE).strip()

    def store_drop(self, where: str, name: str) -> None:
        """The file is not there."""
        self._ours("nv_store_drop", self.fleet, where, _check(name), deadline=VERIFY_DEADLINE)

    def store_serve_words(self, where: str, name: str) -> list[str]:
        """All that a key of one file may do here: get it."""
        return ["nv_store_serve", self.fleet, where, _check(name)]


def _check(name: str) -> str:
    return check_pattern(name, SHA256, "image checksum")
