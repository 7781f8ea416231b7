"""Intervals: exact where nothing varies, about as wide as they claim where windows correlate."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import CORRELATIONS, FORMS, WINDOWS, ar1, coverage, coverage_of, in_documents, innovations

from lorcbench.report.intervals import (
    mean_log_ratio,
    mean_of_windows,
    mean_perplexity,
    mean_perplexity_contrast,
    mean_perplexity_difference,
    mean_variance,
    metric_difference,
    metric_value,
    nll_difference,
    perplexity,
    relative_change,
)

AS_CLAIMED = (0.93, 0.97)


def corpora(seed: int, windows: int = 90) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    baseline = {name: 3 + 0.3 * ar1(rng, (windows,), 0.3) for name in ("c4", "ptb", "wikitext2")}
    nll = {name: values + 0.1 + 0.05 * ar1(rng, (windows,), 0.3) for name, values in baseline.items()}
    return nll, baseline


def test_the_same_losses_give_no_difference_and_no_width():
    nll, _ = corpora(0)
    intervals = (
        nll_difference(nll["c4"], nll["c4"]),
        mean_perplexity_difference(nll, nll),
        relative_change(nll, nll),
        mean_log_ratio([(nll, nll)]),
    )
    for interval in intervals:
        assert (interval.value, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_a_mean_of_windows_is_that_of_their_differences_and_stays_in_its_bounds():
    values = np.random.default_rng(0).uniform(0, 1, 64)
    one, difference = mean_of_windows({"c4": values}), nll_difference(values, np.zeros(64))
    assert (one.value, one.low, one.high) == pytest.approx((difference.value, difference.low, difference.high))
    both = mean_of_windows({"c4": values, "ptb": np.full(10, 0.5)})  # of which only one varies, with half of the weight
    assert both.value == pytest.approx((one.value + 0.5) / 2)
    assert both.high - both.low == pytest.approx((one.high - one.low) / 2)
    rare = np.zeros(64)
    rare[-1] = 1
    assert mean_of_windows({"c4": rare}).low == 0
    assert mean_of_windows({"c4": 1 - rare}, 1.0).high == 1


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
    assert 0.93 <= coverage(ar1(np.random.default_rng(5), (400, 120), correlation)) <= 0.97


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_interval_covers_about_what_is_claimed(form):
    assert 0.92 <= coverage_of(form, (400, 64), 0.3) <= 0.98


def test_windows_that_are_drawn_one_by_one_have_independent_losses():
    series = innovations(np.random.default_rng(4), "normal", (400, 60))
    assert 0.92 <= coverage(series, independent=True) <= 0.98
    values = series[0]
    variance, degrees = mean_variance(values, independent=True)
    assert (variance, degrees) == (pytest.approx(values.var(ddof=1) / 60), 59)
    nll, baseline = corpora(3)
    for interval_of in (mean_perplexity_difference, relative_change, lambda *sides: mean_log_ratio([sides[:2]], *sides[2:])):
        whole, one, all_of_them = (interval_of(nll, baseline, names) for names in ((), ("c4",), tuple(nll)))
        assert len({whole.high, one.high, all_of_them.high}) == 3
        assert whole.value == one.value == all_of_them.value


@pytest.mark.long
@pytest.mark.parametrize("correlation", CORRELATIONS)
@pytest.mark.parametrize("windows", WINDOWS)
def test_simulated_coverage_is_what_is_claimed_for_correlated_windows(windows, correlation):
    series = ar1(np.random.default_rng(windows), (4000, windows), correlation)
    assert AS_CLAIMED[0] <= coverage(series) <= AS_CLAIMED[1]


@pytest.mark.long
@pytest.mark.parametrize(("kind", "least"), [("exponential", 0.93), ("lognormal", 0.92)])
@pytest.mark.parametrize("windows", WINDOWS)
def test_skewed_losses_cost_little_coverage(windows, kind, least):
    for correlation in CORRELATIONS:
        series = ar1(np.random.default_rng(windows), (4000, windows), correlation, kind)
        assert least <= coverage(series) <= AS_CLAIMED[1]
    assert least <= coverage(innovations(np.random.default_rng(windows), kind, (4000, windows)), True) <= AS_CLAIMED[1]


@pytest.mark.long
@pytest.mark.parametrize("windows", [64, 140])
@pytest.mark.parametrize("form", FORMS)
def test_simulated_coverage_of_every_form_is_what_is_claimed(form, windows):
    for correlation in (0.0, 0.3, 0.5):
        assert AS_CLAIMED[0] <= coverage_of(form, (4000, windows), correlation) <= AS_CLAIMED[1]


@pytest.mark.long
@pytest.mark.parametrize(("length", "least"), [(2, 0.93), (4, 0.91), (8, 0.8)])
def test_documents_that_are_long_for_their_number_cost_the_coverage_that_is_said(length, least):
    shares = [coverage(in_documents(np.random.default_rng(0), (2000, 64), length, share)) for share in (0.3, 0.6)]
    assert least <= min(shares)
    assert length < 8 or max(shares) < 0.9  # docs/intervals.md: no interval here is honest then


def test_neighbours_that_resemble_each_other_widen_the_interval():
    series = ar1(np.random.default_rng(6), (40, 512), 0.6)
    by_cosines = np.mean([mean_variance(values)[0] for values in series])
    one_by_one = np.mean([mean_variance(values, independent=True)[0] for values in series])
    truth = 4.0 / 512  # (1 + ρ) / (1 - ρ) times the variance of independent windows
    assert 1.8 * one_by_one < by_cosines < 1.1 * truth


@pytest.mark.parametrize(("windows", "degrees"), [(2, 1), (7, 1), (60, 6), (64, 6), (140, 11), (256, 16)])
def test_the_variance_is_that_of_the_slowest_cosines_of_an_orthonormal_basis(windows, degrees):
    values = np.random.default_rng(0).standard_normal(windows)
    variance, found = mean_variance(values)
    assert found == degrees
    grid = np.arange(windows) + 0.5
    rows = [np.sqrt(2 / windows) * np.cos(np.pi * j * grid / windows) for j in range(1, windows)]
    assert np.array(rows) @ np.array(rows).T == pytest.approx(np.eye(windows - 1), abs=1e-12)
    assert variance == pytest.approx(np.mean([(row @ values) ** 2 for row in rows[:degrees]]) / windows)
    # All of the cosines together give the sample variance.
    whole = np.mean([(row @ values) ** 2 for row in rows]) / windows
    assert whole == pytest.approx(mean_variance(values, independent=True)[0])


def test_one_window_says_nothing_of_its_spread():
    for independent in (False, True):
        interval = nll_difference(np.array([3.5]), np.array([3.0]), independent)
        assert (interval.value, interval.low, interval.high) == (0.5, -np.inf, np.inf)
    assert metric_difference("acc", [1.0], [0.0]).low == -np.inf
    nll, baseline = ({"c4": np.array([value]), "ptb": np.full(64, value)} for value in (3.5, 3.0))
    assert mean_perplexity_difference(nll, baseline).high == np.inf
    change = relative_change(nll, baseline)
    assert (change.low, change.high) == (-1, np.inf)


def test_the_degrees_of_a_sum_are_between_those_of_its_parts_and_their_sum():
    """Welch and Satterthwaite: three equal variances of 6 degrees are one of 18; a part that rules leaves its own 6."""
    rng = np.random.default_rng(7)
    series = {name: ar1(rng, (64,), 0.0) for name in ("a", "b", "c")}
    t18, t6 = 2.100922, 2.446912
    equal = {name: 0.01 * values / np.sqrt(mean_variance(values)[0]) for name, values in series.items()}
    zeros = {name: np.zeros(64) for name in series}
    interval = mean_log_ratio([(equal, zeros)])
    assert interval.high - interval.value == pytest.approx(t18 * 0.01 / np.sqrt(3), rel=1e-5)
    ruled = {name: values * (1 if name == "a" else 1e-6) for name, values in equal.items()}
    interval = mean_log_ratio([(ruled, zeros)])
    assert interval.high - interval.value == pytest.approx(t6 * 0.01 / 3, rel=1e-5)


def test_models_on_the_same_windows_that_agree_are_no_more_evidence_than_one():
    nll, baseline = corpora(4)
    one, four = (mean_log_ratio([(nll, baseline)] * count) for count in (1, 4))
    assert (four.value, four.low, four.high) == pytest.approx((one.value, one.low, one.high))
    with pytest.raises(ValueError, match="shape"):
        mean_log_ratio([(nll, baseline), ({**nll, "c4": nll["c4"][:60]}, {**baseline, "c4": baseline["c4"][:60]})])


def test_a_relative_change_that_is_the_same_on_every_window_has_no_width_though_perplexities_vary():
    _, baseline = corpora(5)
    nll = {name: values + 0.25 for name, values in baseline.items()}
    change = relative_change(nll, baseline)
    assert (change.value, change.low, change.high) == pytest.approx((np.expm1(0.25),) * 3)
    difference = mean_perplexity_difference(nll, baseline)
    assert difference.high - difference.low > 0.01 * mean_perplexity(baseline)


def test_a_contrast_is_the_sum_of_its_terms():
    nll, baseline = corpora(6)
    contrast = mean_perplexity_contrast([(2.0, nll), (-1.0, baseline), (-0.5, baseline)])
    assert contrast.value == pytest.approx(2 * mean_perplexity(nll) - 1.5 * mean_perplexity(baseline))


def resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means (resamples,) of samples of `values` (n,) by runs of about 2 n^(1/3), wrapped round: another way to the variance."""
    n, rng = len(values), np.random.default_rng(seed)
    run = round(2 * n ** (1 / 3))
    starts = rng.integers(0, n, size=(resamples, -(-n // run)))
    index = (starts[:, :, None] + np.arange(run)).reshape(resamples, -1)[:, :n] % n
    return values[index].mean(1)


@pytest.mark.parametrize("seed", range(3))
def test_the_delta_method_agrees_with_a_direct_bootstrap_of_perplexities(seed):
    nll, baseline = corpora(seed, windows=4000)
    interval = mean_perplexity_difference(nll, baseline)
    direct = np.mean([np.exp(nll[name].mean()) - np.exp(baseline[name].mean()) for name in nll])
    assert interval.value == pytest.approx(direct)
    samples = []
    for index, name in enumerate(nll):  # the same draws of windows for both sides, other draws for every corpus
        sides = [np.exp(resampled_means(side[name], 1000, seed=50 + index)) for side in (nll, baseline)]
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
