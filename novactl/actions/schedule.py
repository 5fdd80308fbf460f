"""schedule: what boot would choose. Nothing is changed, no host asked."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from novactl.actions import boot, placement, wanted, wishes
from novactl.actions.placement import Board
from novactl.actions.world import World
from novactl.db import catalogue
from novactl.db.session import Tx
from novactl.errors import NoValidHost
from novactl.objects.instance import Instance
from novactl.objects.request import BootRequest
from novactl.objects.states import VmState
from novactl.scheduler.fixes import nearest, of_many
from novactl.scheduler.select import ALTERNATES, Selection
from novactl.scheduler.spec import Spec


def schedule(
    world: World, request: BootRequest, *, explaining: bool = True
) -> tuple[dict[str, Any], NoValidHost | None]:
    """(the decision, the refusal when nobody passes or not so many): `{chosen, alternates, hosts, fixes}`,
    and `placed`: how many go to which host; `hosts` only when explaining. Raises NotFound and
    Refused as boot does."""

    def work(tx: Tx) -> tuple[dict[str, Any], NoValidHost | None]:
        board, spec = Board.of(tx), spec_for(tx, request)
        rows = board.explain(spec) if explaining else []
        selection = board.select(spec)
        names = wanted.names_of(request)
        ordered = [host.name for host in selection.ordered(ALTERNATES + 1)]
        chosen = list(_placed(selection, len(names)))
        alternates = [name for name in ordered if name not in chosen[:1]][:ALTERNATES]
        found = placement.explained(chosen[0] if chosen else None, alternates, rows, [])
        found["placed"] = dict(Counter(chosen))
        if len(chosen) == len(names):
            return found, None
        refusal = board.refusal(names[len(chosen)], spec)
        if chosen:
            found["fixes"], refusal.hint = [of_many(len(chosen))], of_many(len(chosen))
        else:
            found["fixes"] = nearest(board.hosts, spec, board.explain(spec))
        return found, refusal

    return world.db.read(work)


def _placed(selection: Selection, count: int) -> Iterator[str]:
    """The hosts of so many alike, one after the other, until none is left."""
    for pick in range(count):
        if (best := selection.best(pick)) is None:
            return
        yield best.name
        selection.take(best)


def spec_for(tx: Tx, request: BootRequest) -> Spec:
    """What an instance of the request would ask of its host."""
    flavor = wanted.sized(catalogue.flavor(tx, request.flavor), request)
    image = catalogue.image(tx, request.image) if request.image else None
    if image is not None:
        wanted.check_fit(flavor, image)
    wished, group = wishes.resolve(tx, request, request.project)
    draft = Instance(
        uuid=boot.NOBODY,
        name=request.name,
        project=request.project,
        vm_state=VmState.BUILDING,
        flavor=flavor,
        image=image,
        group_id=group.id if group else None,
        placement=wished,
    )
    return placement.spec_of(tx, draft, host=request.host)
