"""Who has files of images: the places that operators share, and the base files of hosts."""

import concurrent.futures
from collections.abc import Collection, Iterable, Mapping, Sequence

from novactl.actions.prune import PARALLEL
from novactl.actions.world import World
from novactl.db import catalogue, hosts, settings
from novactl.db.session import Tx
from novactl.errors import NotFound, NovactlError
from novactl.objects.place import Place, places_of

ENOUGH = 3  # sources of one file
Silent = dict[str, NovactlError]


def holders(
    world: World, files: Collection[str], first: Iterable[str] = (), silent: Silent | None = None
) -> dict[str, list[str]]:
    """Places and hosts that have each of the files, those to ask first before others; some of them, when
    many have it. One that cannot tell has none, and is in `silent`."""
    asked, later = world.db.read(lambda tx: _candidates(tx, files, first))
    found: dict[str, list[str]] = {file: [] for file in files}
    rounds = [asked, *(later[n : n + PARALLEL] for n in range(0, len(later), PARALLEL))]
    for sources in rounds:
        if all(found.values()):
            break
        for source, there in look(world, files, sources, silent).items():
            for file in there:
                found[file].append(source)
    return {file: sources[:ENOUGH] for file, sources in found.items()}


def sought(world: World, wanted: Mapping[str, str], first: Iterable[str] = ()) -> dict[str, list[str]]:
    """holders() of files that the store here does not have ({file: what it is}). When nobody has one of them,
    raises NotFound, or the error of the first that cannot tell."""
    silent: Silent = {}
    if not wanted:
        return {}
    found = holders(world, wanted, first, silent)
    missing = ", ".join(wanted[file] for file, sources in found.items() if not sources)
    if not missing:
        return found
    words = f"{missing}: neither the store here nor any host that answers has it"
    for name, error in silent.items():
        raise type(error)(f"{words}; {name} cannot tell: {error.message}", hint=error.hint)
    raise NotFound(
        words,
        hint="the store of whoever added it has it: novactl image push NAME --store shares it from there",
    )


def look(
    world: World, files: Collection[str], sources: Sequence[str], silent: Silent | None = None
) -> dict[str, frozenset[str]]:
    """Which of the files each of them has; none of those of one that does not answer."""

    def one(source: str) -> frozenset[str]:
        try:
            return frozenset(file for file in files if _has(world, source, file))
        except NovactlError as error:
            if silent is not None:
                silent[source] = error
            return frozenset()

    with concurrent.futures.ThreadPoolExecutor(max_workers=PARALLEL) as pool:
        return dict(zip(sources, pool.map(one, sources), strict=True))


def _has(world: World, source: str, file: str) -> bool:
    if ":" not in source:
        return world.hypervisor(source).base_state(file)[0]
    place = Place.parse(source)
    return world.hypervisor(place.host).store_state(place.where, file)[0]


def shared(tx: Tx, files: Collection[str]) -> list[str]:
    """The places that may have them: today's, and those that images of these files name."""
    now = settings.get(tx, "image_store")
    named = [
        str(place)
        for image in catalogue.images(tx)
        if image.sums.intersection(files)
        for place in places_of(image.locations)
    ]
    return list(dict.fromkeys([*([now] if now else []), *named]))


def _candidates(tx: Tx, files: Collection[str], first: Iterable[str]) -> tuple[list[str], list[str]]:
    """Whom to ask at once, and whom after them: hosts with instances of these images before others."""
    up = [host.name for host in hosts.everything(tx) if host.state == "up"]
    using = {
        str(row["host"])
        for file in files
        for row in tx.all(
            "SELECT DISTINCT host FROM instances WHERE host IS NOT NULL AND image LIKE :file",
            file=f"%{file}%",
        )
    }
    asked = [*shared(tx, files), *(name for name in dict.fromkeys(first) if name in up)]
    others = [name for name in up if name not in asked]
    return asked, sorted(others, key=lambda name: name not in using)
