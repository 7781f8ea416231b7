"""What the measurements say: the paper's claims, and the published numbers beside ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from lorcbench.report import tally
from lorcbench.report.agreement import Agreement, Ordering, agreements
from lorcbench.report.claims import Verdict
from lorcbench.report.conventions import Candidate
from lorcbench.report.page.cells import NAMES as AXES
from lorcbench.report.page.grid import Column, Entry, entry, grid, number
from lorcbench.report.page.grid import chip as grid_chip
from lorcbench.report.page.parts import MISSING, NOTHING, chip, method_cell, region, table, value
from lorcbench.report.scorecard import Row, precision
from lorcbench.report.seeds import Spread
from lorcbench.report.sources import Beside, conflicting, sentence
from lorcbench.report.sources import Entry as Printed
from lorcbench.report.spelling import number as spelled
from lorcbench.report.spelling import percent
from lorcbench.report.tally import Claim
from lorcbench.study.published import PAPER, REPRODUCTION, SOURCES


def claims(verdicts: list[Verdict]) -> str:
    """Claims with the count of their tests; the evidence unfolds."""
    found = tally.claims(verdicts)
    if not found:
        return ""
    blocks = "".join(map(_claim, found))
    return f'<p class="note">{escape(_claims_note(verdicts))}</p>{region(blocks, "Claims")}'


def _claims_note(verdicts: list[Verdict]) -> str:
    """What is tested, on what, and which tests count."""
    note = (
        "Each claim is tested wherever the study has the cells for it; unfold one for its evidence. A claim that no table of "
        "the paper makes is marked as our extrapolation. Some tests are shown but not counted, since they repeat another one: "
        "those with cached statistics, with further seeds, and of several models together. Tests of models with planted "
        f"outliers are not counted either. Counted are {tally.control(verdicts)}. Each test has a verdict by itself; where "
        "some do not survive Holm, the claim says how many do."
    )
    if any(verdict.in_print for verdict in verdicts):
        note += " “As printed” says that the paper's numbers of the same model come out the same way, for or against the claim."
    if any(verdict.standin for verdict in verdicts):
        note += " On stand-ins a verdict says what holds for them; the paper speaks of models a thousand times larger."
    return note


def _claim(claim: Claim) -> str:
    """One claim with its tests."""
    chips = " ".join(chip(name, text) for name, text in claim.counts().items())
    rows = "".join(map(_verdict, claim.verdicts))
    ours = f" {chip('derived', 'our extrapolation')}" if claim.is_ours else ""
    source = f' <small class="soft">{escape(claim.source)}</small>' if claim.source and not claim.is_ours else ""
    note = f' <small class="soft">({escape(claim.note)})</small>' if claim.note else ""
    return (
        f'<details class="claim"><summary><span>{escape(claim.text)}{note}{source}{ours}</span>{chips}</summary>'
        f"<table><caption>Tests of: {escape(claim.text)}</caption><tbody>{rows}</tbody></table></details>"
    )


def _verdict(verdict: Verdict) -> str:
    """The row of one test: where, how it came out, and the numbers, those in print too."""
    chips = chip(verdict.verdict)
    if verdict.agreement:
        chips += f" {chip('ok' if verdict.agreement == 'as printed' else 'failed', verdict.agreement)}"
    remarks = []
    if not verdict.counted:
        remarks.append(f"not counted: {'outliers were planted' if verdict.planted else 'it repeats another test'}")
    elif verdict.familywise != verdict.verdict:
        remarks.append("open after Holm")
    remark = f"<small>{'; '.join(remarks)}</small>" if remarks else ""
    in_print = f"<small>in print: {escape(verdict.in_print)}</small>" if verdict.in_print else ""
    return (
        f'<tr><th scope="row"><code>{escape(verdict.scope)}</code></th><td>{chips}{remark}</td>'
        f"<td>{escape(verdict.evidence)}{in_print}</td></tr>"
    )


def spreads(found: list[Spread]) -> str:
    """How far rises move with seeds, beside the intervals, which do not see that."""
    heads = ["model", "recipe", "PPL", "interval", "standard deviation", "seeds", "of"]
    rows = "".join(
        f'<tr><th scope="row">{escape(spread.cell.model)}</th>{method_cell(spread.recipe)}'
        f"{value(spread.rise, lambda rise: spelled(rise, '+'))}{value(spread.half_width, lambda half: '±' + spelled(half))}"
        f"{value(spread.sd, spelled)}{value(len(spread.seeds), str)}<td>{escape(spread.seeds_of)}</td></tr>"
        for spread in found
    )
    note = (
        "The rise of the mean perplexity over full precision, mean over the seeds. The interval is of the choice of test text; "
        "the standard deviation is that of one seed of the calibration, or of the training of a stand-in."
    )
    return f'<p class="note">{note}</p>{table(heads, rows, "Spread over seeds", heads[2:6])}' if found else ""


def scorecard(rows: list[Row], ordered: list[Ordering], beside: Sequence[Beside] = ()) -> str:
    """Every measured number that others printed too: how much agrees, which tables keep their order, and all sources in a row.

    Args:
        rows: of the scorecard.
        ordered: of the tables of papers.
        beside: the measured numbers, each with all its sources.
    """
    if not rows and not beside:
        return ""
    kinds = "".join(map(_agreement, agreements(rows)))
    kinds += "".join(_agreement(one, " (reproductions)") for one in agreements(rows, REPRODUCTION))
    heads = ["kind of cell", "numbers", "within tolerance", "median difference"]
    orders = "".join(_ordering(ordering) for ordering in ordered if ordering.n > 2 or ordering.pairs)
    order_heads = ["table", "model", "cells", "rank correlation", "pairs of methods that agree"]
    note = (
        "The same perplexity, measured here and in print. Numbers are comparable only under the protocol that the source used; "
        "the tolerance is that of the kind of cell. Class 1 is a rise of the mean PPL of at most 0.1, class 2 of at most 0.5. "
        f"{precision(rows)}"
    )
    return (
        f'<p class="note">{escape(note)}</p>{table(heads, kinds, "How much agrees with print", heads[1:]) if kinds else ""}'
        + (table(order_heads, orders, "Order within the papers' tables", order_heads[2:]) if orders else "")
        + _conflicts(beside)
        + _side_by_side(beside)
    )


def _conflicts(beside: Sequence[Beside]) -> str:
    """Where sources contradict each other about numbers of this study."""
    told = conflicting(beside)
    if not told:
        return ""
    heads = ["model", "method", "weight", "corpus", "measured", "the sources"]
    rows = "".join(
        f'<tr><th scope="row">{escape(one.cell["model"])}</th>{method_cell(one.cell["method"])}'
        f"<td>{escape(one.cell['weight'])}</td><td>{escape(one.corpus)}</td>{value(one.measured, _ppl)}"
        f"<td>{escape(one.conflict.text())}</td></tr>"
        for one in told
    )
    return f'<p class="note">{escape(sentence(told))}</p>{table(heads, rows, "Sources that contradict each other", heads[4:5])}'


def _side_by_side(beside: Sequence[Beside]) -> str:
    """One row per measured number, one column per source."""
    if not beside:
        return ""
    sources = [source for source in SOURCES if any(one.of(source) for one in beside)]
    titles = [SOURCES[source].title for source in sources]
    columns = [Column(name, names=name != "agrees") for name in (*AXES, "corpus", "agrees")]
    columns += [Column(name, numeric=True) for name in ("measured", *titles, "tolerance in %", "class", "class in print")]
    note = "Under each number: by how much the measured one differs, and where it stands."
    if apart := [SOURCES[source].title for source in sources if SOURCES[source].kind == REPRODUCTION]:
        note += f" {', '.join(apart)}: a reproduction, not a paper; “agrees” and the counts of papers leave it out."
    if apart := [SOURCES[source].title for source in sources if SOURCES[source].protocol is None]:
        note += f" {', '.join(apart)}: other number formats and a protocol of its own; shown, and compared with nothing."
    rows = [_row(one, sources) for one in beside]
    caption = "Measured and published numbers side by side"
    body = grid("score-table", columns, rows, "opt-125m gptq wikitext2", caption, "numbers")
    return f'<p class="note">{escape(note)}</p>{body}'


def fingerprint(candidates: list[Candidate]) -> str:
    """Which convention that the papers leave open comes closest to their numbers."""
    rows = "".join(
        f'<tr><th scope="row">{escape(candidate.question)}</th><td>{escape(candidate.answer)}</td>{value(candidate.n, str)}'
        f"{value(candidate.distance, _percent)}{value(candidate.farthest, _percent)}</tr>"
        for candidate in candidates
    )
    heads = ["question", "answer", "numbers", "mean distance", "farthest"]
    note = "What the papers leave unsaid, answered by the published numbers: of each question, the closest answer first."
    return f'<p class="note">{note}</p>{table(heads, rows, "Conventions, the closest first", heads[2:])}' if candidates else ""


def _percent(distance: float) -> str:
    return f"{100 * distance:.2f} %"


def _agreement(agreement: Agreement, more: str = "") -> str:
    """The row of a kind of cells."""
    numbers = value(agreement.count, str) + value(agreement.within, str) + value(agreement.median, _percent)
    return f'<tr><th scope="row">{escape(agreement.kind + more)}</th>{numbers}</tr>'


def _ordering(ordering: Ordering) -> str:
    """The row of a table of a paper and a model."""
    correlation = None if math.isnan(ordering.spearman) else ordering.spearman
    pairs = f'<td class="num">{ordering.agreeing} of {ordering.pairs}</td>' if ordering.pairs else MISSING
    return (
        f'<tr><th scope="row">{escape(ordering.table)}</th><td>{escape(ordering.scope)}</td>{value(ordering.n, str)}'
        f"{value(correlation, '{:.2f}'.format)}{pairs}</tr>"
    )


def _row(one: Beside, sources: list[str]) -> list[Entry]:
    """The row of a number that others printed too."""
    cell, row = one.cell, one.row
    lorc = f"r{cell['rank']}" if not cell["rank"] else f"r{cell['rank']} {cell['lorc']}"
    method = entry(cell["method"], s=["derived"] if row and row.derived else [])
    classes: list[Entry] = [NOTHING, NOTHING]
    if row:
        measured = f"{row.class_measured}{' open' if row.class_open else ''}" if row.class_measured else NOTHING
        classes = [measured, number(row.class_published, str)]
    return [
        *(cell["model"], method, cell["weight"], cell["activation"], lorc, one.corpus),
        _agrees(one),
        number(one.measured, _ppl),
        *(_entries(one.of(source)) for source in sources),
        number(row.tolerance if row else None, _bound),
        *classes,
    ]


def _agrees(one: Beside) -> Entry:
    """Whether the papers' numbers are met: all, some or none of them; nothing where no paper's is compared."""
    papers = [entry for entry in one.entries if SOURCES[entry.source].kind == PAPER and entry.within is not None]
    met = [entry.within for entry in papers if not entry.suspect]
    if not met:
        return NOTHING
    if any(met) and not all(met):
        return grid_chip("undecided", "some")
    return grid_chip("supported", "yes") if all(met) else grid_chip("contradicted", "no")


def _entries(printed: list[Printed]) -> Entry:
    """What one source prints of a number, and by how much the measured one differs."""
    if not printed:
        return NOTHING
    below = []
    for place, one in enumerate(printed):
        below += [_ppl(one.ppl)] if place else []
        below += [] if math.isnan(one.relative) else [percent(one.relative, 2)]
        below += [one.table.removeprefix(f"{SOURCES[one.source].title} "), *(["suspect"] if one.suspect else [])]
    return entry(_ppl(printed[0].ppl), printed[0].ppl if math.isfinite(printed[0].ppl) else None, s=below)


def _ppl(ppl: float) -> str:
    return spelled(ppl) if math.isfinite(ppl) else "diverged"


def _bound(share: float) -> str:
    return f"{100 * share:.1f}"
