"""A novactl of its own session that takes up operations of ours."""

import contextlib
import os
import subprocess
from pathlib import Path

from novactl.errors import OperationFailed
from novactl.settings import Settings

READY = "NOVACTL_READY_FD"
TAKEN = b"taken"
LINES = 5


def log_file(settings: Settings, op_id: str) -> Path:
    """Where the process that takes up an operation writes."""
    return settings.config / "log" / f"{op_id}.log"


def spawn(settings: Settings, op_id: str, runner: str) -> None:
    """Start `novactl op run` and return once it has taken the operation over. Raises OperationFailed with
    its last words when it did not."""
    log = log_file(settings, op_id)
    argv = [*settings.command(), "op", "run", op_id, "--from", runner]
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb") as pipe:
        try:
            _start(argv, log, theirs)
        except OSError as error:
            raise OperationFailed(f"{op_id}: cannot be handed over: {error}", operation=op_id) from error
        finally:
            os.close(theirs)
        if pipe.read() != TAKEN:
            words = " ".join(log.read_text(errors="replace").splitlines()[-LINES:])
            raise OperationFailed(f"{op_id}: no process took it over: {words}", operation=op_id)


def _start(argv: list[str], log: Path, ready: int) -> None:
    log.parent.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as output:
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=(ready,),
            env={**os.environ, READY: str(ready)},
        )


def taken() -> None:
    """In the process that spawn() started: tell that it has the operation."""
    text = os.environ.pop(READY, "")
    if text.isdigit():
        with contextlib.suppress(OSError), os.fdopen(int(text), "wb") as pipe:
            pipe.write(TAKEN)
