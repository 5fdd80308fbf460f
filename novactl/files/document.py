"""One YAML file as plain data that knows its lines.

YAML here is the safe core of it: mappings with text keys, lists, text, numbers, true, false and null. What
YAML 1.1 would make of `on`, `no` or `20:00` (booleans, 1200) stays text; anchors, tags and keys that are
there twice are refused, since each of them hides what a file says.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from novactl.errors import UsageError

LARGEST = 16 << 20  # bytes
DEEPEST = 32
PLAIN = {
    "tag:yaml.org,2002:null": "~nN\0",
    "tag:yaml.org,2002:bool": "tTfF",
    "tag:yaml.org,2002:int": "-+0123456789",
    "tag:yaml.org,2002:float": "-+.0123456789",
}
"""Tags that plain words may get, and what such words begin with (YAML 1.2, core schema)."""

TAGS = frozenset({*PLAIN, *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))})

Place = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Document:
    """A file's data, and the line of each place in it."""

    name: str
    data: Any
    lines: Mapping[Place, int] = field(default_factory=dict)

    def where(self, place: Place) -> str:
        """`fleet.yaml:12: hosts.kvm1.labels[0]`: the place, and the line of what is nearest to it."""
        known = next((place[:n] for n in range(len(place), -1, -1) if place[:n] in self.lines), ())
        words = dotted(place)
        return f"{self.name}:{self.lines.get(known, 1)}" + (f": {words}" if words else "")

    def as_model(self, model: type[Model]) -> Model:
        """The data as the model has it. Raises UsageError that names every wrong place."""
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            raise self.refuse([(tuple(one["loc"]), _words(one)) for one in error.errors()]) from error

    def refuse(self, faults: list[tuple[Place, str]]) -> UsageError:
        """The error that tells these faults, with a row `{file, line, path, message}` for each."""
        rows = [
            {
                "file": self.name,
                "line": int(self.where(place).split(":")[1]),
                "path": dotted(place),
                "message": text,
            }
            for place, text in faults
        ]
        told = [f"{self.where(place)}: {text}" for place, text in faults]
        message = told[0] if len(told) == 1 else f"{len(told)} faults\n  " + "\n  ".join(told)
        return UsageError(message, targets=rows)


def dotted(place: Place) -> str:
    """`hosts.kvm1.labels[0]`."""
    words = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return words.removeprefix(".")


def load(path: Path) -> Document:
    """Raises UsageError, naming the line, for a file that cannot be read or is not such YAML."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    return parse(text, str(path))


def parse(text: bytes, name: str) -> Document:
    """As load(), for text that is at hand."""
    if len(text) > LARGEST:
        raise UsageError(f"{name}: is larger than {LARGEST >> 20} MiB")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            lines: dict[Place, int] = {}
            if node is not None:
                _look(node, name, (), lines, set())
            data = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{name}:{line}: not YAML: {error.problem or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UsageError(f"{name}: not YAML: {str(error).splitlines()[0]}") from error
    return Document(name=name, data=data, lines=lines)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader with YAML 1.2's few plain words."""


def _resolvers() -> Iterator[tuple[str, tuple[str, Any]]]:
    import re

    words = {
        "null": r"~|null|Null|NULL|",
        "bool": r"true|True|TRUE|false|False|FALSE",
        "int": r"[-+]?(0|[1-9][0-9]*)",
        "float": r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+",
    }
    for tag, first in PLAIN.items():
        pattern = re.compile(rf"^(?:{words[tag.rpartition(':')[2]]})$")
        for letter in first:
            yield letter.replace("\0", ""), (tag, pattern)


_Loader.yaml_implicit_resolvers = {}
for _first, _resolver in _resolvers():
    _Loader.yaml_implicit_resolvers.setdefault(_first, []).append(_resolver)


def _look(node: Any, name: str, place: Place, lines: dict[Place, int], seen: set[int]) -> None:
    """Note each place's line; refuse what hides something."""
    line = node.start_mark.line + 1
    if id(node) in seen:
        raise UsageError(f"{name}:{line}: {dotted(place)}: anchors (&, *) are not accepted")
    seen.add(id(node))
    lines[place] = line
    if len(place) > DEEPEST:
        raise UsageError(f"{name}:{line}: is nested more than {DEEPEST} deep")
    if node.tag not in TAGS:
        raise UsageError(f"{name}:{line}: {dotted(place)}: tags ({node.tag}) are not accepted")
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            _look(child, name, (*place, index), lines, seen)
    elif isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, child in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise UsageError(f"{name}:{key.start_mark.line + 1}: {dotted(place)}: a key must be text")
            if key.value in keys:
                where = f"{name}:{key.start_mark.line + 1}: {dotted((*place, key.value))}"
                raise UsageError(f"{where}: is there twice")
            keys.add(key.value)
            _look(child, name, (*place, key.value), lines, seen)


def _words(error: Any) -> str:
    """pydantic's word on a value, without what it says of Python."""
    kind, message, given = error["type"], str(error["msg"]), error.get("input")
    if kind == "extra_forbidden":
        return "is not known here"
    if kind == "missing":
        return "is missing"
    text = message.removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{text} (it is {given!r})" if isinstance(given, str | int | float | bool) else text
