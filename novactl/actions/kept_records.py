"""Instances and backups that only files of the store are left of, for a database that was lost or is an older
copy: their records lie beside those files."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from novactl.actions.world import Store
from novactl.db import adopted, adopted_backups, backups, catalogue
from novactl.db.session import Tx
from novactl.errors import NovactlError, Refused
from novactl.objects.image import Image
from novactl.objects.states import PowerState

Made = tuple[str, str, str]  # kind, name, and what is wrong: "" when it was made


def kept_record(store: Any, uuid: str, fleet: str) -> dict[str, Any] | None:
    """What KeepRecord has kept of an instance of this fleet; None when that is nothing that makes sense."""
    return all_kept(store, fleet).get(uuid)


def all_kept(store: Any, fleet: str) -> dict[str, dict[str, Any]]:
    """The same of all, by uuid."""
    found = {}
    for uuid, content in store.records().items():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told = json.loads(content)
            if told["fleet"] == fleet and told["record"]["uuid"] == uuid:
                found[uuid] = {**told, "epoch": int(told["epoch"])}
    return found


def restore(
    tx: Tx, store: Store, fleet: str, epochs: Mapping[str, int], known: Iterable[str]
) -> Iterator[Made]:
    """Each instance of the fleet that the store has a record of and nobody else (`known`: uuids), and its
    image. One whose domain is on a host came back since: its record there is the newer. `epochs`: the newest
    that hosts have seen of each."""
    for uuid, content in store.records().items():
        if uuid in known:
            continue
        try:
            told = json.loads(content)
            if told["fleet"] == fleet:
                yield from _restored(tx, uuid, told, epochs.get(uuid, 0))
        except (ValueError, KeyError, TypeError) as error:
            yield "instance", uuid, f"its record in the store makes no sense: {error}"
        except NovactlError as error:
            yield "instance", uuid, error.message


def _restored(tx: Tx, uuid: str, told: Mapping[str, Any], epoch: int) -> Iterator[Made]:
    if told["record"]["uuid"] != uuid:
        raise Refused(f"the record of {uuid} in the store is another's")
    made = adopted.restore_instance(
        tx,
        told["record"],
        host=None,
        power=PowerState.NOSTATE,
        epoch=max(int(told["epoch"]), epoch),
        generation=int(told["generation"]),
        sealed=told["sealed"],
    )
    yield "instance", made.name, ""
    if told["sealed"] is not None:
        yield "user-data", made.name, ""
    if made.shelved_image is not None and list_image(tx, made.shelved_image):
        yield "image", made.shelved_image.name, ""


def list_image(tx: Tx, image: Image) -> bool:
    """The image of a shelved instance is in the catalogue; whether it was not, and its name was free."""
    every = catalogue.images(tx)
    if any(image.id == one.id or image.name == one.name for one in every):
        return False
    catalogue.add_image(tx, image)
    return True


def restore_backups(tx: Tx, store: Store, fleet: str) -> Iterator[Made]:
    """Each backup of the fleet whose record and files the store has, and the database not; rotated as they
    were made."""
    known = {one.id for one in backups.everything(tx)}
    made = []
    for uuid, content in store.records("backups").items():
        if uuid in known:
            continue
        try:
            told = json.loads(content)
            if told["fleet"] == fleet:
                made.append(adopted_backups.backup_of(uuid, told["backup"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            yield "backup", uuid, f"its record in the store makes no sense: {error}"
        except NovactlError as error:
            yield "backup", uuid, error.message
    yield from adopted_backups.restore(tx, made, store.has)
