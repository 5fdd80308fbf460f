"""Lengths of time as people write them."""

import re

from novactl.errors import UsageError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST = 3660 * 86400  # seconds


def parse_duration(text: str, what: str = "duration") -> int:
    """Seconds of `90s`, `10m`, `24h`, `7d` or several such parts (`1h30m`). Raises UsageError."""
    parts = re.findall(r"([0-9]{1,9})([smhd])", text)
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != text:
        raise UsageError(f"{what} {text!r} is not a length of time", hint="for example 90s, 10m, 24h or 7d")
    seconds = sum(int(number) * UNITS[unit] for number, unit in parts)
    if seconds > LONGEST:
        raise UsageError(f"{what} {text!r} is longer than {LONGEST // UNITS['d']}d")
    return seconds


def as_duration(seconds: int) -> str:
    """The shortest text that parse_duration() reads as so many seconds: the largest unit that divides it."""
    unit = next((u for u in "dhm" if seconds and seconds % UNITS[u] == 0), "s")
    return f"{seconds // UNITS[unit]}{unit}"
