"""pki on real hosts: files that QEMU's user and nobody else can read, real handshakes with them, and a host
that is revoked is let in by nobody."""

import shlex
import subprocess
from collections.abc import Iterator

import pytest

from novactl.cloud import Cloud
from novactl.remote.connection import libvirt_uri
from novactl.settings import Settings
from tests.lab.conftest import Grounds
from tests.lab.support import wait_until

pytestmark = pytest.mark.lab

WHERE = "/etc/pki/qemu"
DISK = "/var/lib/novactl/tls-test.raw"
PORT = "10899"


@pytest.fixture
def certified(grounds: Grounds) -> Iterator[Grounds]:
    """An authority, and certificates on kvm1 and kvm2."""
    grounds.novactl.ok("pki", "init")
    for host in ("kvm1", "kvm2"):
        grounds.novactl.ok("pki", "issue", host)
    yield grounds


def as_user(grounds: Grounds, host: str, user: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """A command on a host as that user, with the groups that libvirt gives QEMU."""
    words = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", *argv]
    return grounds.host(host).run(words)


def test_where_they_are_and_who_can_read_them(certified: Grounds) -> None:
    host = certified.host("kvm1")
    seen = host.run(["sh", "-c", f"stat -L -c '%n %a %U:%G' {WHERE}/*.pem"]).stdout
    modes = {line.split()[0].rpartition("/")[2]: line.split()[1:] for line in seen.splitlines()}
    public = ["644", "root:root"]
    assert modes == {
        "ca-cert.pem": public,
        "ca-crl.pem": public,
        "client-cert.pem": public,
        "client-key.pem": ["640", "root:libvirt-qemu"],
        "server-cert.pem": public,
        "server-key.pem": ["640", "root:libvirt-qemu"],
    }
    for key in ("server-key.pem", "client-key.pem"):
        assert as_user(certified, "kvm1", "libvirt-qemu", "cat", f"{WHERE}/{key}").returncode == 0
        assert as_user(certified, "kvm1", "nobody", "cat", f"{WHERE}/{key}").returncode == 1
    (one,) = [
        row
        for row in certified.novactl.json("pki", "list")
        if (row["host"], row["state"]) == ("kvm1", "valid")
    ]
    shown = host.run(
        ["openssl", "x509", "-in", f"{WHERE}/server-cert.pem", "-noout", "-fingerprint", "-sha256"]
    )
    assert shown.stdout.strip().endswith(f"={one['fingerprint']}")


@pytest.mark.parametrize("role", ["server", "client"])
def test_openssl_verifies_them(certified: Grounds, role: str) -> None:
    host = certified.host("kvm1")
    verify = ["openssl", "verify", "-x509_strict", "-CAfile", f"{WHERE}/ca-cert.pem"]
    verify += ["-CRLfile", f"{WHERE}/ca-crl.pem", "-crl_check", "-purpose", f"ssl{role}"]
    verify += ["-verify_ip", host.address, f"{WHERE}/{role}-cert.pem"]
    ended = host.run(verify)
    assert (ended.returncode, ended.stdout) == (0, f"{WHERE}/{role}-cert.pem: OK\n"), ended.stderr
    key = host.run(["openssl", "pkey", "-in", f"{WHERE}/{role}-key.pem", "-pubout"]).stdout
    assert (
        key
        == host.run(["openssl", "x509", "-in", f"{WHERE}/{role}-cert.pem", "-noout", "-pubkey"]).stdout
        != ""
    )


def test_a_key_is_seen_nowhere_but_there(certified: Grounds) -> None:
    ended = certified.novactl.ok("pki", "issue", "kvm1", "-vv", "--debug")
    secret = certified.host("kvm1").run(["cat", f"{WHERE}/server-key.pem"]).stdout.splitlines()[1]
    assert len(secret) == 64
    assert secret not in ended.out + ended.err
    left = [path for path in certified.novactl.config.rglob("*") if path.is_file()]
    assert [path for path in left if secret.encode() in path.read_bytes()] == []
    found = certified.host("kvm1").run(
        ["grep", "-rlsF", secret, "/etc", "/var/lib", "/var/log", "/tmp", "/root"]
    )
    there = {path.rpartition("/")[2] for path in found.stdout.splitlines()}
    assert there == {"server-key.pem", "client-key.pem"}


class Nbd:
    """A disk of kvm1 that qemu-nbd exports with its certificates, as QEMU's own user."""

    def __init__(self, grounds: Grounds) -> None:
        self.grounds = grounds
        self.host = grounds.host("kvm1")

    def __enter__(self) -> "Nbd":
        self.host.run(["sh", "-c", f"truncate -s 1M {DISK} && chmod 644 {DISK}"]).check_returncode()
        export = [
            "qemu-nbd",
            "--object",
            f"tls-creds-x509,id=tls,dir={WHERE},endpoint=server,verify-peer=yes",
        ]
        export += ["--tls-creds", "tls", "-r", "-t", "-e", "8", "-f", "raw", "-p", PORT, DISK]
        user = ["setpriv", "--reuid", "libvirt-qemu", "--regid", "libvirt-qemu", "--clear-groups"]
        line = f"cd /; {shlex.join([*user, *export])} >/tmp/nbd.log 2>&1 & echo $!"
        self.pid = self.host.run(["sh", "-c", line]).stdout.strip()
        wait_until(self._listens, 10, "qemu-nbd")
        return self

    def _listens(self) -> bool:
        return f":{PORT}" in self.host.run(["ss", "-Hltn"]).stdout

    def __exit__(self, *_: object) -> None:
        self.host.run(["kill", self.pid])
        self.host.run(["rm", "-f", DISK])

    def asked_by(self, name: str, *, called: str | None = None) -> subprocess.CompletedProcess[str]:
        """`qemu-img info` of it on another host, with that host's certificates."""
        creds = f"tls-creds-x509,id=tls,dir={WHERE},endpoint=client,verify-peer=yes"
        image = f"driver=nbd,host={self.host.address},port={PORT},tls-creds=tls"
        if called is not None:
            image += f",tls-hostname={called}"
        return self.grounds.host(name).run(["qemu-img", "info", "--object", creds, "--image-opts", image])


def test_qemu_s_own_handshake_until_it_is_revoked(certified: Grounds) -> None:
    novactl = certified.novactl
    with Nbd(certified) as nbd:
        assert "virtual size: 1 MiB" in nbd.asked_by("kvm2").stdout
        assert "virtual size: 1 MiB" in nbd.asked_by("kvm2", called="kvm1").stdout
        assert nbd.asked_by("kvm2", called="kvm3").returncode == 1
        assert nbd.asked_by("kvm3").returncode == 1  # it has none
    told = novactl.json("pki", "revoke", "kvm2")
    assert [(row["host"], row["result"]) for row in told["hosts"]] == [("kvm1", "done"), ("kvm2", "done")]
    with Nbd(certified) as nbd:
        refused = nbd.asked_by("kvm2")
        assert refused.returncode == 1
        log = nbd.host.run(["cat", "/tmp/nbd.log"]).stdout
        assert "revoked" in log or "revoked" in refused.stderr, (log, refused.stderr)
    novactl.ok("pki", "issue", "kvm2")
    with Nbd(certified) as nbd:
        assert "virtual size: 1 MiB" in nbd.asked_by("kvm2").stdout


def test_a_host_that_is_away_is_named_and_told_later(certified: Grounds) -> None:
    novactl, host = certified.novactl, certified.host("kvm2")
    number = novactl.json("pki", "init")["crl_number"]
    host.cut()
    try:
        ended = novactl("pki", "revoke", "kvm1", "-o", "json")
    finally:
        host.mend()
    assert ended.code == 3
    assert [(row["host"], row["result"]) for row in ended.json["hosts"]] == [
        ("kvm1", "done"),
        ("kvm2", "failed"),
    ]
    assert "kvm2" in ended.error["message"]
    again = novactl.json("pki", "revoke", "kvm1")
    assert [row["result"] for row in again["hosts"]] == ["unchanged", "done"]
    assert again["crl_number"] == number + 1
    verify = ["openssl", "crl", "-in", f"{WHERE}/ca-crl.pem", "-noout", "-crlnumber"]
    assert int(host.run(verify).stdout.strip().rpartition("=")[2], 16) == number + 1


GUEST = "tls-test"
XML = f"""<domain type='qemu'><name>{GUEST}</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"""


@pytest.fixture
def guest(certified: Grounds) -> Iterator[Grounds]:
    """A guest without disks that runs on kvm1, and that novactl knows nothing of."""
    create = ["virsh", "-q", "create", "/dev/stdin"]
    certified.host("kvm1").run(create, stdin=XML).check_returncode()
    yield certified
    for name in ("kvm1", "kvm2"):
        certified.host(name).run(["virsh", "-q", "destroy", GUEST])


def migrate(grounds: Grounds, source: str, target: str) -> subprocess.CompletedProcess[str]:
    """What libvirt says to a live migration by TLS, which we drive."""
    cloud = Cloud(Settings(config=grounds.novactl.config), tell=print)
    try:
        uris = [libvirt_uri(name, cloud.ssh_files()) for name in (source, target)]
    finally:
        cloud.close()
    words = ["virsh", "-q", "-c", uris[0], "migrate", "--live", "--tls", GUEST, uris[1]]
    words += ["--migrateuri", f"tcp://{grounds.host(target).address}"]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def test_a_live_migration_by_tls_until_an_end_is_revoked(guest: Grounds) -> None:
    moved = migrate(guest, "kvm1", "kvm2")
    assert moved.returncode == 0, moved.stderr
    assert (guest.state("kvm1", GUEST), guest.state("kvm2", GUEST)) == ("", "running")
    guest.novactl.ok("pki", "revoke", "kvm2")
    refused = migrate(guest, "kvm2", "kvm1")
    assert refused.returncode == 1
    assert (guest.state("kvm1", GUEST), guest.state("kvm2", GUEST)) == ("", "running")
    guest.novactl.ok("pki", "issue", "kvm2")
    again = migrate(guest, "kvm2", "kvm1")
    assert again.returncode == 0, again.stderr
    assert (guest.state("kvm1", GUEST), guest.state("kvm2", GUEST)) == ("running", "")
