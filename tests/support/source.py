"""novactl's own source text, read as trees: what the tests of layers and bans look at."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
ROOT = CHECKOUT / "novactl"


@dataclass(frozen=True)
class Module:
    """One file of novactl/."""

    path: Path
    tree: ast.Module
    text: str

    @property
    def name(self) -> str:
        """As it stands in an import: `novactl.db.session`."""
        parts = list(self.path.relative_to(CHECKOUT).with_suffix("").parts)
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def layer(self) -> str:
        """The package, or the module beside the packages: `db`, `cloud`."""
        return self.path.relative_to(ROOT).parts[0].removesuffix(".py")

    def imports(self, *, top_level: bool = False) -> Iterator[str]:
        """Every module it imports by its full name; `top_level`: only what importing it imports."""
        for node in _executed(self.tree) if top_level else ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}:{node.lineno}: relative import"
                assert node.module
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Statements that run when the module is imported: not in functions, not under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _executed(child)


@cache
def modules() -> tuple[Module, ...]:
    """All of novactl/, in order."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text()
        found.append(Module(path, ast.parse(text), text))
    assert len(found) > 50, "novactl/ was not found"
    return tuple(found)


def parse(text: str) -> Module:
    """A module that is only text: for testing what looks at modules."""
    return Module(ROOT / "planted.py", ast.parse(text), text)
