"""What the report says beside the name of a model from a GGUF file, and of channels that are far larger than the others."""

from __future__ import annotations

import pytest
from page_reader import Reader
from synthetic import result, results, study

from lorcbench.report import figures, tables
from lorcbench.report.comparison import changes
from lorcbench.report.findings import find
from lorcbench.report.page.channels import massive
from lorcbench.report.page.render import render
from lorcbench.report.summary import summary
from lorcbench.report.tracking.records import records

MODEL = "smollm2-135m"
ORIGIN = "from a 4-bit GGUF"
CELLS = (("none w16", 0.0), ("rtn w3-asym-row", 0.5), ("gptq w3-asym-row", 0.3), ("rtn w2-asym-g64", 0.9))


def entry(ratio: float | None, channel: int = 0) -> dict:
    """What a block measured of one input."""
    return {"max_over_median": ratio, "dead": 0, "channel": channel, "max": 0.5 * (ratio or 0)}


CHANNELS = {
    "self_attn.q_proj": [entry(8.0), entry(19.0)],
    "mlp.down_proj": [entry(2000.0, 139), entry(30.0, 139), entry(25.0, 7), entry(None)],
}


def cells(model: str = MODEL, origin: str = ORIGIN, channels: dict | None = None) -> list:
    """A small study of one model."""
    measured = [result(f"{model} {name} r0", loss, seed=seed, origin=origin) for seed, (name, loss) in enumerate(CELLS)]
    measured[0].channels = CHANNELS if channels is None else channels
    return measured


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("page")
    measured, asked = cells(), study(cells())
    drawn = figures.draw(measured, changes(measured), folder / "figures")
    return render(asked, measured, changes(measured), find(asked, measured, changes(measured)), drawn, folder, [])


def test_the_page_says_what_a_model_is_from_wherever_it_names_it(page):
    reader = Reader(page)
    assert f"{MODEL} ({ORIGIN})" in page  # what was run
    assert f"<b>F{ORIGIN[1:]}.</b> {MODEL}: weights were rounded before" in page  # before any number
    assert f"For {MODEL}, {ORIGIN}" in page  # what to use
    assert sum(row[0] == f"{MODEL}{ORIGIN}" for row in reader.rows) == len(CELLS)  # each row


def test_figures_the_table_the_tracker_and_the_terminal_say_so_too(tmp_path):
    measured, asked = cells(), study(cells())
    drawn = figures.draw(measured, changes(measured), tmp_path)
    assert drawn and all(f"{MODEL}: {ORIGIN}" in (tmp_path / f"{figure.stem}.svg").read_text() for figure in drawn)
    assert {row["origin"] for row in tables.rows(asked, measured, changes(measured))} == {ORIGIN}
    assert {record.tags["origin"] for record in records("s", "p", measured, changes(measured)).values()} == {ORIGIN}
    said = summary(asked, measured, find(asked, measured, changes(measured)), tmp_path)
    assert f"{MODEL}: {ORIGIN}, dequantized" in said
    assert f"what to use, {MODEL}, {ORIGIN}: bits per weight" in said


def test_the_terminal_says_what_to_use_last(tmp_path):
    standins = [one for one in results() if one.status == "ok"]
    lines = summary(study(standins), standins, find(study(standins), standins, changes(standins)), tmp_path).splitlines()
    starts = ("  claims, tested on stand-ins", "  Against rounding (RTN)", "  what to use, ", "  LoRC costs, ", "  page ")
    places = [next(place for place, line in enumerate(lines) if line.startswith(start)) for start in starts]
    assert places == sorted(places)


def test_of_a_model_of_your_own_the_claims_are_a_link(tmp_path):
    own = results((MODEL,))
    said = summary(study(own), own, find(study(own), own, changes(own)), tmp_path)
    assert f"  whether the paper's claims hold here, too: {tmp_path}/report.html#claims\n" in said
    assert "Holm's procedure" not in said and "supported" not in said


def test_other_models_have_nothing_beside_their_names(tmp_path):
    measured = cells("opt-125m", origin="", channels={})
    asked = study(measured)
    assert "GGUF" not in summary(asked, measured, find(asked, measured, changes(measured)), tmp_path)
    assert {row["origin"] for row in tables.rows(asked, measured, changes(measured))} == {""}
    assert all("origin" not in record.tags for record in records("s", "p", measured, changes(measured)).values())
    assert massive(measured, changes(measured)) == ""


def test_massive_activations_are_where_a_channel_is_twenty_times_the_median():
    measured = cells()
    reader = Reader(massive(measured, changes(measured)))
    assert reader.row("self_attn.q_proj")[1:] == ["0 of 2", "19", "1", "9.5", "–"]
    assert reader.row("mlp.down_proj")[1:] == ["3 of 4", "2,000", "0", "1,000.0", "139 (blocks 0, 1); 7 (block 2)"]
    page = massive(measured, changes(measured))
    assert page.index("mlp.down_proj") < page.index("self_attn.q_proj")  # the strongest first


def test_what_the_methods_lose_stands_beside_them():
    measured = cells()
    text = massive(measured, changes(measured))
    row = Reader(text).row("w3-asym-row")
    rises = [changes(measured)[measured[index].cell].relative.value for index in (1, 2)]
    for spelled, rise in zip(row[1:], rises, strict=True):
        assert spelled.startswith(f"+{100 * rise:.1f}")
    assert Reader(text).row("w2-asym-g64")[2] == "–"


def test_a_model_without_such_a_channel_has_no_section():
    measured = cells(channels={"fc1": [entry(8.0), entry(19.9), entry(None)]})
    assert massive(measured, changes(measured)) == ""
