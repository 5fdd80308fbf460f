"""Which instances a filter means."""

import re
from collections.abc import Sequence

from novactl.errors import UsageError
from novactl.objects.instance import Instance


def pattern(text: str | None) -> re.Pattern[str] | None:
    """A regular expression of the user's; UsageError when it is none."""
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(f"--name {text!r} is not a regular expression: {error}") from error


def selected(instance: Instance, selectors: Sequence[str]) -> bool:
    """Whether every `key=value` is in its metadata, and every bare word among its tags."""
    for selector in (part for text in selectors for part in text.split(",")):
        key, sign, value = selector.partition("=")
        if not key:
            raise UsageError(f"selector {selector!r} is not key=value or a tag")
        if sign and instance.metadata.get(key) != value:
            return False
        if not sign and key not in instance.tags:
            return False
    return True
