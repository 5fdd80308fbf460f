"""The composition root: opens database, hosts and store, and hands actions what they need."""

import contextlib
import hashlib
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from novactl import resources
from novactl.db.session import Database
from novactl.db.sqlite import SqliteDatabase
from novactl.engine.ports import Failpoints, Interrupt, NoFailpoints, Observer, RandomIds, SystemClock
from novactl.errors import DatabaseError, NovactlError, UsageError
from novactl.objects.host import Host
from novactl.settings import Settings


class Cloud:
    """Everything of one invocation, opened when first used."""

    def __init__(
        self,
        settings: Settings,
        *,
        tell: Callable[[str], None],
        observe: Observer | None = None,
        failpoints: Failpoints | None = None,
    ) -> None:
        self.settings = settings
        self.tell = tell
        self.interrupt = Interrupt()
        self._observe = observe or (lambda op, record, event, detail="": None)
        self._failpoints = failpoints or NoFailpoints()
        self._hypervisors: dict[str, Any] = {}
        self._known: tuple[dict[str, Host], Any] | None = None
        self._sockets: dict[str, socket.socket] = {}  # of hosts that have answered, until they are used
        self._aside: dict[str, Any] = {}
        self._newcomers: dict[str, Any] = {}
        self._mark = ""
        self._lock = threading.Lock()

    # --- database ---

    @cached_property
    def db(self) -> Database:
        """The database; the default one is created on first use, which is said once."""
        database = self.database()
        if isinstance(database, SqliteDatabase) and not database.path.exists():
            if self.settings.db is not None:
                raise DatabaseError(f"{database.path}: does not exist", hint="novactl db init creates it")
            database.create(str(uuid.uuid4()))
            self.tell(f"created {database.path}")
        return database

    def database(self) -> Database:
        """The database as the settings name it, there or not."""
        return self.settings.database()

    def init(self) -> tuple[Database, bool]:
        """`db init`: (the database, whether it was made now)."""
        database = self.database()
        if database.exists:
            return database, False
        database.create(str(uuid.uuid4()))
        return database, True

    # --- what actions get ---

    @cached_property
    def fleet(self) -> str:
        return self.db.fleet()

    @cached_property
    def world(self) -> Any:
        from novactl.actions.world import World

        return World(
            db=self.db,
            hypervisor=self.hypervisor,
            store=self.store,
            secrets=self.secrets,
            clock=SystemClock(),
            ids=RandomIds(),
            interrupt=self.interrupt,
            fleet=self.fleet,
            template=lambda name: resources.template(name, self.settings.config / "templates"),
            tell=self.tell,
            reached=self._reached,
            warm=self._warm,
            arrivals=self._arrivals,
            novactl=self.novactl,
            newcomer=self.newcomer,
            drive=self.drive,
        )

    @cached_property
    def novactl(self) -> Any:
        from novactl.subcommand import Novactl

        return Novactl(self.settings.command())

    @cached_property
    def store(self) -> Any:
        from novactl.images.store import LocalStore

        root = Path(os.environ.get("NOVACTL_IMAGES") or self.settings.config / "images")
        return LocalStore(root, lambda: self.fleet)

    @cached_property
    def secrets(self) -> Any:
        from novactl.db.secrets import Secrets

        return Secrets(self.settings.config / "secret.key")

    @cached_property
    def journal(self) -> Any:
        from novactl import owner
        from novactl.actions.steps import REGISTRY
        from novactl.db.journal import DbJournal

        return DbJournal(self.db, REGISTRY, SystemClock(), owner.this_process(), _lease())

    @cached_property
    def operator(self) -> Any:
        from novactl import owner
        from novactl.actions.operate import Operator

        return Operator(
            self.world, self.journal, failpoints=self._failpoints, observe=self._observe, alive=owner.alive
        )

    # --- hosts ---

    @cached_property
    def ssh(self) -> Any:
        from novactl.remote.ssh_config import SshDirectory

        directory = self.settings.config / "ssh"
        runtime = os.environ.get("XDG_RUNTIME_DIR") or ("/run" if os.getuid() == 0 else str(directory))
        ours = hashlib.sha256(str(directory).encode()).hexdigest()[
            :8
        ]  # no other fleet's connections are used
        return SshDirectory(directory, Path(runtime) / "novactl" / ours)

    def ssh_files(self) -> Any:
        """The generated files, in line with the inventory."""
        return self.ssh.write(self._inventory().values())

    def _inventory(self) -> dict[str, Host]:
        from novactl.db import hosts

        return self.db.read(lambda tx: {host.name: host for host in hosts.everything(tx)})

    def hypervisor(self, name: str) -> Any:
        """The named host, one connection for all of this process. Raises NotFound."""
        from novactl.db import hosts

        with self._lock:
            if name not in self._hypervisors:
                known, files = self._reachable(name)
                host = known.get(name) or self.db.read(lambda tx: hosts.get(tx, name))
                self._hypervisors[name] = self._connected(host, files)
            return self._hypervisors[name]

    def _reachable(self, name: str | None = None) -> tuple[dict[str, Host], Any]:
        """(the hosts, the ssh files written for them), read and written once, and again for one not there."""
        if self._known is None or (name is not None and name not in self._known[0]):
            known = self._inventory()
            self._known = known, self.ssh.write(known.values())
        return self._known

    def hypervisor_of(self, host: Host) -> Any:
        """A host that may not be in the database yet, or was just read from it."""
        with self._lock:
            if host.name not in self._hypervisors or host.name in self._aside:
                files = self._aside.get(host.name) or self.ssh_files()
                self._hypervisors[host.name] = self._connected(host, files)
            return self._hypervisors[host.name]

    def newcomer(self, place: Mapping[str, Any]) -> Any:
        """A machine that is no host of the fleet yet, by files of this process alone."""
        known = {**place, "host_keys": tuple(place["host_keys"])}
        identity = known.pop("identity")
        host = Host(id="", virt_type="qemu", vcpus=0, memory_mib=0, disk_gib=0, **known)
        if host.name not in self._newcomers:
            self.enlist(host, Path(identity) if identity else None)
            self._newcomers[host.name] = self._connected(host, self._aside[host.name])
        return self._newcomers[host.name]

    def _connected(self, host: Host, files: Any) -> Any:
        from novactl.remote.connection import connect
        from novactl.remote.shell import HostShell
        from novactl.virt.hypervisor import Hypervisor

        def connected() -> Any:
            return connect(host.name, files, self._sockets.pop(host.name, None))

        shell = HostShell(host.name, connected, sudo=host.user != "root")
        hypervisor = Hypervisor(shell, self.fleet, host.instances_path)
        hypervisor.mark = self._mark
        return hypervisor

    def _reached(self, mark: str) -> None:
        """All hosts are told the newest operation's mark from now on."""
        with self._lock:
            self._mark = max(self._mark, mark)
            for hypervisor in self._hypervisors.values():
                hypervisor.mark = self._mark

    def _warm(self, name: str) -> None:
        with contextlib.suppress(NovactlError):
            self.hypervisor(name).shell.warm()

    def _arrivals(self, names: Sequence[str]) -> Iterator[tuple[str, NovactlError | None]]:
        """Those reached through another host, or by a name, are connected to when it is their turn."""
        from novactl.remote.connection import unreachable
        from novactl.remote.knock import is_numeric, knock

        known, _ = self._reachable()
        places = {name: known[name] for name in names if name in known}
        direct = {
            name: (host.address, host.port)
            for name, host in places.items()
            if host.jump is None and is_numeric(host.address)
        }
        for name in names:
            if name not in direct:
                yield name, None
        for name, answer in knock(direct):
            if isinstance(answer, OSError):
                yield name, unreachable(name, answer)
            else:
                self._sockets[name] = answer
                yield name, None

    # --- actions.hosts.Reach ---

    def scan(self, address: str, port: int, jump: str | None) -> tuple[str, bytes]:
        """The host key shown at an address, seen through the jump host if there is one."""
        from novactl.remote.connection import connect, scan_host_key

        via = connect(jump, self.ssh_files()) if jump else None
        try:
            return scan_host_key(address, port, via)
        finally:
            if via is not None:
                via.close()

    def enlist(self, host: Host, identity: Path | None) -> None:
        """Make a host reachable for this process alone, under files of its own."""
        known = {**self._inventory(), host.name: host}
        self._aside[host.name] = self.ssh.write_aside(
            known.values(), host.name, identity.absolute() if identity else None
        )

    def delist(self, host: str) -> None:
        """The files of enlist() are gone."""
        self._aside.pop(host, None)
        self.ssh.remove_aside(host)
        if (hypervisor := self._hypervisors.pop(host, None)) is not None:
            hypervisor.shell.close()

    def set_identity(self, host: str, identity: Path | None) -> None:
        """Remember which private key opens the host, or forget it."""
        self._known = None
        self.ssh.set_identity(host, identity.absolute() if identity else None)

    def libvirt_facts(self, host: str, virt_type: str) -> Any:
        from novactl.remote.connection import libvirt_uri
        from novactl.virt.connection import facts

        return facts(host, libvirt_uri(host, self._aside.get(host) or self.ssh_files()), virt_type)

    def drive(self, hosts: tuple[str, ...], move: Any, **calls: Any) -> None:
        """actions.world.Driver."""
        from novactl.remote.connection import libvirt_uri
        from novactl.virt.drive import drive

        source, target = ((host, libvirt_uri(host, self.ssh_files())) for host in hosts)
        drive((source, target), move, **calls)

    def close(self) -> None:
        for name, newcomer in self._newcomers.items():
            newcomer.shell.close()
            self.delist(name)
        for hypervisor in self._hypervisors.values():
            hypervisor.shell.close()
        for sock in self._sockets.values():
            sock.close()
        if "db" in self.__dict__:
            self.db.close()


def _lease() -> float:
    """$NOVACTL_LEASE: seconds after which an operation may be taken over whose owner is not heard of."""
    text = os.environ.get("NOVACTL_LEASE", "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 1 <= seconds <= 86400:
        raise UsageError(f"$NOVACTL_LEASE {text!r} is not a number of seconds from 1 to 86400")
    return seconds
