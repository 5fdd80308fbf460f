"""Global options, usage errors, and the one place where errors become words."""

import json
import re
from pathlib import Path

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from novactl.cli.app import MODULES, hoist, tree, verb
from novactl.db.sqlite import SqliteDatabase
from tests.support import fleet
from tests.support.command import Command
from tests.support.forked import Forked, Server


def test_forked_and_installed_are_the_same(server: Server, tmp_path: Path) -> None:
    """What the other tests rest on."""
    for number, words in enumerate(
        [("--version",), ("list", "-o", "json"), ("flavor", "show", "x"), ("nosuch",)]
    ):
        seen = []
        for kind in ("forked", "installed"):
            config = tmp_path / kind / str(number)
            command = Forked(server, config) if kind == "forked" else Command(config)
            ended = command(*words)
            seen.append((ended.code, ended.out, ended.err.replace(str(config), "CONFIG")))
        assert seen[0] == seen[1]


# --- how commands are called wrongly ---


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["nosuch"], "no such command 'nosuch'", "novactl --help"),
        (["flavor", "nosuch"], "no such command 'nosuch'", "novactl flavor --help"),
        (["list", "--nosuch"], "no such option", "novactl list --help"),
        (["list", "extra"], "got unexpected extra argument", "novactl list --help"),
        (["show"], "missing argument 'NAME'", "novactl show --help"),
        (["boot", "web1"], "missing option '--flavor'", "novactl boot --help"),
        (
            ["flavor", "create", "x", "--vcpus", "many", "--memory", "1", "--disk", "1"],
            "vcpus",
            "flavor create",
        ),
        (["list", "-o", "xml"], "-o 'xml' is not one of table, json, jsonl, yaml, csv, name, value", ""),
        (["list", "--name", "["], "--name '[' is not a regular expression", ""),
        (["list", "-l", "=x"], "selector '=x' has no key before '=x'", "key=value of the metadata, or a tag"),
        (["stop", "-l", ""], "selector '' is empty", "key=value of the metadata, or a tag"),
        (["delete", "-l", "a=b,", "--yes"], "selector 'a=b,' has an empty part", "or a tag"),
        (["start", "-l", ",a"], "selector ',a' has an empty part", "or a tag"),
        (
            ["list", "-l", "a b=c"],
            "selector 'a b=c' has the key 'a b', which no metadata can have",
            "or a tag",
        ),
        (["list", "-l", "a=\x1b"], "selector a '\\x1b' has control characters", ""),
        (["list", "--status", "nosuch"], "status 'NOSUCH' does not exist", "ACTIVE, BUILD"),
        (["list", "--power-state", "on"], "power state 'on' does not exist", "running, shutdown"),
        (["list", "--ip", "("], "--ip '(' is not a regular expression", ""),
        (["list", "--limit", "0"], "--limit 0 is not 1 or more", ""),
        (["list", "--marker", "web1"], "--marker 'web1' is not a uuid", "page before"),
        (["list", "--sort", "size"], "--sort 'size' is not key[:asc|desc]", "created_at, host"),
        (["list", "--sort", "name:up"], "--sort 'name:up' is not key[:asc|desc]", "created_at, host"),
        (["list", "--sort", ""], "--sort '' is not key[:asc|desc]", "created_at, host"),
        (["delete", "a", "a", "--yes"], "the same name is given twice", ""),
        (["stop", "a", "--all"], "give names, or choose with -l, --on or --all, not both", "novactl list"),
        (["stop"], "give names, or choose with -l, --on or --all", "novactl list"),
        (["wait", "web1", "asleep"], "condition 'asleep' is not known", "status=ACTIVE"),
        (["wait", "web1", "status"], "condition 'status' is not known", "status=ACTIVE"),
        (["image", "set", "x"], "nothing to set is given", ""),
        (["op", "resume"], "give an operation's id or --all", ""),
        (["console-log", "web1", "--lines", "-1"], "--lines is negative", ""),
    ],
)
def test_usage_errors(
    novactl: Command, db: SqliteDatabase, words: list[str], message: str, hint: str
) -> None:
    fleet.furnish(db)
    fleet.add_instance(db, fleet.instance(1))
    ended = novactl(*words)
    assert ended.code == 2
    assert ended.out == ""
    lines = ended.err.splitlines()
    assert lines[0].startswith(f"error: {message}") or message in lines[0]
    assert "Traceback" not in ended.err
    if hint:
        assert lines[1].startswith("hint: ")
        assert hint in lines[1]


@pytest.mark.parametrize("words", [[], ["flavor"], ["op"], ["host"]])
def test_nothing_asked_for_is_help_and_an_error(novactl: Command, words: list[str]) -> None:
    ended = novactl(*words)
    assert (ended.code, ended.out) == (2, "")
    assert "Usage: novactl" in ended.err


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["list", "-o"], "-o"),
        (["list", "--column"], "--column"),
        (["list", "--db"], "--db"),
        (["show", "web1", "--project"], "--project"),
    ],
)
def test_a_global_option_without_its_value(novactl: Command, words: list[str], option: str) -> None:
    ended = novactl(*words)
    assert ended.code == 2
    assert "requires an argument" in ended.err.splitlines()[0]
    assert option in ended.err.splitlines()[0]


def test_version(novactl: Command) -> None:
    from novactl.version import __version__

    for words in (["--version"], ["list", "--version"]):
        ended = novactl(*words)
        assert (ended.code, ended.out, ended.err) == (0, f"novactl {__version__}\n", "")


# --- global options stand anywhere ---

GLOBALS = [
    ["-o", "json"],
    ["--output", "json"],
    ["--output=json"],
    ["-ojson"],
    ["-o=json"],
]


@pytest.mark.parametrize("option", GLOBALS[:4], ids=" ".join)
@pytest.mark.parametrize("at", range(4))
def test_the_output_may_be_asked_for_anywhere(
    novactl: Command, db: SqliteDatabase, option: list[str], at: int
) -> None:
    fleet.furnish(db)
    words = ["flavor", "show", "small"]
    ended = novactl(*words[:at], *option, *words[at:])
    assert (ended.code, ended.json["name"]) == (0, "small")


def test_options_from_all_sides(novactl: Command, db: SqliteDatabase, tmp_path: Path) -> None:
    fleet.furnish(db)
    other = Command(tmp_path / "other").config
    words = [
        "-c",
        "name",
        "flavor",
        "--column=vcpus",
        "list",
        "-q",
        "-o",
        "jsonl",
        "--config",
        str(novactl.config),
    ]
    elsewhere = Forked(novactl.server, other)  # type: ignore[attr-defined]
    ended = elsewhere(*words)
    assert (ended.code, ended.out) == (0, '{"name": "small", "vcpus": 1}\n')
    assert not other.exists()


def test_the_environment_is_less_than_an_option(empty: Command, tmp_path: Path) -> None:
    server = empty.server  # type: ignore[attr-defined]
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    command = Forked(server, theirs, NOVACTL_PROJECT="blue")
    assert command("keypair", "list", "--config", str(mine)).code == 0
    assert (mine / "novactl.db").exists()
    assert not theirs.exists()


WORDS = st.sampled_from(
    ["list", "flavor", "web1", "--flavor", "small", "-l", "a=b", "--name", "-x", "--force", "x=y", "", "é"]
)
OPTIONS = st.sampled_from(
    [["-o", "json"], ["--output=csv"], ["-c", "a,b"], ["--db", "x"], ["-q"], ["-v"], ["--yes"], ["-oname"]]
)
PARTS = st.one_of(WORDS.map(lambda word: (False, [word])), OPTIONS.map(lambda option: (True, option)))


@settings(max_examples=300)
@given(st.lists(PARTS, max_size=8), st.lists(st.text(max_size=5), max_size=3))
def test_hoisting_keeps_every_word_and_both_orders(
    parts: list[tuple[bool, list[str]]], after: list[str]
) -> None:
    argv = [word for _, part in parts for word in part] + (["--", *after] if after else [])
    moved = hoist(argv)
    short = {"-o": "--output", "-c": "--column"}
    front = [short.get(word, word) for ours, part in parts if ours for word in part]
    rest = [word for ours, part in parts if not ours for word in part]
    assert moved == front + rest + (["--", *after] if after else [])
    assert hoist(moved) == moved


def test_words_after_two_dashes_are_left_alone() -> None:
    assert hoist(["ssh", "web1", "-q", "--", "ls", "-o", "json", "-v"]) == [
        *("-q", "ssh", "web1", "--", "ls", "-o", "json", "-v")
    ]


# --- which database ---


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:secret@db/nova", "--db holds a password"),
        ("mysql://me:@db/nova", "--db holds a password"),
        ("sqlite://me:secret@/nova.db", "--db holds a password"),
    ],
)
def test_a_password_in_db_is_refused(novactl: Command, url: str, message: str) -> None:
    for words in (["--db", url, "list"], ["list", f"--db={url}"]):
        ended = novactl(*words)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.splitlines()[0] == f"error: {message}"
        assert "secret" not in ended.err
    ended = Forked(novactl.server, novactl.config, NOVACTL_DB=url)("list")  # type: ignore[attr-defined]
    assert (ended.code, "secret" in ended.err) == (2, False)


def test_a_database_of_another_kind(novactl: Command) -> None:
    ended = novactl("list", "--db", "oracle://db/nova")
    assert ended.code == 2
    assert ended.err.startswith("error: --db oracle: is not known\nhint: sqlite:///PATH, postgresql://")


@pytest.mark.parametrize(
    "url", ["sqlite:", "sqlite://", "sqlite:///", "sqlite://fleet.db", "sqlite://host/x.db"]
)
def test_a_url_that_names_no_file(novactl: Command, url: str) -> None:
    ended = novactl("list", "--db", url)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == f"error: --db {url}: names no file\nhint: sqlite:///PATH\n"


def test_a_database_that_was_named_is_not_made_by_itself(novactl: Command, tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path / 'my fleet.db'}".replace(" ", "%20")
    ended = novactl("list", "--db", url)
    assert (ended.code, ended.out) == (9, "")
    assert ended.err == (
        f"error: {tmp_path / 'my fleet.db'}: does not exist\nhint: novactl db init creates it\n"
    )
    made = novactl("db", "init", "--db", url, "-o", "json")
    assert (made.code, made.json["path"]) == (0, str(tmp_path / "my fleet.db"))
    again = novactl("db", "init", "--db", str(tmp_path / "my fleet.db"), "-o", "json")
    assert again.json == made.json
    assert again.err.endswith(": unchanged\n")
    assert novactl("list", "--db", url).code == 0


def test_the_first_command_makes_the_database_and_says_so_once(empty: Command) -> None:
    first, second = empty("list"), empty("list")
    assert (first.code, first.out, first.err) == (0, "", f"created {empty.config / 'novactl.db'}\n")
    assert (second.code, second.out, second.err) == (0, "", "")
    assert (empty.config / "novactl.db").stat().st_mode & 0o777 == 0o600
    assert empty.config.stat().st_mode & 0o777 == 0o700


def test_quiet_does_not_say_it(empty: Command) -> None:
    ended = empty("list", "-q", "-o", "json")
    assert (ended.code, ended.out, ended.err) == (0, "[]\n", "")


def test_a_place_that_cannot_be(empty: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for config in (tmp_path / "file" / "config", Path("/proc/novactl"), Path("/dev/null")):
        ended = empty("list", "--config", str(config))
        assert ended.code == 9, config
        assert ended.err.startswith(f"error: {config}/novactl.db: "), ended.err
        assert "hint: " in ended.err


def test_a_database_that_is_something_else(novactl: Command, tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_text("this is not a database at all" * 50)
    for words in (["list"], ["db", "init"], ["flavor", "list"]):
        ended = novactl(*words, "--db", str(path))
        assert (ended.code, ended.out) == (9, "")
        assert ended.err.startswith(f"error: {path}: file is not a database\n")
    assert path.read_text().startswith("this is not")


def test_a_database_of_another_novactl(novactl: Command, db: SqliteDatabase) -> None:
    with db.writing() as tx:
        tx.run("UPDATE meta SET value = '77' WHERE name = 'schema'")
    for words in (["list"], ["flavor", "list"], ["db", "init"]):
        ended = novactl(*words)
        assert (ended.code, ended.out) == (9, "")
        assert "has schema 77, this novactl needs" in ended.err


# --- errors for people and for scripts ---


def test_the_error_line_of_json(novactl: Command, db: SqliteDatabase) -> None:
    fleet.furnish(db)
    for form in ("json", "jsonl"):
        ended = novactl("flavor", "show", "smal", "-o", form)
        assert (ended.code, ended.out) == (4, "")
        assert ended.err.splitlines()[:2] == [
            "error: flavor 'smal' does not exist",
            "hint: did you mean small?",
        ]
        assert ended.error == {
            "code": 4,
            "type": "NotFound",
            "message": "flavor 'smal' does not exist",
            "hint": "did you mean small?",
            "operation": None,
            "candidates": ["small"],
            "targets": [],
            "retryable": False,
        }
    for form in ("table", "yaml", "csv", "name", "value"):
        ended = novactl("flavor", "show", "smal", "-o", form)
        assert len(ended.err.splitlines()) == 2


def test_a_usage_error_has_its_json_line_too(novactl: Command) -> None:
    for words in (["nosuch"], ["list", "--nosuch"], ["flavor", "create", "x"]):
        ended = novactl("-o", "json", *words)
        assert (ended.code, ended.error["code"], ended.error["type"]) == (2, 2, "UsageError")


def test_errors_show_control_characters_and_do_not_send_them(novactl: Command) -> None:
    ended = novactl("show", "a\x1b[31mb\x9b31m")
    assert ended.code == 4
    assert "\x1b" not in ended.err
    assert "\x9b" not in ended.err


def test_debug_shows_where(novactl: Command) -> None:
    plain, debug = novactl("show", "nobody"), novactl("show", "nobody", "--debug")
    assert "Traceback" not in plain.err
    assert "Traceback" in debug.err
    assert debug.code == plain.code == 4


# --- help ---


def commands() -> list[list[str]]:
    """Every command there is."""

    found: list[list[str]] = []

    def walk(command: object, path: list[str]) -> None:
        children = getattr(command, "commands", {})
        if not children:
            found.append(path)
        for name, child in sorted(children.items()):
            walk(child, [*path, name])

    walk(typer.main.get_command(tree()), [])
    return found


WITHOUT_EXAMPLE = {"list", "show", "delete", "remove", "down", "status", "init", "image", "set", "rollback"}
"""Last words of commands whose usage line says all."""


def test_there_are_commands() -> None:
    assert len(commands()) > 35
    assert ["boot"] in commands()


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_help_of_every_command(novactl: Command, words: list[str]) -> None:
    ended = novactl(*words, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"Usage: novactl {' '.join(words)} ")
    assert not re.search(r"\[/?(bold|dim|red|green|yellow|cyan|italic|link)\b|\x1b|[╭│╰─]", ended.out)
    example = re.search(rf"^ *novactl {' '.join(words)}\b", ended.out, re.MULTILINE)
    assert example or words[-1] in WITHOUT_EXAMPLE, "no example"


def test_help_of_all(novactl: Command) -> None:
    ended = novactl("--help")
    assert (ended.code, ended.err) == (0, "")
    assert novactl("-h").out == ended.out
    for word in {words[0] for words in commands()}:
        assert re.search(rf"^ +{word}\b", ended.out, re.MULTILINE), word
    assert "\x1b" not in ended.out


def test_help_needs_no_database(empty: Command) -> None:
    empty("--help")
    empty("boot", "--help")
    assert not empty.config.exists()


def test_output_to_a_closed_pipe(novactl: Command, db: SqliteDatabase, tmp_path: Path) -> None:
    fleet.furnish(db)
    for number in range(1, 300):
        fleet.add_instance(db, fleet.instance(number))
    real = Command(novactl.config)
    with real.popen("list", "-o", "jsonl") as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr
        error = process.stderr.read()
        process.wait(timeout=30)
    assert process.returncode in (0, 141)
    assert "Traceback" not in error


def test_json_is_one_document_with_what_it_was_given(novactl: Command, db: SqliteDatabase) -> None:
    fleet.furnish(db)
    fleet.add_instance(db, fleet.instance(1, metadata={"k": "é\u202e\"'<"}, tags=("ü",)))
    shown = novactl.json("show", "web1")
    assert shown["metadata"] == {"k": "é\u202e\"'<"}
    assert json.loads(novactl.ok("list", "-o", "json").out)[0]["tags"] == ["ü"]


# --- the tree ---


def test_every_word_is_in_its_module() -> None:
    """What MODULES says of a word is what the code says, and the same command."""
    whole = typer.main.get_command(tree()).commands  # type: ignore[attr-defined]
    said = {word: line for words in MODULES.values() for word, line in words.items()}
    assert sorted(said) == sorted(whole)
    for word, line in said.items():
        alone = typer.main.get_command(tree(word)).commands  # type: ignore[attr-defined]
        assert word in alone
        assert set(getattr(alone[word], "commands", ())) == set(getattr(whole[word], "commands", ()))
        assert " ".join(whole[word].help.split()).startswith(line.removesuffix("."))


def test_help_shows_whole_lines(novactl: Command) -> None:
    shown = novactl("--help").out
    for words in MODULES.values():
        for word, line in words.items():
            assert re.search(rf"^ +{word} +{re.escape(line)}$", shown, re.MULTILINE)
    assert novactl("--help", "boot").out == novactl("-q", "-h", "nonsense").out == shown


def test_an_unknown_word_is_compared_with_all(novactl: Command) -> None:
    assert verb(["--project", "list", "-q", "sto", "web1"]) == "sto"
    for near, meant in (("sto", "stop"), ("hots", "host")):
        ended = novactl(near, "web1")
        assert ended.code == 2 and f"did you mean {meant!r}" in ended.err.lower()
    assert "host" not in typer.main.get_command(tree("stop")).commands  # type: ignore[attr-defined]
