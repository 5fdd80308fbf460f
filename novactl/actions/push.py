"""image push: an image's files are in the base files of hosts before anybody boots from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from novactl.actions import guest, holders
from novactl.actions.steps.distribution import PullBase
from novactl.actions.steps.images import FetchBase
from novactl.actions.world import World
from novactl.db import catalogue, hosts
from novactl.db.session import Tx
from novactl.engine.operation import Lock, Mode, Plan
from novactl.engine.step import Step
from novactl.errors import NotFound, Refused
from novactl.objects.host import Host
from novactl.objects.image import Image

NEAREST = 3
"""How many hosts before it a host may turn to, one after the other, before it turns to the store."""


@dataclass(frozen=True, kw_only=True)
class Push:
    """One host of a push: an action (actions.operate). `before`: the hosts that it may get the image from,
    nearest first; none: from the store. `there`: the files that it has."""

    image: str
    target: str
    before: tuple[str, ...] = ()
    there: frozenset[str] = frozenset()
    kind: str = field(default="push", init=False)
    project: str = field(default="", init=False)

    def check(self, world: World) -> None:
        """chain() has looked at all hosts at once."""

    def plan(self, world: World, tx: Tx, op_id: str, facts: None) -> Plan | None:
        image = _made(tx, self.image)
        host = hosts.get(tx, self.target)
        if host.state == "fenced":
            raise Refused(f"host {host.name} is fenced", hint="audit --heal cleans it once it is back")
        steps: list[Step] = [
            self._chained(step) if self.before else step
            for step in guest.image_steps(image, self.target, any_flavor=True)
            if step.sha256 not in self.there
        ]
        if not steps:
            return None
        return Plan(
            kind=self.kind,
            target=self.target,
            target_uuid=None,
            project=self.project,
            request={"image": image.name, "target": self.target, "before": list(self.before)},
            locks=frozenset({Lock("image", image.id, Mode.SHARED), Lock("host", self.target, Mode.SHARED)}),
            attempt=tuple(steps),
            host=self.target,
        )

    def _chained(self, step: FetchBase) -> PullBase:
        return PullBase(**{**vars(step), "sources": list(self.before)})

    def parent_of(self, others: Sequence["Push"]) -> Plan:
        """The operation that all hosts of the push are children of."""
        targets = [other.target for other in others]
        return Plan(
            kind=self.kind,
            target=f"{self.image} to {len(targets)} hosts",
            target_uuid=None,
            project=self.project,
            request={"targets": targets, "image": self.image},
            locks=frozenset(),
        )


def chain(world: World, name: str, names: Sequence[str] | None) -> list[Push]:
    """A push to each of the hosts (None: to all that are up), in the order in which it goes from one to the
    next: neighbours are in the same zone. The first one gets it from the store; when that has it not, from
    where it is shared, or from hosts that have it. Raises NotFound, Refused for one that is not made yet."""

    def chosen(tx: Tx) -> tuple[Image, list[Host]]:
        image = _made(tx, name)
        if names is not None:
            return image, [hosts.get(tx, one) for one in dict.fromkeys(names)]
        everything = [host for host in hosts.everything(tx) if host.state == "up"]
        return image, sorted(everything, key=lambda host: (host.zone or "", host.name))

    image, found = world.db.read(chosen)
    wanted = frozenset(step.sha256 for step in guest.image_steps(image, "", any_flavor=True))
    there = holders.look(world, wanted, [host.name for host in found])
    have = [host for host, files in there.items() if files == wanted]
    behind = [] if _stored(world, wanted) else [*have, *_sharing(world, wanted)][-NEAREST:]
    pushes = []
    for host, files in there.items():
        pushes.append(Push(image=image.name, target=host, before=tuple(reversed(behind)), there=files))
        if host not in have:
            behind = [*behind, host][-NEAREST:]
    return pushes


def _made(tx: Tx, name: str) -> Image:
    image = catalogue.image(tx, name)
    if image.status != "active":
        raise Refused(f"image {image.name} is {image.status}")
    return image


def _sharing(world: World, files: frozenset[str]) -> list[str]:
    """The places where operators share all of them."""
    places = world.db.read(lambda tx: holders.shared(tx, files))
    return [place for place, there in holders.look(world, files, places).items() if there == files]


def _stored(world: World, files: frozenset[str]) -> bool:
    try:
        return all(world.store.path(file) for file in files)
    except NotFound:
        return False
