"""Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/). Names stay: others'
alerts are written against them."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from novactl.version import __version__

if TYPE_CHECKING:
    from novactl.actions.health import Seen

GIB, MIB = 1 << 30, 1 << 20
RESOURCES = {"vcpus": ("vcpus", 1), "memory_mib": ("memory_bytes", MIB), "disk_gib": ("disk_bytes", GIB)}
STATES = ("planned", "running", "undoing", "incomplete", "done", "undone", "abandoned")

Sample = tuple[Mapping[str, str], float]
Family = tuple[str, str, list[Sample]]  # name, help, samples; all are gauges


def exposition(seen: "Seen") -> str:
    """All of it; ends with a line feed."""
    return "".join(_text(*family) for family in families(seen))


def families(seen: "Seen") -> Iterator[Family]:
    """Each metric with its samples."""
    yield "novactl_build_info", "The novactl that wrote this.", [({"version": __version__}, 1)]
    yield from _hosts(seen)
    statuses = sorted({"ACTIVE", "SHUTOFF", "ERROR", *seen.instances})
    yield (
        "novactl_instances",
        "Instances by status.",
        [({"status": word}, seen.instances.get(word, 0)) for word in statuses],
    )
    yield (
        "novactl_operations",
        "Operations on record by state.",
        [({"state": state}, seen.operations.get(state, 0)) for state in STATES],
    )
    yield "novactl_operations_left", "Operations that nobody works on.", [({}, len(seen.left))]
    ages = [_seconds(seen.now) - _seconds(op.started_at) for op in seen.left]
    yield (
        "novactl_operations_left_oldest_age_seconds",
        "Age of the oldest operation that nobody works on; 0 for none.",
        [({}, max(ages, default=0.0))],
    )
    yield from _tasks(seen)


def _hosts(seen: "Seen") -> Iterator[Family]:
    def each(value: Any) -> list[Sample]:
        return [({"host": host["name"]}, value(host)) for host in seen.hosts]

    yield "novactl_host_up", "Whether it answered when last looked at.", each(lambda h: h["state"] == "up")
    yield "novactl_host_enabled", "Whether new instances may be placed there.", each(lambda h: h["enabled"])
    looked: list[Sample] = [
        ({"host": host["name"]}, _seconds(host["checked_at"])) for host in seen.hosts if host["checked_at"]
    ]
    yield "novactl_host_checked_timestamp_seconds", "When the host was last looked at.", looked
    yield "novactl_host_instances", "Instances on the host.", each(lambda h: h["instances"])
    for size, (name, unit) in RESOURCES.items():
        for ending, help_, value in (
            ("total", "what the host has", lambda h, s=size: h[s]),
            ("reserved", "what is kept from instances", lambda h, s=size: h[f"reserved_{s}"]),
            ("foreign", "what others than this fleet take", lambda h, s=size: h[f"foreign_{s}"]),
            ("capacity", "what instances may claim in all", lambda h, s=size: h["capacity"][s]),
            ("used", "what instances have claimed", lambda h, s=size: h[f"{s}_used"]),
        ):
            yield (
                f"novactl_host_{name}_{ending}",
                f"{name}: {help_}.",
                each(lambda h, v=value, u=unit: v(h) * u),
            )


def _tasks(seen: "Seen") -> Iterator[Family]:
    rows = {task.name: seen.tasks.get(task.name) for task in seen.known if task.enabled}
    ran = {name: row for name, row in rows.items() if row is not None}
    for ending, key, help_ in (
        ("last_success", "succeeded_at", "When the task last ended well."),
        ("last_failure", "failed_at", "When the task last failed."),
    ):
        at = {name: getattr(row["memory"], key) for name, row in ran.items()}
        yield (
            f"novactl_cron_task_{ending}_timestamp_seconds",
            help_,
            [({"task": name}, _seconds(when)) for name, when in at.items() if when],
        )
    yield (
        "novactl_cron_task_failed",
        "Whether the task failed when it last ran.",
        [({"task": name}, row["result"] == "failed") for name, row in ran.items()],
    )
    yield (
        "novactl_cron_task_attention",
        "Things that need attention by the task.",
        [({"task": name}, len(row["memory"].told)) for name, row in ran.items()],
    )


def _text(name: str, help_: str, samples: list[Sample]) -> str:
    if not samples:
        return ""
    lines = [f"# HELP {name} {help_}", f"# TYPE {name} gauge"]
    lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    parts = [f'{key}="{_escaped(value)}"' for key, value in labels.items()]
    return f"{{{','.join(parts)}}}" if parts else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _seconds(when: str) -> float:
    return datetime.fromisoformat(when).timestamp()
