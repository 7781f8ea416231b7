"""The page from synthetic results: self-contained, escaped, and honest about what failed."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest
from synthetic import result, results, study

from lorcbench.claims import Verdict, judge
from lorcbench.config import StudyConfig
from lorcbench.figures import draw
from lorcbench.page import degraded, render

STAGES = [{"stage": "quantize", "jobs": 12, "seconds": 1234.5, "peak_rss_mib": 812.4}]
VOID = {"meta", "img", "input", "br"}


class Reader(HTMLParser):
    """Checks that tags nest, and collects the attributes of every element and the rows of tables as text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack, self.elements, self.rows = [], [], []
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if "td" in self.stack or "th" in self.stack:
            self.rows[-1][-1] += data

    def row(self, *words: str) -> list[str]:
        """The one row of a table whose first cells are `words`."""
        (row,) = [row for row in self.rows if row[: len(words)] == list(words)]
        return row


def failures() -> list:
    """Results among which some failed, some were not run, and one needed more damping."""
    found = results()
    nothing = {"nll": {}, "bits_per_weight": None, "weights": None, "seconds": None, "peak_rss_mib": None, "max_damp": None}
    found[3] = dataclasses.replace(found[3], status="failed", reason="quantize: <killed> & gone", **nothing)
    found[4] = dataclasses.replace(found[4], status="not run", reason="evaluation: not run", **nothing)
    found[-1].max_damp = 0.1
    found[-1].harness = {"stdlib_prose/acc": 0.51234}
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the figures of the synthetic study."""
    path = tmp_path_factory.mktemp("report")
    draw(results(), path)
    return path


@pytest.fixture(scope="module")
def text(folder):
    """The page of a study with failures."""
    found = failures()
    return render(study(found), found, judge(found, 200), draw(results(), folder), folder, STAGES)


def test_the_page_is_well_formed_and_fetches_nothing(text):
    reader = Reader(text)
    assert "http:" not in text and "https:" not in text and "//cdn" not in text
    sources = [value for _, attributes in reader.elements for name, value in attributes.items() if name in ("src", "href")]
    assert {re.sub(r"[^:]*$", "", source) for source in sources if ":" in source} == {"data:"}
    assert [source for source in sources if not source.startswith(("#", "data:"))] == ["cells.csv"]
    assert not {"link", "iframe", "object"} & {tag for tag, _ in reader.elements}
    assert text.count("data:image/svg+xml;base64,") == 3
    assert "$" not in re.sub(r"base64,[^\"]*", "", text)


def test_anchors_lead_to_sections(text):
    elements = Reader(text).elements
    targets = {attributes["id"] for _, attributes in elements if "id" in attributes}
    links = [attributes["href"][1:] for tag, attributes in elements if tag == "a" and attributes["href"].startswith("#")]
    assert links == ["best", "claims", "figures", "cells", "tasks", "stages", "files", "reading"]
    assert set(links) <= targets


def test_every_cell_is_a_row_and_counts_add_up(text):
    rows = [row for row in Reader(text).rows if row and row[0].endswith("-standin-s") and len(row) > 5]
    assert len(rows) == len(failures()) == 54
    assert "<b>54</b><span>cells</span>" in text and "<b>52</b><span>ok</span>" in text
    assert "<b>1</b><span>failed</span>" in text and "<b>1</b><span>not run</span>" in text


def test_a_row_carries_the_numbers_of_its_cell(text):
    found = next(one for one in results() if one.cell.key == "opt-standin-s/rtn/none/w2-asym-row/a16/r0")
    row = Reader(text).row("opt-standin-s", "rtn", "w2-asym-row", "a16", "r0")
    assert row[5] == "ok" and row[9] == f"{found.mean_ppl:.2f}"
    change, low, high = (float(part.replace("−", "-")) for part in re.findall(r"[+−][\d.]+", row[10]))
    assert change == pytest.approx(100 * (2.71828182846**0.4 - 1), abs=0.2) and low < change < high
    assert row[11:] == ["2.25", "2.5", "512"]


def test_failed_cells_are_shown_with_their_reason(text):
    failed = failures()[3].cell
    row = Reader(text).row(failed.model, failed.method, failed.weight, failed.activation, f"r{failed.rank}")
    assert row[5:] == ["failed", "quantize: <killed> & gone"]
    assert text.count("quantize: &lt;killed&gt; &amp; gone") == 2  # above the tables and in its row
    assert f"<code>{failed.key}</code>" in text and "evaluation: not run" in text


def test_more_damping_than_configured_is_flagged(text):
    assert text.count("damp 0.1 &gt; 0.01") == 2
    assert degraded(result("opt-standin-s gptq w2-asym-row r0")) == ""
    assert degraded(result("opt-standin-s gptq+damp=0.1 w2-asym-row r0", max_damp=0.1)) == ""
    assert degraded(result("opt-standin-s gptq+damp=0.1 w2-asym-row r0", max_damp=1.0)) == "damp 1 > 0.1"
    assert degraded(result("opt-standin-s rtn w2-asym-row r0")) == ""


def test_the_best_cell_of_a_bit_width_has_the_lowest_perplexity(text):
    best = Reader(text).row("W2 a16")
    for model, cell in zip(("opt-standin-s", "bloom-standin-s"), best[1:], strict=True):
        members = [one for one in failures() if one.status == "ok" and one.cell.model == model]
        lowest = min((one for one in members if one.cell.weight.startswith("w2")), key=lambda one: one.mean_ppl)
        assert cell.startswith(f"{lowest.mean_ppl:.2f}") and f"{lowest.cell.method} {lowest.cell.weight}" in cell


def test_claims_harness_and_stages_are_shown(text):
    reader = Reader(text)
    assert "✓ 4 supported" in text and "At 2 bits, LoRC lowers the perplexity of GPTQ" in text
    assert reader.row(failures()[-1].cell.key) == [failures()[-1].cell.key, "0.5123"]
    assert reader.row("quantize") == ["quantize", "12", "1,234.5", "812"]


def test_text_from_outside_is_escaped(folder):
    found = [result("a<b>&\"'$x none w16 r0")]
    verdict = Verdict("<i>claim</i>", "<i>scope</i>", "undecided", "<i>evidence</i>")
    changes = {"title": "<script>alert(1)</script> $title", "not_applicable": (("<i>m</i>", "w4-asym-g3"),)}
    page = render(study(found, **changes), found, [verdict], [], folder, [STAGES[0] | {"stage": "<i>stage</i>"}])
    Reader(page)
    assert "<i>" not in page and page.count("<script>") == 1
    assert "<h1>&lt;script&gt;alert(1)&lt;/script&gt; $title</h1>" in page
    assert page.count("a&lt;b&gt;&amp;&quot;&#x27;$x") >= 2


def test_stand_ins_are_labelled_and_only_they(folder):
    published = [result("opt-125m none w16 r0")]
    assert "Stand-ins." not in render(study(published), published, [], [], folder, [])
    both = [*published, result("opt-standin-s none w16 r0")]
    assert "opt-standin-s: these are stand-ins" in render(study(both), both, [], [], folder, [])


def test_models_that_are_too_large_are_named(folder):
    found = [result("opt-125m none w16 r0")]
    limited = study(found, config=StudyConfig(title="Limited", eval="stdlib", max_params=7e9), too_large=("opt-13b", "opt-30b"))
    page = render(limited, found, [], [], folder, [])
    assert "study.max_params=7e+09" in page and "opt-13b, opt-30b" in page
    assert "max_params" not in render(study(found), found, [], [], folder, [])


@pytest.mark.parametrize("names", [[], ["opt-125m none w16 r0"], ["opt-125m rtn w4-asym-row r0"]])
def test_a_small_study_gives_a_page(names, folder):
    found = [result(name) for name in names]
    page = render(study(found), found, [], [], folder, [])
    Reader(page)
    assert 'id="tasks"' not in page and 'id="stages"' not in page and 'id="claims"' not in page


def test_equal_inputs_give_the_same_page(text, folder):
    found = failures()
    assert render(study(found), found, judge(found, 200), draw(results(), folder), folder, STAGES) == text


def test_several_seeds_of_calibration_are_told_apart(folder):
    found = [result("opt-125m gptq w2-asym-row r0"), result("opt-125m gptq w2-asym-row r0")]
    found[1].cell = dataclasses.replace(found[1].cell, calibration="stdlib+seed=1")
    page = render(study(found), found, [], [], folder, [])
    assert "<small>stdlib</small>" in page and "<small>stdlib+seed=1</small>" in page
