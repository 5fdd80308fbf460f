"""What commands print: seven forms, chosen columns, golden.

NOVACTL_REGENERATE=1 writes golden/ anew; look at the difference before you keep it.
"""

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from novactl.cli.render import FORMATS, plain_table, visible
from novactl.db import catalogue, certificates, groups, projects
from novactl.db.sqlite import SqliteDatabase
from novactl.objects.certificate import Certificate
from novactl.objects.group import GroupPolicy, ServerGroup
from novactl.objects.keypair import Keypair
from novactl.objects.project import NOVA_LIMITS, Project
from novactl.objects.states import PowerState, TaskState, VmState
from tests.support import fleet
from tests.support.command import Command

GOLDEN = Path(__file__).parent / "golden"
APART = GroupPolicy.ANTI_AFFINITY
FINGERPRINT = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"


def stock(db: SqliteDatabase) -> None:
    """A catalogue whose every id is known."""
    fleet.furnish(db, hosts_=2)
    with db.writing() as tx:
        big = fleet.flavor(
            "big", vcpus=8, memory_mib=16384, disk_gib=0, swap_mib=512, extra_specs={"a": "é b"}
        )
        catalogue.add_flavor(tx, big)
        wan = fleet.network("wan", cidr="198.51.100.0/29", gateway=None, dns=(), mtu=9000, bridge="br-wan")
        catalogue.add_network(tx, wan)
        for name in ("me", "you"):
            key = Keypair(name=name, fingerprint=FINGERPRINT, public_key=f"ssh-ed25519 AAAA {name}@here")
            catalogue.add_keypair(tx, "default", key)
        limits = {**NOVA_LIMITS, "instances": 1, "memory_mib": 1024}
        groups.create(tx, ServerGroup(id=fleet.uuid(7), name="front", project="default", policy=APART))
        projects.create(tx, Project(name="dev", description="é", limits=limits, created_at=fleet.WHEN))
        projects.create(tx, Project(name="default", limits=limits, created_at=fleet.WHEN))
    uuid = fleet.uuid(1)
    fleet.add_instance(
        db,
        fleet.instance(
            1,
            host="kvm1",
            group_id=fleet.uuid(7),
            ports=(fleet.port(uuid),),
            metadata={"role": "front"},
            tags=("blue",),
            launched_at=fleet.WHEN,
        ),
    )
    fleet.add_instance(
        db,
        fleet.instance(
            2,
            vm_state=VmState.STOPPED,
            power_state=PowerState.SHUTDOWN,
            task_state=TaskState.POWERING_ON,
            image=None,
        ),
    )

    with db.writing() as tx:
        projects.recount(tx, "default")
        for number, placed_at in ((1, None), (2, fleet.WHEN)):
            certificates.add(tx, certificate(number, placed_at))
    happened(db)


def certificate(number: int, placed_at: str | None) -> Certificate:
    return Certificate(
        serial=f"{number:040x}",
        host=f"kvm{number}",
        names=(f"kvm{number}", f"192.0.2.1{number}"),
        pem="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        not_before=fleet.WHEN,
        not_after="2999-01-01T00:00:00.000000Z",
        placed_at=placed_at,
        crl_number=1 if placed_at else 0,
    )


def happened(db: SqliteDatabase) -> None:
    """Two operations with what they told."""
    uuid, mine = fleet.uuid(1), {"owner_key": "{}", "user": "ann", "written_by": "0.1.0", "request": "{}"}
    numbers = {"attempt": 1, "epoch": 1, "cancel_requested": 0, "project": "default"}
    with db.writing() as tx:
        for n, (kind, state, error) in enumerate((("boot", "done", None), ("stop", "undone", "kvm1: full"))):
            tx.insert(
                "operations",
                id=f"op-0{n}",
                kind=kind,
                target="web1",
                target_uuid=uuid,
                state=state,
                owner="ann@here (pid 7)",
                started_at=f"2026-01-01T00:0{n}:00.000000Z",
                finished_at=f"2026-01-01T00:0{n}:09.000000Z",
                error=error,
                **mine,
                **numbers,
            )
            tx.insert(
                "events",
                time=f"2026-01-01T00:0{n}:09.000000Z",
                target_uuid=uuid,
                target="web1",
                action=kind,
                operation=f"op-0{n}",
                result=state,
                message=error or "",
                user="ann",
            )


@pytest.fixture
def stocked(novactl: Command, db: SqliteDatabase) -> Command:
    stock(db)
    return novactl


WORDS = {
    "flavor-list": ["flavor", "list"],
    "flavor-show": ["flavor", "show", "big"],
    "keypair-list": ["keypair", "list"],
    "keypair-show": ["keypair", "show", "me"],
    "network-list": ["network", "list"],
    "network-show": ["network", "show", "lan"],
    "project-list": ["project", "list"],
    "project-show": ["project", "show", "dev"],
    "quota-show": ["quota", "show"],
    "group-list": ["group", "list"],
    "group-show": ["group", "show", "front"],
    "list": ["list"],
    "show": ["show", "web1"],
    "host-list": ["host", "list"],
    "pki-list": ["pki", "list"],
    "op-list": ["op", "list"],
    "op-show": ["op", "show", "op-01"],
    "event-list": ["event", "list", "web1"],
    "bulk": ["delete", "gone", "nosuch", "--if-exists", "--yes"],
}


@pytest.mark.parametrize("form", FORMATS)
def test_golden(stocked: Command, form: str) -> None:
    """Each command's output in one form; a file for each."""
    for name, words in WORDS.items():
        ended = stocked(*words, "-o", form)
        assert (ended.code, ended.err) == (0, ""), name
        path = GOLDEN / f"{name}.{form}"
        if os.environ.get("NOVACTL_REGENERATE"):
            path.write_text(ended.out)
        assert ended.out == path.read_text(), path.name


def test_every_golden_file_has_its_command() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {
        f"{name}.{form}" for name in WORDS for form in FORMATS
    }


def golden(name: str, form: str) -> Any:
    text = (GOLDEN / f"{name}.{form}").read_text()
    match form:
        case "json":
            return json.loads(text)
        case "jsonl":
            return [json.loads(line) for line in text.splitlines()]
        case "yaml":
            return yaml.safe_load(text)
        case "csv":
            return list(csv.DictReader(io.StringIO(text)))
        case _:
            return text


@pytest.mark.parametrize("name", WORDS)
def test_the_forms_say_the_same(name: str) -> None:
    """json, jsonl and yaml have all there is; csv and value have the columns; name has names."""
    data = golden(name, "json")
    items = data if isinstance(data, list) else [data]
    assert golden(name, "jsonl") == items
    assert golden(name, "yaml") == data
    key = next(key for key in ("name", "id", "target", "time", "resource", "serial") if key in items[0])
    assert golden(name, "name") == "".join(f"{item[key]}\n" for item in items)
    for row, item in zip(golden(name, "csv"), items, strict=True):
        for column, cell in row.items():
            value = item[column]
            plain = "" if value is None else value
            assert cell == (
                json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(plain)
            )


CONTRACT = {
    "flavor-show": "id name vcpus memory_mib disk_gib ephemeral_gib swap_mib extra_specs",
    "keypair-show": "name fingerprint public_key",
    "network-show": "id name cidr gateway dns mtu segment project used free",
    "show": """uuid name status vm_state task_state power_state host flavor image project created_at
        launched_at addresses vcpus memory_mib disk_gib metadata tags key_name volumes security_groups locked
        fault""",
    "host-list": """name address state enabled disabled_reason vcpus vcpus_used memory_mib memory_mib_used
        disk_gib disk_gib_used reserved_memory_mib cpu_ratio memory_ratio disk_ratio instances cpu_model
        virt_type libvirt_version qemu_version aggregates zone labels checked_at""",
}
"""docs/cli.md, JSON: fields are only ever added."""


@pytest.mark.parametrize("name", CONTRACT)
def test_the_contract_s_fields_are_there(name: str) -> None:
    data = golden(name, "json")
    item = data[0] if isinstance(data, list) else data
    assert set(CONTRACT[name].split()) - set(item) == set()


def test_an_instance_in_json() -> None:
    shown = golden("show", "json")
    assert shown["addresses"] == {"lan": [{"ip": "192.0.2.10", "mac": "fa:16:3e:22:d1:b6"}]}
    assert (shown["status"], shown["host"], shown["flavor"], shown["image"]) == (
        "ACTIVE",
        "kvm1",
        "small",
        "tiny",
    )
    assert shown["created_at"] == "2026-01-01T00:00:00Z"


# --- what is harmful ---

HOSTILE = "\x1b]0;t\x07\x1b[31m,\"'; $(x)\n\r\t\x00\x7f\x9b31m\u202e\u2028é 名"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("words", [["list"], ["show", "web9"], ["event", "list", "web9"], ["op", "list"]])
def test_hostile_values_are_harmless(
    novactl: Command, db: SqliteDatabase, words: list[str], form: str
) -> None:
    """Nothing reaches a terminal that drives it, no row becomes two, and programs get the value whole."""
    fleet.furnish(db)
    odd = {"metadata": {"k": HOSTILE}, "tags": (HOSTILE,), "fault": {"message": HOSTILE, "time": fleet.WHEN}}
    fleet.add_instance(db, fleet.instance(9, **odd))
    happened(db)
    with db.writing() as tx:
        tx.run("UPDATE operations SET error = :it, target = :it", it=HOSTILE.replace("\x00", ""))
        tx.run("UPDATE events SET message = :it, target_uuid = :uuid", it=HOSTILE, uuid=fleet.uuid(9))
    columns = ["-c", "name,metadata,tags"] if words == ["list"] and form in ("csv", "value", "table") else []
    ended = novactl(*words, "-o", form, *columns)
    assert (ended.code, ended.err) == (0, "")
    assert not [ch for ch in ended.out if not ch.isprintable() and ch not in "\n\u202e"]
    parsed = {
        "json": lambda: json.loads(ended.out),
        "yaml": lambda: yaml.safe_load(ended.out),
        "jsonl": lambda: [json.loads(line) for line in ended.out.splitlines()],
    }
    rows = 1 if words == ["list"] else 2
    if form in parsed:
        assert HOSTILE.replace("\x00", "") in every_text(parsed[form]())
    elif words != ["show", "web9"]:
        head = 1 if form in ("csv", "table") else 0
        assert ended.out.count("\n") == rows + head


def every_text(value: Any) -> set[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return {text for item in value for text in every_text(item)}
    return {str(value).replace("\x00", "")}


# --- columns ---


@pytest.mark.parametrize("form", ["json", "jsonl", "yaml", "csv", "value", "table"])
def test_chosen_columns_in_the_order_asked(stocked: Command, form: str) -> None:
    for options in (["-c", "vcpus", "-c", "name"], ["-c", "vcpus,name"], ["--column=vcpus", "-cname"]):
        ended = stocked("flavor", "list", "-o", form, *options)
        expected = {
            "json": '[{"vcpus": 1, "name": "small"}, {"vcpus": 8, "name": "big"}]\n',
            "jsonl": '{"vcpus": 1, "name": "small"}\n{"vcpus": 8, "name": "big"}\n',
            "yaml": "- vcpus: 1\n  name: small\n- vcpus: 8\n  name: big\n",
            "csv": "vcpus,name\n1,small\n8,big\n",
            "value": "1 small\n8 big\n",
            "table": "VCPUS  NAME\n1      small\n8      big\n",
        }
        assert (ended.code, ended.out) == (0, expected[form])


def test_a_column_that_a_table_does_not_show_can_be_asked_for(stocked: Command) -> None:
    assert stocked("list", "-c", "name,metadata", "-o", "value").out == "web1 role=front\nweb2 \n"


def test_an_unknown_column(stocked: Command) -> None:
    for words in (["flavor", "list"], ["flavor", "show", "big"], ["list"]):
        ended = stocked(*words, "-c", "name,colour")
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.splitlines()[0] == "error: column 'colour' does not exist"
        assert ended.err.splitlines()[1].startswith("hint: there are ")
        assert "vcpus" in ended.err


@pytest.mark.parametrize(
    "words", [["list"], ["flavor", "list"], ["image", "list"], ["op", "list"], ["host", "list"]]
)
def test_nothing_to_list(novactl: Command, words: list[str]) -> None:
    expected = {"json": "[]\n", "yaml": "[]\n", "jsonl": "", "table": "", "name": "", "value": ""}
    for form, out in expected.items():
        ended = novactl(*words, "-o", form)
        assert (ended.code, ended.out, ended.err) == (0, out, ""), form
    assert novactl(*words, "-o", "csv").out.count("\n") == 1  # its header


# --- filters of list ---


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], "web1 web2"),
        (["--status", "active"], "web1"),
        (["--status", "SHUTOFF"], "web2"),
        (["--status", "error"], ""),
        (["--flavor", "small"], "web1 web2"),
        (["--flavor", "id-small"], "web1 web2"),
        (["--flavor", "mall"], ""),
        (["--image", "tiny"], "web1"),
        (["--ip", "192.0.2.10"], "web1"),
        (["--ip", "192.0.2.1"], ""),
        (["--ip", "^192[.]"], "web1"),
        (["--power-state", "shutdown"], "web2"),
        (["--sort", "name:desc"], "web2 web1"),
        (["--sort", "status,name"], "web1 web2"),
        (["--limit", "1"], "web1"),
        (["--limit", "1", "--marker", fleet.uuid(1)], "web2"),
        (["--limit", "1", "--marker", fleet.uuid(2)], ""),
        (["--on", "kvm1"], "web1"),
        (["--on", "kvm2"], ""),
        (["--name", "2$"], "web2"),
        (["--name", "^eb"], ""),
        (["-l", "role=front"], "web1"),
        (["-l", "role=back"], ""),
        (["-l", "blue"], "web1"),
        (["-l", "role=front,blue"], "web1"),
        (["-l", "role=front", "-l", "green"], ""),
        (["--project", "other"], ""),
        (["--deleted"], ""),
    ],
)
def test_list_filters(stocked: Command, options: list[str], names: str) -> None:
    ended = stocked("list", "-o", "name", *options)
    assert (ended.code, ended.out.split()) == (0, names.split())


# --- many ---


def test_a_thousand_instances_in_every_form(novactl: Command, db: SqliteDatabase) -> None:
    from novactl.db import instances

    fleet.furnish(db)
    lan = fleet.network("big", id="id-big", cidr="10.9.0.0/16", gateway=None, bridge="br9")
    with db.writing() as tx:
        catalogue.add_network(tx, lan)
        for n in range(1, 1001):
            uuid = fleet.uuid(n)
            instances.add(tx, fleet.instance(n, host="kvm1", name=f"web{n:04}", metadata={"n": str(n)}))
            ip = f"10.9.{n // 250}.{n % 250 + 1}"
            instances.add_port(tx, uuid, lan.id, fleet.port(uuid, ip=ip, network="big"))
    names = [f"web{n:04}" for n in range(1, 1001)]
    reads: dict[str, Callable[[str], list[str]]] = {
        "json": lambda out: [item["name"] for item in json.loads(out)],
        "jsonl": lambda out: [json.loads(line)["name"] for line in out.splitlines()],
        "yaml": lambda out: [item["name"] for item in yaml.load(out, Loader=yaml.CSafeLoader)],
        "csv": lambda out: [row["name"] for row in csv.DictReader(io.StringIO(out))],
        "name": lambda out: out.split(),
        "value": lambda out: [line.split(" ")[1] for line in out.splitlines()],
        "table": lambda out: [line.split()[1] for line in out.splitlines()[1:]],
    }
    assert set(reads) == set(FORMATS)
    for form, read in reads.items():
        ended = novactl("list", "-o", form)
        assert (ended.code, ended.err) == (0, "")
        assert read(ended.out) == names, form
    item = novactl.json("list", "--name", "web0777")[0]
    assert item["addresses"] == {"big": [{"ip": "10.9.3.28", "mac": item["addresses"]["big"][0]["mac"]}]}


# --- what is stored is shown and never drives the terminal ---


def test_control_characters_are_shown(novactl: Command, db: SqliteDatabase) -> None:
    """They cannot be stored by our verbs; a guest's name for itself or an older novactl might have them."""
    fleet.furnish(db)
    evil = "a\x1b[2Jb\nc\td\x9be\u202ef"
    fleet.add_instance(db, fleet.instance(1, metadata={"k": evil}, fault={"message": evil}))
    for form in ("table", "value"):  # the others are for machines, which want what is there
        out = novactl("list", "-c", "name,metadata,fault", "-o", form).out
        for raw in ("\x1b", "\x9b", "\u202e"):
            assert raw not in out, form
    assert novactl.json("show", "web1")["metadata"] == {"k": evil}


def test_visible() -> None:
    assert visible("plain é 漢字 🙂") == "plain é 漢字 🙂"
    assert "\x1b" not in visible("\x1b[31m")
    assert visible("a\nb\tc") == "a\nb\tc"
    assert visible("a\nb", keep="") != "a\nb"


def test_plain_table() -> None:
    assert plain_table(["a", "bb"], [["1", "2"], ["333", ""]]) == "A    BB\n1    2\n333\n"
