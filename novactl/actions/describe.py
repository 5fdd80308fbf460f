"""What changes the record of an instance, and nothing of its guest: set, unset, lock, unlock, reset-state.

The record is changed by the very transaction that journals it. Its second copy, the domain's metadata,
follows when the host answers; else the next operation on the instance writes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from novactl.actions import acting
from novactl.actions.acting import instance_locks, still
from novactl.actions.kept_records import kept_record
from novactl.actions.steps.domains import WriteCopy
from novactl.actions.steps.records import ChangeRecord, RecordCopied
from novactl.actions.steps.shelving import KeepRecord
from novactl.actions.world import World
from novactl.db import instances, projects
from novactl.db.session import Tx, dumps
from novactl.engine.operation import Plan
from novactl.engine.step import Step
from novactl.errors import Refused, UsageError
from novactl.objects.instance import DESCRIPTION_LIMIT, Instance
from novactl.objects.names import check_name, check_text
from novactl.objects.states import VmState, check_allowed, check_unlocked, status


@dataclass(frozen=True, kw_only=True)
class Describe:
    """Another name, metadata or tags (`set`), or fewer of them (`unset`)."""

    name: str
    project: str
    new_name: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    tags: Sequence[str] = ()
    no_metadata: Sequence[str] = ()
    no_tags: Sequence[str] = ()
    kind: str = "set"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Instance:
        if self.new_name is not None:
            check_name(self.new_name, "instance name")
        for tag in self.tags:
            check_text(tag, "tag", limit=60)
        return _find(world, self.kind, self.name, self.project)

    def plan(self, world: World, tx: Tx, op_id: str, seen: Instance) -> Plan | None:
        instance = still(tx, seen)
        changed = self._changed(instance)
        if max(len(changed.metadata), len(changed.tags)) > DESCRIPTION_LIMIT:
            raise Refused(f"{instance.name}: more than {DESCRIPTION_LIMIT} metadata items or tags")
        items, more = len(instance.metadata), len(changed.metadata) - len(instance.metadata)
        projects.check_room(tx, instance.project, "metadata_items", items, more)
        if changed.name != instance.name:
            _check_free(tx, changed)
        return _plan(world, tx, op_id, self.kind, instance, changed)

    def _changed(self, instance: Instance) -> Instance:
        metadata = {**instance.metadata, **self.metadata}
        return replace(
            instance,
            name=self.new_name or instance.name,
            metadata={key: value for key, value in metadata.items() if key not in self.no_metadata},
            tags=tuple(sorted({*instance.tags, *self.tags} - {*self.no_tags})),
        )


@dataclass(frozen=True, kw_only=True)
class Lock:
    """Only unlock may be done with it; with `locked` False all that may be done again."""

    name: str
    project: str
    locked: bool = True

    @property
    def kind(self) -> str:
        return "lock" if self.locked else "unlock"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Instance:
        return _find(world, self.kind, self.name, self.project)

    def plan(self, world: World, tx: Tx, op_id: str, seen: Instance) -> Plan | None:
        instance = still(tx, seen)
        return _plan(world, tx, op_id, self.kind, instance, replace(instance, locked=self.locked))


@dataclass(frozen=True, kw_only=True)
class ResetState:
    """The record says active or error, whatever is so: for one that is stuck. Its host is not asked."""

    name: str
    project: str
    state: str
    kind: str = "reset-state"

    @property
    def target(self) -> str:
        return self.name

    def check(self, world: World) -> Instance:
        if self.state not in (VmState.ACTIVE, VmState.ERROR):
            raise UsageError(f"--state {self.state!r} is not active or error")
        return _find(world, self.kind, self.name, self.project)

    def plan(self, world: World, tx: Tx, op_id: str, seen: Instance) -> Plan | None:
        instance = still(tx, seen)
        changed = replace(instance, vm_state=VmState(self.state), task_state=None, fault=None)
        return _plan(world, tx, op_id, self.kind, instance, changed)


def _find(world: World, action: str, name: str, project: str) -> Instance:
    """The record, of which this may be changed."""
    instance = world.db.read(lambda tx: instances.find(tx, name, project))
    check_unlocked(action, instance.name, instance.locked)
    check_allowed(action, instance.name, instance.vm_state)
    return instance


def _check_free(tx: Tx, changed: Instance) -> None:
    if other := instances.named(tx, [changed.name], changed.project).get(changed.name):
        raise Refused(f"instance {changed.name} exists already", hint=f"novactl show {other}")


COLUMNS = ("name", "metadata", "tags", "locked", "vm_state", "task_state", "fault")
COPIED = frozenset({"name", "metadata", "tags", "locked"})  # what the domain's metadata carries, too


def _plan(world: World, tx: Tx, op_id: str, kind: str, instance: Instance, changed: Instance) -> Plan | None:
    """Change the record in this transaction; None when there is nothing to change."""
    values = {
        key: getattr(changed, key) for key in COLUMNS if getattr(changed, key) != getattr(instance, key)
    }
    if not values:
        return None
    uuid, epoch = instance.uuid, instances.raise_epoch(tx, instance.uuid)
    _write(tx, changed, values)
    steps: list[Step] = [
        ChangeRecord(uuid=uuid, values={key: _plain(value) for key, value in values.items()})
    ]
    if COPIED & values.keys() and instance.host is not None:
        instances.note_copy(tx, uuid, behind=True)
        xml = acting.domain_xml(world, tx, op_id, instances.get(tx, uuid), epoch)
        steps += [WriteCopy(host=instance.host, uuid=uuid, xml=xml), RecordCopied(uuid=uuid)]
    elif COPIED & values.keys() and kept_record(world.store, uuid, world.fleet) is not None:
        steps.append(KeepRecord(uuid=uuid))
    return Plan(
        kind=kind,
        target=instance.name,
        target_uuid=uuid,
        project=instance.project,
        request={},
        locks=instance_locks(instance),
        attempt=tuple(steps),
        applied=frozenset({ChangeRecord.type}),
        epoch=epoch,
        host=instance.host,
        changes={key: [_shown(instance, key), _shown(changed, key)] for key in values},
    )


def _write(tx: Tx, changed: Instance, values: Mapping[str, Any]) -> None:
    columns = {
        key: dumps(_plain(value)) if key in ("metadata", "tags") else _plain(value)
        for key, value in values.items()
    }
    if "locked" in columns:
        columns["locked"] = int(changed.locked)
    if "name" in columns:
        columns["live_name"] = f"{changed.project}/{changed.name}"
    instances.update(tx, changed.uuid, **columns)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(instance: Instance, key: str) -> Any:
    return status(instance.vm_state, None) if key == "vm_state" else _plain(getattr(instance, key))
