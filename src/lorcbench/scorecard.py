"""Measured beside published: every cell that a paper printed too, what differs, and whether that is within reason."""

from __future__ import annotations

from dataclasses import dataclass

from lorcbench.results import CellResult
from lorcbench.study import Study


@dataclass(frozen=True)
class Row:
    """One measured perplexity beside one published one.

    Attributes:
        model, method, weight, activation, lorc, rank: the measured cell, its quantizer convention included.
        corpus: ``wikitext2``, ``ptb``, ``c4`` or ``mean``.
        measured, published: perplexities; infinite where the table says that the model diverged.
        difference, relative: measured - published, and that as a share of published.
        tolerance: the largest `relative`, up or down, that counts as the same number.
        within: whether the difference is inside the tolerance; two diverged models agree.
        class_measured, class_published: sensitivity class 1, 2 or 3 by the loss of the mean to full precision; None on rows of
            single corpora and where full precision is missing.
        class_open: whether the interval of the measured loss straddles a bound of the classes.
        table: where the published number stands.
        derived: whether the measured one was chosen from several by its own perplexity, as the paper chose.
        calibration: of the measured cell.
        source: of the published number, ``zeroquant-v2`` or ``gptq``.
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


@dataclass(frozen=True)
class Ordering:
    """Whether the cells of one table come in the published order.

    Attributes:
        table: where the published numbers stand.
        scope: the model.
        n: cells compared.
        spearman: rank correlation of measured and published perplexity over them; NaN for fewer than three.
        pairs: pairs of methods of one weight and activation format whose published numbers differ.
        agreeing: those of them whose measured numbers differ the same way.
    """

    table: str
    scope: str
    n: int
    spearman: float
    pairs: int = 0
    agreeing: int = 0


def compare(study: Study, results: list[CellResult], resamples: int = 2000) -> list[Row]:
    """Every measured cell, the derived ones included, that has a published counterpart: one row a published number."""
    return []


def orderings(rows: list[Row]) -> list[Ordering]:
    """One record a table and model."""
    return []
