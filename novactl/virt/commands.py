"""Commands and files of playbooks on a host (remote/commands.sh)."""

import base64
import re
from collections.abc import Sequence

from novactl.errors import HostUnreachable, UsageError
from novactl.objects.names import HOST_PATH, check_pattern
from novactl.virt.calls import Calls

BOOT = 8.0  # seconds that a host may take to say which boot this is
ENDED = re.compile(r"^nv_run: (?:(unchanged)|ended ([0-9]{1,3}))$", re.MULTILINE)
MODE = re.compile(r"0?[0-7]{3}")


class Commands(Calls):
    """A host as playbooks use it. Words are the operator's own, and reach no shell."""

    def run_words(
        self, argv: Sequence[str], *, unless: Sequence[str] = (), stdin: bytes = b"", seconds: int
    ) -> list[str]:
        """A command as the words of a job, whose log ran() understands. When `unless` ends with 0 the
        command is not run. UsageError for an empty one."""
        if not argv or not argv[0]:
            raise UsageError("a command has no words")
        packed = base64.b64encode(stdin).decode()
        return ["nv_run", packed, str(seconds), str(len(unless)), *unless, *argv]

    def holds(self, argv: Sequence[str], seconds: int) -> bool:
        """Whether a command that only looks ends with 0."""
        return self._ours("nv_holds", str(seconds), *argv).strip() == "yes"

    def put_file(self, path: str, mode: str, content: bytes) -> bool:
        """The file has this content and mode; whether it had not before. UsageError for a path that is not
        absolute or goes up."""
        check_pattern(path, HOST_PATH, "path", "an absolute path of letters, digits and . _ + @ : -")
        check_pattern(mode, MODE, "mode")
        return self._ours("nv_put_file", path, mode, data=content).strip() == "done"

    def boot(self) -> tuple[str, bool]:
        """(which boot of the host this is, whether libvirt answers). A connection that does not answer is
        given up: the host it led to may be gone, and the next call opens another."""
        try:
            answer = self.shell.call("nv_ours", self.fleet, self.mark, "nv_boot", deadline=BOOT)
        except HostUnreachable:
            self.shell.close()
            raise
        boot_id, _, answers = answer.strip().partition(" ")
        return boot_id, answers == "yes"

    def reboot(self, boot_id: str, argv: Sequence[str]) -> None:
        """The command is carried out in a moment, unless the host has booted since that boot."""
        self._ours("nv_reboot", boot_id, *argv)


def ran(log: str) -> tuple[int | None, str]:
    """What the log of such a job says: (its exit status, None for unchanged; what it said)."""
    found = list(ENDED.finditer(log))
    if not found:
        return 1, log
    last = found[-1]
    return (None if last[1] else int(last[2])), log[: last.start()].strip()
