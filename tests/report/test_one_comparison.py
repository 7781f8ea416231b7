"""One comparison to full precision: what the report and track stages write of a cell is the same number everywhere."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
from matplotlib.axes import Axes
from page_reader import Reader
from synthetic import result, study

from lorcbench.jobs.job import Job
from lorcbench.report import claims, intervals, results
from lorcbench.report.comparison import changes, full_precision
from lorcbench.report.tracking.records import records
from lorcbench.stages import report, track

RESAMPLES = 7  # few, so that an interval of another bootstrap would be another one
FULL, RTN = "opt-standin-s none w16 r0", "opt-standin-s rtn w4-asym-row r0"


def with_tasks(one, right: int):
    """The cell with the answers to eight questions of a task, the first `right` of them right."""
    one.documents = {"piqa/acc": [float(index < right) for index in range(8)]}
    one.harness = {"piqa/acc": right / 8, "piqa/acc_stderr": 0.1}
    one.tasks = {"piqa": {"version": 1.0, "documents": 8, "shots": 0}}
    return one


def cells() -> list:
    """Full precision, activations of 8 bits alone, and RTN at two bit widths; all but the last were measured by lm-eval."""
    full, rtn = with_tasks(result(FULL), 5), with_tasks(result(RTN, 0.1, noise=0.2, seed=1), 4)
    rounded = with_tasks(result(FULL, 0.02), 3)
    rounded.nll = {corpus: nll + 0.2 * np.random.default_rng(2).standard_normal(96) for corpus, nll in rounded.nll.items()}
    rounded.cell = dataclasses.replace(full.cell, activation="a8-asym-token")
    return [full, rounded, rtn, result("opt-standin-s rtn w8-asym-row r0", 0.3, noise=0.2, seed=3)]


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The folder that the report stage fills from these cells with few resamples, and what the figures drew."""
    bars = []

    def errorbar(self, x, y, yerr, **style):
        bars.extend(zip(y, yerr, strict=True))
        return draw(self, x, y, yerr, **style)

    draw = Axes.errorbar
    monkeypatch.setattr(Axes, "errorbar", errorbar)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Job, "study", study(cells(), name="smoke"))
    monkeypatch.setattr(results, "collect", lambda asked: cells())
    report.main(Job("report", ["study=smoke", f"runtime.bootstrap={RESAMPLES}"]))
    return tmp_path / "results" / "smoke", bars


def table(path) -> list[dict]:
    return list(csv.DictReader(path.read_text().splitlines()))


def signed(text: str) -> list[float]:
    """The numbers with a sign in a text of the page."""
    return [float(number.replace("−", "-").replace(",", "")) for number in re.findall(r"[+−][\d.,]+\d", text)]


def test_page_tables_figures_and_mlflow_show_the_same_interval(written, monkeypatch):
    folder, bars = written
    means = [row for row in table(folder / "cells.csv") if row["corpus"] == "mean"]
    assert len(means) == 4 and len(bars) == 2  # W4 and W8 by bits; rounded activations are in another figure
    page = Reader((folder / "report.html").read_text())
    logged = {}
    monkeypatch.setattr(track, "track", lambda name, title, *rest, **_: logged.update(records(name, "", *rest[:2])) or IMPORTED)
    track.main(Job("track", ["study=smoke", f"runtime.bootstrap={RESAMPLES}"]))
    for row, one in zip(means, cells(), strict=True):
        numbers = {name: float(row[name]) for name in ("delta_ppl", "delta_ppl_low", "delta_ppl_high")}
        assert {name: logged[one.cell.key].metrics[name] for name in numbers} == numbers
        percents = [100 * value / float(row["ppl_fp"]) for value in numbers.values()]
        shown = page.row("opt-standin-s", row["method"], row["weight"], row["activation"], "r0")[10]
        if one.cell.is_full_precision:
            assert shown == "–" and percents == [0, 0, 0]
            continue
        assert signed(shown) == pytest.approx(percents, abs=0.005)
        # Another bootstrap would be seen: the page shows two digits.
        many = intervals.mean_perplexity_difference(one.nll, cells()[0].nll, 2000)
        assert abs(percents[1] - 100 * many.low / float(row["ppl_fp"])) > 0.015
        if one.cell.activation == "a16":
            bar = (1 + percents[0] / 100, (percents[2] - percents[0]) / 100)
            assert any(drawn == pytest.approx(bar) for drawn in bars)


IMPORTED = {"created": 4, "kept": 0, "deleted": 0, "pages": {"table": "/table", "charts": "/charts"}}


def test_the_page_shows_the_task_differences_of_the_table_and_a8_is_no_baseline(written):
    folder, _ = written
    page = Reader((folder / "report.html").read_text())
    rows = table(folder / "tasks.csv")
    assert [(row["method"], row["activation"], row["delta"]) for row in rows] == [
        ("none", "a16", "0.0"),
        ("none", "a8-asym-token", "-0.25"),
        ("rtn", "a16", "-0.125"),
    ]
    for row, one in zip(rows, cells(), strict=False):
        (_, shown) = page.row(one.cell.key)
        assert shown.startswith(f"{float(row['value']):.4f} ± 0.1000")
        expected = [] if one.cell.is_full_precision else [float(row[name]) for name in ("delta", "delta_low", "delta_high")]
        assert signed(shown) == pytest.approx(expected, abs=5e-5)


def test_every_interval_to_full_precision_is_resampled_once(tmp_path, monkeypatch):
    compared = []
    whole = intervals.mean_perplexity_contrast

    def counted(terms, resamples):
        compared.append(len(terms))
        return whole(terms, resamples)

    for module in (intervals, claims):
        monkeypatch.setattr(module, "mean_perplexity_contrast", counted)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Job, "study", study(cells(), name="smoke"))
    monkeypatch.setattr(results, "collect", lambda asked: cells())
    report.main(Job("report", ["study=smoke", f"runtime.bootstrap={RESAMPLES}"]))
    assert compared == [2] * len(cells())
    (verdict,) = json.loads((tmp_path / "results" / "smoke" / "claims.json").read_text())
    assert verdict["claim"].startswith("INT8")  # which rests on the same interval


def test_a_cell_without_a_finished_full_precision_cell_has_no_change():
    full, rounded, rtn, _ = cells()
    assert full_precision([rounded, full, rtn]) == {"opt-standin-s": full}
    assert list(changes([rounded, full, rtn], RESAMPLES)) == [rounded.cell, full.cell, rtn.cell]
    assert changes([rounded, rtn], RESAMPLES) == {}
    failed = dataclasses.replace(rtn, status="failed", nll={})
    assert list(changes([full, failed], RESAMPLES)) == [full.cell]
