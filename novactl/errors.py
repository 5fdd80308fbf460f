"""Every error novactl shows, with its exit code (docs/cli.md); nothing else.

Messages are lower case, object first, without a full stop; what to do stands in the hint.
"""

from collections.abc import Sequence
from typing import Any, ClassVar


class NovactlError(Exception):
    """Something the user must know. `code` is the process's exit code."""

    code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        operation: str | None = None,
        candidates: Sequence[str] = (),
        targets: Sequence[dict[str, Any]] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.operation = operation
        self.candidates = list(candidates)
        self.targets = list(targets)

    @property
    def type(self) -> str:
        return type(self).__name__

    def as_dict(self) -> dict[str, Any]:
        """The last line of stderr with `-o json` (docs/cli.md)."""
        return {
            "code": self.code,
            "type": self.type,
            "message": self.message,
            "hint": self.hint,
            "operation": self.operation,
            "candidates": self.candidates,
            "targets": self.targets,
            "retryable": self.retryable,
        }


class OperationFailed(NovactlError):
    """The operation failed and what it had done was undone."""

    code = 1


class UsageError(NovactlError):
    """The command line, a name or a value cannot be understood."""

    code = 2


class PartlyDone(NovactlError):
    """Targets ended differently; each is named."""

    code = 3


class NotFound(NovactlError):
    """No such thing; `candidates` holds near matches."""

    code = 4


class Refused(NovactlError):
    """Nothing was changed: wrong state, no room, or a value that cannot be accepted."""

    code = 5


class NoValidHost(Refused):
    """No host can take the instance; `targets` holds each host's reasons."""


class QuotaExceeded(Refused):
    """A project's limit leaves no room; `targets` has {project, resource, wanted, left, limit} of each."""


class ImageRefused(Refused):
    """The image file is not what it must be."""


class Busy(NovactlError):
    """Another operation holds it."""

    code = 6
    retryable = True


class HostUnreachable(NovactlError):
    """A host does not answer, or authentication or its host key was refused. `silent`: no connection to it
    was taken, nor refused."""

    code = 7
    retryable = True
    silent = False


class HostUntrusted(HostUnreachable):
    """A host that answers, but its key is not the pinned one or it accepts none of ours."""


class NeedsConfirmation(NovactlError):
    """It asks first, and there is nobody to ask."""

    code = 8


class DatabaseError(NovactlError):
    """The database cannot be read or written, or has another schema."""

    code = 9


class HostFault(NovactlError):
    """A host could not do what it was asked: another host may."""

    code = 1


class HostRefused(HostFault):
    """A host refused: what is there is somebody else's."""

    code = 5


class Fenced(NovactlError):
    """The host has seen a newer epoch: this process lost its operation to another."""

    code = 6


class OperationIncomplete(NovactlError):
    """Left half way: `op show ID`, then `op resume ID` or `op rollback ID`."""

    code = 11


class TimedOut(NovactlError):
    """`--timeout` passed; the operation goes on."""

    code = 124
    retryable = True


class Interrupted(NovactlError):
    """Ctrl-C, and what had been done was undone."""

    code = 130
