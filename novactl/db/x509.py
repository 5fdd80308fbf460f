"""X.509: keys, an authority, certificates of hosts, revocation lists. Pure but for randomness."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from novactl.objects.certificate import Certificate
from novactl.objects.moments import as_text

BITS = 3072  # RSA: QEMU wants keyEncipherment of a certificate, which no other kind of key may claim
USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
SKEW = timedelta(hours=1)
"""A certificate is good so long before it was made: clocks differ."""


def new_key() -> str:
    """A private key, as PEM."""
    made = generate_private_key(public_exponent=65537, key_size=BITS)
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def authority(key: str, fleet: str, now: str, days: int) -> str:
    """The certificate of a fleet's authority: it signs hosts, and no other authority."""
    private = _private(key)
    name = _name(f"novactl CA {fleet}")
    begin, end = _span(now, days)
    builder = _builder(name, name, private, begin, end)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    return _pem(builder.sign(private, SHA256()))


def issue(
    authority_pem: str, authority_key: str, key: str, host: str, address: str, now: str, days: int
) -> Certificate:
    """A host's certificate, for serving and calling; it ends with the authority at the latest."""
    signer, private = x509.load_pem_x509_certificate(authority_pem.encode()), _private(authority_key)
    names = tuple(dict.fromkeys((host, address)))
    begin, end = _span(now, days)
    end = min(end, signer.not_valid_after_utc)
    builder = _builder(_name(host), signer.subject, _private(key), begin, end)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(digital_signature=True, key_encipherment=True), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (x509.SubjectAlternativeName([_alternative(name) for name in names]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key()), False),
    ]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    made = builder.sign(private, SHA256())
    return Certificate(
        serial=f"{made.serial_number:040x}",
        host=host,
        names=names,
        pem=_pem(made),
        not_before=as_text(made.not_valid_before_utc),
        not_after=as_text(made.not_valid_after_utc),
    )


def revocations(
    authority_pem: str, authority_key: str, number: int, revoked: Iterable[tuple[str, str]], now: str
) -> str:
    """The list of what is revoked: (serial, when). It is good until the authority ends: whoever checks
    refuses everybody under a list that has expired."""
    signer, private = x509.load_pem_x509_certificate(authority_pem.encode()), _private(authority_key)
    builder = x509.CertificateRevocationListBuilder().issuer_name(signer.subject)
    builder = builder.last_update(_moment(now) - SKEW).next_update(signer.not_valid_after_utc)
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key()), critical=False
    )
    for serial, when in revoked:
        one = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(_moment(when))
        builder = builder.add_revoked_certificate(one.build())
    return builder.sign(private, SHA256()).public_bytes(Encoding.PEM).decode()


def span(pem: str) -> tuple[str, str]:
    """From when until when a certificate is good."""
    made = x509.load_pem_x509_certificate(pem.encode())
    return as_text(made.not_valid_before_utc), as_text(made.not_valid_after_utc)


def _private(key: str) -> RSAPrivateKey:
    loaded = load_pem_private_key(key.encode(), None)
    assert isinstance(loaded, RSAPrivateKey)
    return loaded


def _builder(
    subject: x509.Name, issuer: x509.Name, private: RSAPrivateKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    builder = builder.public_key(private.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(begin).not_valid_after(end)
    return builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False
    )


def _usage(**wanted: bool) -> x509.KeyUsage:
    return x509.KeyUsage(**{**dict.fromkeys(USES, False), **wanted})


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC).replace(microsecond=0)


def _span(now: str, days: int) -> tuple[datetime, datetime]:
    begin = _moment(now)
    return begin - SKEW, begin + timedelta(days=days)


def _pem(made: x509.Certificate) -> str:
    return made.public_bytes(Encoding.PEM).decode()
