"""Conditions in playbooks: `host.zone == "east" and host.cpus >= 8 and not has(host.labels.gpu)`.

The grammar is a small part of Python's expressions, parsed by Python and evaluated here: names with dots,
text, numbers, lists, `true false null`, `== != < <= > >= in`, `not in`, `and or not` and has(). Nothing is
called and no attribute of an object is ever read: a name is a key of plain data.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

LONGEST = 500  # characters
CONSTANTS = {"true": True, "false": False, "null": None}
VERSION = re.compile(r"[0-9]+(\.[0-9]+)+")
ORDERS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


class ConditionError(ValueError):
    """Why it is no condition, or cannot be decided."""


class Condition:
    """One condition. Raises ConditionError for text that is none."""

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise ConditionError(f"is longer than {LONGEST} characters")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ConditionError("is not a condition") from error
        self.roots = frozenset(_roots(self._tree))
        """The first parts of the names in it."""

    def holds(self, scope: Mapping[str, Any]) -> bool:
        """Whether it is so. Raises ConditionError when two values cannot be compared, or what it comes to
        is neither true nor false."""
        found = _value(self._tree, scope)
        if not isinstance(found, bool):
            raise ConditionError(f"is {found!r}, neither true nor false")
        return found


def look_up(name: str, scope: Mapping[str, Any]) -> Any:
    """`host.labels.rack` in plain data; None where there is nothing."""
    found: Any = scope
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _roots(node: ast.expr) -> Iterator[str]:
    """Walks all of it, and refuses what is not of the grammar."""
    match node:
        case ast.Constant(value=value) if isinstance(value, str | int | float):
            return
        case ast.Name(id=name):
            if name not in CONSTANTS:
                yield name
        case ast.Attribute(value=inner) | ast.Subscript(value=inner, slice=ast.Constant(value=str())):
            if not isinstance(inner, ast.Name | ast.Attribute | ast.Subscript):
                raise ConditionError("has a dot after something that is no name")
            yield from _roots(inner)
        case ast.Call(func=ast.Name(id="has"), args=[ast.Name() | ast.Attribute() | ast.Subscript() as of]):
            if node.keywords:
                raise ConditionError("has() takes one name")
            yield from _roots(of)
        case ast.Compare(left=left, ops=ops, comparators=others):
            if not all(isinstance(op, (ast.Eq, ast.NotEq, ast.In, ast.NotIn, *ORDERS)) for op in ops):
                raise ConditionError("knows == != < <= > >= in and not in, no other comparison")
            for part in (left, *others):
                yield from _roots(part)
        case ast.BoolOp(values=parts) | ast.List(elts=parts):
            for part in parts:
                yield from _roots(part)
        case ast.UnaryOp(op=ast.Not(), operand=part):
            yield from _roots(part)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            return
        case _:
            raise ConditionError(
                "has something that conditions do not know: they are made of names, text, numbers, lists,"
                " comparisons, and, or, not, has()"
            )


def _value(node: ast.expr, scope: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return CONSTANTS[name] if name in CONSTANTS else scope.get(name)
        case (
            ast.Attribute(value=inner, attr=key)
            | ast.Subscript(value=inner, slice=ast.Constant(value=str() as key))
        ):
            found = _value(inner, scope)
            return found.get(key) if isinstance(found, Mapping) else None
        case ast.Call(args=[of]):
            return _value(of, scope) is not None
        case ast.List(elts=parts):
            return [_value(part, scope) for part in parts]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.UnaryOp(operand=part):
            return not _truth(_value(part, scope))
        case ast.BoolOp(op=op, values=parts):
            decide = all if isinstance(op, ast.And) else any
            return decide(_truth(_value(part, scope)) for part in parts)
        case ast.Compare(left=left, ops=ops, comparators=others):
            values = [_value(part, scope) for part in (left, *others)]
            pairs = zip(values, ops, values[1:], strict=False)
            return all(_compared(one, op, other) for one, op, other in pairs)
    raise ConditionError("is not a condition")


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConditionError(
            f"has {value!r} where true or false must stand; has(NAME) tells whether it is there"
        )
    return value


def _compared(one: Any, op: ast.cmpop, other: Any) -> bool:
    match op:
        case ast.Eq():
            return bool(one == other)
        case ast.NotEq():
            return bool(one != other)
        case ast.In() | ast.NotIn():
            if not (isinstance(other, list | Mapping) or (isinstance(other, str) and isinstance(one, str))):
                raise ConditionError(f"cannot look for {one!r} in {other!r}")
            return (one in other) is isinstance(op, ast.In)
    if VERSION.fullmatch(str(one)) and VERSION.fullmatch(str(other)) and isinstance(one, str):
        one, other = (tuple(int(part) for part in str(side).split(".")) for side in (one, other))
    try:
        return ORDERS[type(op)](one, other)
    except TypeError as error:
        raise ConditionError(f"cannot compare {one!r} with {other!r}") from error
