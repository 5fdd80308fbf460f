"""Certificates on a host (remote/pki.sh): all or none, for QEMU's group, never over somebody else's."""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from novactl.errors import HostFault, HostRefused
from tests.virt.ground import Ground

NAMES = ("ca-cert", "ca-crl", "server-cert", "server-key", "client-cert", "client-key")


def files(mark: str, authority: str = "authority") -> dict[str, str]:
    made = {f"{name}.pem": f"-----{name} {mark}-----\n" for name in NAMES}
    return {**made, "ca-cert.pem": f"{authority}\n"}


@pytest.fixture
def where(host: Ground, tmp_path: Path) -> Iterator[Path]:
    """Where this host's qemu.conf says; QEMU is who runs the tests."""
    assert host.local
    found = tmp_path / "pki" / "qemu"
    found.parent.mkdir()
    configure(host, default_tls_x509_cert_dir=str(found))
    yield found


def configure(host: Ground, **values: str) -> None:
    known = {"user": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name, **values}
    assert host.local
    text = "".join(f'{key} = "{value}"\n' for key, value in known.items())
    (host.local.state.parent / "qemu.conf").write_text(f'# user = "nobody"\n{text}')


def there(where: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in where.glob("*.pem")}


def test_all_are_there_and_keys_are_the_group_s_alone(host: Ground, where: Path) -> None:
    assert host.hypervisor.pki_where() == str(where)
    host.hypervisor.pki_place(1, files("one"))
    assert there(where) == files("one")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in where.glob("*.pem")}
    keys = dict.fromkeys(("server-key.pem", "client-key.pem"), 0o640)
    assert modes == {**dict.fromkeys(modes, 0o644), **keys}
    assert stat.S_IMODE(where.stat().st_mode) == 0o755


def test_again_replaces_them_and_leaves_nothing_of_the_old(host: Ground, where: Path) -> None:
    for mark in ("one", "two", "two"):
        host.hypervisor.pki_place(1, files(mark))
        assert there(where) == files(mark)
        assert len(list(where.glob("novactl-*"))) == 1
        assert list(where.glob(".*")) == []


def test_where_migrations_have_a_directory_of_their_own(host: Ground, where: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    configure(host, default_tls_x509_cert_dir=str(where), migrate_tls_x509_cert_dir=str(own))
    host.hypervisor.pki_place(1, files("one"))
    assert there(own) == files("one")
    assert not where.exists()


def test_somebody_else_s_stay(host: Ground, where: Path) -> None:
    where.mkdir()
    (where / "server-key.pem").write_text("theirs")
    for act in (host.hypervisor.pki_where, lambda: host.hypervisor.pki_place(1, files("one"))):
        with pytest.raises(HostRefused, match=r"server-key\.pem is not novactl's$"):
            act()
    assert there(where) == {"server-key.pem": "theirs"}
    assert [path.name for path in where.iterdir()] == ["server-key.pem"]


def test_what_cannot_be_placed_leaves_the_old(host: Ground, where: Path) -> None:
    host.hypervisor.pki_place(1, files("one"))
    configure(host, default_tls_x509_cert_dir=str(where), group="nosuchgroup")
    with pytest.raises(HostFault, match="nosuchgroup"):
        host.hypervisor.pki_place(1, files("two"))
    configure(host, default_tls_x509_cert_dir=str(where))
    assert there(where) == files("one")
    assert len(list(where.glob("novactl-*"))) == 1


def test_what_a_killed_one_left_is_cleaned(host: Ground, where: Path) -> None:
    where.mkdir()
    (where / "novactl-half").mkdir()
    (where / "novactl-half" / "server-key.pem").write_text("half")
    (where / "server-key.pem").symlink_to("novactl/server-key.pem")  # before what it points to
    host.hypervisor.pki_place(1, files("one"))
    assert there(where) == files("one")
    assert not (where / "novactl-half").exists()


def test_lists_only_ever_become_newer(host: Ground, where: Path) -> None:
    with pytest.raises(HostFault, match="no longer in"):
        host.hypervisor.pki_publish(2, "two\n")
    host.hypervisor.pki_place(1, files("one"))
    for number, seen in ((3, "3\n"), (2, "3\n"), (3, "3\n"), (4, "4\n")):
        assert host.hypervisor.pki_publish(number, f"{number}\n") == int(seen)
        assert there(where) == {**files("one"), "ca-crl.pem": seen}
    host.hypervisor.pki_place(2, files("two"))  # it was signed before what is there
    assert there(where) == {**files("two"), "ca-crl.pem": "4\n"}
    host.hypervisor.pki_place(1, files("new", authority="another"))  # whose numbers are its own
    assert there(where) == files("new", authority="another")


def test_only_on_a_host_of_the_fleet(host: Ground, where: Path) -> None:
    host.hypervisor.leave()
    acts = [host.hypervisor.pki_where, lambda: host.hypervisor.pki_place(1, files("one"))]
    for act in [*acts, lambda: host.hypervisor.pki_publish(1, "one\n")]:
        with pytest.raises(HostRefused, match="not enrolled in this fleet"):
            act()
    assert not where.exists()
