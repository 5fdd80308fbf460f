"""novactl image store, and what add and delete do there."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from novactl.cli import render, verbs
from novactl.errors import NotFound, NovactlError, UsageError

if TYPE_CHECKING:
    from novactl.objects.image import Image


def store(
    ctx: typer.Context,
    place: Annotated[
        str | None, typer.Argument(metavar="PLACE", help="host:NAME:/DIRECTORY or rbd:NAME:POOL.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Share images nowhere.")] = False,
) -> None:
    """Show, or set, where operators share images.

    novactl image store

    novactl image store host:kvm1:/var/lib/novactl/images

    Image files that are added, or made by snapshot or shelve, are brought there from now on, and whoever does
    not have a file gets it from there; novactl image push NAME --store brings an older one.
    """
    from novactl.actions import share
    from novactl.objects.place import Place

    session = ctx.obj
    if place is not None and none:
        raise UsageError("give a place or --none, one of them")
    world = session.cloud.world
    if place is not None or none:
        share.set_place(world, Place.parse(place) if place is not None else None)
    found, images = session.cloud.db.read(lambda tx: (share.place_of(tx), share.shared_in(tx)))
    free = None if found is None else world.hypervisor(found.host).store_ready(found.where)
    render.show(session, {"place": found and str(found), "free_bytes": free, "images": images})


def brought(session: Any, image: "Image", done: str = "added") -> "Image":
    """The image, brought to where images are shared; unchanged when that is nowhere. Raises what kept it
    from getting there, though it is there (`done`: how)."""
    from novactl.actions import share
    from novactl.db import catalogue

    place = session.cloud.db.read(share.place_of)
    if place is None:
        return image
    (outcome,) = session.cloud.operator.run([share.Share(image=image.name, place=place)])
    session.progress.clear()
    if outcome.error is not None:
        session.tell(
            f"image {image.name} is {done}, and not in {place}: novactl image push {image.name} --store"
        )
        raise outcome.error
    found: Image = session.cloud.db.read(lambda tx: catalogue.image(tx, image.id))
    return found


def bring_shelved(session: Any, names: Iterable[str]) -> NovactlError | None:
    """What is kept of those of these instances that are shelved is brought there too; the first error of one
    that could not be."""
    from novactl.actions import share
    from novactl.db import catalogue

    place = session.cloud.db.read(share.place_of)
    errors: list[NovactlError] = []
    for name in names if place is not None else ():
        try:
            kept = verbs.find(session, name).shelved_image
            image = None if kept is None else session.cloud.db.read(partial(catalogue.image, name=kept.id))
            if image is not None and str(place) not in image.locations:
                brought(session, image, "kept")
        except NotFound:  # there is no such instance, or its image was deleted
            continue
        except NovactlError as error:
            verbs.tell_error(name, error)
            errors.append(error)
    return errors[0] if errors else None


def taken_away(session: Any, image: "Image") -> None:
    """What no other image needs of the deleted one is gone from where it was shared; a place that does not
    answer keeps it until it is pruned."""
    from novactl.actions import share

    for action in share.unshared(image):
        error: NovactlError | None = None
        try:
            (outcome,) = session.cloud.operator.run([action])
            error = outcome.error
        except NovactlError as caught:
            error = caught
        if error is not None:
            verbs.tell_error(action.target, error)
            session.tell(f"{action.target} keeps its files until novactl image prune --all")
    session.progress.clear()
