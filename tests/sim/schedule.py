"""One random future of a fleet: operators who mix at every instant, faults, deaths, sleeps; a seed decides.

Exactly one thread runs at a time and every choice comes from the seed, so a seed is the same future again.
"""

import contextlib
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from novactl.actions import audit, handover, recover
from novactl.actions.audit import heal
from novactl.db import instances
from novactl.db.journal import LEASE
from novactl.errors import Fenced, Interrupted, NovactlError, OperationFailed
from novactl.objects.instance import Instance
from novactl.objects.states import VmState
from tests.sim.actions import boot, delete, start, stop
from tests.support.databases import Place
from tests.support.life import Turns
from tests.support.scratch import quick_directory
from tests.support.sim import Fault, Process, SimFleet, always, settled
from tests.support.toys import Died

TURNS = 36  # commands, of all operators together
NAMES = [f"web{n}" for n in range(1, 6)]
FAULTY = ["look", "base_receive", "base_finish", "make_directory", "overlay", "put", "define", "start"]
FAULTY += ["unmake_directory", "undefine_if_made_by", "power_state", "settled_state", "destroy"]
FAULTY += ["shutdown", "remove_domain", "remove_directory", "job_start", "job_wait", "fence", "*"]
UNDO = ("unmake_directory", "undefine_if_made_by", "destroy")
HOWS = ["unreachable", "lost", "fails", "full", "busy", "dies", "dies-after"]
CODES = {0, 1, 4, 5, 6, 7, 11, 124, 130}  # 130: somebody had it cancelled; 124: it goes on
OUR_FAULT = re.compile(r"\b(Assertion|Attribute|Type|Key|Value|Index|Runtime|Operational)Error\b")
DIES, SLEEPS = 0.006, 0.007  # at each instant
FOLLOWED = 20.0  # seconds that who has handed over waits


class Spot:
    """Failpoints of one process: what happens there."""

    def __init__(self, schedule: "Schedule") -> None:
        self.schedule = schedule
        self.life = 0

    def reach(self, point: str, record: Any) -> None:
        schedule, what = self.schedule, self.schedule.chance.random()
        if what < DIES:
            schedule.note(f"life {self.life} dies at {point} of {record.name}")
            raise Died
        if what < DIES + SLEEPS:
            schedule.sleep(self.life, record)


class Schedule:
    """One future of a fleet."""

    def __init__(self, seed: int, directory: Path, place: Place | None = None) -> None:
        self.chance = random.Random(seed)
        vcpus = self.chance.choice([1, 2, 4])
        self.fleet = SimFleet(
            directory, seed=seed, place=place, cpu_ratio=1.0, vcpus=vcpus, reserved_memory_mib=0
        )
        self.fleet.limit()
        self.operators = "abcdefgh"[: self.chance.randint(3, 8)]
        self.left = TURNS
        self.history: list[str] = [f"{len(self.operators)} operators, {vcpus} vcpus"]
        self.seen: Counter[str] = Counter(operators=len(self.operators))

    def note(self, text: str) -> None:
        self.history.append(f"{self.fleet.clock.monotonic():7.1f} {text}")

    # --- what happens between two steps ---

    def sleep(self, life: int, record: Any) -> None:
        """The process stands still so long that its lease is over; others go on meanwhile."""
        assert self.fleet.turns is not None
        self.note(f"life {life} sleeps at {record.name}")
        self.fleet.asleep.add(life)
        if self.chance.random() < 0.8:
            self.fleet.clock.sleep(LEASE + 1)
        self.fleet.turns.switch(away=self.chance.randint(1, 25))
        self.fleet.asleep.discard(life)
        self.note(f"life {life} wakes")
        self.seen["slept"] += 1

    # --- operators ---

    def operate(self, operator: str) -> None:
        """One operator's commands."""
        assert self.fleet.turns is not None
        what: list[tuple[Callable[[str], None], int]] = [
            (self.act, 8),
            (self.several, 1),
            (self.hand_over, 2),
            (self.take_over, 3),
            (self.cancel, 1),
            (self.audit, 1),
            (self.trouble, 4),
        ]
        while self.left > 0:
            self.left -= 1
            self.fleet.turns.switch(yields=True)
            command = self.chance.choices([one for one, _ in what], [weight for _, weight in what])[0]
            command(operator)
            assert always(self.fleet) == []

    @contextlib.contextmanager
    def process(self, operator: str) -> Iterator[Process]:
        spot = Spot(self)
        with self.fleet.process(operator, spot) as process:
            spot.life = process.life.number
            process.operator.lock_wait = self.chance.choice([0.0, 0.0, 2.0])
            yield process

    @contextlib.contextmanager
    def told(self, operator: str, kind: str) -> Iterator[None]:
        """A command, and how it ended when it died or was refused."""
        try:
            yield
        except Died:
            self.note(f"{operator}: {kind} died")
            self.seen["died"] += 1
        except NovactlError as error:
            self.ended(operator, kind, error)

    def ended(self, operator: str, kind: str, error: NovactlError | None) -> None:
        code = error.code if error else 0
        self.note(f"{operator}: {kind} -> {code} {error.message.splitlines()[0] if error else ''}")
        self.seen[f"{kind} {code}"] += 1
        self.seen["fenced"] += isinstance(error, Fenced)
        assert code in CODES, error
        assert error is None or not OUR_FAULT.search(error.message), error

    def action(self, verb: Any, name: str) -> Any:
        if verb is boot:
            group = self.chance.choice([None, None, "apart"])
            return boot(name, image=self.chance.choice(["tiny", "tiny", "large"]), group=group)
        return verb(name)

    def some_action(self) -> Any:
        """A verb and a name that is likely to make sense."""
        verb = self.chance.choice([boot, boot, boot, stop, stop, start, start, delete])
        living = [instance.name for instance in self.living()]
        likely = sorted(set(NAMES) - set(living)) if verb is boot else living
        name = self.chance.choice(likely if likely and self.chance.random() < 0.9 else NAMES)
        return self.action(verb, name)

    def act(self, operator: str) -> None:
        action = self.some_action()
        busy = {op.target for op in self.active()}
        self.note(f"{operator}: {action.kind} {action.name}")
        with self.told(operator, action.kind), self.process(operator) as process:
            (outcome,) = process.operator.run([action])
            self.ended(operator, action.kind, outcome.error)
            wins = action.kind == "delete" and action.name in busy and outcome.result == "done"
            self.seen["delete won"] += wins

    def several(self, operator: str) -> None:
        """A few at once, of one verb."""
        names = self.chance.sample(NAMES, self.chance.randint(2, 3))
        verb = self.chance.choice([boot, boot, delete])
        together = verb is boot and self.chance.random() < 0.5
        self.note(f"{operator}: {verb.__name__} {' '.join(names)}{' together' if together else ''}")
        actions = [self.action(verb, name) for name in names]
        with self.told(operator, "several"), self.process(operator) as process:
            for outcome in process.operator.run(actions, together=together):
                self.ended(operator, "one of several", outcome.error)
            self.seen["several 0"] += 1

    def hand_over(self, operator: str) -> None:
        """It is journaled here and carried out by another process, which mixes with the one that waits."""
        action = self.some_action()
        self.note(f"{operator}: hands over {action.kind} {action.name}")
        with self.told(operator, "hand-over"), self.process(operator) as giver:
            handed = handover.journal(giver.operator, [action], together=False)
            if handed.head is None:
                self.ended(operator, "hand-over", handed.outcomes[0].error)
                return
            if self.chance.random() < 0.15:
                self.note(f"{operator}: takes it back")
                handover.take_back(giver.operator, handed)
                self.seen["taken back"] += 1
                return
            runner = giver.journal.owner.runner
            works = [lambda: self._follow(operator, giver, handed)]
            runners = 2 if self.chance.random() < 0.2 else 1
            works += [lambda: self._carry_out(operator, handed.head.id, runner)] * runners
            assert self.fleet.turns is not None
            self.fleet.turns.together(works)

    def _follow(self, operator: str, giver: Process, handed: Any) -> None:
        with self.told(operator, "follow"):
            handover.follow(giver.operator, handed, FOLLOWED)
            self.ended(operator, "follow", handed.outcomes[0].error)

    def _carry_out(self, operator: str, op_id: str, giver: str) -> None:
        with self.told(operator, "take up"), self.process(operator) as runner:
            family = handover.take_up(runner.operator, op_id, giver)
            for outcome in handover.carry_out(runner.operator, family):
                self.ended(operator, "take up", outcome.error)

    def take_over(self, operator: str) -> None:
        if active := self.fleet.active():
            op_id, back = self.chance.choice(active), self.chance.random() < 0.5
            self.note(f"{operator}: {'rollback' if back else 'resume'} {op_id}")
            with self.told(operator, "take over"), self.process(operator) as process:
                recover.take_over(process.operator, op_id, back=back)
                self.ended(operator, "take over", None)

    def cancel(self, operator: str) -> None:
        if active := self.fleet.active():
            op_id = self.chance.choice(active)
            self.note(f"{operator}: cancel {op_id}")
            with self.told(operator, "cancel"), self.process(operator) as process:
                recover.cancel(process.operator, op_id)
                self.ended(operator, "cancel", None)

    def audit(self, operator: str) -> None:
        """`audit --heal`, in the middle of all."""
        self.note(f"{operator}: audit --heal")
        with self.told(operator, "audit"), self.process(operator) as process:
            evidence = audit.gather(process.world, process.operator.is_left)
            found = audit.findings(
                evidence.after, evidence.surveys, earlier=evidence.before, copies=evidence.copies
            )
            for group in heal.groups(found):
                for outcome in process.operator.run(group) if group else ():
                    self.ended(operator, "heal", outcome.error)
            self.ended(operator, "audit", None)

    def trouble(self, _: str) -> None:
        host = self.chance.choice(list(self.fleet.hosts.values()))
        match self.chance.choice(["fault", "fault", "fault", "down", "up", "up", "reboot", "deaf"]):
            case "fault":
                fault = Fault(self.chance.choice(FAULTY), self.chance.choice(HOWS), host.name)
                self.note(f"{fault}")
                self.fleet.faults.append(fault)
                if fault.call in UNDO:  # there must be something to undo
                    self.fleet.faults.append(Fault("start", "fails", host.name))
                self.seen["faults"] += 1
            case "down":
                self.note(f"{host.name} is down")
                host.up = False
                self.seen["hosts down"] += 1
            case "up":
                for each in self.fleet.hosts.values():
                    each.up = True
            case "reboot":
                self.note(f"{host.name} reboots")
                host.power_cycle()
                self.seen["hosts switched off and on"] += 1
            case _:
                for domain in host.domains.values():
                    domain.deaf = True

    # --- the end of it ---

    def calm_down(self) -> None:
        """No more trouble; what was left is ended by whoever comes."""
        self.fleet.faults.clear()
        self.fleet.turns = None
        for host in self.fleet.hosts.values():
            host.up = True
        for op_id in self.fleet.active():
            if op_id not in self.fleet.active():  # it ended with its parent
                continue
            back = self.chance.random() < 0.5
            self.note(f"at last: {'rollback' if back else 'resume'} {op_id}")
            try:
                self.fleet.take_over(op_id, back=back)
            except NovactlError as error:
                self.note(f"-> {error.code} {error.message}")
                if not isinstance(error, OperationFailed | Interrupted):  # that one was cancelled
                    assert back, error
                    assert error.code == 5
                    self.fleet.take_over(op_id, back=False)

    def active(self) -> list[Any]:
        from novactl.db.operations import listed

        with self.fleet.db.reading() as tx:
            return [op for op, _, _ in listed(tx, active=True)]

    def living(self) -> list[Instance]:
        with self.fleet.db.reading() as tx:
            return instances.everything(tx)

    def bring_back(self) -> None:
        """What a reboot of its host stopped, or an ACPI request that was asked before a rollback."""
        self.fleet.clock.sleep(60)
        for host in self.fleet.hosts.values():
            host.tick(self.fleet.clock)
        for instance in self.living():
            runs = instance.uuid in self.fleet.hosts[str(instance.host)].running()
            if instance.vm_state is VmState.ACTIVE and not runs:
                assert self.fleet.run(start(instance.name)).code == 0

    def delete_all(self) -> None:
        for instance in self.living():
            outcome = self.fleet.run(delete(instance.name))
            assert outcome.code == 0, outcome.error

    def play(self) -> None:
        self.fleet.turns = Turns(self.chance)
        works = [lambda one=operator: self.operate(one) for operator in self.operators]
        self.fleet.turns.together(works)  # type: ignore[arg-type]
        self.calm_down()
        assert self.fleet.active() == []
        self.bring_back()
        assert settled(self.fleet) == []
        self.seen["jobs on hosts that were away"] += sum(len(host.jobs) for host in self.fleet.hosts.values())
        self.delete_all()
        assert settled(self.fleet) == []
        assert [host.everything() for host in self.fleet.hosts.values()] == [set()] * len(self.fleet.hosts)
        with self.fleet.db.reading() as tx:
            left = {table: tx.all(f"SELECT * FROM {table}") for table in ("holds", "ports", "secrets")}
        assert left == {"holds": [], "ports": [], "secrets": []}


def played(seed: int, place: Place | None = None, history: list[str] | None = None) -> Counter[str]:
    """One schedule; when it goes wrong, what happened in it and how to see it again."""
    with (
        tempfile.TemporaryDirectory(prefix="novactl-test-", dir=quick_directory()) as directory,
        mock.patch.object(recover, "PATIENCE", 10.0),
    ):
        schedule = Schedule(seed, Path(directory), place)
        try:
            schedule.play()
        except BaseException:
            print(f"seed {seed} (NOVACTL_SEED={seed}):\n" + "\n".join(schedule.history))
            raise
        finally:
            schedule.fleet.close()
            if history is not None:
                history += schedule.history
        return schedule.seen
