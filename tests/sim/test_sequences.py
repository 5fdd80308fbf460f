"""Any sequence of commands on a small, full fleet: boots, moves of every kind, deletes, evacuations, drains,
and processes that die anywhere in them. What one leaves is resumed, rolled back, or still there when the
next command comes.

Capacity, groups and quota hold at every instant, nothing is on two hosts that should not be, and at the end
nothing holds anything but what it owns.
"""

import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from novactl.actions import drain, recover
from novactl.actions.evacuate import Evacuate
from novactl.actions.fencing import Proof
from novactl.db import groups, hosts, instances, projects
from novactl.errors import NovactlError, OperationFailed
from novactl.objects.group import GroupPolicy, ServerGroup
from novactl.objects.project import Project
from novactl.objects.states import VmState
from tests.sim.actions import boot, confirm, delete, heal, live_migrate, migrate, resize, revert, start, stop
from tests.sim.effort import FULL, number
from tests.sim.schedule import CODES, OUR_FAULT
from tests.sim.stage import nth
from tests.support import counts
from tests.support.scratch import quick_directory
from tests.support.sim import APART, SimFleet, always, settled
from tests.support.toys import Died

EXAMPLES = number(200, 10_000)
LIMITS = {"instances": 3, "cores": 5}
THERE = ("web1", "web2")  # before the first command
NAMES = ("web1", "web2", "web3")
HOSTS = ("kvm1", "kvm2", "kvm3")
VERBS: dict[str, Callable[[str], Any]] = {
    "boot": boot,
    "boot apart": lambda name: boot(name, group="apart"),
    "boot disks": lambda name: boot(name, flavor="disks"),
    "stop": lambda name: stop(name, force=True),
    "start": start,
    "migrate": migrate,
    "migrate --confirm": lambda name: migrate(name, confirm=True),
    "live-migrate": live_migrate,
    "resize": lambda name: resize("large", name),
    "resize elsewhere": lambda name: resize("disks", name),
    "resize-confirm": confirm,
    "resize-revert": revert,
    "delete": delete,
}
WHOLE = ("drain", "undrain", "lose", "return")
SUITS: dict[str, Callable[[VmState], bool]] = {
    "start": lambda state: state is VmState.STOPPED,
    "resize-confirm": lambda state: state is VmState.RESIZED,
    "resize-revert": lambda state: state is VmState.RESIZED,
    "delete": lambda state: True,
}
"""What an instance is like that a verb is meant for; else it runs."""
AFTER = ("left", "resumed", "rolled back")


@dataclass(frozen=True)
class Command:
    """`on`: which of the instances, or hosts, that the verb suits. `dies`: at which of its instants, acts on
    hosts or transactions, and `after` that its operation is taken over, or not yet."""

    verb: str
    on: int
    dies: tuple[str, int] | None
    after: str


@st.composite
def commands(draw: st.DrawFn) -> Command:
    verb = draw(st.sampled_from((*VERBS, *WHOLE)))
    on = draw(st.integers(0, 2))
    dies = None
    if draw(st.booleans()):
        dies = (draw(st.sampled_from(("instant", "act", "write"))), draw(st.integers(1, 60)))
    return Command(verb, on, dies, draw(st.sampled_from(AFTER)))


@dataclass
class Countdown:
    """Failpoints that end the process at the nth instant."""

    left: int

    def reach(self, point: str, record: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise Died


@dataclass
class Played:
    """A fleet, and what is done with it."""

    fleet: SimFleet
    seen: Counter[str] = field(default_factory=Counter)

    def play(self, sequence: list[Command]) -> None:
        for command in sequence:
            self._carry_out(command)
            self.fleet.faults.clear()
            self._check()
            if command.after != "left":
                self._end_all(back=command.after == "rolled back")
                self._check()
        self._calm_down()
        assert settled(self.fleet) == []
        assert self._counted() == []

    # --- commands ---

    def _carry_out(self, command: Command) -> None:
        failpoints = None
        kind, n = command.dies or ("", 0)
        if kind == "instant":
            failpoints = Countdown(n)
        elif kind == "act":
            self.fleet.faults.append(nth("*", n - 1, "dies"))
        dies_at = ("after-write", n) if kind == "write" else None
        try:
            with self.fleet.process("a", failpoints, dies_at) as process:
                for outcome in self._run(process.operator, command):
                    self._ended(command.verb, outcome.error)
        except Died:
            self.seen["died"] += 1
            self.seen[f"{command.verb} died"] += 1
        except NovactlError as error:
            self._ended(command.verb, error)

    def _run(self, operator: Any, command: Command) -> Iterator[Any]:
        on = self._meant(command.verb)[command.on :] or self._meant(command.verb)
        if command.verb in VERBS:
            return iter(operator.run([VERBS[command.verb](on[0])]))
        return iter(getattr(self, f"_{command.verb}")(operator, on[0]))

    def _meant(self, verb: str) -> list[str]:
        """Instances or hosts that the verb suits, all when there is none."""
        if verb in WHOLE:
            away = [name for name, host in self.fleet.hosts.items() if not host.up]
            there = [name for name in HOSTS if name not in away]
            return (away if verb == "return" else there) or list(HOSTS)
        living = {one.name: one.vm_state for one in self.fleet.db.read(instances.everything)}
        if verb.startswith("boot"):
            return [name for name in NAMES if name not in living] or list(NAMES)
        suits = SUITS.get(verb, lambda state: state is VmState.ACTIVE)
        return [name for name, state in living.items() if suits(state)] or list(NAMES)

    def _drain(self, operator: Any, host: str) -> list[Any]:
        found = drain.look(operator.world, host, "auto")
        parts = drain.leave(host, found, 1)
        drain.close(operator.world, host)
        return list(operator.run(parts))

    def _undrain(self, operator: Any, host: str) -> list[Any]:
        drain.reopen(operator.world, host)
        return list(operator.run([part for _, part in drain.come_back(operator.world, host, 1)]))

    def _lose(self, operator: Any, host: str) -> list[Any]:
        """It is off and fenced, and what was on it is evacuated."""
        self.fleet.hosts[host].power_cycle()
        self.fleet.hosts[host].up = False
        self.fleet.db.write(lambda tx: hosts.fence(tx, host, self.fleet.clock.now()))
        there = self.fleet.db.read(lambda tx: instances.on_host(tx, host))
        proof = Proof(host=host, words="its power was cut")
        return list(
            operator.run([Evacuate(name=one.uuid, project=one.project, proof=proof) for one in there])
        )

    def _return(self, operator: Any, host: str) -> list[Any]:
        self.fleet.hosts[host].up = True
        return [operator.run([heal()])[0] for _ in range(3)]

    def _ended(self, verb: str, error: NovactlError | None) -> None:
        code = error.code if error else 0
        self.seen[f"{verb} {code}"] += 1
        assert code in CODES, (verb, error)
        assert error is None or not OUR_FAULT.search(error.message), (verb, error)

    # --- what must be so ---

    def _check(self) -> None:
        assert always(self.fleet) == []
        assert self._counted() == []

    def _counted(self) -> list[str]:
        """What of the quota is wrong."""
        with self.fleet.db.reading() as tx:
            project = projects.find(tx, "default")
            row = tx.one("SELECT instances_used, cores_used FROM projects WHERE name = 'default'")
            real = projects.usage(tx, "default")
        assert row is not None
        counted = {what: row[f"{what}_used"] for what in LIMITS}
        wrong = [f"{what}: {n} are counted" for what, n in counted.items() if n != real[what]]
        return wrong + [f"{what} over {most}" for what, most in project.limits.items() if real[what] > most]

    # --- the end ---

    def _end_all(self, *, back: bool) -> None:
        for op_id in self.fleet.active():
            with contextlib.suppress(NovactlError):
                self.fleet.take_over(op_id, back=back)
                self.seen["taken over"] += 1

    def _calm_down(self) -> None:
        """All hosts are there; what is left is ended, what is wrong is healed, what stood still runs."""
        for host in self.fleet.hosts.values():
            host.up = True
        for op_id in self.fleet.active():
            if op_id in self.fleet.active():
                with contextlib.suppress(OperationFailed):  # it was being undone
                    self.fleet.take_over(op_id, back=False)
        assert self.fleet.active() == []
        while self.fleet.run(heal()).result == "done":
            pass
        self.fleet.clock.sleep(60)
        for host in self.fleet.hosts.values():
            host.tick(self.fleet.clock)
        for one in self.fleet.db.read(instances.everything):
            if one.uuid not in self.fleet.hosts[str(one.host)].running():
                again = {VmState.ACTIVE: start, VmState.RESIZED: confirm}.get(one.vm_state)
                outcome = self.fleet.run(again(one.name)) if again else None
                assert outcome is None or outcome.code == 0, outcome


@pytest.fixture(scope="module")
def first() -> Iterator[SimFleet]:
    """Three hosts of three processors each, two members of a group, and a quota that a few instances fill."""
    with tempfile.TemporaryDirectory(prefix="novactl-test-", dir=quick_directory()) as directory:
        fleet = SimFleet(Path(directory), vcpus=3, cpu_ratio=1.0, reserved_memory_mib=0)
        group = ServerGroup(id=APART, name="apart", project="default", policy=GroupPolicy.ANTI_AFFINITY)
        with fleet.db.writing() as tx:
            groups.create(tx, group)
            projects.create(tx, Project(name="default", limits=LIMITS))
        for name in THERE:
            assert fleet.run(boot(name, group="apart")).code == 0
        yield fleet
        fleet.close()


def test_no_sequence_breaks_a_promise(first: SimFleet) -> None:
    seen: Counter[str] = Counter()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=not FULL,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.lists(commands(), min_size=3, max_size=14))
    @example([Command("migrate", 0, ("instant", 1), "left"), Command("migrate", 0, None, "left")])
    def holds(sequence: list[Command]) -> None:
        with tempfile.TemporaryDirectory(prefix="novactl-test-", dir=quick_directory()) as directory:
            fleet = first.clone(Path(directory))
            played = Played(fleet)
            try:
                with mock.patch.object(recover, "PATIENCE", 5.0):
                    played.play(sequence)
            finally:
                fleet.close()
            seen.update(played.seen)

    began = time.monotonic()
    holds()
    seconds = round(time.monotonic() - began, 2)
    counts.record("random sequences of moves", sqlite=EXAMPLES, **{"sqlite seconds": seconds})
    moved = ("migrate", "live-migrate", "resize", "resize-confirm", "resize-revert", "drain", "lose")
    wanted = {f"{verb} 0" for verb in ("boot", "delete", *moved)} | {"died", "taken over"}
    assert {what for what in wanted if not seen[what]} == set(), seen
