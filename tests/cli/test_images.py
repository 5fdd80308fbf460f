"""image add --url, as a user types it; the web server is real."""

import hashlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from novactl.cli.prune import _raise_failed
from novactl.errors import HostUnreachable, PartlyDone
from tests.support.command import Command
from tests.support.web import Web, redirects, serving
from tests.unit.hostile_images import MIB, qcow2, raw

CONTENT = raw(random.Random(7).randbytes(40 * MIB), length=64 * MIB)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(Web(CONTENT)) as made:
        yield made


def files(novactl: Command) -> list[str]:
    root = novactl.config / "images"
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.parts[0] != ".users")


def test_url_becomes_an_image(novactl: Command, web: Web) -> None:
    made = novactl.json(
        "image", "add", "debian", "--url", web.url, "--format", "raw", "--sha256", SHA256,
        "--property", "os_distro=debian",
    )  # fmt: skip
    assert (made["sha256"], made["size_bytes"]) == (SHA256, len(CONTENT))
    assert made["locations"] == [f"file:{novactl.config / 'images' / SHA256}"]
    assert files(novactl) == [SHA256]


def test_what_could_not_be_pruned_is_no_success() -> None:
    """Of a store that operators share as of a host."""
    silent = HostUnreachable("kvm2 does not answer")
    with pytest.raises(PartlyDone, match="1 of 2"):
        _raise_failed([("kvm1", None), ("host:kvm2:/images", silent)])
    with pytest.raises(HostUnreachable):
        _raise_failed([("kvm2", silent), ("host:kvm2:/images", silent)])


def test_a_killed_command_is_continued_by_the_same_command(novactl: Command, web: Web) -> None:
    web.pause = 0.002
    words = ["image", "add", "debian", "--url", web.url, "--format", "raw"]
    running = novactl.popen(*words)
    state = novactl.config / "images" / ".incoming"
    while not list(state.glob("*.json")):
        assert running.poll() is None
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    web.pause = 0
    assert novactl.json(*words)["sha256"] == SHA256
    assert int(web.asked[1]["Range"].removeprefix("bytes=").rstrip("-")) >= 16 * MIB
    assert files(novactl) == [SHA256]


def test_ctrl_c_keeps_all_that_came(novactl: Command, web: Web) -> None:
    web.pause = 0.01
    words = ["image", "add", "debian", "--url", web.url, "--format", "raw"]
    running = novactl.popen(*words)
    parts = novactl.config / "images" / ".incoming"
    while not any(part.stat().st_size > MIB for part in parts.glob("*.part")):
        assert running.poll() is None
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGINT)
    assert running.wait(30) == 130
    web.pause = 0
    assert novactl.json(*words)["sha256"] == SHA256
    assert "Range" in web.asked[1]


def test_two_commands_do_not_write_one_file(novactl: Command, web: Web) -> None:
    web.pause = 0.01
    running = novactl.popen("image", "add", "one", "--url", web.url, "--format", "raw")
    while not web.asked:
        assert running.poll() is None
        time.sleep(0.01)
    second = novactl("image", "add", "two", "--url", web.url, "--format", "raw")
    assert second.code == 6 and "another command receives this file" in second.err
    web.pause = 0
    assert running.wait(60) == 0


@pytest.mark.parametrize(
    ("words", "code", "phrase"),
    [
        (["--sha256", "0" * 64, "--format", "raw"], 5, f"SHA-256 is {SHA256}"),
        (["--format", "qcow2"], 5, "not qcow2"),
        ([], 5, "no format is guessed"),
        (["--format", "raw", "--file", "/x"], 2, "--file or --url"),
        (["--format", "raw", "--max-size", "0"], 2, "--max-size"),
    ],
)
def test_refusals_leave_nothing(novactl: Command, web: Web, words: list[str], code: int, phrase: str) -> None:
    ended = novactl("image", "add", "debian", "--url", web.url, *words)
    assert ended.code == code, ended.err
    assert phrase in ended.err and ("hint:" in ended.err) == (code == 5)
    assert files(novactl) == []
    assert novactl.json("image", "list") == []


def test_redirects_and_hostile_files(novactl: Command, web: Web) -> None:
    web.answer = redirects("http://169.254.169.254/latest/")
    ended = novactl("image", "add", "x", "--url", web.url)
    assert ended.code == 5 and "169.254.169.254, not a public address" in ended.err
    web.answer, web.content, web.etag = None, qcow2(backing_offset=512), '"b"'
    ended = novactl("image", "add", "x", "--url", web.url)
    assert ended.code == 5 and "backing" in ended.err
    web.answer = lambda handler: handler.wfile.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    assert novactl("image", "add", "x", "--url", web.url).code == 4
    assert novactl("image", "add", "x", "--url", "file:///etc/passwd").code == 2
    ended = novactl("image", "add", "x", "--url", "https://me:secret@127.0.0.1/x")
    assert ended.code == 2 and "secret" not in ended.err
    assert files(novactl) == []


def test_neither_file_nor_url(novactl: Command) -> None:
    ended = novactl("image", "add", "x")
    assert ended.code == 2 and "--file or --url" in ended.err


# --- image verify, of the store; of hosts: tests/virt/test_verify_base.py, tests/lab/test_images.py


def test_verify_reads_the_store_again(novactl: Command, tmp_path: Path) -> None:
    for name, content in (("good", raw()), ("bad", raw(b"other")), ("away", raw(b"third"))):
        (tmp_path / name).write_bytes(content)
        novactl.ok("image", "add", name, "--file", str(tmp_path / name), "--format", "raw")
    assert {row["result"] for row in novactl.json("image", "verify")} == {"ok"}
    sums = {one["name"]: one["sha256"] for one in novactl.json("image", "list")}
    store = novactl.config / "images"
    (store / sums["away"]).unlink()
    (store / sums["bad"]).chmod(0o600)
    (store / sums["bad"]).write_bytes(raw(b"0ther"))
    seen = novactl("image", "verify", "--dry-run", "-o", "json")
    assert seen.code == 10 and "2 of 3 files" in seen.err
    assert (store / sums["bad"]).exists()
    for state in ("corrupt", "missing"):
        found = novactl("image", "verify", "-o", "json")
        assert found.code == 10
        assert {row["image"]: row["result"] for row in found.json} == {
            "good": "ok", "bad": state, "away": "missing",
        }  # fmt: skip
    novactl.ok("image", "verify", "good")
    assert novactl("image", "verify", "nosuch").code == 4
    assert novactl("image", "verify", "--on", "nosuch").code == 4
    again = novactl.ok("image", "add", "bad2", "--file", str(tmp_path / "bad"), "--format", "raw")
    assert again and novactl.json("image", "verify", "bad")[0]["result"] == "ok"


def test_what_an_image_needs_can_be_changed(novactl: Command, web: Web) -> None:
    novactl.ok("image", "add", "tiny", "--url", web.url, "--format", "raw", "--property", "os_type=windows")
    changed = novactl.json(
        "image", "set", "tiny", "--min-disk", "3", "--min-memory", "512", "--property", "os_type="
    )
    assert (changed["min_disk_gib"], changed["min_memory_mib"], changed["properties"]) == (3, 512, {})
    assert novactl.json("image", "set", "tiny", "--min-disk", "0")["min_memory_mib"] == 512
    for words, code in ((["--min-disk", "-1"], 2), (["--property", "os_type=beos"], 2)):
        assert novactl("image", "set", "tiny", *words).code == code
    assert novactl.json("image", "show", "tiny")["min_disk_gib"] == 0


def test_what_a_database_needs_is_marked_before_it_drops_another(novactl: Command, tmp_path: Path) -> None:
    """That of two which did not bring it last has no mark, of a time before there were any."""
    (tmp_path / "a.raw").write_bytes(raw(b"a" * 4096))
    (tmp_path / "b.raw").write_bytes(raw(b"b" * 4096))
    theirs = ("--db", str(tmp_path / "theirs.db"))
    novactl.ok(*theirs, "db", "init")
    sums = []
    for name in "ab":
        made = novactl.json("image", "add", name, "--file", str(tmp_path / f"{name}.raw"), "--format", "raw")
        sums.append(made["sha256"])
    kept = sums[0]
    next((novactl.config / "images" / ".users").glob(f"{kept}.*")).unlink()
    novactl.ok("image", "delete", "b", "--yes")
    novactl.ok(*theirs, "image", "add", "a", "--file", str(tmp_path / "a.raw"), "--format", "raw")
    novactl.ok(*theirs, "image", "delete", "a", "--yes")
    assert files(novactl) == [kept]
    novactl.ok("image", "delete", "a", "--yes")
    assert files(novactl) == []
