"""python -m tests.bench.report bench.json docs/performance.md: write the figures between the two markers."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def report(found: dict[str, Any]) -> str:
    return "\n".join(["", *head(found), "", *checks(found), "", *boot(found), "", *figures(found), ""])


def head(found: dict[str, Any]) -> Iterator[str]:
    m = found["machine"]
    yield (
        f"Measured with novactl {found['novactl']} on {m['cpus']} × {m['cpu']}, {m['memory_gib']} GiB,"
        f" {m['os']}, kernel {m['kernel']}, Python {m['python']}; load before:"
        f" {found['notes']['load_before']}."
    )
    if not found["full"]:
        yield "\n**This is the quick variant: few repetitions, wider limits.**"


def checks(found: dict[str, Any]) -> Iterator[str]:
    yield "### Against the limits\n"
    yield from table(
        ("what", "measured", "limit", "", "how it is made up"),
        (
            (c["name"], number(c["figure"], c["unit"]), number(c["limit"], c["unit"]), verdict(c), c["what"])
            for c in found["checks"]
        ),
    )


def verdict(check: dict[str, Any]) -> str:
    return "holds" if check["holds"] else "**over**"


def number(value: float, unit: str) -> str:
    return f"{value:.2f} ×" if unit == "times" else f"{value:.3f} {unit}"


def boot(found: dict[str, Any]) -> Iterator[str]:
    """One boot and one delete, step by step."""
    for kind in ("boot", "delete"):
        steps = {
            name.removeprefix(f"{kind} step "): of
            for name, of in found["figures"].items()
            if name.startswith(f"{kind} step ")
        }
        whole = found["figures"].get(kind)
        if not steps or not whole:
            continue
        within = found["figures"][f"{kind} from claim to last step"]["median"]
        yield f"### Where the time of one {kind} goes\n"
        rows = [(name, f"{of['median']:.4f}") for name, of in steps.items()]
        between = within - sum(of["median"] for of in steps.values())
        rows.append(("between the steps: journal, progress, cancellation", f"{max(0, between):.4f}"))
        rows.append(
            ("before and after: Python, imports, reading, claim, output", f"{whole['median'] - within:.4f}")
        )
        rows.append(("**the command**", f"**{whole['median']:.4f}**"))
        yield from table(("step", "median, s"), rows)
        yield ""


def figures(found: dict[str, Any]) -> Iterator[str]:
    yield "### All figures, in seconds\n"
    yield from table(
        ("what", "n", "median", "min", "max"),
        (
            (name, str(of["n"]), f"{of['median']:.4f}", f"{of['min']:.4f}", f"{of['max']:.4f}")
            for name, of in found["figures"].items()
            if " step " not in name
        ),
    )
    yield ""
    for name, value in found["notes"].items():
        if name != "load_before":
            shown = (
                ", ".join(f"{key}: {way}" for key, way in value.items()) if isinstance(value, dict) else value
            )
            yield f"- {name}: {shown}"


def table(heads: tuple[str, ...], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    text = target.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{target}: has no {BEGIN} … {END}")
    target.write_text(f"{before}{BEGIN}\n{report(json.loads(source.read_text()))}\n{END}{after}")


if __name__ == "__main__":
    main()
