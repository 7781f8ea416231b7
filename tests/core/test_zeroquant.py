"""ZQ-Local and ZQ-Global: training equals a loop by hand, blocks get closer to their teacher, a restart changes nothing."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import tiny
import torch
from torch.nn.functional import linear, mse_loss

from lorcbench.common import paths
from lorcbench.common.artifacts import read_json, write_json, write_shard
from lorcbench.config import compose
from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.core.quantizer import dequantize, fake_quantize_activations, fake_quantize_weights, quantize
from lorcbench.core.settings import DistillSettings
from lorcbench.core.zeroquant import Distilled, Diverged, distill
from lorcbench.jobs import distillation, inputs
from lorcbench.jobs.job import Job
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.models.observe import recorded
from lorcbench.models.perplexity import window_losses
from lorcbench.models.surgery import install_weights, round_inputs
from lorcbench.stages import lorc as lorc_stage
from lorcbench.stages import quantize as stage

W3 = WeightFormat.parse("w3-asym-row")
FORMATS = [W3, *map(WeightFormat.parse, ("w2-sym-g4", "w4-asym-row-pow2", "w3-sym-row-restricted", "w8-asym-g8-fp32scale"))]
DEFAULTS = {"lr": 0.01, "lr_grid": [0.1, 0.01], "iterations": 24, "seed": 0}
DEFAULTS |= {"held_out": 0.25, "keep": "last", "scales": "recompute"}
SEQUENCES = 8


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors are so small that a second thread only costs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


# The stage, on tiny checkpoints


NAMES = {"model": "tiny", "calibration": "stdlib", "weight": "w2-asym-row", "trained": "a16", "lorc": "plain-fp16", "cap": "0"}
WINDOWS = tiny.windows(12, 16)
QUICK = "+held_out=0.25+iterations=24+lr=0.01"


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A function kind → a folder with a prepared tiny checkpoint in float16 and calibration tokens, to work in."""

    def prepare(kind: str) -> Path:
        monkeypatch.chdir(tmp_path)
        folder = tiny.checkpoint(tmp_path / kind, kind, dtype=torch.float16)
        write_json(Path(paths.CHECKPOINT.format(**NAMES)) / "result.json", "checkpoint", {"folder": str(folder), "files": {}})
        tokens = Path(paths.CALIBRATION_TOKENS.format(**NAMES))
        digest = write_shard(tokens / "tokens.safetensors", {"calibration": WINDOWS.int()}, "tokens")
        write_json(tokens / "result.json", "tokens", {"shards": [{"file": "tokens.safetensors", "sha256": digest}]})
        return folder

    return prepare


GIVEN = ("method", "calibration", "weight", "trained", "activation", "lorc", "cap")


def run(work, method: str, trained: str = "a16", activation: str = "a16", **changed: str) -> dict[str, str]:
    """Run a stage in this process; returns the names of its paths."""
    names = NAMES | {"method": method, "trained": trained, "activation": activation, **changed}
    work(Job("quantize", ["model=folder", "model.name=tiny", "model.path=unused", *(f"{key}={names[key]}" for key in GIVEN)]))
    return names


def result(names: dict[str, str]) -> dict:
    return read_json(Path(paths.QUANTIZED.format(**names)) / "result.json", "quantized")


def outputs(
    folder: Path, names: dict | None, hidden: list[torch.Tensor], activation: str = "a16", lorc: str = "none", rank: int = 0
) -> list[torch.Tensor]:
    """What each block makes of the hidden states given for it, with the cell's weights or the checkpoint's."""
    walk, found = BlockWalk(Checkpoint(folder), torch.float32), []
    walk.embed(WINDOWS)
    weights = inputs.CellWeights(names or {"method": "none"}, walk.checkpoint, lorc, rank)
    for index in range(walk.depth):
        with walk.block(index) as block:
            install_weights(block, weights.block(index))
            hooks = round_inputs(block, walk.architecture.linear_names, ActivationFormat.parse(activation))
            found.append(walk.forward(block, hidden[index]).clone())
            for hook in hooks:
                hook.remove()
    return found


def teacher(folder: Path) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Hidden states that enter each block of the unquantized model, and that leave it."""
    walk = BlockWalk(Checkpoint(folder), torch.float32)
    states, hidden = [], walk.embed(WINDOWS)
    for index in range(walk.depth):
        states.append(hidden.clone())
        with walk.block(index) as block:
            walk.advance(block, hidden)
    return states, [*states[1:], hidden]


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_distilled_blocks_are_closer_to_their_teacher_than_rounded_ones(made, kind):
    folder = made(kind)
    given, wanted = teacher(folder)
    rounded, distilled = (outputs(folder, run(stage.main, name), given) for name in ("rtn", "zq_global" + QUICK))
    for index in range(tiny.LAYERS):
        before, after = (mse_loss(found[index][:9], wanted[index][:9]) for found in (rounded, distilled))
        assert after < 0.7 * before


@pytest.mark.parametrize(("kind", "activation"), [("opt", "a16"), ("bloom", "a4-asym-token")])
def test_distilled_linears_are_closer_to_their_teacher_than_rounded_ones(made, kind, activation):
    folder = made(kind)
    names = run(stage.main, "zq_local+keep=best" + QUICK, activation)
    walk, fmt = BlockWalk(Checkpoint(folder), torch.float32), ActivationFormat.parse(activation)
    rtn, held = (inputs.QuantizedModel(given).block(0) for given in (run(stage.main, "rtn"), names))
    hidden = walk.embed(WINDOWS)
    for group in walk.architecture.linears:
        with walk.block(0) as block:
            with recorded(block, group[0]) as seen:
                walk.forward(block, hidden)
            x = seen[0].reshape(len(WINDOWS), -1, seen[0].shape[-1])
            for name in group:
                teacher = block.get_submodule(name)
                wanted, notes = teacher(x), result(names)["notes"][0][name]
                rounded = linear(fake_quantize_activations(x, fmt), rtn[name], teacher.bias)
                distilled = linear(fake_quantize_activations(x, fmt), held[name], held[f"{name}.bias"].float())
                assert notes["loss_rtn"] == pytest.approx(float(mse_loss(rounded[9:], wanted[9:])), rel=1e-4)
                assert notes["loss"] == pytest.approx(float(mse_loss(distilled[9:], wanted[9:])), rel=1e-2)
                assert notes["step"] == 0 or mse_loss(distilled[:9], wanted[:9]) < mse_loss(rounded[:9], wanted[:9])
    steps = [note["step"] for block in result(names)["notes"] for note in block.values()]
    assert steps.count(0) < len(steps) / 2


@pytest.mark.parametrize("kind", ["opt", "bloom"])
@pytest.mark.parametrize("activation", ["a16", "a4-asym-token"])
def test_training_starts_at_rtn_under_the_activation_format_of_the_cell(made, kind, activation):
    folder = made(kind)
    names = run(stage.main, "zq_global" + QUICK, activation, activation)
    given, wanted = teacher(folder)
    rounded = outputs(folder, run(stage.main, "rtn"), given, activation)
    notes = [block["block"] for block in result(names)["notes"]]
    for index in range(tiny.LAYERS):
        assert notes[index]["loss_rtn"] == pytest.approx(float(mse_loss(rounded[index][9:], wanted[index][9:])), rel=1e-4)
    distilled = outputs(folder, names, given, activation)
    for index in range(tiny.LAYERS):
        assert mse_loss(distilled[index][9:], wanted[index][9:]) == pytest.approx(notes[index]["loss"], rel=0.02)


def test_gptq_calibrates_on_rounded_activations_where_it_is_told_so(made):
    made("opt")
    told = "gptq+calibration_activations=quantized"
    plain, a16, a4 = (inputs.QuantizedModel(run(stage.main, *given)) for given in (["gptq"], [told], [told, "a4-asym-token"]))
    for index in range(tiny.LAYERS):
        weights = [model.block(index) for model in (plain, a16, a4)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        assert not any(torch.equal(weights[1][name], weights[2][name]) for name in weights[1])
    with pytest.raises(ValueError, match="does not look at activations"):
        run(stage.main, "rtn", "a8-asym-token")


@pytest.mark.parametrize("activation", ["a16", "a4-asym-token"])
@pytest.mark.parametrize("choice", ["", "+block_input=quantized", "+block_input=quantized+target=full_precision"])
def test_inputs_and_targets_are_those_that_the_setting_names(made, choice, activation):
    folder = made("opt")
    names = run(stage.main, "zq_global" + QUICK + choice, activation)
    full, wanted = teacher(folder)
    given = full[1]
    if choice:
        given = outputs(folder, names, full, activation)[0]  # what the distilled block 0 makes
    if choice.endswith("quantized"):
        wanted[1] = outputs(folder, None, [given] * tiny.LAYERS)[1]
    rounded = outputs(folder, run(stage.main, "rtn"), [given] * tiny.LAYERS, activation)[1]
    start = result(names)["notes"][1]["block"]["loss_rtn"]
    assert start == pytest.approx(float(mse_loss(rounded[9:], wanted[1][9:])), rel=1e-4)


@pytest.mark.parametrize("kind", ["opt", "bloom"])
@pytest.mark.parametrize("method", ["zq_local", "zq_global"])
def test_trained_biases_and_norms_reach_everything_downstream(made, kind, method):
    folder = made(kind)
    checkpoint = Checkpoint(folder)
    names = run(stage.main, method + QUICK)
    own = checkpoint.block(1)
    biases = {f"{name}.bias" for name in checkpoint.architecture.linear_names}
    others = {name for name in own if not name.endswith(".weight") or "norm" in name}
    held = inputs.CellWeights(names, checkpoint, "none", 0).block(1)
    trained = {name: tensor for name, tensor in held.items() if name not in checkpoint.architecture.linear_names}
    assert set(trained) == (biases if method == "zq_local" else others)
    for name, tensor in trained.items():
        assert tensor.dtype == own[name].dtype == torch.float16
        assert not torch.equal(tensor, own[name])
    losses = window_losses(
        BlockWalk(checkpoint, torch.float32), {"one": WINDOWS}, inputs.CellWeights(names, checkpoint, "none", 0).block, "a16"
    )
    model = tiny.model(kind).half().float()
    weights = inputs.CellWeights(names, checkpoint, "none", 0)
    for index, block in enumerate(model.get_submodule(tiny.BLOCKS[kind])):
        state = dict(block.named_parameters())
        for name, tensor in weights.block(index).items():
            state[name if name in state else f"{name}.weight"].data = tensor.float()
    with torch.no_grad():
        expected = [float(model(input_ids=window[None], labels=window[None]).loss) for window in WINDOWS]
    assert losses["one"] == pytest.approx(expected, rel=1e-4)
    assert result(names)["bits_per_weight"] == result(run(stage.main, "rtn"))["bits_per_weight"]


def test_only_weights_train_where_the_setting_says_so(made):
    made("opt")
    for method in ("zq_local", "zq_global"):
        names = run(stage.main, method + QUICK + "+trainable=weights")
        checkpoint = Checkpoint(inputs.checkpoint_folder(names))
        held = inputs.QuantizedModel(names).block(0)
        assert set(held) == set(checkpoint.architecture.linear_names)
        rtn = inputs.QuantizedModel(run(stage.main, "rtn")).block(0)
        assert not any(torch.equal(held[name], rtn[name]) for name in rtn)


def test_lorc_corrects_towards_the_weights_of_the_checkpoint(made):
    folder = made("opt")
    names = run(stage.main, "zq_global" + QUICK)
    run(lorc_stage.main, "zq_global" + QUICK)
    checkpoint = Checkpoint(folder)
    corrected = inputs.CellWeights(names, checkpoint, "plain-fp16", tiny.HIDDEN * 100).block(0)  # cap 0: all components
    assert any(name.endswith("norm.weight") for name in corrected)
    for name, weight in checkpoint.linears(0).items():
        assert torch.allclose(corrected[name], weight.float(), atol=2e-3)


def digests(names: dict[str, str]) -> dict[str, str]:
    folder = Path(paths.QUANTIZED.format(**names))
    kept = (path for path in sorted(folder.iterdir()) if path.name not in ("run.json", "log.txt"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


@pytest.mark.parametrize("method", ["zq_local", "zq_global", "zq_global+block_input=quantized+lr=auto"])
def test_a_resumed_run_ends_with_the_same_bytes_and_repeats_no_finished_block(made, method, monkeypatch):
    made("bloom")
    method = method + QUICK if "auto" not in method else method + "+iterations=8"
    names = run(stage.main, method, "a8-asym-token")
    expected = digests(names)
    assert set(expected) == {"result.json", *(f"block00{index}.safetensors" for index in range(tiny.LAYERS))}
    folder = Path(paths.QUANTIZED.format(**names))
    for name in ("result.json", "block002.safetensors"):
        (folder / name).unlink()
    distilled = []
    for function in ("distill_block", "distill_linears"):
        original = getattr(distillation, function)
        monkeypatch.setattr(distillation, function, lambda *args, original=original: distilled.append(1) or original(*args))
    run(stage.main, method, "a8-asym-token")
    assert digests(names) == expected
    assert len(distilled) == 1
    notes = json.loads((folder / "result.json").read_text())["notes"]
    assert all(note["lr"] > 0 for block in notes for note in block.values())


def test_a_divergent_rate_fails_the_cell(made):
    made("opt")
    with pytest.raises(Diverged, match="learning rate 1e\\+30 diverged"):
        run(stage.main, "zq_global+iterations=8+lr=1e30")


@pytest.mark.parametrize(("kind", "activation"), [("opt", "a16"), ("bloom", "a4-asym-token")])
@pytest.mark.parametrize("bits", ["int8", "fp16"])
def test_distilled_factors_bring_blocks_closer_to_their_teacher_than_plain_ones(made, kind, activation, bits):
    folder = made(kind)
    given, wanted = teacher(folder)
    method, found = "zq_global" + QUICK, []
    run(stage.main, method, activation, activation)
    for name in (f"plain-{bits}", f"distilled-{bits}+held_out=0.25+iterations=60+lr=0.003"):
        cap = str(compose.components(name, 2))
        names = run(lorc_stage.main, method, activation, activation, lorc=name, cap=cap)
        found.append(outputs(folder, names, given, activation, name, 2))
    assert cap == "2"
    factors = read_json(Path(paths.FACTORS.format(**names)) / "result.json", "factors")
    for index, notes in enumerate(factors["distilled"]):
        assert notes["loss"] < notes["loss_rtn"]
        plain, distilled = (mse_loss(blocks[index][:9], wanted[index][:9]) for blocks in found)
        assert distilled < plain


def test_distilled_factors_continue_where_a_killed_run_stopped(made):
    made("bloom")
    method, lorc = "zq_global" + QUICK, {"lorc": "distilled-int8+held_out=0.25+iterations=20+lr=0.003", "cap": "2"}
    run(stage.main, method)
    folder = Path(paths.FACTORS.format(**run(lorc_stage.main, method, **lorc)))
    kept = [*folder.glob("*.safetensors"), folder / "result.json"]
    whole = {path: path.read_bytes() for path in kept}
    for path in (folder / "result.json", folder / f"block{tiny.LAYERS - 1:03d}.safetensors"):
        path.unlink()
    run(lorc_stage.main, method, **lorc)
    assert {path: path.read_bytes() for path in kept} == whole
