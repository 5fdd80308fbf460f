"""A file of a web server comes into the store, and goes on where it was cut or killed.

Plain http.client: what matters here is which address is connected to, and that takes a connection of our
own with any library (docs/design/0017-images.md).
"""

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urljoin

from novactl.errors import ImageRefused, NotFound, NovactlError, Refused, UsageError
from novactl.images.addresses import Target, named_by, resolve, target_of
from novactl.images.incoming import Incoming

BLOCK = 1 << 18
STANDS = 16 << 20  # bytes after which what came is synced: what a kill costs, at most
REDIRECTS = 5
TRIES = 5  # in a row that bring less than PROGRESS bytes
PROGRESS = 1 << 20
WAIT = 1.0  # seconds before the second try; twice as long before each other one
STALL = 30.0  # seconds for a connection with its answer, and in which at least SLOWEST bytes must come
SLOWEST = 16 << 10
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

Progress = Callable[[int, int], None]  # bytes done, bytes in all (0: nobody knows)


@dataclass(frozen=True)
class Download:
    """What is wanted. `certain`: a sum will tell whether the bytes are right, whatever the server says."""

    target: Target
    max_size: int
    certain: bool = False
    allow_private: bool = False
    stall: float = STALL
    wait: float = WAIT


class _Cut(Exception):
    """The connection was cut, stalled, or the server asked to come again: another try may do."""


class _Connection(http.client.HTTPConnection):
    """To the very addresses that were checked; TLS is verified against the name."""

    def __init__(self, target: Target, addresses: list[str], timeout: float) -> None:
        super().__init__(target.host, target.port, timeout=timeout)
        self._target, self._addresses = target, addresses
        self.link: socket.socket | None = None  # still open when http.client has let go of it

    def connect(self) -> None:
        self.sock = self.link = self._reached()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._target.scheme == "https":
            context = ssl.create_default_context()
            wrapped = context.wrap_socket(
                self.sock, server_hostname=self._target.host, do_handshake_on_connect=False
            )
            self.sock = self.link = wrapped
            wrapped.do_handshake()

    def end(self) -> None:
        """Whoever reads from it reads no more."""
        if self.link is not None:
            with suppress(OSError):  # closed meanwhile
                socket.socket.shutdown(self.link, socket.SHUT_RDWR)

    def _reached(self) -> socket.socket:
        for address in self._addresses[:-1]:
            try:
                return socket.create_connection((address, self._target.port), timeout=self.timeout)
            except OSError:
                continue
        return socket.create_connection((self._addresses[-1], self._target.port), timeout=self.timeout)


def download(wanted: Download, coming: Incoming, progress: Progress) -> int:
    """All of the file is in `coming`; how long it is. What came of it before is kept when the server says
    that it is still the same file. Raises NotFound or Refused, or NovactlError when it may be tried again:
    then what stands is kept."""
    if not coming.note:
        coming.restart({"name": wanted.target.shown})
    tries, wait = 0, wanted.wait
    while True:
        before = coming.have
        try:
            return _attempt(wanted, coming, progress)
        except _Cut as error:
            tries = 1 if coming.have - before >= PROGRESS else tries + 1
            wait = wanted.wait if tries == 1 else 2 * wait
            if tries >= TRIES:
                why = f"{wanted.target.shown}: {error}; {coming.have >> 20} MiB came"
                raise NovactlError(why, hint="the same command goes on from there, within a day") from error
        time.sleep(wait)


def _attempt(wanted: Download, coming: Incoming, progress: Progress) -> int:
    if coming.have and str(coming.have) == coming.note.get("size"):
        return coming.have
    with _answer(wanted, coming) as (target, answer, connection):
        total = _accepted(wanted, target, answer, coming)
        return _body(wanted, answer, connection, coming, total, progress)


@contextmanager
def _answer(
    wanted: Download, coming: Incoming
) -> Iterator[tuple[Target, http.client.HTTPResponse, "_Connection"]]:
    """The server's answer, redirects followed; each place is checked as the first one was."""
    target, first = wanted.target, wanted.target
    trusted = first.place if wanted.allow_private or named_by(first) else None
    for _ in range(REDIRECTS + 1):
        connection = _Connection(target, resolve(target, trusted), wanted.stall)
        with _errors(target):
            try:
                with _limited(connection, wanted.stall):
                    connection.request("GET", target.path, headers=_headers(coming))
                    answer = connection.getresponse()
                following = _redirected(target, answer)
                if following is None:
                    yield target, answer, connection
                    return
                target = following
            finally:
                connection.close()
    raise Refused(f"{first.shown}: more than {REDIRECTS} redirects")


def _redirected(target: Target, answer: http.client.HTTPResponse) -> Target | None:
    where = answer.getheader("Location")
    if answer.status not in (301, 302, 303, 307, 308) or not where:
        return None
    try:
        following = target_of(urljoin(f"{target.shown}", where))
    except UsageError as error:
        raise Refused(f"{target.shown}: redirects to what we may not fetch: {error.message}") from error
    if (target.scheme, following.scheme) == ("https", "http"):
        raise Refused(f"{target.shown}: redirects from https to http: {following.shown}")
    return following


def _headers(coming: Incoming) -> dict[str, str]:
    headers = {"User-Agent": "novactl", "Accept-Encoding": "identity", "Connection": "close"}
    if coming.have:
        headers["Range"] = f"bytes={coming.have}-"
        if validator := coming.note.get("etag") or coming.note.get("modified"):
            headers["If-Range"] = validator
    return headers


def _accepted(wanted: Download, target: Target, answer: http.client.HTTPResponse, coming: Incoming) -> int:
    """`coming` stands where the answer's body goes on; the file's length, 0 when nobody knows it."""
    if answer.status == 416:
        coming.restart({"name": wanted.target.shown})
    _refuse_status(target, answer)
    if answer.getheader("Content-Encoding", "identity") != "identity":
        raise ImageRefused(f"{target.shown}: comes encoded, which was not asked for")
    note = _note(wanted, answer)
    ranged = _RANGE.fullmatch(answer.getheader("Content-Range", "")) if answer.status == 206 else None
    if answer.status == 206:
        start, _, total = (int(word) for word in ranged.groups()) if ranged else (-1, 0, 0)
        if start != coming.have or not _same(coming.note, {**note, "size": str(total)}):
            coming.restart({"name": wanted.target.shown})
            raise _Cut("the file changed meanwhile")
    else:
        total = int(answer.length or 0)
        coming.restart({**note, "size": str(total)})
    if total > wanted.max_size:
        _too_large(wanted, total)
    coming.need_room(max(0, total - coming.have))
    if not total and not answer.chunked and not wanted.certain:
        hint = "give its --sha256, or fetch the file and use --file"
        raise ImageRefused(f"{target.shown}: the server does not say where the file ends", hint=hint)
    return total


def _refuse_status(target: Target, answer: http.client.HTTPResponse) -> None:
    status, words = answer.status, f"{target.shown}: {answer.status} {answer.reason}"
    if status in (200, 206):
        return
    if status in (404, 410):
        raise NotFound(words)
    if status in (408, 416, 425, 429) or status >= 500:
        raise _Cut(f"{status} {answer.reason}")
    raise Refused(words)


def _note(wanted: Download, answer: http.client.HTTPResponse) -> dict[str, str]:
    """What tells the file from another one at the same place. Weak ETags do not."""
    note = {"name": wanted.target.shown}
    etag, modified = answer.getheader("ETag", ""), answer.getheader("Last-Modified", "")
    if etag.startswith('"'):
        note["etag"] = etag
    elif modified:
        note["modified"] = modified
    return note


def _same(kept: dict[str, str], said: dict[str, str]) -> bool:
    """Whether the rest that is offered belongs to what is here; what a 206 leaves out counts as the same."""
    return kept.get("size") == said["size"] and all(
        said.get(key, kept.get(key)) == kept.get(key) for key in ("etag", "modified")
    )


def _body(
    wanted: Download,
    answer: http.client.HTTPResponse,
    connection: _Connection,
    coming: Incoming,
    total: int,
    progress: Progress,
) -> int:
    at, keep = coming.have, _may_go_on(wanted, coming)
    sure = at  # up to there it was looked whether there is room
    try:
        for data in _pieces(answer, connection, wanted.stall):
            if at + len(data) > wanted.max_size:
                _too_large(wanted, at + len(data))
            if at + len(data) > sure:
                sure = max(at + len(data), min(at + STANDS, total or at + STANDS))
                coming.need_room(sure - at)
            coming.write_at(at, data)
            at += len(data)
            progress(at, total)
            if keep and at - coming.have >= STANDS:
                coming.stands_at(at)
    except (OSError, http.client.HTTPException, _Cut) as error:
        _kept(coming, at, keep)
        raise _Cut(_words(error)) from error
    except KeyboardInterrupt:
        _kept(coming, at, keep)
        raise
    if total and at != total:
        _kept(coming, at, keep and at < total)
        raise _Cut(f"the connection ended at byte {at} of {total}")
    return at


def _may_go_on(wanted: Download, coming: Incoming) -> bool:
    """Whether the rest can be asked for later: something tells that the file is the same by then."""
    return wanted.certain or bool(coming.note.get("etag") or coming.note.get("modified"))


def _kept(coming: Incoming, at: int, keep: bool) -> None:
    if keep:
        coming.stands_at(at)
    else:
        coming.restart({"name": coming.note["name"]})


def _pieces(answer: http.client.HTTPResponse, connection: _Connection, stall: float) -> Iterator[bytes]:
    """The body as it comes. A server that sends a byte now and then stalls as one that sends nothing does;
    so does one that sends what is no body, such as trailers, without an end."""
    since, came = time.monotonic(), 0
    while data := _read(answer, connection, stall):
        yield data
        came += len(data)
        if time.monotonic() - since >= stall:
            if came < SLOWEST:
                raise _Cut(f"only {came} bytes came in {stall:.0f} s")
            since, came = time.monotonic(), 0


def _read(answer: http.client.HTTPResponse, connection: _Connection, stall: float) -> bytes:
    if not answer.chunked:  # one call then waits once, as long as the socket does
        return answer.read1(BLOCK)
    with _limited(connection, stall):
        return answer.read1(BLOCK)


def _too_large(wanted: Download, size: int) -> None:
    hint = "if it is to be taken in: --max-size GIB"
    raise ImageRefused(f"{wanted.target.shown}: {size} bytes or more, over {wanted.max_size}", hint=hint)


@contextmanager
def _limited(connection: _Connection, seconds: float) -> Iterator[None]:
    """Connection, TLS and answer come within so many seconds in all, not byte by byte."""

    timer = threading.Timer(seconds, connection.end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _errors(target: Target) -> Iterator[None]:
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise Refused(f"{target.shown}: its certificate is not accepted: {error.verify_message}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(_words(error)) from error


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came in time"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was cut"
    return str(error) or type(error).__name__
