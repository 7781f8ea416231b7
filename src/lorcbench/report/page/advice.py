"""What to use: the recommendations over all models of a kind, and model by model."""

from __future__ import annotations

from html import escape

from lorcbench.report import headline
from lorcbench.report.comparison import Change
from lorcbench.report.findings import Findings
from lorcbench.report.page.parts import table
from lorcbench.report.recommend import Advice, Recommendation, recommend
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell

ABREAST = 6  # models that stand side by side; of more each has a row


def what_to_use(findings: Findings) -> str:
    """One line per budget, for each kind of model; "" where nothing was quantized."""
    tables = [_advice(part) for part in findings.advice if part.recommendations]
    if not tables:
        return ""
    sentences = " ".join([headline.rank_sentence(findings.rank_costs), findings.equal_bits]).strip()
    lorc = f"<p>{escape(sentences)}</p>" if sentences else ""
    note = (
        "Of all recipes that fit a budget on every model, the one of least mean rise of the mean PPL over full precision. "
        "Bits per weight count all that is stored: codes, scales, zero points and factors. "
        f"{findings.codes} {headline.criterion()}"
    )
    return f'{"".join(tables)}<p class="note">{note}</p>{lorc}'


def _advice(advice: Advice) -> str:
    """The recommendations for models of one kind."""
    several = len(advice.models) > 1
    heads = ["up to", "use", "bits per weight", "rise of the mean PPL", *(["over models"] if several else [])]
    rows = "".join(_recommendation(one, several) for one in advice.recommendations)
    about = headline.about(advice).partition(":")[0]
    title = f'<p class="soft">For {escape(about)}</p>'
    return title + table(heads, rows, f"What to use for {about}")


def _recommendation(one: Recommendation, several: bool) -> str:
    """The line of a budget."""
    if not one.usable:
        columns = 4 if several else 3
        said = escape(headline.none_usable(one).removeprefix(headline.NONE_USABLE))
        return (
            f'<tr><th scope="row">{one.budget:g} bits</th>'
            f'<td class="wrap" colspan="{columns}"><b>{headline.NONE_USABLE}</b>{said}</td></tr>'
        )
    mean, _, interval = headline.mean_loss(one).partition(" [")
    remark = headline.remark(one).strip(" ()")
    small = f"<small>{escape(remark)}</small>" if remark else ""
    spread = f"<td>{escape(headline.spread(one))}</td>" if several else ""
    return (
        f'<tr><th scope="row">{one.budget:g} bits</th><td class="wrap"><b>{escape(one.words)}</b>{small}</td>'
        f"<td>{escape(headline.size(one).removesuffix(' bits'))}</td>"
        f'<td><b>{escape(mean)}</b> <span class="interval">[{escape(interval)}</span></td>{spread}</tr>'
    )


def by_model(results: list[CellResult], changes: dict[Cell, Change], advice: list[Advice]) -> str:
    """Per budget the best cell of each model by itself, from its own front; "" unless there are several models."""
    columns: dict[str, dict[float, Recommendation]] = {}
    for part in advice:
        for model in part.models:
            own = [result for result in results if result.cell.model == model]
            columns[model] = {one.budget: one for one in recommend(own, changes, activation=part.activation)}
    budgets = sorted({budget for column in columns.values() for budget in column})
    if len(columns) < 2 or not budgets:
        return ""
    names = [f"{budget:g} bits" for budget in budgets]
    entries = [[_own(columns[model], budget) for model in columns] for budget in budgets]
    first, across, down = "up to", list(columns), names
    if len(columns) > ABREAST:
        first, across, down, entries = "model", names, list(columns), [list(row) for row in zip(*entries, strict=True)]
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(row)}</tr>' for name, row in zip(down, entries, strict=True)
    )
    note = (
        "The cell of lowest mean PPL within a budget; no other cell of the model is at least as good in both bits and mean "
        "PPL, and better in one. Intervals are of the difference to full precision. A cell is not told apart if the interval "
        "of its difference to the cell of the next smaller budget contains zero."
    )
    body = table([first, *across], rows, "The best cell of each model within a budget")
    return f'<h3>Each model by itself</h3><p class="note">{note}</p>{body}'


def _own(column: dict[float, Recommendation], budget: float) -> str:
    """A model's own best cell within a budget."""
    if budget not in column:
        return '<td class="soft">no better cell</td>' if any(other < budget for other in column) else "<td>–</td>"
    one = column[budget]
    if not one.usable:
        return f'<td class="wrap">{escape(headline.none_usable(one))}</td>'
    mean, _, interval = headline.mean_loss(one).partition(" [")
    numbers = f"<b>{escape(mean)}</b> <span class='interval'>[{escape(interval)}</span>"
    apart = "" if one.is_gain else "<small>not told apart from that of the next smaller budget</small>"
    return f'<td class="wrap">{numbers}{apart}<small>{escape(headline.size(one))}: {escape(one.words)}</small></td>'
