"""That a host is down, proven before its instances may run elsewhere: by a command that fences it, or by
somebody who types its name. What proved it is kept."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from novactl.actions.world import World
from novactl.db import hosts, operations
from novactl.db.session import Tx
from novactl.errors import Refused, UsageError
from novactl.objects.host import Host

FILE = "fencing.yaml"
SECONDS = 120.0  # that a fence command may take
MOST = 2000  # characters of its output that are kept

Run = Callable[[Sequence[str]], tuple[int, str]]


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Why a host counts as down."""

    host: str
    words: str


def commands(directory: Path) -> Mapping[str, Sequence[str]]:
    """The fence commands of the operator's configuration, `fencing: {NAME: [WORD, …]}`. They run on this
    machine, so it is this machine's file that names them and not the database. Raises UsageError."""
    from novactl.files import fencing

    return fencing.load(directory / FILE)


def command(directory: Path, name: str, host: Host) -> list[str]:
    """The command of that name for the host. Raises UsageError when there is none."""
    known = commands(directory)
    if name not in known:
        raise UsageError(
            f"fence command {name!r} is not in {directory / FILE}",
            hint=f"there are: {', '.join(sorted(known))}" if known else "docs/evacuation.md shows one",
        )
    places = {"{host}": host.name, "{address}": host.address}
    return [_filled(word, places) for word in known[name]]


def _filled(word: str, places: Mapping[str, str]) -> str:
    for place, value in places.items():
        word = word.replace(place, value)
    return word


def run(argv: Sequence[str]) -> tuple[int, str]:
    """(exit status, what it printed); no shell. Raises Refused when it cannot be run or takes too long."""
    try:
        ended = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            check=False,
        )
    except OSError as error:
        raise Refused(f"{argv[0]}: cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise Refused(f"{argv[0]}: had not ended after {SECONDS:.0f} s: nothing is proven") from error
    return ended.returncode, ended.stdout.decode(errors="replace").replace("\0", "\ufffd")


def by_command(host: Host, name: str, argv: Sequence[str], run: Run = run) -> Proof:
    """The command has fenced the host: its exit status 0 says so. Raises Refused for any other."""
    status, output = run(argv)
    said = " / ".join(output.split("\n")).strip(" /")[:MOST]
    if status != 0:
        raise Refused(
            f"{host.name}: fence command {name} ended with {status}: nothing is proven",
            hint=said,
        )
    return Proof(host=host.name, words=f"fenced by {name}{f': {said}' if said else ''}")


def by_word(world: World, host: Host, typed: str) -> Proof:
    """Somebody has looked and typed the host's name. Raises UsageError for another name, Refused when the
    host answers after all."""
    if typed != host.name:
        raise UsageError(
            f"{typed!r} is not the host in question, which is {host.name}", hint="nothing was done"
        )
    if answers(world, host.name):
        raise Refused(
            f"host {host.name} answers: it is not down",
            hint=f"novactl host drain {host.name} empties it; one that must die needs --fenced-by",
        )
    return Proof(host=host.name, words=f"somebody has verified that {host.name} is down")


def answers(world: World, host: str) -> bool:
    """Whether anything there speaks to us, be it only to refuse. One without libvirt does: guests run on
    without it."""
    return world.hypervisor(host).answers()


def record(tx: Tx, proof: Proof, *, user: str, now: str) -> None:
    """The host is fenced, and an event says why."""
    hosts.fence(tx, proof.host, now)
    operations.tell(tx, None, proof.host, "fence", "fenced", proof.words, user=user, now=now)
