"""Whether a host answers at all: what proves that it is down, and what does not."""

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from novactl.actions.fencing import answers, by_word
from novactl.errors import HostUnreachable, HostUntrusted, NovactlError, Refused
from novactl.remote import connection
from novactl.remote.shell import HostShell, failure
from novactl.remote.ssh_config import SshFiles
from novactl.virt.hypervisor import Hypervisor
from tests.support.scratch import FLEET
from tests.virt.ground import Ground


def world(hypervisor: Any) -> Any:
    return SimpleNamespace(hypervisor=lambda name: hypervisor)


def host_of(connect: Callable[[], Any]) -> Hypervisor:
    return Hypervisor(HostShell("kvm1", connect, sudo=False), FLEET, "/instances")


def test_without_libvirt_it_answers(host: Ground) -> None:
    """Its guests run on. Also when it was asked before."""
    assert host.local
    host.guest()
    (host.local.domains / ".down").touch()
    with pytest.raises(HostUnreachable, match="failed to connect"):
        host.hypervisor.states()
    assert answers(world(host.hypervisor), "kvm1")
    with pytest.raises(Refused, match="host kvm1 answers: it is not down") as caught:
        by_word(world(host.hypervisor), SimpleNamespace(name="kvm1"), "kvm1")  # type: ignore[arg-type]
    assert caught.value.code == 5


@pytest.mark.parametrize(
    "error",
    [
        failure("kvm1", 79, "libvirt does not answer"),
        failure("kvm1", 1, "error: failed to connect to the hypervisor"),
        HostUnreachable("kvm1: no answer in time"),
        failure("kvm1", 76, "this host is not enrolled in this fleet"),
    ],
)
def test_whose_every_call_fails(ground: Ground, monkeypatch: pytest.MonkeyPatch, error: NovactlError) -> None:
    def fails(*words: Any, **options: Any) -> Any:
        raise error

    for name in ("states", "greet", "power_state"):
        monkeypatch.setattr(ground.hypervisor, name, fails)
    if ground.local:
        monkeypatch.setattr(ground.local.shell, "call_bytes", fails)
    assert answers(world(ground.hypervisor), "kvm1")


def test_a_link_of_before_proves_nothing(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host has gone off since, and the connection does not know yet."""
    ground.hypervisor.states()
    if ground.local is None:
        ground.hypervisor.host.up = False
    else:

        def silence() -> Any:
            error = HostUnreachable("kvm1: no answer")
            error.silent = True
            raise error

        monkeypatch.setattr(ground.local.shell, "_connect", silence)
    assert not answers(world(ground.hypervisor), "kvm1")


# --- how connecting may fail ---


@pytest.fixture
def files(tmp_path: Path) -> Callable[[int], SshFiles]:
    def made(port: int) -> SshFiles:
        text = f"Host kvm1\n  HostName 127.0.0.1\n  Port {port}\n  User root\n"
        (tmp_path / "config").write_text(text)
        (tmp_path / "known_hosts").write_text("")
        return SshFiles(tmp_path / "config", tmp_path / "known_hosts", tmp_path / "wrapper")

    return made


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def test_it_refuses_our_key_or_shows_another() -> None:
    def refuses() -> Any:
        raise HostUntrusted("kvm1: it accepts none of your keys")

    assert answers(world(host_of(refuses)), "kvm1")


def test_it_takes_a_connection_and_says_nothing(
    listener: socket.socket, files: Callable[[int], SshFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An sshd that is overloaded or ill: a guest may run beside it."""
    monkeypatch.setattr(connection, "_was_dropped", lambda error: False)

    def hangs_up() -> None:
        while True:
            try:
                listener.accept()[0].close()
            except OSError:
                return

    threading.Thread(target=hangs_up, daemon=True).start()
    port = listener.getsockname()[1]
    assert answers(world(host_of(lambda: connection.connect("kvm1", files(port)))), "kvm1")


def test_nothing_listens_there(listener: socket.socket, files: Callable[[int], SshFiles]) -> None:
    """Its kernel refuses, so it is on."""
    port = listener.getsockname()[1]
    listener.close()
    assert answers(world(host_of(lambda: connection.connect("kvm1", files(port)))), "kvm1")


@pytest.mark.parametrize("error", [TimeoutError(), OSError(errno.EHOSTUNREACH, "No route to host")])
def test_nothing_is_there(
    files: Callable[[int], SshFiles], monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def nobody(*words: Any) -> Any:
        raise error

    monkeypatch.setattr(connection, "_plain_socket", nobody)
    host = host_of(lambda: connection.connect("kvm1", files(22)))
    assert not answers(world(host), "kvm1")
    with pytest.raises(HostUnreachable, match=r"^kvm1: no (answer|[Rr]oute to host)$"):
        host.states()
