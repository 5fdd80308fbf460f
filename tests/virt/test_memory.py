"""A guest's memory, paused, saved and restored, and the bridges it is plugged into: what a host promises,
held by the simulation and by host.sh in a real shell alike."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from novactl.errors import HostFault, HostRefused, HostUnreachable, UsageError
from novactl.objects.states import PowerState
from tests.virt.ground import UUID, Ground, real
from tests.virt.jobs import carry_out

MIB = 1 << 20
IN_A_NAMESPACE = ("unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c")


def save(hypervisor: Any, size: int = MIB) -> None:
    carry_out(hypervisor, hypervisor.save_words(UUID, 1, size))


def unsave(hypervisor: Any) -> None:
    carry_out(hypervisor, hypervisor.unsave_words(UUID, 1))


def restore(hypervisor: Any) -> None:
    carry_out(hypervisor, hypervisor.restore_words(UUID, 1))


def state(ground: Ground) -> tuple[PowerState, bool]:
    """By both ways to ask, which must agree."""
    greeting = ground.hypervisor.greet(UUID)
    assert ground.hypervisor.power_state(UUID) is greeting.power
    seen = [domain for domain in ground.hypervisor.survey().domains if domain.uuid == UUID]
    if seen:
        assert (seen[0].state, seen[0].saved) == (greeting.power, greeting.saved)
    return greeting.power, greeting.saved


RUNNING = (PowerState.RUNNING, False)
PAUSED = (PowerState.PAUSED, False)
SAVED = (PowerState.SHUTDOWN, True)
OFF = (PowerState.SHUTDOWN, False)


@pytest.fixture
def running(ground: Ground, tmp_path: Path) -> Ground:
    ground.guest()
    ground.hypervisor.start(UUID, 1)
    ground.hypervisor.save_path = str(tmp_path)
    return ground


def test_pausing_and_going_on(running: Ground) -> None:
    hypervisor = running.hypervisor
    for _ in range(2):
        hypervisor.pause(UUID, 1)
        assert state(running) == PAUSED
    for _ in range(2):
        hypervisor.unpause(UUID, 1)
        assert state(running) == RUNNING
    hypervisor.destroy(UUID, 1)
    for act in (hypervisor.pause, hypervisor.unpause):
        with pytest.raises(HostFault, match="domain is not running"):
            act(UUID, 1)


def test_saving_and_restoring(running: Ground) -> None:
    hypervisor = running.hypervisor
    for _ in range(2):
        save(hypervisor)
        assert state(running) == SAVED
        assert hypervisor.qemu_versions(UUID) == ("7.2.17", "7.2.17")
    for _ in range(2):
        restore(hypervisor)
        assert state(running) == RUNNING
        assert hypervisor.qemu_versions(UUID) == ("", "7.2.17")


def test_what_is_off_has_no_memory_to_save(running: Ground) -> None:
    running.hypervisor.destroy(UUID, 1)
    with pytest.raises(HostFault, match=r"^kvm1: .*domain is not running"):
        save(running.hypervisor)
    unsave(running.hypervisor)
    assert state(running) == OFF
    assert "saved-by" not in running.files()


def test_a_guest_whose_saved_memory_is_gone_is_never_started_from_its_disk(running: Ground) -> None:
    running.hypervisor.destroy(UUID, 1)
    with pytest.raises(HostFault, match=r"^kvm1: its saved memory is gone$"):
        restore(running.hypervisor)
    assert state(running) == OFF


@pytest.mark.parametrize("was", ["running", "paused", "saved"])
def test_it_runs_on_however_far_saving_came(running: Ground, was: str) -> None:
    if was == "paused":
        running.hypervisor.pause(UUID, 1)
    if was == "saved":
        save(running.hypervisor)
    for _ in range(2):
        unsave(running.hypervisor)
        assert state(running) == RUNNING
        assert "saved-by" not in running.files()


def test_no_room_is_told_in_numbers(running: Ground) -> None:
    hypervisor = running.hypervisor
    assert hypervisor.room_to_save() > 0
    with pytest.raises(HostFault, match=r"MiB free, its memory may take 2147483648$") as caught:
        save(hypervisor, 1 << 51)
    assert "free some space" in caught.value.hint
    assert state(running) == RUNNING
    assert "saved-by" not in running.files()


def test_dropping_the_domain_drops_its_memory_and_nothing_else(running: Ground) -> None:
    hypervisor = running.hypervisor
    save(hypervisor)
    before = running.files()
    for _ in range(2):
        hypervisor.drop_domain(UUID, 1)
        assert hypervisor.power_state(UUID) is PowerState.NOSTATE
    assert running.files() == sorted(set(before) - {"saved-by"})


def test_starting_and_removing_what_is_saved(running: Ground) -> None:
    save(running.hypervisor)
    running.hypervisor.start(UUID, 1)
    assert state(running) == RUNNING
    save(running.hypervisor)
    running.hypervisor.remove_domain(UUID, 1)
    assert running.hypervisor.power_state(UUID) is PowerState.NOSTATE


def test_files_that_are_missing(running: Ground) -> None:
    hypervisor = running.hypervisor
    assert hypervisor.missing_files(UUID, ["disk", "disk.config"]) == []
    assert hypervisor.missing_files(UUID, ["disk.local", "disk", "disk.swap"]) == ["disk.local", "disk.swap"]
    hypervisor.remove_directory(UUID, 1)
    assert hypervisor.missing_files(UUID, ["disk"]) == ["disk"]


def test_all_questions_are_refused_by_another_fleets_host(running: Ground) -> None:
    hypervisor = running.hypervisor
    hypervisor.fleet = "22222222-2222-4333-8444-555555555555"
    for ask in (
        hypervisor.room_to_save,
        lambda: hypervisor.qemu_versions(UUID),
        lambda: hypervisor.missing_files(UUID, ["disk"]),
        lambda: hypervisor.ensure_bridges({"br0": []}),
    ):
        with pytest.raises(HostRefused, match="not enrolled in this fleet"):
            ask()


# --- the real one only ---


def test_a_save_that_libvirt_refuses(host: Ground, tmp_path: Path) -> None:
    assert host.local
    host.guest()
    host.hypervisor.start(UUID, 1)
    host.hypervisor.save_path = str(tmp_path / "not" / "there")  # made by libvirt when it needs it
    (host.local.domains / ".full").touch()
    with pytest.raises(HostFault, match="No space left on device"):
        save(host.hypervisor)
    unsave(host.hypervisor)
    assert state(host) == RUNNING


def test_another_qemu(host: Ground, tmp_path: Path) -> None:
    assert host.local
    host.guest()
    host.hypervisor.start(UUID, 1)
    host.hypervisor.save_path = str(tmp_path)
    save(host.hypervisor)
    (host.local.domains / ".qemu").write_text("10.0.2\n")
    assert host.hypervisor.qemu_versions(UUID) == ("7.2.17", "10.0.2")


def test_a_guest_that_cannot_run_on(host: Ground, tmp_path: Path) -> None:
    """Its memory stays saved."""
    assert host.local
    host.guest()
    host.hypervisor.start(UUID, 1)
    host.hypervisor.save_path = str(tmp_path)
    save(host.hypervisor)
    (host.local.domains / ".refuse").write_text("no bridge")
    for act in (restore, unsave):
        with pytest.raises(HostFault, match=r"Failed to start domain 'instance-x'; no bridge"):
            act(host.hypervisor)
        assert state(host) == SAVED


def test_libvirtd_that_is_down(host: Ground) -> None:
    assert host.local
    host.guest()
    (host.local.domains / ".down").touch()
    for act in (save, unsave, restore, lambda hypervisor: hypervisor.pause(UUID, 1)):
        with pytest.raises(HostUnreachable, match="failed to connect to the hypervisor"):
            act(host.hypervisor)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Ground]:
    """A host with no network but its own."""
    script = (
        "mount -t sysfs sysfs /sys && ip link add up0 type veth peer name far0"
        ' && ip link add own0 type veth peer name own1 && ip addr add 192.0.2.9/24 dev own0 && exec "$@"'
    )
    made = real(tmp_path, prefix=(*IN_A_NAMESPACE, script, "sh"))
    yield made
    assert made.local
    made.local.close()


CUT = r"its save was cut, its memory is lost$"


def test_a_save_that_was_cut_is_never_started_from(tmp_path: Path) -> None:
    """libvirt lists it as a save; a start would drop it and boot from the disk."""
    ground = real(tmp_path)
    ground.guest()
    hypervisor = ground.hypervisor
    hypervisor.start(UUID, 1)
    hypervisor.save_path = str(tmp_path / "saves")
    save(hypervisor)
    file = Path(hypervisor.save_words(UUID, 1, MIB)[-1])
    file.parent.mkdir()
    file.write_bytes(b"LibvirtQemudPart" + bytes(100))
    for act in (save, restore):
        with pytest.raises(HostFault, match=CUT):
            act(hypervisor)
        assert state(ground) == SAVED
    unsave(hypervisor)  # nobody asked for a start from the disk: it is off
    assert state(ground) == OFF
    assert ground.local
    ground.local.close()


def test_a_whole_save_is_started_from(tmp_path: Path) -> None:
    ground = real(tmp_path)
    ground.guest()
    hypervisor = ground.hypervisor
    hypervisor.start(UUID, 1)
    hypervisor.save_path = str(tmp_path / "saves")
    save(hypervisor)
    file = Path(hypervisor.save_words(UUID, 1, MIB)[-1])
    file.parent.mkdir()
    file.write_bytes(b"LibvirtQemudSave" + bytes(100))
    save(hypervisor)
    restore(hypervisor)
    assert state(ground) == RUNNING
    assert ground.local
    ground.local.close()


def test_bridges_are_made_again(bare: Ground) -> None:
    hypervisor = bare.hypervisor
    assert hypervisor.facts()["bridge"] == []
    assert hypervisor.ensure_bridges({"br7": ["up0", "none0"], "br8": []}) == {"br7": ["up0"], "br8": []}
    assert hypervisor.ensure_bridges({"br7": ["far0"], "br8": []}) == {}
    assert hypervisor.ensure_bridges({"br9": ["up0", "far0"]}) == {"br9": ["far0"]}  # up0 has a master
    facts = hypervisor.facts()
    assert facts["bridge"] == ["br7", "br8", "br9"]
    assert facts["port"] == ["br7 up0", "br9 far0"]
    assert hypervisor.look(UUID, ["br7", "br8"]).missing_bridges == []


def test_a_port_with_an_address_stays_what_it_is(bare: Ground) -> None:
    """The host may be reached by it; `own0` got one since the host was last looked at."""
    assert bare.hypervisor.ensure_bridges({"br7": ["own0", "far0"]}) == {"br7": ["far0"]}


def test_a_bridge_that_cannot_be_made(bare: Ground) -> None:
    with pytest.raises(HostFault, match=r"^kvm1: cannot make bridge up0: RTNETLINK answers: File exists$"):
        bare.hypervisor.ensure_bridges({"up0": []})


@pytest.mark.parametrize("name", ["br 0", "a" * 16, "-x", "br0;true", ""])
def test_only_names_of_interfaces_reach_a_host(bare: Ground, name: str) -> None:
    for wanted in ({name: []}, {"br0": [name]}):
        with pytest.raises(UsageError, match="is not acceptable"):
            bare.hypervisor.ensure_bridges(wanted)
