"""Base files between two directories that stand for two hosts, in every shell that /bin/sh may be."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.local_shell import with_library
from tests.virt.ground import sparse

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img")

PIECE = 1 << 20
CONTENT = os.urandom(1000).ljust(PIECE, b"\0")
MADE = b"made of it".ljust(PIECE, b"\0")
NAME = hashlib.sha256(CONTENT).hexdigest()
SHELLS = [name for name in ("dash", "bash") if shutil.which(name)]


@pytest.fixture(params=SHELLS)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., "subprocess.Popen[bytes]"]:
    """Starts a function of the library; its ssh to the target of the key is a shell here, that says so in
    `asked`."""
    for name in ("giver", "taker", "job"):
        (tmp_path / name).mkdir()
    serve = (
        f'nv_job= SSH_ORIGINAL_COMMAND="$*"; export SSH_ORIGINAL_COMMAND; nv_serve {tmp_path}/giver {NAME}'
    )
    ssh = f'nv_trust_become() {{ shift 2; echo "$*" >>{tmp_path}/asked; ( set -e; {serve} ); }}'

    def starts(
        *words: str, asked: str = "", giver: str = ssh, room: str = "unlimited"
    ) -> "subprocess.Popen[bytes]":
        script = f"{giver}\nulimit -f {room}\ntrap '' XFSZ\nnv_job={tmp_path}/job\nset -e\n\"$@\""
        return subprocess.Popen(
            [*with_library(str(request.param), tmp_path, script), *words],
            env={**os.environ, "SSH_ORIGINAL_COMMAND": asked},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return starts


def serve(
    start: Callable[..., "subprocess.Popen[bytes]"], path: Path, asked: str
) -> "subprocess.Popen[bytes]":
    return start("nv_serve", str(path / "giver"), NAME, asked=asked)


def pull(
    start: Callable[..., "subprocess.Popen[bytes]"], path: Path, *how: str, kind: str = "raw", **values: str
) -> "subprocess.Popen[bytes]":
    size = str(len(CONTENT))
    words = ("nv_base_pull", "op-1", str(path / "taker"), NAME, size, kind, "novactl", size, *how)
    return start(*words, **values)


def comes(path: Path, content: bytes = CONTENT) -> None:
    """All of it has come to the giver, which has not made a base file of it yet."""
    (path / "giver" / f".{NAME}.part").write_bytes(content)
    (path / "giver" / f".{NAME}.pieces").write_text(f"0 {len(content)}\n{len(content)} 0\n")


@contextmanager
def receives(path: Path) -> Iterator[None]:
    """The giver is being sent it."""
    with (path / "giver" / f".lock.{NAME}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def pieces(content: bytes) -> bytes:
    def head(offset: int, length: int) -> bytes:
        return f"{offset} {length}".encode().ljust(63) + b"\n"

    return head(0, len(content)) + content + head(len(content), 0)


def sent_to(
    start: Callable[..., "subprocess.Popen[bytes]"], words: tuple[str, ...], sent: bytes
) -> "subprocess.CompletedProcess[bytes]":
    """A call with this on its stdin."""
    call = start(*words)
    out, err = call.communicate(sent, timeout=60)
    return subprocess.CompletedProcess(words, call.returncode, out, err)


@pytest.mark.parametrize(("asked", "status"), [("plain", 4), ("plain now", 2), ("plain wait 1", 2)])
def test_who_has_nothing_says_so_at_once(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path, asked: str, status: int
) -> None:
    began = time.monotonic()
    giver = serve(start, tmp_path, f"give source 0 {PIECE} {asked}")
    giver.communicate()
    assert giver.returncode == status
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("how", ["source", "any"])
def test_it_comes_over_one_connection_when_only_its_source_will_do(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path, how: str
) -> None:
    comes(tmp_path)
    taker = pull(start, tmp_path, how)
    said = taker.communicate(timeout=60)
    assert taker.returncode == 0, said
    assert (tmp_path / "taker" / NAME).read_bytes() == CONTENT
    asked = [line.split()[0] for line in (tmp_path / "asked").read_text().splitlines()]
    assert asked == (["give"] if how == "source" else ["offer", "give"])


def test_who_waits_gets_it_when_it_comes_there(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    taker = pull(start, tmp_path, "source", "wait")
    time.sleep(1)
    assert taker.poll() is None
    comes(tmp_path)
    said = taker.communicate(timeout=60)
    assert taker.returncode == 0, said
    assert (tmp_path / "taker" / NAME).read_bytes() == CONTENT


@pytest.mark.skipif(shutil.which("zstd") is None, reason="no zstd")
def test_whether_packing_pays_is_told_by_what_has_come(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    """Not by a file that is empty yet."""
    (tmp_path / "giver" / f".{NAME}.part").touch()
    (tmp_path / "giver" / f".{NAME}.pieces").touch()
    with receives(tmp_path):
        giver = serve(start, tmp_path, f"give source 0 {PIECE} zstd")
        time.sleep(1)
        assert giver.poll() is None
        comes(tmp_path, b"text" * (PIECE // 4))
        out, err = giver.communicate(timeout=60)
    assert giver.returncode == 0, err
    assert out[:8] == b"zstd   \n"
    unpacked = subprocess.run(["zstd", "-dcq"], input=out[8:], capture_output=True, check=True).stdout
    assert unpacked == pieces(b"text" * (PIECE // 4))


def test_who_has_none_is_not_asked_again(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    taker = pull(start, tmp_path, "source")
    _, err = taker.communicate(timeout=60)
    assert taker.returncode == 4
    assert err.decode().strip() == "the other host: it has nothing of it yet"
    assert len((tmp_path / "asked").read_text().splitlines()) == 1
    left = {path.name for path in (tmp_path / "taker").iterdir()}
    assert left == {f".lock.{NAME}"}  # it does not say that it has any


def test_what_a_dead_transfer_left_is_not_waited_for(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    (tmp_path / "giver" / f".{NAME}.part").touch()
    (tmp_path / "giver" / f".{NAME}.pieces").touch()
    giver = serve(start, tmp_path, f"give source 0 {PIECE} plain")
    out, err = giver.communicate(timeout=30)
    assert (giver.returncode, out, err.decode().strip()) == (4, b"", "it has nothing of it yet")


@pytest.mark.parametrize(("how", "status"), [("source", 4), ("any", 0)])
def test_what_was_made_of_it_will_do_when_nothing_proves_it(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path, how: str, status: int
) -> None:
    (tmp_path / "giver" / NAME).write_bytes(CONTENT)
    sidecar = f'{{"source_format": "qcow2", "raw_sparse_sha256": "{sparse(CONTENT)}"}}\n'
    (tmp_path / "giver" / f"{NAME}.json").write_text(sidecar)
    taker = pull(start, tmp_path, how, kind="qcow2")
    _, err = taker.communicate(timeout=60)
    assert taker.returncode == status, err
    if status:
        assert err.decode().strip() == "the other host: it has only what was made of it"
    else:
        assert (tmp_path / "taker" / NAME).read_bytes() == CONTENT
        assert sparse(CONTENT) in (tmp_path / "taker" / f"{NAME}.json").read_text()


@pytest.mark.parametrize("kind", ["raw_sparse_sha256", "raw_sha256"])
@pytest.mark.parametrize("content", [MADE, b"other".ljust(PIECE, b"\0")], ids=["first", "other"])
def test_what_was_first_made_of_it_judges_what_another_host_says_it_made(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path, kind: str, content: bytes
) -> None:
    """One from before has the sum of all its bytes beside it: ours is not asked of it before it came."""
    (tmp_path / "giver" / NAME).write_bytes(content)
    said = sparse(content) if kind == "raw_sparse_sha256" else hashlib.sha256(content).hexdigest()
    sidecar = f'{{"source_format": "qcow2", "{kind}": "{said}"}}\n'
    (tmp_path / "giver" / f"{NAME}.json").write_text(sidecar)
    taker = pull(start, tmp_path, f"sparse:{sparse(MADE)}", kind="qcow2")
    _, err = taker.communicate(timeout=60)
    left = {path.name for path in (tmp_path / "taker").iterdir()}
    if content == MADE:
        assert taker.returncode == 0, err
        assert sparse(MADE) in (tmp_path / "taker" / f"{NAME}.json").read_text()
        assert left == {f".lock.{NAME}", NAME, f"{NAME}.json"}
    elif kind == "raw_sparse_sha256":
        assert taker.returncode == 4
        assert b"is not what was first made of it" in err
        assert [line.split()[0] for line in (tmp_path / "asked").read_text().splitlines()] == ["offer"]
        assert left == {f".lock.{NAME}"}
    else:
        assert taker.returncode == 1
        assert b"the base file arrived damaged" in err
        assert left == {f".lock.{NAME}"}


def test_what_is_not_converted_is_judged_by_its_name_alone(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    """Whoever first said a sum of it could have others take anything for it."""
    (tmp_path / "giver" / NAME).write_bytes(MADE)
    sidecar = f'{{"source_format": "qcow2", "raw_sparse_sha256": "{sparse(MADE)}"}}\n'
    (tmp_path / "giver" / f"{NAME}.json").write_text(sidecar)
    taker = pull(start, tmp_path, f"sparse:{sparse(MADE)}", kind="raw")
    _, err = taker.communicate(timeout=60)
    assert taker.returncode == 4, err
    assert {path.name for path in (tmp_path / "taker").iterdir()} == {f".lock.{NAME}"}


def test_a_full_disk_is_told_rather_than_that_the_giver_was_cut_off(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    comes(tmp_path)
    size = str(PIECE)
    words = ("nv_base_pull", "op-1", str(tmp_path / "taker"), NAME, size, "raw", "novactl", size, "source")
    taker = start(*words, room="100")  # blocks that a file may have
    _, err = taker.communicate(timeout=60)
    assert taker.returncode == 1, err
    assert b"cannot write the base file" in err


def test_what_a_cut_transfer_wrote_is_not_in_the_holes_of_the_next(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    """The sum is of what comes, and of zeros where nothing does: so the file must have zeros there."""
    receive = ("nv_base_receive", str(tmp_path / "taker"), NAME, str(PIECE), "0")
    first = f"{5000} {100_000}".encode().ljust(63) + b"\n" + b"planted" * 1000
    true = pieces(CONTENT[:1000])[: 64 + 1000] + f"{PIECE} 0".encode().ljust(63) + b"\n"
    for sent, status in ((first, 1), (true, 0)):
        ended = sent_to(start, receive, sent)
        assert ended.returncode == status, ended.stderr
    finish = start("nv_base_finish", str(tmp_path / "taker"), NAME, "raw", "novactl", str(PIECE))
    assert finish.wait(60) == 0
    assert (tmp_path / "taker" / NAME).read_bytes() == CONTENT


def test_after_a_power_cut_what_came_is_read_again(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    receive = ("nv_base_receive", str(tmp_path / "taker"), NAME, str(PIECE), "0")
    ended = sent_to(start, receive, pieces(CONTENT))
    assert ended.returncode == 0, ended.stderr
    kept = tmp_path / "taker" / f".{NAME}.sum"
    kept.write_text(kept.read_text().splitlines()[0] + "\n00000000-0000-4000-8000-000000000000\n")
    (tmp_path / "taker" / f".{NAME}.part").write_bytes(CONTENT[:1000])
    finish = start("nv_base_finish", str(tmp_path / "taker"), NAME, "raw", "novactl", str(PIECE))
    assert b"arrived damaged" in finish.communicate(timeout=60)[1]
    assert not (tmp_path / "taker" / NAME).exists()


@pytest.mark.parametrize(
    "names",
    ["%s", 'json:{\n"driver":"raw","file":{\n"driver":"file",\n"filename":"%s"}}'],
    ids=["plain", "json"],
)
def test_no_other_file_gets_into_a_base_file(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path, names: str
) -> None:
    """What was taken in as raw may be a qcow2: a record that calls it so has nobody follow its header."""
    secret, image = tmp_path / "secret", tmp_path / "image"
    secret.write_bytes(b"secret".ljust(PIECE))
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", names % secret, str(image)]
    subprocess.run(argv, check=True)
    content = image.read_bytes()
    name = hashlib.sha256(content).hexdigest()
    (tmp_path / "taker" / f".{name}.part").write_bytes(content)
    finish = start("nv_base_finish", str(tmp_path / "taker"), name, "qcow2", "novactl", str(PIECE))
    said = finish.communicate(timeout=60)[1]
    assert finish.returncode == 76 and b"names another file" in said
    assert not (tmp_path / "taker" / name).exists()


def test_a_giver_that_does_not_hang_up_keeps_nobody_waiting(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    comes(tmp_path)
    holds = (
        'nv_trust_become() { shift 2; ( nv_job= SSH_ORIGINAL_COMMAND="${*%zstd*}plain"'
        "; export SSH_ORIGINAL_COMMAND"
        f"; set -e; nv_serve {tmp_path}/giver {NAME} ); exec sleep 600; }}"
    )
    size = str(PIECE)
    words = ("nv_base_pull", "op-1", str(tmp_path / "taker"), NAME, size, "raw", "novactl", size, "source")
    taker = start(*words, giver=holds)
    said = taker.communicate(timeout=60)
    assert taker.returncode == 0, said
    assert (tmp_path / "taker" / NAME).read_bytes() == CONTENT


def test_a_giver_that_drips_is_left_out(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path
) -> None:
    """Each byte comes in time for its read: all of them would take years. It is not asked again."""
    drips = (
        "nv_trust_become() { printf '%-7s\\n' plain; nv_n=0; while true; do printf '%-63s\\nx' \"$nv_n 1\""
        "; sleep 0.3; nv_n=$((nv_n + 1)); done; }\nnv_within_seconds=2 nv_least=100"
    )
    began = time.monotonic()
    taker = pull(start, tmp_path, "source", giver=drips)
    _, err = taker.communicate(timeout=60)
    assert taker.returncode == 76, err
    assert err.decode().splitlines()[-1] == "the other host: it sends less than 0 MiB in 2 s"
    assert 2 < time.monotonic() - began < 30
    assert not (tmp_path / "taker" / NAME).exists()
    with (tmp_path / "taker" / f".lock.{NAME}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_giver_that_pauses_is_not(start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path) -> None:
    """As one does that gives on what it receives and turns to another source."""
    (tmp_path / "sends").write_bytes(b"plain  \n" + pieces(CONTENT))
    pauses = (
        f"nv_trust_become() {{ head -c 5000 {tmp_path}/sends; sleep 3; tail -c +5001 {tmp_path}/sends; }}\n"
        "nv_within_seconds=2 nv_least=100"
    )
    taker = pull(start, tmp_path, "source", giver=pauses)
    _, err = taker.communicate(timeout=60)
    assert taker.returncode == 0, err
    assert (tmp_path / "taker" / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("file", [".{}.part", ".{}.pieces", ".lock.{}"])
def test_no_link_of_another_root_is_followed(
    start: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path, file: str
) -> None:
    """Hosts may share the directory that it comes into."""
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    (tmp_path / "taker" / file.format(NAME)).symlink_to(mine)
    receive = ("nv_base_receive", str(tmp_path / "taker"), NAME, str(PIECE), "0")
    assert sent_to(start, receive, pieces(CONTENT)).returncode == 76
    assert mine.read_bytes() == b"mine"
