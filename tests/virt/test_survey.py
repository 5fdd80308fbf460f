"""The survey of a host, and the small repairs that follow from it."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from novactl.errors import Busy, HostFault, HostUnreachable, UsageError
from novactl.images.transfer import feed
from novactl.objects.states import PowerState
from novactl.objects.survey import SeenDirectory, SeenDomain, Survey
from novactl.virt import survey
from novactl.virt.domain import record
from tests.support import fleet
from tests.support.local_shell import LocalHost
from tests.support.scratch import FLEET
from tests.support.sim import SimHost
from tests.virt.ground import BASE, OPERATION, OTHER, UUID, Ground, quiet, source, xml

# --- what both promise ---


def autostart(ground: Ground, uuid: str = UUID) -> None:
    if ground.local is not None:
        (ground.local.domains / uuid / "autostart").touch()
    else:
        ground.hypervisor.host.domains[uuid].autostart = True


def stray(ground: Ground, entry: str) -> None:
    """Something half made or half removed."""
    if ground.local is not None:
        (ground.path / entry).mkdir()
        (ground.path / entry / "disk").touch()
    else:
        ground.hypervisor.host.strays.add(entry)


def test_an_empty_host(ground: Ground) -> None:
    seen = ground.hypervisor.survey()
    assert seen == Survey(fleet=FLEET, mark="", boot_id=seen.boot_id, storage=seen.storage, epochs={})
    assert seen.storage and seen.storage == ground.hypervisor.storage()
    assert seen.storage == ground.hypervisor.enrol(takeover=False)
    assert seen.boot_id
    assert seen.boot_id == ground.hypervisor.survey().boot_id


def test_everything_that_is_there(ground: Ground, tmp_path: Path) -> None:
    hypervisor = ground.hypervisor
    ground.guest(epoch=3)
    ground.guest(OTHER, "op-2", epoch=4)
    hypervisor.start(OTHER, 4)
    autostart(ground)
    hypervisor.fence(fleet.uuid(9), 7)
    hypervisor.mark = "000000000012.op-0a"
    name, path = source(tmp_path, os.urandom(3000))
    hypervisor.base_receive(name, 3000, 0, feed(path, 0, quiet))
    hypervisor.job_start("op-0a", 3, "sleep", "60")
    hypervisor.job_start("op-0a", 12, "true")
    hypervisor.job_wait("op-0a", 12, 5)
    stray(ground, f"{UUID}.del")
    seen = hypervisor.survey()
    hypervisor.job_end("op-0a", 3)
    assert (seen.serial, seen.mark) == (12, "000000000012.op-0a")
    assert seen.epochs == {UUID: 3, OTHER: 4, fleet.uuid(9): 7}
    assert seen.bases == (BASE,)
    assert seen.parts == (name,)
    assert seen.jobs == (("op-0a", 3, True), ("op-0a", 12, False))
    first, second = seen.domains
    assert first == SeenDomain(
        uuid=UUID,
        name=first.name,
        state=PowerState.SHUTDOWN,
        autostart=True,
        fleet=FLEET,
        operation=OPERATION,
        epoch=1,
        generation=1,
        record=json.loads(json.dumps(record(fleet.instance(1, uuid=UUID)))),
        taps=first.taps,
    )
    assert first.name.startswith("instance-")
    assert (second.uuid, second.state, second.autostart, second.operation) == (
        OTHER,
        PowerState.RUNNING,
        False,
        "op-2",
    )
    files = (".made-by", "console.log", "disk", "disk.config", "libvirt.xml")
    one, gone, two = seen.directories
    assert one == SeenDirectory(entry=UUID, made_by=OPERATION, files=files)
    assert two == SeenDirectory(entry=OTHER, made_by="op-2", files=files)
    assert (gone.entry, gone.made_by) == (f"{UUID}.del", None)


def test_any_host_is_surveyed(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    ground.guest()
    hypervisor.fleet = "22222222-2222-4333-8444-555555555555"
    hypervisor.mark = "000000000099.op-0a"
    seen = hypervisor.survey()
    assert (seen.fleet, seen.serial, len(seen.domains)) == (FLEET, 0, 1)
    hypervisor.fleet, hypervisor.mark = FLEET, ""
    hypervisor.remove_directory(UUID, 1)
    hypervisor.leave()
    assert hypervisor.survey().fleet is None


def test_autostart_off(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    hypervisor.autostart_off(UUID, 1)  # no domain is fine
    ground.guest()
    autostart(ground)
    for _ in range(2):
        hypervisor.autostart_off(UUID, 1)
        assert [one.autostart for one in hypervisor.survey().domains] == [False]


@pytest.mark.parametrize("ending", ["del", "op-1", "op-0123456789abcdef"])
def test_a_stray_is_removed(ground: Ground, ending: str) -> None:
    ground.guest()
    stray(ground, f"{UUID}.{ending}")
    for _ in range(2):
        ground.hypervisor.remove_stray(UUID, 1, f"{UUID}.{ending}")
        assert ground.strays() == []
    assert "disk" in ground.files()


@pytest.mark.parametrize(
    "entry",
    ["", UUID, f"{UUID}.", f"{OTHER}.del", f"{UUID}.del/x", f"{UUID}.op-", f"{UUID}.op-1/../../x", "_base"],
)
def test_only_a_stray_is_removed(ground: Ground, entry: str) -> None:
    with pytest.raises(UsageError, match=r"is not a left-over of") as caught:
        ground.hypervisor.remove_stray(UUID, 1, entry)
    assert caught.value.code == 2


def test_a_part_is_removed(ground: Ground, tmp_path: Path) -> None:
    hypervisor = ground.hypervisor
    name, path = source(tmp_path, os.urandom(3000))
    hypervisor.remove_part(name)
    hypervisor.base_receive(name, 3000, 0, feed(path, 0, quiet))
    hypervisor.remove_part(name)
    assert hypervisor.base_state(name) == (False, 0)
    assert hypervisor.survey().parts == ()
    ground.base()
    hypervisor.remove_part(BASE)
    assert hypervisor.base_state(BASE) == (True, 0)
    for wrong in ("", "..", "../x", "a/b", ".x", "A"):
        with pytest.raises(UsageError, match=r"is not a base file$"):
            hypervisor.remove_part(wrong)


# --- the real one ---


def test_a_part_that_somebody_works_on_is_left(host: Ground) -> None:
    lock = host.path / "_base" / f".lock.{BASE}"
    argv = ["flock", str(lock), "sh", "-c", "echo held; exec sleep 5"]
    holder = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert holder.stdout
    holder.stdout.readline()
    (host.path / "_base" / f".{BASE}.part").touch()
    with pytest.raises(Busy, match=r"another command fetches this base file$"):
        host.hypervisor.remove_part(BASE)
    holder.kill()
    holder.wait()
    assert (host.path / "_base" / f".{BASE}.part").exists()


def test_the_host_s_own_look_at_an_entry(host: Ground) -> None:
    assert host.local
    victim = host.path / f"{UUID}.x"
    victim.mkdir()
    for ending in ("x", "", "op-", "op-z", "del/../x", "*"):
        with pytest.raises(HostFault, match=r"is not an ending of ours$"):
            host.local.shell.call("nv_remove_stray", str(host.path / UUID), ending)
    assert victim.is_dir()


HOSTILE = [
    "a\nb",
    "\nboot_id\n",
    "fleet",
    "-rf",
    "$(touch CANARY)",
    "*",
    " x ",
    "\\0domains\\0",
    "%s%n",
    f"{OTHER}.del\n",
    ".hidden",
]


def test_hostile_names(host: Ground, tmp_path: Path) -> None:
    hypervisor = host.hypervisor
    host.guest()
    for name in HOSTILE:
        (host.path / name).mkdir()
        (host.path / UUID / name).touch()
        (host.path / "_base" / name).touch()
        (host.path / "_base" / f".{name}.part").touch()
    os.mkdir(os.fsencode(host.path) + b"/\xff\xfe")
    (host.path / "dangling").symlink_to("/nonexistent")
    (host.path / "linked").symlink_to("/etc")
    os.mkfifo(host.path / "fifo")
    (host.path / "piped").mkdir()
    os.mkfifo(host.path / "piped" / ".made-by")
    assert host.local
    (host.local.state / "epoch" / "no\nuuid").write_text("8\n")
    (host.local.state / "job" / "op-1.x\n").mkdir()
    seen = hypervisor.survey()
    entries = {one.entry: one for one in seen.directories}
    shown = {name for name in HOSTILE if not name.startswith(".")}
    assert set(entries) == {UUID, *shown, "\\xff\\xfe", "dangling", "linked", "fifo", "piped"}
    assert set(HOSTILE) <= set(entries[UUID].files)
    assert entries["linked"].files == ()
    assert entries["piped"] == SeenDirectory(entry="piped", files=(".made-by",))
    assert (seen.fleet, seen.bases, seen.parts, seen.epochs, seen.jobs) == (FLEET, (BASE,), (), {UUID: 1}, ())
    assert [domain.uuid for domain in seen.domains] == [UUID]
    assert not (tmp_path / "CANARY").exists()


def foreign(local: LocalHost, uuid: str, content: str, state: str = "running") -> None:
    directory = local.domains / uuid
    directory.mkdir()
    (directory / "state").write_text(f"{state}\n")
    (directory / "xml").write_text(content)


def test_hostile_domains(host: Ground) -> None:
    assert host.local
    space = "https://novactl.org/xmlns/1"
    texts = [
        "<domain><name>a &lt;b&gt; ; list --all\n0000 end</name><title>x</title></domain>",
        "this is no xml",
        "<domain/>",
        f"<domain><metadata><i:instance xmlns:i='{space}' epoch='-1' generation='9e9'>{{}}x</i:instance>"
        "</metadata></domain>",
        f"<domain><metadata><i:instance xmlns:i='{space}' fleet='f' epoch='12'>[1]</i:instance></metadata>"
        "<devices><interface/><interface><target/></interface><interface><target dev='vnet0'/></interface>"
        "</devices></domain>",
    ]
    for number, text in enumerate(texts, start=1):
        foreign(host.local, fleet.uuid(number), text, "paused")
    seen = host.hypervisor.survey().domains
    assert [one.uuid for one in seen] == [fleet.uuid(number) for number in range(1, 6)]
    assert {one.state for one in seen} == {PowerState.PAUSED}
    assert seen[0].name == "a <b> ; list --all\n0000 end"
    for one in seen[1:4]:
        assert (one.name, one.fleet, one.epoch, one.generation, one.record) == ("", None, None, None, None)
    assert (seen[4].fleet, seen[4].epoch, seen[4].record, seen[4].taps) == ("f", 12, None, ("vnet0",))


def test_many_domains_are_few_processes(host: Ground) -> None:
    assert host.local
    for number in range(1, 451):
        foreign(host.local, fleet.uuid(number), xml(fleet.uuid(number)))
    fake = host.local.domains.parent / "bin" / "virsh"
    lines = fake.read_text().split("\n", 1)
    fake.write_text(f'{lines[0]}\necho x >>"$FAKE_VIRSH/.count"\n{lines[1]}')
    seen = host.hypervisor.survey().domains
    assert [one.uuid for one in seen] == [fleet.uuid(number) for number in range(1, 451)]
    assert {one.record["name"] for one in seen if one.record} == {"web1"}
    assert len((host.local.domains / ".count").read_text().split()) == 4


def test_no_libvirt_is_no_survey(host: Ground) -> None:
    assert host.local
    host.guest()
    (host.local.domains / ".down").touch()
    with pytest.raises(HostUnreachable, match=r"failed to connect to the hypervisor") as caught:
        host.hypervisor.survey()
    assert caught.value.code == 7


def test_a_libvirt_that_goes_away_meanwhile(host: Ground) -> None:
    assert host.local
    host.guest()
    fake = host.local.domains.parent / "bin" / "virsh"
    lines = fake.read_text().split("\n", 1)
    gone = 'case "$*" in *dumpxml*) touch "$FAKE_VIRSH/.down" ;; esac'
    fake.write_text(f"{lines[0]}\n{gone}\n{lines[1]}")
    with pytest.raises(HostUnreachable, match=r"^kvm1: libvirt does not answer any more$"):
        host.hypervisor.survey()


def test_a_domain_that_vanishes_meanwhile_and_one_that_is_not_told(host: Ground) -> None:
    assert host.local
    host.guest()
    foreign(host.local, OTHER, xml(OTHER))
    fake = host.local.domains.parent / "bin" / "virsh"
    plain = fake.read_text()
    lines = plain.split("\n", 1)
    vanish = f'case "$*" in *dumpxml*) rm -r "$FAKE_VIRSH/{OTHER}" ;; esac'
    fake.write_text(f"{lines[0]}\n{vanish}\n{lines[1]}")
    assert [one.uuid for one in host.hypervisor.survey().domains] == [UUID]
    fake.write_text(plain)
    (host.local.domains / UUID / "xml").unlink()
    with pytest.raises(HostFault, match=rf"^kvm1: libvirt does not tell what domain {UUID} is$"):
        host.hypervisor.survey()


def test_a_host_that_was_never_enrolled(local: LocalHost) -> None:
    from novactl.virt.hypervisor import Hypervisor

    path = local.state / "instances"
    seen = Hypervisor(local.shell, FLEET, str(path)).survey()
    assert (seen.fleet, seen.directories, seen.jobs) == (None, (), ())
    assert list(local.state.iterdir()) == []  # it only looked


# --- reading it ---


@pytest.mark.parametrize("answer", [b"", b"fleet\0", b"a\0b\0c\0d", b"domains\0MARKx\0"])
def test_an_answer_that_is_none(answer: bytes) -> None:
    with pytest.raises(HostFault, match=r"^kvm1: "):
        survey.parse("kvm1", answer, "MARK")


def test_base_files() -> None:
    sha, other, half = ("a" * 64, "b" * 64, "c" * 64)
    names = [sha, f"{sha}.json", other, f".lock.{sha}", f".{half}.part", f".{half}.pos", ".swap_64.raw"]
    blank = ["ephemeral_1_ext4", "ephemeral_1_ext4_v2", "swap_64", "swap_64_v2"]
    found: Any = survey.base_files([*names, *blank, "lost+found", ".x.part", "swap_v2"])
    assert found == ((sha, *blank), (half, "swap_64"))


def test_a_reboot_ends_a_simulated_job() -> None:
    from novactl.virt.jobs import JobState
    from tests.support.clock import SimClock
    from tests.support.sim import SimHypervisor

    host = SimHost("kvm1", FLEET)
    hypervisor = SimHypervisor(host, FLEET, SimClock(), [])
    hypervisor.job_start("op-1", 1, "sleep", "5")
    before = hypervisor.survey()
    host.power_cycle()
    after = hypervisor.survey()
    assert (before.jobs, after.jobs) == ((("op-1", 1, True),), (("op-1", 1, False),))
    assert before.boot_id != after.boot_id
    assert hypervisor.job_wait("op-1", 1, 9) == JobState("none")
    hypervisor.job_start("op-1", 1, "true")
    assert hypervisor.job_wait("op-1", 1, 9).rc == 0
