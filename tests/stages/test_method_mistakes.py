"""Methods that are wrong in themselves: the stage says in one line what they lack, and leaves no result."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_stages import NAMES, run

from lorcbench.common.paths import Wildcards
from lorcbench.config.checks import ConfigError
from lorcbench.core.quantizer import quantize
from lorcbench.jobs.quantized import QuantizedBlock
from lorcbench.stages import calibrate
from lorcbench.stages import quantize as stage
from lorcbench.study.stages import CALIBRATE, CALIBRATION_TOKENS, EVALUATE, QUANTIZE

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def reading(made, **names: str):
    """A method that asks for the result of another stage."""
    return lambda job, checkpoint, fmt, blocks: job.folder_of(made, **names)


@pytest.mark.parametrize("calibration", ["stdlib", "none"])
@pytest.mark.parametrize(
    ("made", "missing"),
    [
        (CALIBRATE, 'reads the result of calibrate, which it has not declared; expected data = "statistics" in the class'),
        (CALIBRATION_TOKENS, 'the result of calibration_tokens, which it has not declared; expected data = "tokens" in the'),
        (EVALUATE, r"the result of evaluate, which it has not declared; expected job\.use\(EVALUATE\) before it"),
    ],
)
def test_what_a_method_reads_without_a_word_is_refused(tiny_checkpoint, monkeypatch, made, missing, calibration):
    tiny_checkpoint("opt")
    monkeypatch.setitem(stage.METHODS, "rtn", reading(made))
    with pytest.raises(ValueError, match=missing):
        run(stage.main, "rtn", calibration=calibration)
    assert not (QUANTIZE.folder(Wildcards(**NAMES | {"method": "rtn"})) / "result.json").exists()


def test_what_it_has_declared_it_may_read_under_those_names_alone(tiny_checkpoint, monkeypatch):
    tiny_checkpoint("opt")
    run(calibrate.main, "rtn")
    monkeypatch.setitem(stage.METHODS, "intrinsic", reading(CALIBRATE, calibration="python"))
    with pytest.raises(ValueError, match="which it has not declared"):
        run(stage.main, "gptq-intrinsic+rank=2")
    run(stage.main, "split+base=rtn+rank=2")


@pytest.mark.parametrize("method", ["gptq", "gptq-cached", "zq_local"])
def test_a_method_that_reads_calibration_does_not_run_on_none(tiny_checkpoint, method):
    tiny_checkpoint("opt")
    with pytest.raises(ConfigError, match=f"method {method}: needs calibration; set calibration, to one of .*stdlib"):
        run(stage.main, method, calibration="none")


def test_a_method_without_a_function_is_told_where_its_line_is_missing(tiny_checkpoint, monkeypatch):
    tiny_checkpoint("opt")
    monkeypatch.delitem(stage.METHODS, "rtn")
    with pytest.raises(ConfigError, match="kind rtn has no function; expected its line in METHODS of src/lorcbench/stages"):
        run(stage.main, "rtn")


def test_one_scale_per_row_in_a_format_of_groups_is_no_result(tiny_checkpoint, monkeypatch):
    """It would be fewer bits than the format's name says."""
    tiny_checkpoint("opt")

    def one_scale_per_row(job, checkpoint, fmt, blocks) -> None:
        made = {name: quantize(weight, fmt) for name, weight in checkpoint.linears(0).items()}
        blocks.write(0, QuantizedBlock({name: replace(matrix, scale=matrix.scale[:, :1]) for name, matrix in made.items()}))

    monkeypatch.setitem(stage.METHODS, "rtn", one_scale_per_row)
    said = r"method rtn, block 0, self_attn\.q_proj: scale \(\d+, 1\) float16, expected \(\d+, \d+\) float16"
    with pytest.raises(ValueError, match=said):
        run(stage.main, "rtn", weight="w3-asym-g8")
