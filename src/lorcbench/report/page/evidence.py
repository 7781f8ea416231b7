"""What the measurements say: the paper's claims, and the published numbers beside ours."""

from __future__ import annotations

import math
from collections import Counter
from html import escape

from lorcbench.report.claims import VERDICTS, Verdict, number, percent
from lorcbench.report.conventions import Candidate
from lorcbench.report.page.parts import chip, method_cell, sortable, table, value
from lorcbench.report.scorecard import TOLERANCES, Ordering, Row


def claims(verdicts: list[Verdict]) -> str:
    """Claims with the count of their verdicts; the evidence unfolds."""
    blocks = []
    for claim in dict.fromkeys(verdict.claim for verdict in verdicts):
        members = [verdict for verdict in verdicts if verdict.claim == claim]
        counts = Counter(member.verdict for member in members)
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


def scorecard(rows: list[Row], ordered: list[Ordering]) -> str:
    """Every measured number that was printed too, how far off it is, and whether tables keep their order."""
    if not rows:
        return ""
    kinds = "".join(_kind(kind, chosen) for kind in TOLERANCES if (chosen := [row for row in rows if row.kind == kind]))
    heads = ["kind of cell", "numbers", "within tolerance", "median difference"]
    orders = "".join(_ordering(one) for one in ordered if one.n > 2 or one.pairs)
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
        f"<tr><td>{escape(one.question)}</td><td>{escape(one.answer)}</td>{value(one.n, str)}"
        f"{value(one.distance, _percent)}{value(one.farthest, _percent)}</tr>"
        for one in candidates
    )
    heads = ["question", "answer", "numbers", "mean distance", "farthest"]
    note = "What the papers leave unsaid, answered by the published numbers: of each question, the closest answer first."
    return f'<p class="note">{note}</p>{table(heads, rows, numeric=heads[2:])}' if candidates else ""


def _percent(distance: float) -> str:
    return f"{100 * distance:.2f} %"


def _kind(kind: str, rows: list[Row]) -> str:
    shares = sorted(abs(row.relative) for row in rows if row.relative == row.relative)
    median = shares[len(shares) // 2] if shares else None
    within = sum(row.within for row in rows)
    spelled = value(median, lambda share: f"{100 * share:.2f} %")
    return f"<tr><td>{escape(kind)}</td>{value(len(rows), str)}{value(within, str)}{spelled}</tr>"


def _ordering(one: Ordering) -> str:
    correlation = None if math.isnan(one.spearman) else one.spearman
    pairs = f'<td class="num">{one.agreeing} of {one.pairs}</td>' if one.pairs else '<td class="num">–</td>'
    return (
        f"<tr><td>{escape(one.table)}</td><td>{escape(one.scope)}</td>{value(one.n, str)}"
        f"{value(correlation, '{:.2f}'.format)}{pairs}</tr>"
    )


def _row(row: Row) -> str:
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
