"""GPTQ: codes equal an unblocked float64 textbook, blocks and threads change nothing, the loss beats plain rounding."""

from __future__ import annotations

import pytest
import reference
import torch

from lorcbench.core import gptq, quantizer
from lorcbench.core.compiled import compiled
from lorcbench.core.formats import WeightFormat
from lorcbench.core.gptq import GptqSettings
from lorcbench.core.linalg import hessian_factor
from lorcbench.core.moments import SecondMoment, dead_diagonal

WIDTH = 48
PER_ROW = [
    WeightFormat(4),
    WeightFormat(3),
    WeightFormat(4, symmetric=True),
    WeightFormat(3, True, None, "restricted"),
    WeightFormat(4, False, None, "pow2"),
    WeightFormat(8, scale_dtype="float32"),
]
# Scales found during a sweep are compared in float32 (weights of either precision may round to different float16), and
# not under symmetric minmax, where max|w| / s is 2^(b-1) - 1/2: the extreme of every group lies on a tie.
GROUPED = [
    WeightFormat(4, False, 16, scale_dtype="float32"),
    WeightFormat(3, True, 8, "restricted", "float32"),
    WeightFormat(4, False, 12, "pow2", "float32"),
]


def problem(seed: int, rows: int = 12, width: int = WIDTH) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and the second moment of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(width) + torch.randn(width, width, generator=generator) / width**0.5
    x = torch.randn(6 * width, width, generator=generator) @ mixing + torch.randn(width, generator=generator)
    return torch.randn(rows, width, generator=generator) * 0.05, x.T @ x / len(x)


def solve(weight, hessian, fmt, **settings) -> quantizer.Quantized:
    chosen = GptqSettings(**settings)
    return gptq.quantize(weight, gptq.prepare(hessian, chosen), fmt, chosen)


def loss(weight, hessian, quantized) -> float:
    error = (weight - quantizer.dequantize(quantized)).double()
    return float(torch.trace(error @ hessian.double() @ error.T))


def assert_equal(one: quantizer.Quantized, other: quantizer.Quantized) -> None:
    assert one.format == other.format
    assert torch.equal(one.codes, other.codes)
    assert torch.equal(one.scale, other.scale)
    assert (one.zero is None and other.zero is None) or torch.equal(one.zero, other.zero)


@pytest.mark.parametrize("fmt", PER_ROW, ids=str)
@pytest.mark.parametrize("block", [1, 7, 128])
def test_per_row_codes_equal_the_unblocked_textbook_at_any_block_size(fmt, block):
    weight, hessian = problem(seed=fmt.bits)
    expected = reference.gptq(weight, hessian, 0.01, fmt)
    reference.assert_follows(solve(weight, hessian, fmt, block=block).codes, expected)


@pytest.mark.parametrize("fmt", GROUPED, ids=str)
@pytest.mark.parametrize("block", [1, 12, 16, 128])
@pytest.mark.parametrize("static", [True, False])
def test_static_and_corrected_groups_equal_the_unblocked_textbook_at_any_block_size(fmt, block, static):
    weight, hessian = problem(seed=10 + fmt.bits)
    expected = reference.gptq(weight, hessian, 0.01, fmt, static)
    settings = {"static_groups": True} if static else {"group_params": "corrected"}
    found = solve(weight, hessian, fmt, block=block, **settings)
    reference.assert_follows(found.codes, expected)
    same = (found.codes.numpy() == expected.codes).all(1)
    torch.testing.assert_close(found.scale[same], torch.from_numpy(expected.scale[same]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("fmt", GROUPED, ids=str)
@pytest.mark.parametrize("block", [8, 12, 24, 128])
def test_block_start_groups_equal_the_published_loop(fmt, block):
    weight, hessian = problem(seed=20 + fmt.bits)
    expected = reference.gptq_published(weight, hessian, 0.01, fmt, block)
    reference.assert_follows(solve(weight, hessian, fmt, block=block).codes, expected)


def test_block_start_is_corrected_where_groups_start_with_blocks_and_differs_elsewhere():
    weight, hessian = problem(seed=30, rows=32)
    fmt = GROUPED[0]
    corrected = solve(weight, hessian, fmt, group_params="corrected")
    assert_equal(
        solve(weight, hessian, fmt, block=fmt.group),
        solve(weight, hessian, fmt, block=fmt.group, group_params="corrected"),
    )
    assert not torch.equal(solve(weight, hessian, fmt, block=WIDTH).scale, corrected.scale)
    assert not torch.equal(solve(weight, hessian, fmt, static_groups=True).scale, corrected.scale)


@pytest.mark.parametrize("fmt", [*PER_ROW, *GROUPED], ids=str)
@pytest.mark.parametrize("damp", [0.0, 0.01, 1.0])
def test_a_diagonal_hessian_makes_gptq_plain_rounding(fmt, damp):
    weight, _ = problem(seed=1)
    hessian = torch.diag(torch.rand(WIDTH, generator=torch.Generator().manual_seed(0)) + 0.1)
    expected = quantizer.quantize(weight, fmt)
    for settings in ({}, {"block": 5}, {"group_params": "corrected"}, {"static_groups": True, "act_order": True}):
        assert_equal(solve(weight, hessian, fmt, damp=damp, **settings), expected)


def test_the_example_of_the_module_by_hand():
    fmt = WeightFormat(4, True, None, scale_dtype="float32")
    codes = torch.empty(1, 2, dtype=torch.uint8)
    block, inverse = torch.tensor([[0.4, 0.8]]), torch.tensor([[2.0, 1.0], [0.0, 1.0]])
    scale, zero, groups = torch.ones(1, 1), torch.full((1, 1), 8, dtype=torch.int32), torch.zeros(2, dtype=torch.int64)
    gptq.sweep_block_reference(block, inverse, gptq.Grid(fmt, scale, zero, groups), codes)
    assert codes.tolist() == [[8, 9]]
    torch.testing.assert_close(block, torch.tensor([[0.4, 0.6]]))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("fmt", [*PER_ROW, *GROUPED, WeightFormat(5, False, 6, "pow2")], ids=str)
def test_the_compiled_sweep_equals_the_tensor_sweep_bit_for_bit(fmt, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    weight, hessian = problem(seed=2, rows=150)
    inverse = torch.linalg.inv(hessian_factor(hessian, 0.01).upper)
    scale, zero = quantizer.scale_and_zero(quantizer.grouped(weight, fmt.group), fmt)
    group_of = torch.arange(WIDTH) // (fmt.group or WIDTH)
    results = []
    for sweep in (gptq._sweep_block_compiled, gptq.sweep_block_reference):
        results.append(torch.empty(150, WIDTH, dtype=torch.uint8))
        sweep(weight.clone(), inverse, gptq.Grid(fmt, scale, zero, group_of), results[-1])
    assert torch.equal(*results)


@pytest.mark.parametrize("fmt", [PER_ROW[0], GROUPED[0]], ids=str)
def test_rows_do_not_see_each_other(fmt):
    weight, hessian = problem(seed=3, rows=16)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    whole, permuted = solve(weight, hessian, fmt), solve(weight[order], hessian, fmt)
    assert torch.equal(permuted.codes, whole.codes[order])
    assert torch.equal(permuted.scale, whole.scale[order])


def test_act_order_is_a_sweep_over_permuted_columns():
    weight, hessian = problem(seed=4)
    order = torch.argsort(hessian.diagonal(), descending=True)
    assert not torch.equal(order, torch.arange(WIDTH))
    by_hand = solve(weight[:, order], hessian[order][:, order], WeightFormat(4))
    assert torch.equal(solve(weight, hessian, WeightFormat(4), act_order=True).codes[:, order], by_hand.codes)


@pytest.mark.parametrize("fmt", [WeightFormat(4), WeightFormat(4, group=16)], ids=str)
def test_act_order_changes_nothing_where_the_order_is_falling_already(fmt):
    weight, hessian = problem(seed=5)
    gains = torch.linspace(2, 1, WIDTH) / hessian.diagonal().sqrt()
    falling = hessian * gains * gains.unsqueeze(1)
    plain = solve(weight, falling, fmt, static_groups=True)
    assert_equal(solve(weight, falling, fmt, static_groups=True, act_order=True), plain)
    assert not torch.equal(solve(weight, falling.flip(0, 1), fmt, static_groups=True).codes, plain.codes)


def test_act_order_with_static_groups_keeps_the_scales_of_neighbouring_columns():
    weight, hessian = problem(seed=6)
    fmt = WeightFormat(4, group=16)
    found = solve(weight, hessian, fmt, static_groups=True, act_order=True)
    assert torch.equal(found.scale, quantizer.quantize(weight, fmt).scale)
    assert loss(weight, hessian, found) < loss(weight, hessian, quantizer.quantize(weight, fmt))


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("seed", range(10))
def test_the_layer_loss_is_below_that_of_plain_rounding(bits, seed):
    weight, hessian = problem(seed=100 + seed, rows=64)
    fmt = WeightFormat(bits)
    rounded = quantizer.quantize(weight, fmt)
    assert loss(weight, hessian, solve(weight, hessian, fmt)) < loss(weight, hessian, rounded)


@pytest.mark.parametrize("fmt", [WeightFormat(4), WeightFormat(4, group=8)], ids=str)
def test_dead_inputs_decode_to_exact_zeros_and_if_excluded_the_rest_is_solved_without_them(fmt):
    weight, hessian = problem(seed=7)
    dead = list(range(8, 16))
    alive = [i for i in range(WIDTH) if i not in dead]
    hessian[dead] = 0
    hessian[:, dead] = 0
    found = solve(weight, hessian, fmt, static_groups=True, dead="excluded")
    assert (quantizer.dequantize(found)[:, dead] == 0).all()
    expected = reference.gptq(weight[:, alive], hessian[alive][:, alive], 0.01 * len(alive) / WIDTH, fmt)
    reference.assert_follows(found.codes[:, alive], expected)


SEQUENCE = 16  # tokens
MODES = {
    "row": (None, {}),
    "row in falling order": (None, {"act_order": True}),
    "groups": (24, {}),
    "static groups": (24, {"static_groups": True}),
    "static groups in falling order": (24, {"static_groups": True, "act_order": True}),
}


def problem_with_dead_inputs(share: float, size: float, width: int = 96) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Weights (64, width), and sequences of inputs of the given size, of which a share is zero in all of them."""
    generator = torch.Generator().manual_seed(round(1000 * share))
    weight, _ = problem(seed=16, rows=64, width=width)
    x = size * torch.randn(4 * width, width, generator=generator)
    x = x @ (torch.eye(width) + torch.randn(width, width, generator=generator) / width**0.5)
    x[:, torch.randperm(width, generator=generator)[: round(width * share)]] = 0
    return weight, list(x.split(SEQUENCE))


def solve_inputs(weight, sequences, fmt, **settings) -> quantizer.Quantized:
    """As the stages do: from the second moment per token."""
    moment, chosen = SecondMoment(weight.shape[1]), GptqSettings(**settings)
    for x in sequences:
        moment.add(x)
    prepared = gptq.prepare(moment.mean(), chosen, dead_diagonal(SEQUENCE))
    return gptq.quantize(weight, prepared, fmt, chosen)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bits", [4, 3, 2])
@pytest.mark.parametrize("share", [0.01, 0.12, 0.5])
@pytest.mark.parametrize("size", [1.0, 0.02])
def test_with_dead_inputs_the_codes_are_those_of_the_published_algorithm(mode, bits, share, size):
    group, settings = MODES[mode]
    fmt = WeightFormat(bits, group=group, scale_dtype="float32")
    assert_published(*problem_with_dead_inputs(share, size), fmt, block=32, **settings)


@pytest.mark.parametrize("settings", [{}, {"static_groups": True, "act_order": True}])
@pytest.mark.parametrize("bits", [4, 3, 2])
@pytest.mark.parametrize("group", [128, 32])
def test_with_dead_inputs_groups_of_the_usual_sizes_have_the_published_codes(group, bits, settings):
    fmt = WeightFormat(bits, group=group, scale_dtype="float32")
    assert_published(*problem_with_dead_inputs(0.12, 0.1, width=256), fmt, block=128, **settings)


def assert_published(weight, sequences, fmt, block: int, **settings) -> None:
    """The codes are those of the published algorithm, and so is the loss of the layer."""
    hessian = reference.published_hessian(sequences)
    static, act_order = settings.get("static_groups", False), settings.get("act_order", False)
    expected = reference.gptq_published(weight, hessian, 0.01, fmt, block, static, act_order)
    found = solve_inputs(weight, sequences, fmt, block=block, **settings)
    assert (found.codes.numpy() == expected.codes).mean() >= 0.999
    dead = hessian.diagonal() == 0
    assert (quantizer.dequantize(found)[:, dead] == 0).all()
    codes, scale, zero = (torch.from_numpy(part) for part in (expected.codes, expected.scale, expected.zero))
    theirs = quantizer.Quantized(codes.to(torch.uint8), scale, zero.int(), fmt)
    losses = [loss(weight, torch.from_numpy(hessian), one) for one in (found, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_excluded_dead_inputs_leave_rows_a_finer_scale_and_the_damping_smaller():
    weight, sequences = problem_with_dead_inputs(0.5, 0.02)
    hessian = torch.from_numpy(reference.published_hessian(sequences))
    for fmt, most in ((WeightFormat(3), 0.85), (WeightFormat(3, group=24), 0.98)):
        published, excluded = (solve_inputs(weight, sequences, fmt, dead=dead) for dead in ("published", "excluded"))
        assert loss(weight, hessian, excluded) < most * loss(weight, hessian, published)
        if fmt.group is None:
            assert (excluded.scale <= published.scale).all()
            assert (excluded.scale < published.scale).any()


@pytest.mark.parametrize("act_order", [False, True])
def test_dead_inputs_are_named_in_their_own_order(act_order):
    _, sequences = problem_with_dead_inputs(0.12, 1.0)
    hessian = torch.from_numpy(reference.published_hessian(sequences)).float()
    prepared = gptq.prepare(hessian, GptqSettings(act_order=act_order))
    assert torch.equal(prepared.dead_inputs, hessian.diagonal() == 0)
    assert prepared.dead_inputs.sum() == 12


def test_one_prepared_hessian_serves_stacked_weights_and_several_formats():
    weight, hessian = problem(seed=8, rows=12)
    settings = GptqSettings(block=WIDTH)
    prepared = gptq.prepare(hessian, settings)
    stacked = gptq.quantize(weight, prepared, WeightFormat(4), settings)
    for part in (slice(0, 4), slice(4, 12)):
        alone = gptq.quantize(weight[part], prepared, WeightFormat(4), settings)
        assert torch.equal(alone.codes, stacked.codes[part])
    three = gptq.quantize(weight, prepared, WeightFormat(3), settings)
    assert_equal(three, solve(weight, hessian, WeightFormat(3), block=WIDTH))


def test_half_precision_weights_are_solved_in_float32():
    weight, hessian = problem(seed=9)
    half = weight.to(torch.bfloat16)
    assert_equal(solve(half, hessian, WeightFormat(4)), solve(half.float(), hessian, WeightFormat(4)))


@pytest.mark.parametrize("settings", [{}, {"act_order": True, "static_groups": True}])
def test_inputs_are_not_changed(settings):
    weight, hessian = problem(seed=11)
    hessian[5] = 0
    hessian[:, 5] = 0
    chosen = GptqSettings(**settings)
    prepared = gptq.prepare(hessian, chosen)
    kept = [tensor.clone() for tensor in (weight, hessian, prepared.factor.upper)]
    first = gptq.quantize(weight, prepared, WeightFormat(4, group=16), chosen)
    assert_equal(gptq.quantize(weight, prepared, WeightFormat(4, group=16), chosen), first)
    for now, before in zip((weight, hessian, prepared.factor.upper), kept, strict=True):
        assert torch.equal(now, before)


def test_act_order_with_groups_that_are_not_static_is_refused():
    weight, hessian = problem(seed=12)
    grouped = WeightFormat(4, group=16)
    with pytest.raises(ValueError, match="act_order with groups needs static_groups"):
        solve(weight, hessian, grouped, act_order=True)
    ordered = gptq.prepare(hessian, GptqSettings(act_order=True))
    with pytest.raises(ValueError, match="act_order with groups needs static_groups"):
        gptq.quantize(weight, ordered, grouped, GptqSettings())


def test_groups_that_do_not_divide_are_refused():
    weight, hessian = problem(seed=13)
    with pytest.raises(ValueError, match="groups of 32 do not divide a width of 48"):
        solve(weight, hessian, WeightFormat(4, group=32))


@pytest.mark.parametrize("value", [1e8, float("nan")])
def test_a_sweep_that_does_not_look_at_its_scales_refuses_them_at_its_end(value, monkeypatch):
    monkeypatch.setattr(gptq, "scale_and_zero", quantizer.scale_and_zero_unchecked)  # as on a GPU
    weight, hessian = problem(seed=14)
    weight[3, 20] = value
    with pytest.raises(ValueError, match="fp32scale"):
        solve(weight, hessian, WeightFormat(4, group=16))


def test_blocks_inverted_together_are_those_inverted_one_by_one():
    _, hessian = problem(seed=15)
    upper = hessian_factor(hessian, 0.01).upper
    blocks = [upper[start : start + 16, start : start + 16] for start in range(0, WIDTH, 16)]
    for one, together in zip(blocks, gptq._inverse(torch.stack(blocks)), strict=True):
        assert torch.equal(gptq._inverse(one), together)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the Triton sweep needs a CUDA device")
@pytest.mark.parametrize("name", ["w4-asym-g128", "w3-sym-row", "w2-asym-g32-pow2", "w4-sym-g64-restricted"])
def test_triton_sweep_equals_the_plain_one(name, monkeypatch):
    generator = torch.Generator(device="cuda").manual_seed(0)
    weight = torch.randn(96, 256, generator=generator, device="cuda")
    x = torch.randn(2048, 256, generator=generator, device="cuda")
    settings, fmt = gptq.GptqSettings(), WeightFormat.parse(name)
    prepared = gptq.prepare(x.T @ x / len(x), settings)
    fast = gptq.quantize(weight, prepared, fmt, settings).codes
    monkeypatch.setattr(gptq, "_sweep_block_triton", gptq.sweep_block_reference)
    assert torch.equal(fast, gptq.quantize(weight, prepared, fmt, settings).codes)


def test_without_a_place_for_compiled_functions_codes_are_the_same(monkeypatch):
    from numba.core import caching

    with_cache = gptq._sweep_columns
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])  # a read-only checkout, an unwritable home
    weight, hessian = problem(1)
    expected = solve(weight, hessian, WeightFormat(3))
    without_cache = compiled(with_cache.py_func)
    assert type(without_cache._cache) is not type(with_cache._cache)
    monkeypatch.setattr(gptq, "_sweep_columns", without_cache)
    assert_equal(solve(weight, hessian, WeightFormat(3)), expected)
