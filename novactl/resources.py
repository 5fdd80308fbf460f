"""Files shipped beside the code: templates, playbooks, the example inventory."""

from pathlib import Path

from novactl.errors import NotFound

PACKAGED = Path(__file__).parent / "_data"
CHECKOUT = Path(__file__).parent.parent


def directory(kind: str) -> Path:
    """Where `templates`, `playbooks` or `inventory` are: in the wheel, or in a checkout."""
    packaged = PACKAGED / kind
    return packaged if packaged.is_dir() else CHECKOUT / kind


def template(name: str, own: Path) -> str:
    """A template's text; the operator's own copy in `own` comes first. Raises NotFound."""
    for place in (own, directory("templates")):
        if (place / name).is_file():
            return (place / name).read_text()
    raise NotFound(f"template {name} is missing from {own} and {directory('templates')}")
