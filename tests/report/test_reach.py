"""Every published number is reached by some study, or the reason is named."""

from collections import Counter
from pathlib import Path

import pytest

from lorcbench.config import compose
from lorcbench.report import reach
from lorcbench.report.reach import kind, reason, studies
from lorcbench.study.expansion import load_study
from lorcbench.study.published import PROTOCOLS, SOURCES, STUDIED, load

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found():
    return studies()


def test_every_number_is_reached_or_the_reason_is_named(found):
    assert set(found) == set(load())
    for row, names in found.items():
        if row.source in STUDIED:
            assert bool(names) != bool(reason(row)), row


def test_the_totals_are_those_that_the_command_prints(found):
    # python -m lorcbench.report.reach
    papers = {row: names for row, names in found.items() if row.source in STUDIED}
    assert len(papers) == 7016
    assert Counter(kind(row) for row, names in papers.items() if names) == {
        "measured: one corpus": 3909,
        "measured: the mean of three corpora": 1323,
        "measured, and derived: the best learning rate": 1276,
        "derived: the best of the methods": 382,
    }
    assert Counter(reason(row) for row, names in papers.items() if not names) == {
        "the paper states neither groups nor symmetry": 90,
        "the model's weights were never public for download": 15,
        "groups do not divide the model's width": 12,
        "misprint: another row's number, or a slip of a digit": 9,
    }


def test_other_sources_are_counted_apart(found, monkeypatch, capsys):
    monkeypatch.setattr(reach, "studies", lambda: found)
    reach.main()
    said = capsys.readouterr().out
    assert said.startswith("7016 published perplexities, 6890 reached by some study, 126 by none")
    papers, others = said.split("printed by other sources")
    text = (Path(__file__).resolve().parents[2] / "docs/published.md").read_text()
    reached = Counter(row.source for row, names in found.items() if names)
    assert reached == {"zeroquant-v2": 6680, "gptq": 210, "omniquant": 68, "awq": 5, "ptq-bench": 105}
    assert all(f"| {count:,} |" in text for count in reached.values())
    assert not any(SOURCES[source].title in papers for source in SOURCES if source not in STUDIED)
    assert "237  ptq-bench, reproduction:" in others and "27  LQER, paper: 0 reached by some study" in others
    assert all(reason(row) == "the source has a protocol of its own" for row in found if row.source == "lqer")


TABLES = {
    "sensitivity": {"E.1/E.2"},
    "methods": {"E.3/E.6", "E.9/E.12"},
    "groups": {"E.15/E.16", "E.17/E.18", "4 / v2 8-9", "v2 C.1-C.2"},
    "groups-w4a8": {"E.20/E.21", "5 / v2 11-12"},
    "activation-groups": {"6 / E.22"},
    "lorc": {"7 (LoRC)", "Figure 1"},
    "factor-precision": {"8 (factor bits)"},
    "rank": {"9 (rank)"},
    "bits": {"E.19", "E.19 / v2 10"},
    "seeds": {"B.1"},
    "learning-rates": {"E.4-E.14 lr"},
    "size-quality": {"Figure 1"},
    "gptq-paper": {"GPTQ 3-4/9-12"},
}


@pytest.mark.parametrize("name", TABLES)
def test_a_study_reaches_the_whole_table_that_it_is_of(name, found):
    rows = [row for row in found if row.table in TABLES[name]]
    assert {row.table for row in rows} == TABLES[name]
    assert all(name in found[row] for row in rows if not reason(row))


def test_every_study_of_published_models_names_its_table_and_command():
    for name in compose.names("study"):
        if load_study(name).eval in PROTOCOLS.values():
            text = (compose.conf_dir() / "study" / f"{name}.yaml").read_text()
            head = [line for line in text.splitlines() if line.startswith("#")]
            assert any(word in " ".join(head) for word in ("ZeroQuant-V2", "GPTQ"))
            assert f"# snakemake --cores all --config study={name}" in head
