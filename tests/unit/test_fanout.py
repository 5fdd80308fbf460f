"""The same work for many hosts at once, and who answers at all."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from novactl.errors import HostUnreachable, NovactlError
from novactl.remote import knock as knocking
from novactl.remote.fanout import fan_out
from novactl.remote.knock import is_numeric, knock

HOSTS = [f"h{n}" for n in range(20)]


def test_every_host_once_and_errors_are_results() -> None:
    def work(host: str) -> str:
        if host == "h3":
            raise HostUnreachable("h3: no answer")
        return host.upper()

    found = dict(fan_out(work, HOSTS, deadline=5))
    assert isinstance(found.pop("h3"), HostUnreachable)
    assert found == {host: host.upper() for host in HOSTS if host != "h3"}
    assert list(fan_out(work, [], deadline=5)) == []


def test_no_more_than_wanted_at_once() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def work(host: str) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1

    assert len(list(fan_out(work, HOSTS, deadline=5, at_once=4))) == len(HOSTS)
    assert most == 4


def test_those_that_hang_hold_up_no_other() -> None:
    released = threading.Event()

    def work(host: str) -> str:
        if host in ("h0", "h1"):
            released.wait(30)
        return host

    began = time.monotonic()
    found = list(fan_out(work, HOSTS, deadline=0.4, at_once=2))
    assert time.monotonic() - began < 5
    released.set()
    assert sorted(host for host, _ in found) == sorted(HOSTS)  # each once, also when it answers after all
    late = {host: str(result) for host, result in found if isinstance(result, NovactlError)}
    assert late == {host: f"{host}: no answer within 0.4 s" for host in ("h0", "h1")}


def test_a_fault_of_ours_is_raised() -> None:
    def work(host: str) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(fan_out(work, HOSTS, deadline=5))


def test_hosts_are_worked_on_as_they_arrive() -> None:
    def arrivals(hosts: Sequence[str]) -> Iterator[tuple[str, NovactlError | None]]:
        yield "h2", None
        yield "h1", HostUnreachable("h1: no answer")
        time.sleep(0.2)
        yield "h0", None

    found = list(fan_out(str.upper, HOSTS[:3], deadline=5, arrivals=arrivals))
    assert [host for host, _ in found][-1] == "h0"
    assert {host: str(result) for host, result in found} == {"h0": "H0", "h1": "h1: no answer", "h2": "H2"}


# --- knocking ---


@pytest.fixture
def listening() -> Iterator[dict[str, socket.socket]]:
    """Servers by name: polite says its word, silent says none."""
    servers = {name: socket.create_server(("127.0.0.1", 0)) for name in ("polite", "silent", "late")}
    stop = threading.Event()

    def greet(name: str, after: float) -> None:
        connection, _ = servers[name].accept()
        stop.wait(after)
        connection.sendall(b"SSH-2.0-x\r\n")
        stop.wait(30)
        connection.close()

    threads = [threading.Thread(target=greet, args=words) for words in (("polite", 0), ("late", 0.5))]
    for thread in threads:
        thread.start()
    yield servers
    stop.set()
    for thread in threads:
        thread.join()
    for server in servers.values():
        server.close()


def test_who_answers(listening: dict[str, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knocking, "BANNER_TIMEOUT", 1.5)
    places = {name: ("127.0.0.1", server.getsockname()[1]) for name, server in listening.items()}
    closed = socket.create_server(("127.0.0.1", 0))
    places |= {"refused": closed.getsockname(), "no route": ("255.255.255.255", 22)}
    closed.close()
    found = list(knock(places))
    answers = dict(found)
    assert {name for name, answer in found} == set(places)
    order = [name for name, _ in found]
    assert order.index("polite") < order.index("late") < order.index("silent")
    for name in ("polite", "late"):
        answer = answers[name]
        assert isinstance(answer, socket.socket)
        assert answer.recv(100) == b"SSH-2.0-x\r\n"  # still there to be read
        answer.close()
    assert isinstance(answers["silent"], TimeoutError)
    assert isinstance(answers["refused"], ConnectionRefusedError)
    assert isinstance(answers["no route"], OSError)


def test_more_than_may_be_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knocking, "KNOCKS", 3)
    closed = socket.create_server(("127.0.0.1", 0))
    place = closed.getsockname()
    closed.close()
    assert sorted(name for name, _ in knock(dict.fromkeys(HOSTS, place))) == sorted(HOSTS)
    assert list(knock({})) == []


@pytest.mark.parametrize(("text", "numeric"), [("192.0.2.1", True), ("2001:db8::1", True), ("kvm1", False)])
def test_addresses_that_need_no_looking_up(text: str, numeric: bool) -> None:
    assert is_numeric(text) is numeric
