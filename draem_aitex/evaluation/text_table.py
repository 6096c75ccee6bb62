"""The figures of an evaluation as tables: in text, and for the HTML page; and without NaN, for JSON.

Which figure stands where is in `tables.json`: format strings, filled in from the figures. `when` names a figure that
has to be above 0 for the table to be there, `each` a group of figures whose items make a row each.
"""

import json
import math
import string
from importlib import resources
from typing import Any, NamedTuple

_LAYOUT = json.loads(resources.files(__package__).joinpath("tables.json").read_text("utf-8"))


class Table(NamedTuple):
    """A table of texts; the first cell of a row names it. A column without a head is text, the others hold numbers."""

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]


class _Dashes(string.Formatter):
    """Format strings in which a dash stands for what is not known."""

    def get_field(self, name: str, _: Any, figures: Any) -> Any:
        key, _, inner = name.partition("[")  # a dot belongs to the name: aupro_at_0.05
        return (figures[key][inner.rstrip("]")] if inner else figures[key]), key

    def format_field(self, value: Any, spec: str) -> str:
        if isinstance(value, list):
            return " to ".join(format(end, ".3f") for end in value)
        return "–" if without_nan(value) is None else format(value, spec)


def without_nan(value: Any) -> Any:
    """The same values, NaN as None all the way down, so that JSON stays JSON."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def sentences(figures: dict[str, Any]) -> list[str]:
    """What was judged, and by which threshold."""
    return [_Dashes().vformat(line, (), figures) for line in _LAYOUT["sentences"]]


def tables(figures: dict[str, Any]) -> list[Table]:
    """All figures: pooled with confidence intervals, of pixels, by fabric, type and size; counts beside rates."""
    found = []
    for layout in _LAYOUT["tables"]:
        if "when" in layout and not figures[layout["when"]] > 0:
            continue
        items = figures[layout["each"]].items() if "each" in layout else [("", figures)]
        rows = [
            [_Dashes().vformat(cell, (), {**values, "key": key}) for cell in row]
            for key, values in items
            for row in layout["rows"]
        ]
        found.append(Table(layout["title"], layout.get("note", ""), layout["head"], rows))
    return found


def text(figures: dict[str, Any]) -> str:
    """What was judged and all tables, as text."""
    return "\n".join([*sentences(figures), *(line for table in tables(figures) for line in _lines(table))])


def _lines(table: Table) -> list[str]:
    rows = [table.head, *table.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<", *(">" if head else "<" for head in table.head[1:])]
    cells = [[f"{cell:{s}{w}}" for cell, s, w in zip(row, sides, widths, strict=True)] for row in rows]
    return ["", ". ".join(filter(None, (table.title, table.note))), *("  ".join(row).rstrip() for row in cells)]
