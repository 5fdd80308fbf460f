"""An instance: the record everything else is about."""

from dataclasses import dataclass, field
from typing import Any

from novactl.objects.extra_specs import numa_request
from novactl.objects.flavor import Flavor
from novactl.objects.host import Resources
from novactl.objects.image import Image
from novactl.objects.network import Port
from novactl.objects.placement import Placement
from novactl.objects.states import PowerState, TaskState, VmState, status

DESCRIPTION_LIMIT = 128
"""Metadata items, and tags, of one instance."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """An instance keeps its own copy of flavor and images, so deleting those never breaks it. `numa`: where
    its nodes are on its host (objects.numa.Fit.as_dict), as its hold says; None when it asks for none.
    `rescue_image`: what it boots instead of its own disk, `shelved_image`: what is kept of that."""

    uuid: str
    name: str
    project: str
    vm_state: VmState
    task_state: TaskState | None = None
    power_state: PowerState = PowerState.NOSTATE
    host: str | None = None
    flavor: Flavor
    image: Image | None
    rescue_image: Image | None = None
    shelved_image: Image | None = None
    ports: tuple[Port, ...] = ()
    key_name: str | None = None
    public_key: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    user_data: str | None = None
    launch_index: int = 0
    group_id: str | None = None
    placement: Placement = field(default_factory=Placement)
    numa: dict[str, Any] | None = None
    created_at: str = ""
    launched_at: str | None = None
    deleted_at: str | None = None
    locked: bool = False
    fault: dict[str, Any] | None = None
    epoch: int = 0
    version: int = 0

    @property
    def status(self) -> str:
        return status(self.vm_state, self.task_state)

    @property
    def images(self) -> list[Image]:
        """All whose files it needs."""
        return [one for one in (self.image, self.rescue_image, self.shelved_image) if one is not None]

    @property
    def boot_image(self) -> Image | None:
        """What its guest boots from: devices and kernel are as this one asks."""
        return self.rescue_image or self.image

    @property
    def root_gib(self) -> int:
        """The root disk in GiB: the flavor's, or with 0 what the image needs."""
        if self.flavor.disk_gib:
            return self.flavor.disk_gib
        return self.image.needs_gib if self.image else 0

    @property
    def resources(self) -> Resources:
        """What it claims of what guests share of its host; swap counts as disk, rounded up. Dedicated
        processors and huge pages are counted by themselves."""
        swap_gib = -(-self.flavor.swap_mib // 1024)
        asked = numa_request(self.flavor, self.image)
        return Resources(
            vcpus=0 if asked and asked.dedicated else self.flavor.vcpus,
            memory_mib=0 if asked and asked.huge else self.flavor.memory_mib,
            disk_gib=self.root_gib + self.flavor.ephemeral_gib + swap_gib,
        )
