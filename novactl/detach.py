"""A novactl of its own session that takes up operations of ours."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from novactl.cloud import Settings
from novactl.errors import OperationFailed

READY = "NOVACTL_READY_FD"
LINES = 5


def log_file(settings: Settings, op_id: str) -> Path:
    """Where the process that takes up an operation writes."""
    return settings.config / "log" / f"{op_id}.log"


def spawn(settings: Settings, op_id: str, runner: str) -> None:
    """Start `novactl op run` and return once it has taken the operation over. Raises OperationFailed with
    its last words when it did not."""
    log = log_file(settings, op_id)
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    ours, theirs = os.pipe()
    argv = [sys.executable, "-m", "novactl", "--config", str(settings.config), "--project", settings.project]
    argv += ["--db", settings.db] if settings.db else []
    argv += ["op", "run", op_id, "--from", runner]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            pass_fds=(theirs,),
            env={**os.environ, READY: str(theirs)},
        )
    finally:
        os.close(descriptor)
        os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        if pipe.read() != b"taken":
            words = " ".join(log.read_text(errors="replace").splitlines()[-LINES:])
            raise OperationFailed(f"{op_id}: no process took it over: {words}", operation=op_id)


def taken() -> None:
    """In the process that spawn() started: tell that it has the operation."""
    text = os.environ.pop(READY, "")
    if text.isdigit():
        with contextlib.suppress(OSError), os.fdopen(int(text), "wb") as pipe:
            pipe.write(b"taken")
