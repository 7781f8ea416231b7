"""Paired differences of per-window losses with confidence intervals.

Cells are compared on the same windows, so the difference of each window is what varies, far less than either loss. Neighbouring
windows of a document resemble each other, so whole runs of windows are resampled (moving-block bootstrap, Künsch 1989). The
interval covers the sampling of text only: not calibration seeds, not training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_HALF_WIDTH = 1.959964  # of a normal 95 % interval, in standard deviations


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence bounds."""

    value: float
    low: float
    high: float


def resampled_means(values: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    """Means (resamples,) of moving-block bootstrap samples of `values` (n,); runs of about n^(1/3) windows, wrapped round."""
    n = len(values)
    run = max(1, round(n ** (1 / 3)))
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, n, size=(resamples, -(-n // run)))
    # (resamples, runs, run) → (resamples, windows): the last run is cut where a sample has its n windows.
    index = (starts[:, :, None] + np.arange(run)).reshape(resamples, -1)[:, :n] % n
    return values[index].mean(1)


def nll_difference(nll: np.ndarray, baseline: np.ndarray, resamples: int) -> Interval:
    """Mean of `nll - baseline` in nats per token, over the same windows (n,)."""
    difference = np.asarray(nll) - np.asarray(baseline)
    low, high = np.quantile(resampled_means(difference, resamples), [0.025, 0.975])
    return Interval(float(difference.mean()), float(low), float(high))


def mean_perplexity_difference(nll: dict[str, np.ndarray], baseline: dict[str, np.ndarray], resamples: int) -> Interval:
    """Difference of the arithmetic mean of the corpora's perplexities (the paper's "average PPL")."""
    return mean_perplexity_contrast([(1.0, nll), (-1.0, baseline)], resamples)


def mean_perplexity_contrast(terms: list[tuple[float, dict[str, np.ndarray]]], resamples: int) -> Interval:
    """Sum of coefficient times mean perplexity over `terms`, whose losses are of the same windows, by the delta method.

    The corpora are independent samples. Within one corpus, let a be the mean loss of a term and c its coefficient:
    d(c eᵃ) = c eᵃ da. So the variance is that of the mean of Σ c eᵃ·nll over windows, estimated by the moving-block bootstrap.
    """
    value = 0.0
    variance = 0.0
    corpora = sorted(terms[0][1])
    for index, corpus in enumerate(corpora):
        weighted = [coefficient * np.exp(np.mean(nll[corpus])) for coefficient, nll in terms]
        value += sum(weighted) / len(corpora)
        per_window = sum(weight * np.asarray(nll[corpus]) for weight, (_, nll) in zip(weighted, terms, strict=True))
        variance += resampled_means(per_window, resamples, seed=index).var() / len(corpora) ** 2
    half = _HALF_WIDTH * float(np.sqrt(variance))
    return Interval(float(value), float(value) - half, float(value) + half)


def metric_difference(metric: str, documents: list, baseline: list) -> Interval:
    """Difference of an lm-eval metric over the same documents, by the delta method; documents are independent samples.

    Args:
        metric: lm-eval's name, which says how documents become one number: ``perplexity`` is exp(-mean of log-likelihoods);
            ``word_perplexity``, ``byte_perplexity`` and ``bits_per_byte`` are of [log-likelihood, words or bytes] pairs; all
            others are means.
        documents, baseline: what each document gives, in the same order.
    """
    value, pull = _metric(metric, documents)
    value_baseline, pull_baseline = _metric(metric, baseline)
    difference = value - value_baseline
    influence = pull - pull_baseline  # of each document on the difference
    half = _HALF_WIDTH * float(influence.std(ddof=1)) / np.sqrt(len(influence)) if len(influence) > 1 else 0.0
    return Interval(float(difference), float(difference - half), float(difference + half))


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
