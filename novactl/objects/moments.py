"""Times as records have them: RFC 3339 in UTC with microseconds, which sort as text. Pure."""

from datetime import UTC, datetime, timedelta


def as_text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def before(moment: str, seconds: float) -> str:
    """So many seconds before it."""
    return as_text(datetime.fromisoformat(moment) - timedelta(seconds=seconds))


def seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
