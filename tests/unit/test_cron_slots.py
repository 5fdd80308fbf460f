"""When policies are due: days, time zones, and the days on which clocks are moved."""

from datetime import UTC, datetime, timedelta

import pytest

from novactl.actions.cron.slots import slot
from novactl.objects.policy import Policy


def policy(at: str, days: tuple[str, ...] = (), timezone: str = "UTC") -> Policy:
    return Policy(name="p", do="stop", at=at, days=days, timezone=timezone)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "due"),
    [
        ("2026-03-02 19:59:59", None),
        ("2026-03-02 20:00:00", "2026-03-02 20:00"),
        ("2026-03-02 20:59:59", "2026-03-02 20:00"),
        ("2026-03-02 21:00:00", None),
    ],
)
def test_within_the_window(now: str, due: str | None) -> None:
    assert slot(policy("20:00"), at(now)) == (at(due) if due else None)


def test_days_are_those_of_the_time_zone() -> None:
    tokyo = policy("08:00", ("mon",), "Asia/Tokyo")  # Sunday 23:00 UTC
    assert slot(tokyo, at("2026-03-01 23:10")) == at("2026-03-01 23:00")
    assert slot(tokyo, at("2026-03-02 23:10")) is None  # Tuesday there
    weekdays = policy("20:00", ("mon", "tue", "wed", "thu", "fri"), "Europe/Berlin")
    assert slot(weekdays, at("2026-03-06 19:30")) == at("2026-03-06 19:00")  # Friday
    assert slot(weekdays, at("2026-03-07 19:30")) is None


def test_a_late_run_across_midnight() -> None:
    """The day is that of the time, not of the run."""
    late = policy("23:30", ("sun",))
    assert slot(late, at("2026-03-02 00:20")) == at("2026-03-01 23:30")
    assert slot(policy("23:30", ("mon",)), at("2026-03-02 00:20")) is None


def all_slots(one: Policy, begin: str, hours: int) -> list[str]:
    """Every time that a cron of each minute sees."""
    start = at(begin)
    found = {slot(one, start + timedelta(minutes=n)) for n in range(hours * 60)} - {None}
    return [f"{moment:%m-%d %H:%M}" for moment in sorted(moment for moment in found if moment)]


@pytest.mark.parametrize(
    ("clock", "begin", "found"),
    [
        # 2026-03-29 02:00 CET is 03:00 CEST: 02:30 is left out
        ("02:30", "2026-03-28 12:00", ["03-29 01:30", "03-30 00:30"]),
        ("01:30", "2026-03-28 12:00", ["03-29 00:30", "03-29 23:30"]),
        ("03:30", "2026-03-28 12:00", ["03-29 01:30", "03-30 01:30"]),
        # 2026-10-25 03:00 CEST is 02:00 CET: 02:30 comes twice
        ("02:30", "2026-10-24 12:00", ["10-25 00:30", "10-26 01:30"]),
        ("03:30", "2026-10-24 12:00", ["10-25 02:30", "10-26 02:30"]),
    ],
)
def test_when_clocks_are_moved_each_day_has_one(clock: str, begin: str, found: list[str]) -> None:
    assert all_slots(policy(clock, timezone="Europe/Berlin"), begin, 44) == found
