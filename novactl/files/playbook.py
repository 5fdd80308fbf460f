"""A playbook: what its file says, checked as far as that can be without a fleet (docs/playbooks.md)."""

import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from novactl.errors import Refused
from novactl.files import document, words
from novactl.files.conditions import Condition, ConditionError
from novactl.files.document import Place
from novactl.files.variables import Variable, refuse_secrets
from novactl.objects.names import HOST_PATH

SCRIPTS = {**dict.fromkeys("sh bash dash ash ksh zsh su runuser python3".split(), "c"), "perl": "e"}
"""Programs that take a script as a word, and the letter of the option before it."""

OURS = ("--output", "--column", "--db", "--config", "--no-wait", "--yes", "--dry-run")
OUR_LETTERS = ("-o", "-c", "-y")
"""Options of `novactl:` steps that the run decides; after a letter its value or further ones may follow."""

FACTS = {"hosts": ("host",), "instances": ("instance", "host"), "new_host": ("host",), None: ()}
ALWAYS = ("target", "playbook")
"""What each kind of playbook may name, beside its variables and what its steps register."""

Word = Annotated[str, Field(max_length=65536)]
Words = Annotated[list[Word], Field(min_length=1)]
Seconds = Annotated[int, Field(ge=1, le=604800)]


class Part(BaseModel):
    """Strict: a key that is not known and a value of another type are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Hosts(Part):
    """Which hosts: all conditions hold."""

    all: Literal[True] | None = None
    names: Words | None = None
    labels: dict[str, str] = {}
    zone: str | None = None

    @model_validator(mode="after")
    def _chosen(self) -> "Hosts":
        if not self.model_fields_set:
            raise ValueError("chooses nothing: all, names, labels or zone")
        return self


class Instances(Part):
    """Which instances of the project: all conditions hold."""

    all: Literal[True] | None = None
    names: Words | None = None
    metadata: dict[str, str] = {}
    tags: list[str] = []
    on: str | None = None

    @model_validator(mode="after")
    def _chosen(self) -> "Instances":
        if not self.model_fields_set:
            raise ValueError("chooses nothing: all, names, metadata, tags or on")
        return self


class NewHost(Part):
    """A machine that is no host of the fleet yet, and how it is reached."""

    name: str
    address: str
    user: str = "root"
    port: str = "22"
    identity: str | None = None
    jump: str | None = None
    fingerprint: str | None = None


class Put(Part):
    """A file on the host."""

    path: str
    content: str | None = None
    template: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = None
    mode: Annotated[str, Field(pattern=r"^0?[0-7]{3}$")] = "0644"

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if "{{" not in value and not HOST_PATH.fullmatch(value):
            raise ValueError("is not an absolute path of letters, digits and . _ + @ : -")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> "Put":
        if (self.content is None) == (self.template is None):
            raise ValueError("needs content or template, and not both")
        return self


class Reboot(Part):
    """The host boots anew: what makes it do so, and how long it may take until libvirt answers."""

    command: Words = ["systemctl", "reboot"]
    timeout: Seconds = 900


class Check(Part):
    """Something that must hold, or the run of this target ends."""

    that: str
    message: str


class Step(Part):
    """One step: exactly one of the ACTS."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    novactl: Words | None = None
    run: Words | None = None
    put: Put | None = None
    reboot: Reboot | None = None
    check: Check | None = None
    when: str | None = None
    unless: Words | None = None
    undo: Words | None = None
    stdin: str | None = None
    timeout: Seconds | None = None
    accept: list[Annotated[int, Field(ge=0, le=255)]] | None = None
    register_: Annotated[str | None, Field(alias="register", pattern=r"^[a-z][a-z0-9_]*$")] = None

    @model_validator(mode="after")
    def _one_act(self) -> "Step":
        acts = [act for act in ACTS if getattr(self, act) is not None]
        if len(acts) != 1:
            told = f" (it has {', '.join(acts)})" if acts else ""
            raise ValueError(f"needs exactly one of {', '.join(ACTS)}{told}")
        (act,) = acts
        for key in sorted(self.model_fields_set - {"name", "when", act}):
            if act not in MODIFIERS[key]:
                raise ValueError(f"{key.rstrip('_')} goes with {' or '.join(MODIFIERS[key])}, not with {act}")
        return self

    @property
    def act(self) -> str:
        return next(act for act in ACTS if getattr(self, act) is not None)


ACTS = ("novactl", "run", "put", "reboot", "check")
MODIFIERS = {
    "unless": ("run", "put"),
    "undo": ("novactl", "run", "put"),
    "stdin": ("run",),
    "timeout": ("novactl", "run"),
    "accept": ("novactl", "run"),
    "register_": ("novactl",),
}
"""What may stand beside which act; name and when beside all."""


class Playbook(Part):
    """All of a file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    description: str
    vars: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Variable] = {}
    hosts: Hosts | None = None
    instances: Instances | None = None
    new_host: NewHost | None = None
    serial: Annotated[int, Field(ge=1)] | None = None
    max_fail_percentage: Annotated[int, Field(ge=0, le=100)] = 0
    confirm: str | None = None
    steps: Annotated[list[Step], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_kind(self, info: ValidationInfo) -> "Playbook":
        kinds = [kind for kind in FACTS if kind and getattr(self, kind) is not None]
        if len(kinds) > 1:
            raise ValueError(f"has {' and '.join(kinds)}: one of them")
        return self

    @property
    def kind(self) -> str | None:
        """hosts, instances, new_host, or None for one that runs once."""
        return next((kind for kind in FACTS if kind and getattr(self, kind) is not None), None)


def load(path: Path, verb: Callable[[list[str]], str | None] = lambda words: None) -> Playbook:
    """Raises UsageError that names each wrong place; Refused when others may write the file. `verb` tells
    what is wrong with the first words of a `novactl:` line."""
    try:
        mode = path.stat().st_mode
    except OSError:
        mode = 0  # load() below says what it is
    if mode & stat.S_IWOTH:
        raise Refused(f"{path}: everybody may write it", hint=f"chmod o-w {path}")
    found = document.load(path)
    playbook = found.as_model(Playbook)
    if faults := [*_faults(playbook), *_verb_faults(playbook, verb)]:
        raise found.refuse(faults)
    return playbook


# --- what the model cannot see ---


def _verb_faults(playbook: Playbook, verb: Callable[[list[str]], str | None]) -> Iterator[tuple[Place, str]]:
    for n, step in enumerate(playbook.steps):
        for key, words_ in (("novactl", step.novactl), ("undo", step.undo if step.novactl else None)):
            if words_ and (wrong := verb(words_)):
                yield ("steps", n, key), wrong


def _faults(playbook: Playbook) -> Iterator[tuple[Place, str]]:
    known = {*ALWAYS, *FACTS[playbook.kind]}
    for name in playbook.vars:
        if name in known | {"has"}:
            yield ("vars", name), "is the name of a fact"
    for name in refuse_secrets(playbook.vars):
        yield ("vars", name), "looks like a secret, and a playbook carries none: what it says is journaled"
    variables = set(playbook.vars) - known
    lists = {name for name, variable in playbook.vars.items() if variable.type == "list"}
    if playbook.new_host is not None:
        for key, text in playbook.new_host.model_dump(exclude_none=True).items():
            yield from _unknown(("new_host", key), text, variables - lists)
    if playbook.confirm is not None:
        yield from _unknown(("confirm",), playbook.confirm, (variables - lists) | {"playbook"})
    registered: set[str] = set()
    for n, step in enumerate(playbook.steps):
        yield from _step_faults(("steps", n), playbook, step, known | variables, registered, lists)
        if step.register_:
            if step.register_ in known | variables | registered:
                yield ("steps", n, "register"), f"{step.register_} is the name of something else"
            registered.add(step.register_)


def _step_faults(
    place: Place, playbook: Playbook, step: Step, known: set[str], registered: set[str], lists: set[str]
) -> Iterator[tuple[Place, str]]:
    if step.act in ("run", "put", "reboot") and playbook.kind not in ("hosts", "new_host"):
        yield (*place, step.act), "needs a host: the playbook has no hosts: or new_host:"
    if step.when is not None:
        yield from _condition((*place, "when"), step.when, known)
    if step.check is not None:
        yield from _condition((*place, "check", "that"), step.check.that, known | registered)
        yield from _unknown((*place, "check", "message"), step.check.message, known - lists)
    splices = lists | (registered if step.act == "novactl" else set())
    commands = {"novactl": step.novactl, "run": step.run, "unless": step.unless, "undo": step.undo}
    for key, argv in commands.items():
        later = splices | {step.register_} if key == "undo" and step.register_ else splices
        yield from _argv((*place, key), argv or [], known | later, later)
        if key != "novactl" and not (key == "undo" and step.act == "novactl"):
            yield from _script((*place, key), argv or [])
    if step.reboot is not None:
        yield from _argv((*place, "reboot", "command"), step.reboot.command, known, lists)
        yield from _script((*place, "reboot", "command"), step.reboot.command)
    for key in ("novactl", "undo") if step.act == "novactl" else ():
        yield from _line((*place, key), commands[key] or [])
    for where, text in (("stdin", step.stdin), *(_put_texts(step.put) if step.put else ())):
        if text is not None:
            inside = (where,) if where == "stdin" else ("put", where)
            yield from _unknown((*place, *inside), text, known - lists)


def _put_texts(put: Put) -> list[tuple[str, str | None]]:
    return [("path", put.path), ("content", put.content)]


def _condition(place: Place, text: str, known: set[str]) -> Iterator[tuple[Place, str]]:
    try:
        for root in sorted(Condition(text).roots - known):
            yield place, f"{root} is not known: there are {', '.join(sorted(known))}"
    except ConditionError as error:
        yield place, f"{error} (it is {text!r})"


def _unknown(place: Place, text: str, known: set[str]) -> Iterator[tuple[Place, str]]:
    try:
        for name in words.names(text):
            if name.partition(".")[0] not in known:
                yield place, f"{name} is not known: there are {', '.join(sorted(known)) or 'no names'}"
    except words.WordError as error:
        yield place, f"{error} (it is {text!r})"


def _argv(place: Place, argv: list[str], known: set[str], splices: set[str]) -> Iterator[tuple[Place, str]]:
    for n, word in enumerate(argv):
        alone = words.PLACE.fullmatch(word)
        yield from _unknown((*place, n), word, known if alone else known - splices)


def _script(place: Place, argv: list[str]) -> Iterator[tuple[Place, str]]:
    """A shell's script is the playbook's own text: values reach it as its arguments."""
    if argv and words.PLACE.search(argv[0]) and len(argv) > 1:
        yield (*place, 0), "the program of a command with arguments must be named here"
    for n, word in enumerate(argv):
        if (script := _script_of(argv, n, SCRIPTS.get(word.rpartition("/")[2], ""))) and "{{" in argv[script]:
            told = "a script holds no {{ }}: values are its arguments (sh -c SCRIPT sh VALUE…)"
            yield (*place, script), told


def _script_of(argv: list[str], n: int, letter: str) -> int:
    """Where the script of a program at n stands, which the option with that letter announces; 0 for none."""
    end = next((m for m in range(n + 1, len(argv)) if not argv[m].startswith("-")), 0)
    announced = any(letter in option for option in argv[n + 1 : end] if option[:2] != "--")
    return end if letter and announced else 0


def _line(place: Place, argv: list[str]) -> Iterator[tuple[Place, str]]:
    """What a `novactl:` line may not hold."""
    for n in ours(argv):
        yield (*place, n), f"{argv[n]}: the run decides that"
    if argv[:2] == ["playbook", "run"]:
        yield (*place, 0), "a playbook does not run playbooks"
    if argv and "{{" in argv[0]:
        yield (*place, 0), "the verb must be named here"


def ours(argv: Sequence[object]) -> list[int]:
    """Where a `novactl:` line, its values filled in or not, says what the run decides."""
    end = argv.index("--") if "--" in argv else len(argv)
    found = [(n, word) for n, word in enumerate(argv[:end]) if isinstance(word, str)]
    return [n for n, word in found if word.partition("=")[0] in OURS or word.startswith(OUR_LETTERS)]
