"""One comparison to full precision: what the report and track stages write of a cell is the same number everywhere.

The table and MLflow have the difference of perplexities, page and figures its share of full precision, a ratio.
"""

import csv
import dataclasses
import json
import re
from collections import Counter

import numpy as np
import pytest
from matplotlib.axes import Axes
from page_reader import Reader
from synthetic import result, study

from lorcbench.common.artifacts import write_json
from lorcbench.config import compose
from lorcbench.jobs.job import Job
from lorcbench.report import claims, comparison, intervals, results
from lorcbench.report.comparison import changes, full_precision
from lorcbench.report.tracking.records import records
from lorcbench.stages import report, track
from lorcbench.study.expansion import load_study
from lorcbench.study.graph import job_folders

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
    found = [full, rounded, rtn, result("opt-standin-s rtn w8-asym-row r0", 0.3, noise=0.2, seed=3)]
    for index, one in enumerate(found[:3]):  # the last is of the time before there was a divergence
        rng = np.random.default_rng(index)
        one.kl = {corpus: index * rng.uniform(0.1, 0.3, 96) for corpus in one.nll}
        one.agree = {corpus: 1 - index * rng.uniform(0.01, 0.05, 96) for corpus in one.nll}
    for one in found:
        one.independent = frozenset(one.nll)  # an interval that does not look at it is another one
    return found


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The folder that the report stage fills from these cells, and what the figures drew."""
    bars = []

    def errorbar(self, x, y, yerr, **style):
        bars.extend(zip(y, *yerr, strict=True))
        return draw(self, x, y, yerr, **style)

    draw = Axes.errorbar
    monkeypatch.setattr(Axes, "errorbar", errorbar)
    monkeypatch.chdir(tmp_path)
    for stage in (report, track):
        monkeypatch.setattr(stage, "study_from_arguments", lambda arguments: study(cells(), name="smoke"))
    monkeypatch.setattr(results, "collect", lambda asked: cells())
    report.main(Job("report", ["study=smoke"]))
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

    def tracked(asked, store) -> dict:
        logged.update(records(asked.study, "", asked.results, asked.changes))
        return IMPORTED

    monkeypatch.setattr(track, "track", tracked)
    track.main(Job("track", ["study=smoke"]))
    for row, one in zip(means, cells(), strict=True):
        numbers = {name: float(row[name]) for name in ("delta_ppl", "delta_ppl_low", "delta_ppl_high")}
        assert {name: logged[one.cell.key].metrics[name] for name in numbers} == numbers
        difference = intervals.mean_perplexity_difference(one.nll, cells()[0].nll, one.independent)
        assert list(numbers.values()) == pytest.approx([difference.value, difference.low, difference.high])
        relative = intervals.relative_change(one.nll, cells()[0].nll, one.independent)
        assert relative.value == pytest.approx(numbers["delta_ppl"] / float(row["ppl_fp"]))
        percents = [100 * share for share in (relative.value, relative.low, relative.high)]
        shown = page.row("opt-standin-s", row["method"], row["weight"], row["activation"], "r0")[7]
        if one.cell.is_full_precision:
            assert shown == "–" and percents == [0, 0, 0]
            continue
        assert signed(shown) == pytest.approx(percents, abs=0.005)
        # Another interval would be seen: the page shows two digits.
        assert abs(relative.low - intervals.relative_change(one.nll, cells()[0].nll).low) > 0.00015
        if one.cell.activation == "a16":
            bar = (1 + relative.value, relative.value - relative.low, relative.high - relative.value)
            assert any(drawn == pytest.approx(bar) for drawn in bars)


def test_the_divergence_is_the_same_in_table_page_and_mlflow_and_a_dash_where_it_was_not_measured(written):
    folder, _ = written
    page = Reader((folder / "report.html").read_text())
    logged = records("smoke", "", cells(), changes(cells()))
    rows = table(folder / "cells.csv")
    for one in cells():
        parts = {row["corpus"]: row for row in rows if (row["method"], row["weight"], row["activation"]) == recipe(one)}
        document, metrics = (getattr(logged[one.cell.key], name) for name in ("document", "metrics"))
        shown = page.row("opt-standin-s", *recipe(one), "r0")[13:15]
        assert set(parts) == {*one.nll, "mean"}
        if not one.kl:
            assert {row[name] for row in parts.values() for name in ("kl", "kl_high", "agreement")} == {""}
            assert shown == ["–", "–"] and document["kl"] == document["agree"] == {}
            assert not any(name.startswith(("kl", "agreement")) for name in metrics)
            continue
        for name, series in (("kl", one.kl), ("agreement", one.agree)):
            for part, row in parts.items():
                of_part = series if part == "mean" else {part: series[part]}
                interval = intervals.mean_of_windows(of_part, independent=one.independent)
                assert float(row[name]) == metrics[f"{name}_{part}"] == pytest.approx(interval.value)
                low, high = (float(row[f"{name}_{bound}"]) for bound in ("low", "high"))
                assert (low, high) == pytest.approx((interval.low, min(interval.high, 1)))
                assert low < float(row[name]) < high or one.cell.is_full_precision
        assert document["kl"] == {corpus: values.tolist() for corpus, values in one.kl.items()}
        assert [float(text) for text in shown] == pytest.approx(
            [metrics["kl_mean"], 100 * metrics["agreement_mean"]], rel=1e-3, abs=0.05
        )


def recipe(one) -> tuple[str, str, str]:
    return one.cell.method, one.cell.weight, one.cell.activation


PAGES = {"experiment": "/experiment", "table": "/table", "charts": "/charts"}
IMPORTED = {"created": 4, "kept": 0, "deleted": 0, "former": 0, "parent_artifacts": "results/mlflow", "pages": PAGES}


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


def test_every_interval_to_full_precision_is_computed_once(tmp_path, monkeypatch):
    calls = Counter()

    def counted(name: str, whole):
        def count(*arguments):
            calls[name] += 1
            return whole(*arguments)

        return count

    for module, name in (
        (comparison, "mean_perplexity_difference"),
        (comparison, "relative_change"),
        (comparison, "nll_difference"),
        (claims, "mean_perplexity_contrast"),
    ):
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "study_from_arguments", lambda arguments: study(cells(), name="smoke"))
    monkeypatch.setattr(results, "collect", lambda asked: cells())
    report.main(Job("report", ["study=smoke"]))
    # Nothing shows the share of full precision itself.
    assert calls == {"mean_perplexity_difference": 4, "relative_change": 3, "nll_difference": 3 * 4}
    (verdict,) = json.loads((tmp_path / "results" / "smoke" / "claims.json").read_text())
    assert verdict["claim"].startswith("INT8")  # which rests on the same interval


def test_a_cell_without_a_finished_full_precision_cell_has_no_change():
    full, rounded, rtn, _ = cells()
    assert full_precision([rounded, full, rtn]) == {"opt-standin-s": full}
    assert list(changes([rounded, full, rtn])) == [rounded.cell, full.cell, rtn.cell]
    assert changes([rounded, rtn]) == {}
    failed = dataclasses.replace(rtn, status="failed", nll={})
    assert list(changes([full, failed])) == [full.cell]


@pytest.mark.parametrize(("protocol", "drawn"), [("gptq-old", {"c4"}), ("gptq-new", set()), ("stdlib", set())])
def test_a_result_knows_which_corpora_were_drawn_document_by_document(protocol, drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = load_study("methods", ["study.models=[opt-125m]", f"study.eval={protocol}"])
    settings = compose.load("eval", protocol)
    cell = next(cell for cell in asked.cells if cell.is_full_precision)
    losses = {corpus: [3.0, 3.5, 4.0] for corpus in settings.corpora}
    measured = {"identity": {"settings": settings.protocol()}, "variants": {cell.variant: {"nll": losses}}}
    write_json(job_folders(asked, cell)["evaluation"] / "result.json", "perplexity", measured)
    (found,) = [one for one in results.collect(asked) if one.status == "ok"]
    assert found.cell == cell and found.independent == drawn
