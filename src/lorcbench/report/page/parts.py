"""Pieces of HTML that several sections are made of. Every text from outside goes through `escape`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape

SYMBOLS = {"supported": "✓", "contradicted": "✗", "undecided": "?"}
NOTHING = "–"
MISSING = f'<td class="num">{NOTHING}</td>'


def table(heads: list[str], rows: str, caption: str, numeric: Iterable[str] = (), name: str = "") -> str:
    """A table as wide as its content.

    Args:
        rows: the body, as HTML.
        caption: what the table is, for readers who do not see it beside its heading; no other table has the same.
        numeric: the heads of columns that are set to the right.
        name: its id, or "".
    """
    cells = "".join(f"<th{' class=num' if head in numeric else ''} scope=col>{escape(head)}</th>" for head in heads)
    own = f' id="{name}"' if name else ""
    body = f"<table{own}><caption>{escape(caption)}</caption><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>"
    return region(body, caption, "scroll fit")


def region(body: str, label: str, css: str = "scroll") -> str:
    """A box that scrolls, which the keyboard reaches."""
    return f'<div class="{css}" role="region" aria-label="{escape(label)}" tabindex="0">{body}</div>'


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
    """A cell with a number."""
    return MISSING if number is None else f'<td class="num">{escape(spell(number))}</td>'
