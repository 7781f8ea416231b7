"""Tables whose rows are data: the script beside this file draws 200 at a time, sorts, filters, hides columns and saves rows.

An *entry* is what a cell of such a table holds: a text, or a dict with a text and more. Its keys have one letter, since a study
may have 5,000 rows: ``t`` text, ``v`` the number that it is sorted by and saved as, ``i`` an interval behind it, ``s`` lines
below it, ``h`` what is shown where one points at it, ``c`` the class of a chip, ``w`` 1 for a text in place of all further
entries.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from html import escape

from lorcbench.report.page.parts import NOTHING, SYMBOLS, css_class, region

Entry = str | dict


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: its heading.
        numeric: whether it is set to the right, and numbers are sorted by size.
        names: whether it says, with others, which row this is: on a narrow screen they are one.
        spare: whether it is hidden at first if all rows have the same in it.
        hidden: whether it is hidden at first.
    """

    name: str
    numeric: bool = False
    names: bool = False
    spare: bool = False
    hidden: bool = False


def entry(text: str, value: float | None = None, **more: str | list[str] | int) -> Entry:
    """An entry; `more` has the keys of one letter, and those that are empty are left out."""
    parts = {"t": text, **({} if value is None or not math.isfinite(value) else {"v": float(f"{value:.9g}")})}
    parts |= {key: part for key, part in more.items() if part}
    return text if parts.keys() == {"t"} else parts


def number(value: float | None, spell: Callable[[float], str], **more: str | list[str]) -> Entry:
    """A number in the spelling of the page; a dash for None."""
    return NOTHING if value is None else entry(spell(value), value, **more)


def chip(name: str, text: str = "", **more: str | list[str]) -> Entry:
    """A word with the colour that it has everywhere."""
    symbol = f"{SYMBOLS[name]} " if name in SYMBOLS else ""
    return entry(f"{symbol}{text or name}", c=css_class(name), **more)


def grid(
    name: str,
    columns: list[Column],
    rows: list[list[Entry]],
    example: str,
    caption: str,
    what: str = "cells",
    classes: Iterable[str] = (),
) -> str:
    """The controls, an empty table and its data.

    Args:
        name: its id.
        rows: one entry per column; fewer where the last one takes the place of the rest.
        example: what may be typed into the box.
        caption: what the table is.
        what: what the rows are, such as ``cells``.
        classes: of each row; rows without one may be left out at the end.
    """
    shown = [
        asdict(column) | {"hidden": column.hidden or (column.spare and _is_constant(rows, index))}
        for index, column in enumerate(columns)
    ]
    data = {"columns": shown, "rows": rows, "classes": {index: text for index, text in enumerate(classes) if text}}
    head = "".join(f'<th scope="col">{escape(column.name)}</th>' for column in columns)
    table = (
        f'<table class="grid" id="{name}" data-what="{what}"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody></tbody></table>"
    )
    return (
        f'<div class="controls" data-table="{name}"><div class="filter"><input type="search" aria-label="Filter {what}" '
        f'placeholder="Filter, for example: {escape(example)}"><span class="menus"></span>'
        '<output class="soft"></output></div><div class="tools"></div></div>'
        f'{region(table, caption)}<p class="more" id="{name}-more"></p>'
        "<noscript><p>The rows of this table are drawn by a script. The tables beside this page have them too.</p></noscript>"
        f'<script type="application/json" id="{name}-data">{embedded(data)}</script>'
    )


def _is_constant(rows: list[list[Entry]], index: int) -> bool:
    """Whether three or more rows have an entry in a column, all of them the same."""
    there = [row[index] for row in rows if index < len(row) and not (isinstance(row[index], dict) and "w" in row[index])]
    return len(there) > 2 and all(one == there[0] for one in there)


def embedded(data: object) -> str:
    """JSON that may stand in a page: nothing in it ends the element that holds it."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
