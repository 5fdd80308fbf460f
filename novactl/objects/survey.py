"""All that is on a host, as it was found: for audit, and for rebuilding a database that was lost."""

from dataclasses import dataclass
from typing import Any

from novactl.objects.states import PowerState


@dataclass(frozen=True, kw_only=True)
class SeenDomain:
    """A domain of the host's libvirt. What comes from our metadata is None when it carries none (or none
    that makes sense); whatever it says was written by someone on the host and is not checked here."""

    uuid: str
    name: str
    state: PowerState
    autostart: bool
    saved: bool = False  # libvirt keeps its memory (managed save)
    fleet: str | None = None
    operation: str | None = None
    epoch: int | None = None
    generation: int | None = None
    record: dict[str, Any] | None = None
    taps: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SeenDirectory:
    """An entry of the instances' directory, also when it is a file (it has no files then). Names are as
    found, any characters in them; bytes that are no UTF-8 are shown as backslashes."""

    entry: str
    made_by: str | None = None
    files: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Survey:
    """One look at a host. `mark` is the highest it was told ("serial.operation", "" for none); `bases` are
    ready, `parts` left by transfers; `jobs` are (operation, step, whether it runs); `trusts` the operations
    whose keys between hosts are there."""

    fleet: str | None
    mark: str
    boot_id: str
    storage: str = ""  # hosts that share their storage say the same; "" is not known
    domains: tuple[SeenDomain, ...] = ()
    directories: tuple[SeenDirectory, ...] = ()
    bases: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    epochs: dict[str, int]
    jobs: tuple[tuple[str, int, bool], ...] = ()
    trusts: tuple[str, ...] = ()

    @property
    def serial(self) -> int:
        """The number in the mark, 0 for none."""
        return int(self.mark.partition(".")[0] or 0)
