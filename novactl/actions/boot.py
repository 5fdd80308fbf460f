"""boot: claim, base image, overlays, config drive, domain, start, ACTIVE."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from novactl.actions import guest
from novactl.actions.steps.domains import DefineDomain, StartDomain
from novactl.actions.steps.files import CheckHost, MakeDirectory
from novactl.actions.steps.records import ClaimHost, MarkActive, RecordInstance
from novactl.actions.world import World
from novactl.db import catalogue, hosts, instances, settings
from novactl.db.session import Tx
from novactl.engine.operation import Attempt, Lock, Mode, Operation, Plan
from novactl.engine.step import Step
from novactl.errors import NoValidHost, Refused, UsageError
from novactl.objects.flavor import Flavor, check_flavor
from novactl.objects.host import Host
from novactl.objects.image import Image
from novactl.objects.instance import DESCRIPTION_LIMIT, Instance
from novactl.objects.names import check_name, check_text, mac_address, port_id, tap_name
from novactl.objects.network import Network, Port, free_addresses
from novactl.objects.request import BootRequest, NetworkRequest
from novactl.objects.states import TaskState, VmState
from novactl.scheduler.filters import Spec
from novactl.scheduler.select import candidates, no_valid_host
from novactl.virt.domain import Marks, check_properties

ATTEMPTS = 3  # as Nova's scheduler max_attempts
USER_DATA_LIMIT = 65535  # bytes, as Nova's (before base64)
COUNT_LIMIT = 1000  # one transaction claims for all: it keeps everybody else waiting


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

    def check(self, world: World) -> None:
        """What needs no database: names, values, sizes. Raises UsageError or Refused."""
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

    def existing(self, tx: Tx) -> Instance | None:
        """The instance of that name, when there is one."""
        uuid = instances.named(tx, self.name, self.request.project)
        return instances.get(tx, uuid) if uuid else None

    def plan(self, world: World, tx: Tx, op_id: str, _: None) -> Plan | None:
        """Resolve the names, give it name, addresses and a host, and decide every step: all in the
        transaction that journals it. None when it exists and `--if-not-exists` was given."""
        request = self.request
        if found := self.existing(tx):
            if request.if_not_exists:
                return None
            raise Refused(
                f"instance {self.name} exists already", hint=f"novactl show {found.uuid}; or --if-not-exists"
            )
        instance, networks = self._instance(world, tx, op_id)
        spec = _spec(instance, request.host, request.zone)
        if request.host:
            hosts.get(tx, request.host)
        chosen, alternates = _claim(tx, instance, spec)
        instance = replace(instance, host=chosen.name)
        instances.add(tx, replace(instance, ports=()))
        for port, network in zip(instance.ports, networks, strict=True):
            instances.add_port(tx, instance.uuid, network.id, port)
        if request.user_data is not None:
            reference = world.secrets.seal(tx, world.ids.uuid(), instance.uuid, request.user_data)
            instances.update(tx, instance.uuid, user_data=reference)
            instance = replace(instance, user_data=reference)
        return self._journaled(world, op_id, instance, networks, chosen, alternates)

    def _journaled(
        self,
        world: World,
        op_id: str,
        instance: Instance,
        networks: Sequence[Network],
        chosen: Host,
        alternates: Sequence[Host],
    ) -> Plan:
        """The plan of what was just claimed. Pure."""
        assert instance.image
        locks = {
            Lock("instance", instance.uuid, Mode.EXCLUSIVE),
            Lock("image", instance.image.id, Mode.SHARED),
            Lock("host", chosen.name, Mode.SHARED),
            *(Lock("network", network.id, Mode.SHARED) for network in networks),
        }
        return Plan(
            kind=self.kind,
            target=self.name,
            target_uuid=instance.uuid,
            project=instance.project,
            request={"host": self.request.host, "zone": self.request.zone},
            locks=frozenset(locks),
            common=(RecordInstance(uuid=instance.uuid, name=self.name),),
            attempt=tuple(_steps(world, op_id, instance, chosen)),
            applied=frozenset({RecordInstance.type, ClaimHost.type}),
            epoch=instance.epoch,
            host=chosen.name,
            alternates=tuple(host.name for host in alternates),
            changes={"addresses": {port.network: port.ip for port in instance.ports}}
            | vars(instance.resources),
        )

    def _instance(self, world: World, tx: Tx, op_id: str) -> tuple[Instance, list[Network]]:
        request = self.request
        image = catalogue.image(tx, request.image)
        flavor = self._flavor(catalogue.flavor(tx, request.flavor))
        _check_fit(flavor, image)
        key = catalogue.keypair(tx, request.project, request.key) if request.key else None
        uuid = world.ids.uuid()
        networks = [catalogue.network(tx, wanted.network) for wanted in request.networks]
        return Instance(
            uuid=uuid,
            name=self.name,
            project=request.project,
            vm_state=VmState.BUILDING,
            task_state=TaskState.SPAWNING,
            flavor=flavor,
            image=image,
            ports=tuple(_ports(tx, uuid, request.networks, networks)),
            key_name=key.name if key else None,
            public_key=key.public_key if key else None,
            metadata=request.metadata,
            tags=tuple(sorted(set(request.tags))),
            launch_index=self.index,
            created_at=world.clock.now(),
            epoch=1,
        ), networks

    def _flavor(self, flavor: Flavor) -> Flavor:
        request = self.request
        if request.ephemeral_gib is not None:
            flavor = replace(flavor, ephemeral_gib=request.ephemeral_gib)
        if request.swap_mib is not None:
            flavor = replace(flavor, swap_mib=request.swap_mib)
        return check_flavor(flavor)


def _check_fit(flavor: Flavor, image: Image) -> None:
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


def _ports(
    tx: Tx, uuid: str, wanted: Sequence[NetworkRequest], networks: Sequence[Network]
) -> Iterator[Port]:
    """A port for each network asked for, with the first free address. Raises Refused."""
    elsewhere = [host.address for host in _hosts(tx).values()]
    for index, (request, network) in enumerate(zip(wanted, networks, strict=True)):
        taken = _taken(tx, network)
        ip = next(free_addresses(network, taken, elsewhere, request.ip), None)
        if ip is None:
            raise Refused(f"network {network.name} ({network.cidr}) has no free address")
        taken.add(ip)
        port = port_id(uuid, index)
        yield Port(
            id=port,
            index=index,
            network=network.name,
            bridge=network.bridge,
            mac=next(
                mac for salt in range(64) if not instances.mac_is_taken(tx, mac := mac_address(port, salt))
            ),
            ip=ip,
            prefix=int(network.cidr.rpartition("/")[2]),
            gateway=network.gateway,
            dns=network.dns,
            mtu=network.mtu,
            tap=tap_name(port),
        )


def _spec(
    instance: Instance, host: str | None, zone: str | None, tried: frozenset[str] = frozenset()
) -> Spec:
    assert instance.image
    arch = instance.image.properties.get("hw_architecture", "x86_64")
    return Spec(resources=instance.resources, arch=arch, zone=zone, host=host, not_hosts=tried)


def _claim(tx: Tx, instance: Instance, spec: Spec) -> tuple[Host, list[Host]]:
    """(the best host, whose share is now held; the others that pass). Raises NoValidHost with every
    host's reasons."""
    known = _hosts(tx)
    passed, explained = candidates(list(known.values()), spec, _weighers(tx))
    for host in passed:
        if hosts.claim(tx, host.name, instance.uuid, instance.resources):
            known[host.name] = hosts.get(tx, host.name)
            return host, [other for other in passed if other is not host]
    raise no_valid_host(instance.name, explained)


def _taken(tx: Tx, network: Network) -> set[str]:
    """The network's addresses that are given, those of this transaction too."""
    found: set[str] = tx.memo.get(network.id) or set(instances.taken_addresses(tx, network.id))
    tx.memo[network.id] = found
    return found


def _hosts(tx: Tx) -> dict[str, Host]:
    """All hosts by name, read once in a transaction that decides on many instances."""
    if "hosts" not in tx.memo:
        tx.memo["hosts"] = {host.name: host for host in hosts.everything(tx)}
    found: dict[str, Host] = tx.memo["hosts"]
    return found


def _weighers(tx: Tx) -> dict[str, float]:
    """The operator's multipliers, read once likewise."""
    if "weighers" not in tx.memo:
        tx.memo["weighers"] = settings.get(tx, "weighers")
    found: dict[str, float] = tx.memo["weighers"]
    return found


def _steps(world: World, op_id: str, instance: Instance, host: Host) -> Iterator[Step]:
    """One attempt on one host."""
    uuid, name, image = instance.uuid, host.name, instance.image
    assert image
    amounts = instance.resources
    yield ClaimHost(
        host=name, uuid=uuid, vcpus=amounts.vcpus, memory_mib=amounts.memory_mib, disk_gib=amounts.disk_gib
    )
    yield CheckHost(
        host=name,
        uuid=uuid,
        bridges=sorted({port.bridge for port in instance.ports}),
        memory_mib=amounts.memory_mib if host.memory_ratio <= 1 else 0,
        fetch_bytes=image.size_bytes + (image.virtual_size_bytes if image.disk_format != "raw" else 0),
        base=image.sha256,
    )
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
    """Claim another host for a boot whose host failed, and its steps; None when none is left."""
    tried = frozenset(r.step.host for r in op.records if isinstance(r.step, ClaimHost) and r.step.host)
    if op.attempt >= ATTEMPTS or op.request["host"] is not None:
        return None
    assert op.target_uuid
    instance = instances.get(tx, op.target_uuid)
    spec = _spec(instance, None, op.request["zone"], tried)
    try:
        host, _ = _claim(tx, instance, spec)
    except NoValidHost:
        return None
    instances.update(tx, instance.uuid, host=host.name)
    world.tell(f"{op.target}: {failure}; trying {host.name}")
    return Attempt(
        steps=tuple(_steps(world, op.id, replace(instance, host=host.name), host)),
        applied=frozenset({ClaimHost.type}),
        locks=frozenset({Lock("host", host.name, Mode.SHARED)}),
    )


def names_of(request: BootRequest) -> list[str]:
    """NAME, or NAME-1 … NAME-N with `--count N`. Raises UsageError."""
    if not 1 <= request.count <= COUNT_LIMIT:
        raise UsageError(f"--count {request.count} is not within 1 to {COUNT_LIMIT}")
    if request.count == 1:
        return [request.name]
    if any(network.ip for network in request.networks):
        raise UsageError("ip= asks for one address, --count for several instances")
    return [f"{request.name}-{n}" for n in range(1, request.count + 1)]
