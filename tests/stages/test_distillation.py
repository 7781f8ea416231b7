"""ZQ-Local, ZQ-Global and distilled factors as stages: blocks get closer to their teacher, and settings mean what they say."""

from __future__ import annotations

import shutil
import weakref
from dataclasses import replace

import pytest
import tiny
import torch
from tiny_stages import QUICK, WINDOWS, cell_weights, outputs, quantized_model, result, run, teacher
from torch.nn.functional import linear, mse_loss

from lorcbench.common.artifacts import read_json
from lorcbench.config import compose
from lorcbench.core.formats import ActivationFormat
from lorcbench.core.quantizer import fake_quantize_activations
from lorcbench.core.zeroquant import Diverged
from lorcbench.jobs import sources
from lorcbench.jobs.job import Job
from lorcbench.models import discovery
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.observe import recorded
from lorcbench.models.perplexity import window_losses
from lorcbench.stages import lorc as lorc_stage
from lorcbench.stages import quantize as stage
from lorcbench.study.stages import LORC, QUANTIZE

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_distilled_blocks_are_closer_to_their_teacher_than_rounded_ones(tiny_checkpoint, kind):
    folder = tiny_checkpoint(kind)
    given, wanted = teacher(folder)
    rounded, distilled = (outputs(folder, run(stage.main, name), given) for name in ("rtn", "zq_global" + QUICK))
    for index in range(tiny.LAYERS):
        before, after = (mse_loss(found[index][:9], wanted[index][:9]) for found in (rounded, distilled))
        assert after < 0.7 * before


@pytest.mark.parametrize(("kind", "activation"), [("opt", "a16"), ("bloom", "a4-asym-token")])
def test_distilled_linears_are_closer_to_their_teacher_than_rounded_ones(tiny_checkpoint, kind, activation):
    folder = tiny_checkpoint(kind)
    names = run(stage.main, "zq_local+keep=best" + QUICK, activation)
    walk, fmt = BlockWalk(discovery.opened(folder), torch.float32), ActivationFormat.parse(activation)
    rtn, held = (quantized_model(given).block(0) for given in (run(stage.main, "rtn"), names))
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
def test_training_starts_at_rtn_under_the_activation_format_of_the_cell(tiny_checkpoint, kind, activation):
    folder = tiny_checkpoint(kind)
    names = run(stage.main, "zq_global" + QUICK, activation, activation)
    given, wanted = teacher(folder)
    rounded = outputs(folder, run(stage.main, "rtn"), given, activation)
    notes = [block["block"] for block in result(names)["notes"]]
    for index in range(tiny.LAYERS):
        assert notes[index]["loss_rtn"] == pytest.approx(float(mse_loss(rounded[index][9:], wanted[index][9:])), rel=1e-4)
    distilled = outputs(folder, names, given, activation)
    for index in range(tiny.LAYERS):
        assert mse_loss(distilled[index][9:], wanted[index][9:]) == pytest.approx(notes[index]["loss"], rel=0.02)


def test_inputs_and_outputs_of_one_linear_are_held_at_a_time(tiny_checkpoint, monkeypatch):
    tiny_checkpoint("opt")
    held, most, original = [], [], BlockWalk.buffer

    def buffer(walk: BlockWalk, *shape: int, streamed: bool = True) -> torch.Tensor:
        made = original(walk, *shape, streamed=streamed)
        if not streamed:
            held.append(weakref.ref(made.untyped_storage()))
            alive = [storage for reference in held if (storage := reference()) is not None]
            most.append(sum(storage.nbytes() for storage in alive))
        return made

    monkeypatch.setattr(BlockWalk, "buffer", buffer)
    run(stage.main, "zq_local" + QUICK)
    assert len(most) == tiny.LAYERS * (4 + 6)  # of four inputs and six linears per block
    assert max(most) == WINDOWS.numel() * (tiny.HIDDEN + 40) * 4  # of the feed-forward part: 24 → 40 and 40 → 24


def test_states_in_a_file_change_no_bit(tiny_checkpoint):
    tiny_checkpoint("opt")
    digests = []
    for gib in (1, 1e-6):

        def main(job: Job, gib: float = gib) -> None:
            job.runtime = replace(job.runtime, hidden_gib=gib)
            stage.main(job)

        names = run(main, "zq_local" + QUICK, "a8-asym-token")
        digests.append(result(names)["shards"])
        shutil.rmtree(QUANTIZE.folder(names))
    assert digests[0] == digests[1]


def test_gptq_calibrates_on_rounded_activations_where_it_is_told_so(tiny_checkpoint):
    tiny_checkpoint("opt")
    told = "gptq+calibration_activations=quantized"
    plain, a16, a4 = (quantized_model(run(stage.main, *given)) for given in (["gptq"], [told], [told, "a4-asym-token"]))
    for index in range(tiny.LAYERS):
        weights = [model.block(index) for model in (plain, a16, a4)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        assert not any(torch.equal(weights[1][name], weights[2][name]) for name in weights[1])
    with pytest.raises(ValueError, match="does not look at activations"):
        run(stage.main, "rtn", "a8-asym-token")


@pytest.mark.parametrize("activation", ["a16", "a4-asym-token"])
@pytest.mark.parametrize("choice", ["", "+block_input=quantized", "+block_input=quantized+target=full_precision"])
def test_inputs_and_targets_are_those_that_the_setting_names(tiny_checkpoint, choice, activation):
    folder = tiny_checkpoint("opt")
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
def test_trained_biases_and_norms_reach_everything_downstream(tiny_checkpoint, kind, method):
    folder = tiny_checkpoint(kind)
    checkpoint = discovery.opened(folder)
    names = run(stage.main, method + QUICK)
    own = checkpoint.block(1)
    biases = {f"{name}.bias" for name in checkpoint.architecture.linear_names}
    others = {name for name in own if not name.endswith(".weight") or "norm" in name}
    held = cell_weights(names, checkpoint).block(1)
    trained = {name: tensor for name, tensor in held.items() if name not in checkpoint.architecture.linear_names}
    assert set(trained) == (biases if method == "zq_local" else others)
    for name, tensor in trained.items():
        assert tensor.dtype == own[name].dtype == torch.float16
        assert not torch.equal(tensor, own[name])
    losses = window_losses(
        BlockWalk(checkpoint, torch.float32), {"one": WINDOWS}, cell_weights(names, checkpoint).block, ActivationFormat(16)
    )
    model = tiny.model(kind).half().float()
    weights = cell_weights(names, checkpoint)
    for index, block in enumerate(model.get_submodule(tiny.BLOCKS[kind])):
        state = dict(block.named_parameters())
        for name, tensor in weights.block(index).items():
            state[name if name in state else f"{name}.weight"].data = tensor.float()
    with torch.no_grad():
        expected = [float(model(input_ids=window[None], labels=window[None]).loss) for window in WINDOWS]
    assert losses["one"] == pytest.approx(expected, rel=1e-4)
    assert result(names)["bits_per_weight"] == result(run(stage.main, "rtn"))["bits_per_weight"]


def test_only_weights_train_where_the_setting_says_so(tiny_checkpoint):
    tiny_checkpoint("opt")
    for method in ("zq_local", "zq_global"):
        names = run(stage.main, method + QUICK + "+trainable=weights")
        checkpoint = discovery.opened(sources.checkpoint_folder(names))
        held = quantized_model(names).block(0)
        assert set(held) == set(checkpoint.architecture.linear_names)
        rtn = quantized_model(run(stage.main, "rtn")).block(0)
        assert not any(torch.equal(held[name], rtn[name]) for name in rtn)


def test_lorc_corrects_towards_the_weights_of_the_checkpoint(tiny_checkpoint):
    folder = tiny_checkpoint("opt")
    names = run(stage.main, "zq_global" + QUICK)
    run(lorc_stage.main, "zq_global" + QUICK)
    checkpoint = discovery.opened(folder)
    corrected = cell_weights(names, checkpoint, "plain-fp16", tiny.HIDDEN * 100).block(0)  # cap 0: all components
    assert any(name.endswith("norm.weight") for name in corrected)
    for name, weight in checkpoint.linears(0).items():
        assert torch.allclose(corrected[name], weight.float(), atol=2e-3)


def test_a_divergent_rate_fails_the_cell(tiny_checkpoint):
    tiny_checkpoint("opt")
    with pytest.raises(Diverged, match="learning rate 1e\\+30 diverged"):
        run(stage.main, "zq_global+iterations=8+lr=1e30")


@pytest.mark.parametrize(("kind", "activation"), [("opt", "a16"), ("bloom", "a4-asym-token")])
@pytest.mark.parametrize("bits", ["int8", "fp16"])
def test_distilled_factors_bring_blocks_closer_to_their_teacher_than_plain_ones(tiny_checkpoint, kind, activation, bits):
    folder = tiny_checkpoint(kind)
    given, wanted = teacher(folder)
    method, found = "zq_global" + QUICK, []
    run(stage.main, method, activation, activation)
    for name in (f"plain-{bits}", f"distilled-{bits}+held_out=0.25+iterations=60+lr=0.003"):
        cap = str(compose.components(name, 2))
        names = run(lorc_stage.main, method, activation, activation, lorc=name, cap=cap)
        found.append(outputs(folder, names, given, activation, name, 2))
    assert cap == "2"
    factors = read_json(LORC.folder(names) / "result.json", "factors")
    for index, notes in enumerate(factors["distilled"]):
        assert notes["loss"] < notes["loss_rtn"]
        plain, distilled = (mse_loss(blocks[index][:9], wanted[index][:9]) for blocks in found)
        assert distilled < plain
