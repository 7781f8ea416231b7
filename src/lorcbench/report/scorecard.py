"""Measured beside published: every cell that others printed too, what differs, and whether that is within reason.

One row per published number. `lorcbench.report.sources` puts the rows of one measured number side by side.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from functools import cache

from lorcbench.config import compose
from lorcbench.config.protocols import HALF, in_float32
from lorcbench.config.variants import Variant
from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.report.comparison import Change
from lorcbench.report.derived import base_method
from lorcbench.report.intervals import perplexity
from lorcbench.report.results import CellResult
from lorcbench.study import published
from lorcbench.study.cells import Cell, Study, activation_format, weight_format
from lorcbench.study.published import CORPORA, PAPER, Published

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
        reason: why that is the right size.
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
        source: of the published number, a key of `lorcbench.study.published.SOURCES`.
        kind: of `TOLERANCES`.
        protocol: of the measured one; it says the precision, too.
        note: what published.csv remarks about the number.
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
    protocol: str = ""
    note: str = ""

    @property
    def suspect(self) -> bool:
        """Whether the published number is hard to believe; then it is shown and not counted."""
        return "suspect" in self.note

    @property
    def recipe(self) -> tuple:
        """What the published number is of: formats without convention, rank, bits of the factors, learning rate, method."""
        return (*recipe(self.weight, self.activation, self.lorc, self.rank), _rate(self.method), base_method(self.method))

    @property
    def diverged_in_print(self) -> bool:
        """Whether the table has no number, so that there is no difference to it."""
        return math.isinf(self.published)

    @property
    def weight_format(self) -> WeightFormat:
        """`weight` as a value."""
        return weight_format(self.weight)

    @property
    def activation_format(self) -> ActivationFormat:
        """`activation` as a value."""
        return activation_format(self.activation)


COLUMNS = tuple(Row.__dataclass_fields__)


def compare(study: Study, results: list[CellResult], changes: dict[Cell, Change]) -> list[Row]:
    """Every measured cell that has a published counterpart: one row per published number.

    Args:
        study: of the results; its protocol says which source's numbers are comparable.
        results: measured cells, and derived ones if they are to be compared too.
        changes: what these cells lost to full precision, which their classes are made of.
    """
    rows = []
    for result in results:
        if result.status != "ok":
            continue
        numbers = _numbers(result)
        for row in counterparts(result, study.eval):
            if row.corpus in numbers:
                measured = _row(result, row, numbers[row.corpus], changes.get(result.cell))
                rows.append(replace(measured, protocol=study.eval))
    return rows


def counted(rows: list[Row], kind: str = PAPER) -> list[Row]:
    """The rows that a count is of: papers and reproductions are never counted together, and suspect numbers not at all."""
    return [row for row in rows if published.SOURCES[row.source].kind == kind and not row.suspect]


def counterparts(result: CellResult, protocol: str) -> list[Published]:
    """The published numbers of a cell or derived row, measured by `protocol`: same model, method, formats, rank and data.

    In which precision it was measured is left out: `precision` says what that means.
    """
    cell = result.cell
    if not _published_calibration(cell.calibration):
        return []
    place = (cell.model, *recipe(cell.weight, cell.activation, cell.lorc, cell.rank), base_method(cell.method))
    printed = _printed(in_float32(protocol)).get(place, [])
    return [row for row in printed if row.lr == _rate(cell.method) and row.seed in (None, result.seed)]


@cache
def _printed(protocol: str) -> dict[tuple, list[Published]]:
    """What may be compared under a protocol, by model, recipe and method."""
    places = defaultdict(list)
    for row in published.load():
        if row.counts_under(protocol) and not row.misprinted:
            places[row.model, row.weight, row.activation, row.lorc, row.rank, row.lorc_bits, row.method].append(row)
    return places


def precision(rows: list[Row]) -> str:
    """In which precision the numbers were measured, and what is known of print's; "" without numbers.

    Stated: full precision is called FP16 (ZeroQuant-V2, GPTQ), one GPU per run (ZeroQuant-V2). GPTQ's code, by whose protocol
    both measured, loads a checkpoint with ``torch_dtype="auto"``; OPT's and most of BLOOM's are float16. It takes the
    cross-entropy in that type too, so that the loss of each window is rounded to 11 bits: about 0.001 nats, up or down.
    """
    sentences = []
    for protocol in dict.fromkeys(row.protocol for row in rows if row.protocol):
        dtype = compose.load("eval", protocol).dtype
        other = {half: name for name, half in HALF.items()}.get(protocol) or HALF[protocol]
        sentences.append(f"Measured here with forward passes in {dtype} ({protocol}; {other} is the other precision).")
    if sentences:
        sentences.append(
            "The papers call full precision FP16 and ran on GPUs; that their forward passes were in float16 is inferred from "
            "GPTQ's code, so the half protocol is nearest to print. Numbers in float32 are held against the same print: the "
            "tolerances leave room for either."
        )
    return " ".join(sentences)


def recipe(weight: str, activation: str, lorc: str, rank: int) -> tuple[str, str, str, int, int | None]:
    """Formats as a paper prints them, and of the correction: its kind, rank, and bits of the factors."""
    correction = compose.load("lorc", lorc) if rank else None
    kind, bits = (correction.kind, correction.bits) if correction else ("none", None)
    return published.without_convention(weight), published.without_convention(activation), kind, rank, bits


def _published_calibration(name: str) -> bool:
    """Whether the calibration is the papers' own, whatever its seed."""
    if name == "none":
        return True
    own = asdict(compose.load("calibration", name))
    paper = asdict(compose.load("calibration", CALIBRATION))
    return all(own[key] == paper[key] for key in ("corpora", "n_samples", "length"))


def _rate(method: str) -> float | None:
    """The learning rate that a method's name gives."""
    rate = Variant.parse(method).setting("lr")
    return None if rate in (None, "auto") else float(rate)


def _numbers(result: CellResult) -> dict[str, float]:
    """Perplexities on the published texts, and their mean if all three are there."""
    texts = [corpus for corpus in result.nll if result.corpora.get(corpus, {}).get("published") is not False]
    numbers = {corpus: _finite(perplexity(result.nll[corpus])) for corpus in texts}
    if set(numbers) == set(CORPORA):
        numbers["mean"] = _finite(result.mean_ppl)
    return numbers


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _row(result: CellResult, row: Published, measured: float, change: Change | None) -> Row:
    """The measured perplexity of a cell beside a published one, with its tolerance and, for means, the classes."""
    full = published.full_precision(row.model, published.PROTOCOLS[row.source])
    reference = sum(full.values()) / len(full) if row.corpus == "mean" else full[row.corpus]
    kind, tolerance = _tolerance(row, result.cell)
    comparable = math.isfinite(row.ppl)
    relative = measured / row.ppl - 1 if comparable else math.nan
    both_broken = min(measured, row.ppl) > DIVERGED * reference
    classes = {"class_measured": None, "class_published": None}
    if row.corpus == "mean" and change is not None and not result.cell.is_full_precision:
        loss = change.mean
        low, value, high = (published.sensitivity_class(bound) for bound in (loss.low, loss.value, loss.high))
        printed = published.sensitivity_class(row.ppl - reference)
        classes = {"class_measured": value, "class_published": printed, "class_open": low != high}
    of_cell = ("model", "method", "weight", "activation", "lorc", "rank", "calibration")
    return Row(
        **{name: getattr(result.cell, name) for name in of_cell},
        **{name: getattr(row, name) for name in ("corpus", "table", "source", "note")},
        **classes,
        measured=measured,
        published=row.ppl,
        difference=measured - row.ppl if comparable else math.nan,
        relative=relative,
        tolerance=tolerance,
        within=both_broken or abs(relative) <= tolerance,
        derived=bool(result.derived),
        kind=kind,
    )


def _tolerance(row: Published, cell: Cell) -> tuple[str, float]:
    """The kind of `TOLERANCES`, and the share for this number."""
    if row.method == "none":
        kind = "full precision" if row.activation == "a16" else "activations"
    else:
        kind = row.method if row.method in TOLERANCES else "distillation"
    tolerance = TOLERANCES[kind]
    small = compose.load("model", cell.model).block_weights < _SMALL
    few_bits = cell.weight_format.bits <= 3
    return kind, (tolerance.small if small else tolerance.share) * (tolerance.low_bits if few_bits else 1)
