"""What a host promises to actions: held by the simulation and by host.sh in a real shell alike."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import stat
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from novactl.errors import Busy, Fenced, HostFault, HostRefused, HostUnreachable, UsageError
from novactl.images.transfer import EXTENT, feed, header
from novactl.objects.image import MARGIN
from novactl.objects.states import PowerState
from novactl.remote.shell import library
from novactl.virt.backups import Checkpoint
from novactl.virt.files import disk_info, raw_sum_of
from novactl.virt.hypervisor import Hypervisor
from novactl.virt.sizes import Size
from novactl.virt.survey import POWER_STATES
from tests.support import fleet
from tests.support.scratch import FLEET
from tests.support.sim import CONTENT, SimHypervisor
from tests.virt.ground import BASE, OPERATION, OTHER, UUID, Ground, quiet, real, source, sparse, xml
from tests.virt.jobs import carry_out

# --- enrolment ---


def test_a_host_belongs_to_one_fleet(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    hypervisor.enrol(takeover=False)  # the same again
    hypervisor.fleet = "22222222-2222-4333-8444-555555555555"
    with pytest.raises(HostRefused, match=rf"^kvm1: this host belongs to fleet {FLEET}$") as caught:
        hypervisor.enrol(takeover=False)
    assert caught.value.code == 5
    for act in (
        lambda: hypervisor.look(UUID, []),
        lambda: hypervisor.power_state(UUID),
        lambda: hypervisor.make_directory(UUID, 1, OPERATION),
        lambda: hypervisor.destroy(UUID, 1),
    ):
        with pytest.raises(HostRefused, match=r"^kvm1: this host is not enrolled in this fleet$"):
            act()
    assert ground.files() == []
    hypervisor.leave()  # not ours: its mark stays
    hypervisor.enrol(takeover=True)
    hypervisor.look(UUID, [])


def test_a_host_with_instances_is_not_left(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    hypervisor.make_directory(UUID, 1, OPERATION)
    with pytest.raises(HostRefused, match=rf"^kvm1: {UUID} still has files here$"):
        hypervisor.leave()
    hypervisor.remove_directory(UUID, 1)
    hypervisor.leave()
    with pytest.raises(HostRefused):
        hypervisor.look(UUID, [])


def test_look(ground: Ground) -> None:
    seen = ground.hypervisor.look(UUID, ["nobridge0"])
    assert (seen.domain, seen.missing_bridges) == (False, ["nobridge0"])
    assert seen.disk_free > 0
    assert seen.memory_available_mib > 0


def test_look_sees_a_domain_that_was_there_before(ground: Ground) -> None:
    ground.guest()
    assert ground.hypervisor.look(UUID, []).domain
    assert not ground.hypervisor.look(OTHER, []).domain


# --- epochs ---

NOTED = Checkpoint(name="novactl-1", seconds=1, devices=("vda",))
ACTS: dict[str, Callable[[Any, int], object]] = {
    "make_directory": lambda h, e: h.make_directory(UUID, e, OPERATION),
    "unmake_directory": lambda h, e: h.unmake_directory(UUID, e, OPERATION),
    "remove_directory": lambda h, e: h.remove_directory(UUID, e),
    "overlay": lambda h, e: h.overlay(UUID, e, "disk", BASE, 1 << 20),
    "put": lambda h, e: h.put(UUID, e, "disk.info", "0600", b"x"),
    "define": lambda h, e: h.define(UUID, e, xml()),
    "undefine_if_made_by": lambda h, e: h.undefine_if_made_by(UUID, e, OPERATION),
    "start": lambda h, e: h.start(UUID, e),
    "shutdown": lambda h, e: h.shutdown(UUID, e),
    "destroy": lambda h, e: h.destroy(UUID, e),
    "remove_domain": lambda h, e: h.remove_domain(UUID, e),
    "settled_state": lambda h, e: h.settled_state(UUID, e),
    "fence": lambda h, e: h.fence(UUID, e),
    "autostart_off": lambda h, e: h.autostart_off(UUID, e),
    "pause": lambda h, e: h.pause(UUID, e),
    "unpause": lambda h, e: h.unpause(UUID, e),
    "drop_domain": lambda h, e: h.drop_domain(UUID, e),
    "save_words": lambda h, e: carry_out(h, h.save_words(UUID, e, 1)),
    "unsave_words": lambda h, e: carry_out(h, h.unsave_words(UUID, e)),
    "restore_words": lambda h, e: carry_out(h, h.restore_words(UUID, e)),
    "remove_stray": lambda h, e: h.remove_stray(UUID, e, f"{UUID}.del"),
    "whereabouts": lambda h, e: h.whereabouts(UUID, e),
    "end_migration": lambda h, e: h.end_migration(UUID, e),
    "drop_arrival": lambda h, e: h.drop_arrival(UUID, e, OPERATION),
    "forget_move": lambda h, e: h.forget_move(UUID, e),
    "leave_source": lambda h, e: h.leave_source(UUID, e, shared=False),
    "live_words": lambda h, e: carry_out(
        h, h.live_words(UUID, e, OPERATION, "/nowhere", paused=False, downtime_ms=0, how=[])
    ),
    "set_vcpus": lambda h, e: h.set_vcpus(UUID, e, 1),
    "set_memory": lambda h, e: h.set_memory(UUID, e, 512),
    "leave_domain": lambda h, e: h.leave_domain(UUID, e),
    "set_aside": lambda h, e: h.set_aside(UUID, e),
    "bring_back": lambda h, e: h.bring_back(UUID, e),
    "clean_up": lambda h, e: h.clean_up(UUID, e, "aside"),
    "copy_nvram": lambda h, e: h.copy_nvram(UUID, e),
    "place_nvram": lambda h, e: h.place_nvram(UUID, e),
    "grow": lambda h, e: h.grow(UUID, e, "disk", 1 << 20),
    "remake": lambda h, e: h.remake(UUID, e, "disk.swap", None, 0),
    "disks_aside": lambda h, e: h.disks_aside(UUID, e, "op-1", ["disk"]),
    "disks_back": lambda h, e: h.disks_back(UUID, e, "op-1", ["disk"]),
    "disks_gone": lambda h, e: h.disks_gone(UUID, e, "op-1", ["disk"]),
    "copy_live_words": lambda h, e: carry_out(h, h.copy_live_words(UUID, e, OPERATION, "not", ["disk"])),
    "extract_words": lambda h, e: carry_out(
        h, h.extract_words(UUID, e, OPERATION, "disk", "disk", "raw", compressed=False)
    ),
    "drop_files": lambda h, e: h.drop_files(UUID, e, OPERATION),
    "send_words": lambda h, e: carry_out(h, h.send_words(UUID, e, OPERATION, "disk")),
    "backup_words": lambda h, e: carry_out(
        h, h.backup_words(UUID, e, OPERATION, NOTED, None, {}, freeze=False, size=0)
    ),
    "unback": lambda h, e: h.unback(UUID, e, OPERATION, NOTED),
    "forget_checkpoint": lambda h, e: h.forget_checkpoint(UUID, e, NOTED),
    "swap_disk": lambda h, e: h.swap_disk(UUID, e, "disk", BASE, 1 << 20, OPERATION),
    "unswap_disk": lambda h, e: h.unswap_disk(UUID, e, "disk", OPERATION),
    "drop_aside": lambda h, e: h.drop_aside(UUID, e, "disk", OPERATION),
}


def test_an_older_epoch_is_refused_by_every_act(ground: Ground) -> None:
    ground.guest(epoch=5)
    ground.hypervisor.start(UUID, 5)
    files = ground.files()
    for newer in (5, 12):  # 12 is newer than 5 as a number only
        ground.hypervisor.settled_state(UUID, newer)  # the same one may, a newer one is kept
        older = newer - 1
        message = rf"^kvm1: this host has seen epoch {newer} of the instance, newer than ours \({older}\)$"
        for act in ACTS.values():
            with pytest.raises(Fenced, match=message) as caught:
                act(ground.hypervisor, older)
            assert caught.value.code == 6
        assert ground.files() == files
        assert ground.hypervisor.power_state(UUID) is PowerState.RUNNING
    for act in ACTS.values():
        with contextlib.suppress(HostFault):  # there may be nothing left to act on
            act(ground.hypervisor, 12)


def test_every_mutating_call_is_in_that_list() -> None:
    from novactl.actions.world import Hypervisor as Port

    takes_epoch = {
        name
        for name in vars(Port)
        if callable(getattr(Port, name)) and "epoch" in getattr(Port, name).__code__.co_varnames
    }
    assert takes_epoch == set(ACTS)


def test_sizes_of_a_guest_that_runs(ground: Ground) -> None:
    """What libvirt does not do comes back as words."""
    ground.guest(epoch=5)
    assert ground.hypervisor.size(UUID) is None and ground.hypervisor.size(OTHER) is None
    assert "not running" in ground.hypervisor.set_memory(UUID, 5, 256)
    ground.hypervisor.start(UUID, 5)
    size = Size(vcpus=1, most_vcpus=1, memory_mib=512, most_memory_mib=512, balloon=True)
    assert ground.hypervisor.size(UUID) == size
    assert "max allowable" in ground.hypervisor.set_vcpus(UUID, 5, 2)
    for _ in range(2):
        assert ground.hypervisor.set_vcpus(UUID, 5, 1) == ""
        assert ground.hypervisor.set_memory(UUID, 5, 256) == ""
    assert ground.hypervisor.size(UUID) == replace(size, memory_mib=256)
    assert "max memory" in ground.hypervisor.set_memory(UUID, 5, 1024)
    ground.hypervisor.destroy(UUID, 5)
    assert ground.hypervisor.size(UUID) is None


def test_a_directory_set_aside_and_brought_back(ground: Ground) -> None:
    """Each of it twice, and not while the guest runs."""
    ground.guest(epoch=5)
    ground.hypervisor.start(UUID, 5)
    with pytest.raises(HostFault, match="the guest is running"):
        ground.hypervisor.set_aside(UUID, 5)
    assert ".made-by" in ground.files()
    ground.hypervisor.destroy(UUID, 5)
    for _ in range(2):
        ground.hypervisor.set_aside(UUID, 5)
        assert ground.files() == []
        assert ground.hypervisor.power_state(UUID) is PowerState.NOSTATE
    for _ in range(2):
        ground.hypervisor.bring_back(UUID, 5)
        assert ".made-by" in ground.files()
    ground.hypervisor.set_aside(UUID, 5)
    for _ in range(2):
        ground.hypervisor.clean_up(UUID, 5, "aside")
    with pytest.raises(HostFault):
        ground.hypervisor.bring_back(UUID, 5)


def test_disks_kept_aside_and_brought_back(ground: Ground) -> None:
    """Each of it twice; one that was not there is not there again."""
    hypervisor, files = ground.hypervisor, ["disk", "disk.local"]
    hypervisor.make_directory(UUID, 1, OPERATION)
    ground.base()
    hypervisor.overlay(UUID, 1, "disk", BASE, 1 << 20)
    plain = ground.files()
    for _ in range(2):
        hypervisor.disks_back(UUID, 1, OPERATION, files)
        assert ground.files() == plain
    for _ in range(2):
        hypervisor.disks_aside(UUID, 1, OPERATION, files)
        assert {f"disk.{OPERATION}", f"disk.local.{OPERATION}"} < set(
            ground.files()
        ) and "disk" not in ground.files()
    for file in files:
        hypervisor.overlay(UUID, 1, file, BASE, 1 << 20)
    hypervisor.disks_aside(UUID, 1, OPERATION, files)  # what was made instead stays
    assert {"disk", "disk.local"} < set(ground.files())
    for _ in range(2):
        hypervisor.disks_back(UUID, 1, OPERATION, files)
        assert ground.files() == plain
    hypervisor.disks_aside(UUID, 1, OPERATION, files)
    for _ in range(2):
        hypervisor.disks_gone(UUID, 1, OPERATION, files)
        assert ground.files() == sorted(set(plain) - {"disk"})


def test_an_epoch_outlives_the_instance(ground: Ground) -> None:
    ground.guest(epoch=7)
    ground.hypervisor.remove_domain(UUID, 7)
    ground.hypervisor.remove_directory(UUID, 7)
    with pytest.raises(Fenced):
        ground.hypervisor.make_directory(UUID, 6, OPERATION)
    assert ground.files() == []
    ground.hypervisor.make_directory(OTHER, 1, OPERATION)  # others have their own


def test_epochs_are_numbers(ground: Ground) -> None:
    ground.hypervisor.make_directory(UUID, 9, OPERATION)
    ground.hypervisor.make_directory(UUID, 10, OPERATION)
    with pytest.raises(Fenced):
        ground.hypervisor.make_directory(UUID, 9, OPERATION)


# --- directories and marks ---


def test_a_directory_is_made_once_by_one_operation(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    hypervisor.make_directory(UUID, 1, OPERATION)
    hypervisor.put(UUID, 1, "disk.info", "0600", b"x")
    hypervisor.make_directory(UUID, 1, OPERATION)
    assert ground.files() == [".made-by", "console.log", "disk.info"]
    with pytest.raises(HostRefused, match=r"exists and is not of this operation$") as caught:
        hypervisor.make_directory(UUID, 1, "op-2")
    assert caught.value.code == 5


def test_only_the_maker_unmakes(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    hypervisor.unmake_directory(UUID, 1, OPERATION)  # nothing there is fine
    hypervisor.make_directory(UUID, 1, OPERATION)
    hypervisor.unmake_directory(UUID, 1, "op-2")
    assert ground.files() == [".made-by", "console.log"]
    hypervisor.unmake_directory(UUID, 1, OPERATION)
    hypervisor.unmake_directory(UUID, 1, OPERATION)
    assert ground.files() == []
    assert ground.strays() == []


def test_delete_removes_whoever_made_it(ground: Ground) -> None:
    ground.guest()
    ground.hypervisor.remove_directory(UUID, 1)
    ground.hypervisor.remove_directory(UUID, 1)
    assert (ground.files(), ground.strays()) == ([], [])


def test_put(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    with pytest.raises(HostFault):
        hypervisor.put(UUID, 1, "disk.info", "0600", b"x")
    hypervisor.make_directory(UUID, 1, OPERATION)
    for data in (b"one", b"two\n", bytes(range(256)), b"", b"x" * 100_000):
        hypervisor.put(UUID, 1, "disk.info", "0600", data)
        assert ground.content("disk.info") == data
    assert ground.files() == [".made-by", "console.log", "disk.info"]


def test_overlay(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    hypervisor.make_directory(UUID, 1, OPERATION)
    with pytest.raises(HostFault, match=rf"^kvm1: base file {BASE} is not here$"):
        hypervisor.overlay(UUID, 1, "disk", BASE, 1 << 20)
    ground.base()
    hypervisor.overlay(UUID, 1, "disk", BASE, 1 << 20)
    hypervisor.overlay(UUID, 1, "disk", BASE, 1 << 30)  # one that is there stays as it is
    assert ground.files() == [".made-by", "console.log", "disk"]


@pytest.mark.parametrize(
    "value", ["", "x", "../../etc", f"{UUID}\n", fleet.uuid(0xABC).upper(), f"{UUID}/.."]
)
def test_only_a_uuid_becomes_a_path(ground: Ground, value: str) -> None:
    if isinstance(ground.hypervisor, SimHypervisor):
        return  # it has no paths
    for act in (
        lambda: ground.hypervisor.make_directory(value, 1, OPERATION),
        lambda: ground.hypervisor.power_state(value),
        lambda: ground.hypervisor.console_tail(value, 0),
    ):
        with pytest.raises(UsageError, match=r"is not a uuid$") as caught:
            act()
        assert caught.value.code == 2


# --- domains ---


def test_the_life_of_a_guest(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    assert hypervisor.power_state(UUID) is PowerState.NOSTATE
    ground.guest()
    assert hypervisor.power_state(UUID) is PowerState.SHUTDOWN
    assert "libvirt.xml" in ground.files()
    for _ in range(2):
        hypervisor.start(UUID, 1)
        assert hypervisor.power_state(UUID) is PowerState.RUNNING
        assert hypervisor.settled_state(UUID, 1) is PowerState.RUNNING
    hypervisor.define(UUID, 1, xml())  # defining a running one keeps it running
    assert hypervisor.power_state(UUID) is PowerState.RUNNING
    for _ in range(2):
        hypervisor.shutdown(UUID, 1)
        ground.wait(10)
        assert hypervisor.power_state(UUID) is PowerState.SHUTDOWN
    hypervisor.start(UUID, 1)
    for _ in range(2):
        hypervisor.destroy(UUID, 1)
        assert hypervisor.power_state(UUID) is PowerState.SHUTDOWN
    hypervisor.start(UUID, 1)
    for _ in range(2):
        hypervisor.remove_domain(UUID, 1)
        assert hypervisor.power_state(UUID) is PowerState.NOSTATE


def test_a_guest_that_ignores_acpi(ground: Ground) -> None:
    ground.guest()
    ground.hypervisor.start(UUID, 1)
    ground.deafen()
    ground.hypervisor.shutdown(UUID, 1)
    ground.wait(60)
    assert ground.hypervisor.power_state(UUID) is PowerState.RUNNING


def test_nothing_to_stop_is_fine(ground: Ground) -> None:
    ground.hypervisor.shutdown(UUID, 1)
    ground.hypervisor.destroy(UUID, 1)
    ground.hypervisor.remove_domain(UUID, 1)
    ground.hypervisor.undefine_if_made_by(UUID, 1, OPERATION)


def test_a_domain_that_is_not_there_does_not_start(ground: Ground) -> None:
    ground.hypervisor.make_directory(UUID, 1, OPERATION)
    with pytest.raises(HostFault, match=r"^kvm1: the guest does not start: failed to get domain"):
        ground.hypervisor.start(UUID, 1)


def test_only_the_operation_that_defined_it_undefines(ground: Ground) -> None:
    ground.guest()
    ground.hypervisor.start(UUID, 1)
    ground.hypervisor.undefine_if_made_by(UUID, 1, "op-2")
    ground.hypervisor.undefine_if_made_by(UUID, 1, "op")
    assert ground.hypervisor.power_state(UUID) is PowerState.RUNNING
    ground.hypervisor.define(UUID, 1, xml(operation="op-2"))  # a later operation defines it anew
    ground.hypervisor.undefine_if_made_by(UUID, 1, OPERATION)
    assert ground.hypervisor.power_state(UUID) is PowerState.RUNNING
    ground.hypervisor.undefine_if_made_by(UUID, 1, "op-2")
    assert ground.hypervisor.power_state(UUID) is PowerState.NOSTATE


# --- consoles ---


def test_consoles(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    assert hypervisor.console_tail(UUID, 0) == (0, b"")
    hypervisor.make_directory(UUID, 1, OPERATION)
    assert hypervisor.console_tail(UUID, 5) == (0, b"")
    text = b"one\r\ntwo\n\x1b[31m\xff\x00three\nfour"
    ground.write_console(text)
    assert hypervisor.console_tail(UUID, 0) == (len(text), text)
    assert hypervisor.console_tail(UUID, 1) == (len(text), b"four")
    assert hypervisor.console_tail(UUID, 2) == (len(text), b"\x1b[31m\xff\x00three\nfour")
    assert hypervisor.console_tail(UUID, 99) == (len(text), text)
    assert hypervisor.console_from(UUID, len(text) - 4) == (len(text), b"four")
    assert hypervisor.console_from(UUID, len(text)) == (len(text), b"")
    ground.write_console(b"new")  # it shrank: from the start
    assert hypervisor.console_from(UUID, len(text)) == (3, b"new")


# --- base files ---


def test_a_base_file_is_received_and_finished(ground: Ground, tmp_path: Path) -> None:
    hypervisor = ground.hypervisor
    name, path = source(tmp_path, os.urandom(300_000))
    assert hypervisor.base_state(name) == (False, 0)
    hypervisor.base_receive(name, 300_000, 0, feed(path, 0, quiet))
    assert hypervisor.base_state(name) == (False, 300_000)
    hypervisor.base_finish(name, "raw", 300_000)
    hypervisor.base_finish(name, "raw", 300_000)  # twice is fine
    assert hypervisor.base_state(name) == (True, 0)
    sent: list[int] = []
    hypervisor.base_receive(name, 300_000, 0, feed(path, 0, lambda done, total: sent.append(done)))
    assert sent == []  # it is there: nothing is sent


def test_a_transfer_that_was_cut_goes_on_where_it_stopped(ground: Ground, tmp_path: Path) -> None:
    hypervisor = ground.hypervisor
    content = os.urandom(EXTENT) + os.urandom(EXTENT) + os.urandom(1000)
    name, path = source(tmp_path, content)

    class Cut(Exception):
        """The sender is gone."""

    def stops(done: int, total: int) -> None:
        if done >= EXTENT * 2:
            raise Cut

    with pytest.raises(Cut):
        hypervisor.base_receive(name, len(content), 0, feed(path, 0, stops))
    ready, have = _when_still(hypervisor, name)
    assert not ready
    assert EXTENT <= have <= 2 * EXTENT
    sent: list[int] = []
    hypervisor.base_receive(name, len(content), have, feed(path, have, lambda done, total: sent.append(done)))
    assert sent[0] > have  # not from the start
    hypervisor.base_finish(name, "raw", len(content))
    assert hypervisor.base_state(name) == (True, 0)


def _when_still(hypervisor: Any, name: str) -> tuple[bool, int]:
    """Where the transfer stands once the receiver has noticed that nobody sends."""
    seen = hypervisor.base_state(name)
    for _ in range(50):
        time.sleep(0.02)
        if (now := hypervisor.base_state(name)) == seen:
            break
        seen = now
    return seen


def test_a_transfer_from_a_wrong_position_is_refused(ground: Ground, tmp_path: Path) -> None:
    name, path = source(tmp_path, b"x" * 5000)
    for start in (1, 4999):
        with pytest.raises(Busy, match=r"^kvm1: the transfer stands at byte 0 by now$") as caught:
            ground.hypervisor.base_receive(name, 5000, start, feed(path, start, quiet))
        assert caught.value.code == 6


def test_a_damaged_base_file_is_thrown_away(ground: Ground, tmp_path: Path) -> None:
    hypervisor = ground.hypervisor
    name, path = source(tmp_path, b"good" * 1000)
    path.write_bytes(b"evil" * 1000)
    hypervisor.base_receive(name, 4000, 0, feed(path, 0, quiet))
    with pytest.raises(
        HostFault, match=r"^kvm1: the base file arrived damaged \(sha256 [0-9a-f]{64}\); it will"
    ):
        hypervisor.base_finish(name, "raw", 4000)
    assert hypervisor.base_state(name) == (False, 0)
    path.write_bytes(b"good" * 1000)
    hypervisor.base_receive(name, 4000, 0, feed(path, 0, quiet))
    hypervisor.base_finish(name, "raw", 4000)
    assert hypervisor.base_state(name) == (True, 0)


def test_blank_base_files(ground: Ground) -> None:
    for name, size, kind in (("ephemeral_1_ext4", 32 << 20, "ext4"), ("swap_64", 1 << 20, "swap")):
        ground.hypervisor.base_blank(name, size, kind)
        ground.hypervisor.base_blank(name, size, kind)
        ground.hypervisor.make_directory(UUID, 1, OPERATION)
        ground.hypervisor.overlay(UUID, 1, f"disk.{kind}", name, size)
        assert ground.hypervisor.blank_sum(name)
    assert ground.hypervisor.blank_sum("swap_32") == ""
    assert {"disk.ext4", "disk.swap"} <= set(ground.files())


# --- only the real one: what really lies there ---


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_an_instance_is_on_disk(host: Ground) -> None:
    host.guest()
    directory = host.path / UUID
    assert mode(directory) == 0o711
    assert {
        file: mode(directory / file) for file in ("disk", "disk.config", "libvirt.xml", "console.log")
    } == {
        "disk": 0o600,
        "disk.config": 0o400,
        "libvirt.xml": 0o600,
        "console.log": 0o600,
    }
    info = subprocess.run(
        ["qemu-img", "info", "--output=json", "disk"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(info.stdout)
    assert (seen["format"], seen["virtual-size"]) == ("qcow2", 1 << 20)
    assert (seen["backing-filename"], seen["backing-filename-format"]) == (f"../_base/{BASE}", "raw")
    assert (directory / "libvirt.xml").read_text() == xml()
    assert (directory / ".made-by").read_text() == f"{OPERATION}\n"


def test_the_state_of_a_host_on_disk(host: Ground) -> None:
    assert host.local
    host.guest(epoch=3)
    state = host.local.state
    assert (state / "fleet").read_text() == f"{FLEET}\n"
    assert (state / "epoch" / UUID).read_text() == "3\n"
    assert [path.name for path in (state / "epoch").iterdir()] == [UUID]
    assert (mode(state / "epoch"), mode(state / "lock"), mode(state)) == (0o700, 0o700, 0o711)
    assert (mode(host.path), mode(host.path / "_base")) == (0o711, 0o711)


def test_a_base_file_and_its_sidecar(host: Ground) -> None:
    host.base()
    directory = host.path / "_base"
    assert (directory / BASE).read_bytes() == CONTENT
    assert mode(directory / BASE) == 0o644
    sidecar = json.loads((directory / f"{BASE}.json").read_text())
    assert sidecar.pop("converter").startswith("novactl ")
    assert sidecar == {
        "source_sha256": BASE,
        "source_format": "raw",
        "raw_sha256": BASE,
        "size_bytes": len(CONTENT),
    }
    assert sorted(p.name for p in directory.iterdir()) == [f".lock.{BASE}", ".storage", BASE, f"{BASE}.json"]


def qcow2(tmp_path: Path) -> tuple[Path, bytes]:
    """A qcow2 file and what it holds."""
    raw, made = tmp_path / "raw", tmp_path / "image"
    content = os.urandom(70_000) + bytes(3 << 20) + b"end".ljust(512, b"\0")
    raw.write_bytes(content + bytes(-len(content) % 512))
    argv = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(made)]
    subprocess.run(argv, check=True)
    return made, raw.read_bytes()


def test_a_qcow2_image_becomes_raw(host: Ground, tmp_path: Path) -> None:
    made, content = qcow2(tmp_path)
    name, path = source(tmp_path, made.read_bytes())
    size = path.stat().st_size
    host.hypervisor.base_receive(name, size, 0, feed(path, 0, quiet))
    said = host.hypervisor.base_finish(name, "qcow2", len(content))
    assert raw_sum_of(said) == sparse(content)
    assert raw_sum_of(host.hypervisor.base_finish(name, "qcow2", len(content))) is None  # it was there
    assert host.hypervisor.base_state(name, made_as="qcow2") == (True, 0)
    with pytest.raises(HostRefused, match=r"made of them as qcow2, not raw"):
        host.hypervisor.base_state(name, made_as="raw")
    found = host.path / "_base" / name
    assert found.read_bytes() == content
    assert found.stat().st_blocks * 512 < 1 << 20  # its holes are holes
    sidecar = json.loads(Path(f"{found}.json").read_text())
    assert sidecar["raw_sparse_sha256"] == sparse(content)
    assert "raw_sha256" not in sidecar
    assert sorted(p.name for p in found.parent.iterdir()) == [
        f".lock.{name}",
        ".storage",
        name,
        f"{name}.json",
    ]


def test_checkpoints_are_found_in_the_disks(host: Ground) -> None:
    """Those of ours; libvirt may have forgotten them. Stopped, they go with their bitmaps."""
    host.guest()
    noted = replace(NOTED, name=f"novactl-{UUID}")
    disk = host.path / UUID / "disk"
    assert host.hypervisor.checkpoints(UUID, ["disk", "disk.local"]) == []
    for name in (noted.name, "another"):
        subprocess.run(["qemu-img", "bitmap", "-f", "qcow2", "--add", str(disk), name], check=True)
    assert host.hypervisor.checkpoints(UUID, ["disk", "disk.local"]) == [noted.name]
    host.hypervisor.forget_checkpoint(UUID, 1, noted)
    assert host.hypervisor.checkpoints(UUID, ["disk", "disk.local"]) == []


def test_an_image_that_is_not_what_its_record_says(host: Ground, tmp_path: Path) -> None:
    made, content = qcow2(tmp_path)
    name, path = source(tmp_path, made.read_bytes())
    size = path.stat().st_size
    host.hypervisor.base_receive(name, size, 0, feed(path, 0, quiet))
    with pytest.raises(HostFault, match=r"^kvm1: the image did not convert to its stated size$"):
        host.hypervisor.base_finish(name, "qcow2", len(content) + 512)
    assert host.hypervisor.base_state(name)[0] is False
    name, path = source(tmp_path, b"this is no qcow2" * 100)
    host.hypervisor.base_receive(name, 1600, 0, feed(path, 0, quiet))
    with pytest.raises(HostFault, match=r"Image is not in qcow2 format; qemu-img cannot read the image$"):
        host.hypervisor.base_finish(name, "qcow2", 1 << 20)
    assert host.hypervisor.base_state(name)[0] is False


def test_holes_are_not_sent_and_stay_holes(host: Ground, tmp_path: Path) -> None:
    path = tmp_path / "image"
    size = 64 << 20
    with path.open("wb") as file:
        file.write(b"first")
        file.seek(32 << 20)
        file.write(b"middle")
        file.truncate(size)
    name = hashlib.sha256(path.read_bytes()).hexdigest()
    sent = 0
    plain = feed(path, 0, quiet)

    def counted(readline: Any, write: Any) -> None:
        def count(data: bytes) -> None:
            nonlocal sent
            sent += len(data)
            write(data)

        plain(readline, count)

    host.hypervisor.base_receive(name, size, 0, counted)
    host.hypervisor.base_finish(name, "raw", size)
    found = host.path / "_base" / name
    assert sent < 1 << 20
    assert (found.stat().st_size, found.stat().st_blocks * 512 < 1 << 20) == (size, True)


def test_blank_disks_are_what_they_are_called(host: Ground) -> None:
    host.hypervisor.base_blank("ephemeral_1_ext4", 32 << 20, "ext4")
    host.hypervisor.base_blank("swap_64", 1 << 20, "swap")
    base = host.path / "_base"
    ext4, swap = (base / "ephemeral_1_ext4").read_bytes(), (base / "swap_64").read_bytes()
    assert (len(ext4), ext4[1080:1082]) == (32 << 20, b"\x53\xef")
    assert b"ephemeral0" in ext4[1024:2048]
    assert (len(swap), swap[4086:4096]) == (1 << 20, b"SWAPSPACE2")


BLANKS = [("ephemeral_1_ext4_v2", 1 << 30, "ext4"), ("swap_64_v2", 1 << 20, "swap")]


@pytest.mark.parametrize(("name", "size", "kind"), BLANKS, ids=["ext4", "swap"])
def test_blank_disks_are_alike_on_all_hosts(tmp_path: Path, name: str, size: int, kind: str) -> None:
    """Whenever they are made."""
    made = []
    for host in (real(tmp_path / "a"), real(tmp_path / "b")):
        host.hypervisor.base_blank(name, size, kind)
        made.append((host.hypervisor.blank_sum(name), (host.path / "_base" / name).read_bytes()))
        time.sleep(1.1)
    assert made[0] == made[1]


def test_an_overlay_fits_the_blank_disk_of_another_host(tmp_path: Path) -> None:
    """The cluster with the superblock, which a guest wrote, comes to stand between those of the other."""
    hosts = [real(tmp_path / name) for name in "ab"]
    for host in hosts:
        host.hypervisor.base_blank("ephemeral_1_ext4_v2", 1 << 30, "ext4")
        host.hypervisor.make_directory(UUID, 1, OPERATION)
    hosts[0].hypervisor.overlay(UUID, 1, "disk.local", "ephemeral_1_ext4_v2", 1 << 30)
    disk, there = (host.path / UUID / "disk.local" for host in hosts)
    head, plain = tmp_path / "head", tmp_path / "plain"
    head.write_bytes((hosts[0].path / "_base/ephemeral_1_ext4_v2").read_bytes()[:4096])
    subprocess.run(["qemu-io", "-c", f"write -q -s {head} 0 4096", disk], check=True)
    shutil.copy(disk, there)
    subprocess.run(["qemu-img", "convert", "-O", "raw", there, plain], check=True)
    subprocess.run(["e2fsck", "-fn", plain], check=True)


def test_two_senders_of_one_base_file(host: Ground, tmp_path: Path) -> None:
    """Two processes at once: one sends, the other is told that it is there, or where it stands."""
    assert host.local
    content = os.urandom(2_000_000)
    name, path = source(tmp_path, content)
    other = Hypervisor(host.local.shell, FLEET, str(host.path))

    def send(hypervisor: Hypervisor) -> str:
        for _ in range(20):
            ready, have = hypervisor.base_state(name)
            if ready:
                return "ready"
            try:
                if have < len(content):
                    hypervisor.base_receive(name, len(content), have, feed(path, have, quiet))
                hypervisor.base_finish(name, "raw", len(content))
            except Busy:
                continue
        return "never"

    with ThreadPoolExecutor(max_workers=2) as pool:
        assert set(pool.map(send, [host.hypervisor, other])) == {"ready"}
    assert (host.path / "_base" / name).read_bytes() == content


def test_a_sender_that_says_nonsense(host: Ground) -> None:
    def wrong(*pieces: bytes) -> Any:
        def send(readline: Any, write: Any) -> None:
            readline()
            for piece in pieces:
                write(piece)

        return send

    nonsense = [(), (b"short",), (header(0, 100), b"only this"), (b"x" * 64,), (b"0 9 $(exit)".ljust(64),)]
    for number, pieces in enumerate(nonsense):
        name = f"{number:064x}"
        with pytest.raises(HostFault):
            host.hypervisor.base_receive(name, 5000, 0, wrong(*pieces))
        assert host.hypervisor.base_state(name) == (False, 0)


def test_libvirtd_that_is_down_is_no_absence(host: Ground) -> None:
    assert host.local
    host.guest()
    host.hypervisor.start(UUID, 1)
    (host.local.domains / ".down").touch()
    for act in (
        lambda: host.hypervisor.power_state(UUID),
        lambda: host.hypervisor.settled_state(UUID, 1),
        lambda: host.hypervisor.destroy(UUID, 1),
        lambda: host.hypervisor.remove_domain(UUID, 1),
        lambda: host.hypervisor.undefine_if_made_by(UUID, 1, OPERATION),
        lambda: host.hypervisor.define(UUID, 1, xml()),
    ):
        with pytest.raises(HostUnreachable, match=r"failed to connect to the hypervisor") as caught:
            act()
        assert caught.value.code == 7
        assert "libvirtd" in caught.value.hint
    (host.local.domains / ".down").unlink()
    assert host.hypervisor.power_state(UUID) is PowerState.RUNNING


def test_a_guest_that_dies_at_start(host: Ground) -> None:
    assert host.local
    host.guest()
    (host.local.domains / ".refuse").write_text(
        "internal error: qemu unexpectedly closed the monitor: no KVM"
    )
    with pytest.raises(HostFault) as caught:
        host.hypervisor.start(UUID, 1)
    assert caught.value.code == 1
    assert caught.value.message == (
        "kvm1: the guest does not start: Failed to start domain 'instance-x'; internal error:"
        " qemu unexpectedly closed the monitor: no KVM"
    )


def test_a_state_that_nobody_knows(host: Ground) -> None:
    assert host.local
    host.guest()
    for word, state in POWER_STATES.items():
        if word != "none":
            (host.local.domains / UUID / "state").write_text(f"{word}\n")
            assert host.hypervisor.power_state(UUID) is state
    (host.local.domains / UUID / "state").write_text("dreaming\n")
    with pytest.raises(HostFault, match=r"^kvm1: libvirt reports an unknown state 'dreaming'$"):
        host.hypervisor.power_state(UUID)


def test_a_removal_that_was_cut_is_finished(host: Ground) -> None:
    """The host went down between the rename and the last file."""
    for act in (
        lambda: host.hypervisor.unmake_directory(UUID, 1, OPERATION),
        lambda: host.hypervisor.remove_directory(UUID, 1),
    ):
        host.hypervisor.make_directory(UUID, 1, OPERATION)
        (host.path / UUID).rename(host.path / f"{UUID}.del")
        act()
        assert host.strays() == []


def test_a_directory_that_was_half_made_is_taken_away(host: Ground) -> None:
    half = host.path / f"{UUID}.{OPERATION}"
    half.mkdir()
    (half / "x").touch()
    host.hypervisor.unmake_directory(UUID, 1, OPERATION)
    assert host.strays() == []
    half.mkdir()
    host.hypervisor.make_directory(UUID, 1, OPERATION)
    assert host.strays() == []
    assert host.files() == [".made-by", "console.log"]


def test_an_act_waits_for_the_one_before_it(host: Ground) -> None:
    """The flock of the instance: two acts of two processes never overlap."""
    assert host.local
    host.hypervisor.make_directory(UUID, 1, OPERATION)
    lock = host.local.state / "lock" / UUID
    holder = subprocess.Popen(
        ["flock", str(lock), "sh", "-c", "echo held; sleep 0.5"], stdout=subprocess.PIPE
    )
    assert holder.stdout
    holder.stdout.readline()
    began = time.monotonic()
    host.hypervisor.put(UUID, 1, "disk.info", "0600", b"x")
    assert time.monotonic() - began > 0.3
    holder.wait()


@pytest.mark.parametrize(
    "name", ["$(touch {0})", "`touch {0}`", "; touch {0}", "a\ntouch {0}\n", "'|touch {0}'"]
)
def test_names_are_never_run(host: Ground, tmp_path: Path, name: str) -> None:
    """None of these gets this far through the verbs: quoting is the second wall."""
    canary = tmp_path / "canary"
    evil = name.format(canary)
    hypervisor = host.hypervisor
    hypervisor.make_directory(UUID, 1, OPERATION)
    for act in (
        lambda: hypervisor.make_directory(OTHER, 1, evil.replace("/", "-")),
        lambda: hypervisor.unmake_directory(OTHER, 1, evil),
        lambda: hypervisor.put(UUID, 1, evil.replace("/", "-"), "0600", b"x"),
        lambda: hypervisor.put(UUID, 1, "file", evil, b"x"),
        lambda: hypervisor.overlay(UUID, 1, "disk", evil, 1),
        lambda: hypervisor.base_state(evil),
        lambda: hypervisor.base_blank("blank", 4096, evil),
        lambda: hypervisor.base_finish(evil, "raw", 1),
        lambda: hypervisor.undefine_if_made_by(UUID, 1, evil),
        lambda: hypervisor.look(UUID, [evil]),
        lambda: hypervisor.route_device(evil),
        lambda: hypervisor.define(UUID, 1, f"<uuid>{evil}</uuid>"),
    ):
        with contextlib.suppress(HostFault, ValueError):
            act()
    assert not canary.exists()


def test_facts(host: Ground) -> None:
    assert host.local
    seen = host.hypervisor.facts()
    assert seen["uid"] == str(os.getuid())
    assert seen["fleet"] == FLEET
    assert {"virsh", "qemu-img", "flock"} <= set(seen["tool"])
    assert int(seen["cpus"]) > 0
    assert int(seen["memory_kib"]) > 1000
    assert 0 < int(seen["disk_free"]) <= int(seen["disk_total"])
    assert abs(float(seen["clock"]) - time.time()) < 60
    assert host.strays() == []


# --- a disk that is full ---


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Ground]:
    with small(tmp_path, 3) as (ground, _):
        yield ground


@contextmanager
def small(tmp_path: Path, mib: int) -> Iterator[tuple[Ground, Path]]:
    """A host with a disk of that size, in a mount namespace of its own; where its disk is seen from here."""
    (tmp_path / "real").mkdir()
    state = tmp_path / "real" / "state"
    state.mkdir()
    flags = ["--mount"] if os.getuid() == 0 else ["--map-root-user", "--mount"]
    script = f'mount -t tmpfs -o size={mib}m novactl-test "$1" && echo ready && exec sleep 600'
    keeper = subprocess.Popen(
        ["unshare", *flags, "sh", "-c", script, "sh", str(state)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert keeper.stdout
    assert keeper.stdout.readline() == b"ready\n"
    enter = ["nsenter", "--mount", *(["--user", "--preserve-credentials"] if os.getuid() else [])]
    try:
        made = real(tmp_path, prefix=(*enter, f"--target={keeper.pid}", "--"))
        yield made, Path(f"/proc/{keeper.pid}/root{state}")
        assert made.local
        made.local.close()
    finally:
        os.killpg(keeper.pid, signal.SIGKILL)
        keeper.wait()


NO_SPACE = r"^kvm1: .*no space left on .*$"


def test_a_full_disk_is_told_with_a_hint(full: Ground, tmp_path: Path) -> None:
    hypervisor = full.hypervisor
    assert hypervisor.look(UUID, []).disk_free <= 3 << 20
    hypervisor.make_directory(UUID, 1, OPERATION)
    name, path = source(tmp_path, os.urandom(6 << 20))
    for act in (
        lambda: hypervisor.put(UUID, 1, "disk.config", "0400", os.urandom(4 << 20)),
        lambda: hypervisor.base_receive(name, 6 << 20, 0, feed(path, 0, quiet)),
    ):
        with pytest.raises(HostFault, match=NO_SPACE) as caught:
            act()
        assert caught.value.code == 1
        assert caught.value.hint == "free some space there, or choose another host"
    with pytest.raises(HostFault):
        hypervisor.overlay(UUID, 1, "disk", name, 1 << 20)
    hypervisor.unmake_directory(UUID, 1, OPERATION)
    assert hypervisor.console_tail(UUID, 0) == (0, b"")


def test_a_full_disk_takes_nobody_out_of_roots_keys(full: Ground, tmp_path: Path) -> None:
    """A line of an operation is neither added nor taken away then, and all others stay."""
    assert full.local
    shell, keys = full.local.shell, tmp_path / "real" / "state" / "keys" / "authorized_keys"

    def run(script: str) -> str:
        return shell.call("eval", f"nv_authorized_keys() {{ nv_keys='{keys}'; }}; {script}")

    for op in ("op-1", "op-2"):
        run(f"nv_change_keys {op} 'ssh-ed25519 AAAA novactl {op}'")
    before = run(f"cat '{keys}'")
    assert before.count("\n") == 2
    run(f"cat /dev/zero >'{keys.parent}/filler' 2>/dev/null || true")
    for line in ("", "ssh-ed25519 BBBB novactl op-1"):
        with pytest.raises(HostFault, match=NO_SPACE):
            run(f"nv_change_keys op-1 '{line}'")
        assert run(f"cat '{keys}'") == before
    run(f"rm '{keys.parent}/filler'; nv_change_keys op-1 ''")
    assert run(f"cat '{keys}'") == "ssh-ed25519 AAAA novactl op-2\n"
    assert run(f"ls '{keys.parent}'") == "authorized_keys\n"


def test_a_mount_of_a_test_is_not_seen_outside(full: Ground) -> None:
    assert "novactl-test" not in Path("/proc/self/mounts").read_text()
    assert full.hypervisor.look(UUID, []).disk_free > 0


def bomb(path: Path, clusters: int) -> None:
    """A qcow2 whose disk is so many clusters of 64 KiB, all of them one and the same compressed one."""
    cluster, tables = 1 << 16, -(-clusters // 8192)
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    data = packer.compress(b"novactl " * (cluster // 8)) + packer.flush()
    at = (4 + tables) * cluster
    entry = struct.pack(">Q", 1 << 62 | (len(data) - 1) // 512 << 54 | at)
    header = struct.pack(
        ">IIQIIQIIQQIIQ",
        *(0x514649FB, 2, 0, 0, 16, clusters * cluster, 0, tables, 3 * cluster, cluster, 1, 0, 0),
    )
    parts = {
        0: header,
        cluster: struct.pack(">Q", 2 * cluster),
        2 * cluster: struct.pack(">H", 1) * (5 + tables),
        3 * cluster: b"".join(struct.pack(">Q", 1 << 63 | (4 + n) * cluster) for n in range(tables)),
        4 * cluster: entry * clusters,
        at: data.ljust(-(-len(data) // 512) * 512, b"\0"),
    }
    with path.open("wb") as file:
        for offset, part in parts.items():
            file.seek(offset)
            file.write(part)


def dense(path: Path, size: int) -> None:
    path.write_bytes(os.urandom(size))


@contextmanager
def least_free(disk: Path) -> Iterator[list[int]]:
    """The fewest bytes that were free there meanwhile."""
    seen, over = [1 << 40], threading.Event()

    def look() -> None:
        while not over.wait(0.002):
            found = os.statvfs(disk)
            seen[0] = min(seen[0], found.f_bavail * found.f_frsize)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


@pytest.mark.parametrize(
    ("kind", "make", "size"),
    [("qcow2", bomb, 1 << 30), ("qcow2", bomb, 40 << 20), ("raw", dense, 40 << 20)],
)
def test_no_image_takes_the_room_that_guests_need(
    tmp_path: Path, kind: str, make: Callable[[Path, int], None], size: int
) -> None:
    """However small its file is. Nothing is kept of it, and what was there stays."""
    image = tmp_path / "image"
    make(image, size // (1 << 16) if make is bomb else size)
    name, length = hashlib.sha256(image.read_bytes()).hexdigest(), image.stat().st_size
    with small(tmp_path, 100) as (ground, disk), least_free(disk) as least:
        host = ground.hypervisor
        ground.base()
        for _ in range(2):
            with pytest.raises(HostFault, match=NO_SPACE) as caught:
                host.base_receive(name, length, 0, feed(image, 0, quiet))
                host.base_finish(name, kind, size)
            assert caught.value.hint == "free some space there, or choose another host"
        assert least[0] >= MARGIN
        assert host.base_state(BASE) == (True, 0) and host.base_state(name) == (False, 0)
        left = {
            path.name
            for path in (disk / "instances" / "_base").iterdir()
            if not path.name.startswith((".lock", ".storage"))
        }
        assert left == {BASE, f"{BASE}.json"}


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_holes_of_an_image_need_no_room(tmp_path: Path, kind: str) -> None:
    image, raw = tmp_path / "image", tmp_path / "raw"
    with raw.open("wb") as file:
        file.write(os.urandom(1 << 20))
        file.truncate(256 << 20)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", kind, str(raw), str(image)], check=True)
    name, length = hashlib.sha256(image.read_bytes()).hexdigest(), image.stat().st_size
    with small(tmp_path, 100) as (ground, _):
        ground.hypervisor.base_receive(name, length, 0, feed(image, 0, quiet))
        ground.hypervisor.base_finish(name, kind, 256 << 20)
        assert ground.hypervisor.base_state(name) == (True, 0)


def test_the_margin_is_the_same_on_hosts() -> None:
    assert f"\nnv_margin={MARGIN} #" in library()


def test_disk_info() -> None:
    made = json.loads(disk_info("/d", [("disk", "qcow2"), ("disk.config", "raw")]))
    assert made == {"/d/disk": "qcow2", "/d/disk.config": "raw"}


def test_the_tools_of_these_tests_are_there() -> None:
    assert all(map(shutil.which, ("qemu-img", "mkfs.ext4", "mkswap", "unshare", "nsenter", "flock")))
