"""What an operation is made of: named effects, each with its undo beside it.

A step is its own journal record: `{type, version, fields}` as JSON, from a closed registry.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from types import UnionType
from typing import Any, ClassVar, Protocol, get_args, get_origin, get_type_hints

from novactl.errors import DatabaseError


class Kind(StrEnum):
    """What a step means for those before it."""

    COMPENSATABLE = "compensatable"  # undo() takes it back
    PIVOT = "pivot"  # the point of no return; happened() tells which side we are on
    RETRIABLE = "retriable"  # after the pivot: only ever forward


class Answer(StrEnum):
    """What the world says of a pivot that has no record."""

    NO = "no"
    YES = "yes"
    IN_PROGRESS = "in progress"
    UNKNOWN = "unknown"


class Context(Protocol):
    """What a step may ask of its operation while it acts."""

    @property
    def world(self) -> Any: ...
    @property
    def operation_id(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def back(self) -> bool:
        """Asked of a pivot: whether the operation is to be undone, so that what is in progress is ended."""
        ...

    @property
    def gone(self) -> frozenset[str]:
        """Hosts that are down for certain: a step on them and on another one leaves them out."""
        ...

    def result(self, step_type: str) -> dict[str, Any]:
        """What the named earlier step of this attempt recorded; {} when nothing."""
        ...

    def check(self) -> None:
        """Raises Interrupted when the operation is to stop."""
        ...

    def pause(self, seconds: float) -> None:
        """Wait; raises Interrupted when the operation is to stop."""
        ...

    def progress(self, done: int, total: int) -> None:
        """Tell whoever watches how far a long step is."""
        ...


@dataclass(frozen=True, kw_only=True)
class Step:
    """One effect outside the database. do() and undo() act on the step's own fields and on journaled
    results only, and both may run twice: a process can die between an effect and its record."""

    type: ClassVar[str]
    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = Kind.COMPENSATABLE
    elsewhere: ClassVar[bool] = False
    """Whether part of the effect is on none of its hosts: it is undone though they are down for certain."""

    host: str | None = None

    @property
    def hosts(self) -> tuple[str, ...]:
        """All hosts that it acts on: whoever takes over keeps older processes off each of them."""
        return (self.host,) if self.host else ()

    def summary(self) -> str:
        """One line for people: what will be true afterwards. Names no generated id."""
        return (type(self).__doc__ or self.type).splitlines()[0].rstrip(".")

    def do(self, ctx: Any) -> dict[str, Any] | None:
        """Bring the effect about; returns facts that later steps or people need."""
        raise TypeError(f"{self.type} has no do()")

    def undo(self, ctx: Any) -> None:
        """Take back what do() did or half did; nothing to take back is no error."""
        if self.kind is Kind.COMPENSATABLE:
            raise TypeError(f"{self.type} has no undo()")

    def happened(self, ctx: Any) -> Answer:
        """Ask the world, not the journal, whether a pivot took effect."""
        raise TypeError(f"{self.type} has no happened()")


@dataclass(frozen=True, kw_only=True)
class RecordStep(Step):
    """An effect in the database only: it commits together with its journal entry, so it happens
    exactly once. `tx` is a write transaction of db/."""

    def apply(self, tx: Any, ctx: Any) -> None:
        raise TypeError(f"{self.type} has no apply()")

    def revert(self, tx: Any, ctx: Any) -> None:
        if self.kind is Kind.COMPENSATABLE:
            raise TypeError(f"{self.type} has no revert()")

    def happened(self, ctx: Any) -> Answer:
        """No record means it did not happen: both are one commit."""
        return Answer.NO


class Registry:
    """The closed set of steps this novactl can run. `every` imports them all: making their classes takes a
    tenth of a second, and most commands need few."""

    def __init__(self, every: Callable[[], None] = lambda: None) -> None:
        self._types: dict[tuple[str, int], type[Step]] = {}
        self._every = every

    def add(self, step: type[Step]) -> type[Step]:
        """Class decorator."""
        key = (step.type, step.version)
        if key in self._types:
            raise TypeError(f"step {key} is registered twice")
        self._types[key] = step
        return step

    def __iter__(self) -> Any:
        self._every()
        return iter(self._types.values())

    @staticmethod
    def dump(step: Step) -> dict[str, Any]:
        """The step as JSON-able data."""
        return {"type": step.type, "version": step.version, "fields": vars(step)}

    def load(self, data: Mapping[str, Any], written_by: str = "?") -> Step:
        """The step that dump() described. Raises DatabaseError, naming the novactl that wrote it, for
        an unknown type or version or for fields that are not the step's."""
        try:
            key = (data["type"], data["version"])
            if key not in self._types:
                self._every()
            step = self._types[key]
            given = data["fields"]
        except (KeyError, TypeError) as error:
            raise DatabaseError(
                f"journal: step {data.get('type')!r} version {data.get('version')!r} is not known here",
                hint=f"it was written by novactl {written_by}: use that version for this operation",
            ) from error
        _check_fields(step, given, written_by)
        return step(**given)


def _check_fields(step: type[Step], given: Any, written_by: str) -> None:
    hints = get_type_hints(step)
    names = {field.name for field in fields(step)}
    if not isinstance(given, dict) or set(given) != names:
        raise DatabaseError(
            f"journal: fields of step {step.type} are not {', '.join(sorted(names))}",
            hint=f"it was written by novactl {written_by}",
        )
    for name in names:
        if not _is(given[name], hints[name]):
            raise DatabaseError(f"journal: field {name} of step {step.type} has a wrong type")


def _is(value: Any, hint: Any) -> bool:
    """Whether a JSON value is what the annotation says (only what JSON can hold is used)."""
    if hint is Any:
        return True
    if isinstance(hint, UnionType):
        return any(_is(value, option) for option in get_args(hint))
    if hint is type(None):
        return value is None
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    origin = get_origin(hint)
    if origin is dict:
        return isinstance(value, dict) and all(_is(item, get_args(hint)[1]) for item in value.values())
    if origin is list:
        return isinstance(value, list) and all(_is(item, get_args(hint)[0]) for item in value)
    return isinstance(value, hint)
