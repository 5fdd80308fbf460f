"""Completion in real shells: commands, options, names; silent, harmless, without side effects."""

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from novactl.db import catalogue, groups, instances, projects
from novactl.db.sqlite import SqliteDatabase
from novactl.objects.group import GroupPolicy, ServerGroup
from novactl.objects.keypair import Keypair
from novactl.objects.project import Project
from tests.support import fleet
from tests.support.command import NOVACTL, Command

HOSTILE = ("$(touch pwned)", "a b", "`id`", "x;y", "-rf", "new\nline", "\x1b[31m", "é'")
SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def stocked(novactl: Command, db: SqliteDatabase) -> Command:
    """Two hosts, a few instances, keypairs of two projects, and names that should not be."""
    fleet.furnish(db, hosts_=2)
    for number in (1, 2, 11):
        fleet.add_instance(db, fleet.instance(number, host="kvm1"))
    fleet.add_instance(db, fleet.instance(3, name="db1"))
    fleet.add_instance(db, fleet.instance(4, name="elsewhere", project="other"))
    with db.writing() as tx:
        instances.bury(tx, fleet.uuid(2), fleet.WHEN, None)
        for n, name in enumerate(HOSTILE):
            instances.add(tx, fleet.instance(20 + n, name=name))
        for project, name in (("default", "me"), ("other", "you")):
            catalogue.add_keypair(tx, project, Keypair(name=name, fingerprint="f", public_key="k"))
            made = {"id": fleet.uuid(len(project)), "name": f"{name}-too", "project": project}
            groups.create(tx, ServerGroup(policy=GroupPolicy.AFFINITY, **made))
        for name in ("shop", "lab"):
            projects.create(tx, Project(name=name))
        columns = "kind target project request owner owner_key user written_by started_at".split()
        numbers = dict.fromkeys(("attempt", "epoch", "cancel_requested"), 0)
        tx.insert("operations", id="op-0a", state="done", **dict.fromkeys(columns, ""), **numbers)
    return novactl


def asked(novactl: Command, line: str) -> list[str]:
    """What the helper says to a command line that is being typed."""
    ended = novactl("__complete", "--line", line)
    assert (ended.code, ended.err) == (0, "")
    return ended.out.splitlines()


CASES = {
    "novactl sta": ["start"],
    "novactl host dr": ["drain"],
    "novactl host sh": ["show"],
    "novactl flavor ": ["create", "delete", "list", "show"],
    "novactl -o json ho": ["host"],
    "novactl stop --no": ["--no-wait"],
    "novactl stop --fo": ["--force"],
    "novactl list --out": ["--output"],
    "novactl stop w": ["web1", "web11"],
    "novactl stop web1 w": ["web11"],
    "novactl stop ": ["db1", "web1", "web11"],
    "novactl stop -- w": ["web1", "web11"],
    "novactl show web11": ["web11"],
    "novactl --project other show ": ["elsewhere"],
    "novactl show --project=other ": ["elsewhere"],
    "novactl list --on ": ["kvm1", "kvm2"],
    "novactl list --on=kvm": ["--on=kvm1", "--on=kvm2"],
    "novactl host show ": ["kvm1", "kvm2"],
    "novactl host check kvm1 ": ["kvm2"],
    "novactl boot x --flavor ": ["small"],
    "novactl boot x --image t": ["tiny"],
    "novactl boot x --key ": ["me"],
    "novactl boot x --network ": ["lan"],
    "novactl boot ": [],
    "novactl flavor create ": [],
    "novactl keypair show ": ["me"],
    "novactl network delete l": ["lan"],
    "novactl group show ": ["me-too"],
    "novactl group delete --project other ": ["you-too"],
    "novactl group create ": [],
    "novactl group create x --policy s": ["soft-affinity", "soft-anti-affinity"],
    "novactl project show ": ["lab", "shop"],
    "novactl project create ": [],
    "novactl project set shop --limit mem": ["memory_mib="],
    "novactl list --project s": ["shop"],
    "novactl quota show ": ["lab", "shop"],
    "novactl quota set shop inst": ["instances="],
    "novactl list --limit ": [],
    "novactl op show ": ["op-0a"],
    "novactl list -o js": ["json", "jsonl"],
    "novactl list --status SHE": ["SHELVED", "SHELVED_OFFLOADED"],
    "novactl list --power-state ru": ["running"],
    "novactl wait web1 st": ["status="],
    "novactl completion ": ["bash", "zsh", "fish"],
    "novactl host add --virt-type ": ["auto", "kvm", "qemu"],
    "novactl image add x --file ": ["files"],
    "novactl nosuch ": [],
    "novactl list --nosuch ": [],
    'novactl stop "': [],
    "novactl host add x --address ": [],
}


def test_what_may_come_next(stocked: Command) -> None:
    assert {line: asked(stocked, line) for line in CASES} == CASES


def script(directory: Path, shell: str) -> Path:
    path = directory / f"script.{shell}"
    path.write_text(
        subprocess.run([NOVACTL, "completion", shell], capture_output=True, text=True, check=True).stdout
    )
    return path


def run(shell: list[str], text: str, novactl: Command, directory: Path) -> list[str]:
    environment = {
        **novactl.environment,
        "PATH": f"{Path(NOVACTL).parent}:{os.environ['PATH']}",
        "HOME": str(directory),
    }
    ended = subprocess.run(
        [*shell, text],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def in_bash(line: str, novactl: Command, directory: Path) -> list[str]:
    """By the very function that Tab calls."""
    text = f"""
        source {script(directory, "bash")}
        COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=(novactl); COMP_CWORD=0
        compopt() {{ :; }}
        _novactl
        for word in "${{COMPREPLY[@]}}"; do printf '%s\\n' "$word"; done
    """
    return run(["bash", "--norc", "-c"], text, novactl, directory)


def in_zsh(line: str, novactl: Command, directory: Path) -> list[str]:
    """By the very function that Tab calls, which hands its words to compadd."""
    words, current = line.split(" ")[:-1], line.split(" ")[-1]
    text = f"""
        compdef() {{ : }}
        compadd() {{ while [[ $1 != -- ]]; do shift; done; shift; (( $# == 0 )) || print -rl -- "$@" }}
        source {script(directory, "zsh")}
        words=({" ".join(words)} {current!r}); CURRENT=$#words
        _novactl | grep . || true
    """
    return sorted(run(["zsh", "-f", "-c"], text, novactl, directory))


def in_fish(line: str, novactl: Command, directory: Path) -> list[str]:
    """fish itself says what it would offer."""
    text = f"source {script(directory, 'fish')}; complete -C {line!r}"
    return run(["fish", "--no-config", "-c"], text, novactl, directory)


SAME = ["novactl sta", "novactl stop w", "novactl list --on kvm"]


@pytest.mark.parametrize("line", SAME)
def test_every_shell_offers_the_same(stocked: Command, tmp_path: Path, line: str) -> None:
    found = {
        "bash": in_bash(line, stocked, tmp_path),
        "zsh": in_zsh(line, stocked, tmp_path),
        "fish": in_fish(line, stocked, tmp_path),
    }
    assert found == dict.fromkeys(SHELLS, asked(stocked, line))


def test_bash_replaces_what_follows_an_equals_sign(stocked: Command, tmp_path: Path) -> None:
    assert in_bash("novactl list --on=kvm", stocked, tmp_path) == ["kvm1", "kvm2"]
    assert in_bash("novactl list --on=", stocked, tmp_path) == ["kvm1", "kvm2"]
    assert in_zsh("novactl list --on=kvm", stocked, tmp_path) == ["--on=kvm1", "--on=kvm2"]


def test_a_tab_in_a_real_bash(stocked: Command, tmp_path: Path) -> None:
    """Typed at a terminal."""
    path = script(tmp_path, "bash")
    environment = {
        **stocked.environment,
        "PATH": f"{Path(NOVACTL).parent}:{os.environ['PATH']}",
        "TERM": "dumb",
    }
    pid, master = pty.fork()
    if pid == 0:
        os.execve(shutil.which("bash") or "bash", ["bash", "--norc", "-i"], {**environment, "PS1": "ready> "})
    try:
        os.write(master, f"source {path}\n".encode())
        typed(master, "ready> ", times=2)
        os.write(master, b"novactl host sh\t")
        typed(master, "host show ")
        os.write(master, b"kvm\t\t")
        typed(master, "kvm1  kvm2")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(master)


def typed(master: int, words: str, times: int = 1) -> None:
    seen, until = "", time.monotonic() + 30
    while seen.count(words) < times:
        assert time.monotonic() < until, seen
        if select.select([master], [], [], 0.2)[0]:
            seen += os.read(master, 4096).decode(errors="replace")


def test_hostile_names_reach_no_shell(stocked: Command, tmp_path: Path) -> None:
    for line in ("novactl stop ", "novactl stop $", "novactl stop -r", "novactl stop a", "novactl stop x"):
        found = asked(stocked, line)
        assert not set(found) & set(HOSTILE)
        assert not any("\x1b" in word or "pwned" in word or word.startswith("-r") for word in found)
    for shell in (in_bash, in_zsh, in_fish):
        assert set(shell("novactl stop ", stocked, tmp_path)) == {"db1", "web1", "web11"}
    assert not list(tmp_path.glob("**/pwned"))


def test_nothing_is_made_and_nothing_is_said(empty: Command, tmp_path: Path) -> None:
    """No database, a file that is none, a server that is not there, another schema."""
    assert asked(empty, "novactl stop ") == []
    assert asked(empty, "novactl sta") == ["start"]
    assert not empty.config.exists()
    broken = tmp_path / "broken.db"
    broken.write_text("not a database")
    assert asked(empty, f"novactl --db {broken} stop ") == []
    assert asked(empty, f"novactl --db={tmp_path}/none.db stop ") == []
    assert not (tmp_path / "none.db").exists()
    began = time.monotonic()
    assert asked(empty, "novactl --db postgresql://me@127.0.0.1:1/novactl stop ") == []
    assert time.monotonic() - began < 10


def test_an_unknown_shell(novactl: Command) -> None:
    ended = novactl("completion", "tcsh")
    assert ended.code == 2
    assert ended.err.splitlines() == ["error: shell 'tcsh' is not one of bash, zsh, fish"]
