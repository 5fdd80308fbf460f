"""What a kept plan of rebalance consists of; somebody may have edited it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

LARGEST = 1e15  # far beyond any amount, and exact as a float

Amount = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Gain = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Move(_Strict):
    instance: str
    uuid: str
    project: str
    source: str = Field(alias="from")
    to: str | None
    method: Literal["live", "cold"]
    reason: str
    cost_gib: Amount
    gain: Gain
    blocker: str | None

    @model_validator(mode="after")
    def _goes_or_is_kept(self) -> "_Move":
        if self.to is None and self.blocker is None:
            raise ValueError("has neither a host to go to nor a blocker")
        return self


class _Score(_Strict):
    score: Amount
    memory_spread: Amount
    vcpus_spread: Amount
    disk_spread: Amount
    violations: list[str]


class _Instance(_Strict):
    name: str
    host: str
    version: int
    blocked: bool


class _Host(_Strict):
    up: bool
    enabled: bool
    used: Annotated[list[Amount], Field(min_length=3, max_length=3)]
    limit: Annotated[list[Amount], Field(min_length=3, max_length=3)]


class _Read(_Strict):
    instances: dict[str, _Instance]
    hosts: dict[str, _Host]


class SavedPlan(_Strict):
    """The whole of it."""

    kind: str
    format: int
    fleet: str
    made_at: str
    moves: list[_Move]
    before: _Score
    after: _Score
    read: _Read
