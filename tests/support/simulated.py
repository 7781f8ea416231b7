"""Losses with a known expectation, and how often an interval covers it: `python tests/support/simulated.py` prints the tables.

Series are AR(1), or have runs of windows (documents) with a common effect. A model's loss is a text's level, which all models
share, plus a difference per window of which a part is shared and a part the model's own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.signal import lfilter

from lorcbench.report.intervals import (
    Interval,
    mean_log_ratio,
    mean_perplexity_difference,
    nll_difference,
    relative_change,
)

WINDOWS = (60, 64, 100, 140, 150, 256)
CORRELATIONS = (0.0, 0.1, 0.3, 0.5)
LEVELS = {"c4": 3.2, "ptb": 3.5, "wikitext2": 3.3}  # nats per token
RISE = 0.1  # of a quantized model, in nats per token
_BEFORE = 60  # values of an AR(1) series that are thrown away, so that it is stationary


def innovations(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Independent values with mean 0 and variance 1: ``normal``, ``exponential`` (skewness 2) or ``lognormal`` (3.3)."""
    if kind == "normal":
        return rng.standard_normal(shape)
    if kind == "exponential":
        return rng.exponential(size=shape) - 1
    square = np.exp(0.75**2)
    return (rng.lognormal(0, 0.75, shape) - square**0.5) / np.sqrt((square - 1) * square)


def ar1(rng: np.random.Generator, shape: tuple[int, ...], correlation: float, kind: str = "normal") -> np.ndarray:
    """Stationary series along the last axis, of mean 0 and variance 1."""
    noise = innovations(rng, kind, (*shape[:-1], shape[-1] + _BEFORE))
    return lfilter([np.sqrt(1 - correlation**2)], [1, -correlation], noise)[..., _BEFORE:]


def in_documents(rng: np.random.Generator, shape: tuple[int, int], length: int, share: float) -> np.ndarray:
    """Series (count, windows) of variance 1, `share` of it common to a document of `length` windows on average (geometric)."""
    series = np.sqrt(1 - share) * rng.standard_normal(shape)
    for one in series:
        lengths = rng.geometric(1 / length, size=2 * len(one))
        effects = np.repeat(np.sqrt(share) * rng.standard_normal(len(lengths)), lengths)
        start = rng.integers(0, len(effects) - len(one))  # somewhere in a document
        one += effects[start : start + len(one)]
    return series


def losses(rng: np.random.Generator, models: int, shape: tuple[int, int], correlation: float, kind: str) -> tuple[list, dict]:
    """Losses (count, windows) by corpus of `models` quantized models, and of full precision, on the same windows."""
    text = {name: level + 0.3 * ar1(rng, shape, correlation) for name, level in LEVELS.items()}
    shared = {name: 0.05 * ar1(rng, shape, correlation, kind) for name in text}
    quantized = []
    for _ in range(models):
        own = {name: 0.03 * ar1(rng, shape, correlation, kind) for name in text}
        quantized.append({name: text[name] + RISE + shared[name] + own[name] for name in text})
    return quantized, text


# Each: the interval, from losses by model and of full precision, and the truth.
FORMS: dict[str, tuple[Callable[..., Interval], float]] = {
    "loss, one corpus": (lambda models, text: nll_difference(models[0]["ptb"], text["ptb"]), RISE),
    "mean perplexity, three corpora": (
        lambda models, text: mean_perplexity_difference(models[0], text),
        float(np.mean(np.exp(list(LEVELS.values())))) * np.expm1(RISE),
    ),
    "its relative change": (lambda models, text: relative_change(models[0], text), np.expm1(RISE)),
    "log-ratio, four models pooled": (lambda models, text: mean_log_ratio([(nll, text) for nll in models]), RISE),
}


def coverage(series: np.ndarray, independent: bool = False) -> float:
    """Share of the series (count, windows) of expectation 0 whose interval covers it."""
    zeros = np.zeros(series.shape[1])
    intervals = (nll_difference(values, zeros, independent) for values in series)
    return float(np.mean([interval.low <= 0 <= interval.high for interval in intervals]))


def coverage_of(form: str, shape: tuple[int, int], correlation: float, kind: str = "normal", seed: int = 0) -> float:
    """Share of simulated measurements whose interval covers the truth, for one of `FORMS`; `shape` is (count, windows)."""
    interval_of, truth = FORMS[form]
    models, text = losses(np.random.default_rng(seed), 4, shape, correlation, kind)
    covered = []
    for index in range(shape[0]):
        one = [{name: values[index] for name, values in nll.items()} for nll in (*models, text)]
        interval = interval_of(one[:-1], one[-1])
        covered.append(interval.low <= truth <= interval.high)
    return float(np.mean(covered))


def _table(head: str, columns: list[str], lines: dict[str, list[float]]) -> None:
    print(f"\n| {head} | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for name, shares in lines.items():
        print(f"| {name} | {' | '.join(f'{100 * share:.1f}' for share in shares)} |", flush=True)


def main(count: int = 10_000) -> None:
    """Print the tables of docs/intervals.md."""
    seed, kinds, correlations = np.random.default_rng, ("normal", "exponential", "lognormal"), (*CORRELATIONS, 0.7)
    for kind in kinds:
        lines = {
            str(windows): [coverage(ar1(seed(windows), (count, windows), phi, kind)) for phi in correlations]
            for windows in (32, *WINDOWS)
        }
        _table(f"windows, {kind}", [f"φ = {phi:g}" for phi in correlations], lines)
    documents = [(length, share) for length in (2, 4, 8) for share in (0.3, 0.6)]
    lines = {
        str(windows): [coverage(in_documents(seed(windows), (count, windows), *each)) for each in documents]
        for windows in (64, 140, 256)
    }
    _table("windows", [f"{length} windows, {share:g}" for length, share in documents], lines)
    cells = [(windows, phi) for windows in (64, 140) for phi in (0.0, 0.3, 0.5)]
    lines = {form: [coverage_of(form, (count, windows), phi) for windows, phi in cells] for form in FORMS}
    _table("interval of", [f"{windows} windows, φ = {phi:g}" for windows, phi in cells], lines)
    sizes = (60, 140, 256)
    lines = {kind: [coverage(innovations(seed(n), kind, (count, n)), True) for n in sizes] for kind in kinds}
    _table("independent", [f"{n} windows" for n in sizes], lines)


if __name__ == "__main__":
    main()
