"""Codes and factors that are made for one another: each method is its definition, and the ordinary order where it should be."""

from __future__ import annotations

import itertools
import math

import pytest
import reference
import reference_pairs
import torch

from lorcbench.core import gptq, intrinsic, lorc, pairs, quantizer
from lorcbench.core.formats import WeightFormat
from lorcbench.core.gptq import GptqSettings
from lorcbench.core.linalg import hessian_factor

OUT, IN, RANK = 24, 32, 4
# Scales that a sweep finds are compared in float32, as in test_gptq.py.
FORMATS = [
    WeightFormat(2),
    WeightFormat(3, True, None, "restricted"),
    WeightFormat(3, False, 16, scale_dtype="float32"),
    WeightFormat(2, True, 8, "restricted", "float32"),
]
GROUPS = {"static_groups": True}


def problem(seed: int, rows: int = OUT, width: int = IN) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, and the second moment of correlated inputs, some larger than others."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator) / width**0.5 + torch.diag(torch.linspace(2, 0.2, width))
    x = torch.randn(8 * width, width, generator=generator) @ mixing
    return torch.randn(rows, width, generator=generator) * 0.05, x.T @ x / len(x)


def quantizer_of(base: str, metric: torch.Tensor, fmt: WeightFormat, **settings) -> pairs.Quantizer:
    """What finds codes."""
    if base == "rtn":
        return lambda weight: quantizer.quantize(weight, fmt)
    chosen = GptqSettings(**settings)
    prepared = gptq.prepare(metric, chosen)
    return lambda weight: gptq.quantize(weight, prepared, fmt, chosen)


def codes_of(base: str, metric: torch.Tensor, fmt: WeightFormat):
    """The same of the textbook, with static groups."""
    return reference_pairs.rtn_codes(fmt) if base == "rtn" else reference_pairs.gptq_codes(metric, fmt, True)


def left(weight: torch.Tensor, metric: torch.Tensor, pair: pairs.Pair) -> float:
    return reference_pairs.weighted_error(pair.error(weight), metric)


def inside(weight, metric, fmt, rank=RANK, **settings) -> pairs.Pair:
    """GPTQ with the correction in its sweep."""
    chosen = GptqSettings(**settings)
    prepared = intrinsic.prepare(metric, rank, chosen)
    return pairs.Pair(*intrinsic.quantize(weight, prepared, fmt, chosen), {})


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("block", [5, 128])
@pytest.mark.parametrize("corrected", [True, False])
def test_the_sweep_with_a_correction_is_that_of_the_wider_linear(fmt, block, corrected):
    weight, metric = problem(fmt.bits)
    settings = {"group_params": "corrected"} if corrected else GROUPS
    found = inside(weight, metric, fmt, block=block, **settings)
    sweep, product = reference_pairs.intrinsic(weight, metric, RANK, 0.01, fmt, corrected)
    reference.assert_follows(found.quantized.codes, sweep)
    same = torch.from_numpy((found.quantized.codes.numpy() == sweep.codes).all(1))
    expected = torch.from_numpy(product)[same]
    torch.testing.assert_close((found.b @ found.a).double()[same], expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    torch.testing.assert_close(found.b.norm(dim=0), found.a.norm(dim=1))


def test_act_order_is_the_sweep_over_permuted_inputs():
    weight, metric = problem(3)
    metric = metric.flip(0, 1)
    order = torch.argsort(metric.diagonal(), descending=True)
    assert not torch.equal(order, torch.arange(IN))
    found = inside(weight, metric, WeightFormat(3), act_order=True)
    by_hand = inside(weight[:, order], metric[order][:, order], WeightFormat(3))
    assert torch.equal(found.quantized.codes[:, order], by_hand.quantized.codes)
    torch.testing.assert_close((found.b @ found.a)[:, order], by_hand.b @ by_hand.a, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dead", ["published", "excluded"])
def test_dead_inputs_are_rounded_to_zero_as_by_gptq(dead):
    weight, metric = problem(4)
    metric[5] = metric[:, 5] = 0
    found = inside(weight, metric, WeightFormat(3), dead=dead)
    assert not quantizer.dequantize(found.quantized)[:, 5].any()
    assert not (found.b @ found.a)[:, 5].abs().gt(1e-6).any()
    alive = [column for column in range(IN) if column != 5]
    if dead == "excluded":
        without = intrinsic.prepare(metric, RANK, GptqSettings(dead=dead)).rest.factor.upper[alive][:, alive]
        assert without.isfinite().all()


def test_fewer_tokens_than_inputs_need_no_more_damping():
    x = torch.randn(6, IN, generator=torch.Generator().manual_seed(0))
    weight, _ = problem(5)
    prepared = intrinsic.prepare(x.T @ x / 6, RANK, GptqSettings())
    assert prepared.rest.factor.damp == 0.01
    found = inside(weight, x.T @ x / 6, WeightFormat(2))
    uncorrected = found._replace(quantized=quantizer_of("gptq", x.T @ x / 6, WeightFormat(2))(weight), b=0 * found.b)
    assert left(weight, x.T @ x / 6, found) < left(weight, x.T @ x / 6, uncorrected)


def test_the_rest_of_the_hessian_has_lost_what_the_correction_holds():
    _, metric = problem(6)
    settings = GptqSettings()
    upper = intrinsic.prepare(metric, RANK, settings).rest.factor.upper
    plain = hessian_factor(metric, settings.damp).upper
    largest = torch.linalg.eigvalsh(metric)[-RANK - 1]
    assert torch.linalg.eigvalsh(upper @ upper.T)[-1] < 1.3 * largest < torch.linalg.eigvalsh(plain @ plain.T)[-1]


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("base", ["rtn", "gptq"])
@pytest.mark.parametrize("preserved", [0, 1, RANK])
def test_a_shared_rank_is_its_definition(fmt, base, preserved):
    weight, metric = problem(10 + fmt.bits)
    found = pairs.split(weight, metric, quantizer_of(base, metric, fmt, **GROUPS), RANK, preserved)
    codes, approximate = reference_pairs.split(weight, metric, codes_of(base, metric, fmt), RANK, preserved)
    assert (found.quantized.codes.numpy() == codes).all()
    expected = reference_pairs.weighted_error(weight.numpy() - approximate, metric)
    assert left(weight, metric, found) == pytest.approx(expected, rel=1e-4)
    assert found.b.shape == (OUT, RANK)
    assert found.a.shape == (RANK, IN)


@pytest.mark.parametrize("base", ["rtn", "gptq"])
def test_without_a_preserved_component_the_rank_is_spent_on_the_error_as_always(base):
    weight, metric = problem(20)
    codes = quantizer_of(base, metric, WeightFormat(3))
    found = pairs.split(weight, metric, codes, RANK, 0)
    quantized = codes(weight)
    b, a = lorc.decompose(weight - quantizer.dequantize(quantized), RANK, metric=metric)
    assert torch.equal(found.quantized.codes, quantized.codes)
    assert torch.equal(found.b, b)
    assert torch.equal(found.a, a)


@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("strength", [0, 0.1, 1])
def test_as_many_components_are_preserved_as_the_two_shares_say(seed, strength):
    weight, metric = problem(seed)
    generator = torch.Generator().manual_seed(seed)
    weight += strength * torch.randn(OUT, 2, generator=generator) @ torch.randn(2, IN, generator=generator)
    expected = reference_pairs.preserved(weight, pairs.probe(weight.shape), metric, RANK)
    assert pairs.components_to_preserve(weight, metric, RANK) == expected
    if strength == 1:
        assert expected >= 2, "a weight with two strong components has them preserved"
    assert pairs.split(weight, metric, quantizer_of("rtn", metric, WeightFormat(2)), RANK).notes == {"preserved": expected}


def test_a_preserved_component_that_is_most_of_the_weight_leaves_finer_scales():
    weight, metric = problem(21)
    weight = weight + 2 * torch.ones(OUT, 1) @ torch.ones(1, IN)
    codes = quantizer_of("rtn", metric, WeightFormat(2))
    errors = [left(weight, metric, pairs.split(weight, metric, codes, 2, k)) for k in (0, 1)]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("base", ["rtn", "gptq"])
@pytest.mark.parametrize("kind", ["exact", "plain"])
def test_rounds_are_their_definition_and_the_best_is_kept(fmt, base, kind):
    weight, metric = problem(30 + fmt.bits)
    found = pairs.joint(weight, metric, quantizer_of(base, metric, fmt, **GROUPS), RANK, 4, kind)
    rounds = reference_pairs.joint(weight, metric, codes_of(base, metric, fmt), RANK, 4, kind == "plain")
    errors = [math.sqrt(error) for _, error in rounds]
    assert found.notes["errors"] == pytest.approx(errors[: len(found.notes["errors"])], rel=1e-4)
    best = min(range(len(found.notes["errors"])), key=lambda number: errors[number])
    assert found.notes["round"] == best + 1
    assert (found.quantized.codes.numpy() == rounds[best][0]).all()
    assert math.sqrt(left(weight, metric, found)) == pytest.approx(errors[best], rel=1e-4)


@pytest.mark.parametrize("base", ["rtn", "gptq"])
@pytest.mark.parametrize("kind", ["exact", "plain"])
def test_one_round_is_a_correction_after_the_codes(base, kind):
    weight, metric = problem(40)
    codes = quantizer_of(base, metric, WeightFormat(3))
    found = pairs.joint(weight, metric, codes, RANK, 1, kind)
    quantized = codes(weight)
    error = weight - quantizer.dequantize(quantized)
    b, a = lorc.decompose(error, RANK, metric=metric if kind == "exact" else None)
    assert torch.equal(found.quantized.codes, quantized.codes)
    assert torch.equal(found.b, b)
    assert torch.equal(found.a, a)


@pytest.mark.parametrize("base", ["rtn", "gptq"])
@pytest.mark.parametrize("fmt", [FORMATS[0], FORMATS[2]], ids=str)
def test_more_rounds_never_leave_more(base, fmt):
    weight, metric = problem(50)
    codes = quantizer_of(base, metric, fmt, **GROUPS)
    errors = [left(weight, metric, pairs.joint(weight, metric, codes, RANK, rounds, "exact")) for rounds in range(1, 7)]
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(errors))
    assert errors[-1] < errors[0]


def test_rounds_end_where_nothing_changes():
    _, metric = problem(60)
    weight = torch.tensor([-1.0, 0.0, 1.0, 2.0]).repeat(OUT, IN // 4)  # codes hold it without an error
    found = pairs.joint(weight, metric, quantizer_of("rtn", metric, WeightFormat(2)), RANK, 50, "exact")
    assert len(found.notes["errors"]) == 2
    assert found.notes["round"] == 1
    assert left(weight, metric, found) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("rank", [IN, 50])
def test_more_components_than_a_matrix_has_are_all_of_them(rank):
    weight, metric = problem(70)
    codes = quantizer_of("rtn", metric, WeightFormat(2))
    for found in (pairs.joint(weight, metric, codes, rank, 2, "exact"), pairs.split(weight, metric, codes, rank)):
        assert found.b.shape == (OUT, OUT)
        assert left(weight, metric, found) < 1e-6 * left(weight, metric, found._replace(b=found.b * 0))


def test_a_matrix_of_zeros_and_inputs_of_zeros_are_no_trouble():
    weight, metric = problem(80)
    for matrix, of_inputs in ((torch.zeros(OUT, IN), metric), (weight, torch.zeros(IN, IN))):
        codes = quantizer_of("rtn", of_inputs, WeightFormat(2))
        joint, split = pairs.joint(matrix, of_inputs, codes, 2, 3, "exact"), pairs.split(matrix, of_inputs, codes, 2)
        for found in (joint, split, inside(matrix, of_inputs, WeightFormat(2), 2)):
            assert found.b.isfinite().all()
            assert found.a.isfinite().all()
            assert left(matrix, of_inputs, found) == pytest.approx(0, abs=1e-9)
