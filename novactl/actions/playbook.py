"""Playbooks: which targets one has, what is known of them, and the operation of each (docs/playbooks.md)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from novactl.actions import batches, newcomers, selection
from novactl.actions.hosts import Scans
from novactl.actions.playbook_steps import Maker
from novactl.actions.steps.commands import MarkHost
from novactl.actions.world import World
from novactl.db import hosts, instances, pages
from novactl.db.session import Tx
from novactl.engine.operation import Lock, Mode, Plan
from novactl.engine.step import Step
from novactl.errors import NotFound, Refused, UsageError
from novactl.files import playbook as files
from novactl.files import words
from novactl.files.conditions import Condition, ConditionError
from novactl.files.variables import values
from novactl.objects.host import Host
from novactl.objects.instance import Instance
from novactl.objects.names import near

Scope = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Narrow:
    """Which of a playbook's targets: `-l` and `--on`."""

    selectors: Sequence[str] = ()
    on: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    """A playbook with the values of its variables."""

    playbook: files.Playbook
    values: Mapping[str, Any]
    project: str
    scan: Scans
    ask: Callable[[str], bool]

    @property
    def scope(self) -> Scope:
        """What is known whatever the target."""
        return {**self.values, "playbook": self.playbook.name}

    @property
    def question(self) -> str:
        """What is asked before it runs."""
        return words.text(self.playbook.confirm or "run playbook {{ playbook }}?", self.scope)


def prepare(
    playbook: files.Playbook, given: dict[str, str], project: str, scan: Scans, ask: Callable[[str], bool]
) -> Run:
    """Raises UsageError for values that are missing or not acceptable."""
    found = values(playbook.vars, given)
    return Run(playbook=playbook, values=found, project=project, scan=scan, ask=ask)


def actions(world: World, run: Run, narrow: Narrow) -> list["PlaybookOn"]:
    """One for each target, in the order in which they come. Raises NotFound, or UsageError for a host that
    the playbook does not choose."""
    match run.playbook.kind:
        case "hosts":
            found = world.db.read(lambda tx: [host.name for host in _hosts(tx, run.playbook.hosts, narrow)])
        case "instances":
            found = world.db.read(lambda tx: [one.name for one in _instances(tx, run, narrow)])
        case kind:
            if narrow.selectors or narrow.on:
                raise UsageError(f"playbook {run.playbook.name} has no hosts or instances to choose from")
            found = [newcomers.request(run.playbook.new_host, run.scope).name if kind else run.playbook.name]
    return [PlaybookOn(run=run, target=name) for name in found]


def _hosts(tx: Tx, chosen: Any, narrow: Narrow) -> list[Host]:
    everything = hosts.everything(tx)
    for name in (*(chosen.names or ()), *narrow.on):
        hosts.get(tx, name)
    labels = {**chosen.labels, **_labels(narrow.selectors)}
    found = [
        host
        for host in everything
        if (chosen.names is None or host.name in chosen.names)
        and chosen.zone in (None, host.zone)
        and all(host.labels.get(key) == value for key, value in labels.items())
        and (not narrow.on or host.name in narrow.on)
    ]
    if missing := sorted(set(narrow.on) - {host.name for host in found}):
        raise UsageError(f"--on {missing[0]}: the playbook does not choose it")
    return found


def _labels(selectors: Sequence[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for part in (part for text in selectors for part in text.split(",")):
        key, sign, value = part.partition("=")
        if not key or not sign:
            raise UsageError(f"selector {part!r} is not of the form key=value")
        labels[key] = value
    return labels


def _instances(tx: Tx, run: Run, narrow: Narrow) -> list[Instance]:
    chosen = run.playbook.instances
    assert chosen is not None
    names = chosen.names or []
    known = {one.uuid for one in (instances.find(tx, name, run.project) for name in names)}
    for host in (*([chosen.on] if chosen.on else ()), *narrow.on):
        hosts.get(tx, host)
    terms = [*(f"{key}={value}" for key, value in chosen.metadata.items()), *chosen.tags, *narrow.selectors]
    wanted = selection.wanted(project=run.project, host=chosen.on, selectors=terms)
    return [
        one
        for one in pages.page(tx, wanted)
        if (not names or one.uuid in known) and (not narrow.on or one.host in narrow.on)
    ]


@dataclass(frozen=True, kw_only=True)
class PlaybookOn:
    """A playbook on one target: an action (actions.operate). What `when` says is decided when it is planned;
    from then on the journal has it, and the file is not asked again."""

    run: Run
    target: str
    kind: str = field(default="playbook", init=False)

    @property
    def project(self) -> str:
        return self.run.project

    def check(self, world: World) -> dict[str, Any] | None:
        """What a machine says of itself that the database does not know."""
        if self.run.playbook.new_host is None:
            return None
        wanted = newcomers.request(self.run.playbook.new_host, self.run.scope)
        return newcomers.ask(world, self.run.scan, wanted, self.run.ask)

    def plan(self, world: World, tx: Tx, op_id: str, newcomer: dict[str, Any] | None) -> Plan:
        scope, lock = self._known(tx, newcomer)
        left_out: list[dict[str, str]] = []
        steps = tuple(self._steps(world, scope, newcomer, left_out))
        alone = self.target == self.run.playbook.name
        return Plan(
            kind=self.kind,
            target=self.target if alone else f"{self.run.playbook.name} on {self.target}",
            target_uuid=None,
            project=self.project,
            request={
                "playbook": self.run.playbook.name,
                "target": self.target,
                "vars": dict(self.run.values),
            },
            locks=frozenset({lock}),
            attempt=steps,
            changes={"left_out": left_out},
        )

    def parent_of(self, others: Sequence["PlaybookOn"]) -> Plan:
        """The operation that all targets are children of."""
        playbook = self.run.playbook
        targets = [other.target for other in others]
        return Plan(
            kind=self.kind,
            target=f"{playbook.name} on {len(targets)} {playbook.kind}",
            target_uuid=None,
            project="",
            request={
                **batches.request(targets, playbook.serial, playbook.max_fail_percentage),
                "playbook": playbook.model_dump(mode="json", by_alias=True, exclude_unset=True),
                "vars": dict(self.run.values),
            },
            locks=frozenset(),
        )

    def _known(self, tx: Tx, newcomer: dict[str, Any] | None) -> tuple[Scope, Lock]:
        """What conditions and templates see, and the lock that keeps a second run away: not the host's or
        the instance's own, which the commands of the steps want to hold."""
        scope = {**self.run.scope, "target": self.target}
        match self.run.playbook.kind:
            case "hosts":
                scope["host"] = host_facts(hosts.get(tx, self.target))
            case "new_host":
                scope["host"] = newcomer
            case "instances":
                found = instances.find(tx, self.target, self.project)
                scope["instance"] = instance_facts(found)
                scope["host"] = host_facts(hosts.get(tx, found.host)) if found.host else None
                return scope, Lock("playbook-instance", found.uuid, Mode.EXCLUSIVE)
            case _:
                return scope, Lock("playbook-run", self.target, Mode.EXCLUSIVE)
        return scope, Lock("playbook-host", self.target, Mode.EXCLUSIVE)

    def _steps(
        self, world: World, scope: Scope, newcomer: dict[str, Any] | None, left_out: list[dict[str, str]]
    ) -> Iterator[Step]:
        place = newcomers.place(newcomer) if newcomer else None
        if newcomer and newcomer["fleet"] != world.fleet:
            yield MarkHost(host=self.target, title="fleet", place=place)
        maker = Maker(world, self.run.playbook, scope, self.target, place)
        for n, step in enumerate(self.run.playbook.steps):
            try:
                if step.when is None or Condition(step.when).holds(scope):
                    yield from maker.steps(step)
                else:
                    left_out.append({"name": step.name, "when": step.when})
            except (ConditionError, words.WordError) as error:
                where = f"playbook {self.run.playbook.name}: steps[{n}] ({step.name})"
                raise Refused(f"{where}: for {self.target} it {error}") from error


# --- what is known ---


def host_facts(host: Host) -> dict[str, Any]:
    """`host` in conditions and templates."""
    plain = asdict(host)
    kept = (
        "name address port user zone labels state enabled disabled_reason virt_type vcpus memory_mib disk_gib"
        " instances instances_path"
    ).split()
    told = ("arch", "hostname", "cpu_model", "libvirt_version", "qemu_version", "bridges")
    return {**{key: plain[key] for key in kept}, **{key: host.facts.get(key) for key in told}}


def instance_facts(found: Instance) -> dict[str, Any]:
    """`instance` in conditions and templates."""
    return {
        "name": found.name,
        "uuid": found.uuid,
        "status": found.status,
        "host": found.host,
        "flavor": found.flavor.name,
        "image": found.image.name if found.image else None,
        "vcpus": found.flavor.vcpus,
        "memory_mib": found.flavor.memory_mib,
        "metadata": dict(found.metadata),
        "tags": list(found.tags),
        "locked": found.locked,
    }


Verb = Callable[[list[str]], str | None]


def load(name: str, directories: Sequence[Path], verb: Verb) -> tuple[Path, files.Playbook]:
    """A playbook and its file. Raises NotFound; else as files.playbook.load()."""
    path = find(name, directories)
    return path, files.load(path, verb)


def words_of(step: files.Step) -> str:
    """What a step does, for people, with its names as they are."""
    if step.put is not None:
        return f"{step.put.path} ({step.put.mode})"
    if step.check is not None:
        return step.check.that
    return words.shown(step.novactl or step.run or (step.reboot.command if step.reboot else ()))


def known(directories: Sequence[Path]) -> dict[str, Path]:
    """Every playbook of these directories by its file's name; those of earlier ones come first."""
    found: dict[str, Path] = {}
    for directory in directories:
        for path in sorted(directory.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find(name: str, directories: Sequence[Path]) -> Path:
    """The file of a playbook: a path (with a / or .yaml), else a name. Raises NotFound."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise NotFound(f"playbook {name}: there is no such file")
        return Path(name)
    there = known(directories)
    if name not in there:
        close = near(name, there)
        hint = f"did you mean {', '.join(close)}?" if close else "novactl playbook list shows what exists"
        raise NotFound(f"playbook {name!r} does not exist", hint=hint, candidates=close)
    return there[name]
