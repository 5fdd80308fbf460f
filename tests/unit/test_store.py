"""The store: it holds the source's exact bytes, whole or not at all, inspected as they will be used."""

import errno
import hashlib
import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novactl.errors import Busy, ImageRefused, NotFound, NovactlError, UsageError
from novactl.images import store as store_module
from novactl.images.store import LocalStore

sys.path.insert(0, str(Path(__file__).parent))
from hostile_images import MIB, qcow2, raw

IMAGE = qcow2()
SHA256 = hashlib.sha256(IMAGE).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "images")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "image.qcow2"
    path.write_bytes(IMAGE)
    return path


def files(store: LocalStore) -> list[str]:
    """Everything in the store, unfinished copies too."""
    root = store._root
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_nothing_is_made_before_it_is_needed(store: LocalStore) -> None:
    assert not store.has(SHA256)
    assert not store._root.exists()


def test_add(store: LocalStore, source: Path) -> None:
    stored = store.add(source, declared=None, expected_sha256=SHA256.upper())
    assert (stored.sha256, stored.size_bytes) == (SHA256, len(IMAGE))
    assert (stored.info.format, stored.info.virtual_size_bytes) == ("qcow2", MIB)
    path = store.path(SHA256)
    assert path.read_bytes() == IMAGE
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert files(store) == [SHA256]
    assert store.has(SHA256)
    assert store.verify(SHA256)


def test_the_same_bytes_are_stored_once(store: LocalStore, source: Path) -> None:
    first = store.add(source, declared="qcow2")
    assert store.add(source, declared=None) == first
    assert files(store) == [SHA256]


def test_adding_again_heals_a_damaged_copy(store: LocalStore, source: Path) -> None:
    store.add(source, declared="qcow2")
    damaged = store.path(SHA256)
    damaged.chmod(0o600)
    damaged.write_bytes(b"x" + IMAGE[1:])
    assert not store.verify(SHA256)
    store.add(source, declared="qcow2")
    assert store.verify(SHA256)


@pytest.mark.parametrize(
    ("declared", "expected", "phrase"),
    [
        ("raw", None, "holds qcow2, not raw"),
        (None, "0" * 64, f"SHA-256 is {SHA256}, not {'0' * 64}"),
    ],
)
def test_refused_image_leaves_nothing(
    store: LocalStore, source: Path, declared: str | None, expected: str | None, phrase: str
) -> None:
    with pytest.raises(ImageRefused) as refusal:
        store.add(source, declared=declared, expected_sha256=expected)
    assert refusal.value.message == f"{source}: {phrase}"
    assert files(store) == []


def test_the_copy_is_inspected_not_the_source(
    store: LocalStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that turns into something else once it was read changes nothing."""
    copy = store_module._copy

    def copy_then_swap(*args: object) -> tuple[str, int]:
        done = copy(*args)  # type: ignore[arg-type]
        source.write_bytes(qcow2(backing_offset=512))
        return done

    monkeypatch.setattr(store_module, "_copy", copy_then_swap)
    assert store.add(source, declared="qcow2").sha256 == SHA256
    assert store.verify(SHA256)


@pytest.mark.parametrize(
    "change", [lambda f: os.truncate(f, 5), lambda f: f.write_bytes(raw()), lambda f: f.touch()]
)
def test_source_that_changes_meanwhile_is_refused(store: LocalStore, tmp_path: Path, change: object) -> None:
    source = tmp_path / "source"
    source.write_bytes(raw(b"data", length=4 * MIB))
    os.utime(source, (1, 1))
    once = iter([change])

    def progress(done: int, total: int) -> None:
        for act in once:
            act(source)  # type: ignore[operator]

    with pytest.raises(ImageRefused, match="changed while it was copied"):
        store.add(source, declared="raw", progress=progress)
    assert files(store) == []


def test_sparse_image_stays_sparse_and_has_the_sum_of_all_its_bytes(
    store: LocalStore, tmp_path: Path
) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        for at in (0, 10 * MIB + 4096, 40 * MIB):
            file.seek(at)
            file.write(os.urandom(5000))
        file.truncate(64 * MIB)
    seen: list[tuple[int, int]] = []
    stored = store.add(source, declared="raw", progress=lambda done, total: seen.append((done, total)))
    copy = store.path(stored.sha256)
    assert copy.read_bytes() == source.read_bytes()
    assert stored.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert copy.stat().st_blocks <= source.stat().st_blocks + 64
    assert stored.info.allocated_bytes < MIB
    assert seen[-1] == (64 * MIB, 64 * MIB)
    assert seen == sorted(seen)
    assert store.verify(stored.sha256)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3 * MIB), st.integers(1, 70_000)), max_size=5), st.integers(1, 4 * MIB)
)
def test_any_layout_of_holes_is_copied_exactly(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, int]], length: int
) -> None:
    base = tmp_path_factory.mktemp("holes")
    with (base / "source").open("wb") as file:
        for at, size in writes:
            file.seek(at)
            file.write(b"\xa5" * size)
        file.truncate(length)
    store = LocalStore(base / "images")
    sha256, size = store.add_blob(base / "source")
    content = (base / "source").read_bytes()
    assert (sha256, size) == (hashlib.sha256(content).hexdigest(), length)
    assert store.path(sha256).read_bytes() == content


def test_add_blob(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(b"MZ kernel")
    assert store.add_blob(tmp_path / "vmlinuz") == (hashlib.sha256(b"MZ kernel").hexdigest(), 9)
    (tmp_path / "empty").touch()
    with pytest.raises(ImageRefused, match="is empty"):
        store.add_blob(tmp_path / "empty")
    with pytest.raises(ImageRefused, match="not a regular file"):
        store.add_blob(tmp_path)
    with pytest.raises(NotFound):
        store.add_blob(tmp_path / "none")
    assert len(files(store)) == 1


@pytest.mark.parametrize(
    ("number", "phrase"),
    [(errno.ENOSPC, "no room for"), (errno.EDQUOT, "no room for"), (errno.EIO, "cannot store")],
)
def test_failing_disk_leaves_nothing(
    store: LocalStore, source: Path, monkeypatch: pytest.MonkeyPatch, number: int, phrase: str
) -> None:
    def fail(*args: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store_module.os, "pwrite", fail)
    with pytest.raises(NovactlError, match=phrase) as failure:
        store.add(source, declared=None)
    assert bool(failure.value.hint) == (phrase == "no room for")
    assert files(store) == []


def test_full_disk_is_seen_by_fsync_too(
    store: LocalStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module.os, "fsync", fail)
    with pytest.raises(NovactlError, match="no room"):
        store.add(source, declared=None)
    assert files(store) == []


def test_stale_copies_are_removed_and_fresh_ones_are_not(store: LocalStore, source: Path) -> None:
    incoming = store._root / ".incoming"
    incoming.mkdir(parents=True)
    for name, age in (("old", 90_000), ("fresh", 3600)):
        (incoming / name).write_bytes(b"x")
        at = (incoming / name).stat().st_mtime - age
        os.utime(incoming / name, (at, at))
    store.add(source, declared=None)
    assert files(store) == [".incoming/fresh", SHA256]


def test_unfinished_copies_are_private(store: LocalStore, source: Path) -> None:
    modes = []

    def progress(done: int, total: int) -> None:
        modes.extend(stat.S_IMODE(path.stat().st_mode) for path in (store._root / ".incoming").iterdir())

    store.add(source, declared=None, progress=progress)
    assert modes == [0o600]


def test_two_add_the_same_at_once(store: LocalStore, source: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda _: store.add(source, declared=None), range(16)))
    assert {stored.sha256 for stored in added} == {SHA256}
    assert files(store) == [SHA256]


def test_delete_twice(store: LocalStore, source: Path) -> None:
    store.add(source, declared=None)
    store.delete(SHA256)
    store.delete(SHA256)
    assert not store.has(SHA256)
    for ask in (store.path, store.verify):
        with pytest.raises(NotFound):
            ask(SHA256)


@pytest.mark.parametrize("bad", ["", "abc", "../" * 22, "A" * 64, "0" * 63 + "g", "0" * 65, "0" * 64 + "\n"])
def test_sum_is_checked_before_it_is_a_path(store: LocalStore, source: Path, bad: str) -> None:
    for ask in (store.path, store.has, store.delete, store.verify):
        with pytest.raises(UsageError, match="not a SHA-256"):
            ask(bad)


def test_expected_sum_is_checked_before_copying(store: LocalStore, source: Path) -> None:
    with pytest.raises(UsageError):
        store.add(source, declared=None, expected_sha256="abc")
    assert not store._root.exists()


# -- files that come in pieces


def test_incoming(store: LocalStore) -> None:
    with store.incoming("url-1") as coming:
        assert (coming.have, coming.note) == (0, {})
        coming.write_at(0, IMAGE[:1000])
        coming.write_at(1000, IMAGE[1000:])
        stored = coming.finish(len(IMAGE), declared=None, expected_sha256=SHA256)
    assert (stored.sha256, stored.size_bytes, stored.info.format) == (SHA256, len(IMAGE), "qcow2")
    assert stat.S_IMODE(store.path(SHA256).stat().st_mode) == 0o400
    assert files(store) == [SHA256]
    assert store.verify(SHA256)


def test_incoming_goes_on_from_what_stood(store: LocalStore) -> None:
    """What was written after the last `stands_at` is no part of it, as after a kill."""
    with store.incoming("url-1") as coming:
        coming.restart({"etag": "x"})
        coming.write_at(0, IMAGE[:4096])
        coming.stands_at(4096)
        coming.write_at(4096, b"half a piece, and wrong")
    with store.incoming("url-1") as coming:
        assert (coming.have, coming.note) == (4096, {"etag": "x"})
        coming.write_at(4096, IMAGE[4096:])
        assert coming.finish(len(IMAGE), declared="qcow2").sha256 == SHA256
    assert files(store) == [SHA256]


def test_incoming_keeps_what_a_killed_process_said_stands(store: LocalStore) -> None:
    child = os.fork()
    if child == 0:
        with store.incoming("url-1") as coming:
            coming.write_at(0, IMAGE[:4096])
            coming.stands_at(4096)
            coming.write_at(4096, b"lost")
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    with store.incoming("url-1") as coming:
        assert coming.have == 4096
        coming.write_at(4096, IMAGE[4096:])
        assert coming.finish(len(IMAGE), declared=None).sha256 == SHA256


@pytest.mark.parametrize("state", ["", "[]", '{"have": 99999999, "note": {}}', '{"have": -1, "note": {}}'])
def test_incoming_starts_again_when_what_stood_cannot_be_told(store: LocalStore, state: str) -> None:
    with store.incoming("url-1") as coming:
        coming.write_at(0, b"x" * 4096)
        coming.stands_at(4096)
    (store._root / ".incoming" / "url-1.json").write_text(state)
    with store.incoming("url-1") as coming:
        assert (coming.have, coming.note) == (0, {})


def test_incoming_restarts(store: LocalStore) -> None:
    with store.incoming("url-1") as coming:
        coming.write_at(0, b"x" * 2 * len(IMAGE))
        coming.stands_at(2 * len(IMAGE))
        coming.restart({"etag": "y"})
        coming.write_at(0, IMAGE)
        assert coming.finish(len(IMAGE), declared=None).sha256 == SHA256


def test_incoming_keeps_holes(store: LocalStore) -> None:
    with store.incoming("op.3") as coming:
        coming.write_at(8 * MIB, b"\xa5" * 5000)
        coming.write_at(16 * MIB, bytes(MIB))
        coming.stands_at(32 * MIB)
        stored = coming.finish(64 * MIB, declared="raw")
    assert stored.size_bytes == stored.info.virtual_size_bytes == 64 * MIB
    assert stored.info.allocated_bytes < MIB
    content = bytes(8 * MIB) + b"\xa5" * 5000 + bytes(56 * MIB - 5000)
    assert stored.sha256 == hashlib.sha256(content).hexdigest()


def test_zeros_over_what_is_there_are_written(store: LocalStore) -> None:
    with store.incoming("op.3") as coming:
        coming.write_at(0, b"x" * 4096)
        coming.write_at(0, bytes(4096))
        coming.write_at(4096, b"y" * 4096)
        stored = coming.finish(8192, declared="raw")
    assert store.path(stored.sha256).read_bytes() == bytes(4096) + b"y" * 4096


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3 << 20), st.binary(min_size=1, max_size=40)), max_size=5))
def test_what_came_is_known_by_the_sum_of_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, bytes]]
) -> None:
    """In order or not, with holes, the end one too, and whatever comes twice."""
    store = LocalStore(tmp_path_factory.mktemp("sums"))
    expected = bytearray((3 << 20) + 512)
    with store.incoming("op-1.0") as coming:
        for at, data in pieces:
            coming.write_at(at, data)
            expected[at : at + len(data)] = data
        stored = coming.finish(len(expected), declared="raw", pinned=True)
    assert stored.sha256 == hashlib.sha256(expected).hexdigest()
    assert store.path(stored.sha256).read_bytes() == bytes(expected)


def test_what_is_sent_again_is_in_the_sum_once(store: LocalStore) -> None:
    with store.incoming("op-1.0") as coming:
        coming.write_at(0, b"x" * 1024)
        coming.stands_at(512)
        coming.write_at(512, b"y" * 1024)
        stored = coming.finish(1536, declared="raw", pinned=True)
    assert stored.sha256 == hashlib.sha256(b"x" * 512 + b"y" * 1024).hexdigest()


def test_incoming_of_another_is_busy(store: LocalStore) -> None:
    busy = pytest.raises(Busy, match="another command receives this file")
    with store.incoming("url-1"), store.incoming("url-2"), busy, store.incoming("url-1"):
        pass
    with store.incoming("url-1"):
        pass


@pytest.mark.parametrize(
    ("declared", "expected", "phrase"),
    [("raw", None, "holds qcow2, not raw"), (None, "0" * 64, f"SHA-256 is {SHA256}, not {'0' * 64}")],
)
def test_refused_incoming_leaves_nothing(
    store: LocalStore, declared: str | None, expected: str | None, phrase: str
) -> None:
    with pytest.raises(ImageRefused) as refusal, store.incoming("url-1") as coming:
        coming.restart({"name": "https://x/i.qcow2"})
        coming.write_at(0, IMAGE)
        coming.stands_at(len(IMAGE))
        coming.finish(len(IMAGE), declared=declared, expected_sha256=expected)
    assert refusal.value.message == f"https://x/i.qcow2: {phrase}"
    assert files(store) == []


@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "fsync"])
def test_full_disk_ends_incoming_and_leaves_nothing(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(NovactlError, match="no room for url-1"), store.incoming("url-1") as coming:
        coming.write_at(0, IMAGE)
        coming.stands_at(len(IMAGE))
        coming.finish(len(IMAGE), declared=None)
    assert files(store) == []


def test_discarded_incoming_leaves_nothing(store: LocalStore) -> None:
    with store.incoming("url-1") as coming:
        coming.write_at(0, IMAGE)
        coming.stands_at(100)
        coming.discard()
    assert files(store) == []


@pytest.mark.parametrize("key", ["", "..", "../x", "a/b", ".x", "A", "x" * 101])
def test_key_of_incoming_is_checked_before_it_is_a_path(store: LocalStore, key: str) -> None:
    with pytest.raises(UsageError, match="does not name"), store.incoming(key):
        pass
    assert files(store) == []


def test_sweep_leaves_what_is_being_received(store: LocalStore, source: Path) -> None:
    with store.incoming("slow") as coming, store.incoming("dead"):
        coming.write_at(0, IMAGE)
    for name in ("slow.part", "dead.part"):
        os.utime(store._root / ".incoming" / name, (1, 1))
    with store.incoming("slow"):
        os.utime(store._root / ".incoming" / "slow.part", (1, 1))
        store.add(source, declared=None)
        assert files(store) == [".incoming/slow.part", SHA256]


def test_what_another_fleet_needs_stays(tmp_path: Path) -> None:
    """Two databases, one directory of images: who deletes an image takes no file of the other's."""
    ours, theirs = (LocalStore(tmp_path / "images", lambda fleet=fleet: fleet) for fleet in ("a", "b"))
    source = tmp_path / "source.raw"
    source.write_bytes(raw(b"x" * 4096))
    sum_ = ours.add(source, declared="raw").sha256
    with theirs.incoming("key") as coming:
        coming.write_at(0, source.read_bytes())
        assert coming.finish(source.stat().st_size, declared="raw").sha256 == sum_
    for store in (ours, ours, theirs):
        assert theirs.has(sum_)
        store.delete(sum_)
    assert not theirs.has(sum_)
    assert not (tmp_path / "images" / ".users").exists()


def test_what_is_needed_without_a_mark_gets_one(tmp_path: Path) -> None:
    """It was brought before there were marks, or its mark went with a command that was undone."""
    old, ours, theirs = (
        LocalStore(tmp_path / "images", lambda fleet=fleet: fleet) for fleet in ("", "a", "b")
    )
    source = tmp_path / "source.raw"
    source.write_bytes(raw(b"x" * 4096))
    sum_ = old.add(source, declared="raw").sha256
    theirs.add(source, declared="raw")
    ours.keep({sum_, "0" * 64})
    theirs.delete(sum_)
    assert ours.has(sum_) and len(list((tmp_path / "images" / ".users").iterdir())) == 1
    ours.delete(sum_)
    assert not ours.has(sum_)


def test_what_was_set_aside_and_deleted_is_needed_no_more(tmp_path: Path) -> None:
    """Its mark would keep the same file for ever, when another fleet brings it again."""
    ours, theirs = (LocalStore(tmp_path / "images", lambda fleet=fleet: fleet) for fleet in ("a", "b"))
    source = tmp_path / "source.raw"
    source.write_bytes(raw(b"x" * 4096))
    sum_ = ours.add(source, declared="raw").sha256
    ours.set_aside(sum_)
    ours.delete(sum_)
    theirs.add(source, declared="raw")
    theirs.delete(sum_)
    assert not theirs.has(sum_)
