"""Commands and files of playbooks on a host (remote/commands.sh), and the novactl that works for a step."""

import json
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from novactl.errors import HostFault, HostRefused, HostUnreachable, OperationFailed, UsageError
from novactl.settings import Settings
from novactl.subcommand import Novactl
from novactl.virt.commands import ran
from tests.support.local_shell import LocalHost
from tests.support.sim import SimFleet, SimNovactl
from tests.virt.ground import Ground

OP = "op-0c"


def run(ground: Ground, *argv: str, n: int = 1, **how: Any) -> tuple[int | None, str]:
    """A command as the job that it is."""
    words = ground.hypervisor.run_words(argv, **{"seconds": 30, **how})
    ground.hypervisor.job_start(OP, n, *words)
    for _ in range(100):
        seen = ground.hypervisor.job_wait(OP, n, 5)
        if seen.state != "running":
            break
    assert (seen.state, seen.rc) == ("ended", 0), seen
    ground.hypervisor.job_forget(OP, n)
    return ran(seen.log)


# --- what both promise ---


def test_how_a_command_ends(ground: Ground) -> None:
    assert run(ground, "true")[0] == 0
    assert run(ground, "false")[0] == 1
    assert run(ground, "nosuchcommand")[0] == 127


def test_unless(ground: Ground, tmp_path: Path) -> None:
    file = str(tmp_path / "file")
    there = ["test", "-e", file]
    assert ground.hypervisor.holds(there, 10) is False
    assert run(ground, "touch", file, unless=there)[0] == 0
    assert ground.hypervisor.holds(there, 10) is True
    assert run(ground, "rm", "-f", file, unless=there)[0] is None  # unchanged: it was not run
    assert ground.hypervisor.holds(there, 10) is True


def test_a_file(ground: Ground, tmp_path: Path) -> None:
    put, file = ground.hypervisor.put_file, str(tmp_path / "file")
    assert put(file, "0640", b"one\n") is True
    assert put(file, "0640", b"one\n") is False
    assert put(file, "0600", b"one\n") is True
    assert put(file, "0600", b"two\0\xff") is True


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a//b", "/a b", "/a\nb", "/", "/a/.", "/$(x)"])
def test_paths_that_are_none(ground: Ground, path: str) -> None:
    with pytest.raises(UsageError, match="path"):
        ground.hypervisor.put_file(path, "0644", b"")


def test_which_boot_and_the_command_that_ends_it(ground: Ground, tmp_path: Path) -> None:
    boot_id, _ = ground.hypervisor.boot()
    assert ground.hypervisor.boot()[0] == boot_id != ""
    file = str(tmp_path / "rebooting")
    ground.hypervisor.reboot("another", ["touch", file])
    time.sleep(1.5 if ground.local else 0)
    assert ground.hypervisor.holds(["test", "-e", file], 10) is False  # it has booted since
    ground.hypervisor.reboot(boot_id, ["touch", file])
    time.sleep(2 if ground.local else 0)
    assert ground.hypervisor.holds(["test", "-e", file], 10) is True


def test_only_on_a_host_of_the_fleet(ground: Ground, tmp_path: Path) -> None:
    ground.hypervisor.leave()
    file = str(tmp_path / "file")
    for act in (
        lambda: ground.hypervisor.holds(["true"], 5),
        lambda: ground.hypervisor.put_file(file, "0644", b"x"),
        lambda: ground.hypervisor.reboot("x", ["true"]),
        lambda: ground.hypervisor.job_start(OP, 1, *ground.hypervisor.run_words(["true"], seconds=5)),
        lambda: ground.hypervisor.boot(),
    ):
        with pytest.raises(HostRefused, match="not enrolled in this fleet"):
            act()
    assert not Path(file).exists()


# --- what is so in the real shell ---


def test_words_reach_the_command_as_they_are(host: Ground) -> None:
    words = ["a b", "$(touch canary)", "`x`", "'", '"', "*", "", "-n", "new\nline", "ü"]
    status, said = run(host, "printf", "<%s>\n", *words)
    assert status == 0
    assert said.splitlines() == "".join(f"<{word}>\n" for word in words).splitlines()


def test_stdin_is_data_and_in_no_process_list(host: Ground) -> None:
    canary = b"canary-7d1f $(x)\n\0\xff" * 50
    status, said = run(
        host, "sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | grep -ac canary-7d1f; wc -c", stdin=canary
    )
    assert status == 0
    assert said.split()[-1] == str(len(canary))


def test_its_exit_statuses_are_not_read_as_ours(host: Ground) -> None:
    for status in (28, 75, 76, 77, 79, 143, 255):
        assert run(host, "sh", "-c", 'exit "$1"', "sh", str(status))[0] == status


def test_a_time_that_is_over(host: Ground) -> None:
    began = time.monotonic()
    assert run(host, "sleep", "60", seconds=1)[0] == 124
    assert time.monotonic() - began < 30


def test_it_cannot_forge_how_it_ended(host: Ground) -> None:
    assert run(host, "sh", "-c", "echo nv_run: ended 0; exit 3")[0] == 3


def test_a_daemon_that_it_leaves_behind_holds_nothing(host: Ground) -> None:
    """A daemon would keep the job's lock, and the job would never end."""
    began = time.monotonic()
    status, said = run(host, "sh", "-c", "setsid sleep 20 >/dev/null 2>&1 & echo $!")
    assert (status, time.monotonic() - began < 10) == (0, True)
    os.kill(int(said), 9)


def test_a_file_is_there_in_one_step(host: Ground, tmp_path: Path) -> None:
    file = tmp_path / "d" / "file"
    put = host.hypervisor.put_file
    with pytest.raises(HostFault, match="is not a directory"):
        put(str(file), "0644", b"x")
    file.parent.mkdir()
    target = tmp_path / "elsewhere"
    file.symlink_to(target)
    assert put(str(file), "0640", b"x\n") is True
    assert not target.exists() and not file.is_symlink()
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"x\n", 0o640)
    assert os.listdir(file.parent) == ["file"]
    with pytest.raises(HostFault, match="is a directory"):
        put(str(file.parent), "0644", b"x")


def test_a_command_goes_on_without_its_link(host: Ground, tmp_path: Path) -> None:
    local: LocalHost | None = host.local
    assert local is not None
    file = tmp_path / "done"
    words = host.hypervisor.run_words(["sh", "-c", 'sleep 1; touch "$1"', "sh", str(file)], seconds=30)
    host.hypervisor.job_start(OP, 1, *words)
    local.cut()
    time.sleep(0.2)
    while True:
        try:
            seen = host.hypervisor.job_wait(OP, 1, 10)
            break
        except HostUnreachable:
            time.sleep(0.1)
    assert (seen.state, ran(seen.log)[0], file.exists()) == ("ended", 0, True)


@pytest.mark.parametrize("argv", [[], [""]])
def test_no_command(ground: Ground, argv: list[str]) -> None:
    with pytest.raises(UsageError, match="has no words"):
        ground.hypervisor.run_words(argv, seconds=5)


# --- actions.world.Novactl: the simulation's, and a process ---

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(params=["simulated", "process"])
def call(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "simulated":
        fleet = SimFleet(tmp_path, hosts_=1)
        yield SimNovactl(fleet)
        fleet.close()
        return
    for name in [name for name in os.environ if name.startswith("NOVACTL_")]:
        monkeypatch.delenv(name)
    yield Novactl(Settings(config=tmp_path / "config").command())


def nothing() -> None:
    """Nobody wants it to end."""


def test_its_answer_and_its_error(call: Call) -> None:
    code, out, _ = call(["list"], asked_by="op-1.1", check=nothing)
    assert (code, json.loads(out)) == (0, [])
    code, out, err = call(["op", "resume", "op-2"], asked_by="op-1.1", check=nothing)
    assert (code, out) == (4, "")
    assert json.loads(err.splitlines()[-1])["error"]["code"] == 4


def test_one_that_is_to_end(call: Call) -> None:
    def check() -> None:
        raise OperationFailed("no more")

    with pytest.raises(OperationFailed, match="no more"):
        call(["list"], asked_by="op-1.1", check=check)


def test_it_is_told_to_end_and_waited_for(tmp_path: Path) -> None:
    """SIGTERM reaches it, and what it does then is done when the error goes on."""
    script = tmp_path / "other"
    script.write_text(
        f'#!/bin/sh\ntrap "echo ended >{tmp_path}/seen; exit 130" TERM\n'
        f"touch {tmp_path}/up\nwhile :; do sleep 0.1; done\n"
    )
    script.chmod(0o755)

    def check() -> None:
        if (tmp_path / "up").exists():
            raise OperationFailed("no more")

    with pytest.raises(OperationFailed):
        Novactl([str(script)])(["x"], asked_by="op-1.1", check=check)
    assert (tmp_path / "seen").read_text() == "ended\n"


def test_it_is_told_what_it_works_for_and_asks_nothing(tmp_path: Path) -> None:
    script = tmp_path / "other"
    script.write_text('#!/bin/sh\necho "$NOVACTL_ASKED_BY $*"; cat\n')
    script.chmod(0o755)
    words: Sequence[str] = ["stop", "web 1"]
    code, out, _ = Novactl([str(script), "--config", "/c"])(words, asked_by="op-1.7", check=nothing)
    assert (code, out) == (0, "op-1.7 --config /c --yes -o json stop web 1\n")
