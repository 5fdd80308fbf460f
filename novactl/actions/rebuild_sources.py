"""The hosts that a database is made again from: found, reached with pinned keys, and looked at. Nothing on
them is changed."""

import concurrent.futures
import contextlib
import json
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

from novactl.actions.hosts import HostRequest, check_request, pinned_keys
from novactl.actions.steps.files import SEALED
from novactl.actions.world import Hypervisor
from novactl.db import adopted_catalogue, hosts, second_copy
from novactl.db.session import Database, Tx
from novactl.errors import HostFault, HostUnreachable, NovactlError, Refused, UsageError
from novactl.objects import names
from novactl.objects.host import Host
from novactl.objects.survey import Survey

PARALLEL = 16
ADDRESS = re.compile(
    r"\[(?P<six>[^]]+)\](?::(?P<port6>[0-9]{1,5}))?|(?P<bare>[^:]+)(?::(?P<port>[0-9]{1,5}))?|(?P<colons>.+:.+:.*)"
)
"""[IPV6], [IPV6]:PORT, ADDRESS, ADDRESS:PORT or IPV6."""

Copy = dict[str, Any]


class Reach(Protocol):
    """How hosts are reached that no database knows."""

    def scan(self, address: str, port: int, jump: str | None) -> tuple[str, bytes]:
        """As actions.hosts.Reach."""
        ...

    def hypervisor(self, host: Host, known: Iterable[Host]) -> Hypervisor:
        """The host, reached with its pinned keys and through its jump host, which is one of `known`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Place:
    """What --from names: a host that is known, or where one answers."""

    word: str
    address: str
    port: int = 22
    user: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """One host as it was found. `version` and `copy` are of its catalogue copy (0 and None: it has none that
    can be used), `sealed` the user-data of instances by uuid."""

    host: Host
    survey: Survey
    version: int = 0
    copy: Copy | None = None
    sealed: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Pinning:
    """How the key of a host is pinned that nothing knows yet; as `host add`."""

    fingerprint: str | None = None
    accept_host_key: bool = False
    confirm: Callable[[str], bool] = lambda _: False


def place(word: str) -> Place:
    """NAME or [USER@]ADDRESS[:PORT], an IPv6 address in brackets when a port follows. Raises UsageError."""
    user, sign, rest = word.rpartition("@")
    match = ADDRESS.fullmatch(rest)
    if not match or (sign and not user):
        raise UsageError(f"--from {word!r} is not acceptable", hint="NAME or [USER@]ADDRESS[:PORT]")
    address = match["six"] or match["bare"] or match["colons"]
    port = int(match["port6"] or match["port"] or 22)
    found = Place(word=word, address=address, port=port, user=user or None)
    check_request(_request(found, Pinning()))
    return found


def _request(wanted: Place, pinning: Pinning) -> HostRequest:
    return HostRequest(
        name="new",
        address=wanted.address,
        port=wanted.port,
        user=wanted.user or "root",
        fingerprint=pinning.fingerprint,
        accept_host_key=pinning.accept_host_key,
    )


class Finder:
    """Goes from what is known to what the copies of the catalogue tell, until every --from was looked at.

    `scratch` is an empty database: a copy is checked by being put there, and taken back."""

    def __init__(
        self,
        reach: Reach,
        scratch: Database,
        inventory: Sequence[Host],
        pinning: Pinning,
        tell: Callable[[str], None],
    ) -> None:
        self._reach = reach
        self._scratch = scratch
        self._inventory = {host.name: host for host in inventory}
        self._pinning = pinning
        self._tell = tell
        self._copies: dict[int, dict[str, Host]] = {}
        self._met: list[Host] = []
        self._sources: dict[str, Source] = {}

    def find(self, words: Sequence[str]) -> list[Source]:
        """A source for each of them, no host twice. Raises UsageError, HostUnreachable for hosts that do not
        answer or show another key, NeedsConfirmation for a key that nobody pinned, Refused."""
        pending = list({word: place(word) for word in words}.values())
        while pending or self._met:
            known = {one.word: host for one in pending if (host := self._known(one))}
            introduced = [(met, host) for met in self._met if (host := self._identified(met))]
            if known or introduced:
                pending = [one for one in pending if one.word not in known]
                self._met = [met for met in self._met if all(met is not one for one, _ in introduced)]
                self._look_at([*known.values(), *(host for _, host in introduced)])
            elif pending:
                self._met.append(self._meet(pending.pop(0)))
            else:
                raise Refused(
                    f"{self._met[0].name}: is in no copy of the catalogue that was found",
                    hint="give another host of the fleet too: its copy may be newer",
                )
        return [self._sources[name] for name in sorted(self._sources)]

    # --- who is meant ---

    def _hosts(self) -> dict[str, Host]:
        """Every host that is known by now: the database's word first, then the newest copy's."""
        found: dict[str, Host] = {}
        for version in sorted(self._copies):
            found |= self._copies[version]
        return found | self._inventory

    def _known(self, wanted: Place) -> Host | None:
        every = self._hosts()
        if wanted.word in every:
            return every[wanted.word]
        at = [host for host in every.values() if (host.address, host.port) == (wanted.address, wanted.port)]
        return replace(at[0], user=wanted.user or at[0].user) if at else None

    def _meet(self, wanted: Place) -> Host:
        """A host that nothing is known of: its key is pinned, and its copy of the catalogue read."""
        request = replace(_request(wanted, self._pinning), name=wanted.address)
        keys = pinned_keys(self._reach, request, None, self._pinning.confirm)
        met = Host(
            id="",
            name=wanted.address,
            address=wanted.address,
            port=wanted.port,
            user=request.user,
            host_keys=keys,
            instances_path=names.INSTANCES_PATH,
            virt_type="qemu",
            vcpus=0,
            memory_mib=0,
            disk_gib=0,
        )
        self._copy_of(met.name, self._reach.hypervisor(met, self._hosts().values()))
        return met

    def _identified(self, met: Host) -> Host | None:
        """The host of the inventory that this one is, as it was reached: by its address, else its name, else
        its key. Raises HostUnreachable when that one has another key."""
        every = self._hosts().values()
        (key,) = met.host_keys
        by_key = [host for host in every if key in host.host_keys]
        by_place = [host for host in every if (host.address, host.port) == (met.address, met.port)]
        by_name = [host for host in every if host.name == met.name]
        found = by_place or by_name or (by_key if len(by_key) == 1 else [])
        if not found:
            return None
        host = found[0]
        if key not in host.host_keys:
            raise HostUnreachable(
                f"{met.name}: shows another host key than the one that the catalogue has of {host.name}",
                hint="somebody may be in between, or it was reinstalled and holds nothing any more",
            )
        return replace(host, address=met.address, port=met.port, user=met.user, jump=None)

    # --- looking ---

    def _look_at(self, wanted: Iterable[Host]) -> None:
        """All of them at once."""
        todo = {host.name: host for host in wanted if host.name not in self._sources}
        known = list(self._hosts().values())
        with concurrent.futures.ThreadPoolExecutor(max_workers=PARALLEL) as pool:
            looks = [pool.submit(self._look, host, known) for host in todo.values()]
        errors = [error for look in looks if isinstance(error := look.exception(), NovactlError)]
        if len(errors) > 1:
            raise type(errors[0])("; ".join(error.message for error in errors), hint=errors[0].hint)
        self._sources |= {source.host.name: source for source in (look.result() for look in looks)}

    def _look(self, host: Host, known: Iterable[Host]) -> Source:
        hypervisor = self._reach.hypervisor(host, known)
        survey = hypervisor.survey()
        if survey.fleet is None:
            raise Refused(f"{host.name}: has no mark of a fleet", hint="it is nobody's, or its mark was lost")
        if not names.UUID.fullmatch(survey.fleet):
            raise Refused(f"{host.name}: its mark of a fleet makes no sense: {survey.fleet!r}")
        version, copy = self._copy_of(host.name, hypervisor)
        if copy is not None and copy.get("fleet") != survey.fleet:
            raise Refused(f"{host.name}: is of fleet {survey.fleet}, its catalogue of {copy.get('fleet')}")
        there = {one.entry for one in survey.directories if SEALED in one.files}
        ours = {one.uuid for one in survey.domains if one.fleet == survey.fleet and one.uuid in there}
        sealed = {uuid: hypervisor.sealed(uuid) for uuid in sorted(ours)}
        return Source(
            host=host,
            survey=survey,
            version=version,
            copy=copy,
            sealed={uuid: content for uuid, content in sealed.items() if content},
        )

    def _copy_of(self, name: str, hypervisor: Hypervisor) -> tuple[int, Copy | None]:
        """The host's copy of the catalogue; one that makes no sense is told, and is none."""
        try:
            version, content = hypervisor.get_copy()
            if not content:
                return 0, None
            copy = second_copy.parse(content)
            self._copies[version] = self._scratch.rehearse(lambda tx: _inventory(tx, copy))
        except (HostFault, Refused, ValueError) as error:
            why = error.message if isinstance(error, NovactlError) else str(error)
            self._tell(f"{name}: its copy of the catalogue is not used: {why}")
            return 0, None
        return version, copy


def _inventory(tx: Tx, copy: Mapping[str, Any]) -> dict[str, Host]:
    """The hosts of a copy. Raises Refused when it makes no sense."""
    adopted_catalogue.restore_catalogue(tx, copy)
    return {host.name: host for host in hosts.everything(tx)}


def sealed_row(content: bytes) -> dict[str, Any] | None:
    """What a user-data.sealed says; None when it makes no sense."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(content)
        return found if isinstance(found, dict) else None
    return None


class SshReach:
    """Reach by ssh, with generated files of its own that are gone afterwards: the database that the usual
    ones are written from is not there."""

    def __init__(self, identities: Mapping[str, str], identity: Path | None) -> None:
        """`identities` are known private keys by host; `identity` opens all others. Raises UsageError."""
        from novactl.remote.ssh_config import SshDirectory

        if identity is not None and not identity.is_file():
            raise UsageError(f"identity {identity} is not a file")
        self._directory = tempfile.TemporaryDirectory(prefix="novactl-rebuild-")
        place = Path(self._directory.name)
        self._ssh = SshDirectory(place / "ssh", place / "control")
        self._identities = dict(identities)
        self._identity = identity
        self._hosts: dict[str, Host] = {}
        self._shells: list[Any] = []
        self._lock = threading.Lock()

    def scan(self, address: str, port: int, jump: str | None) -> tuple[str, bytes]:
        from novactl.remote.connection import scan_host_key

        return scan_host_key(address, port)

    def hypervisor(self, host: Host, known: Iterable[Host]) -> Hypervisor:
        from novactl.remote.connection import connect
        from novactl.remote.shell import HostShell
        from novactl.virt.hypervisor import Hypervisor as RealHypervisor

        with self._lock:
            met = {name: one for name, one in self._hosts.items() if one.id}
            files = self._files({**{one.name: one for one in known}, **met, host.name: host})
            shell = HostShell(host.name, lambda: connect(host.name, files), sudo=host.user != "root")
            self._shells.append(shell)
        made: Any = RealHypervisor(shell, "", host.instances_path)
        return cast(Hypervisor, made)

    def _files(self, wanted: dict[str, Host]) -> Any:
        if wanted != self._hosts:
            for name in wanted.keys() - self._hosts.keys():
                path = self._identities.get(name) or self._identity
                self._ssh.set_identity(name, Path(path).absolute() if path else None)
            self._hosts = wanted
            self._ssh.write(wanted.values())
        return self._ssh.files

    def __enter__(self) -> "SshReach":
        return self

    def __exit__(self, *_: object) -> None:
        for shell in self._shells:
            shell.close()
        self._directory.cleanup()


def newest_epochs(sources: Iterable[Source]) -> dict[str, int]:
    """Of each instance that a host has seen, by uuid."""
    seen: dict[str, int] = {}
    for source in sources:
        for uuid, epoch in source.survey.epochs.items():
            seen[uuid] = max(epoch, seen.get(uuid, 0))
    return seen


def needed(copy: Copy, sources: Iterable[Source]) -> Copy:
    """The part of a copy that the hosts and their instances cannot be without."""
    named = {source.host.name for source in sources}
    records = [domain.record or {} for source in sources for domain in source.survey.domains]
    told = [port for record in records for port in record.get("ports") or () if isinstance(port, dict)]
    networks = {str(port.get("network")) for port in told}
    tables = copy["tables"]
    return {
        "tables": {
            "hosts": [row for row in tables.get("hosts", ()) if row.get("name") in named],
            "networks": [row for row in tables.get("networks", ()) if row.get("name") in networks],
        }
    }
