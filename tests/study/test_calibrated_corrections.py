"""A correction may read calibration data that its method does not: what cells, jobs and paths follow from that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.study.cells import Cell, needs_calibration
from lorcbench.study.expansion import load_study
from lorcbench.study.graph import inputs, jobs_of
from lorcbench.study.stages import CALIBRATE, CALIBRATION_TOKENS, EVALUATE, LORC, QUANTIZE, StageJob

KINDS = ("diag-abs", "diag-rms", "exact")
ONE = ["study.exactly=true", "study.models=[opt-standin-xs]", "study.weights=[w3-asym-row]", "study.activations=[a16]"]


def study(methods: str, lorc: str):
    return load_study("demo", [*ONE, "study.ranks=[0,4]", f"study.methods=[{methods}]", f"study.lorc=[{lorc}]"])


def corrected(methods: str, lorc: str) -> tuple:
    found = study(methods, lorc)
    return found, next(cell for cell in found.cells if cell.rank)


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_has_a_calibration_only_where_its_correction_reads_one(kind):
    found, cell = corrected("rtn", f"{kind}-int8")
    assert cell.calibration == "stdlib"
    without = next(other for other in found.cells if other.method == "rtn" and not other.rank)
    assert (without.calibration, cell.uncorrected) == ("none", without)
    assert cell.corrected("plain-int8", 4) == corrected("rtn", "plain-int8")[1]
    jobs = jobs_of(found, cell)
    assert str(jobs["quantized"].folder).endswith("quantize/opt-standin-xs/rtn/none/w3-asym-row/a16")
    assert str(jobs["factors"].folder).endswith(f"lorc/opt-standin-xs/rtn/stdlib/w3-asym-row/a16/{kind}-int8/cap32")
    assert jobs["quantized"].folder == jobs_of(found, without)["quantized"].folder
    assert jobs["evaluation"].folder != jobs_of(found, without)["evaluation"].folder


def test_a_method_with_data_keeps_its_calibration_whatever_the_correction():
    found, cell = corrected("gptq", "exact-int8")
    assert cell.uncorrected == replace(cell, lorc="none", rank=0)
    assert cell.corrected("plain-int8", 2) == replace(cell, lorc="plain-int8", rank=2)
    assert len({StageJob(EVALUATE, found.wildcards(other)).folder for other in found.cells if other.method == "gptq"}) == 1


def test_the_best_of_several_methods_keeps_its_calibration():
    best = Cell("opt-standin-xs", "zq_local*+iterations=8", "stdlib", "w3-asym-row", "a16", "a16", "exact-int8", 4)
    assert best.uncorrected.calibration == "stdlib"
    assert needs_calibration("best", "none")
    assert not needs_calibration("rtn", "plain-int8")


@pytest.mark.parametrize(
    ("lorc", "read", "unread"),
    [
        ("exact-int8", CALIBRATE, CALIBRATION_TOKENS),
        ("exact-int8+inputs=quantized", CALIBRATION_TOKENS, CALIBRATE),
        ("diag-abs-int8", CALIBRATE, CALIBRATION_TOKENS),
    ],
)
def test_factors_read_statistics_of_the_unquantized_model_or_tokens_for_those_of_the_quantized(lorc, read, unread):
    found, cell = corrected("rtn", lorc)
    stages = [job.stage for job in inputs(found, StageJob(LORC, found.wildcards(cell)))]
    assert read in stages
    assert QUANTIZE in stages
    assert unread not in stages


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_of_an_identity_are_named_by_their_digest_and_tokens_by_their_settings(kind):
    settings = compose.load("lorc", f"{kind}-fp16")
    assert (settings.kind, settings.bits, settings.inputs, settings.data) == (kind, 16, "full_precision", "statistics")
    assert compose.load("lorc", f"{kind}-fp16+inputs=quantized").data == "tokens"


def test_a_weighted_correction_without_calibration_is_refused():
    message = "lorc exact-int8: needs calibration; set study.calibrations"
    with pytest.raises(ConfigError, match=message):
        load_study(
            "demo", [*ONE, "study.methods=[rtn]", "study.lorc=[exact-int8]", "study.ranks=[4]", "study.calibrations=[none]"]
        )


@pytest.mark.parametrize("lorc", ["plain-int8", "distilled-int8"])
def test_inputs_of_factors_that_weigh_no_error_are_refused(lorc):
    with pytest.raises(ConfigError, match=r"lorc.inputs=quantized: .* expected full_precision"):
        compose.load("lorc", f"{lorc}+inputs=quantized")
