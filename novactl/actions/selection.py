"""Which instances a filter means: options of the command line as db.pages.Wanted."""

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from novactl.db.pages import SORT_KEYS, Wanted
from novactl.errors import UsageError
from novactl.objects.instance import Instance
from novactl.objects.names import KEY, UUID, check_text
from novactl.objects.states import PowerState, words_of

FORM = "key=value of the metadata, or a tag; several with commas between"


def wanted(
    *,
    status: str | None = None,
    power_state: str | None = None,
    name: str | None = None,
    selectors: Sequence[str] | None = None,
    ip: str | None = None,
    sort: str | None = None,
    limit: int | None = None,
    marker: str | None = None,
    **plain: Any,
) -> Wanted:
    """The choice that the options make; project, host, flavor, image and deleted as they are. Raises
    UsageError for what cannot be understood."""
    if status is not None:
        words_of(status := status.upper())
    if power_state is not None and power_state not in list(PowerState):
        raise UsageError(
            f"power state {power_state!r} does not exist", hint=f"there are {', '.join(sorted(PowerState))}"
        )
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} is not 1 or more")
    if marker is not None and not UUID.fullmatch(marker := marker.lower()):
        raise UsageError(f"--marker {marker!r} is not a uuid", hint="the last one of the page before")
    return Wanted(
        status=status,
        power_state=power_state,
        name=pattern(name),
        selectors=tuple(chosen for text in selectors or () for chosen in parsed(text)),
        ip=_address(ip),
        sort=tuple(_sort_key(word) for word in sort.split(",")) if sort is not None else (),
        limit=limit,
        marker=marker,
        **plain,
    )


def pattern(text: str | None, what: str = "--name") -> re.Pattern[str] | None:
    """A regular expression of the user's; UsageError when it is none."""
    if text is None:
        return None
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"{what} {text!r} is not a regular expression: {error}") from error


def _address(text: str | None) -> str | re.Pattern[str] | None:
    """An address is that one; anything else a regular expression, as Nova's."""
    if text is None:
        return None
    try:
        return str(ip_address(text))
    except ValueError:
        return pattern(text, "--ip")


def _sort_key(word: str) -> tuple[str, bool]:
    key, sign, way = word.partition(":")
    if key not in SORT_KEYS or (sign and way not in ("asc", "desc")):
        raise UsageError(
            f"--sort {word!r} is not key[:asc|desc]", hint=f"keys are {', '.join(sorted(SORT_KEYS))}"
        )
    return key, way == "desc"


def parsed(text: str) -> list[tuple[str, str | None]]:
    """`-l key=value[,…]`: (key, value) of the metadata, or (tag, None). Raises UsageError."""
    return [_parsed_one(text, part) for part in text.split(",")]


def _parsed_one(text: str, part: str) -> tuple[str, str | None]:
    key, sign, value = part.partition("=")
    wrong = ""
    if not text:
        wrong = "is empty"
    elif not part:
        wrong = "has an empty part"
    elif not key:
        wrong = f"has no key before {part!r}"
    elif sign and not KEY.fullmatch(key):
        wrong = f"has the key {key!r}, which no metadata can have"
    if wrong:
        raise UsageError(f"selector {text!r} {wrong}", hint=FORM)
    return (key, check_text(value, f"selector {key}")) if sign else (check_text(key, "tag"), None)


def selected(instance: Instance, selectors: Sequence[str]) -> bool:
    """Whether every `key=value` is in its metadata, and every bare word among its tags."""
    chosen = [one for text in selectors for one in parsed(text)]
    return all(
        key in instance.tags if value is None else instance.metadata.get(key) == value
        for key, value in chosen
    )
