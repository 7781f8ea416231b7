"""What the measurements say: the paper's claims, and the published numbers beside ours."""

from __future__ import annotations

import math
from collections import Counter
from html import escape

from lorcbench.report.agreement import Agreement, Ordering, agreements
from lorcbench.report.claims import VERDICTS, Verdict
from lorcbench.report.conventions import Candidate
from lorcbench.report.page.parts import MISSING, chip, method_cell, sortable, table, value
from lorcbench.report.scorecard import Row
from lorcbench.report.seeds import Spread
from lorcbench.report.spelling import number, percent


def claims(verdicts: list[Verdict]) -> str:
    """Claims with the count of their verdicts; the evidence unfolds."""
    blocks = []
    for claim in dict.fromkeys(verdict.claim for verdict in verdicts):
        members = [verdict for verdict in verdicts if verdict.claim == claim]
        counts = Counter(member.verdict for member in members if not member.planted)
        chips = " ".join(chip(name, f"{counts[name]} {name}") for name in VERDICTS if counts[name])
        rows = "".join(
            f"<tr><td><code>{escape(member.scope)}</code></td><td>{chip(member.verdict)}</td>"
            f"<td>{escape(member.evidence)}</td></tr>"
            for member in members
        )
        source = f' <small class="soft">{escape(members[0].source)}</small>' if members[0].source else ""
        blocks.append(
            f"<details><summary><span>{escape(claim)}{source}</span>{chips}</summary>"
            f"<table><tbody>{rows}</tbody></table></details>"
        )
    note = "Each claim of the paper is tested wherever the study has the cells for it. Unfold one for its evidence."
    if any(verdict.standin for verdict in verdicts):
        note += " On stand-ins a verdict says what holds for them; the paper speaks of models a thousand times larger."
    return f'<p class="note">{note}</p><div class="scroll">{"".join(blocks)}</div>' if blocks else ""


def spreads(found: list[Spread]) -> str:
    """How far rises move with seeds, beside the intervals, which do not see that."""
    heads = ["model", "recipe", "PPL", "interval", "standard deviation", "seeds", "of"]
    rows = "".join(
        f"<tr><td>{escape(spread.cell.model)}</td>{method_cell(spread.recipe)}"
        f"{value(spread.rise, lambda rise: number(rise, '+'))}{value(spread.half_width, lambda half: '±' + number(half))}"
        f"{value(spread.sd, number)}{value(len(spread.seeds), str)}<td>{escape(spread.seeds_of)}</td></tr>"
        for spread in found
    )
    note = (
        "The rise of the mean perplexity over full precision, mean over the seeds. The interval is of the choice of test text; "
        "the standard deviation is that of one seed of the calibration, or of the training of a stand-in."
    )
    return f'<p class="note">{note}</p>{table(heads, rows, numeric=heads[2:6])}' if found else ""


def scorecard(rows: list[Row], ordered: list[Ordering]) -> str:
    """Every measured number that was printed too, how far off it is, and whether tables keep their order."""
    if not rows:
        return ""
    kinds = "".join(map(_agreement, agreements(rows)))
    heads = ["kind of cell", "numbers", "within tolerance", "median difference"]
    orders = "".join(_ordering(ordering) for ordering in ordered if ordering.n > 2 or ordering.pairs)
    order_heads = ["table", "model", "cells", "rank correlation", "pairs of methods that agree"]
    columns = ["model", "method", "weight", "activation", "LoRC", "corpus", "table", "agrees"]
    numbers = ["measured", "published", "difference in %", "tolerance in %", "class", "class in print"]
    note = (
        "The same perplexity, measured here and in print. Rows are comparable only under the protocol that the source used; "
        "the tolerance is that of the kind of cell. Class 1 is a rise of the mean PPL of at most 0.1, class 2 of at most 0.5."
    )
    body = "".join(_row(row) for row in rows)
    return (
        f'<p class="note">{note}</p>{table(heads, kinds, numeric=heads[1:])}'
        + (table(order_heads, orders, numeric=order_heads[2:]) if orders else "")
        + sortable("score-table", columns + numbers, body, numbers, "opt-125m gptq wikitext2", "numbers")
    )


def fingerprint(candidates: list[Candidate]) -> str:
    """Which convention that the papers leave open comes closest to their numbers."""
    rows = "".join(
        f"<tr><td>{escape(candidate.question)}</td><td>{escape(candidate.answer)}</td>{value(candidate.n, str)}"
        f"{value(candidate.distance, _percent)}{value(candidate.farthest, _percent)}</tr>"
        for candidate in candidates
    )
    heads = ["question", "answer", "numbers", "mean distance", "farthest"]
    note = "What the papers leave unsaid, answered by the published numbers: of each question, the closest answer first."
    return f'<p class="note">{note}</p>{table(heads, rows, numeric=heads[2:])}' if candidates else ""


def _percent(distance: float) -> str:
    return f"{100 * distance:.2f} %"


def _agreement(agreement: Agreement) -> str:
    """The row of a kind of cells."""
    numbers = value(agreement.count, str) + value(agreement.within, str) + value(agreement.median, _percent)
    return f"<tr><td>{escape(agreement.kind)}</td>{numbers}</tr>"


def _ordering(ordering: Ordering) -> str:
    """The row of a table of a paper and a model."""
    correlation = None if math.isnan(ordering.spearman) else ordering.spearman
    pairs = f'<td class="num">{ordering.agreeing} of {ordering.pairs}</td>' if ordering.pairs else MISSING
    return (
        f"<tr><td>{escape(ordering.table)}</td><td>{escape(ordering.scope)}</td>{value(ordering.n, str)}"
        f"{value(correlation, '{:.2f}'.format)}{pairs}</tr>"
    )


def _row(row: Row) -> str:
    """The row of a number that was printed too."""
    lorc = f"r{row.rank}" if not row.rank else f"r{row.rank} {row.lorc}"
    method = method_cell(row.method, f" {chip('derived')}" if row.derived else "")
    relative = None if math.isnan(row.relative) else row.relative
    texts = (
        f"<td>{escape(row.weight)}</td><td>{escape(row.activation)}</td><td>{escape(lorc)}</td><td>{escape(row.corpus)}</td>"
    )
    measured = f"{row.class_measured}{' open' if row.class_open else ''}" if row.class_measured else "–"
    agrees = chip("supported", "yes") if row.within else chip("contradicted", "no")
    return (
        f"<tr><td>{escape(row.model)}</td>{method}{texts}<td>{escape(row.table)}</td><td>{agrees}</td>"
        f"{value(row.measured, _ppl)}{value(row.published, _ppl)}{value(relative, _share)}{value(row.tolerance, _bound)}"
        f'<td class="num">{measured}</td>{value(row.class_published, str)}</tr>'
    )


def _ppl(ppl: float) -> str:
    return number(ppl) if math.isfinite(ppl) else "diverged"


def _share(share: float) -> str:
    return percent(share, 2).removesuffix(" %")


def _bound(share: float) -> str:
    return f"{100 * share:.1f}"
