"""Jobs on a host: they outlive the link and whoever started them, run once, and end with all they started."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from novactl.errors import Busy, HostRefused, UsageError
from novactl.virt.hypervisor import Hypervisor
from novactl.virt.jobs import JobState
from tests.support.scratch import FLEET
from tests.virt.ground import Ground

OP = "op-01a"


def ended(ground: Ground, op: str = OP, n: int = 1) -> JobState:
    for _ in range(100):
        seen: JobState = ground.hypervisor.job_wait(op, n, 5)
        if seen.state != "running":
            return seen
    raise AssertionError("it never ends")


def soon(holds: Callable[[], bool]) -> bool:
    """Whether it holds within 10 s."""
    for _ in range(200):
        if holds():
            return True
        time.sleep(0.05)
    return False


def job(ground: Ground, n: int = 1) -> Path:
    """A job's directory on the real host."""
    assert ground.local
    return ground.local.state / "job" / f"{OP}.{n}"


def processes(text: str) -> list[str]:
    """Processes whose command line has it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


# --- what both promise ---


def test_no_such_job(ground: Ground) -> None:
    assert ground.hypervisor.job_wait(OP, 1, 0) == JobState("none")
    ground.hypervisor.job_end(OP, 1)
    ground.hypervisor.job_forget(OP, 1)


def test_the_life_of_a_job(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    hypervisor.job_start(OP, 1, "sleep", "0.5")
    assert hypervisor.job_wait(OP, 1, 0).state == "running"
    with_others = hypervisor.job_wait(OP, 2, 0)
    assert with_others.state == "none"
    hypervisor.job_start(OP, 1, "sleep", "60")  # attaches
    assert ended(ground) == JobState("ended", 0)
    hypervisor.job_start(OP, 1, "nv_die", "1", "it does not run again")
    assert ended(ground) == JobState("ended", 0)
    for _ in range(2):
        hypervisor.job_forget(OP, 1)
    assert hypervisor.job_wait(OP, 1, 0) == JobState("none")


@pytest.mark.parametrize("rc", [1, 28, 75, 77, 79])
def test_an_exit_status_and_its_words(ground: Ground, rc: int) -> None:
    ground.hypervisor.job_start(OP, 1, "nv_die", str(rc), "the reason")
    assert ended(ground) == JobState("ended", rc, "", "the reason\n")
    ground.hypervisor.job_forget(OP, 1)
    ground.hypervisor.job_start(OP, 1, "true")
    assert ended(ground).rc == 0


def test_a_job_that_runs_is_ended_not_forgotten(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    hypervisor.job_start(OP, 1, "sleep", "60")
    if ground.local is None:  # the real one waits some seconds before it says so
        with pytest.raises(Busy, match=rf"^kvm1: the job {OP}\.1 still runs on this host$"):
            hypervisor.job_forget(OP, 1)
    for _ in range(2):
        hypervisor.job_end(OP, 1)
    assert hypervisor.job_wait(OP, 1, 0) == JobState("none")


def test_jobs_are_of_the_fleet(ground: Ground) -> None:
    hypervisor = ground.hypervisor
    hypervisor.fleet = "22222222-2222-4333-8444-555555555555"
    for act in (
        lambda: hypervisor.job_start(OP, 1, "true"),
        lambda: hypervisor.job_wait(OP, 1, 0),
        lambda: hypervisor.job_end(OP, 1),
        lambda: hypervisor.job_forget(OP, 1),
    ):
        with pytest.raises(HostRefused):
            act()


# --- the real one ---


@pytest.mark.parametrize("op", ["", "op-", "op-x", "../op-1", "op-1/..", "op-1\n", "op-op-1", "1"])
def test_only_an_operation_names_a_job(host: Ground, op: str) -> None:
    for act in (
        lambda: host.hypervisor.job_start(op, 1, "true"),
        lambda: host.hypervisor.job_wait(op, 1, 0),
        lambda: host.hypervisor.job_end(op, 1),
    ):
        with pytest.raises(UsageError, match=r"is not an operation$"):
            act()
    assert host.local
    with pytest.raises(Exception, match="is not an operation"):
        host.local.shell.call("nv_job_end", op, "1")


def test_words_arrive_as_they_are(host: Ground, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    words = ["$(touch CANARY)", "'; touch CANARY; '", "a\nb", "", "é", "}"]
    words = [word.replace("CANARY", str(canary)) for word in words]
    host.hypervisor.job_start(OP, 1, "printf", "%s|", *words)
    assert ended(host) == JobState("ended", 0, "", "".join(f"{word}|" for word in words))
    assert not canary.exists()


def test_a_job_stops_at_its_first_failure(host: Ground, tmp_path: Path) -> None:
    host.hypervisor.job_start(OP, 1, "nv_put", str(tmp_path / "missing"), "file", "0600")
    seen = ended(host)
    assert seen.rc
    assert "missing" in seen.log
    assert not (tmp_path / "file").exists()


def test_a_job_knows_its_host(host: Ground) -> None:
    assert host.local
    host.hypervisor.job_start(OP, 1, "nv_space", str(host.path))
    assert int(ended(host).log) > 0
    host.hypervisor.job_start(OP, 2, "printenv", "PATH")
    assert "/sbin" in ended(host, n=2).log


def test_progress_and_a_long_log(host: Ground) -> None:
    assert host.local
    shell = host.local.shell
    script = shell.job_script(["nv_progress", "half"]).replace(
        b"nv_job_run nv_progress half",
        b"f() { nv_progress 'half of it'; seq 100000; sleep 1; nv_progress end; }; nv_job_run f",
    )
    shell.call("nv_job_start", OP, "1", data=script)
    assert soon(lambda: host.hypervisor.job_wait(OP, 1, 0).progress == "half of it")
    seen = ended(host)
    assert (seen.state, seen.rc) == ("ended", 0)
    assert len(seen.log) == 4096
    assert seen.log.endswith("\n100000\n")
    shell.call("nv_progress", "outside a job")


def test_a_job_survives_the_link_and_its_starter(host: Ground, tmp_path: Path) -> None:
    assert host.local
    host.hypervisor.job_start(OP, 1, "sleep", "1.5")
    host.local.cut()  # every process of the channel's session is killed
    assert host.hypervisor.job_wait(OP, 1, 0).state == "running"
    another = Hypervisor(host.local.shell, FLEET, str(host.path))
    another.job_start(OP, 1, "false")
    assert ended(host) == JobState("ended", 0)


def test_waiting_ends_with_the_job(host: Ground) -> None:
    host.hypervisor.job_start(OP, 1, "sleep", "0.4")
    began = time.monotonic()
    assert host.hypervisor.job_wait(OP, 1, 20).state == "ended"
    assert time.monotonic() - began < 3


def test_two_starters_at_once_start_one(host: Ground, tmp_path: Path) -> None:
    for n in range(1, 6):
        runs = tmp_path / f"runs{n}"

        def start(word: str, n: int = n, runs: Path = runs) -> None:
            host.hypervisor.job_start(OP, n, "mkdir", str(runs / word), str(runs))

        runs.mkdir()
        with ThreadPoolExecutor(max_workers=6) as pool:
            list(pool.map(start, "abcdef"))
        ended(host, n=n)
        assert len(list(runs.iterdir())) == 1


def test_its_end_is_the_end_of_all_it_started(host: Ground, tmp_path: Path) -> None:
    """timeout(1) makes a process group of its own, and a shell may be deaf to TERM."""
    mark = f"{tmp_path}/tool"
    Path(mark).write_text("trap '' TERM\nsleep 77 & sleep 77; sleep 77; sleep 77\n")
    host.hypervisor.job_start(OP, 1, "nv_image_tool", "sh", mark)
    assert soon(lambda: len(processes(mark)) >= 2)
    began = time.monotonic()
    host.hypervisor.job_end(OP, 1)
    assert processes(mark) == []
    assert 4 < time.monotonic() - began < 15  # TERM, and 5 s later KILL
    assert not job(host).exists()
    host.hypervisor.job_start(OP, 1, "true")
    assert ended(host).rc == 0


def test_the_end_of_a_tame_job_is_quick(host: Ground) -> None:
    host.hypervisor.job_start(OP, 1, "sleep", "78.5")
    assert soon(lambda: processes("78.5") != [])
    began = time.monotonic()
    host.hypervisor.job_end(OP, 1)
    assert time.monotonic() - began < 4
    assert soon(lambda: processes("78.5") == [])


def test_a_child_that_lives_on_keeps_the_job_running(host: Ground, tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("sleep 1 &\n")
    host.hypervisor.job_start(OP, 1, "sh", str(tool))
    assert soon(lambda: (job(host) / "rc").exists())
    assert host.hypervisor.job_wait(OP, 1, 0).state == "running"
    assert ended(host).rc == 0


def test_a_job_that_died_without_a_word_runs_again(host: Ground, tmp_path: Path) -> None:
    host.hypervisor.job_start(OP, 1, "sleep", "79.5")
    assert soon(lambda: processes("79.5") != [])
    directory = job(host)
    leader = (directory / "pid").read_text().split()[0]
    for pid in [leader, *processes("79.5")]:
        os.kill(int(pid), signal.SIGKILL)
    assert soon(lambda: host.hypervisor.job_wait(OP, 1, 0).state == "none")
    host.hypervisor.job_start(OP, 1, "mkdir", str(tmp_path / "again"))
    assert ended(host).rc == 0
    assert (tmp_path / "again").is_dir()


def test_a_number_that_is_another_s_by_now_is_not_killed(host: Ground) -> None:
    """The leader is gone, its number was given to somebody else, and a child outside the session holds on."""
    host.hypervisor.job_start(OP, 1, "setsid", "sleep", "3")
    assert soon(lambda: (job(host) / "pid").exists())
    innocent = subprocess.Popen(["sleep", "30"], start_new_session=True)
    try:
        (job(host) / "pid").write_text(f"{innocent.pid} 1\n")
        host.hypervisor.job_end(OP, 1)
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()
    assert not job(host).exists()


def test_a_look_never_counts_as_the_job(host: Ground) -> None:
    """Whoever looks holds the lock shared, for a moment; that is no job that runs."""
    host.hypervisor.job_start(OP, 1, "sleep", "60")
    host.hypervisor.job_end(OP, 1)
    directory = job(host)
    directory.mkdir()  # what a host that went down in mid-job has
    argv = ["flock", "-s", str(directory / "lock"), "sh", "-c", "echo held; sleep 0.7"]
    looker = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert looker.stdout
    looker.stdout.readline()
    assert host.hypervisor.job_wait(OP, 1, 0).state == "none"
    host.hypervisor.job_start(OP, 1, "true")
    assert ended(host).rc == 0
    looker.wait()


def test_a_script_that_came_in_part_runs_nothing(host: Ground, tmp_path: Path) -> None:
    assert host.local
    canary = tmp_path / "canary"
    shell = host.local.shell
    script = shell.job_script(["mkdir", str(canary), "x"])
    for n, length in enumerate((len(script) - 2, len(script) - 8, len(script) - 12), start=1):
        shell.call("nv_job_start", OP, str(n), data=script[:length].rstrip(b"\n") + b"\n")
        assert soon(lambda n=n: host.hypervisor.job_wait(OP, n, 1).state == "none")
    assert not canary.exists()


def test_what_a_job_is_on_disk(host: Ground) -> None:
    host.hypervisor.job_start(OP, 1, "true")
    ended(host)
    assert sorted(p.name for p in job(host).iterdir()) == ["lock", "log", "pid", "rc", "script"]
    assert job(host).stat().st_mode & 0o777 == 0o700
    assert job(host).parent.stat().st_mode & 0o777 == 0o700
    host.hypervisor.job_forget(OP, 1)
    assert not job(host).exists()
