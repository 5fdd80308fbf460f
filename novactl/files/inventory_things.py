"""What a part of the inventory's files is as a thing of the fleet: its fields, and the files it names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from novactl.errors import UsageError
from novactl.files.document import Document
from novactl.files.inventory_models import (
    AggregatePart,
    CronPart,
    FlavorPart,
    HostPart,
    ImagePart,
    KeypairPart,
    NetworkPart,
    PolicyPart,
    ProjectPart,
)
from novactl.objects.duration import parse_duration
from novactl.objects.flavor import Flavor, check_flavor
from novactl.objects.group import GroupPolicy, ServerGroup, check_group
from novactl.objects.keypair import parse_public_key
from novactl.objects.network import Network, check_network
from novactl.objects.policy import CronTask, Policy, check_cron, check_policy, check_scheduler
from novactl.objects.project import NOVA_LIMITS, check_limits
from novactl.objects.trusted import check_trusted

STATED = (
    *("virt_type", "instances_path", "zone", "labels", "enabled", "disabled_reason"),
    *("reserved_vcpus", "reserved_memory_mib", "reserved_disk_gib", "dedicated_cpus"),
    *("cpu_ratio", "memory_ratio", "disk_ratio"),
)
"""What is left as it is when a host does not state it."""


@dataclass(frozen=True)
class Context:
    """What one thing is made from."""

    name: str
    document: Document
    part: Any

    def path(self, file: str) -> Path:
        """Relative to the file that names it."""
        return Path(self.document.name).parent / Path(file).expanduser()


Made = tuple[dict[str, Any], dict[str, Path]]
Maker = Callable[[Context], Made]


def made_host(context: Context, ratios: Mapping[str, float]) -> Made:
    """A host; `ratios` are those of the whole fleet, which its own go before. Raises UsageError."""
    part: HostPart = context.part
    fields = {"address": part.address, "port": part.port, "user": part.user, "jump": part.jump}
    fields |= {**ratios, **part.stated("fingerprint", *STATED)}
    if fields.get("virt_type") == "auto":
        del fields["virt_type"]
    if fields.get("fingerprint", "") is None:
        del fields["fingerprint"]
    if part.disabled_reason is not None and part.enabled:
        raise UsageError("disabled_reason goes with enabled: false")
    if "enabled" in fields:
        fields["disabled_reason"] = part.disabled_reason
    if part.jump == context.name:
        raise UsageError("jump is the host itself")
    return fields, {}


def _aggregate(context: Context) -> Made:
    part: AggregatePart = context.part
    if len(set(part.hosts)) != len(part.hosts):
        raise UsageError("hosts has one of them twice")
    return {"hosts": sorted(part.hosts), "metadata": part.metadata}, {}


def _flavor(context: Context) -> Made:
    part: FlavorPart = context.part
    check_flavor(Flavor(id="", name=context.name, **part.model_dump()))
    return part.model_dump(), {}


def _network(context: Context) -> Made:
    part: NetworkPart = context.part
    made = check_network(Network(id="", name=context.name, **{**part.model_dump(), "dns": tuple(part.dns)}))
    fields = {key: getattr(made, key) for key in NetworkPart.model_fields}
    return {**fields, "dns": part.dns}, {}


def _image(context: Context) -> Made:
    part: ImagePart = context.part
    if part.file is None and part.sha256 is None:
        raise UsageError("file is missing", hint="or sha256, for content that is in the store")
    if (part.initrd or part.initrd_sha256 or part.cmdline) and not (part.kernel or part.kernel_sha256):
        raise UsageError("initrd and cmdline need kernel")
    fields = part.model_dump(exclude={"file", "kernel", "initrd"})
    for key in ("sha256", "format"):
        if fields[key] is None:
            del fields[key]
    given = {key: getattr(part, key) for key in ("file", "kernel", "initrd")}
    return fields, {key: context.path(file) for key, file in given.items() if file is not None}


def _keypair(context: Context) -> Made:
    part: KeypairPart = context.part
    if (part.public_key is None) == (part.file is None):
        raise UsageError("one of public_key and file must be given")
    text = part.public_key
    if part.file is not None:
        path = context.path(part.file)
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            why = (getattr(error, "strerror", None) or "is not text").lower()
            raise UsageError(f"{path}: {why}") from error
    made = parse_public_key(context.name, text or "")
    return {"fingerprint": made.fingerprint, "public_key": made.public_key}, {}


def _project(context: Context) -> Made:
    part: ProjectPart = context.part
    return {"description": part.description, "limits": {**NOVA_LIMITS, **check_limits(part.limits)}}, {}


def _group(context: Context) -> Made:
    part, name = context.part, context.name.rpartition("/")[2]
    policy, most = GroupPolicy(part.policy), part.max_per_host
    check_group(ServerGroup(id="", name=name, project="", policy=policy, max_per_host=most))
    return {"policy": policy, "max_per_host": most}, {}


def _scheduler(context: Context) -> Made:
    return {"value": check_scheduler({context.name: context.part})[context.name]}, {}


def _weigher(context: Context) -> Made:
    return {"multiplier": context.part}, {}


def _policy(context: Context) -> Made:
    part: PolicyPart = context.part
    given = {**part.model_dump(), "selector": tuple(part.selector), "days": tuple(part.days)}
    if part.after is not None:
        given["after"] = parse_duration(part.after, "after")
    fields = check_policy(Policy(name=context.name, **given)).as_dict()
    del fields["name"]
    return fields, {}


def _cron(context: Context) -> Made:
    part: CronPart = context.part
    seconds = {
        key: None if (text := getattr(part, key)) is None else parse_duration(text, key)
        for key in ("every", "jitter", "older")
    }
    return check_cron(CronTask(name=context.name, enabled=part.enabled, **seconds)).as_dict(), {}


def _trusted(context: Context) -> Made:
    return {"cidr": check_trusted({context.name: context.part})[context.name]}, {}


def _setting(context: Context) -> Made:
    return {"value": context.part}, {}


MAKERS: dict[str, Maker] = {
    "flavors": _flavor,
    "images": _image,
    "keypairs": _keypair,
    "networks": _network,
    "projects": _project,
    "groups": _group,
    "aggregates": _aggregate,
    "weighers": _weigher,
    "scheduler": _scheduler,
    "policies": _policy,
    "cron": _cron,
    "trusted_networks": _trusted,
    "default_network": _setting,
}
"""By section; they raise UsageError. Hosts need the ratios beside (made_host)."""
