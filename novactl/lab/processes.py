"""The processes of a lab: started with a mark in their environment, found and ended by that mark.

A recorded pid can be lost in a crash, or become another process's. The mark cannot: it is there from exec on
and inherited, and until exec a new process holds the lab's lock (state.py) with its parent.
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from novactl.lab.errors import LabError

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_MARK = "NOVACTL_LAB"
_KILL_TIMEOUT = 15
_PROC = Path("/proc")


@dataclass(frozen=True)
class Mark:
    """Whose a process is: the lab's token, and the host it belongs to (or "switch")."""

    token: str
    member: str


@dataclass(frozen=True)
class Process:
    """A living process of a lab, with its pid as this process sees it."""

    pid: int
    member: str


def environment(mark: Mark | None = None) -> dict[str, str]:
    """Return a small environment that owes nothing to the caller's, with the mark if there is one."""
    marked = {_MARK: f"{mark.token}:{mark.member}"} if mark else {}
    return {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **marked}


def run(argv: Sequence[str], mark: Mark, *, stdin: str = "") -> str:
    """Run a short command of the lab and return its output; a failure is a LabError with what it said."""
    done = subprocess.run(
        argv,
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(mark),
        close_fds=False,  # or it would let go of the lab's lock before its exec
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(
            f"{' '.join(argv)} failed ({done.returncode}): {done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout


def spawn(argv: Sequence[str], mark: Mark, log: Path) -> None:
    """Start a process of the lab that outlives this one; it writes to `log`.

    It is nobody's child here (setsid forks), so that it leaves no zombie in a long test run.
    """
    _keep_descriptors()
    with log.open("ab") as out:
        subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            env=environment(mark),
            close_fds=False,
            check=True,
        )


def marked(token: str) -> Iterator[Process]:
    """Yield the living processes of the lab, in no order."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            member = _member(int(entry.name), token)
            if member is not None:
                yield Process(int(entry.name), member)


def init_of(mark: Mark) -> int | None:
    """Return the pid of the member's first process: the one that is 1 in its own pid namespace."""
    for process in marked(mark.token):
        if process.member == mark.member and _namespace_pids(process.pid)[1:][-1:] == ["1"]:
            return process.pid
    return None


def in_namespace_of(init: int, command: str) -> list[int]:
    """Return the pids of the processes named `command` in the pid namespace of `init`."""
    namespace = _pid_namespace(init)
    return [
        int(entry.name)
        for entry in _PROC.iterdir()
        if entry.name.isdigit()
        and _command(entry) == command
        and _pid_namespace(int(entry.name)) == namespace
    ]


def kill_all(pids: Iterable[int], still_ours: Callable[[int], bool]) -> None:
    """Send SIGKILL to each of `pids` that is `still_ours` once it cannot be reused; wait until all are gone.

    When the init of a lab host is gone, so is everything in its pid namespace.
    """
    with ExitStack() as stack:
        handles = []
        for pid in pids:
            with suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                stack.callback(os.close, handle)
                if still_ours(pid):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    handles.append(handle)
        for handle in handles:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            if not poll.poll(_KILL_TIMEOUT * 1000):
                raise LabError(f"a process of the lab did not end within {_KILL_TIMEOUT} s")


def kill_marked(token: str, member: str | None = None) -> None:
    """End every process of the lab, or of one member of it, and return once they are gone."""
    empty_scans = 0
    # One scan can miss a process that was born, and whose parent ended, while it went on.
    while empty_scans < 2:
        mine = [process.pid for process in marked(token) if member in (None, process.member)]
        kill_all(mine, lambda pid: _member(pid, token) is not None)
        empty_scans = 0 if mine else empty_scans + 1


def wait_until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Return as soon as `condition` holds; LabError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(0.01)


def _keep_descriptors() -> None:
    # What Python opened is closed on exec anyway; this is for what it was given: a caller's pipe, say.
    for entry in (_PROC / "self/fd").iterdir():
        if int(entry.name) > 2:
            with suppress(OSError):
                os.set_inheritable(int(entry.name), False)


def _member(pid: int, token: str) -> str | None:
    wanted = f"{_MARK}={token}:".encode()
    try:
        variables = _environment_of(_PROC / str(pid)).split(b"\0")
    except OSError:  # it has ended, or is a kernel thread
        return None
    return next((v.removeprefix(wanted).decode() for v in variables if v.startswith(wanted)), None)


def _environment_of(entry: Path) -> bytes:
    """Read a process's environment. In the middle of exec there is none yet: that is waited for."""
    certain = False
    while not (variables := (entry / "environ").read_bytes()):
        if certain:
            break
        (entry / "exe").readlink()  # OSError unless it has memory
        end_of_environment = (entry / "stat").read_text().rpartition(")")[2].split()[48]
        certain = end_of_environment != "0"
        time.sleep(0.001)
    return variables


def _command(entry: Path) -> str:
    try:
        return (entry / "comm").read_text().strip()
    except OSError:
        return ""


def _pid_namespace(pid: int) -> str:
    try:
        return str((_PROC / str(pid) / "ns" / "pid").readlink())
    except OSError:
        return ""


def _namespace_pids(pid: int) -> list[str]:
    try:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return []
    return next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])
