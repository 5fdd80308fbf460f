"""What was asked of an instance's host. It is kept with the instance (Nova's request spec): whoever moves it
later asks the same of the next one."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Placement:
    """`apart_from` and `together_with`: uuids of instances. `required` and `forbidden`: labels of hosts;
    a value of None means any."""

    zone: str | None = None
    aggregate: str | None = None
    apart_from: tuple[str, ...] = ()
    together_with: tuple[str, ...] = ()
    required: dict[str, str | None] = field(default_factory=dict)
    forbidden: dict[str, str | None] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """What is not as without a wish, for a column and the domain's metadata."""
        return {key: value for key, value in asdict(self).items() if value}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> "Placement":
        return cls(
            zone=found.get("zone"),
            aggregate=found.get("aggregate"),
            apart_from=tuple(found.get("apart_from", ())),
            together_with=tuple(found.get("together_with", ())),
            required=dict(found.get("required", {})),
            forbidden=dict(found.get("forbidden", {})),
        )
