"""novactl audit."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from novactl.cli import render, verbs
from novactl.cli.options import DryRun
from novactl.errors import Interrupted, NovactlError, UsageError

if TYPE_CHECKING:
    from novactl.actions.audit.heal import Heal
    from novactl.objects.finding import Finding

COLUMNS = ("severity", "finding", "host", "target", "message", "heal")
CHANGE_COLUMNS = ("change", "host", "target", "message")
DRIFT = 10
LOGS_KEPT = timedelta(days=30)


def register(app: typer.Typer) -> None:
    app.command()(audit)


def audit(
    ctx: typer.Context,
    heal: Annotated[bool, typer.Option("--heal", help="Heal what can be; no guest is touched.")] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take over what hosts know: the database is an older copy.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Compare the database with the hosts, both ways: 10 when they differ. Nothing is changed without
    --heal or --adopt.

    novactl audit --heal --yes
    """
    session = ctx.obj
    if heal and adopt:
        raise UsageError("--heal and --adopt exclude each other", hint="--adopt first, if the audit says so")
    if dry_run and not heal and not adopt:
        raise UsageError("--dry-run goes with --heal or --adopt", hint="an audit alone changes nothing")
    if adopt:
        _adopt(session, dry_run)
        return
    found = _look(session)
    if heal and any(one.heal for one in found):
        if dry_run:
            _show(session, found)
            return
        _heal(session, found)
        found = _look(session)
        if again := [one for one in found if one.finding == "fenced-host" and one.heal]:
            _carry_out(session, again)  # what kept it from being healed at once is cleaned now
            found = _look(session)
    render.listing(session, [one.as_dict() for one in found], COLUMNS)
    if found:
        raise typer.Exit(DRIFT)


def _look(session: Any) -> list["Finding"]:
    from novactl.actions.audit import findings, gather

    cloud = session.cloud
    evidence = gather(cloud.world, cloud.operator.is_left)
    found = findings(evidence.after, evidence.surveys, earlier=evidence.before, copies=evidence.copies)
    return found + [_leftover(name, what) for name, (what, _) in sorted(_left_files(session).items())]


# --- heal ---


def _heal(session: Any, found: Sequence["Finding"]) -> None:
    """Carry out what heals them, and tell; what it came to is seen by looking again."""
    healed = [one for one in found if one.heal]
    for one in healed:
        session.tell(f"{one.message}: {one.heal}")
    session.confirm(f"heal {len(healed)} of {len(found)} findings?")
    _carry_out(session, found)
    left = _left_files(session)
    for one in healed:
        if one.finding == LEFTOVER and one.subject in left:
            left[one.subject][1]()


def _carry_out(session: Any, found: Sequence["Finding"]) -> None:
    try:
        for group in _groups(found):
            for outcome in session.cloud.operator.run(group) if group else ():
                session.progress.clear()
                if isinstance(outcome.error, Interrupted):
                    raise outcome.error
                if outcome.error is not None:
                    verbs.tell_error(outcome.target, outcome.error)
                elif outcome.operation:
                    session.tell(f"{outcome.target}: healed by {outcome.operation}")
    finally:
        session.progress.clear()


def _groups(found: Sequence["Finding"]) -> list[list["Heal"]]:
    from novactl.actions.audit import heal

    return heal.groups(one for one in found if one.finding != LEFTOVER)


def _show(session: Any, found: Sequence["Finding"]) -> None:
    """The plans, each made as if it were the only one."""
    plans: list[dict[str, Any]] = []
    for action in (one for group in _groups(found) for one in group):
        try:
            plans += session.cloud.operator.show([action])
        except NovactlError as error:
            verbs.tell_error(action.target, error)
    for one in found:
        if one.finding == LEFTOVER:
            session.tell(f"{one.message}: {one.heal}")
    if session.output != "table":
        render.listing(session, plans, ("kind", "target", "host"))
        return
    for plan in plans:
        session.tell(f"heal {plan['target']}:")
        render.listing(session, plan["steps"], verbs.PLAN_COLUMNS)


# --- adopt ---


def _adopt(session: Any, dry_run: bool) -> None:
    """Show it, ask, do it, and list what was done."""
    from novactl.actions.audit import adopt
    from novactl.db.session import meta

    cloud = session.cloud
    changes = adopt.rehearse(cloud.operator)
    restored = cloud.db.read(lambda tx: meta(tx, "restored"))
    if not changes and restored is None:
        session.tell("nothing to adopt: the database knows all that the hosts know")
    elif not dry_run:
        for change in changes:
            session.tell(change.message)
        session.confirm(f"take over {len(changes)} things that the hosts know?")
        changes = adopt.adopt(cloud.operator)
    render.listing(session, [change.as_dict() for change in changes], CHANGE_COLUMNS)
    if not dry_run and any(change.change == "not-adopted" for change in changes):
        raise typer.Exit(DRIFT)


# --- this operator's own files ---

LEFTOVER = "leftover-file"
ASIDE = re.compile(r"\.?(config|known_hosts|libvirt-ssh|identities\.json)(\.[A-Za-z0-9._-]+)?\.([0-9]+)")
LOG = re.compile(r"(op-[0-9a-f]+)\.log")

Left = dict[str, tuple[str, Any]]  # subject: what it is, what removes it


def _leftover(subject: str, what: str) -> "Finding":
    from novactl.objects.finding import Finding

    name = subject.rpartition("/")[2]
    return Finding(
        finding=LEFTOVER, severity="info", target=name, message=what, heal="removes it", subject=subject
    )


def _left_files(session: Any) -> Left:
    """Files that processes of this operator left, and what is about hosts and operations long gone."""
    from novactl.actions import store_files

    cloud = session.cloud
    found: Left = {}
    for path in _files(cloud.ssh.directory):
        match = ASIDE.fullmatch(path.name)
        if match and not _alive(int(match[3])):
            found[f"ssh/{path.name}"] = (f"ssh/{path.name}: its process is gone", _removal(path))
    hosts = cloud.db.read(lambda tx: {row["name"] for row in tx.all("SELECT name FROM hosts")})
    for host in sorted(set(cloud.ssh.identities()) - hosts):
        what = f"ssh/identities.json: names a key for {host}, which is no host"
        found[f"ssh/identities.json/{host}"] = (what, _forgetting(cloud, host))
    for name, (what, removal) in store_files.left(cloud.world).items():
        found[name] = (f"{name}: {what}", removal)
    for path, finished in _old_logs(session):
        found[f"log/{path.name}"] = (f"log/{path.name}: its operation ended {finished[:10]}", _removal(path))
    return found


def _old_logs(session: Any) -> Iterator[tuple[Path, str]]:
    logs = {match[1]: path for path in _files(_log_directory(session)) if (match := LOG.fullmatch(path.name))}
    if not logs:
        return
    rows = session.cloud.db.read(lambda tx: tx.all("SELECT id, finished_at FROM operations"))
    limit = (datetime.now(UTC) - LOGS_KEPT).strftime("%Y-%m-%dT%H:%M:%S")
    ended = {row["id"]: row["finished_at"] for row in rows}
    for op, path in sorted(logs.items()):
        with contextlib.suppress(OSError):
            # of an operation that was pruned, the log's own age tells
            finished = ended[op] if op in ended else _changed_at(path)
            if finished is not None and finished < limit:
                yield path, finished


def _changed_at(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _log_directory(session: Any) -> Path:
    from novactl.detach import log_file

    return log_file(session.settings, "op-0").parent


def _files(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.is_file() and not path.is_symlink())
    except OSError:
        return []


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _removal(path: Path) -> Any:
    def remove() -> None:
        with contextlib.suppress(OSError):
            path.unlink()

    return remove


def _forgetting(cloud: Any, host: str) -> Any:
    return lambda: cloud.set_identity(host, None)
