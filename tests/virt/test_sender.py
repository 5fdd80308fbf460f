"""What sends a disk to the host that an instance goes to, over a link that is cut: by itself, in every shell
that /bin/sh may be."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.local_shell import with_library
from tests.unit.hostile_images import qcow2

SENDS = """
nv_job=$3
nv_image_tool() { (exec "$@"); }
sleep() { :; }
nv_trust_share() { # as over a link that does what the words of $FAULTS say, one for each connection
    shift 2
    read -r nv_fault <"$FAULTS" || nv_fault=whole
    sed -i 1d "$FAULTS"
    echo "$nv_fault $*" >>"$FAULTS.seen"
    case $nv_fault in
        cut) head -c 1000000 | nv_trust_arrives "$@" || true; echo "Connection closed" >&2; return 255 ;;
        lost) echo "Connection timed out" >&2; return 255 ;;
        busy) echo "the file is being received" >&2; return 77 ;;
        says*) echo "${nv_fault#says:}" ;;
        whole) nv_trust_arrives "$@" ;;
    esac
}
nv_trust_arrives() { (SSH_ORIGINAL_COMMAND="$*"; nv_receive "$TARGET"); }
exec 9>/dev/null
nv_send op-0a "$1" "$2"
"""


@pytest.fixture(params=[name for name in ("dash", "bash") if shutil.which(name)])
def sender(request: pytest.FixtureRequest, tmp_path: Path) -> "Sender":
    return Sender(request.param, tmp_path)


class Sender:
    """A directory of the source, one of the target, and what happens to each connection between them."""

    def __init__(self, shell: str, path: Path) -> None:
        self.shell, self.path = shell, path
        self.source, self.target, self.faults = path / "source", path / "target", path / "faults"
        for made in (self.source, self.target, path / "job"):
            made.mkdir()
        self.content = qcow2() + os.urandom(3_000_000)
        (self.source / "disk").write_bytes(self.content)

    def sends(self, file: str, *faults: str) -> subprocess.CompletedProcess[str]:
        self.faults.write_text("".join(f"{fault}\n" for fault in faults))
        argv = with_library(self.shell, self.path, SENDS)
        return subprocess.run(
            [*argv, str(self.source), file, str(self.path / "job")],
            env={**os.environ, "TARGET": str(self.target), "FAULTS": str(self.faults)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def asked(self) -> list[str]:
        return (self.path / "faults.seen").read_text().splitlines()


@pytest.mark.parametrize(
    "faults",
    [
        (),
        ("cut",),
        ("cut", "lost", "lost"),
        ("lost", "busy"),
        ("cut", "busy", "cut", "lost"),
        ("cut", "says:"),
        ("cut", "says:gmac"),
    ],
    ids=" ".join,
)
def test_a_file_arrives_whole(sender: Sender, faults: tuple[str, ...]) -> None:
    """How much has arrived is not known while nobody answers: it is asked again."""
    ended = sender.sends("disk", *faults)
    assert ended.returncode == 0, ended.stderr + "\n".join(sender.asked())
    assert (sender.target / "disk").read_bytes() == sender.content
    assert len(sender.asked()) > len(faults)


def test_a_target_that_says_no_number_fails_it(sender: Sender) -> None:
    ended = sender.sends("disk", "cut", "says:failed x")
    assert ended.returncode == 2 and "is not a number" in ended.stderr


def test_firmware_variables_that_are_not_made_yet_are_not_missed(sender: Sender) -> None:
    """libvirt makes them when the guest starts first; any other file that is not there is a fault."""
    assert sender.sends("nvram").returncode == 0 and list(sender.target.iterdir()) == []
    assert sender.sends("disk.local").returncode != 0
