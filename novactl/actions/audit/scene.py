"""The surveys as the judges want them: what of ours is where. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from novactl.actions.audit.gather import Believed, Surveys
from novactl.actions.steps.moves import SOURCE
from novactl.objects.survey import SeenDirectory, SeenDomain, Survey

OPERATION = re.compile(r"op-[0-9a-f]+")


def is_operation(mark: str | None) -> bool:
    """Whether a domain's mark is an operation's."""
    return mark is not None and OPERATION.fullmatch(mark) is not None


@dataclass(frozen=True)
class Scene:
    """What the database believes, and the hosts that answered and are this fleet's; `dark` are the others:
    nothing on them is taken for there or for gone. `busy` are instances that must not be judged."""

    seen: Believed
    hosts: Mapping[str, Survey]
    dark: frozenset[str]
    busy: frozenset[str]
    domains: dict[str, dict[str, SeenDomain]] = field(default_factory=dict)
    directories: dict[str, dict[str, SeenDirectory]] = field(default_factory=dict)

    @classmethod
    def of(cls, seen: Believed, surveys: Surveys, busy: frozenset[str]) -> "Scene":
        ours = {
            name: survey
            for name, survey in surveys.items()
            if isinstance(survey, Survey) and survey.fleet == seen.fleet and name in seen.hosts
        }
        made = cls(seen, ours, frozenset(seen.hosts) - set(ours), busy)
        for name, survey in ours.items():
            for domain in survey.domains:
                made.domains.setdefault(domain.uuid, {})[name] = domain
            for directory in survey.directories:
                made.directories.setdefault(directory.entry, {})[name] = directory
        return made

    def ours(self, domain: SeenDomain) -> bool:
        """Whether it carries this fleet's mark."""
        return domain.fleet == self.seen.fleet

    def domain(self, host: str, uuid: str) -> SeenDomain | None:
        """The domain of that uuid there, whosever mark it carries."""
        return self.domains.get(uuid, {}).get(host)

    def directory(self, host: str, uuid: str) -> SeenDirectory | None:
        return self.directories.get(uuid, {}).get(host)

    def has_disk(self, host: str | None, uuid: str) -> bool:
        directory = self.directory(host or "", uuid)
        return directory is not None and "disk" in directory.files

    def is_aside(self, host: str, uuid: str) -> bool:
        """Whether a move has set its files aside there."""
        return self.directory(host, f"{uuid}_resize") is not None

    def may_go_back(self, host: str, uuid: str) -> bool:
        """Whether a move that waits keeps a place for it there."""
        kept = {"instance_uuid": uuid, "host": host, "role": SOURCE}.items()
        return any(kept <= hold.items() for hold in self.seen.holds)

    def is_there(self, host: str, uuid: str) -> bool:
        """Whether the host has anything of it."""
        found = (self.domain(host, uuid), self.directory(host, uuid))
        return any(found) or self.is_aside(host, uuid)

    def elsewhere(self, uuid: str, home: str | None) -> dict[str, SeenDomain]:
        """Its domains with our mark on other hosts."""
        found = self.domains.get(uuid, {})
        return {name: one for name, one in found.items() if name != home and self.ours(one)}

    def share(self, host: str, other: str) -> bool:
        """Whether both see the same instances' directory."""
        storage = self.hosts[host].storage
        return bool(storage) and storage == self.hosts[other].storage

    @property
    def unknown(self) -> str:
        """What must be said where something was not found, while hosts are dark."""
        return f" (nothing is known of {', '.join(sorted(self.dark))})" if self.dark else ""
