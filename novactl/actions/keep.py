"""recover --keep: of a guest that runs on two hosts one goes on, and the other one is powered off. A person
says which."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from novactl.actions import acting, diagnosis, moving, recover, restored
from novactl.actions.audit.records import fits
from novactl.actions.diagnosis import Course, Diagnosis
from novactl.actions.operate import Operator
from novactl.actions.steps.domains import OFF
from novactl.actions.steps.live import MoveGuest
from novactl.actions.steps.twins import LeaveTwin, RecordKept, StopTwin
from novactl.actions.world import World
from novactl.db import hosts, instances
from novactl.db.session import Tx
from novactl.engine.operation import Lock, Mode, Operation, Plan
from novactl.errors import HostFault, HostUnreachable, NoValidHost, Refused
from novactl.objects.instance import Instance


def others(found: Diagnosis, keep: str) -> list[str]:
    """Where else the guest runs. Raises HostUnreachable while a host that may have it is not seen, Refused
    unless it runs on `keep`."""
    if found.dark:
        raise HostUnreachable(
            f"{', '.join(found.dark)}: does not answer: whether {found.target} runs there is not known",
            hint="when it is off for certain: novactl evacuate",
        )
    if keep not in found.runs:
        where = f"it runs on {', '.join(found.runs)}" if found.runs else "it runs nowhere"
        raise Refused(f"{found.target}: does not run on {keep}: {where}")
    return [name for name in found.runs if name != keep]


def course(found: Diagnosis, keep: str, stops: Sequence[str]) -> Diagnosis:
    """It with the course that its operation takes then: to the host that is kept. Raises Refused for an
    operation that is no live migration between the two."""
    op = found.operation
    if op is None:
        return replace(found, course=Course.FINISH, why=f"it is kept on {keep}")
    ends = next((record.step.hosts for record in op.records if isinstance(record.step, MoveGuest)), ())
    if set(ends) != {keep, *stops}:
        raise Refused(f"{op.id}: has not brought it to {keep} and {', '.join(stops)}: it is to end first")
    way = Course.FINISH if keep == ends[1] else Course.UNDO
    return replace(found, course=way, why=f"{op.id} has left it on two hosts, and it is kept on {keep}")


def plan(operator: Operator, found: Diagnosis, keep: str, stops: Sequence[str]) -> dict[str, Any]:
    """As `--dry-run` prints it."""
    shown = diagnosis.plan(operator, found)
    if found.operation is None:
        one = [operator.show([keeper(found, keep, other)])[0]["steps"] for other in stops]
        shown["steps"] = [step for steps in one for step in steps]
    return {**shown, "keeps": keep, "stops": list(stops)}


def follow(operator: Operator, found: Diagnosis, keep: str, stops: Sequence[str]) -> None:
    """The other one is powered off, and all follows the one that is kept. `found` is course()'s."""
    if (op := found.operation) is not None:
        back = found.course is Course.UNDO
        stop = partial(_stop, operator.world, keep=keep, other=stops[0])
        recover.take_over(operator, op.id, back=back, first=stop)
        return
    for other in stops:
        (outcome,) = operator.run([keeper(found, keep, other)])
        if outcome.error is not None:
            raise outcome.error


def _stop(world: World, op: Operation, *, keep: str, other: str) -> None:
    """Under the epoch of the operation, which is ours. What becomes of it, its steps decide from what they
    see then: the guest is on one host."""
    uuid = str(op.target_uuid)
    seen = world.hypervisor(keep).settled_state(uuid, op.epoch)
    if seen in OFF:
        raise HostFault(f"{keep}: its guest is {seen} by now")
    world.hypervisor(other).destroy(uuid, op.epoch)
    world.tell(f"{op.target}: is kept on {keep}, and was powered off on {other}")


def keeper(found: Diagnosis, keep: str, other: str) -> "Keep":
    assert found.instance is not None
    return Keep(name=found.instance.uuid, project=found.instance.project, keep=keep, other=other)


@dataclass(frozen=True, kw_only=True)
class Keep:
    """The guest on `other` is powered off; the instance is the one on `keep`."""

    name: str
    project: str
    keep: str
    other: str
    kind: str = "keep"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> tuple[Instance, bool]:
        """Its record, and whether both hosts see the same files."""
        instance = world.db.read(lambda tx: instances.find(tx, self.name, self.project))
        for name in (self.keep, self.other):
            greeting = world.hypervisor(name).greet(instance.uuid)
            restored.check_mark(world, name, greeting.mark)
            restored.check_epoch(world, instance, greeting)
            if greeting.power in OFF:
                raise Refused(f"{instance.name}: does not run on {name}")
        return instance, moving.shared(world, self.keep, self.other)

    def plan(self, world: World, tx: Tx, op_id: str, found: tuple[Instance, bool]) -> Plan:
        instance, shared = acting.still(tx, found[0]), found[1]
        moves = instance.host != self.keep
        if moves and not fits(hosts.get(tx, self.keep), instance.resources):
            raise NoValidHost(f"{instance.name}: {self.keep} has no room for it, or takes no more")
        epoch = instances.raise_epoch(tx, instance.uuid)
        ends: dict[str, Any] = {"host": self.other, "keep": self.keep, "uuid": instance.uuid}
        steps = (
            StopTwin(**ends),
            LeaveTwin(shared=shared, **ends),
            RecordKept(host=self.keep, uuid=instance.uuid),
        )
        request = {"keep": self.keep, "other": self.other}
        made = acting.plan_of(self.kind, instance, steps, epoch, status=instance.status, **request)
        both = {Lock("host", name, Mode.SHARED) for name in (self.keep, self.other)}
        return replace(made, locks=made.locks | both, host=self.keep)
