"""Distillation: training equals a loop by hand, the best step is kept, and what diverges is an error."""

from __future__ import annotations

import re

import pytest
import torch
from torch.nn.functional import linear, mse_loss

from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.core.quantizer import dequantize, fake_quantize_activations, fake_quantize_weights, quantize
from lorcbench.core.settings import DistillSettings
from lorcbench.core.zeroquant import Distilled, Diverged, distill

W3 = WeightFormat.parse("w3-asym-row")
FORMATS = [W3, *map(WeightFormat.parse, ("w2-sym-g4", "w4-asym-row-pow2", "w3-sym-row-restricted", "w8-asym-g8-fp32scale"))]
DEFAULTS = {"lr": 0.01, "lr_grid": [0.1, 0.01], "iterations": 24, "seed": 0}
DEFAULTS |= {"held_out": 0.25, "keep": "last", "scales": "recompute"}
SEQUENCES = 8


class Unit:
    """A linear as a unit of distillation; remembers which sequence each call saw, and whether it trained on it."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        mixing = torch.randn(6, 32, generator=generator)  # correlated inputs: one weight can make up for another's rounding
        noise = 0.2 * torch.randn(SEQUENCES, 16, 32, generator=generator)
        self.x = torch.randn(SEQUENCES, 16, 6, generator=generator) @ mixing + noise
        self.parameters = {"w": torch.randn(16, 32, generator=generator), "b": torch.randn(16, generator=generator)}
        self.targets = linear(self.x, self.parameters["w"], self.parameters["b"])
        self.trained: list[int] = []
        self.measured: list[int] = []

    def __call__(self, values: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        seen = self.trained if torch.is_grad_enabled() else self.measured
        seen.append(next(index for index in range(SEQUENCES) if torch.equal(self.x[index : index + 1], x)))
        return linear(x, values["w"], values["b"])

    def distill(self, fmt: WeightFormat = W3, **changes) -> Distilled:
        settings = DistillSettings(**(DEFAULTS | changes))
        return distill(self, self.parameters, ["w"], self.x, self.targets, fmt, settings)

    def loss(self, weight: torch.Tensor, bias: torch.Tensor, sequences: slice) -> float:
        return float(mse_loss(linear(self.x[sequences], weight, bias), self.targets[sequences]))


TRAIN, HELD_OUT = slice(0, 6), slice(6, 8)


def same(one: Distilled, other: Distilled) -> bool:
    parts = [[*(vars(found.quantized["w"])[part] for part in ("codes", "scale")), found.others["b"]] for found in (one, other)]
    return all(torch.equal(a, b) for a, b in zip(*parts, strict=True))


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_fake_quantized_weights_are_rtn_to_the_bit_and_their_gradient_passes_straight_through(fmt):
    weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rounded = fake_quantize_weights(weight, fmt)
    assert torch.equal(rounded, dequantize(quantize(weight.detach(), fmt)))
    assert not torch.equal(rounded, weight)
    pull = torch.arange(24.0).view(3, 8) - 11
    (rounded * pull).sum().backward()
    assert torch.equal(weight.grad, pull)
    assert fake_quantize_weights(weight.half(), fmt).dtype == torch.float16


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_scales_of_another_matrix_are_kept_and_clamped_weights_still_learn(fmt):
    weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    start = quantize(weight, fmt)
    again = quantize(weight, start)
    assert torch.equal(again.codes, start.codes)
    wide = (5 * weight).requires_grad_()
    kept = quantize(wide.detach(), start)
    assert torch.equal(kept.scale, start.scale)
    assert (kept.zero is None) == fmt.symmetric
    assert int(kept.codes.max()) == 2**fmt.bits - 1
    assert not torch.equal(quantize(wide.detach(), fmt).scale, start.scale)
    fake_quantize_weights(wide, start).sum().backward()
    assert torch.equal(wide.grad, torch.ones(3, 8))
    with pytest.raises(ValueError, match="NaN"):
        quantize(weight * torch.inf, start)


def test_rounded_activations_hand_their_gradient_on():
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    rounded = fake_quantize_activations(x, ActivationFormat.parse("a4-asym-token"))
    assert not torch.allclose(rounded, x, atol=1e-2)
    linear(rounded, weight).sum().backward()
    assert torch.allclose(x.grad, weight.sum(0).expand(2, 3, 8))


def test_training_equals_adam_by_hand_with_a_rate_that_falls_linearly():
    unit, rate, steps = Unit(), 0.02, 20
    found = unit.distill(lr=rate, iterations=steps, keep="last")
    values = {name: tensor.clone() for name, tensor in unit.parameters.items()}
    first = {name: torch.zeros_like(tensor) for name, tensor in values.items()}
    second = {name: torch.zeros_like(tensor) for name, tensor in values.items()}
    for step, index in enumerate(unit.trained, 1):
        error = linear(unit.x[index], dequantize(quantize(values["w"], W3)), values["b"]) - unit.targets[index]
        gradients = {"w": 2 * error.T @ unit.x[index] / error.numel(), "b": 2 * error.sum(0) / error.numel()}
        for name, gradient in gradients.items():
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            slope = first[name] / (1 - 0.9**step) / ((second[name] / (1 - 0.999**step)).sqrt() + 1e-8)
            values[name] -= rate * (1 - (step - 1) / steps) * slope
    assert len(unit.trained) == steps
    assert torch.allclose(found.others["b"], values["b"], atol=1e-5)
    expected = quantize(values["w"], W3)
    assert torch.equal(found.quantized["w"].codes, expected.codes)
    assert torch.allclose(found.quantized["w"].scale, expected.scale)
    assert not torch.equal(expected.codes, quantize(unit.parameters["w"], W3).codes)


def test_every_sequence_is_seen_once_before_any_is_seen_again_and_the_last_ones_never_train():
    unit = Unit()
    unit.distill(iterations=15, keep="best")
    rounds = [unit.trained[:6], unit.trained[6:12], unit.trained[12:]]
    assert [sorted(part) for part in rounds[:2]] == [list(range(6))] * 2
    assert rounds[0] != rounds[1]
    assert len(set(rounds[2])) == 3
    assert set(unit.trained) == set(range(6))
    assert unit.measured == [6, 7] * 9  # RTN, and eight times while training
    unit = Unit()
    unit.distill(iterations=15, keep="last")
    assert unit.measured == [6, 7] * 2


def test_loss_falls_from_rtns_and_what_was_kept_is_what_is_reported():
    unit = Unit()
    found = unit.distill(lr=0.03, iterations=48)
    rtn = dequantize(quantize(unit.parameters["w"], W3))
    weight = dequantize(found.quantized["w"])
    assert found.notes["loss_rtn"] == pytest.approx(unit.loss(rtn, unit.parameters["b"], HELD_OUT), rel=1e-5)
    assert found.notes["loss"] == pytest.approx(unit.loss(weight, found.others["b"], HELD_OUT), rel=1e-5)
    assert found.notes["loss"] < 0.7 * found.notes["loss_rtn"]
    assert unit.loss(weight, found.others["b"], TRAIN) < 0.7 * unit.loss(rtn, unit.parameters["b"], TRAIN)
    assert unit.loss(weight, unit.parameters["b"], TRAIN) != unit.loss(weight, found.others["b"], TRAIN)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_best_keeps_the_start_where_training_only_hurts_and_last_does_not(keep):
    unit = Unit()
    unit.targets[:6] += 1.0  # what is trained on
    unit.targets[6:] = linear(unit.x[6:], dequantize(quantize(unit.parameters["w"], W3)), unit.parameters["b"])
    found = unit.distill(keep=keep)
    rtn = quantize(unit.parameters["w"], W3)
    assert found.notes["loss_rtn"] == 0
    if keep == "best":
        assert (found.notes["step"], found.notes["loss"]) == (0, 0)
        assert torch.equal(found.quantized["w"].codes, rtn.codes)
        assert torch.equal(found.others["b"], unit.parameters["b"])
    else:
        assert found.notes["step"] == 24
        assert found.notes["loss"] > 0.01


def test_same_seed_same_bytes_and_another_seed_others():
    assert same(Unit().distill(), Unit().distill())
    assert not same(Unit().distill(), Unit().distill(seed=1))


def test_fixed_scales_stay_those_of_rtn():
    fixed, free = Unit().distill(scales="fixed", keep="last"), Unit().distill(keep="last")
    rtn = quantize(Unit().parameters["w"], W3)
    assert torch.equal(fixed.quantized["w"].scale, rtn.scale)
    assert torch.equal(fixed.quantized["w"].zero, rtn.zero)
    assert not torch.equal(fixed.quantized["w"].codes, rtn.codes)
    assert not torch.equal(free.quantized["w"].scale, rtn.scale)


def test_auto_takes_the_rate_with_the_least_held_out_loss():
    grid = [0.3, 0.03, 0.001, 1e-5]
    alone = {rate: Unit().distill(lr=rate) for rate in grid}
    chosen = Unit().distill(lr="auto", lr_grid=grid)
    losses = {rate: found.notes["loss"] for rate, found in alone.items()}
    best = min(losses, key=losses.get)
    assert chosen.notes["tried"] == {f"{rate:g}": loss for rate, loss in losses.items()}
    assert chosen.notes["lr"] == best == 0.03
    assert same(chosen, alone[best])
    assert "tried" not in alone[best].notes


@pytest.mark.parametrize("rate", [1e4, 1e38])
@pytest.mark.parametrize("scales", ["recompute", "fixed"])
def test_a_divergent_rate_is_an_error_and_discarded_under_auto(rate, scales):
    with pytest.raises(Diverged, match=re.escape(f"learning rate {rate:g} diverged")):
        Unit().distill(lr=rate, scales=scales, keep="last")
    with pytest.raises(Diverged, match="diverged"):
        Unit().distill(lr=rate, scales=scales, keep="best")
    chosen = Unit().distill(lr="auto", lr_grid=[rate, 0.01], scales=scales)
    assert (chosen.notes["lr"], chosen.notes["tried"][f"{rate:g}"]) == (0.01, None)
    assert same(chosen, Unit().distill(lr=0.01, scales=scales))
    with pytest.raises(Diverged, match="every learning rate"):
        Unit().distill(lr="auto", lr_grid=[rate, 10 * rate], scales=scales)


def test_a_loss_that_is_no_number_is_divergence():
    class Breaks(Unit):
        def __call__(self, values, x):
            moved = (values["b"] - self.parameters["b"]).abs().max() > 0
            return super().__call__(values, x) * (torch.nan if moved else 1.0)

    with pytest.raises(Diverged, match="diverged"):
        Breaks().distill()


def test_what_cannot_be_distilled_is_refused():
    with pytest.raises(ValueError, match="groups of 3 do not divide"):
        Unit().distill(WeightFormat.parse("w3-asym-g3"))
    with pytest.raises(ValueError, match="too few"):
        Unit().distill(held_out=0.95)
    unit = Unit()
    unit.parameters["b"] = unit.parameters["b"].half()
    with pytest.raises(ValueError, match="float32"):
        unit.distill()
