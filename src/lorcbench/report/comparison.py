"""What each cell lost to full precision: one comparison per report, which tables, figures, page, claims and MLflow show."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lorcbench.report.intervals import (
    Interval,
    mean_of_windows,
    mean_perplexity_difference,
    mean_relative_change,
    metric_difference,
    nll_difference,
    relative_change,
)
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell


@dataclass(frozen=True, eq=False)
class Change:
    """A finished cell beside another one; each interval is computed once, when it is first asked for.

    Attributes:
        result: the cell.
        baseline: full precision of the same model, which is the cell itself if it is that; or any other cell that read the same
            windows. What is said below of full precision is then said of that cell.
    """

    result: CellResult
    baseline: CellResult

    @cached_property
    def mean(self) -> Interval:
        """Change of the arithmetic mean of the corpora's perplexities."""
        return mean_perplexity_difference(self.result.nll, self.baseline.nll, self.result.independent)

    @cached_property
    def relative(self) -> Interval:
        """Change of that mean as a share of full precision's; its own interval, since both perplexities move with the text."""
        return relative_change(self.result.nll, self.baseline.nll, self.result.independent)

    @cached_property
    def losses(self) -> dict[str, Interval]:
        """Change of the mean loss on each corpus, in nats per token."""
        baseline = self.baseline.nll
        independent = self.result.independent
        return {corpus: nll_difference(nll, baseline[corpus], corpus in independent) for corpus, nll in self.result.nll.items()}

    @cached_property
    def divergence(self) -> dict[str, dict[str, Interval]]:
        """How far the predictions are from full precision's: ``kl`` in nats per token, and ``agreement``, a share of tokens.

        Each by corpus, with their ``mean``; empty if it was not measured.
        """
        measured = {"kl": (self.result.kl, math.inf), "agreement": (self.result.agree, 1.0)}
        parts = {
            name: {"mean": series, **{corpus: {corpus: values} for corpus, values in series.items()}}
            for name, (series, _) in measured.items()
            if series
        }
        return {
            name: {
                part: mean_of_windows(of_part, measured[name][1], self.result.independent) for part, of_part in of_name.items()
            }
            for name, of_name in parts.items()
        }

    @cached_property
    def tasks(self) -> dict[str, Interval]:
        """Change of each lm-eval metric, ``task/metric``, of which both cells have the documents."""
        baseline = self.baseline.documents
        return {
            name: metric_difference(name.rpartition("/")[2], values, baseline[name])
            for name, values in self.result.documents.items()
            if name in baseline
        }


def windows(result: CellResult) -> tuple:
    """What is the same for two results if, and only if, they read the same windows."""
    streams = {corpus: result.corpora.get(corpus, {}).get("stream_sha256") for corpus in result.nll}
    return tuple((corpus, len(result.nll[corpus]), stream) for corpus, stream in sorted(streams.items()))


def mean_change(pairs: list[tuple[CellResult, CellResult]]) -> Interval:
    """Geometric mean of the ratios of mean perplexity, minus 1.

    Models that read other windows are still of related texts, so their errors are added as if they were the same.
    """
    pools: dict[tuple, list[tuple[CellResult, CellResult]]] = {}
    for result, baseline in pairs:
        pools.setdefault(windows(result), []).append((result, baseline))
    bounds = np.zeros(3)
    for pool in pools.values():
        change = mean_relative_change([(result.nll, other.nll) for result, other in pool], pool[0][0].independent)
        bounds += len(pool) / len(pairs) * np.log1p([change.value, change.low, change.high])
    return Interval(*map(float, np.expm1(bounds)))


def full_precision(results: Iterable[CellResult]) -> dict[str, CellResult]:
    """The finished full-precision cell of each model, by model."""
    return {result.cell.model: result for result in results if result.status == "ok" and result.cell.is_full_precision}


def changes(results: list[CellResult]) -> dict[Cell, Change]:
    """The change of each finished cell whose model has a finished full-precision cell; full precision's own is zero.

    Args:
        results: all cells of a study, derived ones if they are to be shown too.
    """
    baselines = full_precision(results)
    return {
        result.cell: Change(result, baselines[result.cell.model])
        for result in results
        if result.status == "ok" and result.cell.model in baselines
    }
