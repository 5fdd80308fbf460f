"""One look for all who ask at the same time."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from novactl.errors import HostUnreachable
from novactl.objects.states import PowerState
from novactl.virt.shared import SharedLook
from tests.support import fleet
from tests.virt.ground import OTHER, UUID, Ground


class Host:
    """Answers when it is let to; counts its looks. Every answer has the number of its look."""

    def __init__(self) -> None:
        self.looks: list[str] = []
        self.open = threading.Event()
        self.shared = SharedLook(self.one, self.many)

    def one(self, key: str) -> int:
        self.looks.append(key)
        assert self.open.wait(10)
        return len(self.looks)

    def many(self) -> dict[str, int]:
        self.looks.append("all")
        assert self.open.wait(10)
        return {f"g{n}": len(self.looks) for n in range(50)}


def eventually(condition: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(1000):
        if condition():
            return
        waited.wait(0.01)
    raise AssertionError("it did not come to that")


def waiting(host: Host) -> int:
    return len(host.shared._next[0]) if host.shared._next else 0


def test_fifty_ask_and_two_looks_are_taken() -> None:
    host = Host()
    with ThreadPoolExecutor(60) as pool:
        first = pool.submit(host.shared.ask, "g0")
        eventually(lambda: host.looks == ["g0"])
        others = [pool.submit(host.shared.ask, f"g{n}") for n in range(50)]
        eventually(lambda: waiting(host) == 50)
        assert host.looks == ["g0"]  # nobody is answered by a look that began before the question
        host.open.set()
        assert first.result() == 1
        assert [one.result() for one in others] == [2] * 50
    assert host.looks == ["g0", "all"]


def test_one_after_the_other_is_asked_alone() -> None:
    host = Host()
    host.open.set()
    assert [host.shared.ask(key) for key in ("g1", "g2", "g1")] == [1, 2, 3]
    assert host.looks == ["g1", "g2", "g1"]


def test_what_the_look_at_all_did_not_tell() -> None:
    host = Host()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(host.shared.ask, "g0")
        eventually(lambda: host.looks == ["g0"])
        others = [pool.submit(host.shared.ask, key) for key in ("nosuch", "g1")]
        eventually(lambda: waiting(host) == 2)
        host.open.set()
        assert [first.result(), *(one.result() for one in others)] == [1, None, 2]


def test_each_has_an_error_of_its_own() -> None:
    """An outcome writes its operation into its error."""
    host = Host()

    def fails() -> dict[str, int]:
        raise HostUnreachable("kvm1: no answer in time", hint="wait")

    host.shared = SharedLook(host.one, fails)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(host.shared.ask, "g0")
        eventually(lambda: host.looks == ["g0"])
        others = [pool.submit(host.shared.ask, f"g{n}") for n in range(3)]
        eventually(lambda: waiting(host) == 3)
        host.open.set()
        assert first.result() == 1
        errors = [one.exception() for one in others]
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert isinstance(error, HostUnreachable)
        assert (error.message, error.hint, error.code) == ("kvm1: no answer in time", "wait", 7)
    assert host.shared.ask("g5") == 2  # and the next one is asked anew


def test_many_waiters_on_a_host(host: Ground) -> None:
    """Also for domains that are not there."""
    host.guest()
    host.guest(OTHER)
    host.hypervisor.start(OTHER, 1)
    keys = [UUID, OTHER, fleet.uuid(9)] * 10
    with ThreadPoolExecutor(30) as pool:
        found = list(pool.map(host.hypervisor.power_state, keys))
    assert found == [PowerState.SHUTDOWN, PowerState.RUNNING, PowerState.NOSTATE] * 10
