"""evacuate: an instance whose host is down runs on another one."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from novactl.actions import acting, guest, moving
from novactl.actions.boot import ATTEMPTS
from novactl.actions.fencing import Proof
from novactl.actions.steps.domains import StartDomain
from novactl.actions.steps.evacuations import DefineEvacuated, KeepDisks, NoteProof
from novactl.actions.steps.files import MakeDirectory
from novactl.actions.steps.moves import ClaimTarget, RecordMoved
from novactl.actions.steps.records import SetTask
from novactl.actions.world import World
from novactl.db import hosts, instances, moves, operations
from novactl.db.locks import unlocked
from novactl.db.session import Tx
from novactl.engine.operation import Attempt, Lock, Mode, Operation, Plan
from novactl.engine.step import Step
from novactl.errors import NoValidHost, Refused
from novactl.objects.host import Host
from novactl.objects.instance import Instance
from novactl.objects.migration import MigrationKind, MigrationStatus, Storage
from novactl.objects.states import PowerState, TaskState, VmState, check_allowed, check_unlocked

RUNS = frozenset({VmState.ACTIVE, VmState.PAUSED})
WORDS = {
    Storage.SHARED: "its disks are kept: both hosts share their storage",
    Storage.REBUILT: "its disks are made anew from the image: what was on them is lost",
}


@dataclass(frozen=True, kw_only=True)
class Evacuate:
    """The instance is made again on another host, from its record. `host`: that one. `proof`: why its own
    counts as down; a rehearsal needs none."""

    name: str
    project: str
    host: str | None = None
    proof: Proof | None = None
    kind: str = "evacuate"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Instance:
        """The record. Raises Refused when a disk of it is held open on the storage that the new host shares
        with the old one."""
        instance = self.proven(world)
        target, storage = world.db.rehearse(lambda tx: self._room(tx, instance))
        if storage is Storage.SHARED:
            acting.check_not_held(world, target, instance)
        return instance

    def proven(self, world: World) -> Instance:
        """The record, when it may be evacuated, as far as what was left of it half way does not come first,
        and its host is down for certain. Raises Refused."""
        return world.db.read(lambda tx: self._allowed(tx, world, after_left=True))

    def _allowed(self, tx: Tx, world: World, *, after_left: bool = False) -> Instance:
        instance = instances.find(tx, self.name, self.project)
        if instance.host is None:
            raise Refused(f"{instance.name}: is on no host ({instance.status})")
        check_unlocked(self.kind, instance.name, instance.locked)
        if instance.vm_state is not VmState.RESIZED:
            check_allowed(self.kind, instance.name, instance.vm_state)
        elif not (after_left and operations.holding(tx, instance.uuid)):
            _refuse_waiting(tx, instance)
        self._check_proof(instance, hosts.get(tx, instance.host), world)
        return instance

    def _check_proof(self, instance: Instance, source: Host, world: World) -> None:
        if world.rehearsal:
            return
        if self.proof is None or self.proof.host != source.name or source.state != "fenced":
            raise Refused(
                f"{instance.name}: nothing proves that {source.name} is down",
                hint=f"--fenced-by COMMAND, or --i-have-verified-host-is-down {source.name}",
            )

    def _room(self, tx: Tx, instance: Instance) -> tuple[str, Storage]:
        """Where it would go, and what becomes of its disks then; nothing is claimed."""
        before = Counter(unlocked(tx))
        tx.run("SAVEPOINT room")
        try:
            chosen = moving.choose(tx, instance, host=self.host)
        finally:
            tx.run("ROLLBACK TO SAVEPOINT room")
            tx.memo.pop("board", None)
            tx.memo["unlocked"] = before
        return chosen.host, _storage(tx, instance, chosen.host)

    def plan(self, world: World, tx: Tx, op_id: str, found: Instance) -> Plan:
        instance = acting.still(tx, found)
        self._check_proof(instance, hosts.get(tx, str(instance.host)), world)
        target, storage = self._room(tx, instance)
        epoch = instances.raise_epoch(tx, instance.uuid)
        move = moving.claim(
            world,
            tx,
            op_id,
            instance,
            MigrationKind.EVACUATION,
            storage=storage,
            epoch=epoch,
            host=target,
            reason="evacuate",
        )
        if storage is Storage.REBUILT:
            world.tell(f"{instance.name}: {WORDS[storage]}")
        words = self.proof.words if self.proof else f"that {instance.host} is down must be proven"
        steps = (
            NoteProof(uuid=instance.uuid, name=instance.name, words=f"{words}; {WORDS[storage]}"),
            *_steps(world, tx, op_id, move),
        )
        runs = _runs(instance)
        return move.plan(
            self.kind,
            steps,
            status="ACTIVE" if runs else "SHUTOFF",
            proof=words,
            storage=storage,
            host=self.host,
        )


def _refuse_waiting(tx: Tx, instance: Instance) -> None:
    """One that waits in VERIFY_RESIZE may be where it was before, or stays by its record alone."""
    waits = moves.open_of(tx, instance.uuid)
    if waits is None:
        check_allowed(Evacuate.kind, instance.name, instance.vm_state)
        return
    stays = waits.here or hosts.get(tx, waits.source).state == "fenced"
    verb = "resize-confirm" if stays else "resize-revert"
    raise Refused(
        f"{instance.name}: waits in VERIFY_RESIZE",
        hint=f"novactl {verb} {instance.name} does without {waits.target} once that is fenced",
    )


def next_attempt(world: World, tx: Tx, op: Operation, failure: str) -> Attempt | None:
    """Another host claimed for one whose new host failed, and its steps; None when none is left, or that one
    was named, or its disks would not be what the first attempt said."""
    failed = [record.step.host for record in op.records if isinstance(record.step, ClaimTarget)]
    if op.attempt >= ATTEMPTS or op.request["host"] is not None:
        return None
    instance, tried = instances.get(tx, str(op.target_uuid)), frozenset(map(str, failed))
    storage = Storage(op.request["storage"])
    try:
        move = moving.claim(
            world,
            tx,
            op.id,
            instance,
            MigrationKind.EVACUATION,
            storage=storage,
            epoch=op.epoch,
            reason="evacuate",
            tried=tried,
        )
    except NoValidHost:
        return None
    if _storage(tx, instance, move.target.name) is not storage:
        raise Refused(f"{instance.name}: {move.target.name} has another storage than {failed[-1]}")
    world.tell(f"{op.target}: {failure}; trying {move.target.name}")
    return Attempt(
        steps=(move.claim, *_steps(world, tx, op.id, move)),
        applied=moving.APPLIED,
        locks=frozenset({Lock("host", move.target.name, Mode.SHARED)}),
    )


def _storage(tx: Tx, instance: Instance, target: str) -> Storage:
    """What becomes of its disks there."""
    source, there = hosts.get(tx, str(instance.host)), hosts.get(tx, target)
    shared = source.facts.get("storage") and source.facts["storage"] == there.facts.get("storage")
    return Storage.SHARED if shared else Storage.REBUILT


def _runs(instance: Instance) -> bool:
    """Whether it is to run: one in ERROR as its host last said."""
    ran = instance.power_state in (PowerState.RUNNING, PowerState.PAUSED)
    return instance.vm_state in RUNS or (instance.vm_state is VmState.ERROR and ran)


def _steps(world: World, tx: Tx, op_id: str, move: moving.Move) -> Iterator[Step]:
    """Until the record says so, all of it can be taken back: nothing runs where it was."""
    moved, target = move.moved, move.target
    host, uuid, storage = target.name, moved.uuid, move.migration.storage
    yield SetTask(uuid=uuid, task=TaskState.REBUILDING)
    yield guest.check_step(moved, target, bridged=False)
    yield from guest.bridge_steps(tx, moved, target)
    yield from guest.base_steps(moved, host)
    if storage is Storage.SHARED:
        yield KeepDisks(host=host, uuid=uuid, files=guest.overlays(moved))
    else:
        yield MakeDirectory(host=host, uuid=uuid)
        yield from guest.disk_steps(moved, host)
    yield guest.config_drive_step(moved, target)
    yield DefineEvacuated(host=host, uuid=uuid, xml=move.domain_xml(world, op_id))
    runs = _runs(move.instance)
    if runs:
        yield StartDomain(host=host, uuid=uuid)
    yield RecordMoved(
        host=host,
        uuid=uuid,
        migration=move.migration.id,
        source=move.source.name,
        vm_state=VmState.ACTIVE if runs else VmState.STOPPED,
        power_state=PowerState.RUNNING if runs else PowerState.SHUTDOWN,
        status=MigrationStatus.COMPLETED,
        kept=False,
    )
