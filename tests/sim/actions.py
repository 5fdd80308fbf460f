"""The verbs that the simulation plays."""

import base64
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from novactl.actions import audit, backup_files, restore
from novactl.actions.audit import heal as heal_
from novactl.actions.backups import BackUp
from novactl.actions.boot import AT_ONCE, Boot
from novactl.actions.delete import Delete
from novactl.actions.describe import Describe, Lock, ResetState
from novactl.actions.drain import Part
from novactl.actions.evacuate import Evacuate
from novactl.actions.fencing import Proof
from novactl.actions.keep import Keep
from novactl.actions.live_migrate import LiveMigrate
from novactl.actions.memory import Pause, Resume, Suspend, Unpause
from novactl.actions.notes import ForgetNotes
from novactl.actions.playbook import PlaybookOn, Run, prepare
from novactl.actions.power import Reboot, Start, Stop
from novactl.actions.push import Push
from novactl.actions.reimage import Reimage
from novactl.actions.rescue import Rescue, Unrescue
from novactl.actions.resize import Confirm, Migrate, Resize, Revert
from novactl.actions.share import Share, Unshare
from novactl.actions.shelve import Shelve
from novactl.actions.snapshot import Snapshot
from novactl.actions.unshelve import Unshelve
from novactl.db import backups, catalogue, hosts, settings
from novactl.files.playbook import Playbook
from novactl.images.store import LocalStore
from novactl.objects.keypair import Keypair
from novactl.objects.place import Place
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


def rescue(name: str = "web1", **values: Any) -> Rescue:
    return Rescue(name=name, project="default", **values)


def unrescue(name: str = "web1") -> Unrescue:
    return Unrescue(name=name, project="default")


def rebuild(name: str = "web1", **values: Any) -> Reimage:
    return Reimage(name=name, project="default", **values)


def snapshot(name: str = "web1", **values: Any) -> Snapshot:
    return Snapshot(**{"name": name, "project": "default", "image": "taken", **values})


def shelve(name: str = "web1", **values: Any) -> Shelve:
    return Shelve(name=name, project="default", **values)


def offload(name: str = "web1") -> Shelve:
    return shelve(name, offload=True)


def unshelve(name: str = "web1", **values: Any) -> Unshelve:
    return Unshelve(name=name, project="default", **values)


def back_up(backup: str = "first", name: str = "web1", **values: Any) -> BackUp:
    values = {"type": "daily", "rotation": 2, **values}
    return BackUp(name=name, project="default", backup=backup, **values)


def forget_notes() -> ForgetNotes:
    """What follows `backup delete`."""
    return ForgetNotes(name="web1", project="default", files=("disk",))


def delete_backup(fleet: SimFleet) -> None:
    """All of its rows and files are gone, and the host does not know it."""
    with fleet.process("other") as process:
        backup_files.delete(process.world, "default", "first")


class Restoring:
    """`backup restore` of the newest backup, into the instance itself or as a new one; found when it is
    checked."""

    target = "web1"
    project = "default"

    def __init__(self, *, here: bool) -> None:
        self.here = here
        self.kind = "restore" if here else "boot"

    def check(self, world: Any) -> Any:
        backup = world.db.read(backups.everything)[-1]
        request = restore.request_of(backup, "web1", None)
        action = (
            restore.RestoreHere(name="web1", project="default", backup=backup)
            if self.here
            else restore.RestoreAs(request=request, name="web1", backup=backup)
        )
        return action, action.check(world)

    def plan(self, world: Any, tx: Any, op_id: str, facts: Any) -> Any:
        action, checked = facts
        return action.plan(world, tx, op_id, checked)


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


def push(image: str = "tiny", before: tuple[str, ...] = ("kvm1",)) -> Push:
    """An image to kvm2, which gets it from kvm1; or from the store, when that has it not."""
    return Push(image=image, target="kvm2", before=before)


SHARED = Place("host", "kvm3", "/srv/images")


def share_image(image: str = "direct") -> Share:
    return Share(image=image, place=SHARED)


def unshare() -> Unshare:
    return Unshare(place=SHARED, files=("ab" * 32,))


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


def another_operator(fleet: SimFleet) -> None:
    """Whose store has nothing."""
    fleet.other_store = LocalStore(fleet.directory / "other")


def share_images(fleet: SimFleet) -> None:
    """Images are shared in a directory of kvm3, where nothing is yet."""
    with fleet.db.writing() as tx:
        settings.put(tx, "image_store", str(SHARED))


def fill(fleet: SimFleet) -> None:
    """It has all that tiny is made of, and what nothing needs."""
    for sha256 in (*fleet.db.read(lambda tx: catalogue.image(tx, "tiny")).sums, "ab" * 32):
        fleet.hosts["kvm3"].stored[SHARED.where, sha256] = 0.0


def unsettle(fleet: SimFleet) -> None:
    """A stopped instance of kvm1 about which many small things are wrong."""
    uuid, host = _uuid(fleet), fleet.hosts["kvm1"]
    host.domains[uuid].autostart = True
    host.strays.add(f"{uuid}.op-0a")
    host.directories[uuid].files["op-0a.disk.delta"] = b"left"
    _change(fleet, "UPDATE instances SET task_state = 'powering-on', vm_state = 'active'")


def bring_back(fleet: SimFleet) -> None:
    """What is on the host of an instance that is running, and then is deleted: it is all there again, off."""
    uuid, host = _uuid(fleet), fleet.hosts["kvm1"]
    domain, directory = copy.deepcopy((host.domains[uuid], host.directories[uuid]))
    assert fleet.run(delete()).code == 0
    domain.state = PowerState.SHUTDOWN
    host.domains[uuid], host.directories[uuid] = domain, directory


def keep_aside(fleet: SimFleet) -> None:
    """A disk of before, by an operation that is done, lies beside the instance's."""
    with fleet.db.reading() as tx:
        (row,) = tx.all("SELECT id FROM operations")
    fleet.hosts["kvm1"].directories[_uuid(fleet)].files[f"disk.{row['id']}"] = b"before"


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


def with_agents(fleet: SimFleet) -> None:
    for host in fleet.hosts.values():
        for domain in host.domains.values():
            domain.agent = True


def _no_copies(fleet: SimFleet) -> None:
    """libvirt mirrors no disk."""
    for host in fleet.hosts.values():
        for domain in host.domains.values():
            domain.refuses_copies = True


def no_bitmaps(fleet: SimFleet) -> None:
    """The disks do not note what changes."""
    for host in fleet.hosts.values():
        for domain in host.domains.values():
            domain.checkpoints.clear()


def with_key(fleet: SimFleet) -> None:
    key = Keypair(name="me", fingerprint="SHA256:x", public_key="ssh-ed25519 AAAA me")
    fleet.db.write(lambda tx: catalogue.add_keypair(tx, "default", key))


def lay_bare(fleet: SimFleet) -> None:
    """All that a hard reboot makes again is gone: base file, libvirt.xml, domain, bridge."""
    uuid, host = _uuid(fleet), fleet.hosts["kvm1"]
    host.bases.clear()
    host.bridges.clear()
    host.directories[uuid].files.pop("libvirt.xml")


def go_off(fleet: SimFleet) -> None:
    """The guest has powered itself off; the record does not know."""
    fleet.hosts["kvm1"].domains[_uuid(fleet)].state = PowerState.SHUTDOWN


def go_off_known(fleet: SimFleet) -> None:
    """The same, and the record knows."""
    go_off(fleet)
    _change(fleet, "UPDATE instances SET power_state = 'shutdown'")


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
    "boot-later": Scenario(
        lambda: boot(count=AT_ONCE + 1)
    ),  # one of many: its steps are written when it starts
    "boot-later-next-host": Scenario(lambda: boot(count=AT_ONCE + 1), faults=(Fault("start", "fails"),)),
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
    "rescue": Scenario(rescue, (boot,), ends="RESCUE", undone="ACTIVE"),
    "rescue-stopped": Scenario(lambda: rescue(image="direct"), (boot, stop), ends="RESCUE", undone="SHUTOFF"),
    "unrescue": Scenario(unrescue, (boot, rescue), ends="ACTIVE", undone="RESCUE"),
    "unrescue-lost": Scenario(unrescue, (boot, rescue), lose_host, ends="ACTIVE", undone="RESCUE", dies=0),
    "delete-rescued": Scenario(delete, (boot, rescue), ends=None, undone="RESCUE"),
    "rebuild": Scenario(rebuild, (boot,), ends="ACTIVE", undone="ACTIVE"),
    "rebuild-another": Scenario(
        lambda: rebuild(image="direct", preserve_ephemeral=True),
        (lambda: boot(flavor="disks"), stop),
        ends="SHUTOFF",
        undone="SHUTOFF",
    ),
    "rebuild-login": Scenario(
        lambda: rebuild(key="me", user_data=b"#new"),
        (lambda: boot(user_data=b"#old"),),
        with_key,
        undone="ACTIVE",
    ),
    "rebuild-error": Scenario(
        rebuild, (boot, lambda: reset_state("error")), go_off_known, ends="ACTIVE", undone="ERROR"
    ),
    "shelve": Scenario(shelve, (boot,), ends="SHELVED", undone="ACTIVE"),
    "shelve-paused": Scenario(shelve, (boot, pause), ends="SHELVED", undone="PAUSED"),
    "shelve-suspended": Scenario(shelve, (boot, suspend), ends="SHELVED", undone="SUSPENDED"),
    "shelve-offload": Scenario(
        offload, (lambda: boot(flavor="disks"), stop), ends="SHELVED_OFFLOADED", undone="SHUTOFF"
    ),
    "offload": Scenario(offload, (boot, shelve), ends="SHELVED_OFFLOADED", undone="SHELVED"),
    "unshelve": Scenario(unshelve, (boot, shelve), ends="ACTIVE", undone="SHELVED"),
    "unshelve-offloaded": Scenario(
        unshelve, (lambda: boot(flavor="disks"), offload), ends="ACTIVE", undone="SHELVED_OFFLOADED"
    ),
    "unshelve-next-host": Scenario(
        unshelve, (boot, offload), faults=(Fault("start", "fails"),), undone="SHELVED_OFFLOADED"
    ),
    "delete-shelved": Scenario(delete, (boot, shelve), ends=None, undone="SHELVED"),
    "delete-restored": Scenario(
        delete,
        (lambda: boot(flavor="disks"), back_up, delete, lambda: Restoring(here=False)),
        ends=None,
        undone="ACTIVE",
    ),
    "delete-offloaded": Scenario(delete, (boot, offload), ends=None, undone="SHELVED_OFFLOADED", dies=0),
    "set-offloaded": Scenario(
        lambda: describe(tags=["new"]), (boot, offload), ends="SHELVED_OFFLOADED", dies=0
    ),
    "set-rescued": Scenario(lambda: describe(tags=["new"]), (boot, rescue), ends="RESCUE"),
    "migrate": Scenario(migrate, (boot,), ends="VERIFY_RESIZE", undone="ACTIVE"),
    "migrate-stopped": Scenario(migrate, (boot, stop), ends="VERIFY_RESIZE", undone="SHUTOFF"),
    "migrate-ephemeral": Scenario(
        migrate, (lambda: boot(flavor="disks"), stop), ends="VERIFY_RESIZE", undone="SHUTOFF"
    ),
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
    "migrate-shared-uefi": Scenario(
        migrate, (lambda: boot(image="uefi"),), share, ends="VERIFY_RESIZE", undone="ACTIVE"
    ),
    "resize-shared-fails": Scenario(
        lambda: resize(host="kvm2"),
        (lambda: boot(host="kvm1"),),
        share,
        faults=(Fault("start", "fails", host="kvm2", times=99),),
        ends="ACTIVE",
        undone="ACTIVE",
        fails=True,
    ),
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
    "heal-disks": Scenario(heal, (boot,), keep_aside, undone="ACTIVE", heals=True),
    "heal-moved": Scenario(heal, (boot,), carry_away, undone="ACTIVE", heals=True),
    "evacuate": Scenario(evacuate, (boot,), lose_host, undone="ACTIVE"),
    "evacuate-stopped": Scenario(evacuate, (boot, stop), lose_host, ends="SHUTOFF", undone="SHUTOFF"),
    "evacuate-shared": Scenario(evacuate, (boot,), lose_sharing_host, undone="ACTIVE"),
    "keep": Scenario(keep, (boot,), double, undone="ACTIVE", dies=3, heals=True, healer=keep),
    "keep-other": Scenario(
        keep_other, (boot,), double, undone="ACTIVE", dies=3, heals=True, healer=keep_other
    ),
    "heal-host": Scenario(heal, (boot,), leave_work, undone="ACTIVE", heals=True),
    "push": Scenario(push, (lambda: boot(host="kvm1"),), undone="ACTIVE", dies=3),
    "push-from-the-store": Scenario(lambda: push("direct"), (lambda: boot(host="kvm1"),), undone="ACTIVE"),
    "push-from-a-shared-store": Scenario(
        lambda: push(before=(str(SHARED), "kvm3")),
        (lambda: boot(host="kvm1"),),
        _and(share_images, fill, another_operator),
        undone="ACTIVE",
        dies=3,
    ),
    "share": Scenario(share_image, (lambda: boot(host="kvm1"),), share_images, undone="ACTIVE"),
    "unshare": Scenario(
        unshare, (lambda: boot(host="kvm1"),), _and(share_images, fill), undone="ACTIVE", dies=3
    ),
    "boot-from-another-host": Scenario(
        lambda: boot(host="kvm1"), (lambda: push(before=()),), another_operator
    ),
    "boot-from-a-shared-store": Scenario(
        boot, prepare=_and(share_images, fill, another_operator), faults=(Fault("start", "fails"),)
    ),
    "boot-later-from-another-host": Scenario(
        lambda: boot(count=AT_ONCE + 1), (lambda: push(before=()),), another_operator
    ),
    "start-from-nowhere": Scenario(start, (boot, stop), another_operator, undone="SHUTOFF"),
    "migrate-from-another-host": Scenario(
        migrate, (boot,), another_operator, ends="VERIFY_RESIZE", undone="ACTIVE"
    ),
    "live-migrate-from-another-host": Scenario(live_migrate, (boot,), another_operator, undone="ACTIVE"),
    "push-the-first": Scenario(
        lambda: push("large", ()), (lambda: boot(host="kvm1"),), undone="ACTIVE", dies=3
    ),
    "snapshot": Scenario(
        lambda: snapshot(quiesce=True), (lambda: boot(flavor="disks"),), with_agents, undone="ACTIVE"
    ),
    "snapshot-falls-back": Scenario(snapshot, (boot,), _no_copies, undone="ACTIVE"),
    "snapshot-fails": Scenario(
        lambda: snapshot(quiesce=True), (boot,), _and(with_agents, _no_copies), undone="ACTIVE", fails=True
    ),
    "snapshot-cold": Scenario(lambda: snapshot(how="cold"), (boot,), undone="ACTIVE"),
    "snapshot-power-off": Scenario(lambda: snapshot(how="power-off"), (boot,), undone="ACTIVE"),
    "snapshot-stopped": Scenario(
        lambda: snapshot(disk_format="raw"), (boot, stop), ends="SHUTOFF", undone="SHUTOFF"
    ),
    "snapshot-suspended": Scenario(snapshot, (boot, suspend), ends="SUSPENDED", undone="SUSPENDED"),
    "snapshot-paused": Scenario(snapshot, (boot, pause), ends="PAUSED", undone="PAUSED"),
    "backup": Scenario(
        lambda: back_up(quiesce=True), (lambda: boot(flavor="disks"),), with_agents, undone="ACTIVE"
    ),
    "backup-incremental": Scenario(lambda: back_up("second"), (boot, back_up), undone="ACTIVE"),
    "backup-not-incremental": Scenario(
        lambda: back_up("second", incremental=True), (boot, back_up), no_bitmaps, undone="ACTIVE", fails=True
    ),
    "backup-falls-back": Scenario(lambda: back_up("second"), (boot, back_up), no_bitmaps, undone="ACTIVE"),
    "backup-rotates": Scenario(
        lambda: back_up("second", rotation=1), (boot, lambda: back_up(rotation=1)), undone="ACTIVE"
    ),
    "backup-stopped": Scenario(back_up, (boot, stop), ends="SHUTOFF", undone="SHUTOFF"),
    "backup-deleted": Scenario(
        forget_notes, (boot, back_up), delete_backup, undone="ACTIVE", heals=True, healer=forget_notes
    ),
    "backup-after-a-deleted": Scenario(
        lambda: back_up("second"),
        (boot, back_up),
        delete_backup,
        undone="ACTIVE",
        heals=True,
        healer=forget_notes,
    ),
    "backup-suspended": Scenario(back_up, (boot, suspend), ends="SUSPENDED", undone="SUSPENDED"),
    "restore": Scenario(
        lambda: Restoring(here=True),
        (lambda: boot(flavor="disks"), back_up, stop),
        ends="SHUTOFF",
        undone="SHUTOFF",
    ),
    "restore-as": Scenario(
        lambda: Restoring(here=False), (lambda: boot(flavor="disks"), back_up, delete), ends="ACTIVE"
    ),
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
