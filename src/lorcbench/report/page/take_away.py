"""What can be taken away: the cells on the fronts, a field for a budget, and the command that exports each of them."""

from __future__ import annotations

import json
from html import escape

from lorcbench.report import budget
from lorcbench.report.budget import Budget, Choice
from lorcbench.report.page.parts import MISSING, table
from lorcbench.report.recommend import BUDGETS
from lorcbench.report.spelling import number, percent

_HEADS = ("model", "up to", "recipe, and the command that exports it", "bits per weight", "MB", "ΔPPL", "ΔPPL in %")
_NUMERIC = ("bits per weight", "MB", "ΔPPL", "ΔPPL in %")
_LIMITED = tuple(dict.fromkeys(quantity for quantity, _ in budget.UNITS.values()))


def chosen(choices: list[Choice]) -> str:
    """The field and the table; "" where nothing was quantized.

    The script of the page hides the rows that a budget excludes, and all but the best of each budget until they are asked for.
    """
    fronts = budget.fronts(choices)
    if not fronts:
        return ""
    rows = ""
    for index, front in enumerate(fronts.values()):
        usual = _usual(front)
        rows += "".join(_row(choice, index, usual.get(choice.cell)) for choice in front)
    field = (
        f'<div class="budget" id="budget" data-units="{escape(json.dumps(budget.UNITS))}" '
        f'data-sizes="{" ".join(budget.SIZES)}" data-expected="{escape(budget.EXPECTED)}">'
        '<label for="budget-field">At most</label> '
        '<input id="budget-field" type="search" autocomplete="off" spellcheck="false" placeholder="4.25" '
        'aria-describedby="budget-help"> <label><input id="budget-all" type="checkbox"> '
        f'all {len(choices)} cells, not the best alone</label> <output class="soft" for="budget-field"></output></div>'
    )
    study = choices[0].study
    note = (
        "Per model and budget the cell that loses least, the largest first. "
        f'<span id="budget-help">For another budget type {escape(budget.EXPECTED)}.</span> '
        "Of the cells within a budget of size, the one of least loss is best; within one of loss, the smallest. "
        "The other cells are those on the front of their model: no other cell is at least as good in both size and perplexity, "
        "and better in one. "
        "MB (10⁶ bytes) are what the command writes, embeddings and head included, without the tokenizer and small files. "
        "An export holds factors of LoRC in 16 or 32 bits, so a cell with LoRC may take more MB than one of more bits. "
        f"On the terminal: <code>lorcbench recommend {escape(study)} 4.25</code>"
    )
    body = table(list(_HEADS), rows, "Cells that can be taken away", _NUMERIC, name="choices")
    whole = "; ".join(f"{model} {size}" for model, size in budget.full_precision(choices).items())
    originals = f"<p>In full precision: {escape(whole)}.</p>" if whole else ""
    return f'<p class="note">{note}</p>{originals}{field}{body}'


def _usual(front: list[Choice]) -> dict[str, float]:
    """The best cell of each of the usual budgets by its key, with the smallest budget of which it is that."""
    best: dict[str, float] = {}
    for most in BUDGETS:
        if fitting := budget.within(front, Budget(f"{most:g}", "bits_per_weight", most)):
            best.setdefault(fitting[0].cell, most)
    return best


def _row(choice: Choice, front: int, usual: float | None) -> str:
    """A choice; its attributes have the quantities that a budget limits, to the last digit.

    Args:
        usual: the usual budget of which it is the best; None if it is none's.
    """
    limited = {name: getattr(choice, name) for name in (*_LIMITED, "ppl")}
    data = "".join(f' data-{name}="{"" if value is None else repr(value)}"' for name, value in limited.items())
    run = "" if choice.activation == "a16" else f"<small>run with {escape(choice.activation)}</small>"
    more = "" if choice.usable else "<small>not usable: it more than doubles the perplexity</small>"
    if choice.alike:
        names = ", ".join(f"<code>{escape(key.partition('/')[2])}</code>" for key in choice.alike)
        more += f"<small>not told apart from the smaller {names}</small>"
    unpacked = f"<small>{escape(note).replace(': ', ':<br>')}</small>" if (note := budget.not_packed(choice)) else ""
    size = MISSING if choice.megabytes is None else f'<td class="num">{number(choice.megabytes)}{unpacked}</td>'
    # A command may break between its words, and nowhere else: half a name is read as another one.
    command = " ".join(f"<span>{escape(word)}</span>" for word in choice.export.split(" "))
    return (
        f'<tr data-front="{front}"{data}{" data-usual" if usual else ""}><th scope="row">{escape(choice.model)}{run}</th>'
        f"<td>{f'{usual:g} bits' if usual else ''}</td>"
        f'<td class="wrap"><b>{escape(choice.recipe)}</b> <span class="chip ok" hidden>best</span>{more}'
        f'<code class="command">{command}</code></td>'
        f'<td class="num">{choice.bits_per_weight:.2f}</td>{size}'
        f"{_change(number(choice.delta_ppl, '+'), number(choice.delta_ppl_low, '+'), number(choice.delta_ppl_high, '+'))}"
        f"{_change(*(percent(share, 2).removesuffix(' %') for share in (choice.rise, choice.rise_low, choice.rise_high)))}</tr>"
    )


def _change(value: str, low: str, high: str) -> str:
    """A change with its interval."""
    return f'<td class="num">{value} <span class="interval">[{low}, {high}]</span></td>'
