"""A rebalancing plan in a file, with the state it was made for: it is refused once that has changed."""

import json
from pathlib import Path
from typing import Any

from novactl.actions.rebalance import View
from novactl.errors import Refused, UsageError

FORMAT = 1
KIND = "novactl rebalance plan"
NAMED = 10  # differences that are named
MOST = 64 << 20  # bytes that are read

Document = dict[str, Any]


def document(fleet: str, view: View, plan: Document) -> Document:
    """What is saved: the plan, and of each instance and host in it what was read."""
    return {
        "kind": KIND,
        "format": FORMAT,
        "fleet": fleet,
        "made_at": view.now,
        **plan,
        "read": {"instances": _instances(view, plan), "hosts": _hosts(view, plan)},
    }


def _instances(view: View, plan: Document) -> dict[str, Any]:
    wanted = {move["uuid"] for move in plan["moves"]}
    return {
        guest.uuid: {
            "name": guest.name,
            "host": guest.host,
            "version": view.versions[guest.uuid],
            "blocked": guest.blocker is not None,
        }
        for guest in view.guests
        if guest.uuid in wanted
    }


def _hosts(view: View, plan: Document) -> dict[str, Any]:
    wanted = {move.get(end) for move in plan["moves"] for end in ("from", "to")}
    return {
        node.name: {
            "up": node.up,
            "enabled": node.enabled,
            "used": list(node.used),
            "limit": list(node.limit),
        }
        for node in view.nodes
        if node.name in wanted
    }


def save(path: Path, saved: Document) -> None:
    """Write it. Raises Refused when the file exists or cannot be written."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(saved, indent=1, ensure_ascii=False) + "\n")
    except FileExistsError as error:
        raise Refused(f"{path}: exists already", hint="give another name, or remove it") from error
    except OSError as error:
        raise Refused(f"{path}: cannot be written: {error.strerror}") from error


def load(path: Path, fleet: str) -> Document:
    """A plan for this fleet. Raises UsageError when the file is none, Refused when it is another's."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        found = json.loads(content) if len(content) <= MOST else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise UsageError(
            f"{path}: is no plan of rebalance", hint="novactl rebalance --plan-out FILE makes one"
        )
    if found.get("format") != FORMAT:
        raise Refused(f"{path}: has format {found.get('format')!r}, this novactl reads {FORMAT}", hint=AGAIN)
    if found.get("fleet") != fleet:
        raise Refused(f"{path}: is a plan for another fleet ({found.get('fleet')})", hint=AGAIN)
    _check_whole(path, found)
    return found


AGAIN = "make a new plan: novactl rebalance --plan-out FILE"


def _check_whole(path: Path, found: Document) -> None:
    from novactl.files.document import Document as File
    from novactl.files.moves import SavedPlan

    try:
        File(name=str(path), data=found).as_model(SavedPlan)
    except UsageError as error:
        first = error.targets[0]
        told = f"{path}: is a damaged plan: {first['path']}: {first['message']}"
        raise UsageError(told, hint=AGAIN) from error


def still_holds(path: Path, saved: Document, view: View) -> None:
    """Raises Refused, naming what is not as it was when the plan was made."""
    now = {"instances": _instances(view, saved), "hosts": _hosts(view, saved)}
    changed = [
        text
        for kind in ("instances", "hosts")
        for key, was in sorted(saved["read"][kind].items())
        if (text := _change(kind, key, was, now[kind].get(key))) is not None
    ]
    unread = {
        *({move["uuid"] for move in saved["moves"]} - saved["read"]["instances"].keys()),
        *({move[end] for move in saved["moves"] for end in ("from", "to")} - saved["read"]["hosts"].keys()),
    }
    changed += [f"{one}: is not among what the plan says it read" for one in sorted(unread - {None})]
    if changed:
        more = f"\n  … and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        raise Refused(
            f"{path}: the fleet is not as it was when this was planned\n  "
            + "\n  ".join(changed[:NAMED])
            + more,
            hint=AGAIN,
        )


def _change(kind: str, key: str, was: Document, now: Document | None) -> str | None:
    """How one thing differs."""
    if was == now or (was.get("blocked") and {**was, "blocked": False} == now):
        return None
    name = was.get("name", key) if kind == "instances" else key
    if now is None:
        return f"{name}: is gone"
    field = next(field for field in now if was[field] != now[field])
    words = {"version": "was changed", "blocked": "is held now"}
    if field in words:
        return f"{name}: {words[field]}"
    return f"{name}: {field} was {was[field]}, is {now[field]}"
