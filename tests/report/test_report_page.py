"""The page from synthetic results: self-contained, escaped, and honest about what failed."""

import csv
import dataclasses
import io
import json
import re
from importlib.metadata import distribution
from urllib.parse import unquote

import numpy as np
import pytest
from browser import Browser, chromium
from matplotlib import image
from page_reader import Reader, jobs, scripts
from synthetic import result, results, study

from lorcbench.common.artifacts import write_json
from lorcbench.config.schema import StudyConfig
from lorcbench.report import claims, equal_bits, figures, recommend, sources
from lorcbench.report.agreement import Ordering
from lorcbench.report.claims import Verdict
from lorcbench.report.comparison import changes
from lorcbench.report.conventions import Candidate
from lorcbench.report.findings import Findings
from lorcbench.report.page import render as page_module
from lorcbench.report.page.cells import degraded
from lorcbench.report.results import CellResult
from lorcbench.report.scorecard import Row
from lorcbench.report.wording import recipe
from lorcbench.study.cells import Cell

pytestmark = pytest.mark.slow

STAGES = [{"stage": "quantize", "jobs": 12, "seconds": 1234.5, "peak_rss_mib": 812.4, "device": "cpu"}]


def judge(found) -> list[Verdict]:
    """The verdicts on results by themselves."""
    return claims.judge(found, changes(found))


def draw(found, folder, rows=()) -> list[figures.Figure]:
    """The figures of results by themselves."""
    return figures.draw(found, changes(found), folder, rows)


def render(asked, found, verdicts, drawn, folder, stages, rows=(), ordered=(), candidates=(), imported=None) -> str:
    """The page of results by themselves."""
    advice = recommend.advise(found, changes(found)), recommend.rank_costs(found), equal_bits.sentence(found)
    beside = sources.side_by_side(asked, found, list(rows))
    findings = Findings(verdicts, list(rows), list(ordered), list(candidates), [], *advice, beside)
    return page_module.render(asked, found, changes(found), findings, drawn, folder, stages, imported)


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
    draw(results(), path / "figures")
    return path


@pytest.fixture(scope="module")
def text(folder):
    """The page of a study with failures."""
    found = failures()
    return render(study(found), found, judge(found), draw(results(), folder / "figures"), folder, STAGES)


def test_the_page_is_well_formed_and_fetches_nothing(text, folder):
    reader = Reader(text)
    assert re.findall(r"https?:.{0,40}|//cdn.{0,40}", text) == []
    sources = [value for _, attributes in reader.elements for name, value in attributes.items() if name in ("src", "href")]
    assert {source.partition(":")[0] for source in sources if ":" in source} == {"data"}
    tables = [source for source in sources if not source.startswith(("#", "data:", "figures/"))]
    assert tables == ["cells.csv", "tasks.csv", "claims.json"]
    drawings = [source for source in sources if source.startswith("figures/")]
    assert drawings and all((folder / source).is_file() for source in drawings)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in reader.elements}
    assert text.count("data:image/svg+xml,") == 6
    assert "$" not in text


def test_anchors_lead_to_sections(text):
    elements = Reader(text).elements
    targets = {attributes["id"] for _, attributes in elements if "id" in attributes}
    links = [attributes["href"][1:] for tag, attributes in elements if tag == "a" and attributes["href"].startswith("#")]
    assert links[:2] == ["content", "cells"]  # to skip what stands before them
    assert links[2:11] == ["use", "sizes", "claims", "figures", "cells", "tasks", "stages", "files", "reading"]
    assert links[11] == "figure-pareto" and len(set(links[11:])) == len(links[11:]) >= 5  # what each figure shows
    assert set(links) <= targets


def test_every_cell_is_a_row_and_counts_add_up(text):
    rows = [row for row in Reader(text).rows if row and row[0].endswith("-standin-s") and len(row) > 5]
    assert len(rows) == len(failures()) == 54
    assert "<b>54</b><span>cells</span>" in text and "<b>52</b><span>ok</span>" in text
    assert "<b>1</b><span>failed</span>" in text and "<b>1</b><span>not run</span>" in text


def test_a_row_carries_the_numbers_of_its_cell(text):
    found = next(one for one in results() if one.cell.key == "opt-standin-s/rtn/none/w2-asym-row/a16/r0")
    reader = Reader(text)
    row = reader.row("opt-standin-s", "rtn", "w2-asym-row", "a16", "r0")
    assert row[5] == "ok" and row[6] == "beaten" and row[reader.column("mean PPL")] == f"{found.mean_ppl:.2f}"
    assert reader.column("ΔPPL in %") == 7 and reader.column("bits per weight") == 8  # what decides, before all other numbers
    change, low, high = (float(part.replace("−", "-")) for part in re.findall(r"[+−][\d.]+", row[7]))
    assert change == pytest.approx(100 * (2.71828182846**0.4 - 1), abs=0.2) and low < change < high
    names = ("at equal bits in %", "mean KL", "agreement in %", "bits per weight", "seconds", "peak MiB")
    assert [row[reader.column(name)] for name in names] == ["–", "–", "–", "2.25", "2.5", "512"] and len(row) == 18


def test_a_row_with_lorc_says_its_share_of_the_width_and_its_rival_at_equal_bits(text):
    reader = Reader(text)
    row = reader.row("opt-standin-s", "gptq", "w2-asym-row", "a16", "r8 (12.5 %)")
    # 0.6 · 0.4 · 0.8 nats above full precision; at no more bits w3 in groups has a sixth of that.
    place = reader.column("at equal bits in %")
    assert row[place].startswith("+") and reader.row("opt-standin-s", "gptq", "w3-asym-g32", "a16", "r0")[place] == "–"
    assert '"h":"over gptq w2-asym-g32, 2.25 bits"' in text


def test_failed_cells_are_shown_with_their_reason(text):
    failed = failures()[3].cell
    row = Reader(text).row(failed.model, failed.method, failed.weight, failed.activation, f"r{failed.rank} (12.5 %)")
    assert row[5:] == ["failed", "", "quantize: <killed> & gone"]
    assert text.count("quantize: &lt;killed&gt; &amp; gone") == 1  # above the tables, and in its row
    assert text.count("quantize: \\u003ckilled> & gone") == 1
    assert f"<code>{failed.key}</code>" in text and "evaluation: not run" in text


def test_more_damping_than_configured_is_flagged(text):
    assert text.count("damp 0.1 &gt; 0.01") == text.count("damp 0.1 > 0.01") == 1
    assert degraded(result("opt-standin-s gptq w2-asym-row r0")) == ""
    assert degraded(result("opt-standin-s gptq+damp=0.1 w2-asym-row r0", max_damp=0.1)) == ""
    assert degraded(result("opt-standin-s gptq+damp=0.1 w2-asym-row r0", max_damp=1.0)) == "damp 1 > 0.1"
    assert degraded(result("opt-standin-s rtn w2-asym-row r0")) == ""


def test_what_to_use_is_the_cell_of_lowest_perplexity_within_a_budget(text):
    reader = Reader(text)
    finished = [one for one in failures() if one.status == "ok" and one.cell.method != "none"]
    for budget in (3, 4.5):
        (row,) = [row for row in reader.rows if len(row) == 3 and row[0] == f"{budget} bits"]
        for model, shown in zip(("opt-standin-s", "bloom-standin-s"), row[1:], strict=True):
            fitting = [one for one in finished if one.cell.model == model and one.bits_per_weight <= budget]
            lowest = min(fitting, key=lambda one: one.mean_ppl)
            assert f"{lowest.bits_per_weight:.2f} bits" in shown and shown.endswith(recipe(lowest.cell))
    shared = reader.row("3 bits", "GPTQ, 2 bits, groups of 32")
    assert shared[2] == "2.25" and re.fullmatch(r"\+\d\d\.\d % \[\+\d\d\.\d, \+\d\d\.\d\]", shared[3])
    assert text.index('id="use"') < text.index('<ul class="facts"') < text.index('id="figure-pareto"')
    assert text.index('id="figure-pareto"') < text.index('id="figure-bits"')
    assert "in bits per weight and on a width of 64: 0.80 at rank 8 (12.5 % of the width). On a width of 4,096" in text


def test_claims_harness_and_stages_are_shown(text):
    reader = Reader(text)
    assert "✓ 4 supported" in text and "At 2 bits, LoRC lowers the perplexity of GPTQ" in text
    assert reader.row(failures()[-1].cell.key) == [failures()[-1].cell.key, "0.5123"]
    assert reader.row("quantize") == ["quantize", "12", "1,234.5", "812", "cpu"]


def test_text_from_outside_is_escaped(folder, monkeypatch):
    # No conf file has a name such as this one, so nobody is asked what its windows were.
    monkeypatch.setattr("lorcbench.report.page.render.window_lines", lambda study, results: [])
    found = [result("a<b>&\"'$x none w16 r0")]
    verdict = Verdict("<i>claim</i>", "<i>scope</i>", "undecided", "<i>evidence</i>")
    changes = {"title": "<script>alert(1)</script> $title", "not_applicable": (("<i>m</i>", "w4-asym-g3"),)}
    page = render(study(found, **changes), found, [verdict], [], folder, [STAGES[0] | {"stage": "<i>stage</i>"}])
    Reader(page)
    assert "<i>" not in page and page.count("<script") == 3
    assert "<h1>&lt;script&gt;alert(1)&lt;/script&gt; $title</h1>" in page
    assert page.count("a&lt;b&gt;&amp;&quot;&#x27;$x") == 1 and page.count("a\\u003cb>&\\\"'$x") == 1  # above and in the table


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
    assert render(study(found), found, judge(found), draw(results(), folder / "figures"), folder, STAGES) == text


def test_several_seeds_of_calibration_are_told_apart(folder):
    found = [result("opt-125m gptq w2-asym-row r0"), result("opt-125m gptq w2-asym-row r0")]
    found[1].cell = dataclasses.replace(found[1].cell, calibration="stdlib+seed=1")
    page = render(study(found), found, [], [], folder, [])
    assert {row[1] for row in Reader(page).rows if row[:1] == ["opt-125m"]} == {"gptqstdlib", "gptqstdlib+seed=1"}


def job(root, stage: str, **record):
    """The folder of a job with a result, a record and a log."""
    folder = root / "results" / "cache" / stage / "a+b=1"
    result = {"identity": {"stage": stage, "code": "c0de", "settings": {"bits": 2, "note": "</script><i>"}}}
    write_json(folder / "result.json", stage, result)
    write_json(folder / "run.json", "run", {"stage": stage, "seconds": 1.5, "host": "node-1", **record})
    (folder / "log.txt").write_text("done")
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A page on disk with jobs behind its cells, a derived row, a scorecard and an import."""
    root = tmp_path_factory.mktemp("site")
    folder, found = root / "results" / "synthetic", failures()
    for one in found:
        one.folders = {"quantized": job(root, "quantize"), "evaluation": job(root, "evaluate")}
    best = dataclasses.replace(found[30], cell=dataclasses.replace(found[30].cell, method="best"), derived="gptq; lowest of 3")
    rows = [
        in_print(found[0], 41.0, within=True, kind="full precision"),
        in_print(best, 900.0, within=False, kind="best", derived=True),
    ]
    pages = {name: f"/#/experiments/1/{name}" for name in ("table", "charts", "compare")}
    drawn = draw([*found, best], folder / "figures", rows)
    imported = {"uri": "sqlite:///x.db", "pages": pages, "experiment": "a study"}
    ordered = [Ordering("7", "opt-standin-s", 3, 0.5, 2, 1)]
    candidates = [Candidate("weights under rtn", "minmax", 12, 0.0123, 0.05)]
    html = render(study(found), [*found, best], judge(found), drawn, folder, STAGES, rows, ordered, candidates, imported)
    (folder / "report.html").write_text(html)
    for name in ("cells.csv", "tasks.csv", "claims.json", "scorecard.csv", "fingerprint.csv"):
        (folder / name).write_text("")
    return folder / "report.html"


def in_print(one, published: float, **fields) -> Row:
    """A row of the scorecard."""
    axes = {axis: text for axis, text in vars(one.cell).items() if axis != "trained"}
    numbers = {"measured": one.mean_ppl, "published": published, "difference": one.mean_ppl - published}
    numbers |= {"relative": one.mean_ppl / published - 1, "tolerance": 0.01, "class_measured": 1, "class_published": 2}
    return Row(**{**axes, **numbers, "corpus": "mean", "table": "7", "derived": False, **fields})


def test_every_link_of_the_page_leads_to_a_file(served):
    links = [attributes["href"] for tag, attributes in Reader(served.read_text()).elements if tag == "a"]
    links += [link for job in jobs(served.read_text())[0] for link in job["files"].values()]
    local = [link for link in links if not link.startswith(("#", "http"))]
    assert len(local) > 10 and all((served.parent / unquote(link)).is_file() for link in local)
    assert [link for link in links if link.startswith("http")] == [
        f"http://127.0.0.1:5000/#/experiments/1/{name}" for name in ("table", "charts", "compare")
    ]


def test_jobs_tell_settings_and_digests(served):
    (quantize, evaluate), of_cells = jobs(served.read_text())
    assert len(of_cells) == 55 and {len(own) for own in of_cells} == {2}
    assert len(scripts(served.read_text())["provenance"]["values"]) == 5  # two stages; code, settings and host once
    assert (quantize["stage"], evaluate["stage"]) == ("quantize", "evaluate")
    assert quantize["files"]["log.txt"] == "../cache/quantize/a%2Bb%3D1/log.txt" and quantize["host"] == "node-1"
    assert quantize["settings"] == {"bits": 2, "note": "</script><i>"} and len(quantize["digest"]) == 64


def test_derived_rows_are_marked_and_not_counted(served):
    text = served.read_text()
    (row,) = [row for row in Reader(text).rows if row[1:2] == ["best"]]
    assert row[5].startswith("derivedgptq; lowest of 3") and "<b>54</b><span>cells</span>" in text
    assert "gptq; lowest of 3" not in text[: text.index('id="cells"')]


def test_the_scorecard_stands_beside_the_measurements(served, text):
    reader = Reader(served.read_text())
    assert reader.row("full precision") == ["full precision", "1", "1", f"{100 * abs(failures()[0].mean_ppl / 41 - 1):.2f} %"]
    assert reader.row("weights under rtn") == ["weights under rtn", "minmax", "12", "1.23 %", "5.00 %"]
    assert reader.row("7", "opt-standin-s") == ["7", "opt-standin-s", "3", "0.50", "1 of 2"]
    assert "<b>1 of 2</b><span>papers&#x27; numbers met</span>" in served.read_text()
    assert 'id="scorecard"' not in text and "In MLflow" not in text


def test_without_a_browser_tests_of_pages_skip_and_in_ci_fail(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", "true")
    monkeypatch.delenv("LORCBENCH_REQUIRE_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no chromium"):
        chromium()
    monkeypatch.setenv("LORCBENCH_REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="no chromium"):
        chromium()


@pytest.fixture(scope="module")
def browser(served):
    """The page in a real browser."""
    page = Browser()
    page.open(served.as_uri())
    yield page
    page.close()


def column(browser, table: str, index: int) -> list[str]:
    """What the visible rows of a table show in a column."""
    rows = f"Array.from(document.querySelectorAll('#{table} tbody tr:not([hidden])'))"
    return browser.run(f"{rows}.map(row => row.cells[{index}] ? row.cells[{index}].textContent.trim() : '')")


def test_in_a_browser_nothing_is_fetched_and_nothing_goes_wrong(browser, served):
    fetched = [request for request in browser.requests if not request.startswith("data:")]
    assert set(fetched) <= {"about:blank", served.as_uri()}
    assert browser.errors == []
    assert browser.run("Array.from(document.images).every(image => image.naturalWidth > 500)")


MODEL, WEIGHT, LORC, STATUS, CHANGE, MEAN = 0, 2, 3, 4, 6, 9  # columns in view: all cells have a16, so it has none


def press(browser, index: int) -> None:
    """Click the heading of a column."""
    browser.run(f"document.querySelectorAll('#cell-table th button')[{index}].click()")


def test_in_a_browser_headings_sort_numbers_and_names(browser):
    press(browser, MEAN)
    up = [float(text) for text in column(browser, "cell-table", MEAN) if text]
    assert up == sorted(up) and len(up) == 53
    assert column(browser, "cell-table", MEAN)[-2:] == ["", ""]  # without numbers last, both ways
    press(browser, MEAN)
    assert [float(text) for text in column(browser, "cell-table", MEAN) if text] == up[::-1]
    assert column(browser, "cell-table", MEAN)[-2:] == ["", ""]
    press(browser, WEIGHT)
    weights = column(browser, "cell-table", WEIGHT)
    assert weights[0] == "w2-asym-g32" and weights[-1] == "w16"
    assert browser.run(f"document.querySelectorAll('#cell-table th')[{WEIGHT}].getAttribute('aria-sort')") == "ascending"


def type_words(browser, words: str) -> None:
    """Type into the box above the table of cells."""
    box = "var box = document.querySelector('[data-table=cell-table]'), input = box.querySelector('input[type=search]'); "
    browser.run(f"{box}input.value = {json.dumps(words)}; input.dispatchEvent(new Event('input'))")


def test_in_a_browser_words_and_menus_filter(browser):
    type_words(browser, "BLOOM w2 gptq")
    assert set(column(browser, "cell-table", MODEL)) == {"bloom-standin-s"} and len(column(browser, "cell-table", 0)) == 4
    assert browser.run("box.querySelector('output').textContent") == "4 of 55 cells"
    menu = "var menu = box.querySelector('select[data-column=\"4\"]'); menu.value = 'r8'; "
    browser.run(menu + "menu.dispatchEvent(new Event('change'))")
    assert {text[:2] for text in column(browser, "cell-table", LORC)} == {"r8"} and len(column(browser, "cell-table", 0)) == 2
    browser.run("menu.value = ''; input.value = ''; input.dispatchEvent(new Event('input'))")
    assert len(column(browser, "cell-table", 0)) == 55
    assert browser.run("Array.from(box.querySelectorAll('select[data-column=\"5\"] option')).map(one => one.value)") == [
        *("", "degraded", "derived", "failed", "not run", "ok"),
    ]


def saved(browser, name: str) -> str:
    """What the button that saves the rows hands over."""
    text = "new Promise(done => { URL.createObjectURL = blob => { blob.text().then(done); return 'blob:none'; }; "
    return browser.run(
        text + f"Array.from(box.querySelectorAll('button')).find(one => one.textContent === '{name}').click() }})"
    )


def test_in_a_browser_rows_in_view_are_saved_and_the_view_is_an_address(browser, served):
    type_words(browser, "opt w2-asym-g32 gptq")
    press(browser, CHANGE)
    browser.run("Array.from(box.querySelectorAll('label')).find(one => one.textContent.trim() === 'source').click()")
    browser.run("document.querySelectorAll('#cell-table tbody input').forEach(one => one.click())")
    rows = list(csv.DictReader(io.StringIO(saved(browser, "CSV"))))
    found = [one for one in failures() if one.cell.model[:3] == "opt" and one.cell.weight == "w2-asym-g32"]
    found = sorted((one for one in found if one.cell.method == "gptq"), key=lambda one: one.mean_ppl)
    assert [row["bits per weight"] for row in rows] == [f"{one.bits_per_weight:g}" for one in found] and len(rows) == 2
    assert [float(row["mean PPL"]) for row in rows] == pytest.approx([one.mean_ppl for one in found])
    assert rows[0]["ΔPPL in % (interval)"].startswith("[") and not {"source", "activation"} & rows[0].keys()
    lines = saved(browser, "Markdown").splitlines()
    assert lines[0].startswith("| model | method | weight | LoRC |") and len(lines) == 4 and lines[1].endswith(" ---: |")
    latex = saved(browser, "LaTeX")
    assert latex.startswith("\\begin{tabular}{llllllrr") and "(12.5 \\%)" in latex and latex.count("\\\\\n") == 3
    there = browser.run("location.href")
    before = [column(browser, "cell-table", index) for index in range(10)]
    browser.open(there)
    assert [column(browser, "cell-table", index) for index in range(10)] == before
    assert browser.run("document.querySelector('#cell-table th[aria-sort]').textContent") == "ΔPPL in %"
    browser.run(
        "Array.from(document.querySelectorAll('.tools button')).find(one => one.textContent.startsWith('Compare')).click()"
    )
    pair = browser.run("document.querySelector('dialog').innerText")
    assert browser.run("document.querySelector('dialog').open") and f"{found[0].mean_ppl:.2f}" in pair
    assert f"{found[1].mean_ppl:.2f}" in pair and "second minus first" in pair
    browser.open(served.as_uri())


def test_in_a_browser_what_decides_is_seen_on_a_laptop_and_a_phone_and_paper_has_all_rows(browser):
    for width in (1100, 390):
        browser.resize(width, 800)
        right = "Array.from(document.querySelectorAll('#cell-table th[scope=col]')).find(one => one.textContent === '{}')"
        for name in ("ΔPPL in %", "bits per weight"):
            assert browser.run(f"{right.format(name)}.getBoundingClientRect().right") <= width - 12, (width, name)
        assert browser.run("document.documentElement.scrollWidth") <= width
    assert column(browser, "cell-table", 0)[1].split()[0].startswith("opt-standin-s")
    browser.resize(1400, 1000)
    printed = browser.pdf()
    assert printed.startswith(b"%PDF") and printed.count(b"/Type /Page\n") > 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_axe_finds_nothing(browser, scheme):
    axe = distribution("axe-playwright-python").locate_file("axe_playwright_python/axe.min.js")
    browser.scheme(scheme)
    for width in (1400, 390):
        browser.resize(width, 1000)
        browser.run(f"{axe.read_text(encoding='utf-8')}; 0")
        found = "result.violations.map(one => [one.id, one.nodes.length, one.nodes[0].html])"
        assert browser.run(f"axe.run().then(result => {found})") == []
    browser.resize(1400, 1000)
    browser.scheme("light")


def test_in_a_browser_a_row_opens_its_jobs(browser):
    browser.run("document.querySelector('button.jobs').click()")
    shown = browser.run("document.querySelector('dialog').textContent")
    assert browser.run("document.querySelector('dialog').open") and "</script><i>" in shown and "node-1" in shown
    assert browser.run("document.querySelectorAll('dialog a').length") == 6
    browser.run("document.querySelector('dialog button').click()")
    assert not browser.run("document.querySelector('dialog').open")


def test_in_a_browser_both_schemes_are_readable(browser, tmp_path):
    brightness = {}
    browser.run("document.querySelector('figure').scrollIntoView()")
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        browser.run("new Promise(done => setTimeout(done, 200))")
        browser.screenshot(tmp_path / f"{scheme}.png")
        pixels = image.imread(tmp_path / f"{scheme}.png")[..., :3].mean(-1)
        page = browser.run("getComputedStyle(document.body).backgroundColor")
        # The figure's own paper and ink, left of its middle.
        brightness[scheme] = (np.median(pixels), pixels[:400].min(), pixels[:400].max(), page)
    assert brightness["light"][0] > 0.9 and brightness["light"][1] < 0.25
    assert brightness["dark"][0] < 0.2 and brightness["dark"][2] > 0.8
    assert brightness["light"][3] != brightness["dark"][3]


def test_what_stays_in_full_precision_is_said():
    parameters = ("input_layernorm.weight", "ln_1.weight", "attn.c_attn.bias", "self_attn.sinks")
    full = CellResult(Cell.full_precision("some"), full_precision=parameters)
    said = page_module._left([full])
    assert said == "Left in full precision: embeddings, heads, norms and biases, and <code>self_attn.sinks</code>."
    assert "sinks" not in page_module._left([dataclasses.replace(full, full_precision=parameters[:3])])


def test_in_a_browser_five_thousand_rows_are_drawn_by_hundreds_and_sorted_at_once(folder, tmp_path):
    found = [result(f"opt-125m {recipe}") for recipe in ("none w16 r0", "rtn w4-asym-row r0", "gptq w4-asym-row r0")]
    page = render(study(found), found, [], [], folder, [])
    data = scripts(page)["cell-table-data"]
    place = Reader(page).column("mean PPL")
    rows = [[*row] for _ in range(1700) for row in data["rows"]]
    for index, row in enumerate(rows):
        row[place] = {"t": str(index * 7919 % 5100), "v": index * 7919 % 5100}
    many = json.dumps(data | {"rows": rows}, ensure_ascii=False).replace("<", "\\u003c")
    whole = re.compile('(id="cell-table-data">).*?(</script>)', re.DOTALL)
    (tmp_path / "report.html").write_text(whole.sub(lambda match: match[1] + many + match[2], page))
    browser = Browser()
    try:
        browser.open((tmp_path / "report.html").as_uri())
        assert len(column(browser, "cell-table", 0)) == 200
        assert "200 of 5100 rows are drawn" in browser.run("document.getElementById('cell-table-more').textContent")
        heads = browser.run("Array.from(document.querySelectorAll('#cell-table th[scope=col]')).map(one => one.textContent)")
        mean = heads.index("mean PPL")
        timed = (
            "(() => {{ const start = performance.now(); {}; document.body.offsetHeight; return performance.now() - start }})()"
        )
        click = f"document.querySelectorAll('#cell-table th button')[{mean}].click()"
        quickest = min(browser.run(timed.format(click)) for _ in range(5))
        assert quickest < 500  # milliseconds; the quickest, since other programs may run beside it
        assert column(browser, "cell-table", mean) == [str(number) for number in range(200)]
        browser.run("document.querySelector('#cell-table-more button').click()")
        assert column(browser, "cell-table", mean) == [str(number) for number in range(400)]
        assert browser.errors == []
    finally:
        browser.close()
