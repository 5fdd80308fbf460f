"""boot: claim, base image, overlays, config drive, domain, start, ACTIVE."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from novactl.actions import addresses, guest, placement
from novactl.actions.steps.domains import DefineDomain, StartDomain
from novactl.actions.steps.files import MakeDirectory
from novactl.actions.steps.records import ClaimHost, MarkActive, RecordInstance
from novactl.actions.world import World
from novactl.db import catalogue, groups, hosts, instances, projects
from novactl.db import placement as fleet
from novactl.db.session import Tx
from novactl.engine.operation import Attempt, Lock, Mode, Operation, Plan
from novactl.engine.step import Step
from novactl.errors import NoValidHost, Refused, UsageError
from novactl.objects.flavor import Flavor, check_flavor
from novactl.objects.group import ServerGroup
from novactl.objects.host import Host
from novactl.objects.image import Image
from novactl.objects.instance import DESCRIPTION_LIMIT, Instance
from novactl.objects.keypair import Keypair
from novactl.objects.names import check_name, check_text
from novactl.objects.network import Network, Port
from novactl.objects.placement import Placement
from novactl.objects.request import BootRequest
from novactl.objects.states import TaskState, VmState
from novactl.virt.domain import Marks, check_properties

NOBODY = "00000000-0000-4000-8000-000000000000"  # the uuid of what is not made yet
ATTEMPTS = 3  # as Nova's scheduler max_attempts
USER_DATA_LIMIT = 65535  # bytes, as Nova's (before base64)
COUNT_LIMIT = 10_000  # one transaction claims for all: it keeps everybody else waiting
AT_ONCE = 16  # so many have their steps written at once; of more, each when it starts
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
        """Names, values, sizes; and for one alone what its names mean and the hosts as they are now, so that
        the transaction that claims has less to do. Raises UsageError, Refused, NotFound."""
        request = self.request
        check_name(self.name, "instance name")
        if request.user_data is not None and len(request.user_data) > USER_DATA_LIMIT:
            raise Refused(
                f"user-data has {len(request.user_data)} bytes, the limit is {USER_DATA_LIMIT}",
                hint="put the bulk where the guest can fetch it",
            )
        if len(request.metadata) > DESCRIPTION_LIMIT or len(request.tags) > DESCRIPTION_LIMIT:
            raise Refused(f"more than {DESCRIPTION_LIMIT} metadata items or tags")
        for tag in request.tags:
            check_text(tag, "tag", limit=60)
        return world.db.read(self._prepared) if request.count == 1 else {}

    def _prepared(self, tx: Tx) -> dict[str, Any]:
        if self.existing(tx) is None:
            draft = self._draft(_wanted(tx, self.request), NOBODY, "")
            spec = placement.spec_of(tx, draft, host=self.request.host)
            placement.Board.of(tx).prepare(spec, id(self.request))
        return tx.memo

    def existing(self, tx: Tx) -> Instance | None:
        """The instance of that name, when there is one."""
        uuid = instances.named(tx, self.name, self.request.project)
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
        _recall(tx, request, found_before)
        instance, networks = self._instance(world, tx)
        projects.check_room(tx, instance.project, "metadata_items", 0, len(instance.metadata))
        projects.take(tx, instance.project, **_use(instance))
        claimed = placement.claim(
            tx,
            instance,
            host=request.host,
            like=id(request),
            many=request.count > 1,
            explaining=request.explain,
        )
        instance = replace(instance, host=claimed.host, numa=claimed.numa)
        instances.add(tx, instance)
        for port, network in zip(instance.ports, networks, strict=True):
            instances.add_port(tx, instance.uuid, network.id, port)
        if request.user_data is not None:
            reference = world.secrets.seal(tx, world.ids.uuid(), instance.uuid, request.user_data)
            instances.update(tx, instance.uuid, user_data=reference)
            instance = replace(instance, user_data=reference)
        return self._journaled(world, tx, op_id, instance, networks, claimed)

    def _journaled(
        self,
        world: World,
        tx: Tx,
        op_id: str,
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
        host = None if later and not first else hosts.get(tx, instance.host)
        steps = () if host is None else tuple(_steps(world, op_id, instance, host))
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

    def _instance(self, world: World, tx: Tx) -> tuple[Instance, list[Network]]:
        wanted, uuid = _wanted(tx, self.request), world.ids.uuid()
        many = self.request.count > AT_ONCE
        ports = addresses.ports(tx, uuid, self.request.networks, wanted.networks, many=many)
        return self._draft(wanted, uuid, world.clock.now(), tuple(ports)), wanted.networks

    def _draft(self, wanted: "Wanted", uuid: str, now: str, ports: tuple[Port, ...] = ()) -> Instance:
        """The instance without its host."""
        request = self.request
        return Instance(
            uuid=uuid,
            name=self.name,
            project=request.project,
            vm_state=VmState.BUILDING,
            task_state=TaskState.SPAWNING,
            flavor=wanted.flavor,
            image=wanted.image,
            ports=ports,
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


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the names of a request mean."""

    image: Image
    flavor: Flavor
    key: Keypair | None
    networks: list[Network]
    placement: Placement
    group: ServerGroup | None


def _wanted(tx: Tx, request: BootRequest) -> Wanted:
    """Looked up once for all of one --count."""
    memo = f"request {id(request)}"
    if memo not in tx.memo:
        image = catalogue.image(tx, request.image)
        flavor = sized(catalogue.flavor(tx, request.flavor), request)
        check_fit(flavor, image)
        wishes, group = placement.resolve(tx, request, request.project)
        tx.memo[memo] = Wanted(
            image=image,
            flavor=flavor,
            key=catalogue.keypair(tx, request.project, request.key) if request.key else None,
            networks=[catalogue.network(tx, wanted.network) for wanted in request.networks],
            placement=wishes,
            group=group,
        )
    found: Wanted = tx.memo[memo]
    return found


def _recall(tx: Tx, request: BootRequest, found_before: dict[str, Any]) -> None:
    """What was looked up before this transaction is used by its first try alone: what it decides changes it.
    Raises Refused or NotFound for what is not there any more."""
    for key, value in found_before.items():
        tx.memo.setdefault(key, value)
    if found_before:
        found_before.clear()
        tx.memo[f"request {id(request)}"] = _still(tx, _wanted(tx, request))


def _still(tx: Tx, wanted: Wanted) -> Wanted:
    if catalogue.image_id(tx, wanted.image.id) is None:
        raise Refused(f"image {wanted.image.name} was deleted just now")
    if wanted.group is not None and groups.get(tx, wanted.group.id) is None:
        raise Refused(f"group {wanted.group.name} was deleted just now")
    return replace(wanted, networks=[catalogue.network(tx, one.id) for one in wanted.networks])


def sized(flavor: Flavor, request: BootRequest) -> Flavor:
    """With the sizes that the request gives itself. Raises UsageError."""
    if request.ephemeral_gib is not None:
        flavor = replace(flavor, ephemeral_gib=request.ephemeral_gib)
    if request.swap_mib is not None:
        flavor = replace(flavor, swap_mib=request.swap_mib)
    return check_flavor(flavor)


def _use(instance: Instance) -> dict[str, int]:
    """What counts against the quota of its project."""
    return {"instances": 1, "cores": instance.flavor.vcpus, "memory_mib": instance.flavor.memory_mib}


def _recorded(instance: Instance) -> Step:
    return RecordInstance(uuid=instance.uuid, name=instance.name)


def check_fit(flavor: Flavor, image: Image) -> None:
    """Raises Refused when the flavor is too small for the image (Nova's FlavorDiskSmallerThanImage)."""
    check_properties(image.properties)
    if image.status != "active":
        raise Refused(f"image {image.name} is {image.status}")
    if flavor.disk_gib and flavor.disk_gib < image.needs_gib:
        raise Refused(
            f"flavor {flavor.name} has a disk of {flavor.disk_gib} GiB,"
            f" image {image.name} needs {image.needs_gib}",
            hint="choose a larger flavor, or one with --disk 0 (the image's own size)",
        )
    if flavor.memory_mib < image.min_memory_mib:
        raise Refused(
            f"flavor {flavor.name} has {flavor.memory_mib} MiB of memory, image {image.name} needs"
            f" {image.min_memory_mib}"
        )


def _claimed(instance: Instance, host: str) -> Step:
    return ClaimHost(host=host, uuid=instance.uuid, **vars(instance.resources))


def _steps(world: World, op_id: str, instance: Instance, host: Host) -> Iterator[Step]:
    """One attempt on one host."""
    uuid, name = instance.uuid, host.name
    yield _claimed(instance, name)
    yield guest.check_step(instance, host)
    yield from guest.base_steps(instance, name)
    yield MakeDirectory(host=name, uuid=uuid)
    yield from guest.disk_steps(instance, name)
    yield guest.config_drive_step(instance, host)
    marks = Marks(fleet=world.fleet, operation=op_id, epoch=instance.epoch, generation=1)
    xml = guest.domain_xml(instance, host, marks, world.template("domain.xml"))
    yield DefineDomain(host=name, uuid=uuid, xml=xml)
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
        steps=tuple(_steps(world, op.id, moved, hosts.get(tx, name))),
        applied=APPLIED,
        locks=frozenset({Lock("host", name, Mode.SHARED)}),
    )


def _first_attempt(world: World, tx: Tx, op: Operation, instance: Instance, *, undoing: bool) -> Attempt:
    """On the host that was claimed when it was journaled. To be undone there is only the claim: nothing that
    could keep the steps from being planned keeps it from being given back."""
    assert instance.host
    steps = [_claimed(instance, instance.host)]
    if not undoing:
        steps = list(_steps(world, op.id, instance, hosts.get(tx, instance.host)))
    return Attempt(common=(_recorded(instance),), steps=tuple(steps), applied=APPLIED)


def names_of(request: BootRequest) -> list[str]:
    """NAME, or NAME-1 … NAME-N with `--count N`. Raises UsageError."""
    if not 1 <= request.count <= COUNT_LIMIT:
        raise UsageError(f"--count {request.count} is not within 1 to {COUNT_LIMIT}")
    if request.count == 1:
        return [request.name]
    if any(network.ip for network in request.networks):
        raise UsageError("ip= asks for one address, --count for several instances")
    return [f"{request.name}-{n}" for n in range(1, request.count + 1)]
