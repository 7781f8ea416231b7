"""Checkpoints: every linear found once, shards and prefixes make no difference, and what is wrong is said in one line."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import tiny
import torch
from records import WRITTEN
from torch import nn

from lorcbench.models import discovery
from lorcbench.models.architecture import Architecture
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.checkpoint import CheckpointError


def everything(folder) -> dict[str, torch.Tensor]:
    checkpoint = discovery.opened(folder)
    return checkpoint.tensors(list(checkpoint.files))


def assert_same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) and tensor.dtype == other[name].dtype for name, tensor in one.items())


def change_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def refusal(work) -> str:
    """The message with which `work` is refused; it is one line."""
    with pytest.raises(CheckpointError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_linear_of_the_blocks_is_covered_once(tmp_path, kind):
    made = tiny.model(kind)
    checkpoint = discovery.opened(tiny.save(made, tmp_path))
    blocks = made.get_submodule(checkpoint.architecture.blocks)
    assert checkpoint.depth == len(blocks) == tiny.LAYERS
    for index, block in enumerate(blocks):
        expected = {name: module.weight for name, module in block.named_modules() if isinstance(module, nn.Linear)}
        found = checkpoint.linears(index)
        assert list(found) == list(checkpoint.architecture.linear_names)
        assert sorted(checkpoint.architecture.linear_names) == sorted(expected)
        assert all(torch.equal(weight, expected[name]) for name, weight in found.items())


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_record_that_is_found_is_the_one_that_one_would_write(tmp_path, kind):
    found = discovery.opened(tiny.checkpoint(tmp_path, kind)).architecture
    assert found == WRITTEN[kind]
    assert Architecture(**json.loads(json.dumps(asdict(found), sort_keys=True))) == found


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_linears_stand_in_forward_order_and_share_inputs_as_recorded(kind):
    made = tiny.model(kind)
    record = WRITTEN[kind]
    block, seen = made.get_submodule(record.blocks)[1], {}
    for name in record.linear_names:
        block.get_submodule(name).register_forward_pre_hook(lambda module, args, name=name: seen.update({name: args[0]}))
    with torch.no_grad():
        made(tiny.windows(1, 7))
    groups: dict[int, list[str]] = {}
    for name, value in seen.items():
        groups.setdefault(id(value), []).append(name)
    assert [sorted(group) for group in groups.values()] == [sorted(group) for group in record.linears]


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sharded_equals_whole(tmp_path, kind, dtype):
    made = tiny.model(kind)
    whole = tiny.save(made, tmp_path / "whole", dtype)
    sharded = tiny.save(made, tmp_path / "sharded", dtype, shard_size="10KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert_same_tensors(everything(whole), everything(sharded))
    assert {tensor.dtype for tensor in everything(whole).values()} == {dtype}


@pytest.mark.parametrize("kind", tiny.TIED)
def test_names_of_the_base_model_alone_are_resolved(tmp_path, kind):
    made = tiny.model(kind)
    whole, base = tiny.save(made, tmp_path / "whole"), tiny.save(made, tmp_path / "base", base=True)
    stored = {name for _, name in discovery.opened(base).files.values()}
    assert stored.isdisjoint({name for _, name in discovery.opened(whole).files.values()})
    assert_same_tensors(everything(whole), everything(base))


def test_blocks_and_outside_are_all_tensors_and_do_not_overlap(tmp_path):
    checkpoint = discovery.opened(tiny.checkpoint(tmp_path, "bloom"))
    names = [f"transformer.h.{index}.{name}" for index in range(checkpoint.depth) for name in checkpoint.block(index)]
    assert sorted([*names, *checkpoint.outside()]) == sorted(checkpoint.files)


def test_config_of_the_hubs_bloom_checkpoints_means_the_same(tmp_path):
    folder = tiny.checkpoint(tmp_path, "bloom", base=True)
    before = discovery.opened(folder)
    (fused,) = before.architecture.fused
    rows = before.architecture.part_rows(fused, 3 * tiny.HIDDEN)
    losses = losses_of(folder)
    other = {"n_embed": tiny.HIDDEN, "num_attention_heads": tiny.HEADS, "hidden_size": None, "n_head": None}
    after = discovery.opened(change_config(folder, **other, n_inner=None, offset_alibi=100, seq_length=2048))
    again = after.architecture.part_rows(fused, 3 * tiny.HIDDEN)
    assert all(torch.equal(rows[part], again[part]) for part in ("q", "k", "v"))
    assert torch.equal(losses, losses_of(folder))


def losses_of(folder) -> torch.Tensor:
    walk, tokens = BlockWalk(discovery.opened(folder), torch.float32), tiny.windows(2, 8)
    hidden = walk.embed(tokens)
    for index in range(walk.depth):
        with walk.block(index) as block:
            walk.advance(block, hidden)
    return walk.score(hidden, tokens)


def test_one_file_is_preferred_to_shards_left_beside_it_as_transformers_does(tmp_path):
    made = tiny.model("opt")
    sharded = tiny.save(tiny.model("opt", seed=1), tmp_path / "sharded", shard_size="10KB")
    whole = tiny.save(made, tmp_path / "whole")
    for path in sharded.glob("model*"):
        path.rename(whole / path.name)
    assert torch.equal(discovery.opened(whole).linears(0)["fc1"], made.model.decoder.layers[0].fc1.weight)


def test_missing_folder_and_missing_weights(tmp_path):
    assert str(tmp_path / "none" / "config.json") in refusal(lambda: discovery.opened(tmp_path / "none"))
    folder = tiny.checkpoint(tmp_path / "opt", "opt")
    (folder / "model.safetensors").unlink()
    message = refusal(lambda: discovery.opened(folder).files)
    assert str(folder) in message
    assert "model.safetensors" in message


def test_missing_shard_is_named(tmp_path):
    folder = tiny.checkpoint(tmp_path, "opt", shard_size="10KB")
    lost = sorted(folder.glob("*.safetensors"))[1]
    lost.unlink()
    message = refusal(lambda: discovery.opened(folder).linears(0))
    assert str(folder) in message
    assert lost.name in message


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_truncated_file_is_named(tmp_path, kept):
    folder = tiny.checkpoint(tmp_path, "opt")
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    assert str(path) in refusal(lambda: discovery.opened(folder).linears(0))


@pytest.mark.parametrize("text", ["{", "[]", '{"metadata": {}}'])
def test_damaged_index_is_named(tmp_path, text):
    folder = tiny.checkpoint(tmp_path, "opt", shard_size="10KB")
    index = folder / "model.safetensors.index.json"
    index.write_text(text)
    assert str(index) in refusal(lambda: discovery.opened(folder).files)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_type": "vit"}', '{"model_type": "opt", "num_hidden_layers": "3"}'])
def test_config_that_is_none_of_ours_is_named(tmp_path, text):
    folder = tiny.checkpoint(tmp_path, "opt")
    (folder / "config.json").write_text(text)
    message = refusal(lambda: discovery.opened(folder))
    assert str(folder / "config.json") in message
    if "vit" in text:
        assert "model_type 'vit' is no causal language model of transformers" in message


@pytest.mark.parametrize("says", [1, 2, 4, 20])
@pytest.mark.parametrize("kind", ["opt", "bloom"])
def test_config_that_lies_about_depth_is_refused(tmp_path, kind, says):
    key = "n_layer" if kind == "bloom" else "num_hidden_layers"
    folder = change_config(tiny.checkpoint(tmp_path, kind), **{key: says})
    message = refusal(lambda: discovery.opened(folder))
    assert f"says {says} blocks" in message
    assert f"block {min(says, tiny.LAYERS)} " in message


@pytest.mark.parametrize(
    ("kind", "changes", "tensor"),
    [
        ("opt", {"ffn_dim": 44}, "fc1"),
        ("opt", {"hidden_size": 32}, "project_in"),
        ("opt", {"vocab_size": 60}, "embed_tokens"),
        ("opt", {"enable_bias": False}, ".bias"),
        ("opt-350m", {"word_embed_proj_dim": tiny.HIDDEN}, "embed_tokens"),
        ("bloom", {"hidden_size": 32}, "transformer."),
    ],
)
def test_config_that_lies_about_shapes_is_refused(tmp_path, kind, changes, tensor):
    folder = change_config(tiny.checkpoint(tmp_path, kind), **changes)
    message = refusal(lambda: losses_of(folder))
    assert str(folder) in message
    assert tensor in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["layers.1.fc2.weight", "layers.2.self_attn_layer_norm.bias", "embed_positions.weight"])
def test_nan_and_infinity_are_named(tmp_path, name, value):
    name = f"model.decoder.{name}"
    folder = tiny.edit(tiny.checkpoint(tmp_path, "opt"), lambda tensors: tensors[name].view(-1)[-3:-2].fill_(value))
    message = refusal(lambda: losses_of(folder))
    assert str(folder) in message
    assert name in message
    if "fc2" in name:
        assert name in refusal(lambda: discovery.opened(folder).linears(1))
        assert discovery.opened(folder).linears(0).keys() == discovery.opened(folder).linears(2).keys()


@pytest.mark.parametrize("name", ["model.decoder.layers.1.fc2.weight", "model.decoder.final_layer_norm.bias"])
def test_missing_tensor_is_named(tmp_path, name):
    folder = tiny.edit(tiny.checkpoint(tmp_path, "opt"), lambda tensors: tensors.pop(name))
    message = refusal(lambda: losses_of(folder))
    assert str(folder) in message
    assert name.removeprefix("model.decoder.layers.1.") in message
