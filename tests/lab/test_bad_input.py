"""Bad input: a clear error, its exit code, and nothing left behind, here or on a host."""

import hashlib
import os
import subprocess
from itertools import cycle
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

from novactl.virt.domain import NAMESPACE
from tests.lab.conftest import Grounds
from tests.lab.support import (
    console_until,
    devices,
    nothing_left,
    read_only,
    refused,
    unchanged,
)

pytestmark = pytest.mark.lab

CANARY = "/tmp/novactl-canary"
EVIL = [
    f"$(touch {CANARY})",
    f"x;touch {CANARY}",
    f"`touch {CANARY}`",
    "a/b",
    "../../etc",
    "a\nb",
    "a\x1b[31mb",
    "a'b\"c",
    "<disk/>",
    "-x",
    "",
    "n" * 64,
    "11111111-2222-3333-4444-555555555555",
]
LITERAL = f"""'"`touch {CANARY}`" $(touch {CANARY}); <disk type="file"> & ]]> \\ %s ñ"""
BOOT = ["--flavor", "tiny", "--image", "tiny"]
DEAF = ["--flavor", "tiny", "--image", "deaf"]
SIZES = ["--vcpus", "1", "--memory", "96", "--disk", "1"]


@pytest.fixture(autouse=True)
def nothing_executed(grounds):
    """No test makes any machine run what was only to be stored."""
    yield
    assert not Path(CANARY).exists()
    for host in grounds.fleet.hosts:
        assert host.run(["test", "-e", CANARY]).returncode == 1


def qemu_img(*words: object) -> None:
    subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True)


def public_key(directory: Path) -> Path:
    path = directory / "id_ed25519.pub"
    if not path.exists():
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path.with_suffix(""))]
        subprocess.run(make, check=True)
    return path


def test_unknown_names_come_with_near_ones(grounds, name, tmp_path):
    novactl, web = grounds.novactl, name()
    novactl.ok("keypair", "add", "operator", "--public-key", str(public_key(tmp_path)))
    with unchanged(grounds):
        for words, near in (
            (["boot", web, "--flavor", "tinny", "--image", "tiny"], "tiny"),
            (["boot", web, "--flavor", "tiny", "--image", "tinny"], "tiny"),
            (["boot", web, *BOOT, "--network", "lann"], "lan"),
            (["boot", web, *BOOT, "--key", "operatr"], "operator"),
            (["boot", web, *BOOT, "--host", "kvm11"], "kvm1"),
            (["host", "show", "kvm"], "kvm1"),
            (["host", "set", "kvm9", "--disable"], "kvm"),
            (["host", "remove", "kvm33", "--yes"], "kvm3"),
            (["flavor", "delete", "tin"], "tiny"),
            (["image", "delete", "def", "--yes"], "deaf"),
            (["network", "show", "lam"], "lan"),
            (["keypair", "show", "operators"], "operator"),
            (["op", "resume", "op-0"], "op list"),
            (["event", "list", web], "list"),
        ):
            ended = refused(novactl, *words, code=4, says="does not exist", hint=near)
            assert words[0] in ("op", "event") or any(near in found for found in ended.error["candidates"])
        refused(novactl, "boot", web, *BOOT, "--zone", "moon", code=5, says="zone 'moon': no host is in it")
        refused(novactl, "boot", web, "--flavor", "tiny", code=2, says="--image")
        refused(novactl, "frobnicate", code=2, says="frobnicate")
    novactl.ok("keypair", "delete", "operator")


def test_names_that_are_no_names(grounds, tmp_path):
    novactl, key, disk = grounds.novactl, public_key(tmp_path), tmp_path / "disk"
    disk.write_bytes(b"x" * 512)
    net = ["--cidr", "192.0.2.0/24", "--bridge", "br0"]
    host = grounds.host("kvm1")
    takers = {
        "instance name": ["boot", *BOOT],
        "flavor name": ["flavor", "create", *SIZES],
        "image name": ["image", "add", "--file", str(disk), "--format", "raw"],
        "keypair name": ["keypair", "add", "--public-key", str(key)],
        "network name": ["network", "create", *net],
        "host name": ["host", "add", "--address", host.address, "--fingerprint", host.fingerprint],
    }
    names = cycle(EVIL)
    with unchanged(grounds):
        for what, words in takers.items():
            for _ in range(3):
                evil = next(names)
                refused(novactl, *words, "--", evil, code=2, says=f"{what} {evil!r}")


def test_values_are_kept_literally_and_never_executed(grounds, name, tmp_path):
    novactl, web, cmdline = grounds.novactl, name(), f"console=ttyS0 quiet evil={LITERAL}"
    image = novactl.json("image", "show", "tiny")
    stored = [novactl.config / "images" / image[f"{part}sha256"] for part in ("", "kernel_", "initrd_")]
    disk, kernel, initrd = map(str, stored)
    files = ["--file", disk, "--format", "raw", "--kernel", kernel, "--initrd", initrd]
    novactl.ok("image", "add", web, *files, "--cmdline", cmdline, "--property", f"note={LITERAL}")
    novactl.ok("flavor", "create", web, *SIZES, "--property", f"note:a={LITERAL}")
    novactl.ok("host", "set", "kvm2", "--label", f"rack={LITERAL}", "--disable", "--reason", LITERAL)
    assert novactl.json("host", "show", "kvm2")["labels"] == {"rack": LITERAL}
    no_room = novactl("boot", f"{web}x", *BOOT, "--host", "kvm2")
    assert no_room.code == 5 and f"disabled: {LITERAL}" in no_room.err
    novactl.ok("host", "set", "kvm2", "--label", "rack=", "--enable")
    novactl.ok("keypair", "add", web, "--public-key", str(public_key(tmp_path)))
    script = f"#!/bin/sh\ncat /proc/cmdline\ncat <<'END'\nsaid {LITERAL}\nEND\n"
    made = novactl.json(
        "boot", web, "--flavor", web, "--image", web, "--network", "lan", "--key", web, "--user-data", "-",
        "--meta", f"note={LITERAL}", "--meta", "empty=", "--tag", LITERAL[:60], input=script,
    )  # fmt: skip
    assert made["metadata"] == {"note": LITERAL, "empty": ""} and made["tags"] == [LITERAL[:60]]
    text = console_until(grounds, made, "tiny: user-data done rc=0")
    unescaped = LITERAL.replace("\\", "")  # the guest's little JSON reader drops every backslash
    for line in (f"tiny: meta note={unescaped}", f"said {LITERAL}"):
        assert line in text.splitlines()
    assert f"evil={LITERAL}" in text
    assert devices(grounds, made) == ["vda", "vdb", "bridge"]
    host = grounds.host(made["host"])
    domain = fromstring(host.run(["virsh", "dumpxml", made["uuid"]]).stdout)
    assert domain.findtext("os/cmdline") == cmdline
    record = domain.findtext(f"metadata/{{{NAMESPACE}}}instance")
    assert f'"name": "{web}"' in record and '"rack"' not in record
    for output in ("table", "yaml", "csv"):
        told = novactl.ok("show", web, "-o", output).out + novactl.ok("list", "-o", output).out
        assert "\x1b" not in told and web in told
    assert novactl.json("list", "-l", f"note={LITERAL.partition(',')[0]}")[0]["uuid"] == made["uuid"]
    novactl.ok("stop", web, "--force")
    novactl.ok("start", web)
    novactl.ok("delete", web, "--yes")
    for words in (["image", "delete", web, "--yes"], ["flavor", "delete", web], ["keypair", "delete", web]):
        novactl.ok(*words)
    nothing_left(grounds)


def test_values_that_are_refused(grounds, name, tmp_path):
    novactl, web = grounds.novactl, name()
    boot = ["boot", web, *BOOT]
    host = ["host", "add", "kvm9", "--address"]
    (tmp_path / "key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    (tmp_path / "two").write_text(public_key(tmp_path).read_text() * 2)
    sizes = ["flavor", "create", web, "--memory", "96", "--disk", "1", "--vcpus"]
    with unchanged(grounds):
        for words, says in (
            ([*boot, "--meta", "a=b\nc"], "control characters"),
            ([*boot, "--meta", "a/b=c"], "--meta key 'a/b'"),
            ([*boot, "--meta", "plain"], "key=value"),
            ([*boot, "--meta", f"a={'x' * 256}"], "longer than 255"),
            ([*boot, "--tag", "a\x07b"], "control characters"),
            ([*boot, "--user-data", str(tmp_path / "none")], "No such file"),
            ([*boot, "--swap", "-1"], "swap_mib -1"),
            ([*boot, "--count", "0"], "--count 0"),
            ([*boot, "--network", "lan,ip="], "is not ip=ADDRESS"),
            ([*host[:-1], "--address=-oProxyCommand=x"], "address '-oProxyCommand=x'"),
            ([*host, "a b"], "address 'a b'"),
            ([*host, "192.0.2.1", "--user", "a;b"], "user 'a;b'"),
            ([*host, "192.0.2.1", "--instances-path", "/a b"], "--instances-path '/a b'"),
            ([*host, "192.0.2.1", "--zone", "<zone>"], "zone '<zone>'"),
            ([*host, "192.0.2.1", "--label", "r=\x01"], "control characters"),
            ([*host, "192.0.2.1", "--jump", "nosuch"], "nosuch"),
            ([*sizes, "0"], "vcpus 0"),
            ([*sizes, "many"], "--vcpus"),
            (["keypair", "add", web, "--public-key", str(tmp_path / "key")], "private key"),
            (["keypair", "add", web, "--public-key", str(tmp_path / "two")], "2 lines"),
            (["network", "create", web, "--cidr", "192.0.2.1/24", "--bridge", "br0"], "host bits"),
            (["network", "create", web, "--cidr", "192.0.2.0/24", "--bridge", "br0;reboot"], "bridge"),
            (["host", "set", "kvm1", "--cpu-ratio", "0"], "cpu_ratio"),
            (["host", "set", "kvm1", "--disable", "--reason", "a\nb"], "control characters"),
        ):
            refused(novactl, *words, code=2, says=says)


def test_too_much_user_data(grounds, name):
    web = name()
    with unchanged(grounds):
        much = "#!/bin/sh\n" + "#" * 65536
        refused(
            grounds.novactl, "boot", web, *BOOT, "--user-data", "-",
            code=5, says=f"user-data has {len(much)} bytes", hint="where the guest can fetch it", input=much,
        )  # fmt: skip


def test_addresses(grounds, name, address):
    novactl, web, net = grounds.novactl, name(), grounds.fleet.network.rpartition(".")[0]
    taken = novactl.json("boot", web, *DEAF, "--network", f"lan,ip={address(3)}")
    with unchanged(grounds):
        for ip, code, says in (
            (address(3), 5, "is taken"),
            (grounds.fleet.gateway, 5, "is not one of network lan"),
            (f"{net}.0", 5, "is not one of network lan"),
            (f"{net}.255", 5, "is not one of network lan"),
            ("192.0.2.77", 5, "is not one of network lan"),
            ("garbage", 2, "'garbage' is not an IPv4 address"),
            (f"{net}.007", 2, "is not an IPv4 address"),
            (f"{net}.50/24", 2, "is not an IPv4 address"),
            (grounds.host("kvm2").address, 5, "is not one of network lan"),
        ):
            refused(novactl, "boot", name(), *BOOT, "--network", f"lan,ip={ip}", code=code, says=says)
        both = ["--network", f"lan,ip={address(4)}"]
        refused(novactl, "boot", name(), *BOOT, *both, *both, code=5, says="is taken")
        refused(novactl, "boot", name(), *BOOT, *both, "--count", "2", code=2, says="--count")
        refused(novactl, "boot", web, *BOOT, code=5, says="exists already", hint=taken["uuid"])
        refused(novactl, "network", "delete", "lan", "--yes", code=5, says="1 addresses are in use")
    small = ["network", "create", web, "--bridge", "br0", "--cidr", "198.51.100.0/30"]
    small += ["--gateway", "198.51.100.1"]
    refused(novactl, *small, "--pool", "192.0.2.1-192.0.2.2", code=2, says="is not within 198.51.100.0/30")
    novactl.ok(*small)
    full = ["--count", "2", "--network", web]
    with unchanged(grounds):
        refused(novactl, "boot", f"{web}x", *BOOT, *full, code=5, says="has no free address")
        again = ["--cidr", "198.51.100.0/24", "--bridge", "br0"]
        refused(novactl, "network", "create", f"{web}x", *again, code=5, says=f"network {web} (198.51")
    novactl.ok("network", "delete", web, "--yes")


def test_flavor_smaller_than_the_image(grounds, name, tmp_path):
    novactl, big, disk = grounds.novactl, name(), tmp_path / "big.qcow2"
    qemu_img("create", "-f", "qcow2", disk, "3G")
    novactl.ok("image", "add", big, "--file", str(disk), "--min-memory", "128")
    novactl.ok("flavor", "create", big, "--vcpus", "1", "--memory", "96", "--disk", "4")
    with unchanged(grounds):
        boot = ["boot", name(), "--image", big, "--flavor"]
        refused(novactl, *boot, "tiny", code=5, says="a disk of 1 GiB, image", hint="--disk 0")
        refused(novactl, *boot, big, code=5, says="96 MiB of memory, image")
    novactl.ok("flavor", "delete", big)
    novactl.ok("image", "delete", big, "--yes")


@pytest.fixture
def files(tmp_path):
    """Image files that each are not what they should be, by name."""
    good, base = tmp_path / "good.qcow2", tmp_path / "base.raw"
    base.write_bytes(os.urandom(1 << 20))
    qemu_img("convert", "-f", "raw", "-O", "qcow2", base, good)
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", tmp_path / "backing", "1M")
    outside = f"data_file={tmp_path}/data,data_file_raw=on"
    qemu_img("create", "-f", "qcow2", "-o", outside, tmp_path / "datafile", "1M")
    qemu_img("create", "-f", "qcow2", "-o", "cluster_size=2M", tmp_path / "exbi", "1E")
    (tmp_path / "truncated").write_bytes(good.read_bytes()[:-300_000])
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def test_image_files_that_are_not_what_they_must_be(grounds, name, files):
    novactl, image = grounds.novactl, name()
    good = str(files / "good.qcow2")
    add = ["image", "add", image, "--file"]
    wrong = hashlib.sha256(b"").hexdigest()
    with unchanged(grounds):
        for words, says in (
            (["truncated"], "is truncated"),
            (["backing"], "backing file"),
            (["datafile"], "data file"),
            (["exbi"], "virtual size 1152921504606846976"),
            (["good.qcow2", "--format", "raw"], "qcow2"),
            (["base.raw", "--format", "qcow2"], "not qcow2"),
            (["base.raw"], "--format raw"),
            (["empty", "--format", "raw"], "is empty"),
            (["pipe", "--format", "raw"], "is not a regular file"),
            ([".", "--format", "raw"], "is not a regular file"),
            (["good.qcow2", "--sha256", wrong], f"not {wrong}"),
        ):
            ended = novactl(*add, str(files / words[0]), *words[1:], "-o", "json")
            assert ended.code == 5 and ended.error["type"] == "ImageRefused", (words, ended)
            assert says in ended.error["message"] + ended.error["hint"], ended.err
        refused(novactl, *add, str(files / "none"), code=4, says="no such file")
        refused(novactl, *add, good, "--format", "vhd", code=2, says="'vhd' is not one of")
        refused(novactl, *add, good, "--cmdline", "x", code=2, says="need --kernel")
        refused(novactl, *add, good, "--kernel", good, "--cmdline", "a\nb", code=2, says="control characters")
        refused(novactl, *add, good, "--property", "hw_disk_bus=floppy", code=2, says="hw_disk_bus='floppy'")
        # the first files are in the store by the time a later one is found missing
        refused(novactl, *add, good, "--kernel", str(files / "none"), code=4, says="no such file")
        later = ["--kernel", str(files / "base.raw"), "--initrd", str(files / "none")]
        refused(novactl, *add, good, *later, code=4, says="no such file")
        refused(novactl, "image", "add", "tiny", "--file", good, code=5, says="exists already")


def test_a_database_that_cannot_be_used(grounds: Grounds, name, tmp_path):
    novactl = grounds.novactl
    with unchanged(grounds):
        for words in (["flavor", "create", name(), *SIZES], ["boot", name(), *BOOT], ["list"]):
            ended = read_only(novactl, *words, "-o", "json")
            assert ended.code == 9 and ended.error["type"] == "DatabaseError" and ended.error["hint"], ended
            assert str(novactl.config / "novactl.db") in ended.error["message"]
    junk = tmp_path / "junk.db"
    junk.write_bytes(b"not a database" * 100)
    refused(novactl, "list", "--db", str(junk), code=9, says="not a database", hint="--db")
    refused(novactl, "list", "--db", f"{tmp_path}/none.db", code=9, says="does not exist", hint="db init")
    refused(novactl, "list", "--db", f"{tmp_path}/no/none.db", code=9, says="does not exist", hint="db init")
    refused(novactl, "list", "--db", "postgresql://a:pw@192.0.2.1/x", code=2, says="holds a password")
    assert novactl("db", "init", "--db", f"{junk}/x.db").code == 9
