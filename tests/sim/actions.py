"""The verbs that the simulation plays."""

import base64
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from novactl.actions import audit
from novactl.actions.audit import heal as heal_
from novactl.actions.boot import Boot
from novactl.actions.delete import Delete
from novactl.actions.describe import Describe, Lock, ResetState
from novactl.actions.drain import Part
from novactl.actions.evacuate import Evacuate
from novactl.actions.fencing import Proof
from novactl.actions.keep import Keep
from novactl.actions.live_migrate import LiveMigrate
from novactl.actions.memory import Pause, Resume, Suspend, Unpause
from novactl.actions.playbook import PlaybookOn, Run, prepare
from novactl.actions.power import Reboot, Start, Stop
from novactl.actions.resize import Confirm, Migrate, Resize, Revert
from novactl.db import hosts, settings
from novactl.files.playbook import Playbook
from novactl.objects.request import BootRequest, NetworkRequest
from novactl.objects.states import PowerState
from tests.support.sim import Fault, SimFleet, SimJob
from tests.support.sim_live import Ends


def boot(name: str = "web1", **values: Any) -> Boot:
    request = BootRequest(
        **{
            "name": name,
            "flavor": "small",
            "image": "tiny",
            "networks": (NetworkRequest(network="lan"),),
            "user_data": b"#cloud-config\n",
            **values,
        }
    )
    return Boot(request=request, name=name)


def start(name: str = "web1") -> Start:
    return Start(name=name, project="default")


def stop(name: str = "web1", **values: Any) -> Stop:
    return Stop(name=name, project="default", **values)


def reboot(name: str = "web1", **values: Any) -> Reboot:
    return Reboot(name=name, project="default", **values)


def pause(name: str = "web1") -> Pause:
    return Pause(name=name, project="default")


def unpause(name: str = "web1") -> Unpause:
    return Unpause(name=name, project="default")


def suspend(name: str = "web1") -> Suspend:
    return Suspend(name=name, project="default")


def resume(name: str = "web1", **values: Any) -> Resume:
    return Resume(name=name, project="default", **values)


def live_migrate(name: str = "web1", **values: Any) -> LiveMigrate:
    return LiveMigrate(name=name, project="default", **values)


def describe(name: str = "web1", **values: Any) -> Describe:
    return Describe(name=name, project="default", **values)


def lock(name: str = "web1", **values: Any) -> Lock:
    return Lock(name=name, project="default", **values)


def reset_state(state: str, name: str = "web1") -> ResetState:
    return ResetState(name=name, project="default", state=state)


def delete(name: str = "web1", **values: Any) -> Delete:
    return Delete(name=name, project="default", **values)


def evacuate(name: str = "web1", **values: Any) -> Evacuate:
    values = {"proof": Proof(host="kvm1", words="its power was cut"), **values}
    return Evacuate(name=name, project="default", **values)


def migrate(name: str = "web1", **values: Any) -> Migrate:
    return Migrate(name=name, project="default", **values)


def leave() -> Part:
    """The only instance of a host that is drained."""
    return Part(move=migrate(confirm=True), of="drain", host="kvm1", parallel=1)


def resize(flavor: str = "large", name: str = "web1", **values: Any) -> Resize:
    return Resize(name=name, project="default", flavor=flavor, **values)


def confirm(name: str = "web1") -> Confirm:
    return Confirm(name=name, project="default")


def revert(name: str = "web1") -> Revert:
    return Revert(name=name, project="default")


class Healing:
    """`audit --heal` of the first thing that it would heal; found when it is checked."""

    kind = "heal"
    target = "web1"
    project = "default"

    def check(self, world: Any) -> Any:
        evidence = audit.gather(world, lambda tx, op: True)
        found = audit.findings(
            evidence.after, evidence.surveys, earlier=evidence.before, copies=evidence.copies
        )
        first = next((one for group in heal_.groups(found) for one in group), None)
        return first, first.check(world) if first else None

    def plan(self, world: Any, tx: Any, op_id: str, facts: Any) -> Any:
        first, checked = facts
        return first.plan(world, tx, op_id, checked) if first else None


def heal() -> Healing:
    return Healing()


class Scan:
    """Where the simulated hosts show their keys."""

    def scan(self, address: str, port: int, jump: str | None) -> tuple[str, bytes]:
        blob = b"key of " + address.encode()
        return f"ssh-ed25519 {base64.b64encode(blob).decode()}", blob


def ready(**values: Any) -> Run:
    """A playbook as its file would have it."""
    playbook = Playbook.model_validate({"name": "chores", "description": "chores", **values})
    return prepare(playbook, {}, "default", Scan(), lambda question: True)


def step(name: str, **values: Any) -> dict[str, Any]:
    return {"name": name, **values}


HOST_CHORES = [
    step(
        "file", put={"path": "/etc/chores", "content": "of {{ target }}\n"}, undo=["rm", "-f", "/etc/chores"]
    ),
    step("made", run=["touch", "/made"], unless=["test", "-e", "/made"], undo=["rm", "-f", "/made"]),
    step("had", run=["touch", "/had"], unless=["test", "-e", "/had"], undo=["rm", "-f", "/had"]),
]


def playbook() -> PlaybookOn:
    """Chores on a host without instances, its reboot among them."""
    run = ready(
        hosts={"names": ["kvm2"]},
        steps=[
            step(
                "off", novactl=["host", "set", "kvm2", "--disable"], undo=["host", "set", "kvm2", "--enable"]
            ),
            *HOST_CHORES,
            step("seen", novactl=["list"], register="seen"),
            step("one", check={"that": "seen.count == 1 and host.name == target", "message": "another"}),
            step("boot", reboot={"command": ["reboot"], "timeout": 60}),
            step("on", novactl=["host", "set", "kvm2", "--enable"]),
        ],
    )
    return PlaybookOn(run=run, target="kvm2")


def playbook_for_a_new_host() -> PlaybookOn:
    run = ready(new_host={"name": "kvm3", "address": "192.0.2.3"}, steps=HOST_CHORES)
    return PlaybookOn(run=run, target="kvm3")


def furnish(fleet: SimFleet) -> None:
    """What the chores find: a file that is there."""
    for host in fleet.hosts.values():
        host.made.add("/had")


def bare(fleet: SimFleet) -> None:
    """kvm3 is no host of the fleet yet."""
    furnish(fleet)
    fleet.hosts["kvm3"].fleet = None
    _change(fleet, "DELETE FROM hosts WHERE name = 'kvm3'")


# --- what an audit finds, put there by hand ---


def _change(fleet: SimFleet, sql: str, **values: Any) -> None:
    with fleet.db.writing() as tx:
        tx.run(sql, **values)


def _uuid(fleet: SimFleet) -> str:
    """The newest instance, deleted or not."""
    with fleet.db.reading() as tx:
        return str(tx.all("SELECT uuid FROM instances ORDER BY created_at DESC")[0]["uuid"])


def unsettle(fleet: SimFleet) -> None:
    """A stopped instance of kvm1 about which many small things are wrong."""
    uuid, host = _uuid(fleet), fleet.hosts["kvm1"]
    host.domains[uuid].autostart = True
    host.strays.add(f"{uuid}.op-0a")
    _change(fleet, "UPDATE instances SET task_state = 'powering-on', vm_state = 'active'")


def bring_back(fleet: SimFleet) -> None:
    """What is on the host of an instance that is running, and then is deleted: it is all there again, off."""
    uuid, host = _uuid(fleet), fleet.hosts["kvm1"]
    domain, directory = copy.deepcopy((host.domains[uuid], host.directories[uuid]))
    assert fleet.run(delete()).code == 0
    domain.state = PowerState.SHUTDOWN
    host.domains[uuid], host.directories[uuid] = domain, directory


def carry_away(fleet: SimFleet) -> None:
    """The instance of kvm1 is on kvm2, by other hands."""
    uuid, here, there = _uuid(fleet), fleet.hosts["kvm1"], fleet.hosts["kvm2"]
    there.domains[uuid] = here.domains.pop(uuid)
    there.directories[uuid] = here.directories.pop(uuid)


def leave_work(fleet: SimFleet) -> None:
    """A part of a transfer, a job, a key between hosts, and a count that is wrong."""
    host = fleet.hosts["kvm1"]
    host.lines["op-0b"] = []
    host.parts["ab" * 32] = bytearray(b"half")
    host.jobs["op-0b", 3] = SimJob(("sleep", "60"), fleet.clock.monotonic() + 1e6)
    _change(fleet, "UPDATE hosts SET vcpus_used = 3 WHERE name = 'kvm1'")


def double(fleet: SimFleet) -> None:
    """The instance of kvm1 runs on kvm2 as well, by other hands."""
    uuid, here, there = _uuid(fleet), fleet.hosts["kvm1"], fleet.hosts["kvm2"]
    there.domains[uuid] = copy.deepcopy(here.domains[uuid])
    there.directories[uuid] = copy.deepcopy(here.directories[uuid])


def keep() -> Keep:
    return Keep(name="web1", project="default", keep="kvm1", other="kvm2")


def keep_other() -> Keep:
    return Keep(name="web1", project="default", keep="kvm2", other="kvm1")


# --- what the simulation plays: a new action joins every suite by its line here ---


def _deaf(fleet: SimFleet) -> None:
    for host in fleet.hosts.values():
        for domain in host.domains.values():
            domain.deaf = True


def _no_balloon(fleet: SimFleet) -> None:
    for host in fleet.hosts.values():
        for domain in host.domains.values():
            domain.balloon = False


def lay_bare(fleet: SimFleet) -> None:
    """All that a hard reboot makes again is gone: base file, libvirt.xml, domain, bridge."""
    uuid, host = _uuid(fleet), fleet.hosts["kvm1"]
    host.bases.clear()
    host.bridges.clear()
    host.directories[uuid].files.pop("libvirt.xml")


def go_off(fleet: SimFleet) -> None:
    """The guest has powered itself off; the record does not know."""
    fleet.hosts["kvm1"].domains[_uuid(fleet)].state = PowerState.SHUTDOWN


def lose_host(fleet: SimFleet, name: str = "kvm1") -> None:
    """It is off, and fenced."""
    host = fleet.hosts[name]
    host.power_cycle()
    host.up = False
    _change(fleet, f"UPDATE hosts SET state = 'fenced' WHERE name = '{name}'")


def lose_second(fleet: SimFleet) -> None:
    lose_host(fleet, "kvm2")


def lose_sharing_host(fleet: SimFleet) -> None:
    """The same, when all hosts have their instances on one storage."""
    lose_host(fleet)
    share(fleet)


def share(fleet: SimFleet) -> None:
    """All hosts have their instances on one storage."""
    first = fleet.hosts["kvm1"]
    with fleet.db.writing() as tx:
        for name, host in fleet.hosts.items():
            first.directories.update(host.directories)
            host.storage, host.directories, host.probes = "one", first.directories, first.probes
            hosts.update(tx, name, facts={**hosts.get(tx, name).facts, "storage": "one"})


def trust_a_network(fleet: SimFleet) -> None:
    """Guests may travel in clear between the hosts."""
    _change(fleet, "UPDATE hosts SET address = replace(name, 'kvm', '192.0.2.')")
    with fleet.db.writing() as tx:
        settings.put(tx, "trusted_networks", {"storage": "192.0.2.0/24"})


def grow_shared(fleet: SimFleet) -> None:
    """The instance waits on another host, with a larger disk on the storage that all share."""
    share(fleet)
    assert fleet.run(resize(host="kvm2")).code == 0


def live_ends(how: Ends) -> Callable[[SimFleet], None]:
    """Live migrations from every host end so."""

    def prepare(fleet: SimFleet) -> None:
        for host in fleet.hosts.values():
            host.live_ends = how

    return prepare


def _and(*preparations: Callable[[SimFleet], None]) -> Callable[[SimFleet], None]:
    def prepare(fleet: SimFleet) -> None:
        for one in preparations:
            one(fleet)

    return prepare


@dataclass(frozen=True)
class Scenario:
    """One operation: what was done before, what goes wrong on the hosts, and what it leaves."""

    action: Callable[[], Any]
    before: tuple[Callable[[], Any], ...] = ()
    prepare: Callable[[SimFleet], None] = lambda fleet: None
    faults: tuple[Fault, ...] = ()
    ends: str | None = "ACTIVE"  # the instance's status when it is done, None for gone
    undone: str | None = None  # and when it was undone
    fails: bool = False  # it ends undone even when nobody dies
    dies: int = 5  # at so many instants at least its process can die
    heals: bool = False  # something is wrong before; what it leaves undone, the next one does
    healer: Callable[[], Any] = heal


SCENARIOS: dict[str, Scenario] = {
    "boot": Scenario(boot),
    "boot-with-everything": Scenario(lambda: boot(image="direct", flavor="disks")),
    "boot-later": Scenario(lambda: boot(count=17)),  # one of many: its steps are written when it starts
    "boot-later-next-host": Scenario(lambda: boot(count=17), faults=(Fault("start", "fails"),)),
    "boot-in-a-group": Scenario(lambda: boot(group="apart"), faults=(Fault("start", "fails"),)),
    "boot-large": Scenario(lambda: boot(image="large")),
    "boot-next-host": Scenario(boot, faults=(Fault("start", "fails"),)),
    "boot-no-host": Scenario(
        lambda: boot(host="kvm1"), faults=(Fault("start", "fails", times=99),), ends=None, fails=True
    ),
    "stop": Scenario(stop, (boot,), ends="SHUTOFF", undone="ACTIVE"),
    "stop-deaf": Scenario(stop, (boot,), _deaf, ends="SHUTOFF", undone="ACTIVE"),
    "stop-force": Scenario(lambda: stop(force=True), (boot,), ends="SHUTOFF", undone="ACTIVE"),
    "start": Scenario(start, (boot, stop), ends="ACTIVE", undone="SHUTOFF"),
    "start-fails": Scenario(
        start,
        (boot, stop),
        faults=(Fault("start", "fails", times=99),),
        ends="SHUTOFF",
        undone="SHUTOFF",
        fails=True,
    ),
    "reboot": Scenario(reboot, (boot,), ends="ACTIVE", undone="ACTIVE"),
    "reboot-deaf": Scenario(reboot, (boot,), _deaf, ends="ACTIVE", undone="ACTIVE"),
    "reboot-hard": Scenario(lambda: reboot(hard=True), (boot,), ends="ACTIVE", undone="ACTIVE"),
    "reboot-stopped": Scenario(lambda: reboot(hard=True), (boot, stop), ends="ACTIVE", undone="SHUTOFF"),
    "reboot-suspended": Scenario(
        lambda: reboot(hard=True), (boot, suspend), ends="ACTIVE", undone="SUSPENDED"
    ),
    "pause": Scenario(pause, (boot,), ends="PAUSED", undone="ACTIVE"),
    "unpause": Scenario(unpause, (boot, pause), ends="ACTIVE", undone="PAUSED"),
    "suspend": Scenario(suspend, (boot,), ends="SUSPENDED", undone="ACTIVE"),
    "resume": Scenario(resume, (boot, suspend), ends="ACTIVE", undone="SUSPENDED"),
    "migrate": Scenario(migrate, (boot,), ends="VERIFY_RESIZE", undone="ACTIVE"),
    "migrate-stopped": Scenario(migrate, (boot, stop), ends="VERIFY_RESIZE", undone="SHUTOFF"),
    "migrate-confirm": Scenario(
        lambda: migrate(confirm=True), (lambda: boot(image="uefi"),), ends="ACTIVE", undone="ACTIVE"
    ),
    "migrate-fails": Scenario(
        lambda: migrate(host="kvm2"),
        (lambda: boot(host="kvm1"),),
        faults=(Fault("start", "fails", host="kvm2", times=99),),
        ends="ACTIVE",
        undone="ACTIVE",
        fails=True,
    ),
    "migrate-revert": Scenario(revert, (boot, migrate), ends="ACTIVE", undone="VERIFY_RESIZE"),
    "migrate-delete": Scenario(delete, (boot, migrate), ends=None, undone="VERIFY_RESIZE"),
    "resize": Scenario(resize, (boot,), ends="VERIFY_RESIZE", undone="ACTIVE"),
    "resize-live": Scenario(
        lambda: resize("wide", live=True), (lambda: boot(flavor="lean"),), undone="ACTIVE"
    ),
    "resize-live-shrinks": Scenario(
        lambda: resize("lean", live=True), (lambda: boot(flavor="wide"),), undone="ACTIVE"
    ),
    "resize-live-kept": Scenario(
        lambda: resize("lean", live=True), (lambda: boot(flavor="wide"),), _no_balloon, undone="ACTIVE"
    ),
    "resize-live-stopped": Scenario(
        lambda: resize("lean", live=True), (boot, stop), ends="SHUTOFF", undone="SHUTOFF"
    ),
    "resize-live-again": Scenario(
        lambda: resize("small", live=True),
        (lambda: boot(flavor="wide"), lambda: resize("lean", live=True)),
        undone="ACTIVE",
    ),
    "resize-after-resize-live": Scenario(
        lambda: resize("large"),
        (lambda: boot(flavor="wide"), lambda: resize("lean", live=True)),
        ends="VERIFY_RESIZE",
        undone="ACTIVE",
    ),
    "reboot-after-resize-live": Scenario(
        lambda: reboot(hard=True),
        (lambda: boot(flavor="wide"), lambda: resize("lean", live=True)),
        undone="ACTIVE",
    ),
    "resize-elsewhere": Scenario(
        lambda: resize("disks", confirm=True), (boot,), ends="ACTIVE", undone="ACTIVE"
    ),
    "migrate-shared": Scenario(migrate, (boot,), share, ends="VERIFY_RESIZE", undone="ACTIVE"),
    "resize-shared-revert": Scenario(revert, (boot,), grow_shared, ends="ACTIVE", undone="VERIFY_RESIZE"),
    "resize-confirm": Scenario(confirm, (boot, resize), ends="ACTIVE", undone="VERIFY_RESIZE", dies=2),
    "resize-revert": Scenario(revert, (boot, resize), ends="ACTIVE", undone="VERIFY_RESIZE"),
    "revert-lost": Scenario(
        revert,
        (lambda: boot(host="kvm1"), lambda: resize(host="kvm2")),
        lose_second,
        ends="ACTIVE",
        undone="VERIFY_RESIZE",
    ),
    "confirm-lost": Scenario(
        confirm,
        (lambda: boot(host="kvm1"), lambda: resize(host="kvm2")),
        lose_host,
        ends="ACTIVE",
        undone="VERIFY_RESIZE",
        dies=2,
    ),
    "drain": Scenario(leave, (lambda: boot(host="kvm1"), stop), ends="SHUTOFF", undone="SHUTOFF"),
    "migrate-keep": Scenario(confirm, (boot, migrate), ends="ACTIVE", undone="VERIFY_RESIZE"),
    "live-migrate": Scenario(live_migrate, (boot,), undone="ACTIVE"),
    "live-migrate-tcp": Scenario(
        lambda: live_migrate(transport="tcp"), (boot,), trust_a_network, undone="ACTIVE"
    ),
    "live-migrate-direct": Scenario(
        lambda: live_migrate(direct=True, transport="tcp"), (boot,), trust_a_network, undone="ACTIVE"
    ),
    "live-migrate-direct-fails": Scenario(
        lambda: live_migrate(direct=True, transport="tcp"),
        (boot,),
        _and(trust_a_network, live_ends(Ends.FAILS)),
        undone="ACTIVE",
        fails=True,
    ),
    "live-migrate-direct-finish-lost": Scenario(
        lambda: live_migrate(direct=True, transport="tcp"),
        (boot,),
        _and(trust_a_network, live_ends(Ends.FINISH_LOST)),
        undone="ACTIVE",
        fails=True,
    ),
    "live-migrate-direct-not-resumed": Scenario(
        lambda: live_migrate(direct=True, transport="tcp"),
        (boot,),
        _and(trust_a_network, live_ends(Ends.NOT_RESUMED)),
        undone="ACTIVE",
    ),
    "live-migrate-paused": Scenario(live_migrate, (boot, pause), ends="PAUSED", undone="PAUSED"),
    "live-migrate-fails": Scenario(live_migrate, (boot,), live_ends(Ends.FAILS), undone="ACTIVE", fails=True),
    "live-migrate-finish-lost": Scenario(
        live_migrate, (boot,), live_ends(Ends.FINISH_LOST), undone="ACTIVE", fails=True
    ),
    "live-migrate-not-resumed": Scenario(live_migrate, (boot,), live_ends(Ends.NOT_RESUMED), undone="ACTIVE"),
    "live-migrate-left-off": Scenario(live_migrate, (boot,), live_ends(Ends.LEFT_OFF), undone="ACTIVE"),
    "live-migrate-not-told": Scenario(live_migrate, (boot,), live_ends(Ends.NOT_TOLD), undone="ACTIVE"),
    "set": Scenario(lambda: describe(metadata={"role": "web"}, tags=["new"]), (boot,), ends="ACTIVE"),
    "lock": Scenario(lock, (boot, suspend), ends="SUSPENDED"),
    "reset-state": Scenario(lambda: reset_state("error"), (boot,), ends="ERROR", dies=0),
    "delete": Scenario(delete, (boot,), ends=None, undone="ACTIVE"),
    "delete-suspended": Scenario(delete, (boot, suspend), ends=None, undone="SUSPENDED"),
    "delete-stopped": Scenario(delete, (boot, stop), ends=None, undone="SHUTOFF"),
    "heal": Scenario(heal, (boot, stop), unsettle, ends="SHUTOFF", undone="SHUTOFF", heals=True),
    "heal-deleted": Scenario(heal, (boot,), bring_back, ends=None, heals=True),
    "heal-moved": Scenario(heal, (boot,), carry_away, undone="ACTIVE", heals=True),
    "evacuate": Scenario(evacuate, (boot,), lose_host, undone="ACTIVE"),
    "evacuate-stopped": Scenario(evacuate, (boot, stop), lose_host, ends="SHUTOFF", undone="SHUTOFF"),
    "evacuate-shared": Scenario(evacuate, (boot,), lose_sharing_host, undone="ACTIVE"),
    "keep": Scenario(keep, (boot,), double, undone="ACTIVE", dies=3, heals=True, healer=keep),
    "keep-other": Scenario(
        keep_other, (boot,), double, undone="ACTIVE", dies=3, heals=True, healer=keep_other
    ),
    "heal-host": Scenario(heal, (boot,), leave_work, undone="ACTIVE", heals=True),
    "playbook": Scenario(playbook, (boot,), furnish, undone="ACTIVE"),
    "playbook-new-host": Scenario(playbook_for_a_new_host, (boot,), bare, undone="ACTIVE"),
}


@dataclass(frozen=True)
class Group:
    """Several at once: children of one parent. `together`: journaled in one transaction."""

    actions: Callable[[], list[Any]]
    before: tuple[Callable[[], Any], ...] = ()
    together: bool = True
    makes: bool = True  # what is done is there; else it is gone


THREE = ("web1", "web2", "web3")
GROUPS: dict[str, Group] = {
    "boot-three": Group(lambda: [boot(name) for name in THREE]),
    "boot-three-apart": Group(lambda: [boot(name) for name in THREE], together=False),
    "delete-three": Group(
        lambda: [delete(name) for name in THREE],
        tuple(lambda name=name: boot(name) for name in THREE),  # type: ignore[misc]
        together=False,
        makes=False,
    ),
}
