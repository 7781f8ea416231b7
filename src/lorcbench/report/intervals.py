"""Paired differences of per-window losses with 95 % confidence intervals: what they cover is in docs/intervals.md.

Cells are compared on the same windows, so the difference of each window is what varies, far less than either loss.
Neighbouring windows of a text resemble each other, which the variance of a mean has to see: it is estimated from the slowest
cosines of the series, and the quantile is Student's t (`mean_variance`; Lazarus, Lewis, Stock and Watson 2018). Windows that a
protocol draws one by one from random documents are independent. An interval covers the choice of text: not calibration seeds,
not training.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import stdtr, stdtrit

Losses = dict[str, np.ndarray]  # by corpus: the loss of every window, in nats per token


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence bounds.

    Attributes:
        value, low, high: the estimate and its bounds.
        error: the standard error that the bounds are made of; NaN where they are not value ± t · error.
        degrees: of freedom, of Student's t.
    """

    value: float
    low: float
    high: float
    error: float = field(default=math.nan, compare=False, repr=False)
    degrees: float = field(default=math.nan, compare=False, repr=False)

    def p_not_below(self, bound: float) -> float:
        """One-sided p-value of "the expectation is `bound` or more": below 0.025 if, and only if, `high` is below `bound`.

        1 where nothing can be said: no number, or no standard error.
        """
        return self._tail(self.value - bound)

    def p_not_above(self, bound: float) -> float:
        """One-sided p-value of "the expectation is `bound` or less"."""
        return self._tail(bound - self.value)

    def _tail(self, distance: float) -> float:
        """The chance that an estimate is `distance` or less above the bound that is its expectation."""
        if math.isnan(self.error) or math.isnan(distance):
            return 1.0
        if math.isinf(distance) or self.error == 0:
            return float(distance >= 0)
        return float(stdtr(self.degrees, distance / self.error)) if self.error < math.inf else 1.0


def mean_variance(values: np.ndarray, independent: bool = False) -> tuple[float, float]:
    """The variance of the mean of a stationary series (n,), and the degrees of freedom of that estimate.

    Equal-weighted cosines: with ν = 0.4 n^(2/3), rounded, the variance is Σ_j c_j² / (n ν), where c_j is the projection on
    √(2/n) cos(π j (t + ½) / n), j = 1 … ν, and (mean - expectation) / √variance has Student's t distribution with ν degrees
    (Lazarus, Lewis, Stock and Watson, HAR Inference: Recommendations for Practice, JBES 36, 2018).

    Args:
        values: in the order of the text.
        independent: no value depends on its neighbours: the sample variance over n, with n - 1 degrees.

    Returns:
        variance, degrees. Infinite and 1 for one value, which says nothing of its spread.
    """
    n = len(values)
    if n == 1:
        return math.inf, 1.0
    centred = values - values.mean()
    if independent:
        return float(centred @ centred) / (n - 1) / n, n - 1.0
    terms = max(1, round(0.4 * n ** (2 / 3)))
    cosines = math.sqrt(2 / n) * np.cos(np.pi / n * np.outer(np.arange(1, terms + 1), np.arange(n) + 0.5))
    return float(np.mean((cosines @ centred) ** 2)) / n, float(terms)


def holm(p_values: list[float]) -> list[float]:
    """Adjusted p-values: those at most α are of hypotheses that Holm's procedure rejects with family-wise error α.

    Valid whatever the dependence between the tests (Holm, A simple sequentially rejective multiple test procedure, 1979).
    """
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for position, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - position) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def nll_difference(nll: np.ndarray, baseline: np.ndarray, independent: bool = False) -> Interval:
    """Mean of `nll - baseline` in nats per token over the same windows (n,)."""
    difference = np.asarray(nll) - np.asarray(baseline)
    return _around(float(difference.mean()), [mean_variance(difference, independent)])


def mean_perplexity_difference(nll: Losses, baseline: Losses, independent: Collection[str] = ()) -> Interval:
    """Difference of the arithmetic mean of the corpora's perplexities (the paper's "average PPL").

    Args:
        independent: the corpora whose windows were drawn one by one from random documents.
    """
    return mean_perplexity_contrast([(1.0, nll), (-1.0, baseline)], independent)


def relative_change(nll: Losses, baseline: Losses, independent: Collection[str] = ()) -> Interval:
    """Change of the corpora's mean perplexity as a share of the baseline's: a ratio of two means of the same windows, minus 1.

    The interval is that of the logarithm of the ratio, so that no bound is below -1. Far narrower than the interval of the
    difference over the baseline, where both perplexities move with the text.
    """
    return mean_relative_change([(nll, baseline)], independent)


def mean_relative_change(pairs: list[tuple[Losses, Losses]], independent: Collection[str] = ()) -> Interval:
    """Geometric mean over models of the ratio that `relative_change` is about, minus 1.

    Args:
        pairs: per model its losses and the baseline's, all of the same windows: what the models share through the text stays
            in the variance.
    """
    ratio = 0.0
    terms = []
    for nll, baseline in pairs:
        above = mean_perplexity(nll)
        below = mean_perplexity(baseline)
        ratio += math.log(above / below) / len(pairs)
        terms += [(1 / above / len(pairs), nll), (-1 / below / len(pairs), baseline)]
    shift = mean_perplexity_contrast(terms, independent)  # of the logarithm; around 0
    return Interval(*(float(np.expm1(ratio + part)) for part in (0.0, shift.low - shift.value, shift.high - shift.value)))


def mean_perplexity_contrast(terms: list[tuple[float, Losses]], independent: Collection[str] = ()) -> Interval:
    """Sum of coefficient times mean perplexity over `terms`, whose losses are of the same windows, by the delta method.

    The corpora are independent samples. Within one corpus, let a be the mean loss of a term and c its coefficient:
    d(c eᵃ) = c eᵃ da. So the variance is that of the mean of Σ c eᵃ·nll over windows.
    """
    value = 0.0
    parts = []
    corpora = sorted(terms[0][1])
    for corpus in corpora:
        weights = [coefficient * perplexity(nll[corpus]) for coefficient, nll in terms]
        value += sum(weights) / len(corpora)
        per_window = sum(weight * np.asarray(nll[corpus]) for weight, (_, nll) in zip(weights, terms, strict=True))
        parts.append(mean_variance(per_window / len(corpora), corpus in independent))
    return _around(value, parts)


def mean_log_ratio(pairs: list[tuple[Losses, Losses]], independent: Collection[str] = ()) -> Interval:
    """Mean over models and corpora of the logarithm of the ratio of perplexities.

    All models must have been measured on the same windows. A window is averaged over them first, so what they share through
    the text stays in the variance; to add their variances as if independent would make the interval too narrow.

    Args:
        pairs: per model its losses and those that they are compared with.
    """
    value = 0.0
    parts = []
    corpora = sorted(pairs[0][0])
    for corpus in corpora:
        differences = [np.asarray(nll[corpus]) - np.asarray(baseline[corpus]) for nll, baseline in pairs]
        per_window = np.mean(differences, axis=0) / len(corpora)
        value += float(per_window.mean())
        parts.append(mean_variance(per_window, corpus in independent))
    return _around(value, parts)


def mean_of_windows(series: Losses, highest: float = math.inf, independent: Collection[str] = ()) -> Interval:
    """Mean over corpora of a mean over windows, of what lies between 0 and `highest`; no bound of the interval lies outside.

    Args:
        series: per corpus one number for each window, which is of a cell and its baseline together, such as a divergence.
    """
    value = float(np.mean([np.mean(values) for values in series.values()]))
    parts = [mean_variance(np.asarray(values) / len(series), corpus in independent) for corpus, values in series.items()]
    interval = _around(value, parts)
    return replace(interval, low=max(0.0, interval.low), high=min(highest, interval.high))


def _around(value: float, parts: list[tuple[float, float]]) -> Interval:
    """The interval of a sum of independent parts, each with its variance and degrees; degrees by Welch and Satterthwaite."""
    variance = sum(part for part, _ in parts)
    error = math.sqrt(variance)
    half = error
    degrees = 1.0
    if 0 < variance < math.inf:
        degrees = 1 / sum((part / variance) ** 2 / freedom for part, freedom in parts)
        half *= float(stdtrit(degrees, 0.975))
    return Interval(value, value - half, value + half, error, degrees)


def metric_difference(metric: str, documents: list, baseline: list) -> Interval:
    """Difference of an lm-eval metric over the same documents, by the delta method; documents are independent samples.

    Args:
        metric: lm-eval's name, which says how documents become one number: ``perplexity`` is exp(-mean of log-likelihoods);
            ``word_perplexity``, ``byte_perplexity`` and ``bits_per_byte`` are of [log-likelihood, words or bytes] pairs; all
            others are means.
        documents: what each document gives.
        baseline: the same of the baseline, in the same order.
    """
    value, pull = _metric(metric, documents)
    value_baseline, pull_baseline = _metric(metric, baseline)
    influence = pull - pull_baseline  # of each document on the difference
    return _around(float(value - value_baseline), [mean_variance(influence, independent=True)])


def metric_value(metric: str, documents: list) -> float:
    """An lm-eval metric, from what each document gives (`metric_difference`)."""
    return float(_metric(metric, documents)[0])


def _metric(metric: str, documents: list) -> tuple[float, np.ndarray]:
    """The metric, and how far each document pulls it (its influence, mean 0)."""
    values = np.asarray(documents, dtype=float)
    if values.ndim == 2:
        per_unit = -values[:, 0].sum() / values[:, 1].sum()  # nats per word or byte
        pull = (-values[:, 0] - per_unit * values[:, 1]) / values[:, 1].mean()
        if metric == "bits_per_byte":
            return per_unit / np.log(2), pull / np.log(2)
        return np.exp(per_unit), np.exp(per_unit) * pull
    if metric == "perplexity":
        ppl = np.exp(-values.mean())
        return ppl, ppl * (values.mean() - values)
    return values.mean(), values - values.mean()


def perplexity(nll: np.ndarray) -> float:
    """exp of the mean loss over windows, in nats per token."""
    return float(np.exp(np.mean(nll)))


def mean_perplexity(nll: Losses) -> float:
    """Arithmetic mean of the corpora's perplexities."""
    return float(np.mean([perplexity(losses) for losses in nll.values()]))
