"""What an audit finds: a difference between the database and the hosts, and what would heal it."""

from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One difference. `heal` says what --heal does about it, None: nothing. What follows is for the healing:
    whose it is (a uuid of the database, with the version it had then), and what exactly is meant."""

    finding: str
    severity: Severity
    host: str | None = None
    target: str
    message: str
    heal: str | None = None
    uuid: str | None = None
    version: int | None = None
    subject: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As `audit -o json` prints it (docs/cli.md)."""
        names = ("finding", "severity", "host", "target", "message", "heal")
        return {name: getattr(self, name) for name in names}


def order(finding: Finding) -> tuple[int, str, str, str, str]:
    """The worst first."""
    worst = ("error", "warning", "info").index(finding.severity)
    return worst, finding.finding, finding.host or "", finding.target, finding.subject
