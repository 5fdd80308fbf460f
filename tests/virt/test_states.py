"""What a host says of all its guests in one look."""

import pytest

from novactl.errors import HostFault, HostRefused, HostUnreachable
from novactl.objects.states import PowerState
from novactl.virt import states
from novactl.virt.states import Power, States
from tests.support import fleet
from tests.support.scratch import FLEET
from tests.virt.ground import OPERATION, OTHER, UUID, Ground, xml

MARK = "0123456789abcdef" * 2
THIRD = "cccccccc-0000-4000-8000-000000000003"


def saved(ground: Ground, uuid: str) -> None:
    """libvirt keeps the memory of the guest, which is off."""
    if ground.local is not None:
        (ground.local.domains / uuid / "saved").touch()
    else:
        ground.hypervisor.host.domains[uuid].saved = True


def test_every_domain_with_its_power(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    assert hypervisor.states().domains == {}
    for uuid in (UUID, OTHER, THIRD):
        ground.guest(uuid)
    hypervisor.start(OTHER, 1)
    saved(ground, THIRD)
    assert hypervisor.states().domains == {
        UUID: Power(PowerState.SHUTDOWN),
        OTHER: Power(PowerState.RUNNING),
        THIRD: Power(PowerState.SHUTDOWN, saved=True),
    }


def test_the_host_itself(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    hypervisor.put_copy(7, b"copy\n")
    hypervisor.mark = "000000000012.op-0a"
    first = hypervisor.states()
    assert (first.mark, first.copy, hypervisor.copy_seen) == ("", 7, 7)  # what it knew before this call
    second = hypervisor.states()
    assert second.mark == "000000000012.op-0a"
    assert first.boot_id
    assert first.boot_id == second.boot_id
    assert first.disk_free > 1 << 20
    assert first.memory_available_mib > 0


def test_only_a_host_of_the_fleet_is_asked(ground: Ground) -> None:
    ground.hypervisor.fleet = "22222222-2222-4333-8444-555555555555"
    with pytest.raises(HostRefused, match=r"^kvm1: this host is not enrolled in this fleet$") as caught:
        ground.hypervisor.states()
    assert caught.value.code == 5
    assert ground.hypervisor.fleet != FLEET


def test_no_libvirt(host: Ground) -> None:
    assert host.local
    host.guest()
    (host.local.domains / ".down").touch()
    with pytest.raises(
        HostUnreachable, match=r"^kvm1: libvirt does not answer: .*failed to connect"
    ) as caught:
        host.hypervisor.states()
    assert caught.value.code == 7


def test_hanging_up_ends_no_call(ground: Ground) -> None:
    ground.guest()
    for _ in range(2):
        ground.hypervisor.hang_up()
        assert list(ground.hypervisor.states().domains) == [UUID]


# --- the words ---

HEAD = "boot_id b\ndisk_free 3 4096\nmark \ncopy 0\navailable_kib 2048\ndomains\n"


def said(*domains: tuple[str, str, str], head: str = HEAD) -> States:
    """As virsh 9.0 prints it: `list --all --uuid --name`, then `list --all --managed-save`."""
    names = "".join(f"{uuid} {name:<30}\n" for uuid, name, _ in domains)
    width = max((len(name) for _, name, _ in domains), default=0) + 3
    table = "".join(f" -   {name:<{width}}{state}\n" for _, name, state in domains)
    return states.parse("kvm1", f"{head}{names}{MARK}{table}\n", MARK)


@pytest.mark.parametrize(
    ("word", "power"),
    [
        ("running", Power(PowerState.RUNNING)),
        ("idle", Power(PowerState.RUNNING)),
        ("in shutdown", Power(PowerState.RUNNING)),
        ("paused", Power(PowerState.PAUSED)),
        ("shut off", Power(PowerState.SHUTDOWN)),
        ("saved", Power(PowerState.SHUTDOWN, saved=True)),
        ("crashed", Power(PowerState.CRASHED)),
        ("pmsuspended", Power(PowerState.SUSPENDED)),
        ("something new", None),
    ],
)
def test_virsh_words(word: str, power: Power | None) -> None:
    found = said((UUID, "instance-aaaabbbbcccc", word), (OTHER, "x", "shut off"))
    assert found.domains == {UUID: power, OTHER: Power(PowerState.SHUTDOWN)}
    assert (found.disk_free, found.memory_available_mib) == (12288, 2)


def test_a_name_of_somebody_elses_is_not_taken_for_ours() -> None:
    ours, odd = "instance-aaaabbbbcccc", "instance-aaaabbbbcccc  running"
    found = said((UUID, ours, "shut off"), (OTHER, odd, "paused"), (THIRD, "my guest", "in shutdown"))
    assert found.domains == {
        UUID: Power(PowerState.SHUTDOWN),
        OTHER: Power(PowerState.PAUSED),
        THIRD: Power(PowerState.RUNNING),
    }


def test_one_that_came_between_the_lists_is_not_known() -> None:
    both = f"{HEAD}{UUID} a\n{OTHER} b\n{MARK} -   b   paused\n"
    assert states.parse("kvm1", both, MARK).domains == {UUID: None, OTHER: Power(PowerState.PAUSED)}


@pytest.mark.parametrize("answer", ["", HEAD, HEAD.replace("copy 0\n", "") + MARK, f"domains\n{MARK}", "x"])
def test_an_answer_that_was_cut(answer: str) -> None:
    with pytest.raises(HostFault, match=r"^kvm1: what it says of its guests was cut$") as caught:
        states.parse("kvm1", answer, MARK)
    assert caught.value.code == 1


def test_many_domains_are_one_virsh(host: Ground) -> None:
    """A process costs the host more than what it does here."""
    assert host.local
    for number in range(1, 21):
        host.hypervisor.make_directory(fleet.uuid(number), 1, OPERATION)
        host.hypervisor.define(fleet.uuid(number), 1, xml(fleet.uuid(number)))
    fake = host.local.domains.parent / "bin" / "virsh"
    lines = fake.read_text().split("\n", 1)
    fake.write_text(f'{lines[0]}\necho x >>"$FAKE_VIRSH/.count"\n{lines[1]}')
    assert len(host.hypervisor.states().domains) == 20
    assert (host.local.domains / ".count").read_text().split() == ["x"]
