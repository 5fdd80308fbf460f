"""Moves that wait to be confirmed or reverted, made again from what the domains on their new hosts carry."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from novactl.errors import NovactlError, Refused
from novactl.objects import names
from novactl.objects.flavor import Flavor, check_flavor
from novactl.objects.instance import Instance
from novactl.objects.migration import Migration, MigrationKind, MigrationStatus, Storage
from novactl.objects.numa import Fit
from novactl.objects.states import VmState


def move_of(instance: Instance, told: Any) -> tuple[Migration, Instance] | None:
    """The move that its domain tells of (Migration.carried()), if any, and the instance as its old host keeps
    room for it. Pure. Raises Refused when it makes no sense."""
    if told is None:
        return None
    try:
        return _move(instance, told)
    except (KeyError, TypeError, ValueError, AttributeError, NovactlError) as error:
        what = error.message if isinstance(error, NovactlError) else f"{type(error).__name__}: {error}"
        message = f"the move of {instance.name!r} that {instance.host} tells of makes no sense: {what}"
        raise Refused(message) from error


def _move(instance: Instance, told: Mapping[str, Any]) -> tuple[Migration, Instance]:
    created_at = names.check_text(told["created_at"], "time", limit=32)
    move = Migration(
        id=names.check_pattern(told["id"], names.UUID, "uuid"),
        instance_uuid=instance.uuid,
        kind=MigrationKind(told["kind"]),
        status=MigrationStatus.FINISHED,
        source=names.check_name(told["source"], "host"),
        target=str(instance.host),
        storage=Storage(told["storage"]),
        old_flavor=check_flavor(Flavor(**told["old_flavor"])),
        new_flavor=instance.flavor,
        was=VmState(told["was"]),
        reason=names.check_text(told["reason"], "reason") if told["reason"] is not None else None,
        operation=names.check_text(told["operation"], "operation", limit=64),
        created_at=created_at,
        updated_at=created_at,
    )
    numa = Fit.from_dict(told["numa"]).as_dict() if told["numa"] is not None else None
    return move, replace(instance, host=move.source, flavor=move.old_flavor, numa=numa)
