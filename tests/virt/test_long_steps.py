"""Steps whose work takes long on the host: gone on with, waited for, ended by their undo."""

import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from novactl.actions.steps import images, jobs
from novactl.engine.operation import Operation, Record
from novactl.engine.ports import Interrupt, SystemClock
from novactl.engine.runner import StepContext
from novactl.errors import Busy, Fenced, HostFault, HostUnreachable, Interrupted
from novactl.remote.shell import failure
from novactl.virt.jobs import JobState
from tests.support.sim import Fault
from tests.virt.ground import Ground

OP = "op-0b"


def context(ground: Ground, path: Path | None = None, op: str = OP) -> StepContext:
    """What the runner gives a step. Time is the host's: real on the real one."""
    clock = SystemClock() if ground.local else ground.clock
    store = SimpleNamespace(path=lambda sha256: path)
    world = SimpleNamespace(hypervisor=lambda name: ground.hypervisor, store=store, clock=clock)
    operation = Operation(op, "boot", "web1", None, "default", {})
    told: list[str] = []
    made = StepContext(
        world,
        operation,
        Record(4, 1, images.FetchBase(**step(b"", 0), host="kvm1")),
        clock,
        Interrupt(),
        lambda op, record, event, detail="": told.append(detail),
    )
    made.world.told = told
    return made


def step(content: bytes, virtual_size: int, format_: str = "raw") -> dict[str, Any]:
    return {
        "what": "image tiny",
        "sha256": hashlib.sha256(content).hexdigest(),
        "source_format": format_,
        "size_bytes": len(content),
        "virtual_size_bytes": virtual_size,
    }


def fetch(content: bytes, virtual_size: int = images.QUICK, format_: str = "raw") -> images.FetchBase:
    return images.FetchBase(**step(content, virtual_size, format_), host="kvm1")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(os.urandom(300_000))
    return path


def left(ground: Ground) -> tuple[Any, ...]:
    return tuple(ground.hypervisor.survey().jobs)


def watched(hypervisor: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs started, by their function."""
    started: list[str] = []
    plain = hypervisor.job_start

    def start(op: str, n: int, *words: str) -> None:
        started.append(words[0])
        plain(op, n, *words)

    monkeypatch.setattr(hypervisor, "job_start", start)
    return started


# --- carry_out ---


def test_a_job_is_carried_out_and_forgotten(ground: Ground) -> None:
    ctx = context(ground)
    jobs.carry_out(ctx, ground.hypervisor, "sleep", "0.3")
    assert left(ground) == ()
    jobs.end(ctx, ground.hypervisor)


@pytest.mark.parametrize(("rc", "kind"), [(1, HostFault), (28, HostFault), (75, Fenced), (77, Busy)])
def test_its_failure_is_the_call_s(ground: Ground, rc: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^kvm1: the reason$") as caught:
        jobs.carry_out(context(ground), ground.hypervisor, "nv_die", str(rc), "the reason")
    expected = failure("kvm1", rc, "the reason\n")
    assert (type(caught.value), caught.value.hint) == (type(expected), expected.hint)
    assert left(ground) == ()


def test_a_job_found_running_is_gone_on_with(ground: Ground) -> None:
    ground.hypervisor.job_start(OP, 4, "sleep", "0.5")
    jobs.carry_out(context(ground), ground.hypervisor, "nv_die", "1", "this is not what ran")
    assert left(ground) == ()


def test_an_interrupt_leaves_it_to_undo(ground: Ground) -> None:
    ctx = context(ground)
    if ground.local is None:
        ground.clock.on_sleep.append(lambda seconds: ctx.interrupt.set())
    else:
        threading.Timer(0.3, ctx.interrupt.set).start()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        jobs.carry_out(ctx, ground.hypervisor, "sleep", "60")
    assert time.monotonic() - began < 10
    assert left(ground) == ((OP, 4, True),)
    jobs.end(ctx, ground.hypervisor)
    assert left(ground) == ()


def test_a_link_that_is_lost_for_a_while(ground: Ground) -> None:
    """The job does not need it."""
    if ground.local is not None:
        threading.Timer(0.4, ground.local.cut).start()
    else:
        faults = ground.hypervisor.faults
        faults += [Fault("job_wait", "unreachable", times=3), Fault("job_forget", "lost", times=2)]
    jobs.carry_out(context(ground), ground.hypervisor, "sleep", "1")
    assert left(ground) == ()


class Scripted:
    """A host whose jobs end as told."""

    name = "kvm1"

    def __init__(self, *answers: JobState | Exception) -> None:
        self.answers = list(answers)
        self.calls: list[str] = []

    def job_start(self, op: str, n: int, *words: str) -> None:
        self.calls.append("start")

    def job_wait(self, op: str, n: int, seconds: float) -> JobState:
        assert 0 < seconds <= 10
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def job_forget(self, op: str, n: int) -> None:
        self.calls.append("forget")


@pytest.fixture
def sim(tmp_path: Path) -> Ground:
    from tests.virt.ground import simulated

    return simulated(tmp_path)


def test_a_host_that_booted_runs_it_again(sim: Ground) -> None:
    host = Scripted(JobState("running"), JobState("none"), JobState("running"), JobState("ended", 0))
    jobs.carry_out(context(sim), host, "true")
    assert host.calls == ["start", "start", "forget"]


def test_a_job_that_always_dies_is_given_up(sim: Ground) -> None:
    host = Scripted(JobState("none", log="Killed\n"))
    with pytest.raises(HostFault, match=r"^kvm1: nv_x died there 3 times: Killed$"):
        jobs.carry_out(context(sim), host, "nv_x")
    assert host.calls == ["start"] * 3


def test_a_job_that_was_refused_for_its_epoch_runs_again(sim: Ground) -> None:
    """An earlier owner has started it; under our epoch it may."""
    old, late = JobState("ended", 75, log="epoch 4"), JobState("ended", 0)
    host = Scripted(JobState("running"), old, late)
    jobs.carry_out(context(sim), host, "true")
    assert host.calls == ["start", "forget"] * 2


def test_a_link_that_stays_lost_is_given_up(sim: Ground) -> None:
    host = Scripted(HostUnreachable("kvm1: no answer in time"))
    with pytest.raises(HostUnreachable):
        jobs.carry_out(context(sim), host, "true")
    assert jobs.PATIENCE < sim.clock.monotonic() < jobs.PATIENCE + 5


def test_progress_is_told_once_each(sim: Ground) -> None:
    texts = ["", "one", "one", "two", "two"]
    host = Scripted(*(JobState("running", progress=text) for text in texts), JobState("ended", 0))
    ctx = context(sim)
    jobs.carry_out(ctx, host, "true")
    assert ctx.world.told == ["one", "two"]


def test_a_cancelled_operation_stops_waiting(sim: Ground) -> None:
    ctx = context(sim)
    ctx.cancelled = lambda op_id: True
    with pytest.raises(Interrupted):
        jobs.carry_out(ctx, Scripted(JobState("running")), "true")


# --- fetch-base ---


def test_a_large_base_file_is_finished_by_a_job(
    ground: Ground, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = watched(ground.hypervisor, monkeypatch)
    large = fetch(image.read_bytes())
    assert large.do(context(ground, image)) == {"cached": False, "resumed_from": 0}
    assert started == ["nv_base_finish"]
    assert left(ground) == ()
    assert ground.hypervisor.base_state(large.sha256) == (True, 0)
    assert large.do(context(ground, image)) == {"cached": True}


def test_a_small_one_is_finished_by_a_call(
    ground: Ground, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = watched(ground.hypervisor, monkeypatch)
    small = fetch(image.read_bytes(), images.QUICK - 1)
    assert small.do(context(ground, image)) == {"cached": False, "resumed_from": 0}
    assert started == []
    small.undo(context(ground, image))


def test_a_damaged_one_is_told(ground: Ground, image: Path) -> None:
    wrong = fetch(image.read_bytes())
    image.write_bytes(os.urandom(300_000))
    with pytest.raises(HostFault, match=r"^kvm1: the base file arrived damaged"):
        wrong.do(context(ground, image))
    assert left(ground) == ()


def received(ground: Ground, image: Path) -> images.FetchBase:
    """All of it is there, and a job of our operation, started by a process that died, makes it ready."""
    from novactl.images.transfer import feed
    from tests.virt.ground import quiet

    large = fetch(image.read_bytes())
    size = large.size_bytes
    ground.hypervisor.base_receive(large.sha256, size, 0, feed(image, 0, quiet))
    words = ground.hypervisor.base_finish_words(large.sha256, "raw", large.virtual_size_bytes)
    ground.hypervisor.job_start(OP, 4, *words)
    return large


def test_what_a_dead_process_started_is_gone_on_with(ground: Ground, image: Path) -> None:
    received(ground, image).do(context(ground, image))
    assert left(ground) == ()


def test_what_a_dead_process_s_job_finished_is_cleared_away(ground: Ground, image: Path) -> None:
    large = received(ground, image)
    while ground.hypervisor.job_wait(OP, 4, 5).state == "running":
        pass
    assert left(ground) == ((OP, 4, False),)
    assert large.do(context(ground, image)) == {"cached": True}
    assert left(ground) == ()


def test_undo_ends_the_job_and_keeps_what_arrived(ground: Ground, image: Path) -> None:
    large = received(ground, image)
    large.undo(context(ground, image))
    large.undo(context(ground, image))
    assert left(ground) == ()
    large.do(context(ground, image))
    assert ground.hypervisor.base_state(large.sha256) == (True, 0)


def test_undo_on_a_host_that_is_gone_is_fine(sim: Ground, image: Path) -> None:
    large = received(sim, image)
    sim.hypervisor.host.up = False
    large.undo(context(sim, image))
    fetch(b"small", 5).undo(context(sim, image))


def test_another_operator_s_job_is_waited_for(
    host: Ground, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base file's lock is another's for longer than the host waits; here that is cut to a second."""
    assert host.local
    large = fetch(image.read_bytes())
    lock = host.path / "_base" / f".lock.{large.sha256}"
    plain = host.hypervisor.shell.job_script
    replaced = (b"flock -w 30 7", b"flock -w 0 7")
    monkeypatch.setattr(
        host.hypervisor.shell, "job_script", lambda words: plain(words).replace(*replaced), raising=True
    )
    waited: list[float] = []
    ctx = context(host, image)
    pause: Callable[[float], None] = StepContext.pause.__get__(ctx)
    monkeypatch.setattr(ctx, "pause", lambda seconds: (waited.append(seconds), pause(seconds)), raising=False)
    receive = host.hypervisor.base_receive
    holders: list[Any] = []

    def then_held(*arguments: Any) -> None:
        receive(*arguments)
        holders.append(subprocess.Popen(["flock", str(lock), "sleep", "1.5"]))
        time.sleep(0.2)

    monkeypatch.setattr(host.hypervisor, "base_receive", then_held)
    assert large.do(ctx)["cached"] is False
    assert 1 in waited
    assert left(host) == ()
    holders[0].wait()
