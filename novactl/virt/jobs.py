"""Jobs on a host (remote/jobs.sh): work that survives the link and us."""

from dataclasses import dataclass
from typing import Literal

from novactl.virt.calls import Calls, job_words


@dataclass(frozen=True)
class JobState:
    """A job on a host. "none": there is no such job, or it died (a reboot) without an exit status; `log`
    is the end of what it said, 4 KiB at most."""

    state: Literal["running", "ended", "none"]
    rc: int | None = None
    progress: str = ""
    log: str = ""


class Jobs(Calls):
    """A host's jobs."""

    def job_start(self, op: str, n: int, *words: str) -> None:
        """The function of host.sh runs there as the job of that step, or ran before. What acts on an
        instance begins with nv_fenced, as a call does."""
        self._ours("nv_job_start", *job_words(op, n), data=self.shell.job_script(words))

    def job_wait(self, op: str, n: int, seconds: float) -> JobState:
        """How it is, at its end or after so many seconds (less than 100)."""
        first, _, said = self._ours("nv_job_wait", *job_words(op, n), str(seconds)).partition("\n")
        match first.split(" ", 1):
            case ["running", text]:
                return JobState("running", None, text.strip(), said)
            case ["ended", rc]:
                return JobState("ended", int(rc), "", said)
            case _:
                return JobState("none", None, "", said)

    def job_end(self, op: str, n: int) -> None:
        """It does not run any more, nor anything it started, and its exit status is forgotten."""
        self._ours("nv_job_end", *job_words(op, n))

    def job_forget(self, op: str, n: int) -> None:
        """Nothing is left of the job, which has ended. Busy when it still runs."""
        self._ours("nv_job_forget", *job_words(op, n))
