"""novactl demo: the main job on two disposable hypervisors, every command shown as it is run."""

import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import typer

from novactl.errors import OperationFailed

LAB = "demo"


def register(root: typer.Typer) -> None:
    root.command()(demo)


class Stage:
    """Runs novactl commands of a configuration of their own and echoes them."""

    def __init__(self, config: Path) -> None:
        self.config = config

    def run(self, *words: str, hidden: bool = False) -> str:
        """One command; its stdout. Raises OperationFailed when it fails."""
        if not hidden:
            print(
                f"\n\033[1m$ novactl {shlex.join(words)}\033[0m"
                if sys.stdout.isatty()
                else f"\n$ novactl {shlex.join(words)}",
                flush=True,
            )
        argv = [sys.executable, "-m", "novactl", "--config", str(self.config), *words]
        ended = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
        if not hidden:
            print(ended.stdout, end="", flush=True)
        if ended.returncode:
            raise OperationFailed(f"novactl {words[0]} ended with {ended.returncode}")
        return ended.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "-o", "json", "-q", hidden=True))


def demo() -> None:
    """Boot an instance on two disposable hypervisors of this machine, and clean up (root).

    novactl demo
    """
    with tempfile.TemporaryDirectory(prefix="novactl-demo-") as directory:
        stage = Stage(Path(directory))
        try:
            _play(stage)
        finally:
            stage.run("lab", "down", "--name", LAB)
    print("\nThat was all of it: nothing is left on this machine.")


def _play(stage: Stage) -> None:
    print("A lab of two hypervisors: each has its own sshd, libvirtd, name and address.")
    stage.run("lab", "down", "--name", LAB, "-q", hidden=True)
    stage.run("lab", "up", "--name", LAB, "--hosts", "2", "-q")
    lab = _lab()
    _prepare(stage, lab)
    address = str(lab["network"].rpartition(".")[0]) + ".100"
    boot = ["boot", "web1", "--flavor", "tiny", "--image", "tiny", "--network", f"lan,ip={address}"]
    print("\nWhat boot would do, then doing it:")
    stage.run(*boot, "--dry-run")
    stage.run(*boot)
    _wait_for_first_line(stage)
    for words in (
        "console-log web1",
        "list",
        "stop web1",
        "start web1",
        "event list web1",
        "delete web1 --yes",
    ):
        stage.run(*words.split())
    stage.run("list")


def _prepare(stage: Stage, lab: dict[str, Any]) -> None:
    """Hosts, an image, a flavor and a network."""
    for host in lab["hosts"]:
        words = ["--address", host["address"], "--identity", lab["identity"]]
        words += ["--fingerprint", host["fingerprint"], "-q", "-c", "name,address,virt_type,libvirt_version"]
        stage.run("host", "add", host["name"], *words)
    stage.run("host", "list")
    image = stage.json("lab", "image", "tiny")
    files = ["--file", image["file"], "--format", "raw", "--kernel", image["kernel"]]
    files += ["--initrd", image["initrd"], "--cmdline", image["cmdline"]]
    stage.run("image", "add", "tiny", *files, "-c", "name,sha256")
    stage.run(*"flavor create tiny --vcpus 1 --memory 96 --disk 1 -c name,vcpus,memory_mib".split())
    network = ["--cidr", lab["network"], "--gateway", lab["gateway"], "--bridge", "br0"]
    stage.run("network", "create", "lan", *network, "-c", "name,cidr,free")


def _lab() -> dict[str, Any]:
    from novactl.lab import load

    fleet = load(LAB)
    hosts = [{"name": h.name, "address": h.address, "fingerprint": h.fingerprint} for h in fleet.hosts]
    return {
        "network": fleet.network,
        "gateway": fleet.gateway,
        "identity": str(fleet.identity),
        "hosts": hosts,
    }


def _wait_for_first_line(stage: Stage) -> None:
    """The guest's own first line, at most a minute later."""
    for _ in range(120):
        if "tiny: ready" in stage.run("console-log", "web1", hidden=True):
            return
        time.sleep(0.5)
    raise OperationFailed("the guest printed nothing within a minute")
