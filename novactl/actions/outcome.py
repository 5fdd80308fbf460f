"""How operations ended, for those who asked for them."""

from dataclasses import dataclass, field

from novactl.engine.operation import ACTIVE, Operation
from novactl.errors import Fenced, NovactlError, OperationIncomplete
from novactl.objects.instance import Instance


@dataclass
class Outcome:
    """How one target ended. `takes_effect`: of each size that a guest was given live, when it has it."""

    target: str
    uuid: str | None = None
    result: str = "failed"
    code: int = 0
    operation: str | None = None
    instance: Instance | None = None
    error: NovactlError | None = field(default=None, repr=False)
    takes_effect: dict[str, str] = field(default_factory=dict)

    def fail(self, error: NovactlError) -> None:
        """It ended with this error."""
        self.result, self.error, self.code = "failed", error, error.code


def left_or_ended(op: Operation, error: NovactlError) -> NovactlError:
    """The error that ended an operation; when the journal itself failed, the operation is left half way."""
    if op.state in ACTIVE and not isinstance(error, OperationIncomplete | Fenced):
        return OperationIncomplete(
            f"{op.kind} of {op.target} was left half way: {error.message}",
            hint=f"{error.hint + '; ' if error.hint else ''}then novactl op resume {op.id}",
            operation=op.id,
        )
    error.operation = op.id
    return error


def left(op: Operation) -> OperationIncomplete:
    """The error for an operation that is half way and that nobody works on."""
    return OperationIncomplete(
        op.error or f"{op.id}: {op.kind} of {op.target} was left half way: its owner is gone",
        hint=f"novactl op resume {op.id} or novactl op rollback {op.id}",
        operation=op.id,
    )
