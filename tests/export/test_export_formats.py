"""Which format holds which cell: every method and correction says what it exports to, and a refusal says what would do."""

from __future__ import annotations

import pytest

from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.core.formats import WeightFormat
from lorcbench.study import exports
from lorcbench.study.cells import Cell


def cell(
    weight: str = "w4-asym-g32", rank: int = 0, activation: str = "a16", method: str = "rtn", lorc: str = "plain-int8"
) -> Cell:
    return Cell("opt-125m", method, "none", weight, "a16", activation, lorc if rank else "none", rank)


def refused(one: Cell, export: str, model_type: str | None = None) -> str:
    """The line with which a format is refused."""
    with pytest.raises(ConfigError) as refusal:
        exports.checked(one, export, None, model_type)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith(f"export_format={export} of {one.key}: ")
    return str(refusal.value)


@pytest.mark.parametrize("method", [name for name in compose.names("method") if name not in ("none", "foreign")])
@pytest.mark.parametrize("lorc", [name for name in compose.names("lorc") if name != "none"])
def test_every_method_and_every_correction_can_be_taken_away(method, lorc):
    assert exports.holding(cell(method=method)) == ["merged", "compressed-tensors", "gptq"]
    assert exports.holding(cell(method=method, lorc=lorc, rank=8)) == list(exports.FORMATS)
    assert exports.default(cell(method=method, lorc=lorc, rank=8)) == "compressed-tensors"


@pytest.mark.parametrize(
    ("one", "export", "model_type", "said"),
    [
        (cell("w4-asym-g32-pow2"), "compressed-tensors", None, "zero points of pow2 are any integers"),
        (cell("w4-asym-g32-pow2", 8), "gptq", None, "expected one of merged, adapter"),
        (cell("w4-asym-g32-fp32scale"), "gptq", None, "scales in float32"),
        (cell("w5-sym-row"), "gptq", None, "5 bits, where GPTQ's files have one of 2, 3, 4, 8"),
        (cell("w7-asym-row"), "gptq", None, "expected one of merged, compressed-tensors"),
        (cell("w4-sym-g24"), "gptq", None, "groups of 24"),
        (cell(activation="a8-asym-token"), "gptq", None, "its activations are rounded"),
        (cell(activation="a8-asym-token"), "compressed-tensors", "opt", "they get one scale for all; expected one of merged"),
        (cell(activation="a8-asym-token", rank=8), "compressed-tensors", "bloom", "an adapter's input would not be"),
        (cell(activation="a8-sym-g32"), "compressed-tensors", "bloom", "rounds them by token"),
        (cell(activation="a8-asym-token-pow2"), "compressed-tensors", "bloom", "rounded by pow2"),
        (cell(), "adapter", None, "it has no correction, hence no factors; expected one of merged, compressed-tensors, gptq"),
        (cell(method="foreign"), "merged", None, "it was quantized elsewhere, and is a checkpoint already"),
        (Cell.full_precision("opt-125m"), "merged", None, "its weights are those of the checkpoint"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_with_those_that_can(one, export, model_type, said):
    assert said in refused(one, export, model_type)


@pytest.mark.parametrize(
    ("one", "model_type", "format_"),
    [
        (cell("w4-asym-g32-pow2"), None, "merged"),
        (cell("w4-sym-g32-pow2"), None, "compressed-tensors"),  # its zero point is a constant
        (cell("w4-sym-row-restricted"), None, "compressed-tensors"),
        (cell("w4-asym-g32-fp32scale"), None, "compressed-tensors"),
        (cell(activation="a8-asym-token"), "opt", "merged"),
        (cell(activation="a8-asym-token"), "bloom", "compressed-tensors"),
    ],
)
def test_a_format_that_nobody_names_holds_the_cell(one, model_type, format_):
    assert exports.checked(one, None, None, model_type) == (format_, "whole")


def test_unknown_formats_and_checks_are_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="export_format=gguf: expected one of merged, adapter, compressed-tensors, gptq"):
        exports.checked(cell(), "gguf")
    with pytest.raises(ConfigError, match="export_verify=no: expected one of whole, tensors"):
        exports.checked(cell(), "merged", "no")


def test_shapes_and_modules_that_a_format_does_not_pack_are_refused():
    fmt = WeightFormat.parse("w4-sym-g32")
    odd = {"fc1": (40, 64)}
    assert "fc1 is 40 × 64" in exports.shape_refusal("gptq", fmt, odd, [])
    assert "Conv1D" in exports.shape_refusal("compressed-tensors", fmt, odd, ["attn.c_attn"])
    assert exports.shape_refusal("compressed-tensors", fmt, odd, []) is None
    assert exports.shape_refusal("merged", fmt, odd, ["attn.c_attn"]) is None
