"""Downloads from a real web server that cuts, stalls, lies and redirects; and where they may go."""

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from novactl.errors import ImageRefused, NotFound, NovactlError, Refused, UsageError
from novactl.images import addresses, blocks
from novactl.images import download as downloads
from novactl.images.addresses import is_public, target_of
from novactl.images.download import Download, download
from novactl.images.store import LocalStore
from novactl.objects.image import MARGIN
from tests.support.web import Web, redirects, says, serving
from tests.unit.hostile_images import MIB, raw

CONTENT = raw(os.urandom(3 * MIB), length=4 * MIB)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "images")


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(Web(CONTENT)) as made:
        yield made


def fetch(store: LocalStore, url: str, sha256: str | None = None, **more: Any) -> Any:
    wanted = Download(
        target_of(url),
        **{"max_size": 8 * MIB, "certain": sha256 is not None, "stall": 1.0, "wait": 0.01, **more},
    )
    with store.incoming("url-1") as coming:
        size = download(wanted, coming, lambda done, total: None)
        return coming.finish(size, declared="raw", expected_sha256=sha256)


def kept(store: LocalStore) -> int:
    with store.incoming("url-1") as coming:
        return coming.have


def test_download(store: LocalStore, web: Web) -> None:
    stored = fetch(store, web.url, SHA256)
    assert (stored.sha256, stored.size_bytes) == (SHA256, len(CONTENT))
    assert store.verify(SHA256)
    assert web.asked[0]["Accept-Encoding"] == "identity"
    assert store.path(SHA256).stat().st_blocks * 512 < len(CONTENT), "zeros are holes"


def test_a_cut_transfer_goes_on_where_it_was_cut(store: LocalStore, web: Web) -> None:
    web.cut = [MIB, MIB + 12345]
    assert fetch(store, web.url).sha256 == SHA256
    assert [asked.get("Range") for asked in web.asked] == [None, f"bytes={MIB}-", f"bytes={2 * MIB + 12345}-"]
    assert web.asked[1]["If-Range"] == '"one"'


def test_another_file_at_the_same_place_starts_again(store: LocalStore, web: Web) -> None:
    other = raw(os.urandom(3 * MIB), length=5 * MIB)
    web.cut = [2 * MIB] + [0] * downloads.TRIES
    with pytest.raises(NovactlError, match="2 MiB came"):
        fetch(store, web.url)
    assert kept(store) == 2 * MIB
    web.content, web.etag, web.cut = other, '"two"', []
    assert fetch(store, web.url).sha256 == hashlib.sha256(other).hexdigest()


def test_a_server_that_does_not_heed_if_range_is_seen(store: LocalStore, web: Web) -> None:
    """It gives the rest of another file, with its own tag: nothing is put together of two."""
    web.cut = [2 * MIB]
    other = raw(os.urandom(3 * MIB), length=4 * MIB)

    def answer(handler: Any) -> None:
        asked = handler.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        content = CONTENT if len(web.asked) == 1 else other
        tag = '"one"' if len(web.asked) == 1 else '"two"'
        handler.send_response(206 if asked else 200)
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("ETag", tag)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        end = 2 * MIB if len(web.asked) == 1 else len(content)
        handler.wfile.write(content[start:end])

    web.answer = answer
    assert fetch(store, web.url).sha256 == hashlib.sha256(other).hexdigest()


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_tag_nothing_is_kept_unless_a_sum_is_given(
    store: LocalStore, web: Web, etag: str | None
) -> None:
    web.etag, web.cut = etag, [2 * MIB]
    assert fetch(store, web.url).sha256 == SHA256
    assert "Range" not in web.asked[1]
    web.asked.clear()
    web.cut = [2 * MIB]
    assert fetch(store, web.url, SHA256).sha256 == SHA256
    assert web.asked[1]["Range"] == f"bytes={2 * MIB}-"


def test_a_server_without_ranges_sends_it_all_again(store: LocalStore, web: Web) -> None:
    web.ranges, web.cut = False, [2 * MIB]
    assert fetch(store, web.url).sha256 == SHA256


@pytest.mark.parametrize("drip", [False, True])
def test_a_stalled_transfer_ends_in_time_and_stands(store: LocalStore, web: Web, drip: bool) -> None:
    over = threading.Event()

    def answer(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("ETag", '"one"')
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        handler.wfile.write(CONTENT[:1000])
        while drip and not over.wait(0.2):
            handler.wfile.write(b"x")
        over.wait(20)

    web.answer = answer
    began = time.monotonic()
    with pytest.raises(NovactlError, match=r"nothing came in time|only \d+ bytes came") as failure:
        fetch(store, web.url, stall=0.6)
    over.set()
    assert time.monotonic() - began < 12
    assert failure.value.code == 1 and "goes on from there" in failure.value.hint
    assert kept(store) >= 1000


def test_headers_byte_by_byte_end_in_time(store: LocalStore, web: Web) -> None:
    def answer(handler: Any) -> None:
        for letter in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1000:
            handler.wfile.write(bytes([letter]))
            time.sleep(0.1)

    web.answer = answer
    began = time.monotonic()
    with pytest.raises(NovactlError):
        fetch(store, web.url, stall=0.6)
    assert time.monotonic() - began < 12


def test_trailers_without_end(store: LocalStore, web: Web) -> None:
    """All of the file has come; nobody waits for more."""

    def answer(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%s\r\n0\r\n" % (len(web.content), web.content))
        for n in range(400):
            handler.wfile.write(b"X-%d: more\r\n" % n)
            handler.wfile.flush()
            time.sleep(0.05)

    web.answer = answer
    began = time.monotonic()
    fetch(store, web.url, stall=0.6)
    assert time.monotonic() - began < 5


def test_a_tls_handshake_that_never_comes_ends_in_time(store: LocalStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(NovactlError):
            fetch(store, f"https://127.0.0.1:{silent.getsockname()[1]}/x", stall=0.5)
    assert time.monotonic() - began < 12


def test_size_limit_by_what_is_said_and_by_what_comes(store: LocalStore, web: Web) -> None:
    with pytest.raises(ImageRefused, match="over 1048576"):
        fetch(store, web.url, max_size=MIB)

    def endless(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(64):
            handler.wfile.write(b"%x\r\n" % MIB + b"x" * MIB + b"\r\n")

    web.answer = endless
    with pytest.raises(ImageRefused, match="over 2097152"):
        fetch(store, web.url, max_size=2 * MIB)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Gives the disk so many bytes beside the margin, of which what is written takes its part."""

    def has(size: int) -> None:
        def look(fd: int) -> Any:
            return SimpleNamespace(f_bavail=MARGIN + size - os.fstat(fd).st_blocks * 512, f_frsize=1)

        monkeypatch.setattr(blocks.os, "fstatvfs", look)

    return has


def test_room_by_what_is_said(store: LocalStore, web: Web, room: Callable[[int], None]) -> None:
    """Of what is still to come, before any of it does."""
    web.cut = [2 * MIB] * 2 + [0] * downloads.TRIES  # the server may cut the first after the second has begun
    room(3 * MIB)
    with pytest.raises(Refused, match=r"no room for .*: 4 MiB are to come, 3 MiB are free") as caught:
        fetch(store, web.url)
    assert caught.value.code == 5 and kept(store) == 0
    room(4 * MIB)
    with pytest.raises(NovactlError, match="2 MiB came"):
        fetch(store, web.url)
    web.cut = []
    assert fetch(store, web.url).sha256 == SHA256


def test_room_by_what_comes(store: LocalStore, web: Web, room: Callable[[int], None]) -> None:
    sent = []

    def endless(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(200):
            handler.wfile.write(b"%x\r\n" % MIB + b"x" * MIB + b"\r\n")
            sent.append(MIB)

    web.answer = endless
    room(40 * MIB)
    with pytest.raises(Refused, match=r"no room for .*: 16 MiB are to come, [0-9] MiB are free"):
        fetch(store, web.url, max_size=1 << 30)
    assert 32 * MIB <= sum(sent) < 100 * MIB


def test_room_of_a_file(store: LocalStore, tmp_path: Path, room: Callable[[int], None]) -> None:
    """Holes take none."""
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    room(2 * MIB)
    with pytest.raises(Refused, match=r"no room for .*source: 4 MiB are to come, 2 MiB are free"):
        store.add(source, declared="raw")
    assert not store.has(SHA256) and not list((tmp_path / "images" / ".incoming").iterdir())
    with source.open("wb") as file:
        file.write(CONTENT[:MIB])
        file.truncate(64 * MIB)
    assert store.add(source, declared="raw").size_bytes == 64 * MIB


@pytest.mark.parametrize("said", [5 * MIB, 3 * MIB])
def test_a_server_that_lies_about_the_length(store: LocalStore, web: Web, said: int) -> None:
    """More than comes: it was cut, and never ends. Less: what is said is taken, and its sum is wrong."""

    def answer(handler: Any) -> None:
        handler.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {said}\r\n\r\n".encode() + CONTENT)

    web.answer = answer
    with pytest.raises(NovactlError, match=r"cut|ended at byte|SHA-256 is"):
        fetch(store, web.url, SHA256)
    assert not store.has(SHA256)


def test_a_length_that_nobody_says_needs_a_sum(store: LocalStore, web: Web) -> None:
    def answer(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + CONTENT)

    web.answer = answer
    with pytest.raises(ImageRefused, match="does not say where the file ends"):
        fetch(store, web.url)
    assert fetch(store, web.url, SHA256).sha256 == SHA256


def test_what_comes_encoded_is_refused(store: LocalStore, web: Web) -> None:
    web.answer = says("HTTP/1.1 200 OK", "Content-Encoding: gzip", "Content-Length: 20")
    with pytest.raises(ImageRefused, match="comes encoded"):
        fetch(store, web.url)


@pytest.mark.parametrize(
    ("to", "phrase"),
    [
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254, not a public address"),
        ("http://127.0.0.1:1/x", "127.0.0.1, not a public address"),
        ("http://[::1]/x", "::1, not a public address"),
        ("http://[::ffff:10.0.0.1]/x", "not a public address"),
        ("http://2130706433/x", "127.0.0.1, not a public address"),
        ("http://10.0.0.1/", "10.0.0.1, not a public address"),
        ("file:///etc/passwd", "redirects to what we may not fetch"),
        ("ftp://127.0.0.1/x", "redirects to what we may not fetch"),
        ("http://me:secret@192.0.2.1/", "redirects to what we may not fetch"),
    ],
)
def test_redirects_into_private_networks_are_refused(
    store: LocalStore, web: Web, to: str, phrase: str
) -> None:
    web.answer = redirects(to)
    with pytest.raises(Refused, match=phrase.replace(".", r"\.")) as refusal:
        fetch(store, web.url)
    assert "secret" not in refusal.value.message
    assert len(web.asked) == 1


def test_redirects_within_the_named_place_are_followed_and_not_for_ever(store: LocalStore, web: Web) -> None:
    def once(handler: Any) -> None:
        web.answer = None
        redirects("/other?token=1")(handler)

    web.answer = once
    assert fetch(store, web.url).sha256 == SHA256
    assert web.asked[1]["path"] == "/other?token=1"
    web.answer = redirects("/again")
    with pytest.raises(Refused, match="more than 5 redirects"):
        fetch(store, web.url)


def test_the_address_that_was_checked_is_the_one_connected_to(
    store: LocalStore, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that says a public address first and ours afterwards is asked once."""
    port, answers = web.url.rsplit(":", 1)[1].split("/")[0], ["93.184.215.14", "127.0.0.1"]
    reached: list[tuple[str, int]] = []

    def asked(host: str, port: int, **_: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (answers.pop(0), port))]

    def connected(address: tuple[str, int], timeout: float) -> socket.socket:
        reached.append(address)
        raise OSError("unreachable")

    monkeypatch.setattr(addresses.socket, "getaddrinfo", asked)
    monkeypatch.setattr(downloads.socket, "create_connection", connected)
    monkeypatch.setattr(downloads, "TRIES", 1)
    with pytest.raises(NovactlError, match="unreachable"):
        fetch(store, f"http://rebinds.example:{port}/x")
    assert reached == [("93.184.215.14", int(port))]
    monkeypatch.setattr(downloads, "TRIES", 2)
    with pytest.raises(Refused, match="not a public address"):
        fetch(store, f"http://rebinds.example:{port}/x")


def test_a_name_of_ours_is_refused_unless_allowed(
    store: LocalStore, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(
        addresses.socket,
        "getaddrinfo",
        lambda host, *rest, **more: real("127.0.0.1" if host == "mirror.example" else host, *rest, **more),
    )
    url = web.url.replace("127.0.0.1", "mirror.example")
    with pytest.raises(Refused, match=r"mirror\.example is 127\.0\.0\.1") as refusal:
        fetch(store, url)
    assert "--allow-private" in refusal.value.hint
    assert fetch(store, url, allow_private=True).sha256 == SHA256
    web.answer = redirects("http://127.0.0.2/")
    with pytest.raises(Refused, match=r"127\.0\.0\.2, not a public"):
        fetch(store, url, allow_private=True)


@pytest.mark.parametrize(
    ("status", "error"), [("404 Not Found", NotFound), ("403 Forbidden", Refused), ("503 Busy", NovactlError)]
)
def test_statuses(store: LocalStore, web: Web, status: str, error: type[NovactlError]) -> None:
    web.answer = says(f"HTTP/1.1 {status}", "Content-Length: 0")
    with pytest.raises(error, match=status) as failure:
        fetch(store, web.url + "?token=secret")
    assert type(failure.value) is error
    assert "secret" not in failure.value.message


def test_tls_is_verified(store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Web(CONTENT), tls=tmp_path) as web:
        with pytest.raises(Refused, match="certificate is not accepted"):
            fetch(store, web.url)
        assert web.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert fetch(store, web.url).sha256 == SHA256
        web.answer = redirects(web.url.replace("https", "http"))
        with pytest.raises(Refused, match="from https to http"):
            fetch(store, web.url)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://x/y", "/x", "http:///x", "http://me:pw@x/", "http://x:y/", "http://x/\n"],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(UsageError) as refusal:
        target_of(url)
    assert "pw" not in refusal.value.message


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False), ("100.64.0.1", False),
        ("0.0.0.0", False), ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False), ("::", False),
        ("fe80::1", False), ("fe80::1%eth0", False), ("fd00::1", False), ("ff02::1", False),
        ("::ffff:127.0.0.1", False), ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False), ("nonsense", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) == public
