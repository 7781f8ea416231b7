"""Intervals: exact where nothing varies, about as wide as they claim where windows correlate."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from lorcbench.report import intervals as report_intervals
from lorcbench.report.intervals import metric_difference, metric_value, perplexity, resampled_means

nll_difference = partial(report_intervals.nll_difference, resamples=2000)
mean_perplexity_difference = partial(report_intervals.mean_perplexity_difference, resamples=2000)


def ar1(rng: np.random.Generator, shape: tuple[int, ...], correlation: float) -> np.ndarray:
    """Stationary series along the last axis, of unit variance."""
    noise = rng.standard_normal(shape)
    series = noise.copy()
    for t in range(1, shape[-1]):
        series[..., t] = correlation * series[..., t - 1] + np.sqrt(1 - correlation**2) * noise[..., t]
    return series


def corpora(seed: int, windows: int = 90) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    baseline = {name: 3 + 0.3 * ar1(rng, (windows,), 0.3) for name in ("c4", "ptb", "wikitext2")}
    nll = {name: values + 0.1 + 0.05 * ar1(rng, (windows,), 0.3) for name, values in baseline.items()}
    return nll, baseline


def test_the_same_losses_give_no_difference_and_no_width():
    nll, _ = corpora(0)
    for interval in (nll_difference(nll["c4"], nll["c4"]), mean_perplexity_difference(nll, nll)):
        assert (interval.value, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_a_constant_shift_is_recovered_exactly():
    baseline = np.random.default_rng(0).integers(2000, 4000, 64) / 1024
    interval = nll_difference(baseline + 0.25, baseline)
    assert (interval.value, interval.low, interval.high) == (0.25, 0.25, 0.25)


def test_swapping_the_two_sides_mirrors_the_interval():
    nll, baseline = corpora(1)
    there, back = mean_perplexity_difference(nll, baseline), mean_perplexity_difference(baseline, nll)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))
    assert nll_difference(nll["c4"], baseline["c4"]).value == -nll_difference(baseline["c4"], nll["c4"]).value


def test_pairing_makes_the_interval_far_narrower_than_that_of_unrelated_windows():
    nll, baseline = corpora(2)
    paired = nll_difference(nll["ptb"], baseline["ptb"])
    shuffled = nll_difference(np.random.default_rng(0).permutation(nll["ptb"]), baseline["ptb"])
    assert paired.value == pytest.approx(shuffled.value)
    assert paired.high - paired.low < 0.4 * (shuffled.high - shuffled.low)


@pytest.mark.parametrize("correlation", [0.0, 0.3])
def test_coverage_is_about_what_is_claimed(correlation):
    rng = np.random.default_rng(5)
    differences = 0.02 + 0.1 * ar1(rng, (300, 120), correlation)
    intervals = [nll_difference(values, np.zeros(120), resamples=300) for values in differences]
    covered = np.mean([interval.low <= 0.02 <= interval.high for interval in intervals])
    assert 0.85 <= covered <= 0.99


def test_runs_of_windows_widen_the_interval_when_neighbours_resemble_each_other():
    series = ar1(np.random.default_rng(6), (40, 512), 0.6)
    by_runs = np.mean([resampled_means(values, 300).var() for values in series])
    one_by_one = np.mean([values.var() / 512 for values in series])
    truth = 4.0 / 512  # (1 + ρ) / (1 - ρ) times the variance of independent windows
    assert 1.8 * one_by_one < by_runs < 1.1 * truth


@pytest.mark.parametrize("windows", [1, 2, 7, 60])
def test_resampled_means_stay_within_the_values_and_repeat_with_their_seed(windows):
    values = np.random.default_rng(0).standard_normal(windows)
    means = resampled_means(values, 50, seed=3)
    assert means.shape == (50,)
    assert values.min() - 1e-12 <= means.min() <= means.max() <= values.max() + 1e-12
    assert np.array_equal(means, resampled_means(values, 50, seed=3))
    assert windows == 1 or not np.array_equal(means, resampled_means(values, 50, seed=4))


@pytest.mark.parametrize("seed", range(3))
def test_the_delta_method_agrees_with_a_direct_bootstrap_of_perplexities(seed):
    nll, baseline = corpora(seed)
    interval = mean_perplexity_difference(nll, baseline)
    direct = np.mean([np.exp(nll[name].mean()) - np.exp(baseline[name].mean()) for name in nll])
    assert interval.value == pytest.approx(direct)
    samples = []
    for index, name in enumerate(nll):  # the same draws of windows for both sides, other draws for every corpus
        sides = [np.exp(resampled_means(side[name], 2000, seed=50 + index)) for side in (nll, baseline)]
        samples.append(sides[0] - sides[1])
    low, high = np.quantile(np.mean(samples, axis=0), [0.025, 0.975])
    width = high - low
    assert interval.high - interval.low == pytest.approx(width, rel=0.15)
    assert abs(interval.low - low) < 0.15 * width
    assert abs(interval.high - high) < 0.15 * width


def test_perplexity_is_the_exponential_of_the_mean_over_windows():
    assert perplexity(np.log([8.0, 2.0])) == pytest.approx(4.0)


METRICS = ["acc", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"]


def task_documents(metric: str, rng: np.random.Generator, count: int, shift: float = 0.0) -> list:
    """What `count` documents give for a metric of lm-eval; `shift` makes each of them a little worse."""
    if metric == "acc":
        return [float(value) for value in rng.random(count) > 0.4 + shift]
    units = rng.integers(50, 400, count)
    nats = units * (1.5 + 0.3 * rng.standard_normal(count) + shift)
    return list(-nats / units) if metric == "perplexity" else [[-a, float(b)] for a, b in zip(nats, units, strict=True)]


@pytest.mark.parametrize("metric", METRICS)
def test_the_same_documents_give_no_difference_and_pairing_narrows_the_interval(metric):
    one, other = (task_documents(metric, np.random.default_rng(0), 200, shift) for shift in (0.0, 0.02))
    same = metric_difference(metric, one, one)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    paired = metric_difference(metric, other, one)
    assert paired.value == pytest.approx(metric_value(metric, other) - metric_value(metric, one))
    unpaired = metric_difference(metric, task_documents(metric, np.random.default_rng(1), 200, 0.02), one)
    assert paired.high - paired.low < 0.6 * (unpaired.high - unpaired.low)


@pytest.mark.parametrize("metric", METRICS)
def test_an_interval_of_an_lm_eval_metric_covers_about_as_often_as_it_claims(metric):
    rng = np.random.default_rng(2)
    draws = [(task_documents(metric, rng, 400), task_documents(metric, rng, 400)) for _ in range(300)]
    covered = [found.low <= 0 <= found.high for found in (metric_difference(metric, *pair) for pair in draws)]
    assert 0.9 <= np.mean(covered) <= 0.99
