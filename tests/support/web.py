"""A real HTTP(S) server for downloads, that behaves as badly as a test says."""

import contextlib
import datetime
import http.server
import ipaddress
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Web:
    """What the server gives, and what it was asked. `cut`: bytes after which a connection ends, one for each
    request; `pause`: seconds before each 64 KiB; `answer` replaces all."""

    content: bytes = b""
    etag: str | None = '"one"'
    cut: list[int] = field(default_factory=list)
    pause: float = 0
    ranges: bool = True
    answer: Callable[[Any], None] | None = None
    asked: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


def _handler(web: Web) -> type[http.server.BaseHTTPRequestHandler]:
    def usual(self: Any) -> None:
        start, content = 0, web.content
        asked = self.headers.get("Range")
        same = self.headers.get("If-Range") in (None, web.etag)
        if asked and web.ranges and same:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if web.etag:
            self.send_header("ETag", web.etag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + web.cut.pop(0) if web.cut else len(content)
        for at in range(start, min(end, len(content)), 1 << 16):
            time.sleep(web.pause)
            self.wfile.write(content[at : min(at + (1 << 16), end)])

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            web.asked.append({"path": self.path, **self.headers})
            self.close_connection = True
            with contextlib.suppress(OSError):
                (web.answer or usual)(self)

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@contextlib.contextmanager
def serving(web: Web, tls: Path | None = None) -> Iterator[Web]:
    """The server, on 127.0.0.1; with `tls` its certificate for `localhost` is there as ca.pem."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(web))
    server.daemon_threads = True
    scheme = "http"
    if tls is not None:
        scheme = "https"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate(tls))
        server.socket = context.wrap_socket(server.socket, server_side=True)
    host = "localhost" if tls else "127.0.0.1"
    web.url = f"{scheme}://{host}:{server.server_port}/images/i.img"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()


def certificate(directory: Path) -> Path:
    """A self-signed certificate for localhost with its key, in ca.pem."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "ca.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


def says(*lines: str) -> Callable[[Any], None]:
    """An answer of these very lines, and nothing after them."""

    def answer(handler: Any) -> None:
        handler.wfile.write("\r\n".join(lines).encode() + b"\r\n\r\n")

    return answer


def redirects(to: str) -> Callable[[Any], None]:
    return says("HTTP/1.1 302 Found", f"Location: {to}", "Content-Length: 0")
