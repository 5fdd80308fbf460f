"""The one place where results become text: table, json, jsonl, yaml, csv, name, value."""

import contextlib
import csv
import io
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from novactl.errors import UsageError

FORMATS = ("table", "json", "jsonl", "yaml", "csv", "name", "value")
ODD = re.compile(r"[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
RICH_ROWS = 200  # a rich table of 1,000 rows costs 0.7 s

Item = dict[str, Any]


def show(session: Any, item: Item, columns: Sequence[str] = ()) -> None:
    """One object. `columns` are what a table shows; every other form has all."""
    chosen = _chosen(session, [item], columns or list(item))
    match session.output:
        case "json" | "jsonl":
            _write(_json(_only(item, session.columns), _indent(session)) + "\n")
        case "yaml":
            _write(_yaml(_only(item, session.columns)))
        case "name":
            _write(f"{_name_of(item)}\n")
        case "value":
            _write("".join(f"{_flat(item.get(column))}\n" for column in chosen))
        case "csv":
            _write(_csv([item], chosen))
        case _:
            rows = [[column, _flat(item.get(column), wide=True)] for column in chosen]
            _write(
                plain_table(["field", "value"], rows)
                if not _rich(len(rows))
                else rich_table(["field", "value"], rows)
            )


def listing(session: Any, items: Sequence[Item], columns: Sequence[str]) -> None:
    """Several objects; nothing at all in a table of none, `[]` in JSON."""
    chosen = _chosen(session, items, columns)
    match session.output:
        case "json":
            data = [_only(item, session.columns) for item in items]
            _write(_json(data, _indent(session)) + "\n")
        case "jsonl":
            _write("".join(_json(_only(item, session.columns)) + "\n" for item in items))
        case "yaml":
            _write(_yaml([_only(item, session.columns) for item in items]))
        case "name":
            _write("".join(f"{_name_of(item)}\n" for item in items))
        case "value":
            _write("".join(" ".join(_flat(item.get(c)) for c in chosen) + "\n" for item in items))
        case "csv":
            _write(_csv(items, chosen))
        case _ if items:
            rows = [[_flat(item.get(column)) for column in chosen] for item in items]
            _write(rich_table(chosen, rows) if _rich(len(rows)) else plain_table(chosen, rows))


def _chosen(session: Any, items: Sequence[Item], columns: Sequence[str]) -> list[str]:
    wanted = [name for given in session.columns for name in given.split(",")]
    known = set(columns) | {key for item in items for key in item}
    for name in wanted:
        if name not in known and items:
            raise UsageError(f"column {name!r} does not exist", hint=f"there are {', '.join(sorted(known))}")
    return wanted or list(columns)


def _only(item: Item, columns: Sequence[str]) -> Item:
    wanted = [name for given in columns for name in given.split(",")]
    return {name: item.get(name) for name in wanted} if wanted else item


def _indent(session: Any) -> int | None:
    return 2 if sys.stdout.isatty() and session.output == "json" else None


def _name_of(item: Item) -> str:
    """What a thing is called, else what it begins with."""
    found = next((item[key] for key in ("name", "id", "target", "uuid") if item.get(key)), None)
    return visible(str(found if found is not None else next(iter(item.values()), "")), keep="")


def _json(value: Any, indent: int | None = None) -> str:
    """JSON that is harmless to a terminal and to programs that know no surrogates or other line ends."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return ODD.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _flat(value: Any, wide: bool = False) -> str:
    """A value in one cell: control characters are shown, never sent to the terminal."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        text = value
    elif isinstance(value, dict) and value and all(isinstance(v, str | int | float) for v in value.values()):
        text = ", ".join(f"{key}={item}" for key, item in value.items())
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        text = ", ".join(value)
    elif isinstance(value, dict | list) and not value:
        text = ""
    elif isinstance(value, dict | list):
        text = _json(value)
    else:
        text = str(value)
    return visible(text, keep="\n" if wide else "")


def visible(text: str, keep: str = "\n\t") -> str:
    """`text` with its control characters shown: what a guest or a host says cannot drive a terminal."""
    return "".join(ch if ch.isprintable() or ch in keep else f"\\x{ord(ch):02x}" for ch in text)


def say(text: str) -> None:
    """A line on stderr, harmless to a terminal; a terminal that went away is nobody to tell."""
    with contextlib.suppress(OSError):
        print(visible(text), file=sys.stderr, flush=True)


def harmless(text: bytes) -> bytes:
    """A guest's output for a terminal."""
    return visible(text.decode(errors="backslashreplace"), keep="\n\t\r").encode()


def _csv(items: Sequence[Item], columns: Sequence[str]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_csv_cell(item.get(column)) for column in columns] for item in items)
    return buffer.getvalue()


def _csv_cell(value: Any) -> Any:
    """A row is a line, whatever is in it."""
    if isinstance(value, dict | list):
        return visible(_json(value))
    return visible(value, keep="") if isinstance(value, str) else "" if value is None else value


def _yaml(value: Any) -> str:
    import yaml

    plain = json.loads(json.dumps(value))  # enums are strings to json, objects to yaml
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded with blanks; quick for any number of rows."""
    heads = [column.upper() for column in columns]
    widths = [max(len(cell) for cell in column) for column in zip(heads, *rows, strict=True)]
    lines = [heads, *rows]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )


def _rich(rows: int) -> bool:
    return sys.stdout.isatty() and rows <= RICH_ROWS


def rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.upper(), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
    console = Console(file=io.StringIO(), force_terminal=True, width=Console().width)
    console.print(table)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


COLOURS = {
    "ACTIVE": "green",
    "up": "green",
    "ok": "green",
    "done": "green",
    "ERROR": "red",
    "down": "red",
} | {
    "fail": "red",
    "warn": "yellow",
    "incomplete": "red",
    "SHUTOFF": "dim",
    "BUILD": "yellow",
}


def document(text: str) -> None:
    """What is a text already, as it is."""
    _write(text)


def _write(text: str) -> None:
    """To stdout; a reader that went away (`| head`) changes nothing of what was done."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
