"""Mixed formats in a study: which cells there are, what they rest on, and how their method is spelled."""

from __future__ import annotations

import pytest

from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.study.cells import Cell, needs_calibration
from lorcbench.study.expansion import load_study
from lorcbench.study.exports import refusal
from lorcbench.study.graph import inputs
from lorcbench.study.stages import CALIBRATION_TOKENS, FACTOR, LORC, PREPARE, QUANTIZE, SENSITIVITY, StageJob

ONE = ["study.exactly=true", "study.models=[opt-standin-xs]", "study.activations=[a16]", "study.ranks=[0]"]
NAME = "mixed+bits=3.0+formats=w2-w3-w4-asym-g32"


def study(methods: str, weights: str = "mixed"):
    return load_study("demo", [*ONE, f"study.methods=[{methods}]", f"study.weights=[{weights}]"])


def the_mixed(found) -> Cell:
    (cell,) = (cell for cell in found.cells if cell.weight == "mixed")
    return cell


@pytest.mark.parametrize(
    "typed",
    [
        "mixed+bits=3+formats=w4-w2-w3-asym-g32",
        "mixed+formats=w2-w3-w4-asym-g32+bits=3.0+by=divergence",
        "mixed+base=gptq+bits=3.00+formats=w2-asym-g32.w3-w4-asym-g32",
    ],
)
def test_a_budget_with_its_candidates_has_one_spelling(typed):
    assert compose.canonical("method", typed) == NAME
    assert compose.canonical("method", NAME) == NAME
    assert [str(fmt) for fmt in compose.load("method", typed).candidates] == ["w2-asym-g32", "w3-asym-g32", "w4-asym-g32"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mixed+bits=3.0", "expected such as w2-w3-w4-asym-g64"),
        ("mixed+formats=w2-w3-asym-g32", "method.bits=0.0: expected 2.562 to 16, since w2-w3-asym-g32 takes no fewer"),
        ("mixed+bits=2.5+formats=w2-w3-asym-g32", "method.bits=2.5: expected 2.562 to 16"),
        ("mixed+bits=3.0+formats=w2-asym-g32", "expected two formats or more, such as mixed"),
        ("mixed+bits=3.0+formats=w2-w3-asym-g32-pow2", "any integers is not known beforehand"),
        ("mixed+bits=3.0+formats=w2-w3-asym-g32+factors=exact-int4", "method.components=: expected rising numbers such as"),
        ("mixed+bits=3.0+formats=w2-w3-asym-g32+components=8-0", "method.components=8-0: expected rising numbers"),
        (
            "mixed+bits=3.0+by=depth+formats=w2-asym-g32.w3-asym-g32+factors=exact-int4+components=0-8",
            "method.by=depth: expected",
        ),
        ("mixed+bits=3.0+by=loss+formats=w2-w3-asym-g32", "expected one of divergence, error, depth"),
    ],
)
def test_a_name_that_makes_no_sense_is_refused(name, reason):
    with pytest.raises(ConfigError, match=reason):
        compose.load("method", name)


@pytest.mark.parametrize(
    ("methods", "weights", "reason"),
    [
        ("mixed", "mixed", "method mixed: expected a budget and candidates in its name, such as mixed"),
        ("mixed+base=zq_local+bits=3.0+formats=w2-w3-asym-g32", "mixed", "method.base=zq_local: expected rtn, or a GPTQ"),
        ("mixed+bits=3.0+formats=w2-w3-asym-g32+components=0-8", "mixed", "method.factors=none: expected one of kind exact"),
        ("mixed+bits=3.0+formats=w2-w3-asym-g33", "mixed", "w2-asym-g33 on opt-standin-xs: groups of 33 do not divide"),
    ],
)
def test_a_cell_that_makes_no_sense_is_refused(methods, weights, reason):
    with pytest.raises(ConfigError, match=reason):
        study(methods, weights)


def test_mixed_weights_go_with_the_mixed_method_alone_and_its_candidates_stand_beside_it():
    cells = study(f"rtn,{NAME}", "w3-asym-row,mixed").cells
    quantized = [(cell.method, cell.weight, cell.calibration) for cell in cells if cell.method != "none"]
    uniform = [("gptq", f"w{bits}-asym-g32", "stdlib") for bits in (2, 3, 4)]
    assert quantized == [("rtn", "w3-asym-row", "none"), (NAME, "mixed", "stdlib"), *uniform]


def test_a_mixed_cell_rests_on_the_sensitivity_to_each_candidate_and_these_on_its_quantization():
    found = study(NAME)
    names = found.wildcards(the_mixed(found))
    needed = [job.folder for job in inputs(found, StageJob(QUANTIZE, names))]
    measured = [job for job in inputs(found, StageJob(QUANTIZE, names)) if job.stage is SENSITIVITY]
    weights = [f"w{bits}-asym-g32" for bits in (2, 3, 4)]
    assert [str(job.folder) for job in measured] == [
        f"results/cache/sensitivity/opt-standin-xs/gptq/stdlib/{weight}/a16" for weight in weights
    ]
    assert {StageJob(PREPARE, names).folder, StageJob(CALIBRATION_TOKENS, names).folder} < set(needed)
    (quantized,) = (job for job in inputs(found, measured[0]) if job.stage is QUANTIZE)
    assert str(quantized.folder) == "results/cache/quantize/opt-standin-xs/gptq/stdlib/w2-asym-g32/a16"


@pytest.mark.parametrize(
    ("settings", "calibrated", "stages"),
    [
        ("base=rtn", True, {PREPARE, CALIBRATION_TOKENS, SENSITIVITY}),
        ("base=rtn+by=depth", False, {PREPARE}),
        ("by=depth", True, {PREPARE, CALIBRATION_TOKENS}),
        ("base=gptq-cached", True, {PREPARE, FACTOR, SENSITIVITY}),
    ],
)
def test_what_is_read_follows_from_the_base_and_from_how_formats_are_chosen(settings, calibrated, stages):
    name = compose.canonical("method", f"mixed+bits=3.0+formats=w2-w3-asym-g32+{settings}")
    assert needs_calibration(name, "none") == calibrated
    found = study(name)
    cell = the_mixed(found)
    assert cell.calibration == ("stdlib" if calibrated else "none")
    assert {job.stage for job in inputs(found, StageJob(QUANTIZE, found.wildcards(cell)))} == stages


def test_formats_of_their_own_are_no_gptq_files_and_loaded_by_transformers_only_without_zero_points():
    cell = the_mixed(study(NAME))
    assert "GPTQ's files have one for all" in refusal(cell, "gptq")
    assert "unpacks zero points of all linears by one format" in refusal(cell, "compressed-tensors")
    symmetric = the_mixed(study("mixed+bits=3.0+formats=w2-w3-w4-sym-g32"))
    assert refusal(symmetric, "compressed-tensors") is None
    assert refusal(cell, "merged") is None


def test_a_cell_that_chooses_ranks_has_the_correction_and_the_largest_rank_of_its_name():
    found = study("mixed+bits=3.0+formats=w2-w3-asym-g32+factors=exact-int4+components=0-4-8")
    cell = the_mixed(found)
    assert (cell.lorc, cell.rank) == ("exact-int4", 8)
    spectra = [job for job in inputs(found, StageJob(QUANTIZE, found.wildcards(cell))) if job.stage is LORC]
    assert [str(job.folder) for job in spectra] == [
        f"results/cache/lorc/opt-standin-xs/gptq/stdlib/{weight}/a16/exact-int4/cap32"
        for weight in ("w2-asym-g32", "w3-asym-g32")
    ]
    assert "down to none" in refusal(cell, "adapter") and refusal(cell, "merged") is None
