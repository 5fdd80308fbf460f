"""What a host does for snapshots, held by the simulation and by host.sh in a real shell alike."""

import hashlib
import json
import os
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from novactl.actions.steps.images import PullFile, forget_pulled
from novactl.engine.operation import Operation, Record, StepState
from novactl.engine.ports import Interrupt, SystemClock
from novactl.engine.runner import StepContext
from novactl.errors import HostFault, HostUnreachable, ImageRefused, Interrupted, Refused
from novactl.images import blocks
from novactl.images.store import LocalStore
from novactl.objects.image import MARGIN
from novactl.objects.states import PowerState
from novactl.remote.shell import failure
from tests.support.local_shell import with_library
from tests.support.sim import Fault
from tests.virt.ground import UUID, Ground
from tests.virt.jobs import carry_out

OP = "op-0c"
FILE = f"{OP}.disk"
CONTENT = os.urandom(1 << 20) + bytes(3 << 20) + b"the end".ljust(512)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


NOTE = f".incoming/{OP}.4.json"
"""What tells that the file has come, until the step's record does."""


class Rows:
    """A database in which no image is."""

    def all(self, sql: str) -> list[Any]:
        return []


def context(ground: Ground, store: LocalStore, step: PullFile, **values: Any) -> StepContext:
    clock = SystemClock() if ground.local else ground.clock
    world = SimpleNamespace(
        hypervisor=lambda name: ground.hypervisor,
        store=store,
        clock=clock,
        db=SimpleNamespace(write=lambda work: work(Rows()), read=lambda work: 1 << 30),
    )
    operation = Operation(OP, "snapshot", "web1", None, "default", {})
    return StepContext(
        world, operation, Record(4, 1, step), clock, Interrupt(), lambda *_, **__: None, **values
    )


def pull(disk_format: str = "raw") -> PullFile:
    return PullFile(host="kvm1", uuid=UUID, file=FILE, what="disk", disk_format=disk_format)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def made(ground: Ground) -> Ground:
    """The operation has made its file."""
    ground.hypervisor.make_directory(UUID, 1, "op-1")
    ground.hypervisor.put(UUID, 1, FILE, "0600", CONTENT)
    if ground.local:
        path = ground.path / UUID / FILE
        with path.open("r+b") as file:  # with its hole
            file.truncate(0)
            os.pwrite(file.fileno(), CONTENT[: 1 << 20], 0)
            os.pwrite(file.fileno(), CONTENT[4 << 20 :], 4 << 20)
    return ground


def left(ground: Ground, tmp_path: Path) -> tuple[list[str], list[Any]]:
    """What is in the store, in part too, and which jobs are on the host."""
    root = tmp_path / "store"
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    return files, list(ground.hypervisor.survey().jobs)


def test_a_file_of_a_host_comes_into_the_store(made: Ground, store: LocalStore, tmp_path: Path) -> None:
    step = pull()
    ctx = context(made, store, step)
    facts = {"sha256": SHA256, "size_bytes": len(CONTENT), "virtual_size_bytes": len(CONTENT)}
    for _ in range(2):  # a process that died before it was written down
        assert step.do(ctx) == {**facts, "disk_format": "raw"}
        assert store.path(SHA256).read_bytes() == CONTENT
        assert left(made, tmp_path) == ([NOTE, SHA256], [])
    if made.local:
        assert store.path(SHA256).stat().st_blocks * 512 < len(CONTENT) / 2
    for _ in range(2):  # it was stored, and not written down
        step.undo(ctx)
        assert left(made, tmp_path) == ([], [])


def test_a_file_that_is_not_there(ground: Ground, store: LocalStore, tmp_path: Path) -> None:
    ground.hypervisor.make_directory(UUID, 1, "op-1")
    step = pull()
    ctx = context(ground, store, step)
    with pytest.raises(HostFault):
        step.do(ctx)
    step.undo(ctx)
    assert left(ground, tmp_path) == ([], [])


def test_a_transfer_that_was_cut_goes_on(
    made: Ground, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on from where it stands, and asks for no byte twice."""
    asked: list[int] = []
    plain = made.hypervisor.file_send

    def send(uuid: str, file: str, start: int, take: Any) -> None:
        asked.append(start)
        if len(asked) == 1 and made.local:
            data = b"%-63d\n%-63s\n" % (len(CONTENT), b"0 1048576") + CONTENT[: 1 << 20]
            pieces = iter([data[:64], data[64:128], data[128:]])
            with pytest.raises(EOFError):
                take(lambda count: next(pieces, b""))
            raise HostUnreachable("kvm1: the connection was cut")
        plain(uuid, file, start, take)

    monkeypatch.setattr(made.hypervisor, "file_send", send)
    made.hypervisor.faults = [Fault("file_send", "cut")]
    step = pull()
    assert step.do(context(made, store, step))["sha256"] == SHA256
    assert asked[0] == 0 and 0 < asked[1] < len(CONTENT) and len(asked) == 2


def test_another_process_goes_on_with_it(made: Ground, store: LocalStore, tmp_path: Path) -> None:
    step = pull()
    ctx = context(made, store, step)
    with store.incoming(f"{OP}.4") as growing:
        growing.write_at(0, CONTENT[: 1 << 20])
        growing.stands_at(1 << 20)
    ctx.record.result = step.do(ctx)
    assert ctx.record.result["sha256"] == SHA256
    assert left(made, tmp_path) == ([NOTE, SHA256], [])
    ctx.record.state, ctx.op.records = StepState.DONE, [ctx.record]
    forget_pulled(ctx)
    assert left(made, tmp_path) == ([SHA256], [])


def test_what_came_otherwise_than_it_was_sent_is_refused(
    made: Ground, store: LocalStore, tmp_path: Path
) -> None:
    step = pull()
    ctx = context(made, store, step)
    with store.incoming(f"{OP}.4") as growing:
        growing.write_at(0, b"damaged")
        growing.stands_at(1 << 20)
    with pytest.raises(ImageRefused, match=f"not {SHA256}"):
        step.do(ctx)
    step.undo(ctx)
    assert left(made, tmp_path) == ([], [])


def test_what_arrives_is_inspected(made: Ground, store: LocalStore, tmp_path: Path) -> None:
    """The header of a file is read here, whatever the host said that it is."""
    step = pull("qcow2")
    ctx = context(made, store, step)
    with pytest.raises(ImageRefused):
        step.do(ctx)
    step.undo(ctx)
    assert left(made, tmp_path) == ([], [])


def test_what_comes_leaves_room_for_the_database(
    made: Ground, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at before each piece, whatever was counted on when it began."""

    def look(fd: int) -> Any:
        return SimpleNamespace(f_bavail=MARGIN + 512 - os.fstat(fd).st_blocks * 512, f_frsize=1)

    monkeypatch.setattr(blocks.os, "fstatvfs", look)
    step = pull()
    ctx = context(made, store, step)
    with pytest.raises(Refused, match=r"no room for .*: [1-9] MiB are to come, 0 MiB are free") as caught:
        step.do(ctx)
    assert "free space under" in caught.value.hint
    assert all(path.stat().st_blocks == 0 for path in (tmp_path / "store").rglob("*.part"))
    step.undo(ctx)
    assert left(made, tmp_path) == ([], [])


def test_an_interrupt_ends_it_and_undo_takes_it_back(made: Ground, store: LocalStore, tmp_path: Path) -> None:
    step = pull()
    ctx = context(made, store, step)
    ctx.observe = lambda *_, **__: ctx.interrupt.set()
    with pytest.raises(Interrupted):
        step.do(ctx)
    ctx.interrupt = Interrupt()
    step.undo(ctx)
    assert left(made, tmp_path) == ([], [])


def test_a_file_that_an_image_needs_stays(made: Ground, store: LocalStore, monkeypatch: Any) -> None:
    step = pull()
    ctx = context(made, store, step)
    ctx.record.result = step.do(ctx)
    monkeypatch.setattr("novactl.db.catalogue.stored_files_in_use", lambda tx: {SHA256})
    step.undo(ctx)
    assert store.has(SHA256)


def test_a_link_that_is_lost_for_good(host: Ground, store: LocalStore, monkeypatch: Any) -> None:
    """What arrived goes all the same."""
    assert host.local
    host.hypervisor.make_directory(UUID, 1, "op-1")
    host.hypervisor.put(UUID, 1, FILE, "0600", CONTENT)
    monkeypatch.setattr("novactl.actions.steps.jobs.PATIENCE", 1)
    step = pull()
    ctx = context(host, store, step)
    plain = host.hypervisor.file_send

    def send(uuid: str, file: str, start: int, take: Any) -> None:
        threading.Timer(0.0, host.local.cut).start()
        raise HostUnreachable("kvm1: no answer in time")

    monkeypatch.setattr(host.hypervisor, "file_send", send)
    with pytest.raises(HostUnreachable):
        step.do(ctx)
    monkeypatch.setattr(host.hypervisor, "file_send", plain)
    step.undo(ctx)


# --- copies of disks ---


def marked(ground: Ground, what: str) -> None:
    """The guest has this: agent, refuses-copies."""
    if ground.local:
        (ground.local.domains / UUID / what).touch()
    else:
        setattr(ground.hypervisor.host.domains[UUID], what.replace("-", "_"), True)


def made_files(ground: Ground) -> list[str]:
    return [file for file in ground.files() if file.startswith("op-0c")]


@pytest.fixture
def running(ground: Ground) -> Ground:
    ground.guest()
    ground.hypervisor.start(UUID, 1)
    return ground


def copied(ground: Ground, freeze: str) -> str:
    """What the job says."""
    hypervisor = ground.hypervisor
    hypervisor.job_start(OP, 9, *hypervisor.copy_live_words(UUID, 1, OP, freeze, ["disk"]))
    while (seen := hypervisor.job_wait(OP, 9, 20)).state == "running":
        pass
    hypervisor.job_forget(OP, 9)
    if seen.rc:
        raise failure("kvm1", seen.rc, seen.log)
    return str(seen.log.splitlines()[-1])


def test_what_is_there_to_copy(running: Ground) -> None:
    look = running.hypervisor.snapshot_look(UUID, PowerState.RUNNING, ["disk"])
    assert look.silent and "not connected" in look.silent and look.room_bytes > 0
    assert f"{running.hypervisor.directory(UUID)}/disk" in look.sources
    disk = look.disks["disk"]
    assert disk.virtual_bytes == 1 << 20 and 0 < disk.whole_bytes <= disk.virtual_bytes
    marked(running, "agent")
    assert running.hypervisor.snapshot_look(UUID, PowerState.RUNNING, ["disk"]).silent == ""
    off = running.hypervisor.snapshot_look(UUID, PowerState.SHUTDOWN, ["disk"])
    assert off.silent is None and off.sources == []


def test_a_copy_of_one_moment(running: Ground) -> None:
    """Made once; a file by itself is made of it, and it goes."""
    marked(running, "agent")
    for _ in range(2):
        assert copied(running, "must").startswith("copied ")
        assert made_files(running) == [f"{OP}.copied", f"{OP}.disk.delta"]
    assert running.hypervisor.power_state(UUID) is PowerState.RUNNING
    for _ in range(2):
        words = running.hypervisor.extract_words(
            UUID, 1, OP, "disk", f"{OP}.disk.delta", "raw", compressed=False
        )
        carry_out(running.hypervisor, words)
        assert made_files(running) == [f"{OP}.copied", f"{OP}.disk"]
    assert len(running.content(f"{OP}.disk")) == 1 << 20
    for _ in range(2):
        running.hypervisor.drop_files(UUID, 1, OP)
        assert made_files(running) == []
    if running.local:
        domain = running.local.domains / UUID
        assert not (domain / "frozen").exists() and not (domain / "mirror.disk").exists()


def test_without_an_agent(running: Ground) -> None:
    assert copied(running, "not").startswith("copied - ")
    running.hypervisor.drop_files(UUID, 1, OP)
    if running.local:  # it answered when it was looked for, and does not by now
        assert "not connected" in copied(running, "may")
    running.hypervisor.drop_files(UUID, 1, OP)
    with pytest.raises(HostFault, match="not frozen"):
        copied(running, "must")
    running.hypervisor.drop_files(UUID, 1, OP)
    assert made_files(running) == []


def test_a_libvirt_that_mirrors_nothing(running: Ground) -> None:
    marked(running, "refuses-copies")
    assert copied(running, "may").startswith("cannot Operation not supported")
    assert made_files(running) == []
    with pytest.raises(HostFault):
        copied(running, "must")
    assert made_files(running) == []


def test_a_copy_that_was_cut(host: Ground) -> None:
    """Mirrors go, a guest that is frozen is thawed."""
    assert host.local
    host.guest()
    host.hypervisor.start(UUID, 1)
    domain = host.local.domains / UUID
    (domain / "agent").touch()
    (domain / "frozen").touch()
    (domain / "mirror.disk").write_text(f"{host.path}/{UUID}/{OP}.disk.delta\n")
    for file in (f"{OP}.frozen", f"{OP}.disk.delta", f"{OP}.disk.new"):
        (host.path / UUID / file).touch()
    host.hypervisor.drop_files(UUID, 1, OP)
    assert made_files(host) == []
    assert not (domain / "frozen").exists() and not (domain / "mirror.disk").exists()


def test_a_guest_that_freezes_after_its_copies_were_given_up(host: Ground) -> None:
    """libvirt goes on with a freeze whose virsh was killed, and lets nobody thaw meanwhile."""
    assert host.local
    host.guest()
    host.hypervisor.start(UUID, 1)
    domain = host.local.domains / UUID
    for sign in ("agent", "frozen", "freezing"):
        (domain / sign).touch()
    for file in (f"{OP}.frozen", f"{OP}.disk.delta"):
        (host.path / UUID / file).touch()
    host.hypervisor.drop_files(UUID, 1, OP)
    assert made_files(host) == [f"{OP}.frozen"] and (domain / "frozen").exists()
    (domain / "freezing").unlink()
    patience = time.monotonic() + 20
    while made_files(host) and time.monotonic() < patience:
        time.sleep(0.2)
    assert made_files(host) == []
    assert not (domain / "frozen").exists()


def freezes(host: Ground, script: str) -> subprocess.CompletedProcess[str]:
    """What the library does with a guest whose agent answers: libvirt may take 1 s, `sleep 1` takes less."""
    assert host.local
    begins = f"nv_limit=1 nv_where={host.path}/{UUID} nv_uuid={UUID} nv_op={OP} nv_state={host.local.state}"
    environment = {**host.local.environment, "PATH": f"{quick_sleep(host)}:{host.local.environment['PATH']}"}
    words = with_library("sh", host.local.state, f'set -e; {begins}; cd "$nv_where"; {script}')
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=60)


def quick_sleep(host: Ground) -> Path:
    assert host.local
    tool = host.local.state / "quick" / "sleep"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text('#!/bin/sh\n[ "$1" != 1 ] || set -- 0.1\nPATH=${PATH#*:}\nexec sleep "$1"\n')
    tool.chmod(0o700)
    return tool.parent


@pytest.fixture
def answering(host: Ground) -> Ground:
    """Its guest runs, and its agent answers."""
    assert host.local
    host.guest()
    host.hypervisor.start(UUID, 1)
    (host.local.domains / UUID / "agent").touch()
    return host


def thawed(host: Ground, *, within: float) -> bool:
    """Whether the guest is, and nothing says otherwise."""
    assert host.local
    patience = time.monotonic() + within
    while made_files(host) and time.monotonic() < patience:
        time.sleep(0.1)
    return made_files(host) == [] and not (host.local.domains / UUID / "frozen").exists()


@pytest.mark.parametrize("cut", ["nv_freeze=may; nv_cut disk", "nv_freeze=yes; nv_begin_backup"])
def test_a_libvirt_that_freezes_later_than_it_is_waited_for(answering: Ground, cut: str) -> None:
    """Nothing was copied; whoever watches thaws the guest once that can be."""
    assert answering.local
    domain = answering.local.domains / UUID
    (domain / "slow").write_text("3")
    (domain / "mirror.disk").touch()
    done = freezes(answering, cut)
    assert done.returncode == 79 and "libvirt did not answer" in done.stderr, done
    assert made_files(answering) == [f"{OP}.frozen"]
    assert thawed(answering, within=20)


def test_a_libvirt_that_does_not_end_copies_in_time(answering: Ground) -> None:
    """Without a freeze: what it did not say is not taken for done."""
    slow = 'timeout() { if [ "$1" = -k ]; then return 124; fi; }; nv_freeze=not; nv_cut disk'
    done = freezes(answering, slow)
    assert done.returncode == 79 and made_files(answering) == [], done


def test_a_libvirtd_that_restarts_while_the_guest_freezes(answering: Ground) -> None:
    assert answering.local
    domain = answering.local.domains / UUID
    (domain / "restarts").touch()
    done = freezes(answering, "nv_freeze=may; nv_cut disk")
    assert done.returncode != 0 and made_files(answering) == [f"{OP}.frozen"], done
    (answering.local.domains / ".down").unlink()
    assert thawed(answering, within=20)


def test_a_libvirt_that_is_away_for_longer_than_it_is_watched(answering: Ground) -> None:
    """Whoever takes it back thaws the guest."""
    assert answering.local
    (answering.local.domains / UUID / "frozen").touch()
    (answering.local.domains / ".down").touch()
    assert freezes(answering, "nv_watch; wait").returncode == 0
    assert made_files(answering) == [f"{OP}.frozen"]
    (answering.local.domains / ".down").unlink()
    answering.hypervisor.drop_files(UUID, 1, OP)
    assert thawed(answering, within=0)


def test_compressed_qcow2_of_a_disk_that_nobody_uses(host: Ground) -> None:
    host.guest()
    words = host.hypervisor.extract_words(UUID, 1, OP, "disk", "disk", "qcow2", compressed=True)
    carry_out(host.hypervisor, words)
    made = host.path / UUID / f"{OP}.disk"
    info, check = (
        json.loads(subprocess.check_output(["qemu-img", what, "-f", "qcow2", "--output=json", made]))
        for what in ("info", "check")
    )
    assert "backing-filename" not in info and check["compressed-clusters"] > 0
