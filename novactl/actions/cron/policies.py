"""The policies of the fleet (settings): guests that are kept running, what is ended when it has
waited, and what is done by the clock."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from novactl.actions.backups import BackUp
from novactl.actions.batches import MOST
from novactl.actions.cron.slots import WINDOW, slot
from novactl.actions.cron.task import Context, Report
from novactl.actions.operate import Action
from novactl.actions.outcome import Outcome
from novactl.actions.power import Reboot, Start, Stop
from novactl.actions.refresh import refresh
from novactl.actions.shelve import Shelve
from novactl.actions.verify import Confirm
from novactl.db import backups, balance, health, instances, moves, operations, pages, settings, tasks
from novactl.db.session import Tx
from novactl.engine.operation import OpState
from novactl.errors import Busy
from novactl.objects.duration import UNITS
from novactl.objects.instance import Instance
from novactl.objects.moments import as_text, before
from novactl.objects.policy import Policy
from novactl.objects.states import ALLOWED, VmState

KEEP, CONFIRM, OFFLOAD, BACKUP = "keep-running", "resize-confirm", "shelve-offload", "backup"
OFTEN, SPAN = 5, UNITS["h"]  # going off, or failing to start, so often in so many seconds: left off for now
LAST_TRY = 5 * UNITS["m"]  # seconds before the end of its window in which what was busy is told

Deed = tuple[Callable[[Instance], Action], frozenset[VmState]]

DEEDS: Mapping[str, Deed] = {
    "start": (lambda one: Start(name=one.uuid, project=one.project), frozenset({VmState.STOPPED})),
    "stop": (lambda one: Stop(name=one.uuid, project=one.project), frozenset({VmState.ACTIVE})),
    "reboot": (lambda one: Reboot(name=one.uuid, project=one.project), frozenset({VmState.ACTIVE})),
}
"""What a policy does, and to instances in which states; others are as it wants them, or not its concern."""


def policies(context: Context) -> Report:
    """Each policy is carried out, at its time or always."""
    given = context.world.db.read(lambda tx: settings.get(tx, "policies"))
    known = [Policy.from_dict(one) for one in given]
    keeping = [policy for policy in known if policy.do == KEEP]
    report = Report()
    if keeping and not context.dry_run:
        _follow_hosts(context, keeping)
    for policy in known:
        if not context.go_on():
            report.partial = True
        elif policy.do == KEEP:
            _keep_running(context, policy, report)
        elif policy.do == CONFIRM:
            _when_waited(context, policy, report, _moved, _confirmed, "its move is not confirmed")
        elif policy.do == OFFLOAD:
            _when_waited(context, policy, report, _shelved, _away, "it does not leave its host")
        else:
            _by_the_clock(context, policy, {one.name for one in known}, report)
    return report


def chosen(tx: Tx, policy: Policy) -> list[Instance]:
    """The instances that it is about; those that are locked are left alone."""
    return [one for one in matching(tx, policy) if not one.locked]


def matching(tx: Tx, policy: Policy) -> list[Instance]:
    """The instances that it names, locked ones too."""
    pairs = [selector.partition("=") for selector in policy.selector]
    selectors = tuple((key, value if sign else None) for key, sign, value in pairs)
    return pages.page(tx, pages.Wanted(project=policy.project, host=policy.on, selectors=selectors))


# --- keep-running ---


def _follow_hosts(context: Context, keeping: Sequence[Policy]) -> None:
    """The records say what the hosts say of the guests that are to run. Those of hosts that are down wait."""

    def asked(tx: Tx) -> set[str]:
        up = {host["name"] for host in health.hosts(tx) if host["state"] == "up"}
        wanted = [one for policy in keeping for one in chosen(tx, policy)]
        return up & {str(one.host) for one in wanted if one.vm_state in (VmState.ACTIVE, VmState.STOPPED)}

    if names := context.world.db.read(asked):
        refresh(context.world, sorted(names), user=context.operator.journal.owner.user)


def _keep_running(context: Context, policy: Policy, report: Report) -> None:
    """A guest that went off by itself is one that the newest event about its power says so of, and not one
    that somebody stopped."""
    db = context.world.db
    off = db.read(lambda tx: [one for one in chosen(tx, policy) if _went_off(tx, one)])
    since = before(context.world.clock.now(), SPAN)
    often = db.read(lambda tx: {one.uuid: why for one in off if (why := _too_often(tx, one, since))})
    for one in off:
        if one.uuid in often:
            report.note(one.name, often[one.uuid])
    starting = [one for one in off if one.uuid not in often]
    for one, outcome in _carried_out(context, starting, _again, report):
        if outcome is None or outcome.result == "done":
            report.changes.append(f"{policy.name}: {one.name} went off by itself and is started")
        elif outcome.error is not None and not isinstance(outcome.error, Busy):
            report.note(one.name, outcome.error.message)


def _again(instance: Instance) -> Action:
    return Start(name=instance.uuid, project=instance.project, interrupted=True)


def _went_off(tx: Tx, instance: Instance) -> bool:
    idle = instance.vm_state is VmState.STOPPED and instance.task_state is None
    return idle and instance.host is not None and instances.went_off(tx, instance.uuid)


def _too_often(tx: Tx, instance: Instance, since: str) -> str | None:
    """Why it is left off for now: what went wrong too often since then, as its events tell."""
    recent = [event for event in operations.events(tx, instance.uuid) if event["time"] >= since]
    offs = [one for one in recent if (one["action"], one["result"]) == (instances.SEEN, "shutoff")]
    failed = [one for one in recent if (one["action"], one["result"]) == ("start", OpState.UNDONE)]
    words = f"{OFTEN} times within an hour and is left off for now"
    if len(failed) >= OFTEN:
        return f"could not be started {words}: {failed[-1]['message']}"
    if len(offs) >= OFTEN:
        return f"went off {words}: novactl console-log {instance.name}"
    return None


# --- resize-confirm, shelve-offload ---

Found = list[tuple[Instance, str | None]]


def _when_waited(
    context: Context,
    policy: Policy,
    report: Report,
    due: Callable[[Tx, Policy, str], Found],
    act: Callable[[Instance], Action],
    complaint: str,
) -> None:
    """What has waited so long is ended, as its own command does it; one that cannot be is a concern, since it
    holds room on a host that it does not need. `due`: those, each with why it cannot be now."""
    assert policy.after is not None
    latest = before(context.world.clock.now(), policy.after)
    found = context.world.db.read(lambda tx: due(tx, policy, latest))
    ready = [one for one, why in found if why is None]
    refused = [(one, why) for one, why in found if why is not None]
    for one, outcome in _carried_out(context, ready, act, report):
        if outcome is None or outcome.error is None:
            report.changes.append(f"{policy.name}: {policy.do} {one.name}")
        else:
            refused.append((one, outcome.error.message))
    for one, why in refused:
        report.note(one.name, f"{one.name}: {complaint}: {why}")


def _moved(tx: Tx, policy: Policy, latest: str) -> Found:
    waiting = {one.instance_uuid for one in moves.finished(tx) if one.updated_at <= latest}
    worked_on = balance.worked_on(tx)
    found = [one for one in matching(tx, policy) if one.uuid in waiting]
    return [(one, _unfit(one, VmState.RESIZED, worked_on.get(one.uuid))) for one in found]


def _shelved(tx: Tx, policy: Policy, latest: str) -> Found:
    worked_on = balance.worked_on(tx)
    return [
        (one, _unfit(one, VmState.SHELVED, worked_on.get(one.uuid)))
        for one in matching(tx, policy)
        if one.vm_state is VmState.SHELVED and one.shelved_image and one.shelved_image.created_at <= latest
    ]


def _away(instance: Instance) -> Action:
    return Shelve(name=instance.uuid, project=instance.project, offload=True)


def _confirmed(instance: Instance) -> Action:
    return Confirm(name=instance.uuid, project=instance.project)


def _unfit(instance: Instance, state: VmState, operation: str | None) -> str | None:
    """Why it is left as it is now."""
    if operation is not None:
        return f"operation {operation} works on it"
    if instance.locked:
        return "is locked"
    waits = instance.vm_state is state and instance.task_state is None
    return None if waits else f"is {instance.status}"


# --- by the clock ---


def _by_the_clock(context: Context, policy: Policy, known: set[str], report: Report) -> None:
    """Once for each time: what was done before its process was killed is seen in the journal, and when all
    was done that is remembered. Who meets another operation is tried again while the time lasts."""
    world = context.world
    now = datetime.fromisoformat(world.clock.now())
    due = slot(policy, now)
    if due is None or world.db.read(tasks.slots).get(policy.name, "") >= as_text(due):
        return
    act, states = _backing_up(policy, as_text(due)) if policy.do == BACKUP else DEEDS[policy.do]

    def targets(tx: Tx) -> list[Instance]:
        some = matching(tx, policy) if policy.do == BACKUP else chosen(tx, policy)
        return [one for one in some if one.vm_state in states and not _done(tx, policy, one, as_text(due))]

    last = now + timedelta(seconds=LAST_TRY) >= due + timedelta(seconds=WINDOW)
    whole = True
    for one, outcome in _carried_out(context, world.db.read(targets), act, report):
        error = outcome.error if outcome else None
        if error is None:
            report.changes.append(f"{policy.name}: {policy.do} {one.name}")
        elif error.retryable and not last:
            whole = False
        else:
            report.mishaps.append(f"policy {policy.name}: {one.name}: {error.message}")
    if whole and not report.partial and not context.dry_run:
        world.db.write(lambda tx: tasks.keep_slot(tx, policy.name, as_text(due), known))


def _backing_up(policy: Policy, due: str) -> Deed:
    """Locked instances, too: nothing of them is changed."""

    def action(one: Instance) -> Action:
        return BackUp(
            name=one.uuid,
            project=one.project,
            backup=_called(one, policy, due),
            type=str(policy.type),
            rotation=policy.rotate or 1,
        )

    return action, ALLOWED[BACKUP]


def _called(one: Instance, policy: Policy, due: str) -> str:
    """As in web1-daily-20260301T0200."""
    ending = f"{policy.type}-{due[:16].replace('-', '').replace(':', '')}"
    room = 62 - len(ending)
    name = one.name if len(one.name) <= room else f"{one.name[: room - 9]}-{one.uuid[:8]}"
    return f"{name}-{ending}"


def _done(tx: Tx, policy: Policy, one: Instance, due: str) -> bool:
    """Whether that was done to it since then, by whomever."""
    if policy.do == BACKUP:
        return backups.taken_since(tx, one.uuid, str(policy.type), due)
    return bool(operations.count(tx, one.uuid, policy.do, due))


def _carried_out(
    context: Context, targets: Sequence[Instance], act: Callable[[Instance], Action], report: Report
) -> Iterator[tuple[Instance, Outcome | None]]:
    """Each target with how it ended (None in a dry run), some at a time."""
    for some in _chunks(targets):
        if not context.go_on():
            report.partial = True
            return
        actions = [act(one) for one in some]
        outcomes: Iterable[Any] = [None] * len(some) if context.dry_run else context.operator.run(actions)
        yield from zip(some, outcomes, strict=True)


def _chunks(targets: Sequence[Instance]) -> Iterator[Sequence[Instance]]:
    for start in range(0, len(targets), MOST):
        yield targets[start : start + MOST]
