"""The search for clipped scales: no error rises, the compiled search equals the plain one, and both equal the textbook."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch

from lorcbench.core import clip, gptq, quantizer
from lorcbench.core.formats import WeightFormat
from lorcbench.core.gptq import GptqSettings
from lorcbench.core.quantizer import dequantize, quantize, scale_and_zero, scale_and_zero_unchecked

WIDTH = 48
GRIDS = ["asym-{}", "sym-{}", "asym-{}-pow2", "sym-{}-pow2", "sym-{}-restricted"]
FORMATS = [
    WeightFormat.parse(f"w{bits}-{grid.format(group)}{scales}")
    for grid in GRIDS
    for bits, group, scales in [(4, "row", ""), (2, "g16", ""), (3, "g12", "-fp32scale"), (8, "g2", ""), (3, "g1", "")]
]
KINDS = {
    "normal": lambda noise: noise,
    "zeros": lambda noise: noise * 0,
    "negative zeros": lambda noise: -noise.abs() * 0,
    "constant": lambda noise: noise[:, :1].expand_as(noise),
    "outlier": lambda noise: torch.where(torch.arange(WIDTH) == 5, 50.0, noise),
    "heavy": lambda noise: noise**3,
    "half dead": lambda noise: torch.where(torch.arange(WIDTH) % 2 == 0, 0.0, noise),
    "positive": lambda noise: noise.abs() + 0.5,
    "offset": lambda noise: noise * 1e-4 + 1000,
    "tiny": lambda noise: noise * 1e-6,
    "subnormal": lambda noise: noise * 1e-40,
    "huge": lambda noise: noise * 5e3,
    "ties": lambda noise: torch.round(noise * 4) / 2,
}


def matrix_of(kind: str, rows: int = 24) -> torch.Tensor:
    """Weights (rows, WIDTH)."""
    return KINDS[kind](torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(len(kind)))).contiguous()


def errors(matrix: torch.Tensor, fmt: WeightFormat, searched: str) -> torch.Tensor:
    """The squared error of every group, in float64."""
    difference = matrix.double() - dequantize(quantize(matrix, fmt, searched)).double()
    return quantizer.grouped(difference, fmt.group).square().sum(-1)


def test_the_example_of_the_module_by_hand():
    fmt = WeightFormat.parse("w2-sym-row-restricted-fp32scale")
    group = torch.tensor([[1.0, 1.0, 1.0, 1.5]])
    assert errors(group, fmt, "none").item() == pytest.approx(0.75)
    assert quantize(group, fmt, "mse").scale.item() == 1.125
    assert errors(group, fmt, "mse").item() == pytest.approx(0.1875)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_no_error_is_above_that_of_the_whole_range(kind, fmt):
    matrix = matrix_of(kind)
    before, after = (errors(matrix, fmt, searched) for searched in ("none", "mse"))
    assert (after <= before * (1 + 1e-6)).all()
    quantized = quantize(matrix, fmt, "mse")
    if fmt.convention == "minmax" and quantized.zero is not None:  # stored in b bits
        assert quantized.zero.min() >= 0
        assert quantized.zero.max() < 2**fmt.bits
    again = quantizer.from_stored(quantizer.to_stored(quantized), fmt, WIDTH)
    assert torch.equal(dequantize(again), dequantize(quantized))


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_the_compiled_search_finds_what_the_plain_one_finds(fmt, monkeypatch):
    for kind in KINDS:
        matrix = matrix_of(kind, rows=11)
        found = errors(matrix, fmt, "mse")
        chosen = quantize(matrix, fmt, "mse")
        with monkeypatch.context() as patch:
            patch.setattr(clip, "_search_compiled", clip.search_reference)
            expected = quantize(matrix, fmt, "mse")
            assert torch.allclose(found, errors(matrix, fmt, "mse"), rtol=1e-6, atol=0)
        assert (chosen.scale == expected.scale).float().mean() > 0.9


@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS if fmt.group != 1], ids=str)
def test_scales_and_codes_are_those_of_the_textbook(fmt):
    matrix = torch.cat([matrix_of(kind, rows=2) for kind in ("normal", "outlier", "positive")])
    found = quantize(matrix, fmt, "mse")
    codes, scale, zero, _ = reference.quantize(matrix.numpy(), fmt, "mse")
    assert np.array_equal(found.scale.float().numpy(), scale)
    assert found.zero is None or np.array_equal(found.zero.numpy(), zero)
    assert np.array_equal(found.codes.numpy(), codes)
    assert fmt.bits == 8 or not torch.equal(found.scale, quantize(matrix, fmt).scale)


def test_a_group_with_one_outlier_is_clipped_and_its_error_falls():
    group = torch.randn(1, 128, generator=torch.Generator().manual_seed(0))
    group[0, 7] = 8.0
    for name in ("w3-asym-row", "w3-sym-row", "w3-sym-row-restricted"):
        fmt = WeightFormat.parse(name)
        assert (quantize(group, fmt, "mse").scale < 0.95 * quantize(group, fmt).scale).all()
        assert errors(group, fmt, "mse") < 0.9 * errors(group, fmt, "none")


def test_equal_errors_take_the_larger_range_and_zeros_stay_zeros():
    for fmt in FORMATS:
        for kind in ("zeros", "negative zeros"):
            plain, searched = (quantize(matrix_of(kind), fmt, how) for how in ("none", "mse"))
            assert torch.equal(searched.scale, plain.scale)
            assert (dequantize(searched) == 0).all()
    on_the_grid = torch.arange(16.0).repeat(3, 1) - 4  # every value is a level: no error at p = 1
    assert torch.equal(quantize(on_the_grid, WeightFormat(4), "mse").scale, torch.ones(3, 1, dtype=torch.float16))


def test_groups_of_any_width_and_any_number_of_threads_find_the_same(monkeypatch):
    matrix = torch.randn(7, 390, generator=torch.Generator().manual_seed(0)) ** 3
    for group in (None, 1, 3, 5, 130):
        fmt = WeightFormat(3, group=group)
        found = []
        for threads in (1, 3, 16):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            found.append(quantize(matrix, fmt, "mse"))
        monkeypatch.setattr(clip, "CLIP_VALUES", 1000)  # a few groups at a time, or one that is larger than that
        values = quantizer.grouped(matrix, group).flatten(0, 1)
        low, high = values.amin(-1), values.amax(-1)
        best = clip.search_reference(values, low, high, torch.ones_like(low), fmt)
        scale, _ = quantizer.scale_and_zero_of_range((1 - best / 100) * low, (1 - best / 100) * high, fmt)
        assert all(torch.equal(one.scale, scale.view(7, -1)) for one in found)


def test_rows_do_not_see_each_other_and_inputs_are_not_changed():
    matrix, fmt = matrix_of("heavy"), WeightFormat(3, group=16)
    kept = matrix.clone()
    whole = quantize(matrix, fmt, "mse")
    assert torch.equal(quantize(matrix.flip(0), fmt, "mse").scale, whole.scale.flip(0))
    half = matrix.bfloat16()
    assert torch.equal(quantize(half, fmt, "mse").codes, quantize(half.float(), fmt, "mse").codes)
    assert torch.equal(matrix, kept)


@pytest.mark.parametrize("magnitude", [2.0**-115, 2.0**100])
def test_squares_that_leave_float32_are_compared_all_the_same(magnitude):
    ordinary = matrix_of("heavy")
    for grid in GRIDS:
        fmt = WeightFormat.parse(f"w3-{grid.format('g16')}-fp32scale")
        found, expected = quantize(ordinary * magnitude, fmt, "mse"), quantize(ordinary, fmt, "mse")
        assert torch.equal(found.scale, expected.scale * magnitude)
        assert (expected.scale < quantize(ordinary, fmt).scale).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e7])
@pytest.mark.parametrize("fmt", [WeightFormat(4), WeightFormat(4, True, 4), WeightFormat(4, False, 4, "pow2")], ids=str)
def test_what_is_no_number_or_overflows_is_refused_as_without_a_search(value, fmt):
    matrix = torch.ones(2, 8)
    matrix[1, 3] = value
    with pytest.raises(ValueError) as refusal:
        quantize(matrix, fmt)
    with pytest.raises(ValueError) as searched:
        quantize(matrix, fmt, "mse")
    assert str(searched.value) == str(refusal.value)
    scale, _ = scale_and_zero_unchecked(quantizer.grouped(matrix, fmt.group), fmt, "mse")
    assert torch.isfinite(scale).sum() == scale.numel() - 1


def test_without_checks_the_search_finds_the_same():
    groups = torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(0))
    for fmt in FORMATS:
        pairs = zip(scale_and_zero(groups, fmt, "mse"), scale_and_zero_unchecked(groups, fmt, "mse"), strict=True)
        assert all(torch.equal(checked, unchecked) for checked, unchecked in pairs)


# GPTQ


def problem(seed: int, rows: int = 10, width: int = WIDTH) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights with heavy tails, and the second moment of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(width) + torch.randn(width, width, generator=generator) / width**0.5
    x = torch.randn(6 * width, width, generator=generator) @ mixing
    return torch.randn(rows, width, generator=generator) ** 3 * 0.05, x.T @ x / len(x)


def solve(weight, hessian, fmt, **settings) -> quantizer.Quantized:
    chosen = GptqSettings(clip="mse", **settings)
    return gptq.quantize(weight, gptq.prepare(hessian, chosen), fmt, chosen)


GROUPED = ["w4-asym-g16-fp32scale", "w3-sym-g8-restricted-fp32scale", "w4-asym-g12-pow2-fp32scale"]


@pytest.mark.parametrize("name", ["w4-asym-row", "w3-asym-row-fp32scale", "w3-sym-row-restricted", "w4-asym-row-pow2"])
def test_gptq_of_rows_equals_the_unblocked_textbook_with_a_search(name):
    fmt = WeightFormat.parse(name)
    weight, hessian = problem(seed=fmt.bits)
    expected = reference.gptq(weight, hessian, 0.01, fmt, clip="mse")
    found = solve(weight, hessian, fmt, block=16)
    reference.assert_follows(found.codes, expected)
    assert torch.equal(found.scale, quantize(weight, fmt, "mse").scale)


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("static", [True, False])
def test_gptq_of_static_and_corrected_groups_equals_the_unblocked_textbook_with_a_search(name, static):
    fmt = WeightFormat.parse(name)
    weight, hessian = problem(seed=10 + fmt.bits)
    expected = reference.gptq(weight, hessian, 0.01, fmt, static, "mse")
    found = solve(weight, hessian, fmt, block=16, **({"static_groups": True} if static else {"group_params": "corrected"}))
    reference.assert_follows(found.codes, expected)
    same = (found.codes.numpy() == expected.codes).all(1)
    torch.testing.assert_close(found.scale[same], torch.from_numpy(expected.scale[same]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", GROUPED)
def test_gptq_of_block_start_groups_equals_the_published_loop_with_a_search(name):
    fmt = WeightFormat.parse(name)
    weight, hessian = problem(seed=20 + fmt.bits)
    expected = reference.gptq_published(weight, hessian, 0.01, fmt, 24, clip="mse")
    reference.assert_follows(solve(weight, hessian, fmt, block=24).codes, expected)


@pytest.mark.parametrize("group", [None, 8])
@pytest.mark.parametrize("act_order", [False, True])
def test_with_dead_inputs_scales_cover_what_they_cover_without_a_search(group, act_order):
    fmt = WeightFormat(3, group=group, scale_dtype="float32")
    weight, hessian = problem(seed=7)
    dead = torch.arange(16, 24)
    hessian[dead] = 0
    hessian[:, dead] = 0
    expected = reference.gptq_published(weight, hessian, 0.01, fmt, 48, True, act_order, "mse")
    found = solve(weight, hessian, fmt, block=48, static_groups=True, act_order=act_order)
    reference.assert_follows(found.codes, expected)
    assert (dequantize(found)[:, dead] == 0).all()
    excluded = solve(weight, hessian, fmt, static_groups=True, act_order=act_order, dead="excluded")
    assert torch.equal(excluded.scale, quantize(weight.index_fill(1, dead, 0), fmt, "mse").scale)
    assert torch.equal(excluded.scale, found.scale) == (group is not None)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_a_diagonal_hessian_makes_gptq_plain_rounding_with_a_search(fmt):
    weight, _ = problem(seed=1)
    hessian = torch.diag(torch.rand(WIDTH, generator=torch.Generator().manual_seed(0)) + 0.1)
    expected = quantize(weight, fmt, "mse")
    for settings in ({}, {"group_params": "corrected"}, {"static_groups": True, "act_order": True}):
        found = solve(weight, hessian, fmt, **settings)
        assert torch.equal(found.codes, expected.codes)
        assert torch.equal(found.scale, expected.scale)


def test_scales_that_the_sweep_overwrites_are_not_searched(monkeypatch):
    searched = []
    search = clip.least_error_shrink

    def counted(groups, *rest):
        searched.append(groups.numel())
        return search(groups, *rest)

    monkeypatch.setattr(clip, "least_error_shrink", counted)
    weight, hessian = problem(seed=3)
    for settings in ({}, {"group_params": "corrected"}, {"static_groups": True}):
        searched.clear()
        solve(weight, hessian, WeightFormat(4, group=16), **settings)
        assert sum(searched) == weight.numel()
