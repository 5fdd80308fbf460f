"""What the authority signs, as OpenSSL sees it: who is trusted, for what, under which names, how long."""

import subprocess
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509 as library

from novactl.actions.pki import state_of
from novactl.db import x509
from novactl.objects.certificate import Certificate, fingerprint
from novactl.objects.moments import before

NOW = "2026-01-01T00:00:00.000000Z"
DAY = 86400
KEYS = [x509.new_key() for _ in range(3)]  # an authority's, a host's, another authority's
AUTHORITY = x509.authority(KEYS[0], "fleet-1", NOW, 3650)
OTHER = x509.authority(KEYS[2], "fleet-1", NOW, 3650)


def later(days: float) -> str:
    return before(NOW, -days * DAY)


def certificate(host: str = "kvm1", address: str = "192.0.2.11", days: int = 730) -> Certificate:
    return x509.issue(AUTHORITY, KEYS[0], KEYS[1], host, address, NOW, days)


def verify(tmp_path: Path, made: Certificate, *words: str, authority: str = AUTHORITY, crl: str = "") -> str:
    """`OK`, or what openssl has against it at NOW."""
    (tmp_path / "ca.pem").write_text(authority + crl)
    (tmp_path / "one.pem").write_text(made.pem)
    check = ["-crl_check"] if crl else []
    argv = ["openssl", "verify", "-x509_strict", "-CAfile", str(tmp_path / "ca.pem"), *check]
    when = [] if "-attime" in words else ["-attime", epoch(NOW)]
    ended = subprocess.run([*argv, *when, *words, str(tmp_path / "one.pem")], capture_output=True, text=True)
    return "OK" if ended.returncode == 0 else ended.stderr


def epoch(moment: str) -> str:
    return str(int(datetime.fromisoformat(moment).timestamp()))


@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_a_host_is_trusted_at_both_ends(tmp_path: Path, purpose: str) -> None:
    assert verify(tmp_path, certificate(), "-purpose", purpose) == "OK"


def test_not_by_another_authority(tmp_path: Path) -> None:
    assert "verification failed" in verify(tmp_path, certificate(), authority=OTHER)


def test_a_host_signs_nobody(tmp_path: Path) -> None:
    host = certificate()
    below = x509.issue(host.pem, KEYS[1], KEYS[2], "kvm2", "192.0.2.12", NOW, 30)
    (tmp_path / "chain.pem").write_text(host.pem)
    assert "error" in verify(tmp_path, below, "-untrusted", str(tmp_path / "chain.pem"))


@pytest.mark.parametrize(
    ("address", "good", "bad"),
    [
        ("192.0.2.11", ["-verify_hostname", "kvm1"], ["-verify_hostname", "kvm2"]),
        ("192.0.2.11", ["-verify_ip", "192.0.2.11"], ["-verify_ip", "192.0.2.12"]),
        ("2001:db8::11", ["-verify_ip", "2001:db8::11"], ["-verify_ip", "2001:db8::12"]),
        ("kvm1.example", ["-verify_hostname", "kvm1.example"], ["-verify_hostname", "example"]),
    ],
)
def test_names(tmp_path: Path, address: str, good: list[str], bad: list[str]) -> None:
    made = certificate(address=address)
    assert made.names == ("kvm1", address)
    assert verify(tmp_path, made, *good) == "OK"
    assert "mismatch" in verify(tmp_path, made, *bad)


def test_how_long(tmp_path: Path) -> None:
    made = certificate(days=30)
    assert (made.not_before, made.not_after) == (before(NOW, 3600), later(30))
    assert verify(tmp_path, made, "-attime", epoch(later(29.9))) == "OK"
    assert "expired" in verify(tmp_path, made, "-attime", epoch(later(30.1)))
    assert "not yet valid" in verify(tmp_path, made, "-attime", epoch(before(NOW, 7200)))
    assert certificate(days=9999).not_after == x509.span(AUTHORITY)[1] == later(3650)


def test_what_is_revoked(tmp_path: Path) -> None:
    one, two = certificate(), certificate()
    none = x509.revocations(AUTHORITY, KEYS[0], 1, [], NOW)
    some = x509.revocations(AUTHORITY, KEYS[0], 2, [(one.serial, later(1))], later(1))
    assert verify(tmp_path, one, crl=none) == "OK"
    assert "revoked" in verify(tmp_path, one, crl=some)
    assert verify(tmp_path, two, "-attime", epoch(later(1)), crl=some) == "OK"
    assert verify(tmp_path, two, "-attime", epoch(later(729)), crl=some) == "OK"  # the list lasts
    forged = x509.revocations(AUTHORITY, KEYS[2], 3, [], NOW)
    assert "verification failed" in verify(tmp_path, two, crl=forged)


def test_fingerprint_and_serial_are_as_openssl_shows_them(tmp_path: Path) -> None:
    made = certificate()
    (tmp_path / "one.pem").write_text(made.pem)
    words = [
        "openssl",
        "x509",
        "-in",
        str(tmp_path / "one.pem"),
        "-noout",
        "-fingerprint",
        "-sha256",
        "-serial",
    ]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert f"={fingerprint(made.pem)}\n" in shown
    assert int(shown.rpartition("serial=")[2], 16) == int(made.serial, 16)
    assert len(made.serial) == 40


def test_what_qemu_wants_of_a_certificate() -> None:
    """Its own check of credentials: basic constraints, both key usages, both purposes."""
    extensions = library.load_pem_x509_certificate(certificate().pem.encode()).extensions
    assert extensions.get_extension_for_class(library.BasicConstraints).value.ca is False
    usage = extensions.get_extension_for_class(library.KeyUsage)
    assert usage.critical and usage.value.digital_signature and usage.value.key_encipherment
    assert not usage.value.key_cert_sign


@pytest.mark.parametrize(
    ("values", "days", "state"),
    [
        ({"placed_at": NOW}, 0, "valid"),
        ({"placed_at": NOW}, 699, "valid"),
        ({"placed_at": NOW}, 701, "expiring"),
        ({"placed_at": NOW}, 730, "expired"),
        ({}, 0, "unplaced"),
        ({}, 731, "expired"),
        ({"placed_at": NOW, "revoked_at": NOW}, 731, "revoked"),
    ],
)
def test_states(values: dict[str, str], days: int, state: str) -> None:
    one = replace(certificate(), **values)
    assert state_of(one, one if one.placed_at else None, later(days)) == state


def test_a_newer_one_replaces() -> None:
    old, new = (replace(certificate(), placed_at=moment) for moment in (NOW, later(1)))
    assert [state_of(one, new, later(1)) for one in (old, new)] == ["replaced", "valid"]
