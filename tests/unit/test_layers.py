"""Imports point down, each library has one owner, and start-up pays only for what it uses."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from novactl.db.sqlite import SqliteDatabase
from tests.support.source import Module, modules, parse

BELOW: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "version": set(),
    "objects": {"errors"},
    "engine": {"errors"},
    "scheduler": {"objects", "errors"},
    "db": {"engine", "objects", "errors", "version"},
    "remote": {"objects", "errors"},
    "virt": {"objects", "errors", "version"},
    "images": {"objects", "errors"},
    "files": {"objects", "errors"},
    "actions": {"engine", "scheduler", "db", "virt", "remote", "images", "files", "objects", "errors"},
    "owner": {"db", "errors"},
    "resources": {"errors"},
    "subcommand": {"owner"},
    "settings": {"db", "objects", "errors"},
    "detach": {"settings", "errors"},
    "guest_ssh": {"cloud", "remote", "objects", "errors"},
    "cloud": {
        *("actions", "engine", "scheduler", "db", "virt", "remote", "images", "files", "objects", "errors"),
        *("owner", "resources", "settings", "subcommand"),
    },
    "lab": {"errors"},
    "cli": {
        *("cloud", "detach", "guest_ssh", "resources", "actions", "engine", "db", "objects", "errors"),
        *("version", "lab", "settings"),
    },
    "__main__": {"cli"},
}
"""What each layer may import beside itself. The composition root is cloud; guest_ssh, owner, resources,
settings and subcommand stand beside it; lab stands alone."""

OWNERS = {
    "sqlalchemy": {"db"},
    "cryptography": {"db"},
    "libvirt": {"virt"},
    "pycdlib": {"virt"},
    "paramiko": {"remote"},
    "tenacity": {"remote", "db"},
    "alembic": {"db"},
    "psycopg": {"db"},
    "pymysql": {"db"},
    "typer": {"cli"},
    "rich": {"cli"},
    "yaml": {"cli", "files"},  # one writes, the other reads
    "pydantic": {"files"},
}
IO = set("socket subprocess sqlite3 pathlib os io shutil tempfile http urllib select".split())
PURE = ("objects", "engine", "scheduler")
PURE_MAY: dict[str, set[str]] = {"objects": {"pathlib"}}  # PurePosixPath: a host's paths, not ours


def top(name: str) -> str:
    return name.partition(".")[0]


def broken_layers(module: Module) -> Iterator[str]:
    """Every import of it that does not point down."""
    for name in module.imports():
        if top(name) != "novactl" or name == "novactl":
            continue
        target = name.split(".")[1]
        if target != module.layer and target not in BELOW[module.layer]:
            yield f"{module.layer} imports {name}"


def foreign_libraries(module: Module) -> Iterator[str]:
    """Every third-party library it imports that is another layer's, or nobody's."""
    for name in {top(name) for name in module.imports()}:
        ours = name == "novactl" or name in sys.stdlib_module_names
        if not ours and module.layer not in OWNERS.get(name, set()):
            yield f"{module.layer} imports {name}"


def test_imports_point_down() -> None:
    new = {module.layer for module in modules()} - set(BELOW)
    assert new == set(), "say above what a new layer may import"
    assert {module.name: wrong for module in modules() if (wrong := list(broken_layers(module)))} == {}


def test_each_library_has_one_owner() -> None:
    assert {module.name: wrong for module in modules() if (wrong := list(foreign_libraries(module)))} == {}


def test_virt_and_db_never_meet_and_the_table_has_no_circle() -> None:
    assert "virt" not in BELOW["db"]
    assert "db" not in BELOW["virt"]
    graph = {layer: below - {"cloud"} if layer == "guest_ssh" else below for layer, below in BELOW.items()}
    assert circle(graph) is None


@pytest.mark.parametrize(
    "module", [module for module in modules() if module.layer in PURE], ids=lambda module: module.name
)
def test_pure_layers_do_no_io(module: Module) -> None:
    used = {top(name) for name in module.imports()} & IO
    assert used <= PURE_MAY.get(module.layer, set())
    if "pathlib" in used:
        assert {name for name in module.imports() if name.startswith("pathlib.")} == {"pathlib.PurePosixPath"}


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    """A path that comes back to where it began, if there is one."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        for target in sorted(graph.get(node, ())):
            if found := walk(target, [*path, node]):
                return found
        done.add(node)
        return None

    return next((found for node in sorted(graph) if (found := walk(node, []))), None)


def import_graph(found: Iterable[Module]) -> dict[str, set[str]]:
    """Which module imports which when it is imported. `from package import module` is the module."""
    found = list(found)
    names = {module.name for module in found}
    graph = {}
    for module in found:
        imported = {name for name in module.imports(top_level=True) if name in names}
        packages = {name for name in imported if any(other.startswith(f"{name}.") for other in imported)}
        graph[module.name] = imported - packages - {module.name}
    return graph


def test_no_import_cycles() -> None:
    assert circle(import_graph(modules())) is None


# --- what looks is looked at too ---


def test_a_wrong_import_is_seen() -> None:
    wrong = parse("def f():\n    from novactl.virt import domain\n    import paramiko, requests\n")
    planted = Module(wrong.path.parent / "db" / "planted.py", wrong.tree, wrong.text)
    assert planted.layer == "db"
    assert set(broken_layers(planted)) == {"db imports novactl.virt", "db imports novactl.virt.domain"}
    assert set(foreign_libraries(planted)) == {"db imports paramiko", "db imports requests"}


def test_a_cycle_is_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c", "a"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


# --- start-up ---

HEAVY = (
    "sqlalchemy",
    "paramiko",
    "fabric",
    "invoke",
    "libvirt",
    "rich",
    "pycdlib",
    "cryptography",
    "yaml",
    "pydantic",
)
PROBE = """
import json, sys
from novactl.cli.app import run
sys.stdout = open("/dev/null", "w")
code = run(sys.argv[1:])
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]), file=sys.__stdout__)
"""


def loaded(config: Path, *words: str) -> set[str]:
    """Top-level modules that a command left loaded."""
    argv = [sys.executable, "-c", PROBE, "--config", str(config), *words]
    ended = subprocess.run(argv, capture_output=True, text=True, check=True)
    code, names = json.loads(ended.stdout)
    assert code == 0, ended.stderr
    return set(names)


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    names = loaded(tmp_path, "--help")
    assert {"typer", "novactl"} <= names
    assert names & {*HEAVY, "sqlite3", "asyncio"} == set()


def test_list_on_an_existing_database_loads_nothing_heavy(tmp_path: Path) -> None:
    SqliteDatabase(tmp_path / "novactl.db").create("fleet")
    names = loaded(tmp_path, "list")
    assert "sqlite3" in names
    assert names & set(HEAVY) == set()
