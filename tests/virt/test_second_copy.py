"""What a host remembers for a database that is lost or restored: the newest mark, the catalogue's copy."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from novactl.errors import HostFault, HostRefused
from novactl.objects.states import PowerState
from novactl.virt.calls import told_mark
from novactl.virt.hypervisor import Greeting, Hypervisor
from tests.support.scratch import FLEET
from tests.support.sim import SimHypervisor
from tests.virt.ground import UUID, Ground

OTHERS = "22222222-2222-4333-8444-555555555555"


def twin(ground: Ground) -> Hypervisor | SimHypervisor:
    """The same host, of another process."""
    if ground.local is None:
        return SimHypervisor(ground.hypervisor.host, FLEET, ground.clock, [])
    return Hypervisor(ground.local.shell, FLEET, str(ground.path))


def mark(serial: int, operation: str = "op-01") -> str:
    return f"{serial:012d}.{operation}" if serial else ""


# --- the mark of the newest operation ---


def test_a_host_remembers_the_highest_mark(ground: Ground) -> None:
    hypervisor, restored = ground.hypervisor, twin(ground)
    before = 0
    for told, highest in ((9, 9), (10, 10), (10, 10), (3, 10), (0, 10), (12345678901, 12345678901)):
        hypervisor.mark = mark(told)
        assert hypervisor.look(UUID, []).mark == mark(before)  # what it was told before this call
        assert restored.greet(UUID).mark == mark(highest)  # a database that knows of none
        before = highest


def test_the_first_operation_of_a_serial_stays(ground: Ground) -> None:
    """A restored database counts on from where it was: its operations do not hide the one it forgot."""
    hypervisor = ground.hypervisor
    for told in (mark(12, "op-0a"), mark(11, "op-ff"), mark(12, "op-ff")):
        hypervisor.mark = told
        hypervisor.look(UUID, [])
    assert hypervisor.greet(UUID).mark == mark(12, "op-0a")
    hypervisor.mark = mark(13, "op-ff")
    assert hypervisor.greet(UUID).mark == mark(12, "op-0a")
    assert hypervisor.greet(UUID).mark == mark(13, "op-ff")


def test_every_call_of_ours_tells_the_mark(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    acts = (
        lambda: hypervisor.power_state(UUID),
        lambda: hypervisor.make_directory(UUID, 1, "op-1"),
        lambda: hypervisor.fence(UUID, 1),
        lambda: hypervisor.put_copy(1, b"x"),
        lambda: hypervisor.job_forget("op-1", 1),
    )
    for serial, act in enumerate(acts, start=5):
        hypervisor.mark = mark(serial)
        act()
        assert twin(ground).greet(UUID).mark == mark(serial)


@pytest.mark.parametrize(
    "wrong", ["5", "x", "../000000000001.op-1", "000000000001.op-", "000000000001.op-1/x"]
)
def test_only_a_mark_is_kept(host: Ground, wrong: str) -> None:
    host.hypervisor.mark = wrong
    with pytest.raises(HostFault, match=r"is no mark$"):
        host.hypervisor.look(UUID, [])
    assert serials(host) == []


def test_another_fleet_learns_nothing(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    hypervisor.mark = mark(7)
    hypervisor.put_copy(3, b"catalogue")
    other = twin(ground)
    other.fleet, other.mark = OTHERS, mark(99)
    with pytest.raises(HostRefused):
        other.look(UUID, [])
    assert hypervisor.look(UUID, []).mark == mark(7)
    other.mark = mark(0)
    other.enrol(takeover=True)
    assert other.look(UUID, []).mark == mark(0)
    assert other.get_copy() == (0, b"")


def test_enrolling_again_forgets_nothing_and_leaving_all(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    hypervisor.mark = mark(7)
    hypervisor.put_copy(3, b"catalogue")
    hypervisor.enrol(takeover=True)
    hypervisor.mark = mark(0)
    assert (hypervisor.look(UUID, []).mark, hypervisor.get_copy()) == (mark(7), (3, b"catalogue"))
    hypervisor.leave()
    hypervisor.enrol(takeover=False)
    assert (hypervisor.look(UUID, []).mark, hypervisor.get_copy()) == ("", (0, b""))


def test_the_last_copy_of_a_catalogue_is_set_aside(host: Ground) -> None:
    assert host.local
    host.hypervisor.put_copy(3, b"catalogue")
    host.hypervisor.leave()
    assert (host.local.state / "catalogue.previous.json").read_bytes() == b"3\ncatalogue"


def serials(ground: Ground) -> list[str]:
    assert ground.local
    return sorted(path.name for path in (ground.local.state / "serial").iterdir())


def test_old_serials_are_cleared_away(host: Ground) -> None:
    assert host.local
    for serial in range(1, 65):
        (host.local.state / "serial" / mark(serial)).touch()
    host.hypervisor.mark = mark(64)
    host.hypervisor.look(UUID, [])
    assert len(serials(host)) == 64
    host.hypervisor.mark = mark(65)
    host.hypervisor.look(UUID, [])
    assert serials(host) == [mark(65)]
    host.hypervisor.mark = mark(2)
    assert host.hypervisor.look(UUID, []).mark == mark(65)


def test_a_host_enrolled_by_an_older_novactl(host: Ground) -> None:
    assert host.local
    (host.local.state / "serial").rmdir()
    host.hypervisor.mark = mark(4)
    assert host.hypervisor.look(UUID, []).mark == ""
    assert host.hypervisor.look(UUID, []).mark == mark(4)
    assert (host.local.state / "serial").stat().st_mode & 0o777 == 0o700


def test_many_tell_serials_at_once(host: Ground) -> None:
    def tell(serial: int) -> None:
        mine = twin(host)
        mine.mark = mark(serial)
        mine.power_state(UUID)

    with ThreadPoolExecutor(max_workers=6) as pool:
        list(pool.map(tell, [serial * 37 % 200 for serial in range(200)]))
    assert serials(host)[-1] == mark(199)
    assert len(serials(host)) <= 70


# --- greeting and fencing ---


def test_greet(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    assert hypervisor.copy_seen is None
    assert hypervisor.greet(UUID) == Greeting(PowerState.NOSTATE, "", 0, 0)
    assert hypervisor.copy_seen == 0
    ground.guest(epoch=12)
    hypervisor.start(UUID, 12)
    hypervisor.mark = mark(8)
    twin(ground).put_copy(5, b"{}")
    hypervisor.fence(UUID, 12)
    assert hypervisor.greet(UUID) == Greeting(PowerState.RUNNING, mark(8), 12, 5)
    assert hypervisor.copy_seen == 5


def test_a_fence_alone_is_an_epoch(ground: Ground) -> None:
    ground.hypervisor.fence(UUID, 4)
    assert ground.hypervisor.greet(UUID).epoch == 4


# --- the copy ---

CONTENTS = [b"7\n8\n", b"\0\xff\n", os.urandom(200_000), b"\n", b"$(exit 1)\n"]


def test_the_newest_copy_stays(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    assert hypervisor.get_copy() == (0, b"")
    hypervisor.put_copy(2, b'{"two": 2}\n')
    assert (hypervisor.get_copy(), hypervisor.copy_seen) == ((2, b'{"two": 2}\n'), 2)
    for version in (1, 2):
        hypervisor.put_copy(version, b"older or another")
        assert hypervisor.get_copy() == (2, b'{"two": 2}\n')
    hypervisor.put_copy(10, b"")
    assert hypervisor.get_copy() == (10, b"")
    assert hypervisor.look(UUID, []).copy == 10


@pytest.mark.parametrize("content", CONTENTS)
def test_any_content_is_copied(ground: Ground, content: bytes) -> None:
    ground.hypervisor.put_copy(1, content)
    assert ground.hypervisor.get_copy() == (1, content)


def test_the_copy_can_be_read_without_being_of_the_fleet(ground: Ground) -> None:
    ground.hypervisor.put_copy(3, b"catalogue")
    other = twin(ground)
    other.fleet = OTHERS
    assert other.get_copy() == (3, b"catalogue")
    with pytest.raises(HostRefused):
        other.put_copy(4, b"not ours")


def test_the_copy_is_for_root_only_and_no_half_of_it_stays(host: Ground) -> None:
    assert host.local
    host.hypervisor.put_copy(3, b"catalogue")
    found = sorted(path for path in host.local.state.iterdir() if "catalogue" in path.name)
    assert [path.name for path in found] == [".catalogue.lock", "catalogue.json"]
    assert [path.stat().st_mode & 0o777 for path in found] == [0o600, 0o600]


def test_copies_of_many_processes(host: Ground) -> None:
    with ThreadPoolExecutor(max_workers=6) as pool:
        list(pool.map(lambda v: twin(host).put_copy(v, b"v%d" % v), [v * 7 % 30 for v in range(30)]))
    assert host.hypervisor.get_copy() == (29, b"v29")


def test_data_that_is_cut_off_is_not_acted_on(host: Ground, tmp_path: Path) -> None:
    """A shell at the end of its input takes half a here-document for a whole one."""
    from novactl.remote.shell import library
    from tests.support.local_shell import LocalChannel, LocalTransport

    assert host.local
    host.hypervisor.put_copy(1, b"whole\n")
    sent: list[bytes] = []
    transport = host.local.transports[-1]
    (channel,) = transport.channels
    plain = LocalChannel.sendall
    try:
        LocalChannel.sendall = lambda self, data: sent.append(data) or plain(self, data)
        host.hypervisor.put_copy(2, b"line\n" * 50)
    finally:
        LocalChannel.sendall = plain
    line = b"".join(sent).replace(b"nv_put_copy 2", b"nv_put_copy 3")
    for length in (len(line) // 2, len(line) - 60, len(line) - 3):
        cut = LocalTransport(host.local.state, dict(os.environ), (), 1 << 16).open_session(1)
        cut.exec_command("exec sh -s")
        cut.sendall(library().encode())
        cut.sendall(line[:length])
        cut.shutdown_write()
        cut.process.wait(timeout=10)
    assert host.hypervisor.get_copy() == (2, b"line\n" * 50)
    assert channel.process.poll() is None


def test_a_copy_that_is_broken_is_told(host: Ground) -> None:
    assert host.local
    (host.local.state / "catalogue.json").write_text("not a version\n{}")
    with pytest.raises(HostFault, match=r"^kvm1: the catalogue copy there is damaged$"):
        host.hypervisor.get_copy()
    host.hypervisor.put_copy(1, b"new")
    assert host.hypervisor.get_copy() == (1, b"new")


@pytest.mark.parametrize("word", ["100000000000.op-01", "000000000001", "000000000001.op-01 ", "1.op-01"])
def test_a_mark_that_no_fleet_can_have(word: str) -> None:
    """A host that told one would have all others refuse theirs for good."""
    with pytest.raises(HostFault, match=r"^kvm1: remembers .*, which is no mark of a fleet$"):
        told_mark("kvm1", word)
