"""Nova's three states of an instance, and what may be done in which.

Source: nova/compute/{vm_states,task_states,power_state}.py and
nova/api/openstack/common.py (_STATE_MAP).
"""

from enum import StrEnum

from novactl.errors import Refused, UsageError


class VmState(StrEnum):
    """What is stable: the last state an operation ended in."""

    BUILDING = "building"
    ACTIVE = "active"
    STOPPED = "stopped"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    RESCUED = "rescued"
    RESIZED = "resized"
    SHELVED = "shelved"
    SHELVED_OFFLOADED = "shelved_offloaded"
    ERROR = "error"
    DELETED = "deleted"


class TaskState(StrEnum):
    """What an operation is doing now; None when nothing is."""

    SPAWNING = "spawning"
    POWERING_OFF = "powering-off"
    POWERING_ON = "powering-on"
    REBOOTING = "rebooting"
    REBOOTING_HARD = "rebooting_hard"
    PAUSING = "pausing"
    UNPAUSING = "unpausing"
    SUSPENDING = "suspending"
    RESUMING = "resuming"
    RESIZING = "resize_migrating"
    REVERTING = "resize_reverting"
    MIGRATING = "migrating"
    REBUILDING = "rebuilding"
    RESCUING = "rescuing"
    UNRESCUING = "unrescuing"
    SHELVING = "shelving"
    SHELVING_OFFLOADING = "shelving_offloading"
    UNSHELVING = "unshelving"
    BACKING_UP = "image_backup"
    SNAPSHOTTING = "image_snapshot"
    DELETING = "deleting"


class PowerState(StrEnum):
    """What the hypervisor says of the domain."""

    NOSTATE = "nostate"
    RUNNING = "running"
    PAUSED = "paused"
    SHUTDOWN = "shutdown"
    CRASHED = "crashed"
    SUSPENDED = "suspended"


_BY_VM_STATE = {
    VmState.BUILDING: "BUILD",
    VmState.ACTIVE: "ACTIVE",
    VmState.STOPPED: "SHUTOFF",
    VmState.PAUSED: "PAUSED",
    VmState.SUSPENDED: "SUSPENDED",
    VmState.RESCUED: "RESCUE",
    VmState.RESIZED: "VERIFY_RESIZE",
    VmState.SHELVED: "SHELVED",
    VmState.SHELVED_OFFLOADED: "SHELVED_OFFLOADED",
    VmState.ERROR: "ERROR",
    VmState.DELETED: "DELETED",
}

_BY_TASK_STATE = {
    TaskState.REBOOTING: "REBOOT",
    TaskState.REBOOTING_HARD: "HARD_REBOOT",
    TaskState.RESIZING: "RESIZE",
    TaskState.REVERTING: "REVERT_RESIZE",
    TaskState.MIGRATING: "MIGRATING",
    TaskState.REBUILDING: "REBUILD",
}

_LIVING = frozenset(VmState) - {VmState.DELETED}
KEPT = frozenset({VmState.RESCUED, VmState.SHELVED, VmState.SHELVED_OFFLOADED})
"""States that say where an instance's disk is: nothing but unrescue and unshelve ends them."""

ALLOWED: dict[str, frozenset[VmState]] = {
    "start": frozenset({VmState.STOPPED, VmState.ERROR}),
    "stop": frozenset({VmState.ACTIVE, VmState.ERROR}),
    "reboot": frozenset({VmState.ACTIVE}),
    "reboot --hard": frozenset(
        {VmState.ACTIVE, VmState.STOPPED, VmState.PAUSED, VmState.SUSPENDED, VmState.ERROR}
    ),
    "pause": frozenset({VmState.ACTIVE}),
    "unpause": frozenset({VmState.PAUSED}),
    "suspend": frozenset({VmState.ACTIVE}),
    "resume": frozenset({VmState.SUSPENDED}),
    "lock": _LIVING,
    "unlock": _LIVING,
    "set": _LIVING,
    "unset": _LIVING,
    "reset-state": _LIVING - {VmState.BUILDING} - KEPT,
    "delete": _LIVING,
    "resize": frozenset({VmState.ACTIVE, VmState.STOPPED}),
    "migrate": frozenset({VmState.ACTIVE, VmState.STOPPED}),
    "migrate --live": frozenset({VmState.ACTIVE, VmState.PAUSED}),
    "backup": frozenset({VmState.ACTIVE, VmState.STOPPED, VmState.PAUSED, VmState.SUSPENDED}),
    "backup restore": frozenset({VmState.STOPPED}),
    "resize-confirm": frozenset({VmState.RESIZED}),
    "resize-revert": frozenset({VmState.RESIZED}),
    "snapshot": frozenset({VmState.ACTIVE, VmState.STOPPED, VmState.PAUSED, VmState.SUSPENDED}),
    "evacuate": frozenset({VmState.ACTIVE, VmState.STOPPED, VmState.PAUSED, VmState.ERROR}),
    "rescue": frozenset({VmState.ACTIVE, VmState.STOPPED, VmState.ERROR}),
    "unrescue": frozenset({VmState.RESCUED}),
    "rebuild": frozenset({VmState.ACTIVE, VmState.STOPPED, VmState.ERROR}),
    "shelve": frozenset({VmState.ACTIVE, VmState.STOPPED, VmState.PAUSED, VmState.SUSPENDED}),
    "shelve --offload": frozenset({VmState.SHELVED}),
    "unshelve": frozenset({VmState.SHELVED, VmState.SHELVED_OFFLOADED}),
}
"""Which vm_state an action starts from (nova/compute/api.py, check_instance_state).

start from ERROR is ours: Nova asks for a hard reboot there, which does the same."""

THOUGH_LOCKED = frozenset({"lock", "unlock", "reset-state", "backup"})
"""What may be done with a locked instance: Nova's check_instance_lock is on all else but its backup."""

PLAIN = frozenset({VmState.ACTIVE, VmState.STOPPED, VmState.PAUSED, VmState.SUSPENDED})
"""States that follow from what the hypervisor says."""

_BY_POWER = {
    PowerState.RUNNING: VmState.ACTIVE,
    PowerState.PAUSED: VmState.PAUSED,
    PowerState.SUSPENDED: VmState.SUSPENDED,
}


def vm_state_of(power: PowerState, saved: bool = False) -> VmState:
    """What an instance is by what its host says of it; `saved`: libvirt keeps its memory (managed save).
    One that crashed is stopped (as in Nova)."""
    if saved and power not in _BY_POWER:
        return VmState.SUSPENDED
    return _BY_POWER.get(power, VmState.STOPPED)


def status(vm_state: VmState, task_state: TaskState | None) -> str:
    """The one word users see."""
    if task_state in _BY_TASK_STATE:
        return _BY_TASK_STATE[task_state]
    return _BY_VM_STATE[vm_state]


def status_words() -> list[str]:
    """All words that status() shows."""
    return sorted({*_BY_VM_STATE.values(), *_BY_TASK_STATE.values()})


def words_of(word: str) -> tuple[list[VmState], list[TaskState], list[TaskState]]:
    """What status() shows as this word: (vm_states, task_states, task_states under which those vm_states are
    shown as something else). Raises UsageError for a word that it never shows."""
    states = [state for state, shown in _BY_VM_STATE.items() if shown == word]
    tasks = [task for task, shown in _BY_TASK_STATE.items() if shown == word]
    if not states and not tasks:
        raise UsageError(f"status {word!r} does not exist", hint=f"there are {', '.join(status_words())}")
    return states, tasks, list(_BY_TASK_STATE)


def check_unlocked(action: str, name: str, locked: bool) -> None:
    """Raises Refused when the instance is locked and the action minds."""
    if locked and action not in THOUGH_LOCKED:
        raise Refused(f"{name}: is locked", hint=f"novactl unlock {name}, if that is what you want")


def check_allowed(action: str, name: str, vm_state: VmState) -> None:
    """Raises Refused, naming the states that allow it."""
    if vm_state not in ALLOWED[action]:
        allowed = ", ".join(sorted(status(state, None) for state in ALLOWED[action]))
        raise Refused(
            f"{name}: cannot {action} an instance that is {status(vm_state, None)}",
            hint=f"{action} is possible from {allowed}",
        )
