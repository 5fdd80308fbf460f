"""Steps on an instance's directory on a host."""

from dataclasses import dataclass
from typing import Any, ClassVar

from novactl.actions import restored
from novactl.actions.steps.registry import REGISTRY
from novactl.db import secrets
from novactl.db.session import dumps
from novactl.engine.step import Kind, Step
from novactl.errors import HostFault
from novactl.objects.image import MARGIN
from novactl.virt.files import disk_info

SEALED = "user-data.sealed"  # {id, owner, sealed}: a row of the secrets
DRIVE = ("disk.config", "disk.info", SEALED)  # what WriteConfigDrive writes


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class CheckHost(Step):
    """The host was looked at live: it has the bridges, the room and nothing of this instance."""

    type: ClassVar[str] = "check-host"
    uuid: str
    bridges: list[str]
    memory_mib: int
    fetch_bytes: int
    base: str

    def summary(self) -> str:
        return f"{self.host} was looked at and can take the instance"

    def do(self, ctx: Any) -> dict[str, Any]:
        host = ctx.world.hypervisor(self.host)
        seen = host.look(self.uuid, self.bridges)
        restored.check_mark(ctx.world, str(self.host), seen.mark)
        if seen.missing_bridges:
            raise HostFault(f"{self.host}: has no bridge {', '.join(seen.missing_bridges)}")
        if seen.domain:
            raise HostFault(f"{self.host}: a domain with this instance's uuid is there already")
        if seen.memory_available_mib < self.memory_mib:
            raise HostFault(
                f"{self.host}: {seen.memory_available_mib} MiB of memory available, {self.memory_mib} wanted"
            )
        cached, _ = host.base_state(self.base)
        needed = MARGIN + (0 if cached else self.fetch_bytes)
        if seen.disk_free < needed:
            raise HostFault(
                f"{self.host}: {seen.disk_free >> 20} MiB free on {host.instances_path},"
                f" {needed >> 20} needed",
                hint="free some space there, or choose another host",
            )
        return {
            "cached": cached,
            "disk_free": seen.disk_free,
            "memory_available_mib": seen.memory_available_mib,
        }

    def undo(self, ctx: Any) -> None:
        """Nothing: it only looked."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class MakeDirectory(Step):
    """The instance's directory exists, marked with the operation that made it."""

    type: ClassVar[str] = "make-directory"
    uuid: str

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).make_directory(self.uuid, ctx.epoch, ctx.operation_id)

    def undo(self, ctx: Any) -> None:
        """Gone with all in it, if this operation made it."""
        ctx.world.hypervisor(self.host).unmake_directory(self.uuid, ctx.epoch, ctx.operation_id)


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class CreateDisk(Step):
    """A qcow2 overlay over a RAW base file; one that is there stays as it is."""

    type: ClassVar[str] = "create-disk"
    uuid: str
    file: str
    base: str
    size_bytes: int

    def summary(self) -> str:
        return f"{self.file} is a qcow2 overlay of {self.size_bytes >> 20} MiB"

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).overlay(self.uuid, ctx.epoch, self.file, self.base, self.size_bytes)

    def undo(self, ctx: Any) -> None:
        """Nothing by itself: it goes with the directory, whose step knows whether we made it."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class WriteConfigDrive(Step):
    """disk.config (config-2) holds the instance's metadata, and disk.info every disk's format."""

    type: ClassVar[str] = "write-config-drive"
    version: ClassVar[int] = 2
    uuid: str
    metadata: dict[str, Any]
    user_data: str | None
    disks: list[list[str]]

    def do(self, ctx: Any) -> None:
        from novactl.virt import config_drive

        host = ctx.world.hypervisor(self.host)
        content = None
        if self.user_data is not None:
            self._keep_sealed(ctx, host, self.user_data)
            content = ctx.world.db.read(lambda tx: ctx.world.secrets.open(tx, self.user_data))
        nics = tuple(
            config_drive.Nic(**{**nic, "dns": tuple(nic["dns"])}) for nic in self.metadata.get("nics", [])
        )
        drive = config_drive.build(
            config_drive.Metadata(**{**self.metadata, "nics": nics}, user_data=content, random_seed=None)
        )
        host.put(self.uuid, ctx.epoch, "disk.config", "0400", drive)
        pairs = [(file, format_) for file, format_ in self.disks]
        host.put(self.uuid, ctx.epoch, "disk.info", "0600", disk_info(host.directory(self.uuid), pairs))

    def _keep_sealed(self, ctx: Any, host: Any, reference: str) -> None:
        """The second copy of the secret, for a database that is lost; the key is not there."""
        row = ctx.world.db.read(lambda tx: secrets.sealed(tx, reference))
        host.put(self.uuid, ctx.epoch, SEALED, "0600", (dumps(row) + "\n").encode())

    def undo(self, ctx: Any) -> None:
        """Nothing by itself: it goes with the directory, or what was there before is kept aside (DRIVE)."""


@REGISTRY.add
@dataclass(frozen=True, kw_only=True)
class RemoveFiles(Step):
    """Nothing of the instance is left on the host's disks."""

    type: ClassVar[str] = "remove-files"
    kind: ClassVar[Kind] = Kind.RETRIABLE
    uuid: str

    def do(self, ctx: Any) -> None:
        ctx.world.hypervisor(self.host).remove_directory(self.uuid, ctx.epoch)
