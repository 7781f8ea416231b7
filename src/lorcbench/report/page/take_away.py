"""What can be taken away: the cells on the fronts, a field for a budget, and the command that exports each of them."""

from __future__ import annotations

import json
from html import escape

from lorcbench.report import budget
from lorcbench.report.budget import Choice
from lorcbench.report.page.parts import MISSING, table
from lorcbench.report.spelling import number, percent

_HEADS = ("model", "recipe", "bits per weight", "MB", "ΔPPL", "ΔPPL in %", "command that exports it")
_NUMERIC = ("bits per weight", "MB", "ΔPPL", "ΔPPL in %")
_LIMITED = tuple(dict.fromkeys(quantity for quantity, _ in budget.UNITS.values()))


def chosen(choices: list[Choice]) -> str:
    """The field and the table; "" where nothing was quantized. The script of the page hides the rows that a budget excludes."""
    fronts = budget.fronts(choices)
    if not fronts:
        return ""
    rows = "".join(_row(choice, index) for index, front in enumerate(fronts.values()) for choice in front)
    field = (
        f'<div class="budget" id="budget" data-units="{escape(json.dumps(budget.UNITS))}" '
        f'data-sizes="{" ".join(budget.SIZES)}" data-expected="{escape(budget.EXPECTED)}">'
        '<label for="budget-field">At most</label> '
        '<input id="budget-field" type="search" autocomplete="off" spellcheck="false" placeholder="4.25" '
        'aria-describedby="budget-help"> <output class="soft" for="budget-field"></output></div>'
    )
    note = (
        "The cells on the front of each model, the largest first: no other cell is at least as good in both size and "
        f'perplexity. <span id="budget-help">Type {escape(budget.EXPECTED)}.</span> '
        "Of those within a budget of size, the one of least loss is called best; within one of loss, the smallest. "
        "MB (10⁶ bytes) are what the command writes, embeddings and head included, without the tokenizer and small files. "
        f"On the terminal: <code>lorcbench recommend {escape(choices[0].study)} 4.25</code>"
    )
    body = table(list(_HEADS), rows, "Cells that can be taken away", _NUMERIC, name="choices")
    return f'<p class="note">{note}</p>{field}{body}'


def _row(choice: Choice, front: int) -> str:
    """A choice; its attributes have the quantities that a budget limits, to the last digit."""
    limited = {name: getattr(choice, name) for name in (*_LIMITED, "ppl")}
    data = "".join(f' data-{name}="{"" if value is None else repr(value)}"' for name, value in limited.items())
    run = "" if choice.activation == "a16" else f"<small>run with {escape(choice.activation)}</small>"
    more = "" if choice.usable else "<small>not usable: it more than doubles the perplexity</small>"
    if choice.alike:
        names = ", ".join(f"<code>{escape(key.partition('/')[2])}</code>" for key in choice.alike)
        more += f"<small>not told apart from the smaller {names}</small>"
    size = MISSING if choice.megabytes is None else f'<td class="num">{number(choice.megabytes)}</td>'
    return (
        f'<tr data-front="{front}"{data}><th scope="row">{escape(choice.model)}{run}</th>'
        f'<td class="wrap"><b>{escape(choice.recipe)}</b> <span class="chip ok" hidden>best</span>{more}</td>'
        f'<td class="num">{choice.bits_per_weight:.2f}</td>{size}'
        f"{_change(number(choice.delta_ppl, '+'), number(choice.delta_ppl_low, '+'), number(choice.delta_ppl_high, '+'))}"
        f"{_change(*(percent(share, 2).removesuffix(' %') for share in (choice.rise, choice.rise_low, choice.rise_high)))}"
        f'<td class="wrap"><code>{escape(choice.export)}</code></td></tr>'
    )


def _change(value: str, low: str, high: str) -> str:
    """A change with its interval."""
    return f'<td class="num">{value} <span class="interval">[{low}, {high}]</span></td>'
