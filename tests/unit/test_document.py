"""Operators' YAML: what is understood, and what is refused with its place."""

import pytest
from pydantic import BaseModel, ConfigDict

from novactl.errors import UsageError
from novactl.files.document import LARGEST, parse


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Host(Strict):
    address: str
    labels: dict[str, str] = {}
    ports: list[int] = []


class Fleet(Strict):
    hosts: dict[str, Host]


def test_words_of_yaml_1_1_stay_text() -> None:
    data = parse(b"on: no\nat: 20:00\nday: 2026-11-25\noct: 010\nhex: 0x1F\n", "f").data
    assert data == {"on": "no", "at": "20:00", "day": "2026-11-25", "oct": "010", "hex": "0x1F"}


def test_plain_words_of_the_core() -> None:
    data = parse(b"a: true\nb: 12\nc: -1.5\nd: null\ne:\nf: '12'\ng: 1e3\nh: False\n", "f").data
    assert data == {"a": True, "b": 12, "c": -1.5, "d": None, "e": None, "f": "12", "g": 1000.0, "h": False}


def test_nothing_at_all() -> None:
    assert parse(b"", "f").data is None
    assert parse(b"# only a remark\n", "f").data is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"a: 1\nb: 2\na: 3\n", "f:3: a: is there twice"),
        (b"a: &x 1\nb: *x\n", "b: anchors (&, *) are not accepted"),
        (b"a: !!python/object/apply:os.system ['x']\n", "f:1: a: tags"),
        (b"a: !secret x\n", "f:1: a: tags (!secret) are not accepted"),
        (b"a: [1, 2\nb: 3\n", "f:2: not YAML: "),
        (b"a: 1\n---\nb: 2\n", "f:2: not YAML: "),
        (b"1: 2\n", "f:1: : a key must be text"),
        (b"a: \xff\n", "f: not YAML: "),
        (b"[" * 100 + b"]" * 100, "is nested more than 32 deep"),
        (b"a" * (LARGEST + 1), "f: is larger than 16 MiB"),
        (b"\0", "not YAML"),
    ],
)
def test_what_is_refused(text: bytes, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, "f")
    assert says in caught.value.message
    assert caught.value.code == 2


def test_every_fault_is_named_with_its_place() -> None:
    text = b"hosts:\n  kvm1:\n    address: 7\n    colour: red\n  kvm2:\n    labels:\n      tier: 3\n"
    with pytest.raises(UsageError) as caught:
        parse(text, "fleet.yaml").as_model(Fleet)
    rows = [(row["line"], row["path"], row["message"]) for row in caught.value.targets]
    assert rows == [
        (3, "hosts.kvm1.address", "must be a valid string (it is 7)"),
        (4, "hosts.kvm1.colour", "is not known here"),
        (6, "hosts.kvm2.address", "is missing"),
        (7, "hosts.kvm2.labels.tier", "must be a valid string (it is 3)"),
    ]
    assert "fleet.yaml:4: hosts.kvm1.colour: is not known here" in caught.value.message


def test_a_place_in_a_list() -> None:
    with pytest.raises(UsageError, match=r"^f:1: hosts\.a\.ports\[1\]: must be a valid integer"):
        parse(b"hosts: {a: {address: x, ports: [1, two]}}", "f").as_model(Fleet)
