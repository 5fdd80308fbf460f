"""How an extra spec is compared with what a host has: Nova's operators (extra_specs_ops.py)."""

import operator
from collections.abc import Callable

NUMBERS: dict[str, Callable[[float, float], bool]] = {
    "=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
"""Nova's `=` means at least."""

WORDS: dict[str, Callable[[str, str], bool]] = {
    "s==": operator.eq,
    "s!=": operator.ne,
    "s<": operator.lt,
    "s<=": operator.le,
    "s>": operator.gt,
    "s>=": operator.ge,
}


def matches(value: str, wanted: str) -> bool:
    """Whether `value` is as `wanted` asks: `OP WORD`, `<in> WORD`, `<all-in> WORDS`, `<or> A <or> B`, or the
    word itself."""
    op, _, rest = wanted.strip().partition(" ")
    rest = rest.strip()
    if op == "<or>":
        return value in (word.strip() for word in rest.split("<or>"))
    if op == "<in>":
        return bool(rest) and rest in value
    if op == "<all-in>":
        return bool(rest) and all(word in value for word in rest.split())
    if op in WORDS and rest:
        return WORDS[op](value, rest)
    if op in NUMBERS and rest:
        try:
            return NUMBERS[op](float(value), float(rest))
        except ValueError:
            return False
    return value == wanted
