"""Bad input: a clear error, its exit code, nothing left behind; odd but good input comes back literally."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from novactl.db import catalogue, hosts
from novactl.db.sqlite import SqliteDatabase
from novactl.objects.host import Resources
from novactl.objects.keypair import Keypair
from tests.support import fleet
from tests.support.command import Command, Ended
from tests.unit.hostile_images import qcow2, raw

BAD_NAMES = {
    "empty": "",
    "slash": "a/b",
    "dots": "../../etc/passwd",
    "dot": ".hidden",
    "newline": "a\nb",
    "newline-at-the-end": "web1\n",
    "dash": "-rf",
    "option": "--force",
    "control": "a\x1b[31m",
    "delete": "a\x7f",
    "nul-like": "a\x01",
    "blank": "two words",
    "blank-at-the-end": "web1 ",
    "subshell": "$(touch canary)",
    "backquotes": "`touch canary`",
    "semicolon": ";reboot",
    "pipe": "a|b",
    "glob": "*",
    "quote": "it's",
    "double-quote": 'a"b',
    "xml": "<b/>",
    "entity": "a&amp;b",
    "percent": "%s",
    "unicode": "wéb",
    "right-to-left": "a\u202eb",
    "uuid": "5f3a9c1e-0000-4000-8000-000000000001",
    "uuid-in-capitals": "5F3A9C1E-0000-4000-8000-000000000001",
    "long": "x" * 64,
}
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4Kx1nV0mUu9a3Y3qkG6mO9m0a5vV2w7yJ3eXoP0qRs me@here"


@pytest.fixture
def stocked(novactl: Command, db: SqliteDatabase) -> Command:
    fleet.furnish(db)
    with db.writing() as tx:
        catalogue.add_keypair(
            tx, "default", Keypair(name="me", fingerprint="SHA256:x", public_key=PUBLIC_KEY)
        )
    return novactl


def stored(db: SqliteDatabase) -> dict[str, int]:
    """How many rows each table has."""
    tables = ("hosts", "flavors", "images", "keypairs", "networks", "instances", "ports", "holds")
    tables += ("server_groups", "projects")
    tables += ("operations", "steps", "op_locks", "events", "secrets")
    with db.reading() as tx:
        return {table: len(tx.all(f"SELECT * FROM {table}")) for table in tables}


def images(novactl: Command) -> list[str]:
    """Every file under the images directory but furnish()'s, unfinished ones too; marks of users are none."""
    root = novactl.config / "images"
    there = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    return sorted(path for path in there if path != fleet.SHA256 and not path.startswith(".users/"))


def refused(ended: Ended, code: int, *said: str) -> None:
    """It failed with this code, told in one `error:` line (and perhaps a hint), with nothing on stdout but
    the row of a verb that takes many targets."""
    assert ended.code == code, ended
    rows = ended.out.splitlines()
    assert not rows or (rows[0].split() == ["TARGET", "RESULT", "OPERATION"] and "failed" in rows[1]), ended
    assert ended.err.startswith("error: ") or "\nerror: " in ended.err, ended.err
    assert "Traceback" not in ended.err
    assert "fault of novactl" not in ended.err
    for words in said:
        assert words in ended.err, ended.err


# --- names ---

NOUNS: dict[str, Callable[[Path], list[str]]] = {
    "flavor": lambda tmp: ["flavor", "create", "--vcpus=1", "--memory=1", "--disk=1", "--", "NAME"],
    "image": lambda tmp: ["image", "add", "--format=raw", "--file", str(tmp / "image"), "--", "NAME"],
    "image-rename": lambda tmp: ["image", "set", "tiny", "--name=NAME"],
    "keypair": lambda tmp: ["keypair", "add", "--public-key", str(tmp / "key"), "--", "NAME"],
    "network": lambda tmp: ["network", "create", "--cidr=198.51.100.0/24", "--bridge=br1", "--", "NAME"],
    "group": lambda tmp: ["group", "create", "--policy=affinity", "--", "NAME"],
    "limited-project": lambda tmp: ["project", "create", "--", "NAME"],
    "boot": lambda tmp: ["boot", "--flavor=small", "--image=tiny", "-q", "--", "NAME"],
    "host": lambda tmp: ["host", "add", "--address=192.0.2.1", "--fingerprint=SHA256:x", "--", "NAME"],
    "zone": lambda tmp: ["host", "set", "kvm1", "--zone=NAME"],
    "project": lambda tmp: ["keypair", "add", "k", "--public-key", str(tmp / "key"), "--project=NAME"],
}


FEW = ("image-rename", "zone", "project", "keypair", "network", "group", "limited-project")
SOME = (
    "empty",
    "slash",
    "dots",
    "newline",
    "newline-at-the-end",
    "control",
    "subshell",
    "xml",
    "uuid",
    "long",
)


@pytest.mark.parametrize("noun", NOUNS)
def test_bad_names(stocked: Command, db: SqliteDatabase, tmp_path: Path, noun: str) -> None:
    (tmp_path / "image").write_bytes(raw())
    (tmp_path / "key").write_text(PUBLIC_KEY)
    before = stored(db)
    for what, name in BAD_NAMES.items():
        if (noun == "project" and not name) or (noun in FEW and what not in SOME):
            continue  # no project means the default one; one check stands behind all nouns
        words = [word.replace("NAME", name) for word in NOUNS[noun](tmp_path)]
        refused(stocked(*words), 2)
        assert stored(db) == before, what
        assert images(stocked) == [], what
    assert not Path("canary").exists()


def test_a_bad_name_is_shown_and_explained(stocked: Command) -> None:
    ended = stocked("flavor", "create", "a\x1b[31m/b", "--vcpus", "1", "--memory", "1", "--disk", "1")
    assert ended.err == (
        "error: flavor name 'a\\x1b[31m/b' is not acceptable\n"
        "hint: 1 to 63 of A-Z a-z 0-9 . _ - and the first a letter or digit\n"
    )


@pytest.mark.parametrize("name", ["a", "9", "A.b_c-d", "x" * 63, "web-1.example.org", "ffffffff", "1"])
def test_good_names(stocked: Command, tmp_path: Path, name: str) -> None:
    (tmp_path / "key").write_text(PUBLIC_KEY)
    flavor = stocked.json("flavor", "create", name, "--vcpus", "1", "--memory", "1", "--disk", "1")
    assert flavor["name"] == name
    assert stocked.json("flavor", "show", name) == flavor
    assert stocked.json("keypair", "add", name, "--public-key", str(tmp_path / "key"))["name"] == name


# --- unknown names ---


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["flavor", "show", "smal"], "flavor 'smal' does not exist", "did you mean small?"),
        (["flavor", "delete", "smal"], "flavor 'smal' does not exist", "did you mean small?"),
        (["flavor", "show", "zzz"], "flavor 'zzz' does not exist", "there are small"),
        (["image", "show", "tinny"], "image 'tinny' does not exist", "did you mean tiny?"),
        (["image", "delete", "tinny", "-y"], "image 'tinny' does not exist", "did you mean tiny?"),
        (["image", "set", "tinny", "--name", "x"], "image 'tinny' does not exist", "did you mean tiny?"),
        (["keypair", "show", "mee"], "keypair 'mee' does not exist", "did you mean me?"),
        (["keypair", "delete", "mee"], "keypair 'mee' does not exist", "did you mean me?"),
        (["network", "show", "land"], "network 'land' does not exist", "did you mean lan?"),
        (["network", "delete", "land", "-y"], "network 'land' does not exist", "did you mean lan?"),
        (["host", "show", "kvm2"], "host 'kvm2' does not exist", "did you mean kvm1?"),
        (["host", "set", "kvm2", "--enable"], "host 'kvm2' does not exist", "did you mean kvm1?"),
        (["host", "remove", "kvm2", "-y"], "host 'kvm2' does not exist", "did you mean kvm1?"),
        (["host", "check", "kvm2"], "host 'kvm2' does not exist", "did you mean kvm1?"),
        (["list", "--on", "kvm2"], "host 'kvm2' does not exist", "did you mean kvm1?"),
        (["show", "web2"], "instance 'web2' does not exist", "did you mean web1?"),
        (["event", "list", "web2"], "instance 'web2' does not exist", "did you mean web1?"),
        (["console-log", "web2"], "instance 'web2' does not exist", "did you mean web1?"),
        (["wait", "web2", "ip"], "instance 'web2' does not exist", "did you mean web1?"),
        (["start", "web2", "--dry-run"], "instance 'web2' does not exist", "did you mean web1?"),
        (["delete", "web2", "-y"], "instance 'web2' does not exist", "did you mean web1?"),
        (["op", "show", "op-1"], "operation 'op-1' does not exist", "novactl op list shows what exists"),
        (["op", "wait", "op-1"], "operation 'op-1' does not exist", "novactl op list shows what exists"),
        (["op", "resume", "op-1"], "operation 'op-1' does not exist", "novactl op list shows what exists"),
        (["op", "rollback", "op-1"], "operation 'op-1' does not exist", "novactl op list shows what exists"),
        (["op", "cancel", "op-1"], "operation 'op-1' does not exist", "novactl op list shows what exists"),
        (["boot", "w", "--flavor", "smal", "--image", "tiny"], "flavor 'smal' does not exist", "small?"),
        (["boot", "w", "--flavor", "small", "--image", "x"], "image 'x' does not exist", "there are tiny"),
        (
            ["boot", "w", "--flavor", "small", "--image", "tiny", "--network", "lam"],
            "network 'lam' does not exist",
            "did you mean lan?",
        ),
        (
            ["boot", "w", "--flavor", "small", "--image", "tiny", "--key", "mee"],
            "keypair 'mee' does not exist",
            "did you mean me?",
        ),
        (
            ["boot", "w", "--flavor", "small", "--image", "tiny", "--host", "kvm2"],
            "host 'kvm2' does not exist",
            "did you mean kvm1?",
        ),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_unknown_names(
    stocked: Command, db: SqliteDatabase, words: list[str], message: str, hint: str
) -> None:
    fleet.add_instance(db, fleet.instance(1))
    before = stored(db)
    ended = stocked(*words)
    refused(ended, 4, f"error: {message}\n", hint)
    assert stored(db) == before


def test_ssh_to_an_unknown_instance_is_255_or_4(stocked: Command) -> None:
    ended = stocked("ssh", "nobody")
    assert ended.code in (4, 255)
    assert "instance 'nobody' does not exist" in ended.err


def test_an_ambiguous_prefix(stocked: Command, db: SqliteDatabase) -> None:
    one = fleet.add_instance(db, fleet.instance(0xABCDEF01))
    fleet.add_instance(db, fleet.instance(2, uuid=one.uuid[:-1] + "9"))
    refused(stocked("show", "abcdef01"), 2, "'abcdef01' is ambiguous")
    assert stocked.json("show", one.uuid)["uuid"] == one.uuid
    refused(stocked("delete", "abcdef01", "-y"), 4, "instance 'abcdef01' does not exist")


# --- flavors ---


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--vcpus", value) for value in ("0", "-1", "1025", "1.5", "many", "")),
        *(("--memory", value) for value in ("0", "-512", str(1 << 40), "1GiB")),
        *(("--disk", value) for value in ("-1", "65537")),
        *(("--ephemeral", value) for value in ("-1", "65537")),
        *(("--swap", value) for value in ("-1", str(1 << 21))),
        ("--property", "novalue"),
        ("--property", "=x"),
        ("--property", "a b=c"),
        ("--property", "k=a\nb"),
        ("--property", "k=\x1b[31m"),
        ("--property", "k=" + "x" * 256),
    ],
)
def test_flavors_out_of_reason(novactl: Command, db: SqliteDatabase, option: str, value: str) -> None:
    sizes = {"--vcpus": "1", "--memory": "1", "--disk": "0", option: value}
    words = [f"{name}={given}" for name, given in sizes.items()]
    refused(novactl("flavor", "create", "x", *words), 2)
    assert stored(db)["flavors"] == 0


def test_flavors_at_the_edge(novactl: Command) -> None:
    made = novactl.json("flavor", "create", "x", "--vcpus", "1024", "--memory", "1", "--disk", "0")
    assert (made["vcpus"], made["disk_gib"], made["swap_mib"]) == (1024, 0, 0)
    refused(
        novactl("flavor", "create", "x", "--vcpus", "1", "--memory", "1", "--disk", "0"), 5, "exists already"
    )


@pytest.mark.parametrize(
    "value", ["<b>&\"'", "$(touch canary)", "é 漢字 🙂", " a b ", "a=b=c", "{}", "\\n%s"]
)
def test_odd_values_come_back_literally(novactl: Command, value: str) -> None:
    words = ["--vcpus", "1", "--memory", "1", "--disk", "0", "--property", f"k={value}"]
    assert novactl.json("flavor", "create", "x", *words)["extra_specs"] == {"k": value}
    assert novactl.json("flavor", "show", "x")["extra_specs"] == {"k": value}
    assert not Path("canary").exists()


# --- keypairs ---

GARBAGE = {
    "empty": b"",
    "blank": b"\n\n",
    "words": b"hello world\n",
    "two keys": f"{PUBLIC_KEY}\n{PUBLIC_KEY}\n".encode(),
    "binary": bytes(range(256)),
    "latin-1": b"ssh-ed25519 AAAA caf\xe9\n",
    "unknown type": b"ssh-dss AAAAB3NzaC1kc3M= me\n",
    "broken base64": b"ssh-ed25519 AAAA!AAA me\n",
    "base64 in halves": b"ssh-ed25519 AAAAC3 NzaC1lZDI1NTE5 me\n",
    "other content": b"ssh-rsa " + PUBLIC_KEY.split()[1].encode() + b"\n",
    "only a type": b"ssh-ed25519\n",
    "control": PUBLIC_KEY.encode() + b"\x1b[31m\n",
    "options": b'command="sh" ' + PUBLIC_KEY.encode() + b"\n",
    "long": PUBLIC_KEY.encode() + b"x" * 20000 + b"\n",
}


@pytest.mark.parametrize("what", GARBAGE)
def test_files_that_are_no_public_key(
    novactl: Command, db: SqliteDatabase, tmp_path: Path, what: str
) -> None:
    (tmp_path / "key").write_bytes(GARBAGE[what])
    refused(novactl("keypair", "add", "me", "--public-key", str(tmp_path / "key")), 2)
    assert stored(db)["keypairs"] == 0


@pytest.mark.parametrize("form", ["RFC4716", "PEM", "new"])
def test_a_private_key_is_refused_and_not_shown(novactl: Command, tmp_path: Path, form: str) -> None:
    options = [] if form == "new" else ["-m", form]
    kind = ["-t", "rsa", "-b", "1024"] if form == "PEM" else ["-t", "ed25519"]
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-N", "", *kind, *options, "-f", str(key)], check=True)
    ended = novactl("keypair", "add", "me", "--public-key", str(key))
    refused(ended, 2, "keypair me: ")
    secret = key.read_text().splitlines()[1]
    assert secret not in ended.err
    assert ".pub" in ended.err
    shown = novactl.json("keypair", "add", "me", "--public-key", f"{key}.pub")
    told = subprocess.run(
        ["ssh-keygen", "-lf", f"{key}.pub"], capture_output=True, text=True, check=True
    ).stdout
    assert shown["fingerprint"] == told.split()[1]


def test_key_files_that_are_not_there(novactl: Command, tmp_path: Path) -> None:
    refused(novactl("keypair", "add", "me", "--public-key", str(tmp_path / "x")), 2, "No such file")
    refused(novactl("keypair", "add", "me", "--public-key", str(tmp_path)), 2, "Is a directory")


# --- networks ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cidr", "10.0.0.0"], "has no room for instances"),
        (["--cidr", "10.0.0.0/33"], "33"),
        (["--cidr", "10.0.0.1/24"], "has host bits set"),
        (["--cidr", "10.0.0.0/31"], "has no room for instances"),
        (["--cidr", "10.0.0.0/32"], "has no room for instances"),
        (["--cidr", "300.0.0.0/8"], "300"),
        (["--cidr", "fd00::/64"], "fd00::"),
        (["--cidr", ""], "network x"),
        (["--cidr", "10.0.0.0/-1"], "-1"),
        (["--cidr", "10.0.0.0/24\n"], "network x"),
        (["--cidr", "$(id)"], "$(id)"),
        (["--cidr", "10.0.0.0/24", "--gateway", "10.0.1.1"], "is not within"),
        (["--cidr", "10.0.0.0/24", "--gateway", "10.0.0.0"], "is not within"),
        (["--cidr", "10.0.0.0/24", "--gateway", "10.0.0.255"], "is not within"),
        (["--cidr", "10.0.0.0/24", "--gateway", "gw"], "'gw' is not an IPv4 address"),
        (["--cidr", "10.0.0.0/24", "--gateway", ""], "is not an IPv4 address"),
        (["--cidr", "10.0.0.0/24", "--gateway", "fd00::1"], "is not an IPv4 address"),
        (["--cidr", "10.0.0.0/24", "--dns", "ns.example"], "is not an IPv4 address"),
        (["--cidr", "10.0.0.0/24", "--mtu", "575"], "mtu 575 is not within 576 to 65535"),
        (["--cidr", "10.0.0.0/24", "--mtu", "65536"], "mtu 65536 is not within"),
        (["--cidr", "10.0.0.0/24", "--mtu", "-1"], "mtu -1 is not within"),
        (["--cidr", "10.0.0.0/24", "--mtu", "big"], "mtu"),
        (["--cidr", "10.0.0.0/24", "--bridge", "a-name-too-long-for-a-link"], "bridge"),
        (["--cidr", "10.0.0.0/24", "--bridge", "br0; reboot"], "bridge"),
        (["--cidr", "10.0.0.0/24", "--bridge", "br/0"], "bridge"),
        (["--cidr", "10.0.0.0/24", "--bridge", ""], "bridge"),
        (["--cidr", "10.0.0.0/24", "--bridge", "br0'/>"], "bridge"),
        (["--cidr", "10.0.0.0/24", "--pool", "10.0.0.9"], "pool"),
        (["--cidr", "10.0.0.0/24", "--pool", "10.0.0.9-10.0.0.5"], "pool"),
        (["--cidr", "10.0.0.0/24", "--pool", "10.0.1.1-10.0.1.9"], "pool"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_networks_that_make_no_sense(
    novactl: Command, db: SqliteDatabase, options: list[str], message: str
) -> None:
    words = [f"{name}={value}" for name, value in zip(options[::2], options[1::2], strict=True)]
    bridge = [] if "--bridge" in options else ["--bridge=br0"]
    refused(novactl("network", "create", "x", *words, *bridge), 2, message)
    assert stored(db)["networks"] == 0


def test_a_cidr_is_kept_as_a_prefix(stocked: Command) -> None:
    """However it is written: what boot makes of it needs the number."""
    made = stocked.json("network", "create", "x", "--cidr", "10.0.0.0/255.255.255.0", "--bridge", "br7")
    assert made["cidr"] == "10.0.0.0/24"
    plan = stocked.json("boot", "w", "--flavor", "small", "--image", "tiny", "--network", "x", "--dry-run")
    assert plan["changes"]["addresses"] == {"x": "10.0.0.1"}


# --- images ---

BAD_IMAGES = {
    "truncated qcow2": (qcow2()[:3000], []),
    "qcow2 with a backing file": (qcow2(backing_offset=200, backing_size=11), []),
    "qcow2 of 1 EiB": (qcow2(size=1 << 60), []),
    "qcow2 said to be raw": (qcow2(), ["--format", "raw"]),
    "raw said to be qcow2": (raw(), ["--format", "qcow2"]),
    "raw said to be vmdk": (raw(), ["--format", "vmdk"]),
    "raw said to be iso": (raw(), ["--format", "iso"]),
    "empty": (b"", []),
    "nothing said of its format": (raw(), []),
    "another sum": (raw(), ["--format", "raw", "--sha256", "0" * 64]),
}


@pytest.mark.parametrize("what", BAD_IMAGES)
def test_images_that_are_refused(stocked: Command, db: SqliteDatabase, tmp_path: Path, what: str) -> None:
    content, options = BAD_IMAGES[what]
    (tmp_path / "image").write_bytes(content)
    before = stored(db)
    ended = stocked("image", "add", "x", "--file", str(tmp_path / "image"), *options)
    refused(ended, 5, str(tmp_path / "image"))
    assert images(stocked) == []
    assert stored(db) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "vdi"], "--format 'vdi' is not one of raw, qcow2, vmdk, iso"),
        (["--sha256", "abc"], "--sha256 'abc' is not acceptable"),
        (["--initrd", "image"], "--initrd and --cmdline need --kernel"),
        (["--cmdline", "x"], "--initrd and --cmdline need --kernel"),
        (["--kernel", "image", "--cmdline", "a\nb"], "--cmdline"),
        (["--kernel", "image", "--cmdline", "x" * 2001], "--cmdline is longer than 2000"),
        (["--kernel", "image", "--cmdline", "a\ufffeb"], "--cmdline"),
        (["--property", "hw_disk_bus=ide'/>"], "image property hw_disk_bus="),
        (["--property", "novalue"], "is not of the form key=value"),
        (["--min-disk", "-1"], "min"),
        (["--min-memory", "-1"], "min"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_images_asked_for_wrongly(
    novactl: Command, db: SqliteDatabase, tmp_path: Path, options: list[str], message: str
) -> None:
    (tmp_path / "image").write_bytes(raw())
    given = [str(tmp_path / word) if word == "image" else word for word in options]
    raw_ = [] if "--format" in options else ["--format", "raw"]
    refused(novactl("image", "add", "x", "--file", str(tmp_path / "image"), *raw_, *given), 2, message)
    assert images(novactl) == []
    assert stored(db)["images"] == 0


@pytest.mark.parametrize("what", ["--file", "--kernel", "--initrd"])
@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "device"])
def test_image_files_that_are_no_files(
    novactl: Command, db: SqliteDatabase, tmp_path: Path, what: str, kind: str
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(raw())
    match kind:
        case "directory":
            bad.mkdir()
        case "fifo":
            os.mkfifo(bad)
        case "device":
            bad = Path("/dev/zero")
    files = {"--file": good, "--kernel": good, "--initrd": good, what: bad}
    words = [word for option, path in files.items() for word in (option, str(path))]
    ended = novactl("image", "add", "x", "--format", "raw", *words)
    refused(ended, ended.code, str(bad))
    assert ended.code in (2, 4, 5)
    assert images(novactl) == []
    assert stored(db)["images"] == 0


def test_an_image_comes_and_goes(novactl: Command, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(raw())
    (tmp_path / "kernel").write_bytes(b"kernel")
    words = [
        "--format",
        "raw",
        "--file",
        str(tmp_path / "image"),
        "--kernel",
        str(tmp_path / "kernel"),
        "--cmdline",
        "a='<b>' $x",
    ]
    made = novactl.json("image", "add", "x", *words)
    assert images(novactl) == sorted([made["sha256"], made["kernel_sha256"]])
    assert novactl.json("image", "show", "x")["cmdline"] == "a='<b>' $x"
    refused(novactl("image", "add", "x", "--file", str(tmp_path / "kernel")), 5, "image x exists already")
    assert len(images(novactl)) == 2
    novactl.ok("image", "delete", "x", "--yes")
    assert images(novactl) == []


# --- boot ---

BOOT = ["boot", "web9", "--flavor", "small", "--image", "tiny"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--meta", "novalue"], 2, "--meta 'novalue' is not of the form key=value"),
        (["--meta", "a b=c"], 2, "--meta key 'a b' is not acceptable"),
        (["--meta", "k=a\nb"], 2, "has control characters"),
        (["--meta", "k=" + "x" * 256], 2, "is longer than 255 characters"),
        (["--tag", "a\x1bb"], 2, "has control characters"),
        (["--tag", "x" * 61], 2, "tag is longer than 60 characters"),
        (["--network", "lan,mac=x"], 2, "'mac=x' is not ip=ADDRESS"),
        (["--network", "lan,ip="], 2, "'ip=' is not ip=ADDRESS"),
        (["--network", "lan,ip=x"], 2, "'x' is not an IPv4 address"),
        (["--network", "lan,ip=192.0.2.300"], 2, "is not an IPv4 address"),
        (["--network", "lan,ip=198.51.100.1"], 5, "is not one of network lan"),
        (["--network", "lan,ip=192.0.2.1"], 5, "is not one of network lan"),
        (["--network", "lan,ip=192.0.2.255"], 5, "is not one of network lan"),
        (["--network", "lan,ip=192.0.2.10"], 5, "is taken"),
        (["--ephemeral", "-1"], 2, "ephemeral_gib -1 is not within"),
        (["--swap", "-1"], 2, "swap_mib -1 is not within"),
        (["--count", "0"], 2, "--count 0 is not within 1 to 1000"),
        (["--count", "10001"], 2, "--count 10001 is not within 1 to 1000"),
        (["--count", "2", "--network", "lan,ip=192.0.2.9"], 2, "--count for several instances"),
        (["--wait-for", "ready"], 2, "--wait-for 'ready' is not one of active, ssh, cloud-init"),
        (["--user-data", "/nonexistent/file"], 2, "--user-data /nonexistent/file: No such file"),
        (["--user-data", "/"], 2, "--user-data /: Is a directory"),
        (["--zone", "moon"], 5, "zone 'moon': no host is in it"),
        (["--flavor", "huge"], 5, "vcpus: 999 wanted"),
        (["--image", "large"], 5, "flavor small has a disk of 1 GiB, image large needs 2"),
        (["--image", "hungry"], 5, "flavor small has 512 MiB of memory, image hungry needs 1024"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_boots_that_are_refused(
    stocked: Command, db: SqliteDatabase, options: list[str], code: int, message: str
) -> None:
    with db.writing() as tx:
        catalogue.add_flavor(tx, fleet.flavor("huge", vcpus=999))
        catalogue.add_image(tx, fleet.image("large", virtual_size_bytes=(1 << 30) + 1))
        catalogue.add_image(tx, fleet.image("hungry", min_memory_mib=1024))
    fleet.add_instance(db, fleet.instance(1, ports=(fleet.port(fleet.uuid(1)),)))
    before = stored(db)
    for more in ([], ["--dry-run"]):
        refused(stocked(*BOOT, *options, "-q", *more), code, message)
        assert stored(db) == before
    assert not (stocked.config / "secret.key").exists()


def test_user_data_that_is_too_large(stocked: Command, db: SqliteDatabase, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"x" * 65536)
    before = stored(db)
    ended = stocked(*BOOT, "--user-data", str(tmp_path / "data"))
    refused(ended, 5, "user-data has 65536 bytes, the limit is 65535")
    refused(stocked(*BOOT, "--user-data", "-", input="x" * 70000), 5, "user-data has 70000 bytes")
    assert stored(db) == before


def test_a_name_that_is_taken(stocked: Command, db: SqliteDatabase) -> None:
    fleet.add_instance(db, fleet.instance(9))
    refused(stocked(*BOOT), 5, "instance web9 exists already")
    assert stocked.json(*BOOT, "--if-not-exists", "--dry-run")["steps"] == []
    assert stocked.json(*BOOT, "--project", "other", "--dry-run")["target"] == "web9"


def test_no_hosts_yet(novactl: Command, db: SqliteDatabase) -> None:
    fleet.image_file(db)
    with db.writing() as tx:
        catalogue.add_flavor(tx, fleet.flavor())
        catalogue.add_image(tx, fleet.image())
    ended = novactl(*BOOT, "-o", "json")
    refused(ended, 5, "web9: there are no hosts yet", "novactl host add")
    assert ended.error["type"] == "NoValidHost"
    assert stored(db)["operations"] == 0


@pytest.mark.parametrize("value", ["<b>&\"'", "$(touch canary)", "é 漢字 🙂", "a;b|c", "{}", "]]>"])
def test_odd_values_in_a_boot_s_plan_are_literal(stocked: Command, db: SqliteDatabase, value: str) -> None:
    words = ["--meta", f"k={value}", "--tag", value, "--dry-run"]
    plan = stocked.json(*BOOT, *words)
    assert plan["steps"][0]["name"] == "record-instance"
    assert not Path("canary").exists()
    assert stored(db)["instances"] == 0


def test_a_dry_run_with_user_data_makes_no_key(stocked: Command, db: SqliteDatabase, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("#cloud-config\n")
    plan = stocked.json(*BOOT, "--user-data", str(tmp_path / "data"), "--dry-run")
    assert plan["kind"] == "boot"
    assert not (stocked.config / "secret.key").exists()
    assert stored(db)["secrets"] == 0


# --- hosts ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--address=a b"], "address 'a b' is not acceptable"),
        (["--address=-oProxyCommand=touch canary"], "address"),
        (["--address=a\nb"], "address"),
        (["--address=a;b"], "address"),
        (["--address="], "address"),
        (["--user=a b"], "user 'a b' is not acceptable"),
        (["--user=-x"], "user"),
        (["--user=$(id)"], "user"),
        (["--port=0"], "port 0 is not within"),
        (["--port=65536"], "port 65536 is not within"),
        (["--port=ssh"], "port"),
        (["--instances-path=relative"], "--instances-path"),
        (["--instances-path=/a b"], "--instances-path"),
        (["--instances-path=/a/../b"], "--instances-path"),
        (["--instances-path=/"], "--instances-path"),
        (["--instances-path=/a;b"], "--instances-path"),
        (["--virt-type=xen"], "--virt-type 'xen'"),
        (["--zone=a/b"], "zone"),
        (["--label=x"], "--label 'x' is not of the form key=value"),
        (["--label=k=a\nb"], "control characters"),
        (["--jump=nobody"], "--jump 'nobody' is not a host of this fleet"),
        (["--identity=/nonexistent/key"], "identity /nonexistent/key is not a file"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_hosts_asked_for_wrongly(
    novactl: Command, db: SqliteDatabase, options: list[str], message: str
) -> None:
    address = [] if options[0].startswith("--address") else ["--address=192.0.2.1"]
    refused(novactl("host", "add", "kvm9", *address, *options), 2, message)
    assert stored(db)["hosts"] == 0
    assert not Path("canary").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to set is given"),
        (["--disable", "--enable"], "exclude each other"),
        (["--reason", "x"], "--reason goes with --disable"),
        (["--disable", "--reason", "a\nb"], "control characters"),
        (["--reserved-memory=-1"], "-1 is less than 0"),
        (["--reserved-vcpus=-1"], "-1 is less than 0"),
        (["--reserved-memory=99999999999999999999999"], "is more than 67108864"),
        (["--reserved-disk=3000000000"], "3000000000 is more than 67108864"),
        (["--cpu-ratio=0"], "cpu_ratio 0.0 is not within"),
        (["--cpu-ratio=-1"], "cpu_ratio -1.0 is not within"),
        (["--memory-ratio=inf"], "memory_ratio inf is not within"),
        (["--disk-ratio=nan"], "disk_ratio nan is not within"),
        (["--cpu-ratio=1001"], "cpu_ratio 1001.0 is not within"),
        (["--label=x"], "is not of the form key=value"),
        (["--dedicated-cpus=4-2"], "cpus '4-2' are not acceptable"),
        (["--dedicated-cpus=1;2"], "cpus '1;2' are not acceptable"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_hosts_set_wrongly(stocked: Command, options: list[str], message: str) -> None:
    before = stocked.json("host", "show", "kvm1")
    refused(stocked("host", "set", "kvm1", *options), 2, message)
    assert stocked.json("host", "show", "kvm1") == before


def test_processors_are_set_aside(stocked: Command, db: SqliteDatabase) -> None:
    refused(stocked("host", "set", "kvm1", "--dedicated-cpus=1"), 5, "its processors are not known yet")
    with db.writing() as tx:
        topology = [{"id": 0, "cores": "0,2 1,3", "memory_mib": 4096, "pages": {"2048": 512}}]
        hosts.update(tx, "kvm1", facts={"topology": topology, "firmwares": ["uefi"]})
    refused(stocked("host", "set", "kvm1", "--dedicated-cpus=3-4"), 5, "host kvm1 has no cpu 4: it has 0-3")
    shown = stocked.json("host", "set", "kvm1", "--dedicated-cpus", "3,1")
    assert (shown["dedicated_cpus"], shown["firmwares"], shown["cpu_models"]) == ("1,3", ["uefi"], [])
    pages = [{"size_kib": 2048, "total": 512, "free": 512}]
    cell = {"cell": 0, "cpus": "0-3", "dedicated_cpus": "1,3", "dedicated_free": "1,3", "memory_mib": 4096}
    assert shown["numa_cells"] == [{**cell, "pages": pages}]
    held = {"cell": 0, "vcpus": [0], "cpus": {"0": 3}, "memory_mib": 64, "page_kib": 2048}
    with db.writing() as tx:
        amounts = Resources(vcpus=0, memory_mib=0, disk_gib=0)
        assert hosts.claim(tx, "kvm1", fleet.uuid(9), amounts, numa=json.dumps({"cells": [held]}))
    now = stocked.json("host", "show", "kvm1")["numa_cells"][0]
    assert (now["dedicated_free"], now["pages"][0]["free"]) == ("1", 480)
    refused(stocked("host", "set", "kvm1", "--dedicated-cpus", ""), 5, "cpu 3 is held by instance")


def test_hosts_are_set(stocked: Command) -> None:
    words = [
        "--disable",
        "--reason",
        "new <disks> & more",
        "--cpu-ratio",
        "2.5",
        "--label",
        "a=b",
        "--label",
        "c=",
    ]
    shown = stocked.json("host", "set", "kvm1", *words)
    assert (shown["enabled"], shown["disabled_reason"], shown["cpu_ratio"]) == (
        False,
        "new <disks> & more",
        2.5,
    )
    assert shown["labels"] == {"a": "b"}
    ended = stocked(*BOOT)
    refused(ended, 5, "kvm1: disabled: new <disks> & more")
    assert stocked.json("host", "set", "kvm1", "--enable", "--label", "a=")["labels"] == {}


# --- confirmation ---


@pytest.mark.parametrize(
    "words",
    [
        ["delete", "web1"],
        ["image", "delete", "tiny"],
        ["network", "delete", "lan"],
        ["host", "remove", "kvm1"],
    ],
    ids=" ".join,
)
def test_nobody_there_to_confirm(stocked: Command, db: SqliteDatabase, words: list[str]) -> None:
    fleet.add_instance(db, fleet.instance(1))
    before = stored(db)
    ended = stocked(*words, "-o", "json")
    refused(ended, 8, "not confirmed: ", "hint: --yes answers yes")
    assert (ended.error["code"], ended.error["type"]) == (8, "NeedsConfirmation")
    assert stored(db) == before


def test_network_with_addresses_in_use(stocked: Command, db: SqliteDatabase) -> None:
    fleet.add_instance(db, fleet.instance(1, ports=(fleet.port(fleet.uuid(1)),)))
    refused(stocked("network", "delete", "lan", "--yes"), 5, "network lan: 1 addresses are in use")


# --- a database that cannot be written ---


def test_a_database_that_can_only_be_read(stocked: Command, db: SqliteDatabase) -> None:
    """In a mount namespace of its own, where its directory is read-only for root too."""
    db.close()
    flags = ["--mount"] if os.getuid() == 0 else ["--map-root-user", "--mount"]
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    from tests.support.command import NOVACTL

    for words in (["list"], ["flavor", "create", "x", "--vcpus=1", "--memory=1", "--disk=1"], ["db", "init"]):
        argv = ["unshare", *flags, "sh", "-c", script, "sh", str(stocked.config), NOVACTL, *words]
        ended = subprocess.run(argv, env=stocked.environment, capture_output=True, text=True, timeout=60)
        refused(
            Ended(words, ended.returncode, ended.stdout, ended.stderr), 9, f"{stocked.config}/novactl.db: "
        )
        assert "hint: " in ended.stderr
    assert stored(db)["flavors"] == 1
