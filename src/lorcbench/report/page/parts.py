"""Pieces of HTML that several sections are made of. Every text from outside goes through `escape`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape

SYMBOLS = {"supported": "✓", "contradicted": "✗", "undecided": "?"}
MISSING = '<td class="num">–</td>'


def table(heads: list[str], rows: str, numeric: Iterable[str] = ()) -> str:
    """A table as wide as its content."""
    cells = "".join(f"<th{' class=num' if head in numeric else ''}>{escape(head)}</th>" for head in heads)
    return f'<div class="scroll fit"><table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>'


def sortable(name: str, heads: list[str], rows: str, numeric: Iterable[str], example: str, what: str = "cells") -> str:
    """A table that sorts by a click on a heading, with a box that filters it and a menu for each column of few words.

    Args:
        name: its id.
        heads: of its columns; those in `numeric` are set to the right.
        rows: the body, as HTML.
        example: what may be typed into the box.
        what: what the rows are, such as ``cells``.
    """
    cells = "".join(
        f'<th{" class=num" if head in numeric else ""}><button type="button">{escape(head)}</button></th>' for head in heads
    )
    return (
        f'<div class="filter" data-table="{name}"><input type="search" aria-label="Filter {what}" '
        f'placeholder="Filter, for example: {escape(example)}"><span class="menus"></span><output class="soft"></output></div>'
        f'<div class="scroll"><table class="sortable" id="{name}" data-what="{what}"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def chip(name: str, text: str = "") -> str:
    """A word with the colour that it has everywhere."""
    symbol = f"{SYMBOLS[name]} " if name in SYMBOLS else ""
    return f'<span class="chip {css_class(name)}">{symbol}{escape(text or name)}</span>'


def css_class(name: str) -> str:
    """A status as a class of the style sheet."""
    return name.replace(" ", "-")


def method_cell(method: str, more: str = "") -> str:
    """A cell with a method's name, which may break before each of its settings."""
    return f'<td class="wrap" data-k="{escape(method)}">{escape(method).replace("+", "<wbr>+")}{more}</td>'


def value(number: float | None, spell: Callable[[float], str]) -> str:
    """A cell with a number; the table sorts by the number, whatever its spelling."""
    return MISSING if number is None else f'<td class="num" data-v="{number!r}">{escape(spell(number))}</td>'
