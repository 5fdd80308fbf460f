"""When a policy is due. Pure."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from novactl.objects.duration import UNITS
from novactl.objects.policy import DAYS, Policy

WINDOW = UNITS["h"]  # seconds after its time in which a policy is still carried out


def slot(policy: Policy, now: datetime, window: float = WINDOW) -> datetime | None:
    """The time that the policy is due for, in UTC: the last one, if it has come within the last `window`
    seconds. A time that a change of clocks leaves out comes when the clocks have moved; one that happens
    twice counts the first time: so each day has one."""
    assert policy.at is not None
    zone = ZoneInfo(policy.timezone)
    today = now.astimezone(zone).date()
    moments = (_moment(policy, day, zone) for day in (today, today - timedelta(days=1)))
    due = [at for at in moments if at is not None and at <= now]
    return due[0] if due and now - due[0] < timedelta(seconds=window) else None


def _moment(policy: Policy, day: date, zone: ZoneInfo) -> datetime | None:
    """When it is due on that day of its zone; None when the day is not one of its days."""
    if policy.days and DAYS[day.weekday()] not in policy.days:
        return None
    at = time.fromisoformat(policy.at or "00:00")
    return datetime.combine(day, at, tzinfo=zone).astimezone(UTC)
