"""image verify: the bytes of images in the store and of base files on hosts are what they were."""

import concurrent.futures
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from novactl.actions import share
from novactl.actions.prune import PARALLEL, bases_needed
from novactl.actions.world import World
from novactl.db import catalogue, hosts
from novactl.db.session import Tx
from novactl.errors import NovactlError
from novactl.objects.place import Place

WORDS = {
    "ok": "",
    "missing": "is not in the store: hosts that have it boot from what they have",
    "corrupt": "is not what was added: set aside; add its file again",
    "corrupt-shared": "is not what was shared, and taken away: image push NAME --store brings it again",
    "corrupt-used": "is not what was published; guests use it: the next boot or start here fetches it",
    "corrupt-unused": "is not what was published: set aside; the next boot here fetches it",
    "unmarked": "has no sum: the next boot or start here fetches it",
}


class Files(Protocol):
    """images.store.LocalStore."""

    def has(self, sha256: str) -> bool: ...
    def verify(self, sha256: str) -> bool: ...
    def set_aside(self, sha256: str) -> None: ...


@dataclass(frozen=True)
class Verified:
    """One file: of the store (`host` None), of a shared one (its place) or a host's base file. `state`:
    one of WORDS; `error`: why a host could not tell, then `file` is empty."""

    host: str | None
    file: str
    image: str | None
    state: str
    error: NovactlError | None = None


def verify(
    world: World, store: Files, name: str | None, on: Sequence[str] | None, *, act: bool = True
) -> Iterator[Verified]:
    """Every file of the image (None: of all, and what else is in _base), where it lies: in the store, where
    it is shared and on all hosts, or on those named. `act`: what is corrupt is not used any more. Raises
    NotFound."""

    def known(tx: Tx) -> tuple[dict[str, str], list[str]]:
        found = catalogue.images(tx) if name is None else [catalogue.image(tx, name)]
        names = {sha256: image.name for image in found for sha256 in image.sums}
        if on is None:
            return names, [host.name for host in hosts.everything(tx)]
        return names, [hosts.get(tx, host).name for host in on]

    files, wanted = world.db.read(known)
    if on is None:
        yield from _in_store(store, files, act)
        for place in world.db.read(share.places):
            yield from _in_place(world, place, files, act)
    only = None if name is None else set(files)
    with concurrent.futures.ThreadPoolExecutor(max_workers=PARALLEL) as pool:
        for rows in pool.map(lambda host: _on_host(world, host, files, only, act), wanted):
            yield from rows


def _in_store(store: Files, files: dict[str, str], act: bool) -> Iterator[Verified]:
    for sha256, image in sorted(files.items(), key=lambda item: (item[1], item[0])):
        if not store.has(sha256):
            state = "missing"
        elif store.verify(sha256):
            state = "ok"
        else:
            state = "corrupt"
            if act:
                store.set_aside(sha256)
        yield Verified(None, sha256, image, state)


def _in_place(world: World, place: Place, files: dict[str, str], act: bool) -> list[Verified]:
    """What the shared store has of them; what was never brought there is not missing."""
    try:
        host = world.hypervisor(place.host)
        try:
            there = sorted(file for file in host.store_files(place.where) if file in files)
            states = [(file, host.store_verify(place.where, file, act=act)) for file in there]
        finally:
            host.hang_up()
    except NovactlError as error:
        return [Verified(str(place), "", None, "unknown", error)]
    worded = [(file, "corrupt-shared" if state == "corrupt" else state) for file, state in states]
    return [Verified(str(place), file, files[file], state) for file, state in worded if state != "gone"]


def _on_host(
    world: World, host: str, files: dict[str, str], only: set[str] | None, act: bool
) -> list[Verified]:
    try:
        hypervisor = world.hypervisor(host)
        try:
            needed = world.db.read(lambda tx: bases_needed(tx, host))
            rows = [
                Verified(host, base, files.get(base), hypervisor.verify_base(base, needed, act=act))
                for base in sorted(hypervisor.bases())
                if only is None or base in only
            ]
            return [row for row in rows if row.state != "gone"]  # pruned meanwhile
        finally:
            hypervisor.hang_up()
    except NovactlError as error:
        return [Verified(host, "", None, "unknown", error)]
