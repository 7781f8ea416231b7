"""All sources of one number side by side; where they contradict each other; papers and reproductions counted apart."""

import csv
import dataclasses
import io
import math
from pathlib import Path

import numpy as np
import pytest
from page_reader import Reader, shown
from synthetic import result

from lorcbench.report import conventions, recommend, rows, scorecard, sources
from lorcbench.report.agreement import agreements, orderings, summary
from lorcbench.report.comparison import changes
from lorcbench.report.figures.size import _in_print
from lorcbench.report.page import evidence
from lorcbench.report.results import CellResult
from lorcbench.report.scorecard import counted
from lorcbench.report.sources import conflicts, side_by_side
from lorcbench.study.cells import Cell, Study
from lorcbench.study.expansion import load_study
from lorcbench.study.published import PAPER, REPRODUCTION, SOURCES, load

WIKI = "wikitext2"


def asked(model: str = "opt-125m") -> Study:
    """A study of RTN at 3 bits in groups of 128, under ZeroQuant-V2's protocol."""
    return load_study("groups", [f"study.models=[{model}]", "study.methods=[rtn]", "study.weights=[w3-asym-g128]"])


def measured(cell: Cell, **perplexities: float) -> CellResult:
    """The cell with these perplexities."""
    nll = {corpus: np.full(16, math.log(ppl)) for corpus, ppl in perplexities.items()}
    return CellResult(cell, "opt", status="ok", nll=nll)


@pytest.fixture(scope="module")
def rounded():
    """OPT-125m by RTN at w3-asym-g128: the study, its result, rows, and records."""
    study = asked()
    (cell,) = (cell for cell in study.cells if cell.method == "rtn")
    found = [measured(cell, wikitext2=51.3)]
    rows = scorecard.compare(study, found, changes(found))
    return study, found, rows, side_by_side(study, found, rows)


def test_all_sources_of_a_cell_stand_in_one_row(rounded):
    (one,) = rounded[3]
    assert (one.corpus, one.measured) == (WIKI, pytest.approx(51.3))
    assert {entry.source: (entry.ppl, entry.table, entry.within) for entry in one.entries} == {
        "zeroquant-v2": (3446.89, "E.17/E.18", False),
        "omniquant": (51.22, "A20", True),
        "ptq-bench": (51.2001, "by-model", True),
    }
    assert one.entries[1].relative == pytest.approx(51.3 / 51.22 - 1)
    assert one.conflict.outvoted == ("zeroquant-v2",)


def test_the_row_of_the_csv_has_columns_per_source(rounded):
    (row,) = csv.DictReader(io.StringIO(rows.as_csv(sources.COLUMNS, (one.columns() for one in rounded[3]))))
    assert (row["model"], row["weight"], row["corpus"], row["protocol"]) == ("opt-125m", "w3-asym-g128", WIKI, "gptq-old")
    assert [row[source] for source in SOURCES] == ["3446.89", "", "51.22", "", "", "51.2001"]
    assert [row[f"{source}_within"] for source in SOURCES] == ["False", "", "True", "", "", "True"]
    assert row["ptq-bench_table"] == "by-model" and row["omniquant_relative"] == "0.001562"
    assert row["sources"] == "OmniQuant 51.22 and ptq-bench 51.20 agree; ZeroQuant-V2 3,447 does not"
    assert row["notes"] == "omniquant: AffineQuant 1 repeats it"


def test_the_page_shows_three_sources_and_says_which_do_not_agree(rounded):
    _, _, rows, beside = rounded
    page = evidence.scorecard(rows, orderings(rows), beside)
    reader = Reader(page)
    assert "OmniQuant 51.22 and ptq-bench 51.20 agree; ZeroQuant-V2 3,447 does not" in page
    assert "In 1 of them two or more sources agree with each other and not with ZeroQuant-V2." in page
    assert "ptq-bench: a reproduction, not a paper" in page
    for head in ("ZeroQuant-V2", "OmniQuant", "ptq-bench"):
        assert f'<th scope="col">{head}</th>' in page
    assert '<th scope="col">GPTQ</th>' not in page and '<th scope="col">LQER</th>' not in page
    assert "? some" in page  # of the papers' numbers one is met, one is not
    assert reader.row("rtn") == ["rtn", "2", "1", "98.51 %"]
    assert reader.row("rtn (reproductions)") == ["rtn (reproductions)", "1", "1", "0.20 %"]
    assert any("two or more sources agree" in line for line in sources.summary(beside)) and sources.summary([]) == []


def test_reproductions_and_suspect_numbers_are_never_in_the_counts_of_papers(rounded):
    rows = rounded[2]
    assert {row.source for row in counted(rows)} == {"zeroquant-v2", "omniquant"}
    assert [row.source for row in counted(rows, REPRODUCTION)] == ["ptq-bench"]
    assert [(one.count, one.within) for one in agreements(rows)] == [(2, 1)]
    assert [(one.count, one.within) for one in agreements(rows, REPRODUCTION)] == [(1, 1)]
    said = summary(rows, [])
    assert said[0] == "  published numbers: 2 compared, 1 within tolerance"
    assert "  reproductions, no papers and not counted above: 1 compared, 1 within tolerance" in said
    alone = [row for row in rows if row.source == "ptq-bench"]
    off = [dataclasses.replace(row, within=False, relative=0.5) for row in alone]
    assert not any("off:" in line for line in summary(off, [])) and orderings(alone) == [] and conventions.rank(alone) == []
    assert counted([dataclasses.replace(row, note="suspect: x") for row in rows]) == []
    means = [dataclasses.replace(row, corpus="mean") for row in alone]
    assert _in_print(rounded[1], rounded[1], means) == []


def test_the_models_of_the_paper_are_those_of_the_two_studied_papers():
    models = {row.model for row in load() if row.source in ("zeroquant-v2", "gptq")}
    assert recommend._printed_models() == models


def test_whether_all_some_or_none_of_the_papers_are_met_leaves_reproductions_out(rounded):
    (one,) = rounded[3]
    assert "some" in shown(evidence._agrees(one))
    only = {kind: tuple(e for e in one.entries if SOURCES[e.source].kind == kind) for kind in (PAPER, REPRODUCTION)}
    assert evidence._agrees(dataclasses.replace(one, entries=only[REPRODUCTION])) == "–"
    met = tuple(dataclasses.replace(entry, within=True) for entry in only[PAPER])
    assert "yes" in shown(evidence._agrees(dataclasses.replace(one, entries=met)))
    missed = tuple(dataclasses.replace(entry, within=False) for entry in only[PAPER])
    assert "no" in shown(evidence._agrees(dataclasses.replace(one, entries=(*missed, *only[REPRODUCTION]))))


def test_tables_of_one_source_that_print_the_same_are_one_entry():
    study = load_study("methods", ["study.models=[opt-6.7b]", "study.methods=[rtn]", "study.activations=[a16]"])
    (cell,) = (cell for cell in study.cells if cell.method == "rtn")
    found = [measured(cell, wikitext2=11.9, ptb=14.5)]
    wiki, ptb = side_by_side(study, found, scorecard.compare(study, found, changes(found)))
    assert [(entry.source, entry.table) for entry in wiki.entries] == [
        ("zeroquant-v2", "E.1/E.2, E.3/E.6"),
        ("gptq", "GPTQ 3-4/9-12"),
        ("ptq-bench", "by-model"),
    ]
    assert {entry.source for entry in ptb.entries} == {"zeroquant-v2"} and ptb.conflict is None


def place(model: str, weight: str, corpus: str = WIKI, protocol: str = "", method: str = "rtn") -> tuple:
    return (model, method, weight, "a16", corpus, protocol)


@pytest.mark.parametrize(
    ("model", "weight", "agreeing"),
    [
        ("opt-125m", "w3-asym-g128", ("omniquant", "ptq-bench")),
        ("opt-1.3b", "w3-asym-g128", ("omniquant", "awq", "ptq-bench")),
        ("opt-6.7b", "w3-asym-g128", ("omniquant", "awq")),
        ("opt-13b", "w3-asym-g128", ("omniquant", "awq")),
        ("opt-30b", "w3-asym-g128", ("omniquant", "awq")),
        ("opt-1.3b", "w4-asym-row", ("gptq", "ptq-bench")),
    ],
)
def test_sources_that_agree_with_each_other_and_not_with_zeroquant_v2(model, weight, agreeing):
    conflict = conflicts()[place(model, weight)]
    assert tuple(source for source, _ in conflict.groups[0]) == agreeing
    assert conflict.outvoted == ("zeroquant-v2",)


def test_two_cells_of_gptqs_paper_that_do_not_reproduce_are_told_without_a_verdict():
    for corpus, text in (("ptb", "GPTQ 57.30 against ptq-bench 75.33"), ("c4", "GPTQ 24.51 against ptq-bench 27.49")):
        conflict = conflicts()[place("opt-1.3b", "w4-asym-row", corpus, "gptq-new")]
        assert conflict.text() == text and conflict.outvoted == ()
        assert place("opt-1.3b", "w4-asym-row", corpus, "gptq-old") not in conflicts()  # other texts


def test_conflicts_are_of_what_neither_seeds_nor_digits_nor_broken_models_explain():
    assert len(conflicts()) == 36 and sum(bool(conflict.outvoted) for conflict in conflicts().values()) == 15
    text = (Path(__file__).resolve().parents[2] / "docs/published.md").read_text()
    assert "finds 36 contradictions" in text and "in 15 of them two or more sources agree" in text
    assert {source for conflict in conflicts().values() for source in conflict.outvoted} == {"zeroquant-v2"}
    assert place("opt-125m", "w4-asym-g128") not in conflicts()  # 30.62, 30.47, 30.48
    assert place("opt-2.7b", "w3-asym-g128") not in conflicts()  # 154 to 298, where full precision has 12: all broken
    assert place("opt-125m", "w4-asym-row", method="gptq") not in conflicts()  # seeds
    assert place("opt-2.7b", "w2-asym-g128", method="gptq") not in conflicts()  # 61.6 and 72.7
    assert place("opt-125m", "w3-asym-row", method="gptq") in conflicts()  # 53, 53, 54 and 845.8
    assert not any(one.model == "opt-13b" and one.method == "none" for one in conflicts().values())  # 10.12 and 10.13


@pytest.mark.parametrize(
    ("numbers", "sizes"),
    [
        ({"gptq": 1300.0, "ptq-bench": 1277.11}, [2]),  # 1.3e3 says no more
        ({"gptq": 1310.0, "ptq-bench": 1277.11}, [1, 1]),
        ({"gptq": 50.0, "omniquant": 50.4, "ptq-bench": 99.0}, [2, 1]),
        ({"gptq": math.inf, "omniquant": math.inf, "ptq-bench": 99.0}, [2, 1]),
    ],
)
def test_sources_agree_within_a_share_and_the_printed_digits(numbers, sizes):
    assert [len(group) for group in sources._groups(numbers, 0.01)] == sizes


def corrected(lorc: str, activation: str = "a8-sym-token", weight: str = "w4-sym-g32") -> CellResult:
    """OPT-1.3b by RTN with a correction of rank 32."""
    cell = Cell("opt-1.3b", "rtn", "none", weight, "a16", activation, lorc, 32)
    return measured(cell, wikitext2=15.3)


def test_numbers_of_another_protocol_are_shown_and_compared_with_nothing():
    study, found = asked("opt-1.3b"), [corrected("plain-int8")]
    assert scorecard.compare(study, found, changes(found)) == []
    (one,) = side_by_side(study, found, [])
    (entry,) = one.entries
    assert (entry.source, entry.ppl, entry.within) == ("lqer", 15.2754, None) and math.isnan(entry.relative)
    assert entry.table == "ablation_study w4-mx-g32 a8-mx-g32"
    page = evidence.scorecard([], [], [one])
    assert "LQER: other number formats and a protocol of its own; shown, and compared with nothing" in page
    assert one.columns()["lqer"] == "15.2754" and one.columns()["lqer_within"] == ""
    (scaled,) = side_by_side(study, [corrected("diag-abs-int8")], [])
    assert [(entry.ppl, entry.table.split()[0]) for entry in scaled.entries] == [(15.016, "opt")]
    for other in (corrected("plain-int8", "a16"), corrected("plain-int8", weight="w4-sym-g128"), corrected("exact-int8")):
        assert side_by_side(study, [other], []) == []
    stdlib = dataclasses.replace(study, eval="stdlib")
    assert side_by_side(stdlib, found, []) == []


def test_a_correction_of_another_kind_is_not_held_against_printed_lorc():
    (plain,) = {row.lorc for row in load() if row.table == "7 (LoRC)" and row.rank}
    assert plain == "plain"
    cells = [
        Cell("opt-6.7b", "gptq", "c4-128x2048", "w4-asym-row", "a16", "a16", f"{kind}-int8", 8)
        for kind in ("plain", "exact", "distilled")
    ]
    found = [measured(cell, wikitext2=11.0, ptb=13.4, c4=12.0) for cell in cells]
    held = [{row.table for row in scorecard.counterparts(one, "gptq-old")} for one in found]
    assert "7 (LoRC)" in held[0] and held[1] == held[2] == set()


def test_stand_ins_have_no_sources():
    study = asked()
    assert side_by_side(study, [result("opt-standin-s rtn w3-asym-g128 r0")], []) == []
