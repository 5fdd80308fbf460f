"""`{{ name }}` in the words and texts of a playbook.

A value stays within its word: it is never split, and never read by a shell here. What a word may not become
is an option: one that would begin with `-` only because of a value is refused. A list stands for itself only
as a whole word, and gives one word for each of its items.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from novactl.files.conditions import look_up

NAME = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_-]+)*"
PLACE = re.compile(rf"\{{\{{\s*({NAME})\s*\}}\}}")


class WordError(ValueError):
    """Why a word cannot be made."""


def names(text: str) -> Iterator[str]:
    """What is named in it. Raises WordError for braces that name nothing."""
    left = PLACE.sub("", text)
    if "{{" in left or "}}" in left:
        raise WordError("has {{ or }} that is not {{ NAME }}")
    yield from PLACE.findall(text)


def text(template: str, scope: Mapping[str, Any]) -> str:
    """With each name replaced by its value; one that has none by nothing. Raises WordError for a list."""
    return _replaced(template, scope, lambda name: "")


def words(
    templates: Sequence[str],
    scope: Mapping[str, Any],
    *,
    later: frozenset[str] = frozenset(),
    free: frozenset[str] = frozenset(),
) -> list[Any]:
    """An argv. A word one of whose values is null is left out; names in `later` stay, as `{"later": name}`,
    until their values are known; values of those in `free` may begin with `-`. Raises WordError."""
    made: list[Any] = []
    for template in templates:
        alone = PLACE.fullmatch(template)
        if alone and alone[1] in later:
            made.append({"later": alone[1]})
            continue
        found = look_up(alone[1], scope) if alone else None
        items = found if isinstance(found, list) else [_word(template, scope)]
        trusted = bool(alone and alone[1] in free)
        made += [_plain(item, template, trusted) for item in items if item is not None]
    return made


def filled(made: Sequence[Any], known: Callable[[str], Sequence[str]]) -> list[str] | None:
    """An argv whose later names have their values by now, one word for each; None when one of them came to
    nothing: then there is nothing to do."""
    argv: list[str] = []
    for word in made:
        if isinstance(word, str):
            argv.append(word)
            continue
        found = list(known(word["later"]))
        if not found:
            return None
        argv += found
    return argv


def shown(made: Sequence[Any]) -> str:
    """For people, as one could type it."""
    import shlex

    return " ".join(
        shlex.quote(word) if isinstance(word, str) else f"{{{{ {word['later']} }}}}" for word in made
    )


class _Absent(Exception):
    """The word is left out."""


def _word(template: str, scope: Mapping[str, Any]) -> str | None:
    def absent(name: str) -> str:
        raise _Absent

    try:
        return _replaced(template, scope, absent)
    except _Absent:
        return None


def _replaced(template: str, scope: Mapping[str, Any], absent: Callable[[str], str]) -> str:
    def value(match: re.Match[str]) -> str:
        found = look_up(match[1], scope)
        if found is None:
            return absent(match[1])
        if isinstance(found, bool):
            return "true" if found else "false"
        if not isinstance(found, str | int | float):
            raise WordError(f"{match[1]} is no single value: it cannot stand inside a word")
        return str(found)

    return PLACE.sub(value, template)


def _plain(item: Any, template: str, trusted: bool) -> str:
    word = str(item)
    if "\0" in word:
        raise WordError("has a NUL")
    if word.startswith("-") and not template.startswith("-") and not trusted:
        raise WordError(f"would become the option {word!r}")
    return word
