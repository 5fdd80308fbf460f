"""Which process this is, in a way that outlives it: pids are reused, boots happen."""

import getpass
import os
import socket
from pathlib import Path
from typing import Any

from novactl.db.journal import Owner

ASKED_BY = "NOVACTL_ASKED_BY"
"""Set for a novactl that works for a step of another one's operation (subcommand.py)."""


def this_process() -> Owner:
    """Its owner record: machine, boot, pid namespace, pid and start time."""
    user = os.environ.get("SUDO_USER") or getpass.getuser()
    pid = os.getpid()
    return Owner(
        words=f"{user}@{socket.gethostname()} (pid {pid})",
        user=user,
        key={
            "machine": _read("/etc/machine-id"),
            "boot": _read("/proc/sys/kernel/random/boot_id"),
            "pid_namespace": _pid_namespace(),
            "pid": pid,
            "started": _started(pid),
        },
        asked_by=os.environ.get(ASKED_BY),
    )


def alive(key: dict[str, Any], *, expired: bool, shared: bool) -> bool:
    """Whether the process of an owner record may still work. Seen from here when it is of this boot and
    pid namespace; else its lease tells (`expired`). One of another boot is gone when the database is not
    `shared`: a file of this machine has no other users. Machine ids prove nothing: machines are cloned."""
    if not key:
        return False
    if key["boot"] != _read("/proc/sys/kernel/random/boot_id"):
        return shared and not expired
    if key["pid_namespace"] == _pid_namespace() and _started(key["pid"]) != key["started"]:
        return False
    return not expired


def _started(pid: int) -> str | None:
    """Field 22 of /proc/PID/stat (proc_pid_stat(5)); None when there is no such process or a zombie."""
    stat = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return stat[19] if stat and stat[0] != "Z" else None


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
