"""boot: claim, base image, overlays, config drive, domain, start, ACTIVE."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from novactl.actions import addresses, guest, holders, placement
from novactl.actions.steps.domains import DefineDomain, StartDomain
from novactl.actions.steps.files import MakeDirectory, WriteConfigDrive
from novactl.actions.steps.records import ClaimHost, MarkActive, RecordInstance
from novactl.actions.wanted import Wanted, check_user_data, names_of, recall, wanted_by
from novactl.actions.world import World
from novactl.db import catalogue, hosts, instances, projects, second_copy
from novactl.db import placement as fleet
from novactl.db.session import Tx
from novactl.db.step_words import put_in_words
from novactl.engine.operation import Attempt, Lock, Mode, Operation, Plan
from novactl.engine.step import Step
from novactl.errors import NoValidHost, Refused
from novactl.objects.candidate import Candidate
from novactl.objects.host import Host
from novactl.objects.image import GIB
from novactl.objects.instance import DESCRIPTION_LIMIT, Instance
from novactl.objects.names import check_name, check_text
from novactl.objects.network import Network
from novactl.objects.request import BootRequest
from novactl.objects.states import TaskState, VmState
from novactl.scheduler import fixes
from novactl.virt.domain import check_skeleton

NOBODY = "00000000-0000-4000-8000-000000000000"  # the uuid of what is not made yet
ATTEMPTS = 3  # as Nova's scheduler max_attempts
AT_ONCE = 64  # so many have their steps written at once; of more, each when it starts
APPLIED = frozenset({RecordInstance.type, ClaimHost.type})
"""What the transaction that claims has done itself."""


@dataclass(frozen=True, kw_only=True)
class Boot:
    """One instance to boot; index tells it from the others of `--count`."""

    request: BootRequest
    name: str
    index: int = 0
    kind: str = "boot"

    @property
    def target(self) -> str:
        return self.name

    @property
    def project(self) -> str:
        return self.request.project

    def check(self, world: World) -> dict[str, Any]:
        """Names, values, sizes; of many whether somebody has the image's files; what the names mean and the
        hosts as they are now, once for all of one --count, so that the transaction that claims has less to
        do. Raises UsageError, Refused, NotFound."""
        request = self.request
        check_name(self.name, "instance name")
        check_user_data(request.user_data)
        if len(request.metadata) > DESCRIPTION_LIMIT or len(request.tags) > DESCRIPTION_LIMIT:
            raise Refused(f"more than {DESCRIPTION_LIMIT} metadata items or tags")
        for tag in request.tags:
            check_text(tag, "tag", limit=60)
        check_skeleton(world.template("domain.xml"))
        if request.count > AT_ONCE and self.index == 0:  # no step of theirs says yet what is needed
            image = world.db.read(lambda tx: catalogue.image(tx, request.image))
            wanted = {step.sha256: step.what for step in guest.image_steps(image, "")}
            holders.sought(world, {sum_: wanted[sum_] for sum_ in wanted if not world.store.has(sum_)})
        return world.db.read(lambda tx: self._prepared(world, tx)) if self.index == 0 else {}

    def _prepared(self, world: World, tx: Tx) -> dict[str, Any]:
        if self.existing(tx) is None:
            request, drafts = self.request, self._drafts(world, tx)
            spec = placement.spec_of(tx, drafts[0], host=request.host)
            one = request.partial or world.rehearsal  # each may be refused alone
            places = placement.Board.of(tx).prepare(
                spec,
                id(request),
                placement.pick_of(drafts[0]),
                1 if one else len(drafts),
                explaining=request.explain,
            )
            if len(drafts) <= AT_ONCE:  # of more, none is written yet
                steps = [
                    (place.name, tuple(_steps(draft, place)))
                    for draft, place in zip(drafts, places, strict=False)
                ]
                put_in_words(tx, (step for _, some in steps for step in some))
                tx.memo[f"steps {id(request)}"] = steps
            projects.limits(tx, self.project)
            instances.put_in_words(tx, drafts[0])
            tx.memo["catalogue"] = second_copy.version(tx)
        return tx.memo

    def existing(self, tx: Tx) -> Instance | None:
        """The instance of that name, when there is one; all names of one --count are looked up at once."""
        known: dict[str, str | None] = tx.memo.setdefault(f"names {self.project}", {})
        if self.name not in known:
            names = [self.name] if self.request.count == 1 else names_of(self.request)
            known |= dict.fromkeys(names) | instances.named(tx, names, self.project)
        uuid = known.get(self.name)
        return instances.get(tx, uuid) if uuid else None

    def plan(self, world: World, tx: Tx, op_id: str, found_before: dict[str, Any]) -> Plan | None:
        """Resolve the names, give it name, addresses and a host, and decide every step: all in the
        transaction that journals it. None when it exists and `--if-not-exists` was given."""
        request = self.request
        if found := self.existing(tx):
            if request.if_not_exists:
                return None
            raise Refused(
                f"instance {self.name} exists already", hint=f"novactl show {found.uuid}; or --if-not-exists"
            )
        recall(tx, request, found_before)
        drafts, networks = self._drafts(world, tx), wanted_by(tx, request).networks
        draft = drafts[self.index]
        _tell_left_out(world, draft)
        projects.check_room(tx, draft.project, "metadata_items", 0, len(draft.metadata))
        together = self._together(tx)
        if together:
            projects.take(tx, draft.project, **{what: n * together for what, n in _use(draft).items()})
        ports = tuple(addresses.ports(tx, draft.ports, request.networks, networks, alike=drafts))
        try:
            claimed = placement.claim(
                tx,
                draft,
                host=request.host,
                like=id(request),
                many=request.count > 1,
                together=together,
                explaining=request.explain,
            )
        except NoValidHost as error:
            known = tx.memo[f"names {self.project}"]
            placed = sum(known[one.name] == one.uuid for one in drafts[: self.index])
            if placed and not request.partial:
                error.hint = fixes.of_many(placed)
            raise
        user_data = None
        if request.user_data is not None:
            user_data = world.secrets.seal(tx, world.ids.uuid(), draft.uuid, request.user_data)
        instance = replace(draft, host=claimed.host, numa=claimed.numa, ports=ports, user_data=user_data)
        instances.add(tx, instance)
        tx.memo[f"names {self.project}"][self.name] = instance.uuid
        for port, network in zip(ports, networks, strict=True):
            instances.add_port(tx, instance.uuid, network.id, port)
        return self._journaled(world, tx, instance, networks, claimed)

    def _together(self, tx: Tx) -> int:
        """How many of its --count, itself among them, are made or none is; 0 for those after the first."""
        memo = f"together {id(self.request)}"
        if "together" not in tx.memo:
            return 1
        names: dict[str, str | None] = tx.memo[f"names {self.project}"]
        new = 0 if memo in tx.memo else sum(names[name] is None for name in names_of(self.request))
        tx.memo[memo] = True
        return new

    def _journaled(
        self,
        world: World,
        tx: Tx,
        instance: Instance,
        networks: Sequence[Network],
        claimed: placement.Claimed,
    ) -> Plan:
        """The plan of what was just claimed; of many, the steps are written when it is their turn."""
        assert instance.image and instance.host
        locks = {
            Lock("instance", instance.uuid, Mode.EXCLUSIVE),
            Lock("image", instance.image.id, Mode.SHARED),
            Lock("host", instance.host, Mode.SHARED),
            *(Lock("network", network.id, Mode.SHARED) for network in networks),
        }
        why = {"placement": claimed.explained} if claimed.explained else {}
        later = self.request.count > AT_ONCE and not world.rehearsal
        first = self.index == 0  # its steps show that all of them can be planned
        steps = () if later and not first else self._final_steps(tx, instance, claimed.candidate)
        return Plan(
            kind=self.kind,
            target=self.name,
            target_uuid=instance.uuid,
            project=instance.project,
            request={"host": self.request.host} | why,
            locks=frozenset(locks),
            common=() if later else (_recorded(instance),),
            attempt=() if later else steps,
            applied=APPLIED,
            deferred=later,
            epoch=instance.epoch,
            host=instance.host,
            alternates=tuple(claimed.alternates),
            changes={"addresses": {port.network: port.ip for port in instance.ports}}
            | vars(instance.resources)
            | why,
        )

    def _final_steps(self, tx: Tx, instance: Instance, place: Candidate) -> tuple[Step, ...]:
        """Those of an earlier look when it goes where it was to go by that: only its address is new."""
        known = tx.memo.get(f"steps {id(self.request)}", ())[self.index : self.index + 1]
        if not known or known[0][0] != place.name:
            return tuple(_steps(instance, place))
        return tuple(
            replace(
                step,
                metadata={**step.metadata, "nics": guest.nics(instance.ports)},
                user_data=instance.user_data,
            )
            if isinstance(step, WriteConfigDrive)
            else step
            for step in known[0][1]
        )

    def _drafts(self, world: World, tx: Tx) -> list[Instance]:
        """All of one --count without hosts and addresses."""
        memo, wanted = f"drafts {id(self.request)}", wanted_by(tx, self.request)
        if memo not in tx.memo:
            now, names = world.clock.now(), names_of(self.request)
            tx.memo[memo] = [
                replace(self, name=name, index=index)._draft(wanted, world.ids.uuid(), now)
                for index, name in enumerate([self.name] if len(names) == 1 else names)
            ]
        drafts: list[Instance] = tx.memo[memo]
        return drafts

    def _draft(self, wanted: Wanted, uuid: str, now: str) -> Instance:
        request = self.request
        return Instance(
            uuid=uuid,
            name=self.name,
            project=request.project,
            vm_state=VmState.BUILDING,
            task_state=TaskState.SPAWNING,
            flavor=wanted.flavor,
            image=wanted.image,
            ports=addresses.drafts(uuid, wanted.networks),
            key_name=wanted.key.name if wanted.key else None,
            public_key=wanted.key.public_key if wanted.key else None,
            metadata=request.metadata,
            tags=tuple(sorted(set(request.tags))),
            launch_index=self.index,
            group_id=wanted.group.id if wanted.group else None,
            placement=wanted.placement,
            created_at=now,
            epoch=1,
        )


def boots(request: BootRequest) -> list[Boot]:
    """One for each name of the request. Raises UsageError."""
    return [Boot(request=request, name=name, index=index) for index, name in enumerate(names_of(request))]


def _tell_left_out(world: World, instance: Instance) -> None:
    """A disk that the image has and the flavor has no room for is not made."""
    image = instance.image
    if image and image.disks and guest.local_disk(image, instance.flavor) is None:
        size = -(-image.disks["disk.local"]["virtual_size_bytes"] // GIB)
        world.tell(
            f"{instance.name}: disk.local of image {image.name} is left out: --ephemeral {size} has room"
        )


def _use(instance: Instance) -> dict[str, int]:
    """What counts against the quota of its project."""
    return {"instances": 1, "cores": instance.flavor.vcpus, "memory_mib": instance.flavor.memory_mib}


def _recorded(instance: Instance) -> Step:
    return RecordInstance(uuid=instance.uuid, name=instance.name)


def _claimed(instance: Instance, host: str) -> Step:
    return ClaimHost(host=host, uuid=instance.uuid, **vars(instance.resources))


def _steps(instance: Instance, host: Host | Candidate) -> Iterator[Step]:
    """One attempt on one host."""
    uuid, name = instance.uuid, host.name
    yield _claimed(instance, name)
    yield guest.check_step(instance, host)
    yield from guest.base_steps(instance, name)
    yield MakeDirectory(host=name, uuid=uuid)
    yield from guest.disk_steps(instance, name)
    yield guest.config_drive_step(instance, host)
    yield DefineDomain(host=name, uuid=uuid)
    yield StartDomain(host=name, uuid=uuid)
    yield MarkActive(uuid=uuid)


def next_attempt(world: World, tx: Tx, op: Operation, failure: str) -> Attempt | None:
    """The steps of one whose turn has come; or another host claimed for a boot whose host failed, and its
    steps. None when none is left."""
    assert op.target_uuid
    instance = instances.get(tx, op.target_uuid)
    if op.attempt == 0:
        return _first_attempt(world, tx, op, instance, undoing=bool(failure))
    failed = [r.step.host for r in op.records if isinstance(r.step, ClaimHost) and r.step.host]
    fleet.failed(tx, failed[-1])
    if op.attempt >= ATTEMPTS or op.request["host"] is not None:
        return None
    try:
        claimed = placement.claim(tx, instance, tried=frozenset(failed))
    except NoValidHost:
        return None
    name = claimed.host
    moved = replace(instance, host=name, numa=claimed.numa)
    instances.update(tx, instance.uuid, host=name)
    world.tell(f"{op.target}: {failure}; trying {name}")
    return Attempt(
        steps=tuple(_steps(moved, hosts.get(tx, name))),
        applied=APPLIED,
        locks=frozenset({Lock("host", name, Mode.SHARED)}),
    )


def _first_attempt(world: World, tx: Tx, op: Operation, instance: Instance, *, undoing: bool) -> Attempt:
    """On the host that was claimed when it was journaled. To be undone there is only the claim: nothing that
    could keep the steps from being planned keeps it from being given back."""
    assert instance.host
    steps = [_claimed(instance, instance.host)]
    if not undoing:
        check_skeleton(world.template("domain.xml"))
        steps = list(_steps(instance, hosts.get(tx, instance.host)))
    return Attempt(common=(_recorded(instance),), steps=tuple(steps), applied=APPLIED)
