"""What a verb was asked to do."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class NetworkRequest:
    """`--network NET[,ip=A]`."""

    network: str
    ip: str | None = None


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is asked of the host, with names as typed. Labels: None for any value."""

    host: str | None = None
    zone: str | None = None
    aggregate: str | None = None
    group: str | None = None
    apart_from: tuple[str, ...] = ()
    together_with: tuple[str, ...] = ()
    required: dict[str, str | None] = field(default_factory=dict)
    forbidden: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BootRequest(Wishes):
    """`novactl boot`, with names as typed; user_data is the file's content."""

    name: str
    flavor: str
    image: str
    project: str = "default"
    networks: tuple[NetworkRequest, ...] = ()
    key: str | None = None
    user_data: bytes | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    count: int = 1
    partial: bool = False
    ephemeral_gib: int | None = None
    swap_mib: int | None = None
    if_not_exists: bool = False
    explain: bool = False
