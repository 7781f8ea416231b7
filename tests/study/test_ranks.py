"""Ranks of stand-ins: which published ones they stand for, and what is said of that."""

from __future__ import annotations

import pytest

from lorcbench.config.schema import RuntimeConfig
from lorcbench.pipeline import plan
from lorcbench.report.results import CellResult
from lorcbench.report.tables import rows
from lorcbench.study.expansion import load_study
from lorcbench.study.ranks import rank_lines, rank_share
from lorcbench.study.rehearsal import RANKS, SCALE, rank


def test_published_ranks_become_an_eighth_as_groups_do():
    assert [rank(number) for number in (0, 1, 4, 8, 16, 32, 64, 128, 512)] == [0, 1, 1, 1, 4, 4, 16, 16, 16]
    assert all(published == SCALE * own for published, own in RANKS.items())


@pytest.mark.parametrize(
    ("name", "published", "ranks", "one_rank"),
    [
        ("rank", {0, 1, 4, 8, 16, 32}, {0, 1, 4}, {1: [1, 4, 8], 4: [16, 32]}),
        ("lorc", {0, 8}, {0, 1}, {1: [8]}),
        ("lorc-a8", {0, 8, 16}, {0, 1, 4}, {1: [8], 4: [16]}),
        ("singular-values", {0, 128}, {0, 16}, {16: [128]}),
    ],
)
def test_rehearsals_have_ranks_of_stand_ins(name, published, ranks, one_rank):
    paper, rehearsal = load_study(name), load_study(f"{name}+standins=true")
    assert {cell.rank for cell in paper.cells} == published and paper.published_ranks == {}
    assert {cell.rank for cell in rehearsal.cells} == ranks and rehearsal.published_ranks == one_rank


def test_ranks_of_the_command_line_stay_as_they_are():
    kept = load_study("rank+standins=true", ["study.ranks=[0,8,32]"])
    assert {cell.rank for cell in kept.cells} == {0, 8, 32} and kept.published_ranks == {}
    assert not any("stands for" in line for line in rank_lines(kept))


def test_ranks_that_are_shares_of_a_width_are_the_same_shares_of_stand_ins():
    paper, rehearsal = load_study("corrections", ["study.models=[opt-6.7b]"]), load_study("corrections+standins=true")
    shares = [{rank_share(study, cell) for cell in study.cells} for study in (paper, rehearsal)]
    assert shares[0] == shares[1] == {None, 1 / 128, 4 / 128, 8 / 128} and rehearsal.published_ranks == {}
    assert rank_lines(rehearsal) == [
        "rank 1 is 0.8 % of width 128, as 32 of 4,096",
        "rank 4 is 3.1 % of width 128, as 128 of 4,096",
        "rank 8 is 6.2 % of width 128, as 256 of 4,096",
    ]
    (line,) = rank_lines(load_study("own+standins=true"))
    assert line.endswith(", as 32 of 1,024")
    assert not any(", as" in line for line in rank_lines(load_study("own", ["study.ranks=[0,8]"])))


def test_lines_say_the_share_the_published_rank_and_what_became_one():
    assert rank_lines(load_study("rank+standins=true", ["study.models=[opt-standin-m]"])) == [
        "rank 1 is 0.8 % of width 128; stands for the published 1 (0.024 % of 4,096), 4 (0.098 % of 4,096), 8 (0.2 % of 4,096)",
        "rank 4 is 3.1 % of width 128; stands for the published 16 (0.39 % of 4,096), 32 (0.78 % of 4,096)",
        "ranks 1, 4, 8 of the study are one rank on stand-ins: 1",
        "ranks 16, 32 of the study are one rank on stand-ins: 4",
    ]
    assert rank_lines(load_study("rank")) == []


def test_the_demo_measures_ranks_1_4_and_16_on_three_widths():
    demo = load_study("demo")
    assert {cell.rank for cell in demo.cells} == {0, 1, 4, 16}
    first, *_, last = rank_lines(demo)
    assert first.startswith("rank 1 is 1.6 % of width 64, 0.8 % of width 128, 0.4 % of width 256; stands for the published 8 ")
    assert last.startswith("rank 16 is 25.0 % of width 64, ") and "128 (3.1 % of 4,096)" in last


def test_the_share_is_in_the_table_and_the_lines_in_the_plan():
    demo = load_study("demo", ["study.models=[opt-standin-m]"])
    shares = {cell.rank: rank_share(demo, cell) for cell in demo.cells}
    assert shares == {0: None, 1: 1 / 128, 4: 4 / 128, 16: 16 / 128}
    table = rows(demo, [CellResult(cell) for cell in demo.cells], {})
    assert {(row["rank"], row["rank_share"]) for row in table} == {(0, ""), (1, 1 / 128), (4, 4 / 128), (16, 16 / 128)}
    text, _ = plan.report(demo, RuntimeConfig(), plan.Machine(2, 8_000, 100_000, 50e9))
    assert "\n".join(rank_lines(demo)) in text
