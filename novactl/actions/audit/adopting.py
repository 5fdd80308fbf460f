"""The transaction that takes over what the hosts know of instances, operations and counters."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from novactl.actions import kept_records
from novactl.actions.audit.gather import Believed
from novactl.actions.audit.scene import Scene
from novactl.actions.steps.domains import OFF
from novactl.actions.world import World
from novactl.db import adopted, hosts, instances
from novactl.db.journal import DbJournal
from novactl.db.session import Tx, meta, set_meta
from novactl.engine.operation import Operation
from novactl.errors import NovactlError
from novactl.objects.image import Image
from novactl.objects.instance import Instance
from novactl.objects.states import PowerState, VmState
from novactl.objects.survey import SeenDomain, Survey

OPERATION = re.compile(r"op-[0-9a-f]{1,61}")

Change = tuple[str, str | None, str, str]  # what, host, target, message


class Adopter:
    """All of it in one transaction: each part yields what it did."""

    def __init__(
        self,
        journal: DbJournal,
        world: World,
        tx: Tx,
        seen: Believed,
        surveys: Mapping[str, Survey],
        copies: Mapping[str, int],
        sealed: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """`sealed`: what is known of the user-data of instances that the database lacks, by uuid."""
        self.store = world.store
        self.journal = journal
        self.tx = tx
        self.seen = seen
        self.scene = Scene.of(seen, surveys, frozenset())
        self.copies = copies
        self.sealed = sealed
        self.now = world.clock.now()
        self.epochs: dict[str, int] = {}
        for survey in surveys.values():
            for uuid, epoch in survey.epochs.items():
                self.epochs[uuid] = max(epoch, self.epochs.get(uuid, 0))
        self.kept = self._kept()
        self.claimed = frozenset(claim for domain in self._strangers() for claim in claims(domain))

    def all(self) -> Iterator[Change]:
        """Deleted ones first: their names and addresses may be others' by now."""
        yield from self._operations()
        for uuid, instance in self.seen.living.items():
            if self._is_gone(instance):
                yield self._bury(instance)
            elif self._has_moved_on(uuid):
                yield from self._catch_up(instance)
        for gone in self.seen.gone.values():
            if self.epochs.get(gone.uuid, 0) > gone.epoch:
                self._raise_epoch(gone.uuid)
        yield from self._unknown()
        yield from self._in_store()
        yield from self._marks()
        self._counters()
        self.tx.run("DELETE FROM meta WHERE name = 'restored'")

    def _kept(self) -> dict[str, dict[str, Any]]:
        """The columns of instances that the store keeps record and image of, as they were when they left
        their host, or began to. The epochs of all records count."""
        found = {}
        for uuid, one in kept_records.all_kept(self.store, self.seen.fleet).items():
            self.epochs[uuid] = max(one["epoch"], self.epochs.get(uuid, 0))
            told = adopted.told(self.tx, one["record"], PowerState.SHUTDOWN, False)
            image = told["shelved_image"] and Image.from_dict(json.loads(told["shelved_image"]))
            if image and all(map(self.store.has, image.sums)):
                found[uuid] = told
        return found

    # --- what the hosts say of an instance ---

    def _ahead(self, uuid: str) -> bool:
        return self.epochs.get(uuid, 0) > (self.seen.epoch(uuid) or 0)

    def _has_moved_on(self, uuid: str) -> bool:
        """Whether something was done that the database does not know of."""
        instance = self.seen.living[uuid]
        return self._ahead(uuid) or self._is_gone(instance) or self._new_home(instance) is not None

    def _new_home(self, instance: Instance) -> str | None:
        """The one host that has all of it, while its own has nothing: a boot went to another host."""
        uuid, home = instance.uuid, instance.host
        others = [
            name for name in self.scene.elsewhere(uuid, home) if self.scene.directory(name, uuid) is not None
        ]
        if len(others) != 1 or (home in self.scene.hosts and self._has_something(str(home), uuid)):
            return None
        return others[0] if home is None or home in self.scene.hosts else None

    def _has_something(self, host: str, uuid: str) -> bool:
        return self.scene.domain(host, uuid) is not None or self.scene.directory(host, uuid) is not None

    def _is_gone(self, instance: Instance) -> bool:
        """Whether it was deleted since: a newer epoch is all that is left of it. Or its boot was undone
        before it came to a host, and another instance has its name or an address of it by now."""
        judged = instance.host is None or instance.host in self.scene.hosts
        nowhere = self._is_nowhere(instance.uuid) and instance.uuid not in self.kept
        name = ("", f"{instance.project}/{instance.name}")
        its = {name, *((port.network, port.ip) for port in instance.ports)}
        undone = instance.vm_state is VmState.BUILDING and not its.isdisjoint(self.claimed)
        return judged and nowhere and (undone or self._ahead(instance.uuid))

    def _is_nowhere(self, uuid: str) -> bool:
        return not any(self._has_something(host, uuid) for host in self.scene.hosts)

    def _strangers(self) -> Iterator[SeenDomain]:
        """Domains of ours whose instances are not in the database."""
        for uuid, places in self.scene.domains.items():
            if self.seen.version(uuid) is None:
                yield from (domain for domain in places.values() if self.scene.ours(domain))

    # --- operations ---

    def _operations(self) -> Iterator[Change]:
        """Those of instances that the hosts have moved on with have no more to do; parents with them."""
        ended: set[str] = set()
        for op in self.seen.active:
            uuid = op.target_uuid
            if uuid is not None and uuid in self.seen.living and self._has_moved_on(uuid):
                ended.add(op.id)
                yield self._abandon(op)
        for op in self.seen.active:
            children = {child.id for child in self.seen.active if child.parent == op.id}
            if children and children <= ended:
                yield self._abandon(op)

    def _abandon(self, op: Operation) -> Change:
        words = f"{op.kind} of {op.target}: is abandoned, since the hosts have moved on"
        ours = replace(op)
        self.journal.take(self.tx, ours, op.epoch + 1)
        self.journal.abandon(self.tx, ours, "the database was restored, and the hosts have moved on")
        return "operation-abandoned", None, op.target, words

    # --- instances that are known ---

    def _bury(self, instance: Instance) -> Change:
        self._release(instance.uuid)
        instances.bury(self.tx, instance.uuid, self.now, None)
        self._raise_epoch(instance.uuid)
        words = f"{instance.name}: was deleted on {instance.host}: its name, addresses and claim are free"
        return self._told("deleted", instance.host, instance, words)

    def _catch_up(self, instance: Instance) -> Iterator[Change]:
        """The epoch, and what the guest is and where."""
        self._raise_epoch(instance.uuid)
        home = self._new_home(instance) or instance.host
        if home != instance.host:
            self._move(instance, str(home))
        domain = self.scene.domain(home, instance.uuid) if home and home in self.scene.hosts else None
        if domain is None and instance.uuid in self.kept:
            yield self._put_away(instance, home)
            return
        values: dict[str, Any] = {"host": home, "task_state": None}
        if domain is not None:
            values |= adopted.told(self.tx, domain.record, domain.state, domain.saved)
        if instance.vm_state is VmState.BUILDING and domain is not None:
            values["launched_at"] = instance.launched_at or adopted.launched_at(domain.record) or self.now
        instances.update(self.tx, instance.uuid, **values)
        state = f"is {domain.state} on {home}" if domain else f"has no domain on {home}"
        yield self._told("changed", home, instance, f"{instance.name}: {state}; its epoch is raised")

    def _put_away(self, instance: Instance, home: str | None) -> Change:
        """It is shelved, and on no host unless files of it are still where it was."""
        uuid, values = instance.uuid, dict(self.kept[instance.uuid])
        if self._is_nowhere(uuid):
            home = None
            values |= {"vm_state": VmState.SHELVED_OFFLOADED, "power_state": PowerState.NOSTATE}
            self._release(uuid)
        instances.update(self.tx, uuid, host=home, task_state=None, **values)
        image = Image.from_dict(json.loads(values["shelved_image"]))
        kept_records.list_image(self.tx, image)
        where = f"left {home} half way" if home else "is on no host"
        words = f"{instance.name}: is shelved as {image.name}, {where}; its epoch is raised"
        return self._told("changed", home, instance, words)

    def _move(self, instance: Instance, home: str) -> None:
        self._release(instance.uuid)
        adopted.force_hold(self.tx, home, instance.uuid, instance.resources, instance.numa)

    def _release(self, uuid: str) -> None:
        for hold in hosts.holds_of(self.tx, uuid):
            hosts.release(self.tx, hold["host"], uuid, hold["role"])

    def _raise_epoch(self, uuid: str) -> None:
        """Above what any host has seen: whoever still works by the forgotten epochs is refused."""
        self.tx.run(
            "UPDATE instances SET epoch = :epoch WHERE uuid = :uuid AND epoch < :epoch",
            epoch=self.epochs.get(uuid, 0) + 1,
            uuid=uuid,
        )

    # --- instances that are not ---

    def _unknown(self) -> Iterator[Change]:
        for uuid, places in sorted(self.scene.domains.items()):
            here = {host: domain for host, domain in places.items() if self.scene.ours(domain)}
            if here and self.seen.version(uuid) is None:
                yield self._insert(uuid, here)

    def _insert(self, uuid: str, places: Mapping[str, SeenDomain]) -> Change:
        running = {host: domain for host, domain in places.items() if domain.state not in OFF}
        chosen = running or places
        host, domain = next(iter(sorted(chosen.items())))
        name = str((domain.record or {}).get("name") or domain.name)
        if len(chosen) > 1:
            where = ", ".join(sorted(chosen))
            return "not-adopted", None, name, f"{name} ({uuid}): is on several hosts: {where}"
        if (domain.record or {}).get("uuid") != uuid:
            return "not-adopted", host, name, f"{host}: domain {uuid} has no record of its own"
        epoch = max(self.epochs.get(uuid, 0), domain.epoch or 0) + 1
        try:
            made = adopted.restore_instance(
                self.tx,
                domain.record or {},
                host=host,
                power=domain.state,
                epoch=epoch,
                generation=domain.generation or 0,
                saved=domain.saved,
                sealed=self.sealed.get(uuid),
            )
        except NovactlError as error:
            return "not-adopted", host, name, f"{host}: {error.message}"
        words = f"{made.name}: is {domain.state} on {host}; its row, addresses and claim are made"
        words = "; ".join(filter(None, (words, adopted.group_lost(domain.record or {}, made))))
        return self._told("instance", host, made, words)

    def _in_store(self) -> Iterator[Change]:
        """Those of which only files of the store are left, and backups."""
        known = {*self.seen.living, *self.seen.gone, *self.scene.domains}
        above = {uuid: epoch + 1 for uuid, epoch in self.epochs.items()}
        fleet = self.seen.fleet
        for kind, name, wrong in (
            *kept_records.restore(self.tx, self.store, fleet, above, known),
            *kept_records.restore_backups(self.tx, self.store, fleet),
        ):
            words = f"{name}: {wrong}" if wrong else f"{name}: {kind} that only the store knows of is added"
            yield "not-adopted" if wrong else kind, None, name, words

    # --- what the hosts were told ---

    def _marks(self) -> Iterator[Change]:
        """The forgotten operations that hosts name are known from now on."""
        for host, survey in self.scene.hosts.items():
            op = survey.mark.partition(".")[2]
            if OPERATION.fullmatch(op) and survey.serial > self.seen.pruned and not self._knows(op):
                self._insert_operation(op, host)
                yield "mark", host, op, f"{host}: was told of operation {op}, which is known from now on"

    def _knows(self, op: str) -> bool:
        return self.tx.one("SELECT 1 AS yes FROM operations WHERE id = :id", id=op) is not None

    def _insert_operation(self, op: str, host: str) -> None:
        empty = dict.fromkeys(("project", "written_by"), "")
        self.tx.insert(
            "operations",
            id=op,
            kind="forgotten",
            target=host,
            target_uuid=None,
            request="{}",
            state="done",
            attempt=1,
            epoch=0,
            parent=None,
            owner=self.journal.owner.words,
            owner_key="{}",
            user=self.journal.owner.user,
            cancel_requested=0,
            started_at=self.now,
            finished_at=self.now,
            error=None,
            lease_until=None,
            runner=None,
            **empty,
        )

    def _counters(self) -> None:
        """Above what any host knows, so that what is told next is the newest there."""
        serials = [survey.serial for survey in self.scene.hosts.values()]
        newest = max(serials, default=0)
        if newest > int(meta(self.tx, "serial") or 0):
            set_meta(self.tx, "serial", str(newest))
        copies = max((self.copies.get(host, 0) for host in self.scene.hosts), default=0)
        if copies > int(meta(self.tx, "catalogue") or 0):
            set_meta(self.tx, "catalogue", str(copies + 1))

    def _told(self, what: str, host: str | None, instance: Instance, words: str) -> Change:
        """With an event for the instance."""
        self.tx.insert(
            "events",
            time=self.now,
            target_uuid=instance.uuid,
            target=instance.name,
            action="adopt",
            operation=None,
            result="done",
            message=words,
            user=self.journal.owner.user,
        )
        return what, host, instance.name, words


def claims(domain: SeenDomain) -> Iterator[tuple[str, str]]:
    """What a domain's record says it has: ("", project/name) and its (network, address)es. Pure."""
    record = domain.record or {}
    yield "", f"{record.get('project')}/{record.get('name')}"
    ports = record.get("ports")
    for port in ports if isinstance(ports, list) else ():
        if isinstance(port, dict):
            yield str(port.get("network")), str(port.get("ip"))
