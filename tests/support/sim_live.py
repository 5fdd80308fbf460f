"""Live migration from one simulated host to another (remote/live.sh)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from typing import Any, Literal, Protocol
from xml.etree.ElementTree import fromstring

from novactl.objects.states import PowerState
from novactl.virt.domain import NAMESPACE
from novactl.virt.live import DiskSize, Drive, LiveFacts, Whereabouts
from tests.support.clock import SimClock

LIVE_TAKES = 6.0  # seconds that a live migration takes


class Ends(StrEnum):
    """How a host's next live migrations end. Only the first goes well by itself."""

    ARRIVES = "arrives"
    FAILS = "fails"  # nothing is there, the guest runs on here
    FINISH_LOST = "finish-lost"  # it runs on here, and stands still there
    NOT_RESUMED = "not-resumed"  # it is gone here, and stands still there
    LEFT_OFF = "left-off"  # the same, and what is left here was not undefined
    NOT_TOLD = "not-told"  # it runs there, and nobody says so


class Host(Protocol):
    """What is needed of sim.SimHost."""

    name: str
    peers: Any
    domains: dict[str, Any]
    directories: dict[str, Any]
    leads_to: dict[str, str]
    sockets: set[str]
    probes: set[str]
    live_ends: Ends


def operation_in(xml: str) -> str:
    mark = fromstring(xml).find(f"metadata/{{{NAMESPACE}}}instance")
    return "" if mark is None else mark.get("operation", "")


def depart(host: Host, uuid: str, op: str) -> None:
    """A migration begins: the target has a guest that waits for its memory."""
    domain, target = host.domains.get(uuid), host.peers().get(host.leads_to.get(op, ""))
    if domain is None or target is None or not target.up or op not in target.sockets:
        return
    if domain.state in (PowerState.RUNNING, PowerState.PAUSED) and uuid not in target.domains:
        domain.moving = op
        xml = host.directories[uuid].files["migrate-persistent.xml"].decode()
        there = type(domain)(
            xml, operation_in(xml), PowerState.PAUSED, arriving=True, moving=op, has=domain.has
        )
        target.domains[uuid] = there


def stop_moving(host: Host, uuid: str) -> None:
    """It comes to nothing: the target's guest goes, this one stays as it is."""
    domain = host.domains.get(uuid)
    if domain is None or domain.moving is None:
        return
    target = host.peers().get(host.leads_to.get(domain.moving, ""))
    domain.moving = None
    if target is not None and uuid in target.domains and target.domains[uuid].moving:
        del target.domains[uuid]


def arrive(host: Host, uuid: str, op: str, was: str) -> tuple[int, str]:
    """What the job nv_live does at its end: (exit status, log)."""
    domain, target = host.domains.get(uuid), host.peers().get(host.leads_to.get(op, ""))
    there = None if target is None else target.domains.get(uuid)
    if domain is not None and domain.state not in (PowerState.SHUTDOWN, PowerState.CRASHED):
        if domain.moving is None or there is None or host.live_ends is Ends.FAILS:
            stop_moving(host, uuid)
            return 1, "the guest stays here: error: no connection to the target"
        domain.moving = there.moving = None
        if host.live_ends is Ends.FINISH_LOST:
            return 1, "the guest stays here: error: End of file while reading data"
        if host.live_ends is Ends.LEFT_OFF:
            domain.state = PowerState.SHUTDOWN
        else:
            del host.domains[uuid]
        there.arriving = False
    if there is None:
        return 1, "the target does not say how its guest is"
    if host.live_ends in (Ends.NOT_RESUMED, Ends.LEFT_OFF):
        return 1, "its guest does not go on on the target"
    if was == "running":
        there.state = PowerState.RUNNING
    if host.live_ends is Ends.NOT_TOLD:
        return 1, "the target does not say how its guest is"
    for file in ("migrate.xml", "migrate-persistent.xml"):
        host.directories[uuid].files.pop(file, None)
    return 0, ""


def forget(host: Host, op: str, target: Host) -> None:
    """Nothing leads from one to the other any more."""
    host.leads_to.pop(op, None)
    target.sockets.discard(op)


class SimLive:
    """Calls of virt.live."""

    host: Any
    name: str
    instances_path: str
    clock: SimClock

    def _call(self, call: str) -> AbstractContextManager[None]:
        raise NotImplementedError

    def _fenced(self, call: str, uuid: str, epoch: int) -> AbstractContextManager[None]:
        raise NotImplementedError

    def _ours(self) -> None:
        raise NotImplementedError

    def _half(self, call: str) -> None:
        raise NotImplementedError

    def _die(self, status: int, message: str) -> None:
        raise NotImplementedError

    def directory(self, uuid: str) -> str:
        raise NotImplementedError

    @contextmanager
    def _asked(self, call: str) -> Iterator[None]:
        with self._call(call):
            self._ours()
            yield

    # --- what preflight asks ---

    def live_facts(self, virt_type: str, machine: str) -> LiveFacts:
        with self._asked("live_facts"):
            return LiveFacts("9.0.0", self.host.qemu, machine="q35" in machine)

    def migratable_xml(self, uuid: str) -> str:
        with self._asked("migratable_xml"):
            if uuid not in self.host.domains:
                self._die(1, f"failed to get domain '{uuid}'")
            return str(self.host.domains[uuid].xml)

    def compare_cpu(self, virt_type: str, machine: str, cpu: str) -> str:
        with self._asked("compare_cpu"):
            return str(self.host.cpu_differs)

    def layers(self, uuid: str, files: Sequence[str]) -> list[DiskSize]:
        with self._asked("layers"):
            there = [self.host.directories[uuid].files[file] for file in files]
            return [DiskSize(size, 1 << 16, f"../_base/{base}") for base, size in there]

    def instance_file(self, uuid: str, file: str) -> bytes:
        with self._asked("instance_file"):
            return bytes(self.host.directories[uuid].files.get(file, b""))

    def probe(self, name: str, act: Literal["write", "look", "remove"]) -> bool:
        with self._asked(f"probe_{act}"):
            if act == "write":
                self.host.probes.add(name)
            elif act == "remove":
                self.host.probes.discard(name)
            return act == "look" and name in self.host.probes

    # --- the guest on either side ---

    def listen(self, op: str) -> str:
        with self._asked("listen"):
            self.host.sockets.add(op)
            return "/run/libvirt/libvirt-sock"

    def unlisten(self, op: str) -> None:
        with self._asked("unlisten"):
            self.host.sockets.discard(op)

    def whereabouts(self, uuid: str, epoch: int) -> Whereabouts:
        with self._fenced("whereabouts", uuid, epoch):
            domain = self.host.domains.get(uuid)
            if domain is None:
                return Whereabouts("none")
            words = {PowerState.SHUTDOWN: "shut off", PowerState.CRASHED: "crashed"}
            state = words.get(domain.state, str(domain.state))
            return Whereabouts(state, domain.reason, domain.moving is not None)

    def end_migration(self, uuid: str, epoch: int) -> None:
        with self._fenced("end_migration", uuid, epoch):
            self._half("end_migration")
            domain = self.host.domains.get(uuid)
            if domain is not None and domain.arriving:
                for peer in self.host.peers().values():
                    if peer is not self.host:
                        stop_moving(peer, uuid)
            stop_moving(self.host, uuid)

    def drop_arrival(self, uuid: str, epoch: int, op: str) -> None:
        with self._fenced("drop_arrival", uuid, epoch):
            domain = self.host.domains.get(uuid)
            if domain is None:
                return
            if domain.operation != op:
                self._die(76, f"the guest here was not brought by {op}")
            self._half("drop_arrival")
            del self.host.domains[uuid]

    def forget_move(self, uuid: str, epoch: int) -> None:
        with self._fenced("forget_move", uuid, epoch):
            self._half("forget_move")
            for file in ("migrate.xml", "migrate-persistent.xml"):
                self.host.files_of(uuid).pop(file, None)

    def leave_source(self, uuid: str, epoch: int, *, shared: bool) -> None:
        with self._fenced("leave_source", uuid, epoch):
            domain = self.host.domains.get(uuid)
            if domain is not None and domain.state in (PowerState.RUNNING, PowerState.PAUSED):
                self._die(1, f"its guest is {domain.state} here")
            self._undefine(uuid, "leave_source")
            if not shared:
                self._remove(uuid, "leave_source")

    def _undefine(self, uuid: str, call: str) -> None:
        raise NotImplementedError

    def _remove(self, uuid: str, call: str) -> None:
        raise NotImplementedError

    def drive(self, target: Host, move: Drive, begin: Callable[[], None]) -> None:
        """virt.drive.drive() from this host. When the process dies, libvirt ends what it drove."""
        with self._asked("drive"):
            op = operation_in(move.persistent)
            begin()
            self.host.leads_to[op] = target.name
            target.sockets.add(op)
            try:
                depart(self.host, move.uuid, op)
                self._half("drive")
                self.clock.sleep(LIVE_TAKES)
                rc, said = arrive(self.host, move.uuid, op, "paused")
            except BaseException:
                stop_moving(self.host, move.uuid)
                raise
            finally:
                forget(self.host, op, target)
            if rc:
                self._die(rc, said)

    def live_words(
        self,
        uuid: str,
        epoch: int,
        op: str,
        socket: str,
        *,
        paused: bool,
        downtime_ms: int,
        how: Sequence[str],
    ) -> list[str]:
        was = "paused" if paused else "running"
        words = [self.directory(uuid), uuid, op, socket, was, str(downtime_ms), *how]
        return ["nv_fenced", uuid, str(epoch), "nv_live", *words]
