"""Records for tests: hosts, images, flavors, networks and instances of a small fleet."""

from dataclasses import replace
from typing import Any

from novactl.db import catalogue, hosts, instances
from novactl.db.session import Database
from novactl.db.sqlite import SqliteDatabase
from novactl.objects.flavor import Flavor
from novactl.objects.host import Host
from novactl.objects.image import MIB, Image
from novactl.objects.instance import Instance
from novactl.objects.names import mac_address, port_id, tap_name
from novactl.objects.network import Network, Port
from novactl.objects.states import PowerState, VmState

SHA256 = "ab" * 32
WHEN = "2026-01-01T00:00:00.000000Z"


def host(name: str = "kvm1", **values: Any) -> Host:
    made = Host(
        id=f"id-{name}",
        name=name,
        address=f"{name}.example",
        instances_path="/var/lib/novactl/instances",
        virt_type="kvm",
        vcpus=4,
        memory_mib=4096,
        disk_gib=100,
        facts={"arch": "x86_64", "odirect": True},
    )
    return replace(made, **values)


def image(name: str = "tiny", **values: Any) -> Image:
    made = Image(
        id=f"id-{name}",
        name=name,
        sha256=SHA256,
        disk_format="raw",
        size_bytes=MIB,
        virtual_size_bytes=MIB,
        created_at=WHEN,
    )
    return replace(made, **values)


def flavor(name: str = "small", **values: Any) -> Flavor:
    return replace(Flavor(id=f"id-{name}", name=name, vcpus=1, memory_mib=512, disk_gib=1), **values)


def network(name: str = "lan", **values: Any) -> Network:
    made = Network(
        id=f"id-{name}",
        name=name,
        cidr="192.0.2.0/24",
        gateway="192.0.2.1",
        dns=("192.0.2.2",),
        bridge="br0",
    )
    return replace(made, **values)


def port(uuid: str, index: int = 0, **values: Any) -> Port:
    id_ = port_id(uuid, index)
    made = Port(
        id=id_,
        index=index,
        network="lan",
        bridge="br0",
        mac=mac_address(id_),
        ip=f"192.0.2.{10 + index}",
        prefix=24,
        gateway="192.0.2.1",
        dns=("192.0.2.2",),
        mtu=1500,
        tap=tap_name(id_),
    )
    return replace(made, **values)


def uuid(number: int) -> str:
    """A uuid that tests can recognise: 00000000-0000-4000-8000-…"""
    return f"{number:08x}-0000-4000-8000-{number:012x}"


def instance(number: int = 1, **values: Any) -> Instance:
    made = Instance(
        uuid=uuid(number),
        name=f"web{number}",
        project="default",
        vm_state=VmState.ACTIVE,
        power_state=PowerState.RUNNING,
        flavor=flavor(),
        image=image(),
        created_at=WHEN,
        epoch=1,
    )
    return replace(made, **values)


def image_file(db: Database) -> None:
    """What image() is made of is in the store beside the database, where it is a file."""
    if not isinstance(db, SqliteDatabase):
        return
    store = db.path.parent / "images"
    store.mkdir(parents=True, exist_ok=True)
    (store / SHA256).touch()


def furnish(db: SqliteDatabase, *, hosts_: int = 1, **host_values: Any) -> None:
    """A fleet of kvm1 … kvmN with a flavor, an image and a network."""
    image_file(db)
    with db.writing() as tx:
        for n in range(1, hosts_ + 1):
            hosts.add(tx, host(f"kvm{n}", **host_values))
        catalogue.add_flavor(tx, flavor())
        catalogue.add_image(tx, image())
        catalogue.add_network(tx, network())


def add_instance(db: SqliteDatabase, made: Instance) -> Instance:
    """The instance with its ports in the database."""
    with db.writing() as tx:
        instances.add(tx, replace(made, ports=()))
        for each in made.ports:
            instances.add_port(tx, made.uuid, f"id-{each.network}", each)
    return made
