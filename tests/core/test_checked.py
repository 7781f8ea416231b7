"""What a method may return for a matrix: anything else is refused, with the part, what it is and what it should be."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorcbench.core.formats import WeightFormat
from lorcbench.core.grids import grouped, scale_and_zero_of_range, stored_scale
from lorcbench.core.quantizer import check, quantize

ROWS, WIDTH = 6, 16
FORMATS = ("w3-asym-g8", "w4-asym-row", "w2-sym-g8", "w8-asym-row", "w4-asym-g8-pow2", "w3-sym-row-restricted")


def made(spelled: str, weight: torch.Tensor | None = None):
    if weight is None:
        weight = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    return quantize(weight, WeightFormat.parse(spelled))


@pytest.mark.parametrize("scales", ["", "-fp32scale"])
@pytest.mark.parametrize("spelled", FORMATS)
@pytest.mark.parametrize("kind", ["random", "zeros", "constant", "tiny"])
def test_what_rounding_makes_is_accepted(spelled, scales, kind):
    weights = {
        "random": None,
        "zeros": torch.zeros(ROWS, WIDTH),
        "constant": torch.full((ROWS, WIDTH), 3.0),
        "tiny": torch.full((ROWS, WIDTH), 1e-30) * torch.arange(WIDTH),
    }
    fmt = WeightFormat.parse(spelled + scales)
    assert check(made(spelled + scales, weights[kind]), fmt, ROWS, WIDTH) is None


def changed(part: str, change):
    return lambda matrix: replace(matrix, **{part: change(getattr(matrix, part))})


@pytest.mark.parametrize(
    ("spelled", "change", "message"),
    [
        ("w3-asym-g8", changed("codes", lambda codes: codes + 8), "codes from 8 to 15, expected 0 to 7"),
        ("w3-asym-g8", changed("codes", lambda codes: codes.T), "codes (16, 6) uint8, expected (6, 16) uint8"),
        ("w3-asym-g8", changed("codes", lambda codes: codes[:5]), "codes (5, 16) uint8, expected (6, 16) uint8"),
        ("w3-asym-g8", changed("codes", torch.Tensor.float), "codes (6, 16) float32, expected (6, 16) uint8"),
        ("w3-asym-g8", changed("scale", lambda scale: scale[:, :1]), "scale (6, 1) float16, expected (6, 2) float16"),
        ("w3-asym-g8", changed("scale", torch.Tensor.float), "scale (6, 2) float32, expected (6, 2) float16"),
        ("w3-asym-g8-fp32scale", changed("scale", torch.Tensor.half), "scale (6, 2) float16, expected (6, 2) float32"),
        (
            "w3-asym-g8",
            changed("scale", lambda scale: scale * torch.nan),
            "scale from nan to nan, expected finite numbers above 0",
        ),
        ("w3-asym-g8", changed("scale", lambda scale: scale * torch.inf), "scale from inf to inf, expected finite numbers"),
        ("w3-sym-g8", changed("scale", lambda scale: scale * 0), "scale from 0 to 0, expected finite numbers above 0"),
        ("w3-asym-g8", changed("zero", lambda zero: zero * 0 - 6), "zero from -6 to -6, expected 0 to 7"),
        ("w3-asym-g8", changed("zero", lambda zero: zero * 0 + 8), "zero from 8 to 8, expected 0 to 7"),
        ("w3-asym-g8", changed("zero", lambda zero: zero + 0.4), "zero (6, 2) float32, expected (6, 2) int32"),
        ("w3-asym-g8", changed("zero", lambda zero: None), "zero None, expected (6, 2) int32"),
        ("w4-asym-g8-pow2", changed("zero", lambda zero: zero[:, :1]), "zero (6, 1) int32, expected (6, 2) int32"),
        (
            "w3-sym-g8",
            changed("zero", lambda zero: torch.full((6, 2), 4)),
            "zero (6, 2) int64, expected None: w3-sym-g8 is symm",
        ),
        ("w3-sym-g8", changed("format", lambda fmt: WeightFormat.parse("w4-sym-g8")), "format w4-sym-g8, expected w3-sym-g8"),
    ],
)
def test_anything_else_is_refused_by_what_is_wrong_with_it(spelled, change, message):
    with pytest.raises(ValueError) as refused:
        check(change(made(spelled)), WeightFormat.parse(spelled), ROWS, WIDTH)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("spelled", FORMATS)
def test_scales_of_ones_own_become_a_matrix_by_the_lines_of_the_page(spelled):
    """Given the range of each group, they make what `quantize` makes."""
    page = (Path(__file__).parents[2] / "docs" / "add-method.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    fmt = WeightFormat.parse(spelled)
    weight = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    scale, zero = scale_and_zero_of_range(*grouped(weight, fmt.group).aminmax(dim=-1), fmt)
    given = {"weight": weight, "fmt": fmt, "scale": scale.float(), "zero": zero}
    exec(lines, given)
    check(given["made"], fmt, ROWS, WIDTH)
    expected = quantize(weight, fmt)
    assert torch.equal(given["made"].codes, expected.codes) and torch.equal(given["made"].scale, expected.scale)


@pytest.mark.parametrize("scales", ["", "-fp32scale"])
def test_no_scale_is_too_small_to_be_stored(scales):
    fmt = WeightFormat.parse("w3-asym-g8" + scales)
    small = torch.tensor([[0.0, 2.0**-126, 2.0**-24, 1.5 * 2.0**-24, 1.0]])
    stored = stored_scale(small, fmt)
    assert str(stored.dtype) == f"torch.{fmt.scale_dtype}"
    assert (stored > 0).all() and (stored.float() >= small).all()
