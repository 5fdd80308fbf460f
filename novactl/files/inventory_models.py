"""What may stand in an inventory file: names, types and ranges."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from novactl.errors import NovactlError
from novactl.objects import cpuset, names
from novactl.objects.backup import TYPES
from novactl.objects.duration import parse_duration
from novactl.objects.flavor import LIMITS
from novactl.objects.group import GroupPolicy
from novactl.objects.host import MOST_RESERVED
from novactl.objects.policy import AT, DAYS, DEEDS
from novactl.objects.project import UNLIMITED


def _checked(check: Callable[[str], Any]) -> AfterValidator:
    """A check of objects/ as pydantic wants it."""

    def work(value: str) -> str:
        try:
            check(value)
        except NovactlError as error:
            raise ValueError("; ".join(filter(None, (error.message, error.hint)))) from error
        return value

    return AfterValidator(work)


Name = Annotated[str, _checked(lambda value: names.check_name(value))]
Key = Annotated[str, _checked(lambda value: names.check_pattern(value, names.KEY, "key"))]
Words = Annotated[str, _checked(lambda value: names.check_text(value, "text"))]
Long = Annotated[str, _checked(lambda value: names.check_text(value, "text", limit=16384))]
Labels = dict[Key, Words]
Address = Annotated[str, _checked(lambda value: names.check_pattern(value, names.ADDRESS, "address"))]
User = Annotated[str, _checked(lambda value: names.check_pattern(value, names.USER, "user"))]
HostPath = Annotated[str, _checked(lambda value: names.check_path(value, "path"))]
File = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[
    str, _checked(lambda value: names.check_pattern(value, names.SHA256, "SHA-256", "64 hex digits"))
]
Fingerprint = Annotated[str, Field(pattern=r"^SHA256:[A-Za-z0-9+/]{43}$")]
Cpus = Annotated[
    str, _checked(cpuset.parse), AfterValidator(lambda text: cpuset.render(cpuset.parse(text)) or None)
]
Ratio = Annotated[float, Field(gt=0, le=1000)]
Reserved = Annotated[int, Field(ge=0, le=MOST_RESERVED)]
Duration = Annotated[str, _checked(parse_duration)]
Limit = Annotated[int, BeforeValidator(lambda value: UNLIMITED if value == "unlimited" else value)]
Multiplier = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


def _size(name: str) -> Any:
    low, high = LIMITS[name]
    return Field(ge=low, le=high)


class Part(BaseModel):
    """Nothing unknown, nothing of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def stated(self, *keys: str) -> dict[str, Any]:
        """Those of the keys that the file gives."""
        return {key: getattr(self, key) for key in keys if key in self.model_fields_set}


class HostPart(Part):
    """What is not stated of zone and below is left as it is."""

    address: Address
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    user: User = "root"
    jump: Name | None = None
    fingerprint: Fingerprint | None = None
    virt_type: Literal["auto", "kvm", "qemu"] = "auto"
    instances_path: HostPath = names.INSTANCES_PATH
    zone: Name = "nova"
    labels: Labels = {}
    reserved_vcpus: Reserved = 0
    reserved_memory_mib: Reserved = 512
    reserved_disk_gib: Reserved = 0
    cpu_ratio: Ratio = 4.0
    memory_ratio: Ratio = 1.0
    disk_ratio: Ratio = 1.0
    dedicated_cpus: Cpus | None = None
    enabled: bool = True
    disabled_reason: Words | None = None


class RatiosPart(Part):
    """For the hosts that state none."""

    cpu: Ratio | None = None
    memory: Ratio | None = None
    disk: Ratio | None = None


class AggregatePart(Part):
    hosts: list[Name] = []
    metadata: Labels = {}


class FlavorPart(Part):
    vcpus: Annotated[int, _size("vcpus")]
    memory_mib: Annotated[int, _size("memory_mib")]
    disk_gib: Annotated[int, _size("disk_gib")]
    ephemeral_gib: Annotated[int, _size("ephemeral_gib")] = 0
    swap_mib: Annotated[int, _size("swap_mib")] = 0
    extra_specs: Labels = {}


class NetworkPart(Part):
    cidr: str
    bridge: Annotated[str, _checked(lambda value: names.check_pattern(value, names.BRIDGE, "bridge"))]
    gateway: str | None = None
    dns: list[str] = []
    mtu: Annotated[int, Field(ge=576, le=65535)] = 1500
    pool: str | None = None
    project: Name = "default"


class ImagePart(Part):
    """`file` or, for content that is in the store, `sha256`."""

    file: File | None = None
    sha256: Sha256 | None = None
    format: Literal["raw", "qcow2", "vmdk", "iso"] | None = None
    kernel: File | None = None
    kernel_sha256: Sha256 | None = None
    initrd: File | None = None
    initrd_sha256: Sha256 | None = None
    cmdline: Annotated[str, _checked(lambda value: names.check_text(value, "text", limit=2000))] | None = None
    properties: Labels = {}
    min_disk_gib: Annotated[int, Field(ge=0, le=64 << 10)] = 0
    min_memory_mib: Annotated[int, Field(ge=0, le=64 << 20)] = 0


class KeypairPart(Part):
    """One of the two."""

    public_key: Long | None = None
    file: File | None = None


class ProjectPart(Part):
    """Limits that are not stated are Nova's."""

    description: Words = ""
    limits: dict[str, Limit] = {}


class GroupPart(Part):
    policy: Literal[tuple(str(policy) for policy in GroupPolicy)]  # type: ignore[valid-type]
    max_per_host: int = 1


class PolicyPart(Part):
    do: Literal[DEEDS]  # type: ignore[valid-type]
    selector: list[Words] = []
    on: Name | None = None
    project: Name = "default"
    at: Annotated[str, Field(pattern=rf"^{AT.pattern}$")] | None = None
    days: list[Literal[DAYS]] = []  # type: ignore[valid-type]
    timezone: str = "UTC"
    after: Duration | None = None
    type: Literal[TYPES] | None = None  # type: ignore[valid-type]
    rotate: int | None = None


class CronPart(Part):
    every: Duration | None = None
    jitter: Duration | None = None
    older: Duration | None = None
    enabled: bool = True


class FilePart(Part):
    """One file. A section that is in none of them is not managed."""

    zones: list[Name] = []
    hosts: dict[str, HostPart] = {}
    ratios: RatiosPart = RatiosPart()
    aggregates: dict[str, AggregatePart] = {}
    flavors: dict[str, FlavorPart] = {}
    networks: dict[str, NetworkPart] = {}
    images: dict[str, ImagePart] = {}
    keypairs: dict[str, KeypairPart] = {}
    projects: dict[str, ProjectPart] = {}
    groups: dict[str, GroupPart] = {}
    weighers: dict[str, Multiplier] = {}
    scheduler: dict[str, int] = {}
    policies: dict[str, PolicyPart] = {}
    cron: dict[str, CronPart] = {}
    trusted_networks: dict[str, str] = {}
    default_network: Name | None = None
