"""The ground that tests of a host stand on: the simulation, or host.sh in a real shell."""

import hashlib
import os
from pathlib import Path
from typing import Any

from novactl.images.transfer import feed
from novactl.virt.domain import DomainSpec, Marks, build
from novactl.virt.hypervisor import Hypervisor
from tests.support import fleet
from tests.support.clock import SimClock
from tests.support.local_shell import LocalHost
from tests.support.scratch import FLEET
from tests.support.sim import CONTENT, TEMPLATE, SimHost, SimHypervisor

UUID = fleet.uuid(1)
OTHER = fleet.uuid(2)
OPERATION = "op-1"
BASE = hashlib.sha256(CONTENT).hexdigest()


def xml(uuid: str = UUID, operation: str = OPERATION) -> str:
    spec = DomainSpec(
        instance=fleet.instance(1, uuid=uuid),
        directory="/d",
        base_directory="/b",
        virt_type="qemu",
        arch="x86_64",
        cache="none",
        marks=Marks(fleet=FLEET, operation=operation, epoch=1, generation=1),
    )
    return build(spec, TEMPLATE)


class Ground:
    """A hypervisor of either kind, and a way to see what is on it."""

    def __init__(self, hypervisor: Any, clock: SimClock, local: LocalHost | None, path: Path) -> None:
        self.hypervisor = hypervisor
        self.clock = clock
        self.local = local
        self.path = path  # instances, in the real one

    def files(self, uuid: str = UUID) -> list[str]:
        """What lies in an instance's directory, marks and temporaries too."""
        if self.local is not None:
            directory = self.path / uuid
            return sorted(p.name for p in directory.iterdir()) if directory.exists() else []
        found = self.hypervisor.host.directories.get(uuid)
        return sorted([*found.files, ".made-by"]) if found else []

    def strays(self) -> list[str]:
        """What lies beside the instances' directories and is none."""
        if self.local is not None:
            return sorted(p.name for p in self.path.iterdir() if "." in p.name)
        return sorted(self.hypervisor.host.strays)

    def content(self, file: str, uuid: str = UUID) -> bytes:
        if self.local is not None:
            return (self.path / uuid / file).read_bytes()
        return bytes(self.hypervisor.host.directories[uuid].files[file])

    def write_console(self, text: bytes, uuid: str = UUID) -> None:
        if self.local is not None:
            (self.path / uuid / "console.log").write_bytes(text)
        else:
            self.hypervisor.host.directories[uuid].files["console.log"] = text

    def deafen(self, uuid: str = UUID) -> None:
        if self.local is not None:
            (self.local.domains / uuid / "deaf").touch()
        else:
            self.hypervisor.host.domains[uuid].deaf = True

    def age(self, seconds: int) -> None:
        """All that lies in _base was last used so much earlier."""
        if self.local is None:
            host = self.hypervisor.host
            for name in (*host.bases, *host.parts):
                host.touched[name] = host.touched.get(name, 0.0) - seconds
            return
        for path in (self.path / "_base").iterdir():
            if not path.name.startswith(".lock"):
                then = path.stat().st_mtime - seconds
                os.utime(path, (then, then))

    def wait(self, seconds: float) -> None:
        self.clock.sleep(seconds)

    def base(self) -> None:
        """The base file is there."""
        source = self.path.parent / "source"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(CONTENT)
        ready, have = self.hypervisor.base_state(BASE)
        if not ready:
            send = feed(source, have, lambda done, total: None)
            self.hypervisor.base_receive(BASE, len(CONTENT), have, send)
            self.hypervisor.base_finish(BASE, "raw", len(CONTENT))

    def guest(self, uuid: str = UUID, operation: str = OPERATION, epoch: int = 1) -> None:
        """All that boot makes, short of starting."""
        self.base()
        self.hypervisor.make_directory(uuid, epoch, operation)
        self.hypervisor.overlay(uuid, epoch, "disk", BASE, 1 << 20)
        self.hypervisor.put(uuid, epoch, "disk.config", "0400", b"iso")
        self.hypervisor.define(uuid, epoch, xml(uuid, operation))


def simulated(tmp_path: Path) -> Ground:
    clock = SimClock()
    host = SimHost("kvm1")
    hypervisor = SimHypervisor(host, FLEET, clock, [])
    hypervisor.enrol(takeover=False)
    return Ground(hypervisor, clock, None, tmp_path / "sim" / "instances")


def real(tmp_path: Path, **options: Any) -> Ground:
    local = LocalHost(tmp_path / "real", **options)
    path = local.state / "instances"
    hypervisor = Hypervisor(local.shell, FLEET, str(path))
    hypervisor.enrol(takeover=False)
    return Ground(hypervisor, SimClock(), local, path)


def source(tmp_path: Path, content: bytes) -> tuple[str, Path]:
    path = tmp_path / "image"
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest(), path


def quiet(done: int, total: int) -> None:
    """Nobody watches."""


def sparse(content: bytes) -> str:
    """The sum that a host gives what it converted (nv_sparse_sums)."""
    lines, piece = [f"{len(content)}\n"], 16 << 20
    for at in range(0, len(content), piece):
        part = content[at : at + piece]
        if len(part) < piece or part.strip(b"\0"):
            lines.append(f"{at // piece} {hashlib.sha256(part).hexdigest()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()
