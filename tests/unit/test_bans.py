"""What must not stand in novactl/ at all, and how large its parts may grow."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.source import ROOT, Module, modules, parse

BANNED_IMPORTS = {"pickle", "marshal", "shelve", "dill", "cPickle"}
BANNED_CALLS = {"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
BANNED_NAMES = {"AutoAddPolicy", "WarningPolicy"}
BANNED_TEXT = [
    re.compile(r"StrictHostKeyChecking[ =]+(no|off|accept-new)", re.IGNORECASE),
    re.compile(r"UserKnownHostsFile[ =]+/dev/null", re.IGNORECASE),
    re.compile(r"no_verify=1"),
]
TAGS = "(domain|disk|interface|network|pool|volume|devices|metadata|source|driver|filter|cpu)"
XML = re.compile(rf"^\s*<{TAGS}\b|<{TAGS}\s+\w+=|</{TAGS}>|<{TAGS}\s*/>")

MODULE_LINES = 400
FUNCTION_LINES = 50
LONGER: dict[str, int] = {}
"""What is larger than it should be; it may shrink, not grow. A line that is no longer true must go."""


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or an attribute, else what can be said of it."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def made_of_text(node: ast.AST, texts: set[str]) -> bool:
    """Whether a string is built there by f-string, %, + or format, not just quoted."""
    if isinstance(node, ast.JoinedStr):
        return True
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return isinstance(node.left, ast.Constant) and isinstance(node.left.value, str)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return made_of_text(node.left, texts) or made_of_text(node.right, texts)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and node.func.attr in ("format", "format_map")
    return isinstance(node, ast.Name) and node.id in texts


def text_variables(function: ast.AST) -> set[str]:
    """Names that a function gives a built string."""
    return {
        target.id
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and made_of_text(node.value, set())
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def findings(module: Module) -> Iterator[str]:
    """Everything banned in a module."""
    for name in module.imports():
        if name.partition(".")[0] in BANNED_IMPORTS:
            yield f"import {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            yield from _call_findings(node)
        elif isinstance(node, ast.Attribute | ast.Name) and dotted(node).rpartition(".")[2] in BANNED_NAMES:
            yield dotted(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (node.value for banned in BANNED_TEXT if banned.search(node.value))
        elif isinstance(node, ast.FunctionDef):
            yield from _commands_of_text(node)
    for literal in literals(module):
        if XML.search(literal):
            yield f"xml as text: {literal.strip()[:60]}"


def _call_findings(node: ast.Call) -> Iterator[str]:
    name = dotted(node.func)
    if name in BANNED_CALLS and not any(
        keyword.arg == "Loader" and dotted(keyword.value).endswith("SafeLoader") for keyword in node.keywords
    ):
        yield name
    for keyword in node.keywords:
        if keyword.arg == "shell" and not (
            isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        ):
            yield f"{name}(shell=…)"


def _commands_of_text(function: ast.FunctionDef) -> Iterator[str]:
    texts = text_variables(function)
    for node in ast.walk(function):
        if not (isinstance(node, ast.Call) and dotted(node.func).endswith(".exec_command") and node.args):
            continue
        argument = node.args[0]
        if made_of_text(argument, texts) and not _quoted(argument, function):
            yield f"{function.name}: exec_command of built text"


def _quoted(argument: ast.AST, function: ast.FunctionDef) -> bool:
    """Whether it is a constant and a variable that only shlex.join fills: "exec " + command."""
    if not isinstance(argument, ast.BinOp):
        return False
    sides = (argument.left, argument.right)
    return all(isinstance(s, ast.Constant) or _joined_by_shlex(function, dotted(s)) for s in sides)


def _joined_by_shlex(function: ast.FunctionDef, name: str) -> bool:
    """Whether the variable is only ever what shlex.join made."""
    values = [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and any(dotted(target) == name for target in node.targets)
    ]
    return bool(values) and all(isinstance(v, ast.Call) and dotted(v.func) == "shlex.join" for v in values)


def literals(module: Module) -> Iterator[str]:
    """Strings that are not docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(module.tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_nothing_banned() -> None:
    assert {module.name: found for module in modules() if (found := list(findings(module)))} == {}


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("import pickle", "import pickle"),
        ("from marshal import loads", "import marshal"),
        ("import shelve as s", "import shelve"),
        ("yaml.load(text)", "yaml.load"),
        ("yaml.load(text, Loader=yaml.UnsafeLoader)", "yaml.load"),
        ("client.set_missing_host_key_policy(paramiko.AutoAddPolicy())", "paramiko.AutoAddPolicy"),
        ("policy = WarningPolicy", "WarningPolicy"),
        ("subprocess.run(words, shell=True)", "subprocess.run(shell=…)"),
        ("subprocess.run(words, shell=maybe)", "subprocess.run(shell=…)"),
        ("os.system('ls')", "os.system"),
        ("os.popen('ls')", "os.popen"),
        ("eval(text)", "eval"),
        ("exec(text)", "exec"),
        ("X = '-o StrictHostKeyChecking=no'", "-o StrictHostKeyChecking=no"),
        ("X = 'StrictHostKeyChecking accept-new'", "StrictHostKeyChecking accept-new"),
        ("X = f'qemu+ssh://{host}/system?no_verify=1'", "/system?no_verify=1"),
        ("def f(c, x):\n    c.exec_command(f'rm {x}')", "f: exec_command of built text"),
        ("def f(c, x):\n    c.exec_command('rm ' + f'{x}')", "f: exec_command of built text"),
        ("def f(c, x):\n    c.exec_command('rm %s' % x)", "f: exec_command of built text"),
        ("def f(c, x):\n    c.exec_command('rm {}'.format(x))", "f: exec_command of built text"),
        ("def f(c, x):\n    line = f'rm {x}'\n    c.exec_command(line)", "f: exec_command of built text"),
        (
            "def f(c, x):\n    command = f'rm {x}'\n    c.exec_command('exec ' + command)",
            "f: exec_command of built text",
        ),
        ("X = '<domain type=\"kvm\">'", 'xml as text: <domain type="kvm">'),
        ("X = f'<disk><source file=\"{path}\"/>'", 'xml as text: <disk><source file="'),
    ],
)
def test_each_ban_is_seen(text: str, finding: str) -> None:
    assert finding in list(findings(parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.safe_load(text)",
        "subprocess.run(words, shell=False)",
        "def f(c, x):\n    command = shlex.join(x)\n    c.exec_command('exec ' + command)",
        '"""A docstring may say <domain>."""',
        "X = 'StrictHostKeyChecking yes'",
    ],
)
def test_what_is_allowed_is_not_a_finding(text: str) -> None:
    assert list(findings(parse(text))) == []


def test_the_shell_library_evaluates_no_text() -> None:
    text = (ROOT / "remote" / "host.sh").read_text()
    lines = [line.partition("# ")[0] for line in text.splitlines()]
    assert sum(map(bool, lines)) > 200
    banned = re.compile(r"\beval\b|`|\bsh -c\b|(^|[;&|])\s*(source|\.)\s|\|\s*(ba)?sh\b")
    assert banned.search("cat x | sh")
    assert banned.search('eval "$1"')
    assert [line for line in lines if banned.search(line)] == []


def test_awk_prints_what_it_calculated_in_full() -> None:
    """By printf "%.0f": print gives six digits of what mawk has not as an int; its %d stops at 2^31."""
    banned = re.compile(r"\bprint\b[^;}|>\n]*[-+*/%]|\bprint int\b|\bprintf? [^;}]*%[0-9]*[di]")
    assert banned.search("{sum += $1} END {print sum + 67108864}")
    assert not banned.search('printf "%.0f %.0f\\n", at, n') and not banned.search("{print $3, $4}")
    found = {
        path.name: lines
        for path in (ROOT / "remote").glob("*.sh")
        for program in re.findall(r"\bawk [^']*'([^']*)'", path.read_text())
        if (lines := [line for line in program.splitlines() if banned.search(line)])
    }
    assert found == {}


def sizes() -> Iterator[tuple[str, int, int]]:
    """(what, its lines, how many it may have). A function's lines are those of its body: the long
    signature of a command is the list of its options."""
    for module in modules():
        where = str(module.path.relative_to(ROOT))
        yield where, len(module.text.splitlines()), MODULE_LINES
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno
                yield f"{where}:{node.name}", node.end_lineno - node.body[0].lineno + 1, FUNCTION_LINES


def test_modules_and_functions_stay_small() -> None:
    too_large = {what: lines for what, lines, limit in sizes() if lines > max(limit, LONGER.get(what, 0))}
    assert too_large == {}


def test_every_exception_from_the_size_rule_is_still_needed() -> None:
    measured = {what: (lines, limit) for what, lines, limit in sizes()}
    stale = [what for what in LONGER if measured.get(what, (0, 1))[0] <= measured.get(what, (0, 1))[1]]
    assert stale == []
