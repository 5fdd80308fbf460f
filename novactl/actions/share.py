"""The image store that operators share: what it is, and which files are in it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Protocol

from novactl.actions.outcome import Outcome
from novactl.actions.steps.stores import DropStored, RecordLocation, StoreFile
from novactl.actions.world import World
from novactl.db import catalogue, hosts, settings
from novactl.db.session import Tx
from novactl.engine.operation import Lock, Mode, Plan
from novactl.engine.step import Step
from novactl.errors import Busy, NotFound, NovactlError, Refused
from novactl.objects.host import Host
from novactl.objects.image import Image
from novactl.objects.place import Place, places_of


class Operating(Protocol):
    """What is needed of operate.Operator."""

    world: World

    def run(self, actions: Sequence[Any]) -> list[Outcome]: ...


def place_of(tx: Tx) -> Place | None:
    """Where images are shared from now on."""
    text = settings.get(tx, "image_store")
    return None if text is None else Place.parse(text)


def shared_in(tx: Tx) -> list[str]:
    """Names of the images that are in today's shared store."""
    place = settings.get(tx, "image_store")
    return [image.name for image in catalogue.images(tx) if place in image.locations]


def set_place(world: World, place: Place | None) -> int | None:
    """Images are shared there from now on; what other places have stays there. Returns the free bytes of a
    directory. Raises NotFound, Refused, and HostFault when the host cannot use it."""
    free = None
    if place is not None:
        host = world.db.read(lambda tx: hosts.get(tx, place.host))
        _check_apart(place, host)
        free = world.hypervisor(place.host).store_ready(place.where)
    value = None if place is None else str(place)
    world.db.write(lambda tx: settings.put(tx, "image_store", value))
    return free


def _check_apart(place: Place, host: Host) -> None:
    """Raises Refused for a directory among the instances'."""
    here, there = PurePosixPath(place.where), PurePosixPath(host.instances_path)
    if place.kind == "host" and (here.is_relative_to(there) or there.is_relative_to(here)):
        raise Refused(
            f"image store {place}: {host.name} has its instances in {there}",
            hint="choose a directory beside it",
        )


@dataclass(frozen=True)
class Looked:
    """What check saw: the image, and which of its files are in the shared store."""

    image: Image
    there: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Share:
    """An image's files are in the shared store: an action (actions.operate)."""

    image: str
    place: Place
    kind: str = field(default="push", init=False)
    project: str = field(default="", init=False)

    @property
    def target(self) -> str:
        return str(self.place)

    def check(self, world: World) -> Looked:
        """Raises NotFound for a file that is neither there nor in the store here, Refused for an image that
        is not made yet."""
        image = world.db.read(lambda tx: catalogue.image(tx, self.image))
        if image.status != "active":
            raise Refused(f"image {image.name} is {image.status}")
        files = _files(image)
        host, where = world.hypervisor(self.place.host), self.place.where
        there = frozenset(sha256 for _, sha256, _ in files if host.store_state(where, sha256)[0])
        for what, sha256, _ in files:
            if sha256 not in there and not world.store.has(sha256):
                raise NotFound(
                    f"{what} is not in the store here", hint="the store of whoever added it has it"
                )
        return Looked(image, there)

    def plan(self, world: World, tx: Tx, op_id: str, looked: Looked) -> Plan | None:
        """What was there may have been nobody's when check looked, and be gone: only a location that the
        record names holds it."""
        image, place = catalogue.image(tx, self.image), self.place
        if (image.id, image.status, image.sums) != (looked.image.id, "active", looked.image.sums):
            raise Busy(f"image {image.name}: was changed by another command just now", hint="try again")
        if place_of(tx) != place:
            raise Refused(
                f"images are not shared in {place} any more", hint="novactl image store shows where"
            )
        there = looked.there if str(place) in image.locations else frozenset()
        steps: list[Step] = [
            StoreFile(host=place.host, place=str(place), what=what, sha256=sha256, size_bytes=size)
            for what, sha256, size in _files(image)
            if sha256 not in there
        ]
        if str(place) not in image.locations:
            steps.append(RecordLocation(image=image.id, place=str(place)))
        if not steps:
            return None
        files = {Lock("file", sha256, Mode.SHARED) for sha256 in image.sums}
        return _plan(self, tx, steps, files | {Lock("image", image.id, Mode.SHARED)}, image=image.name)


@dataclass(frozen=True, kw_only=True)
class Unshare:
    """Those of the files that nothing needs any more are gone from the shared store: an action."""

    place: Place
    files: tuple[str, ...]
    kind: str = field(default="image-prune", init=False)
    project: str = field(default="", init=False)

    @property
    def target(self) -> str:
        return str(self.place)

    def check(self, world: World) -> None:
        """Nothing that a host would know."""

    def plan(self, world: World, tx: Tx, op_id: str, facts: None) -> Plan | None:
        """Nobody shares one of them meanwhile: an image that needs it is in the catalogue before that."""
        gone = sorted(set(self.files) - catalogue.stored_files_in_use(tx))
        if not gone:
            return None
        steps = [DropStored(host=self.place.host, place=str(self.place), sha256=sha256) for sha256 in gone]
        return _plan(self, tx, steps, {Lock("file", sha256, Mode.EXCLUSIVE) for sha256 in gone})


def _plan(
    action: Share | Unshare, tx: Tx, steps: Iterable[Step], locks: Iterable[Lock], **request: Any
) -> Plan:
    host = hosts.get(tx, action.place.host)
    if host.state == "fenced":
        raise Refused(f"host {host.name} is fenced", hint="audit --heal cleans it once it is back")
    return Plan(
        kind=action.kind,
        target=action.target,
        target_uuid=None,
        project="",
        request={"target": action.target, **request},
        locks=frozenset({*locks, Lock("host", host.name, Mode.SHARED)}),
        attempt=tuple(steps),
        host=host.name,
    )


def _files(image: Image) -> list[tuple[str, str, int]]:
    """(what it is, SHA-256, bytes) of each file that it is made of."""
    wanted = [(f"image {image.name}", image.sha256, image.size_bytes)]
    wanted += [
        (f"{part} of image {image.name}", sha256, size)
        for part, sha256, size in (
            ("kernel", image.kernel_sha256, image.kernel_size_bytes),
            ("initrd", image.initrd_sha256, image.initrd_size_bytes),
        )
        if sha256
    ]
    wanted += [
        (f"{file} of image {image.name}", disk["sha256"], disk["size_bytes"])
        for file, disk in image.disks.items()
    ]
    return list({sha256: (what, sha256, size) for what, sha256, size in wanted}.values())


def unshared(image: Image) -> list[Unshare]:
    """What takes the files of an image that was deleted from where they were shared."""
    return [Unshare(place=place, files=tuple(image.sums)) for place in places_of(image.locations)]


def places(tx: Tx) -> list[Place]:
    """Today's shared store, and others that images name."""
    named = [place for image in catalogue.images(tx) for place in places_of(image.locations)]
    today = place_of(tx)
    return list(dict.fromkeys([*([today] if today else []), *named]))


@dataclass(frozen=True)
class Pruned:
    """What pruning one place came to: files that nothing needs, and whether they are gone."""

    place: Place
    files: tuple[str, ...] = ()
    removed: bool = False
    error: NovactlError | None = None


def prune(operator: Operating, older: int, *, remove: bool) -> Iterator[Pruned]:
    """Files in the shared stores that nothing needs and that came `older` seconds ago or earlier are gone."""
    world = operator.world
    for place in world.db.read(places):
        try:
            store = world.hypervisor(place.host)
            there = store.store_files(place.where)
            used = world.db.read(catalogue.stored_files_in_use)
            old = tuple(sorted(name for name, age in there.items() if name not in used and age >= older))
            if remove and old:
                (outcome,) = operator.run([Unshare(place=place, files=old)])
                if outcome.error is not None:
                    raise outcome.error
                left = store.store_files(place.where)  # an image may have come to need one meanwhile
                old = tuple(name for name in old if name not in left)
            yield Pruned(place, old, removed=remove and bool(old))
        except NovactlError as error:
            yield Pruned(place, error=error)


def refuse_holder(tx: Tx, host: str) -> None:
    """Raises Refused when images are shared on that host."""
    held: Sequence[Place] = [place for place in places(tx) if place.host == host]
    if held:
        raise Refused(
            f"host {host} has the image store {held[0]}",
            hint="novactl image store PLACE shares them elsewhere; image push NAME --store brings them",
        )
