"""The language of playbooks: conditions, names in words, variables, and what a file may say."""

import contextlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novactl.errors import NovactlError, Refused, UsageError
from novactl.files import playbook, words
from novactl.files.conditions import Condition, ConditionError
from novactl.files.variables import Variable, values
from tests.support.source import CHECKOUT

SCOPE: dict[str, Any] = {
    "target": "kvm1",
    "count": 3,
    "off": False,
    "none": None,
    "host": {
        "zone": "east",
        "vcpus": 8,
        "labels": {"rack": "r1", "ssd.size": "2"},
        "libvirt_version": "9.0.0",
        "bridges": ["br0", "br1"],
    },
}

# --- conditions ---


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("true", True),
        ("not off", True),
        ('host.zone == "east"', True),
        ('host.zone != "east"', False),
        ("host.vcpus >= 8 and count < 4", True),
        ("1 < count < 3", False),
        ("count == -3", False),
        ('"br1" in host.bridges', True),
        ('host.zone in ["west", "east"]', True),
        ('host.zone not in ["west"]', True),
        ('"as" in host.zone', True),
        ('"rack" in host.labels', True),
        ("has(host.labels.rack)", True),
        ("has(host.labels.gpu)", False),
        ("has(none) or has(count)", True),
        ('host.labels["ssd.size"] == "2"', True),
        ('host.libvirt_version >= "10.0.0"', False),  # by their numbers, not by their letters
        ('host.libvirt_version >= "8.10.0"', True),
        ('(off or host.zone == "east") and not has(host.gone.far)', True),
        ("host.labels.gpu == null", True),
    ],
)
def test_conditions(text: str, holds: bool) -> None:
    assert Condition(text).holds(SCOPE) is holds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host.zone =",
        "__import__('os').system('touch /tmp/canary')",
        "().__class__.__bases__",
        "host.zone.upper()",
        "[x for x in host.bridges]",
        "lambda: 1",
        "count + 1 == 4",
        "'a' * 1000000000",
        "host[count]",
        "host[0]",
        "count is 3",
        "f'{count}'",
        "x := 1",
        "count if off else target",
        "has(host.labels, count)",
        "has('x')",
        "open('/etc/passwd')",
        "{'a': 1} == 1",
        "b'x' == 1",
        "...",
        "1j == 1",
        "~count == 1",
        "not " * 200 + "off",
        "(" * 300 + "off" + ")" * 300,
        "x" * 501,
    ],
)
def test_what_is_no_condition(text: str) -> None:
    with pytest.raises(ConditionError):
        Condition(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("target", "neither true nor false"),
        ("none and true", "has None where true or false must stand"),
        ("count < target", "cannot compare 3 with 'kvm1'"),
        ("none > 3", "cannot compare None with 3"),
        ("3 in target", "cannot look for 3 in 'kvm1'"),
        ("target in count", "cannot look for 'kvm1' in 3"),
    ],
)
def test_what_cannot_be_decided(text: str, why: str) -> None:
    with pytest.raises(ConditionError, match=why):
        Condition(text).holds(SCOPE)


def test_a_condition_tells_its_names() -> None:
    assert Condition('has(host.labels.x) and zone == "a" or off').roots == {"host", "zone", "off"}


@given(st.text(max_size=80))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    with contextlib.suppress(ConditionError):
        Condition(text).holds(SCOPE)


# --- words ---


def made(*templates: str, **scope: Any) -> list[Any]:
    return words.words(templates, {**SCOPE, **scope})


def test_a_value_stays_in_its_word() -> None:
    hostile = "a b; $(reboot) `x` 'q' \"d\" \\ * --yes"
    assert made("echo", "{{ v }}", "x{{v}}y", v=hostile) == ["echo", hostile, f"x{hostile}y"]


def test_a_value_is_not_read_again() -> None:
    assert made("{{ v }}", v="{{ target }}") == ["{{ target }}"]


@pytest.mark.parametrize("value", ["-rf", "--config=/tmp", "-", "-5"])
def test_a_value_does_not_become_an_option(value: str) -> None:
    for scope in ({"v": value}, {"v": [value]}):
        with pytest.raises(words.WordError, match="would become the option"):
            made("{{ v }}", **scope)
    assert made("--x={{ v }}", v=value) == [f"--x={value}"]
    assert words.words(["{{ v }}"], {"v": [value]}, free=frozenset({"v"})) == [value]


def test_a_list_is_one_word_each_and_only_a_whole_word() -> None:
    assert made("a", "{{ v }}", "b", v=["one two", "three"]) == ["a", "one two", "three", "b"]
    assert made("a", "{{ v }}", v=[]) == ["a"]
    with pytest.raises(words.WordError, match="is no single value"):
        made("a{{ v }}", v=["one"])


def test_a_word_without_its_value_is_left_out() -> None:
    assert made("add", "--jump={{ none }}", "--zone={{ host.zone }}", "{{ host.labels.gpu }}") == [
        "add",
        "--zone=east",
    ]
    assert words.text("[{{ none }}] {{ off }} {{ count }}", SCOPE) == "[] false 3"


def test_what_comes_later() -> None:
    argv = words.words(["start", "{{ ran }}"], {}, later=frozenset({"ran"}))
    assert words.shown(argv) == "start {{ ran }}"
    assert words.filled(argv, lambda name: ["a", "b"]) == ["start", "a", "b"]
    assert words.filled(argv, lambda name: []) is None


@pytest.mark.parametrize(
    "text", ["{{", "}}", "{{ }}", "{{ a b }}", "{{ a|lower }}", "{{ a() }}", "{{ 1 }}", "{ {a}}"]
)
def test_braces_that_name_nothing(text: str) -> None:
    with pytest.raises(words.WordError, match="that is not"):
        list(words.names(text))


def test_a_nul_is_refused() -> None:
    with pytest.raises(words.WordError, match="NUL"):
        made("{{ v }}", v="a\0b")


# --- variables ---


def read(text: str, **spec: Any) -> Any:
    return Variable.model_validate(spec).read("v", text)


@pytest.mark.parametrize(
    ("spec", "text", "value"),
    [
        ({}, "kvm-1.x", "kvm-1.x"),
        ({"type": "integer"}, "-5", -5),
        ({"type": "boolean"}, "false", False),
        ({"type": "list"}, "a,b", ["a", "b"]),
        ({"type": "list"}, '["a, b", "c"]', ["a, b", "c"]),
        ({"type": "list"}, "", []),
        ({"type": "text"}, "any 'text' $here", "any 'text' $here"),
        ({"type": "path"}, "/srv/x.y", "/srv/x.y"),
        ({"type": "address"}, "192.0.2.1", "192.0.2.1"),
        ({"pattern": "a+"}, "aaa", "aaa"),
    ],
)
def test_values(spec: dict[str, Any], text: str, value: Any) -> None:
    assert read(text, **spec) == value


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({}, "-x"),
        ({}, "a b"),
        ({}, ""),
        ({"type": "integer"}, "5x"),
        ({"type": "boolean"}, "yes"),
        ({"type": "path"}, "../x"),
        ({"type": "path"}, "/a/../b"),
        ({"type": "text"}, "a\nb"),
        ({"type": "text"}, "a\x1b[0m"),
        ({"type": "list"}, "[1]"),
        ({"type": "list"}, "["),
        ({"type": "list", "pattern": "a+"}, "aa,b"),
        ({"pattern": "a+"}, "aab"),
    ],
)
def test_what_is_no_value(spec: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=r"^-e v: ") as caught:
        read(text, **spec)
    assert caught.value.code == 2


def test_missing_and_unknown_variables() -> None:
    variables = {
        "zone": Variable(description="where it is"),
        "n": Variable(type="integer", default=3),
        "opt": Variable(default=None),
    }
    assert values(variables, {"zone": "a"}) == {"zone": "a", "n": 3, "opt": None}
    with pytest.raises(UsageError, match=r"^no value for zone$") as caught:
        values(variables, {})
    assert caught.value.hint == "-e zone=…: where it is"
    with pytest.raises(UsageError, match=r"^-e zoen: the playbook has no such variable$") as caught:
        values(variables, {"zoen": "a"})
    assert caught.value.candidates == ["zone"]


# --- files ---

GOOD = """\
name: chores
description: what has to be done
vars:
  word: {default: x}
  many: {type: list, default: [a]}
hosts: {all: true}
steps:
  - name: one
    run: [echo, "{{ word }}"]
"""


def load(tmp_path: Path, text: str) -> playbook.Playbook:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    return playbook.load(file, lambda line: "no such verb" if line[0] == "strat" else None)


def test_a_good_one(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD)
    assert (found.kind, found.steps[0].act, found.serial, found.max_fail_percentage) == (
        "hosts",
        "run",
        None,
        0,
    )


@pytest.mark.parametrize(
    "line", ["[list, -l, o=x, --on=kvm1]", "[boot, x, --, -ojson]", '[list, "{{ word }}"]'], ids=str
)
def test_what_a_line_of_novactl_may_hold(line: str, tmp_path: Path) -> None:
    assert load(tmp_path, faulty(f"  - {{name: a, novactl: {line}}}\n")).steps[0].act == "novactl"


STEP = '  - name: one\n    run: [echo, "{{ word }}"]\n'


def faulty(step: str) -> str:
    return GOOD.replace(STEP, step)


BAD = {
    "unknown-step": (faulty("  - {name: a, reboto: {}}\n"), "p.yaml:8: steps[0].reboto: is not known here"),
    "unknown-key": (GOOD + "retries: 3\n", "p.yaml:10: retries: is not known here"),
    "no-steps": (GOOD.partition("steps:")[0], "p.yaml:1: steps: is missing"),
    "two-acts": (
        faulty("  - {name: a, run: [true], novactl: [list]}\n"),
        "p.yaml:8: steps[0].run[0]: must be a valid string (it is True)",
    ),
    "two-acts-of-words": (
        faulty("  - {name: a, run: [x], novactl: [list]}\n"),
        "p.yaml:8: steps[0]: needs exactly one of novactl, run, put, reboot, check (it has novactl, run)",
    ),
    "no-act": (faulty("  - {name: a}\n"), "p.yaml:8: steps[0]: needs exactly one of"),
    "a-shell-line": (
        faulty("  - {name: a, run: reboot now}\n"),
        "p.yaml:8: steps[0].run: must be a valid list",
    ),
    "a-number": (
        faulty("  - {name: a, run: [sleep, 5]}\n"),
        "steps[0].run[1]: must be a valid string (it is 5)",
    ),
    "type": (
        GOOD.replace("{default: x}", "{type: nmae}"),
        "p.yaml:4: vars.word.type: must be 'name', 'address'",
    ),
    "default": (
        GOOD.replace("{default: x}", "{default: a b}"),
        "vars.word: default: 'a b' is not of type name",
    ),
    "pattern": (
        GOOD.replace("{default: x}", "{pattern: '('}"),
        "vars.word.pattern: is not a regular expression",
    ),
    "unknown-name": (
        faulty('  - {name: a, run: [echo, "{{ wrod }}"]}\n'),
        "steps[0].run[1]: wrod is not known",
    ),
    "unknown-in-unless": (
        faulty('  - name: a\n    run: [x]\n    unless: [test, "{{ no }}"]\n'),
        "p.yaml:10: steps[0].unless[1]: no is not known",
    ),
    "when": (
        faulty("  - {name: a, run: [x], when: zone == 1}\n"),
        "steps[0].when: zone is not known: there are",
    ),
    "when-bad": (faulty("  - {name: a, run: [x], when: 'word ='}\n"), "steps[0].when: is not a condition"),
    "unless-novactl": (
        faulty("  - {name: a, novactl: [list], unless: [x]}\n"),
        "steps[0]: unless goes with run or put, not with novactl",
    ),
    "verb": (faulty("  - {name: a, novactl: [strat, web1]}\n"), "p.yaml:8: steps[0].novactl: no such verb"),
    "config": (
        faulty("  - {name: a, novactl: [list, --config=/tmp]}\n"),
        "--config=/tmp: the run decides that",
    ),
    "letter-and-value": (faulty("  - {name: a, novactl: [list, -ojson]}\n"), "-ojson: the run decides that"),
    "letter-alone": (faulty("  - {name: a, novactl: [list, -c, name]}\n"), "-c: the run decides that"),
    "letters": (faulty("  - {name: a, novactl: [list, -yq]}\n"), "-yq: the run decides that"),
    "letter-in-undo": (
        faulty("  - {name: a, novactl: [stop, x], undo: [start, x, -cname]}\n"),
        "steps[0].undo[2]: -cname: the run decides that",
    ),
    "no-wait": (faulty("  - {name: a, novactl: [stop, x, --no-wait]}\n"), "--no-wait: the run decides that"),
    "recursion": (
        faulty("  - {name: a, novactl: [playbook, run, x]}\n"),
        "a playbook does not run playbooks",
    ),
    "recursion-before-dashes": (
        faulty("  - {name: a, novactl: [playbook, run, x, --]}\n"),
        "a playbook does not run playbooks",
    ),
    "verb-of-a-value": (faulty('  - {name: a, novactl: ["{{ word }}", x]}\n'), "the verb must be named here"),
    "script": (
        faulty("  - {name: a, run: [sh, -c, 'echo {{ word }}']}\n"),
        "steps[0].run[2]: a script holds no",
    ),
    "script-later": (
        faulty("  - {name: a, run: [timeout, '5', /bin/bash, -e, -uc, 'echo {{ word }}']}\n"),
        "steps[0].run[5]: a script holds no",
    ),
    "program": (faulty('  - {name: a, run: ["{{ word }}", x]}\n'), "the program of a command with arguments"),
    "list-inside": (faulty('  - {name: a, run: [x, "y{{ many }}"]}\n'), "steps[0].run[1]: many is not known"),
    "path": (faulty("  - {name: a, put: {path: etc/x, content: x}}\n"), "put.path: is not an absolute path"),
    "path-up": (
        faulty("  - {name: a, put: {path: /a/../b, content: x}}\n"),
        "put.path: is not an absolute path",
    ),
    "put-both": (
        faulty("  - {name: a, put: {path: /x, content: x, template: y}}\n"),
        "steps[0].put: needs content or template, and not both",
    ),
    "template-path": (faulty("  - {name: a, put: {path: /x, template: ../y}}\n"), "steps[0].put.template:"),
    "mode": (faulty("  - {name: a, put: {path: /x, content: x, mode: '7777'}}\n"), "steps[0].put.mode:"),
    "no-host": (
        GOOD.replace("hosts: {all: true}\n", ""),
        "steps[0].run: needs a host: the playbook has no hosts:",
    ),
    "two-kinds": (GOOD + "instances: {all: true}\n", "has hosts and instances: one of them"),
    "chooses-nothing": (GOOD.replace("{all: true}", "{}"), "p.yaml:6: hosts: chooses nothing"),
    "serial": (GOOD + "serial: 0\n", "p.yaml:10: serial: must be greater than or equal to 1"),
    "percentage": (
        GOOD + "max_fail_percentage: 101\n",
        "max_fail_percentage: must be less than or equal to 100",
    ),
    "name": (GOOD.replace("name: chores", "name: ../x"), "p.yaml:1: name:"),
    "fact": (GOOD.replace("word:", "host:"), "vars.host: is the name of a fact"),
    "secret": (GOOD.replace("{default: x}", "{secret: true}"), "a playbook carries no secrets"),
    "secret-name": (GOOD.replace("word:", "db_password:").replace("{{ word }}", "x"), "looks like a secret"),
    "registered-twice": (
        faulty("  - {name: a, novactl: [list], register: r}\n  - {name: b, novactl: [list], register: r}\n"),
        "steps[1].register: r is the name of something else",
    ),
    "registered-later": (
        faulty('  - {name: a, novactl: [stop, "{{ r }}"]}\n  - {name: b, novactl: [list], register: r}\n'),
        "steps[0].novactl[1]: r is not known",
    ),
    "alias": (faulty("  - &a {name: a, run: [x]}\n  - *a\n"), "anchors (&, *) are not accepted"),
    "tag": (faulty("  - {name: a, run: !!python/tuple [x]}\n"), "tags"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case: str, tmp_path: Path) -> None:
    text, told = BAD[case]
    assert text != GOOD
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert caught.value.code == 2
    assert told in caught.value.message


def test_every_fault_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^2 faults") as caught:
        load(
            tmp_path, faulty('  - {name: a, run: [echo, "{{ a }}"]}\n  - {name: b, run: [echo, "{{ b }}"]}\n')
        )
    assert [(row["line"], row["path"]) for row in caught.value.targets] == [
        (8, "steps[0].run[1]"),
        (9, "steps[1].run[1]"),
    ]


def test_a_file_that_everybody_may_write(tmp_path: Path) -> None:
    load(tmp_path, GOOD)
    (tmp_path / "p.yaml").chmod(0o666)
    with pytest.raises(Refused, match="everybody may write it") as caught:
        load(tmp_path, GOOD)
    assert caught.value.code == 5


def test_the_one_in_the_documentation_is_good(tmp_path: Path) -> None:
    text = (CHECKOUT / "docs" / "playbooks.md").read_text()
    shown = text.partition("```yaml\n")[2].partition("```")[0]
    assert [step.act for step in load(tmp_path, shown).steps] == ["put", "run"]


def test_the_shipped_ones_are_good() -> None:
    from novactl.cli.playbook import _verb_fault

    files = sorted((CHECKOUT / "playbooks").glob("*.yaml"))
    assert [file.stem for file in files] == ["enroll", "nightly", "prune", "rolling-reboot"]
    for file in files:
        try:
            assert playbook.load(file, _verb_fault).name == file.stem
        except NovactlError as error:
            raise AssertionError(f"{file}: {error}") from error


def test_enroll_leaves_the_keys_that_a_user_has(tmp_path: Path) -> None:
    """What the step does by that user, done here by us: no byte of what was there is lost."""
    found = playbook.load(CHECKOUT / "playbooks" / "enroll.yaml")
    (step,) = (one for one in found.steps if one.name == "the user's key is there")
    new, old = "ssh-ed25519 AAAA+/new= me", "ssh-ed25519 AAAA+/old= them"
    scope = {"login": "debian", "home": str(tmp_path), "public_key": new}

    def status(templates: list[str] | None) -> int:
        argv = words.words(templates or [], scope)
        assert argv[:4] == ["runuser", "-u", "debian", "--"]
        return subprocess.run(argv[4:], stderr=subprocess.DEVNULL, check=False).returncode

    keys = tmp_path / ".ssh" / "authorized_keys"
    assert status(step.undo) == 0  # it was begun, and did nothing
    assert status(step.unless) != 0
    assert (status(step.run), status(step.unless)) == (0, 0)
    assert (keys.read_text().split("\n"), keys.stat().st_mode & 0o777) == (["", new, ""], 0o600)
    keys.write_text(f"{old}, {new}\n{old}")  # the last line does not end, and another one holds the key
    assert status(step.unless) != 0
    assert (status(step.run), status(step.unless)) == (0, 0)
    assert keys.read_text() == f"{old}, {new}\n{old}\n{new}\n"
    assert status(step.undo) == 0
    assert keys.read_text() == f"{old}, {new}\n{old}\n"
    assert [one.name for one in keys.parent.iterdir()] == ["authorized_keys"]
    keys.write_text(f"{new}\n")
    assert (status(step.undo), keys.read_text()) == (0, "")
