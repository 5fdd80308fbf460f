"""What of a task's concerns is told: what is new, what goes on for long, and what is over. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from novactl.actions.cron.task import Report
from novactl.objects.duration import UNITS
from novactl.objects.moments import seconds_between

AGAIN = UNITS["d"]  # seconds after which a concern that goes on is told again

Told = dict[str, dict[str, str]]


@dataclass(frozen=True)
class News:
    """One thing to tell: it is `new`, goes on `still`, or is `over`."""

    target: str
    state: Literal["new", "still", "over"]
    message: str
    since: str


def news(told: Mapping[str, Mapping[str, str]], report: Report, now: str) -> tuple[list[News], Told]:
    """(what is to be told now, what has been told then). What a partial report does not name goes on."""
    found = [News("", "new", mishap, now) for mishap in report.mishaps]
    after: Told = {}
    for target, message in sorted(report.concerns.items()):
        before = told.get(target)
        since = before["since"] if before else now
        if before is None:
            found.append(News(target, "new", message, since))
        elif seconds_between(before["told"], now) >= AGAIN:
            found.append(News(target, "still", message, since))
        else:
            after[target] = {**before, "message": message}
            continue
        after[target] = {"since": since, "told": now, "message": message}
    for target, before in sorted(told.items()):
        if target in report.concerns:
            continue
        if report.partial:
            after[target] = dict(before)
        else:
            found.append(News(target, "over", f"over: {before['message']}", before["since"]))
    return found, after
