"""Measured beside published: every cell that a paper printed too, what differs, and whether that is within reason."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import combinations

import numpy as np

from lorcbench.config import compose
from lorcbench.core.formats import WeightFormat
from lorcbench.report.claims import full_precision, number, percent
from lorcbench.report.derived import base_method
from lorcbench.report.intervals import mean_perplexity_difference, perplexity
from lorcbench.report.results import CellResult
from lorcbench.study import published
from lorcbench.study.cells import Study
from lorcbench.study.published import CORPORA, Published

CALIBRATION = "c4-128x2048"
DIVERGED = 10.0  # times full precision: beyond it, a model is broken and its perplexity says no more than that
_SMALL = 1e9  # weights of the blocks


@dataclass(frozen=True)
class Tolerance:
    """How far a measured perplexity may be from a published one, as a share of it.

    Attributes:
        kind: of cells.
        share: for models of a billion weights and more, at 4 bits and more.
        small: below a billion.
        low_bits: factor for 3 bits and fewer.
        reason: why so much.
    """

    kind: str
    share: float
    small: float
    low_bits: float
    reason: str


TOLERANCES = {
    tolerance.kind: tolerance
    for tolerance in (
        Tolerance("full precision", 0.002, 0.002, 1, "same checkpoint, text and windows: arithmetic and printed digits alone"),
        Tolerance("activations", 0.02, 0.02, 1, "no choice but the quantizer's convention, which outliers of a token magnify"),
        Tolerance("rtn", 0.01, 0.01, 5, "no choice but the quantizer's convention; near divergence that decides much"),
        Tolerance("gptq", 0.015, 0.03, 2, "two papers' GPTQ differ by 4.5 % on OPT-125m, 0.2 % on OPT-13b; seeds by 0.2 %"),
        Tolerance("distillation", 0.03, 0.05, 2, "the steps, the inputs of a block and the way of choosing are unstated"),
    )
}


@dataclass(frozen=True)
class Row:
    """One measured perplexity beside one published one.

    Attributes:
        model, method, weight, activation, lorc, rank: the measured cell, its quantizer convention included.
        corpus: ``wikitext2``, ``ptb``, ``c4`` or ``mean``.
        measured, published: perplexities; infinite where the table says that the model diverged.
        difference, relative: measured - published, and that as a share of published (NaN if that is infinite).
        tolerance: the largest `relative`, up or down, that counts as the same number.
        within: whether the difference is inside the tolerance; two diverged models agree.
        class_measured, class_published: sensitivity class 1, 2 or 3 by the loss of the mean to full precision; None on rows of
            single corpora and where full precision is missing.
        table: where the published number stands.
        derived: whether the measured one was chosen from several by its own perplexity, as the paper chose.
        class_open: whether the interval of the measured loss straddles a bound of the classes.
        calibration: of the measured cell.
        source: of the published number, ``zeroquant-v2`` or ``gptq``.
        kind: of `TOLERANCES`.
    """

    model: str
    method: str
    weight: str
    activation: str
    lorc: str
    rank: int
    corpus: str
    measured: float
    published: float
    difference: float
    relative: float
    tolerance: float
    within: bool
    class_measured: int | None
    class_published: int | None
    table: str
    derived: bool
    class_open: bool = False
    calibration: str = "none"
    source: str = "zeroquant-v2"
    kind: str = ""

    @property
    def recipe(self) -> tuple:
        """What the published number is of: formats without convention, rank, bits of the factors, learning rate, method."""
        return (*_recipe(self.weight, self.activation, self.lorc, self.rank), _rate(self.method), base_method(self.method))


@dataclass(frozen=True)
class Ordering:
    """Whether the cells of one table come in the published order.

    Attributes:
        table: where the published numbers stand.
        scope: the model.
        n: cells compared.
        spearman: rank correlation of measured and published perplexity over them; NaN for fewer than three.
        pairs: pairs of methods at one format and rank whose published numbers differ.
        agreeing: those of them whose measured numbers differ the same way.
    """

    table: str
    scope: str
    n: int
    spearman: float
    pairs: int = 0
    agreeing: int = 0


COLUMNS = tuple(Row.__dataclass_fields__)


def compare(study: Study, results: list[CellResult], resamples: int = 2000) -> list[Row]:
    """Every measured cell that has a published counterpart: one row a published number.

    Args:
        study: of the results; its protocol says which source's numbers are comparable.
        results: measured cells, and derived ones if they are to be compared too.
        resamples: of the bootstrap that says whether a class is open.
    """
    baselines, rows = full_precision(results), []
    for result in results:
        if result.status != "ok":
            continue
        numbers = _numbers(result)
        for row in counterparts(result, study.eval):
            if row.corpus in numbers:
                rows.append(_row(result, row, numbers[row.corpus], baselines.get(result.cell.model), resamples))
    return rows


def counterparts(result: CellResult, protocol: str) -> list[Published]:
    """The published numbers of a cell or derived row, measured by `protocol`: same model, method, formats, rank and data."""
    cell = result.cell
    if not _published_calibration(cell.calibration):
        return []
    place = (cell.model, *_recipe(cell.weight, cell.activation, cell.lorc, cell.rank), base_method(cell.method))
    printed = _printed(protocol).get(place, [])
    return [row for row in printed if row.lr == _rate(cell.method) and row.seed in (None, result.seed)]


@cache
def _printed(protocol: str) -> dict[tuple, list[Published]]:
    """What may be compared under a protocol, by model, recipe and method."""
    found = defaultdict(list)
    for row in published.load():
        if row.counts_under(protocol) and not row.misprinted:
            found[row.model, row.weight, row.activation, row.rank, row.lorc_bits, row.method].append(row)
    return found


def _recipe(weight: str, activation: str, lorc: str, rank: int) -> tuple[str, str, int, int | None]:
    """Formats as a paper prints them, rank, and bits of the factors."""
    bits = compose.load("lorc", lorc).bits if rank else None
    return published.without_convention(weight), published.without_convention(activation), rank, bits


def _published_calibration(name: str) -> bool:
    """Whether the calibration is the papers' own, whatever its seed."""
    if name == "none":
        return True
    own, paper = (asdict(compose.load("calibration", one)) for one in (name, CALIBRATION))
    return all(own[key] == paper[key] for key in ("corpora", "n_samples", "length"))


def _rate(method: str) -> float | None:
    """The learning rate that a method's name gives."""
    return next((float(part[3:]) for part in method.split("+") if part.startswith("lr=") and part != "lr=auto"), None)


def _numbers(result: CellResult) -> dict[str, float]:
    """Perplexities on the published texts, and their mean if all three are there."""
    texts = [corpus for corpus in result.nll if result.corpora.get(corpus, {}).get("published") is not False]
    numbers = {corpus: _finite(perplexity(result.nll[corpus])) for corpus in texts}
    if set(numbers) == set(CORPORA):
        numbers["mean"] = _finite(result.mean_ppl)
    return numbers


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _row(result: CellResult, row: Published, measured: float, baseline: CellResult | None, resamples: int) -> Row:
    full = published.full_precision(row.model, published.PROTOCOLS[row.source])
    reference = sum(full.values()) / len(full) if row.corpus == "mean" else full[row.corpus]
    kind, tolerance = _tolerance(row, compose.load("model", row.model).block_weights)
    comparable = math.isfinite(row.ppl)
    relative = measured / row.ppl - 1 if comparable else math.nan
    both_broken = min(measured, row.ppl) > DIVERGED * reference
    own, printed, open_ = None, None, False
    if row.corpus == "mean" and baseline is not None and baseline.cell != result.cell:
        change = mean_perplexity_difference(result.nll, baseline.nll, resamples)
        low, own, high = (published.sensitivity_class(loss) for loss in (change.low, change.value, change.high))
        printed, open_ = published.sensitivity_class(row.ppl - reference), low != high
    of_cell = ("model", "method", "weight", "activation", "lorc", "rank", "calibration")
    return Row(
        **{name: getattr(result.cell, name) for name in of_cell},
        **{name: getattr(row, name) for name in ("corpus", "table", "source")},
        measured=measured,
        published=row.ppl,
        difference=measured - row.ppl if comparable else math.nan,
        relative=relative,
        tolerance=tolerance,
        within=both_broken or abs(relative) <= tolerance,
        class_measured=own,
        class_published=printed,
        class_open=open_,
        derived=bool(result.derived),
        kind=kind,
    )


def _tolerance(row: Published, weights: int) -> tuple[str, float]:
    """The kind of `TOLERANCES`, and the share for this number."""
    if row.method == "none":
        kind = "full precision" if row.activation == "a16" else "activations"
    else:
        kind = row.method if row.method in TOLERANCES else "distillation"
    tolerance = TOLERANCES[kind]
    low = WeightFormat.parse(row.weight).bits <= 3
    return kind, (tolerance.small if weights < _SMALL else tolerance.share) * (tolerance.low_bits if low else 1)


def orderings(rows: list[Row]) -> list[Ordering]:
    """One record a table and model, over the means, or WikiText-2 where a table has no mean.

    Of several measured cells of one published number, the derived one counts where there is one (it was chosen as the paper
    chose), and else the study's first.
    """
    tables: dict[tuple[str, str], dict[tuple, Row]] = {}
    for row in sorted(rows, key=lambda row: (row.corpus != "mean", not row.derived)):
        if row.corpus == ("mean" if row.source == "zeroquant-v2" else "wikitext2"):
            tables.setdefault((row.table, row.model), {}).setdefault(row.recipe, row)
    found = []
    for (table, model), chosen in tables.items():
        members = list(chosen.values())
        pairs = list(_method_pairs(members))
        correlation = spearman([row.measured for row in members], [row.published for row in members])
        found.append(Ordering(table, model, len(members), correlation, len(pairs), sum(pairs)))
    return found


def _method_pairs(rows: list[Row]) -> Iterator[bool]:
    """For every pair of methods at one format and rank whose published numbers differ: whether the measured ones agree."""
    for one, other in combinations(rows, 2):
        if one.recipe[:-1] == other.recipe[:-1] and one.published != other.published:
            yield (one.measured < other.measured) == (one.published < other.published)


def spearman(one: list[float], other: list[float]) -> float:
    """Rank correlation, equal values sharing their mean rank; NaN for fewer than three values, or if one list is constant."""
    if len(one) < 3:
        return math.nan
    ranks = []
    for values in (np.asarray(one), np.asarray(other)):
        below, equal = (values[:, None] > values).sum(1), (values[:, None] == values).sum(1)
        ranks.append(below + (equal - 1) / 2 - (len(values) - 1) / 2)
    length = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float((ranks[0] * ranks[1]).sum() / length) if length else math.nan


def summary(rows: list[Row], ordered: list[Ordering]) -> list[str]:
    """Lines for the terminal: how much agrees, by kind of cell, and what is farthest off; none if nothing is comparable."""
    if not rows:
        return []
    agree = sum(row.within for row in rows)
    lines = [f"  published numbers: {len(rows)} compared, {agree} within tolerance"]
    for kind in TOLERANCES:
        if chosen := [row for row in rows if row.kind == kind]:
            shares = sorted(abs(row.relative) for row in chosen if row.relative == row.relative)
            median = f", median difference {100 * shares[len(shares) // 2]:.2f} %" if shares else ""
            lines.append(f"    {kind:15} {sum(row.within for row in chosen)} of {len(chosen)}{median}")
    if classed := [row for row in rows if row.class_measured]:
        same = sum(row.class_measured == row.class_published for row in classed)
        lines.append(f"    {'class':15} {same} of {len(classed)} agree, {sum(row.class_open for row in classed)} open")
    if pairs := sum(ordering.pairs for ordering in ordered):
        lines.append(f"    {'order':15} {sum(ordering.agreeing for ordering in ordered)} of {pairs} pairs of methods agree")
    outside = [row for row in rows if not row.within and row.relative == row.relative]
    for row in sorted(outside, key=lambda row: -abs(math.log1p(row.relative)))[:3]:
        recipe = " ".join([row.model, row.method, row.weight, row.activation, f"r{row.rank}", row.corpus])
        lines.append(f"    off: {recipe}: {number(row.measured)}, published {number(row.published)} ({percent(row.relative)})")
    return lines
