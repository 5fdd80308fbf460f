"""A TCP proxy before a database server that fails at the worst moment: around a COMMIT."""

import contextlib
import socket
import threading
import time
from enum import StrEnum

COMMIT = b"COMMIT"  # both drivers send the word itself, and tests put it into no value
LATE = 0.3  # seconds


class Cut(StrEnum):
    """What becomes of the next COMMIT; the client is disconnected each time."""

    BEFORE = "before"  # it never reaches the server
    AFTER = "after"  # the server has answered it
    WITH = "with"  # the server gets it, and nobody waits for its answer
    LATE = "late"  # the server gets it when the client has been gone for some time


class Proxy:
    """Forwards connections of its `port` to one of 127.0.0.1."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self.commits = 0  # how many it met while it was armed
        self._armed: Cut | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def arm(self, cut: Cut) -> None:
        """The next COMMIT, of whichever connection, is treated so."""
        with self._lock:
            self._armed = cut

    def cut(self) -> None:
        """All connections are lost now."""
        with self._lock:
            lost, self._open = self._open, set()
        for end in lost:
            _close(end)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    _close(client)
                    continue
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._open |= {client, server}
                for work, ends in ((self._to_server, (client, server)), (self._to_client, (server, client))):
                    threading.Thread(target=work, args=ends, daemon=True).start()

    def _to_client(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                client.sendall(data)
        _close(client)

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                cut = self._taken(data)
                if cut is not None:
                    self._end(cut, data, client, server)
                    break
                server.sendall(data)
        _close(server)

    def _taken(self, data: bytes) -> Cut | None:
        if COMMIT not in data:
            return None
        with self._lock:
            cut, self._armed = self._armed, None
            self.commits += cut is not None
        return cut

    def _end(self, cut: Cut, data: bytes, client: socket.socket, server: socket.socket) -> None:
        """The client hears nothing of what happens here."""
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        if cut is Cut.BEFORE:
            return
        if cut is Cut.LATE:
            time.sleep(LATE)
        server.sendall(data)
        if cut is Cut.AFTER:
            time.sleep(0.02)  # its answer is read by the other thread, whose client is gone


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
