"""The spread over seeds: which cells are one recipe, and the standard deviation that stands beside the interval."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest
from synthetic import result

from lorcbench.report import comparison, rows, seeds
from lorcbench.report.page import evidence
from lorcbench.study.expansion import load_study

SEEDS = (123, 234, 456)


def measured(model: str, rises: dict[int, float], weight: str = "w2-asym-row", **changes) -> list:
    """GPTQ on several calibration seeds, each with its rise of the loss; and full precision."""
    cells = [result(f"{model} none w16 r0")]
    for seed, rise in rises.items():
        one = result(f"{model} gptq {weight} r0", rise, noise=0.0)
        cells.append(replace(one, cell=replace(one.cell, calibration=f"stdlib+seed={seed}", **changes)))
    return cells


def found(results: list) -> list[seeds.Spread]:
    return seeds.spreads(results, comparison.changes(results))


def rise(loss: float) -> float:
    """What a rise of the loss is in mean perplexity."""
    nll = result("opt-standin-s none w16 r0").nll.values()
    return float(np.mean([math.exp(values.mean() + loss) - math.exp(values.mean()) for values in nll]))


def test_the_standard_deviation_over_calibration_seeds_is_that_of_the_rises():
    (spread,) = found(measured("opt-standin-s", dict(zip(SEEDS, (0.1, 0.2, 0.4), strict=True))))
    expected = [rise(loss) for loss in (0.1, 0.2, 0.4)]
    assert (spread.seeds_of, spread.seeds) == ("calibration", SEEDS)
    assert spread.rise == pytest.approx(np.mean(expected))
    assert spread.sd == pytest.approx(np.std(expected, ddof=1))
    assert spread.cell.calibration == "stdlib"
    assert spread.half_width > 0


def test_recipes_that_differ_in_more_than_the_seed_are_not_one():
    results = measured("opt-standin-s", {123: 0.1}) + measured("opt-standin-s", {234: 0.2}, weight="w3-asym-row")
    results += measured("opt-standin-s", {234: 0.2}, activation="a8-asym-token") + measured("bloom-standin-s", {234: 0.2})
    results += measured("opt-standin-m", {234: 0.2})
    assert found(results) == []


def test_stand_ins_of_two_training_seeds_are_one_kind_and_their_calibration_seeds_are_averaged():
    results = measured("opt-standin-s", {123: 0.1, 234: 0.3}) + measured("opt-standin-s-seed1", {123: 0.4, 234: 0.6})
    spreads = {(spread.seeds_of, spread.cell.model): spread for spread in found(results)}
    assert set(spreads) == {
        ("calibration", "opt-standin-s"),
        ("calibration", "opt-standin-s-seed1"),
        ("training", "opt-standin-s"),
    }
    training = spreads["training", "opt-standin-s"]
    means = [(rise(0.1) + rise(0.3)) / 2, (rise(0.4) + rise(0.6)) / 2]
    assert training.seeds == (0, 1)
    assert training.rise == pytest.approx(np.mean(means))
    assert training.sd == pytest.approx(abs(means[0] - means[1]) / math.sqrt(2))


def test_failed_cells_and_published_models_have_no_part_in_it():
    results = measured("opt-standin-s", {123: 0.1, 234: 0.2})
    results[2] = replace(results[2], status="failed", nll={})
    results += [replace(one, standin=False) for one in measured("opt-125m", {123: 0.1, 234: 0.3})]
    assert [(spread.cell.model, spread.seeds_of) for spread in found(results)] == [("opt-125m", "calibration")]


def test_table_terminal_and_page_show_the_same_spread():
    (spread,) = found(measured("opt-standin-s", dict(zip(SEEDS, (0.1, 0.2, 0.4), strict=True))))
    (row,) = csv.DictReader(io.StringIO(rows.as_csv(seeds.COLUMNS, [spread.row()])))
    assert (row["model"], row["method"], row["weight"], row["seeds"]) == ("opt-standin-s", "gptq", "w2-asym-row", "123 234 456")
    assert float(row["delta_ppl_sd"]) == spread.sd
    assert float(row["delta_ppl_half_width"]) == spread.half_width
    (line,) = seeds.summary([spread])
    page = evidence.spreads([spread])
    assert f"sd {spread.sd:.2f} over 3 calibration seeds" in line
    assert f">{spread.sd:.2f}</td>" in page
    assert f">±{spread.half_width:.2f}</td>" in page
    assert evidence.spreads([]) == ""


def test_the_rehearsal_of_the_study_seeds_has_three_calibration_and_two_training_seeds():
    study = load_study("seeds+standins=true")
    assert len(study.cells) == 28
    results = [result(f"{model} none w16 r0") for model in study.models]
    for index, cell in enumerate(cell for cell in study.cells if cell.method != "none"):
        one = result(f"{cell.model} gptq {cell.weight} r0", 0.01 * index)
        results.append(replace(one, cell=cell))
    counts = {(spread.cell.model, spread.cell.weight, spread.seeds_of): len(spread.seeds) for spread in found(results)}
    assert sum(seeds_of == "training" for _, _, seeds_of in counts) == 4
    assert {count for (_, _, seeds_of), count in counts.items() if seeds_of == "training"} == {2}
    assert {count for (_, _, seeds_of), count in counts.items() if seeds_of == "calibration"} == {3}
    assert not any("standin" in cell.model for cell in load_study("seeds").cells)
