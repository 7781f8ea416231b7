"""Surgery: originals put back change nothing, activations are rounded as by hand, statistics are those of the inputs."""

from __future__ import annotations

import pytest
import tiny
import torch
from records import BLOOM, OPT
from torch import nn

from lorcbench.common import artifacts
from lorcbench.common.paths import Wildcards
from lorcbench.core import lorc
from lorcbench.core.formats import ActivationFormat
from lorcbench.jobs.inputs import Factors
from lorcbench.models import discovery
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.models.observe import observed
from lorcbench.models.perplexity import window_losses
from lorcbench.models.surgery import install_weights, round_inputs, rounded_inputs
from lorcbench.study.stages import LORC

A8 = ActivationFormat.parse("a8-asym-token")
(FUSED,) = BLOOM.fused
TOKENS = {"one": tiny.windows(3, 12), "two": tiny.windows(2, 12, seed=1)}


def changed(checkpoint: Checkpoint, change=lambda weight: weight):
    """What `window_losses` asks for the weights of a block: the checkpoint's own, changed."""
    return lambda index: {name: change(weight.float()) for name, weight in checkpoint.linears(index).items()}


def none(index: int) -> dict[str, torch.Tensor]:
    """Full precision: nothing is installed."""
    return {}


def losses(folder, weights, activation: str = "a16") -> dict[str, list[float]]:
    return window_losses(
        BlockWalk(discovery.opened(folder), torch.float32, batch_tokens=24), TOKENS, weights, ActivationFormat.parse(activation)
    )


def by_hand(x: torch.Tensor) -> torch.Tensor:
    """8 bits, asymmetric, one scale a token, the range stretched to hold 0."""
    rows = []
    for token in x.reshape(-1, x.shape[-1]):
        low, high = min(float(token.min()), 0.0), max(float(token.max()), 0.0)
        scale = (high - low) / 255
        zero = round(-low / scale)
        rows.append(torch.stack([(torch.round(v / scale) + zero).clamp(0, 255) - zero for v in token]) * scale)
    return torch.stack(rows).view(x.shape)


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_original_weights_put_back_leave_losses_bit_identical(tmp_path, kind, dtype):
    folder = tiny.checkpoint(tmp_path, kind, dtype=dtype)
    full, checkpoint = losses(folder, none), discovery.opened(folder)
    assert losses(folder, changed(checkpoint)) == full
    moved = losses(folder, changed(checkpoint, lambda weight: weight + 0.02))
    assert all(abs(a - b) > 1e-5 for name in full for a, b in zip(full[name], moved[name], strict=True))


def test_a_cell_leaves_nothing_behind_for_the_next(tmp_path):
    walk = BlockWalk(discovery.opened(tiny.checkpoint(tmp_path, "opt")), torch.float32, batch_tokens=24)
    full = window_losses(walk, TOKENS, none, ActivationFormat(16))
    rounded = window_losses(walk, TOKENS, changed(walk.checkpoint, lambda weight: weight + 0.02), A8)
    assert rounded != full
    assert window_losses(walk, TOKENS, none, ActivationFormat(16)) == full


def test_the_cause_of_no_number_is_in_the_weights_if_they_are_none(tmp_path):
    folder = tiny.checkpoint(tmp_path, "opt")
    checkpoint = discovery.opened(folder)

    def broken(index: int) -> dict[str, torch.Tensor]:
        weights = changed(checkpoint)(index)
        return weights | {"fc1": weights["fc1"] * torch.nan} if index == 1 else weights

    with pytest.raises(ArithmeticError, match="windows is no number: block 1, fc1: the weights hold NaN or infinite values"):
        losses(folder, broken)
    with pytest.raises(ArithmeticError, match=r"is no number: a number is too large for torch\.float32"):
        losses(folder, changed(checkpoint, lambda weight: weight.sign() * 1e38))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_linear_matters(tmp_path, kind):
    folder = tiny.checkpoint(tmp_path, kind)
    full, checkpoint = losses(folder, none)["one"], discovery.opened(folder)
    names = checkpoint.architecture.linear_names
    for name in names:
        assert losses(folder, lambda index, name=name: {name: 1.1 * checkpoint.linears(index)[name]})["one"] != full


def test_install_keeps_type_bias_and_the_other_linears(tmp_path):
    block = tiny.model("opt").model.decoder.layers[0].to(torch.bfloat16)
    before = {name: parameter.clone() for name, parameter in block.named_parameters()}
    weight = torch.randn(before["fc1.weight"].shape, generator=torch.Generator().manual_seed(0))
    install_weights(block, {"fc1": weight})
    after = dict(block.named_parameters())
    assert torch.equal(after["fc1.weight"], weight.to(torch.bfloat16))
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before if name != "fc1.weight")
    assert not after["fc1.weight"].requires_grad


@pytest.mark.parametrize("shape", [(40, 23), (24, 40), (40,), (1, 40, 24)])
def test_wrong_shape_is_refused_and_named(shape):
    block = tiny.model("opt").model.decoder.layers[0]
    before = block.fc1.weight.clone()
    assert before.shape == (40, 24)
    with pytest.raises(ValueError, match="fc1"):
        install_weights(block, {"fc1": torch.zeros(shape)})
    assert torch.equal(block.fc1.weight, before)


def test_unknown_linear_is_refused():
    with pytest.raises(AttributeError):
        install_weights(tiny.model("opt").model.decoder.layers[0], {"fc3": torch.zeros(2, 2)})


def test_full_precision_activations_are_not_touched():
    block = tiny.model("opt").model.decoder.layers[0]
    assert round_inputs(block, OPT.linear_names, ActivationFormat.parse("a16")) == []
    assert not any(module._forward_pre_hooks for module in block.modules())


@pytest.mark.parametrize("shape", [(5, 24), (2, 5, 24)])
def test_rounded_inputs_equal_rounding_by_hand_and_hooks_come_off(shape):
    block = tiny.model("opt").model.decoder.layers[0]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).exp() - 0.5
    with torch.no_grad():
        plain, other = block.fc1(x), block.self_attn.q_proj(x)
        hooks = round_inputs(block, ("fc1",), A8)
        rounded = block.fc1(x)
        assert torch.allclose(rounded, nn.functional.linear(by_hand(x), block.fc1.weight, block.fc1.bias), atol=1e-6)
        assert not torch.allclose(rounded, plain, atol=1e-4)
        assert torch.equal(block.self_attn.q_proj(x), other)
        for hook in hooks:
            hook.remove()
        assert torch.equal(block.fc1(x), plain)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_activation_format_rounds_the_inputs_of_all_linears_of_a_cell(tmp_path, kind):
    """A checkpoint walked in a8 is the whole model of transformers with each linear's input rounded by hand."""
    made = tiny.model(kind)
    folder = tiny.save(made, tmp_path)
    record = discovery.opened(folder).architecture
    for block in made.get_submodule(record.blocks):
        for name in record.linear_names:
            block.get_submodule(name).register_forward_pre_hook(lambda module, args: (by_hand(args[0]),))
    with torch.no_grad():
        expected = torch.stack([made(input_ids=window[None], labels=window[None]).loss for window in TOKENS["one"]])
    found, full = (torch.tensor(losses(folder, none, name)["one"]) for name in (str(A8), "a16"))
    # Both round the same numbers, up to the last bit of what comes in: a few codes may fall to the neighbour.
    assert (found - expected).abs().max() < 0.2 * (found - full).abs().max()


@pytest.mark.parametrize("kind", ["opt", "opt-350m", "bloom"])
def test_second_moments_are_those_of_the_captured_inputs(tmp_path, kind):
    walk = BlockWalk(discovery.opened(tiny.checkpoint(tmp_path, kind)), torch.float32, batch_tokens=24)
    hidden, captured = walk.embed(TOKENS["one"]), {}
    with walk.block(0) as block:
        for name in walk.architecture.linear_names:
            block.get_submodule(name).register_forward_pre_hook(
                lambda module, args, name=name: captured.setdefault(name, []).append(args[0].clone())
            )
        with observed(block, walk.architecture) as moments:
            walk.advance(block, hidden)
        counts = {name: moment.tokens for name, moment in moments.items()}
        walk.advance(block, hidden)  # outside: no longer observed
        assert {name: moment.tokens for name, moment in moments.items()} == counts
    assert list(moments) == [group[0] for group in walk.architecture.linears]
    dimensions = {part.ndim for parts in captured.values() for part in parts}
    assert dimensions == ({3} if kind == "bloom" else {2, 3})
    for group in walk.architecture.linears:
        rows = torch.cat([part.reshape(-1, part.shape[-1]) for part in captured[group[0]][:2]]).double()
        assert moments[group[0]].tokens == len(rows) == TOKENS["one"].numel()
        assert torch.allclose(moments[group[0]].mean().double(), rows.T @ rows / len(rows), rtol=1e-5, atol=1e-6)
        for other in group[1:]:
            assert all(torch.equal(a, b) for a, b in zip(captured[group[0]], captured[other], strict=True))


def test_every_linear_knows_whose_input_it_shares():
    assert [OPT.input_of(name) for name in OPT.linear_names[:3]] == ["self_attn.q_proj"] * 3
    assert [OPT.input_of(name) for name in OPT.linear_names[3:]] == list(OPT.linear_names[3:])
    assert [BLOOM.input_of(name) for name in BLOOM.linear_names] == list(BLOOM.linear_names)


def test_parts_of_the_fused_rows_are_a_permutation():
    rows = BLOOM.part_rows(FUSED, 3 * tiny.HIDDEN)
    assert list(rows) == ["q", "k", "v"]
    assert torch.equal(torch.cat(list(rows.values())).sort().values, torch.arange(3 * tiny.HIDDEN))
    assert not torch.equal(torch.cat(list(rows.values())), torch.arange(3 * tiny.HIDDEN))  # interleaved by head
    assert all(OPT.part_rows(name, 8) is None for name in OPT.linear_names)
    assert all(BLOOM.part_rows(name, 8) is None for name in BLOOM.linear_names if name != FUSED)


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_parts_are_what_bloom_reads_as_query_key_and_value(part):
    made = tiny.model("bloom")
    attention = made.transformer.h[0].self_attention
    rows = BLOOM.part_rows(FUSED, 3 * tiny.HIDDEN)[part]
    fused, x = attention.query_key_value, torch.randn(2, 5, tiny.HIDDEN, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = dict(zip("qkv", attention._reshape(fused(x)), strict=True))
        direct = (x @ fused.weight[rows].T + fused.bias[rows]).view(2, 5, tiny.HEADS, -1).transpose(1, 2)
        assert torch.allclose(before[part], direct, atol=1e-6)
        fused.weight[rows], fused.bias[rows] = 0.0, 0.0
        after = dict(zip("qkv", attention._reshape(fused(x)), strict=True))
    assert not after[part].any()
    assert all(torch.equal(after[name], before[name]) for name in "qkv" if name != part)
    assert all(before[name].any() for name in "qkv")


def test_without_its_query_rows_bloom_attends_by_position_alone():
    """Zero queries score every key alike, so that no key matters; with them the keys do."""
    made = tiny.model("bloom")
    fused, rows = made.transformer.h[0].self_attention.query_key_value, BLOOM.part_rows(FUSED, 3 * tiny.HIDDEN)
    tokens = tiny.windows(2, 9)
    with torch.no_grad():
        with_queries = made(tokens).logits
        fused.weight[rows["q"]], fused.bias[rows["q"]] = 0.0, 0.0
        without = made(tokens).logits
        fused.weight[rows["k"]] *= -3.0
        assert torch.allclose(made(tokens).logits, without, atol=1e-6)
        assert not torch.allclose(with_queries, without, atol=1e-3)
        fused.weight[rows["v"]] *= -3.0
        assert not torch.allclose(made(tokens).logits, without, atol=1e-3)


@pytest.mark.parametrize("split", [True, False])
def test_corrections_return_to_the_rows_they_were_taken_from(tmp_path, monkeypatch, split):
    monkeypatch.chdir(tmp_path)
    checkpoint = discovery.opened(tiny.checkpoint(tmp_path / "bloom", "bloom"))
    errors, tensors = checkpoint.linears(0), {}
    for name, error in errors.items():
        rows = BLOOM.part_rows(name, len(error)) if split else None
        matrices = {f"{name}.{part}": error[index] for part, index in rows.items()} if rows else {name: error}
        for matrix, piece in matrices.items():
            tensors |= {f"{matrix}.{key}": value for key, value in lorc.store(*lorc.decompose(piece, 0), 16).items()}
    names = {**dict.fromkeys(("model", "method", "calibration", "weight", "trained"), "x"), "lorc": "plain-fp16"}
    folder = tmp_path / LORC.pattern.format(**names, cap=32)
    digest = artifacts.write_shard(folder / "block000.safetensors", tensors, "job")
    artifacts.write_json(folder / "result.json", "factors", {"shards": [{"file": "block000.safetensors", "sha256": digest}]})
    corrections, bits = Factors(Wildcards(**names), "plain-fp16", tiny.HIDDEN).block(0, BLOOM)
    assert corrections.keys() == errors.keys()
    for name, error in errors.items():
        assert torch.allclose(corrections[name], error, atol=2e-3 * float(error.abs().max()))
    assert bits == 16 * sum(tensor.numel() for tensor in tensors.values())


def test_rounding_ends_with_its_block_even_when_that_fails():
    block, x = tiny.model("opt").model.decoder.layers[0], torch.randn(5, 24)
    plain = block.fc1(x)
    with pytest.raises(RuntimeError, match="in between"), rounded_inputs(block, ("fc1",), A8):
        assert not torch.equal(block.fc1(x), plain)
        raise RuntimeError("in between")
    assert torch.equal(block.fc1(x), plain)
