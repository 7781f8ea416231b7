"""Methods that make factors with their codes: which cells a study may have of them, and what these rest on."""

from __future__ import annotations

import pytest

from lorcbench.config.checks import ConfigError
from lorcbench.study import exports
from lorcbench.study.expansion import load_study
from lorcbench.study.graph import inputs, jobs_of
from lorcbench.study.stages import CALIBRATE, CALIBRATION_TOKENS, LORC, QUANTIZE, StageJob

METHODS = ("gptq-intrinsic+rank=4", "split+base=rtn+rank=4", "joint+rank=4")
ONE = ["study.exactly=true", "study.models=[opt-standin-xs]", "study.weights=[w3-asym-row]", "study.activations=[a16]"]


def study(methods: str, lorc: str, ranks: str = "4", *more: str):
    return load_study("demo", [*ONE, f"study.ranks=[{ranks}]", f"study.methods=[{methods}]", f"study.lorc=[{lorc}]", *more])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("lorc", "cap"), [("paired-int8", 4), ("exact-int8", 32)])
def test_a_cell_has_its_codes_and_its_factors_in_paths_of_its_own(method, lorc, cap):
    found = study(method, lorc)
    (cell,) = (cell for cell in found.cells if cell.method != "none")
    assert (cell.calibration, cell.rank) == ("stdlib", 4)
    jobs = jobs_of(found, cell)
    names = found.wildcards(cell)
    assert str(jobs["quantized"].folder).endswith(f"quantize/opt-standin-xs/{method}/stdlib/w3-asym-row/a16")
    assert str(jobs["factors"].folder).endswith(f"lorc/opt-standin-xs/{method}/stdlib/w3-asym-row/a16/{lorc}/cap{cap}")
    assert StageJob(CALIBRATE, names) in inputs(found, StageJob(QUANTIZE, names))
    assert "hessians" not in jobs
    read = {job.stage.name for job in inputs(found, StageJob(LORC, names))}
    assert read == {"prepare", "quantize"} | ({"calibrate"} if lorc == "exact-int8" else set())
    assert exports.holding(cell) == list(exports.FORMATS)


def test_propagated_inputs_come_from_the_tokens():
    found = study("joint+hessian=propagated+rank=4", "paired-int8")
    names = found.wildcards(next(cell for cell in found.cells if cell.rank))
    assert StageJob(CALIBRATION_TOKENS, names) in inputs(found, StageJob(QUANTIZE, names))
    assert StageJob(CALIBRATE, names) not in inputs(found, StageJob(QUANTIZE, names))


@pytest.mark.parametrize(
    ("methods", "lorc", "ranks", "reason"),
    [
        (
            "joint+rank=4",
            "paired-int8",
            "8",
            r"method joint\+rank=4: makes codes for rank 4, and its cell has rank 8",
        ),
        (
            "joint+rank=4",
            "paired-int8",
            "0,4",
            r"cell has rank 0; expected study\.ranks=\[4\], with study\.lorc=\[paired",
        ),
        (
            "split",
            "paired-int8",
            "8",
            r"method split: makes codes for one rank; expected it in the name, .* split\+rank=8",
        ),
        ("rtn", "paired-int8", "4", r"study\.lorc=paired-int8: method rtn makes no factors; expected a LoRC setting such as"),
    ],
)
def test_what_does_not_go_together_is_refused(methods, lorc, ranks, reason):
    with pytest.raises(ConfigError, match=reason):
        study(methods, lorc, ranks)


def test_they_need_a_calibration():
    with pytest.raises(ConfigError, match=r"method split\+base=rtn\+rank=4: needs calibration; set study.calibrations"):
        study("split+base=rtn+rank=4", "paired-int8", "4", "study.calibrations=[none]")
