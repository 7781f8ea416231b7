"""Decoders of many families, none of which our code names: the walk is the model, every linear is covered, cells work.

The checkpoints are tiny, random and saved by transformers' own classes. Their windows are longer than the sliding window of
those that have one. `tests/models/test_every_decoder.py` asks the same of every class there is.
"""

from __future__ import annotations

import json
from pathlib import Path

import decoders
import pytest
import torch
from records import WRITTEN
from tiny_stages import cell_weights, prepare_folder, result, run
from torch import nn
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration

from lorcbench.config import folders
from lorcbench.models import discovery
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.checkpoint import CheckpointError
from lorcbench.models.surgery import install_weights
from lorcbench.stages import lorc, quantize

CLOSE = 1e-5  # of the largest logit
CASES = {
    **{
        name: (name, {})
        for name in ("opt", "bloom", "llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "gpt_neox", "gpt2")
    },
    **{name: (name, {}) for name in ("olmo2", "smollm3", "cohere", "cohere2", "stablelm", "phi", "gptj", "glm4", "granite")},
    "opt, norms behind, embeddings projected": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "gemma3": ("gemma3_text", {}),
    "falcon, one key": ("falcon", {}),
    "falcon, a key per head": ("falcon", {"multi_query": False, "alibi": True, "parallel_attn": False}),
    "falcon, new": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "heads wider than the hidden states": ("qwen3", {"head_dim": 16}),
    "a head of its own": ("mistral", {"tie_word_embeddings": False}),
    "parallel with biases": ("gpt_neox", {"use_parallel_residual": False}),
}


def saved(folder: Path, case: str) -> Path:
    model_type, changes = CASES[case]
    decoders.network(decoders.shrunk(model_type, **changes)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_the_walk_is_the_model_and_covers_every_linear_once(tmp_path, case):
    off, record = decoders.difference(saved(tmp_path, case))
    assert off <= CLOSE
    assert len(record.linear_names) == len(set(record.linear_names)) >= 4


def test_sliding_windows_are_shorter_than_the_windows_of_these_tests():
    """Else no test would see that a layer gets the mask of another."""
    for model_type in ("mistral", "gemma2", "gemma3_text", "cohere2"):
        config = decoders.shrunk(model_type)
        assert config.sliding_window < decoders.LENGTH
        kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
        assert "sliding_attention" in kinds and (model_type == "mistral" or "full_attention" in kinds)


def test_blocks_that_get_the_same_mask_share_it(tmp_path):
    walk = BlockWalk(discovery.opened(saved(tmp_path, "gemma3")), torch.float32)
    walk.embed(decoders.windows())
    (arguments,) = walk._arguments.values()
    masks = [one.named["attention_mask"] for one in arguments.values()]
    kinds = [block.self_attn.layer_type for block in arguments]
    assert len(masks) == 4 and len({id(mask) for mask in masks}) == len(set(kinds)) == 2
    bases = {id(one.named["position_embeddings"]) for one in arguments.values()}
    assert len(bases) == 2


def test_attention_and_feed_forward_share_an_input_where_the_model_says_so(tmp_path):
    shared = {}
    for case in ("cohere", "phi", "gptj", "falcon, one key", "llama"):
        shared[case] = discovery.opened(saved(tmp_path / case, case)).architecture.linears[0]
    assert shared["cohere"] == [*(f"self_attn.{name}_proj" for name in "qkv"), "mlp.gate_proj", "mlp.up_proj"]
    assert shared["phi"] == [*(f"self_attn.{name}_proj" for name in "qkv"), "mlp.fc1"]
    assert set(shared["gptj"]) == {*(f"attn.{name}_proj" for name in "qkv"), "mlp.fc_in"}
    assert shared["falcon, one key"] == ["self_attention.query_key_value", "mlp.dense_h_to_4h"]
    assert shared["llama"] == WRITTEN["llama"].linears[0]


# Fused matrices

FUSED = ["bloom", "gpt_neox", "gpt2", "phi3", "falcon, one key", "falcon, a key per head", "falcon, new", "glm4"]
CASES |= {"mpt": ("mpt", {}), "codegen": ("codegen", {"n_head": 4}), "gpt_bigcode": ("gpt_bigcode", {})}
CASES |= {"gpt_bigcode, a key per head": ("gpt_bigcode", {"multi_query": False}), "persimmon": ("persimmon", {})}
# Its queries and keys are normalized, so that their scale would show nothing.
CASES |= {"persimmon, queries and keys as they are": ("persimmon", {"qk_layernorm": False})}
CASES |= {"glm": ("glm", {}), "openai-gpt": ("openai-gpt", {}), "gpt_neox_japanese": ("gpt_neox_japanese", {})}
FUSED += ["mpt", "codegen", "gpt_bigcode", "gpt_bigcode, a key per head", "glm", "openai-gpt", "gpt_neox_japanese"]
FUSED += ["persimmon, queries and keys as they are"]


def inputs_of(walk: BlockWalk, block: nn.Module, hidden: torch.Tensor, linear: str) -> torch.Tensor:
    seen = []
    hook = block.get_submodule(linear).register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    walk.forward(block, hidden)
    hook.remove()
    return seen[0]


def scale(linear: nn.Linear, rows: torch.Tensor, factor: float) -> None:
    linear.weight.data[rows] *= factor
    if linear.bias is not None:
        linear.bias.data[rows] *= factor


@pytest.mark.parametrize("case", FUSED)
def test_the_parts_of_a_fused_matrix_are_what_the_model_reads_as_such(tmp_path, case):
    """Keys twice as large and queries half as large change nothing; twice the values are twice the input of what follows."""
    walk = BlockWalk(discovery.opened(saved(tmp_path, case)), torch.float32)
    hidden, record = walk.embed(decoders.windows()), walk.architecture
    assert record.fused
    with walk.block(0) as block:
        for name in record.fused:
            linear = block.get_submodule(name)
            rows = record.part_rows(name, linear.out_features)
            assert torch.equal(torch.cat(list(rows.values())).sort().values, torch.arange(linear.out_features))
            following = (
                record.linear_names[-1]
                if "up" in rows
                else next(
                    other
                    for other in record.linear_names
                    if other.rpartition(".")[0] == name.rpartition(".")[0] and other != name
                )
            )
            before = inputs_of(walk, block, hidden, following)
            if "q" in rows:
                scale(linear, rows["k"], 2.0)
                assert not torch.allclose(inputs_of(walk, block, hidden, following), before, atol=1e-3)
                scale(linear, rows["q"], 0.5)
                assert torch.allclose(inputs_of(walk, block, hidden, following), before, atol=1e-5)
            scale(linear, rows["v"] if "v" in rows else rows["up"], 2.0)
            assert torch.allclose(inputs_of(walk, block, hidden, following), 2 * before, atol=1e-5)


# Cells, through the stages


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["gpt2", "phi3", "gemma3", "cohere2", "falcon, new", "opt, norms behind, embeddings projected"]
)
def test_gptq_and_lorc_of_a_cell(tmp_path, monkeypatch, case):
    """What the walk makes with a cell's weights is what transformers' model makes with them."""
    monkeypatch.chdir(tmp_path)
    folder = prepare_folder(tmp_path, saved(tmp_path / "model", case))
    names = run(quantize.main, "gptq", weight="w3-asym-row")
    run(lorc.main, "gptq", weight="w3-asym-row", cap="32")
    checkpoint, tokens = discovery.opened(folder), decoders.windows()
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    linears = decoders.linears_of(whole, checkpoint.architecture)
    assert result(names)["weights"] == sum(linear.weight.numel() for linear in linears.values())
    weights = cell_weights(names, checkpoint, "plain-fp16", 4)
    errors = {0: 0.0, 4: 0.0}
    for index in range(checkpoint.depth):
        original, rounded, corrected = checkpoint.linears(index), weights.quantized.block(index), weights.block(index)
        for name, weight in original.items():
            errors[0] += float((weight - rounded[name]).norm() ** 2)
            errors[4] += float((weight - corrected[name]).norm() ** 2)
            linear = linears[f"{index}.{name}"]
            value = corrected[name].T if name in checkpoint.architecture.transposed else corrected[name]
            assert linear.weight.shape == value.shape
            linear.weight.data = value.contiguous()
    assert errors[4] < 0.8 * errors[0]
    with torch.no_grad():
        expected = whole(input_ids=tokens, use_cache=False).logits
    walk = BlockWalk(checkpoint, torch.float32)
    actual = decoders.walked(walk, tokens, lambda index, block: install_weights(block, weights.block(index)))
    assert (actual - expected).abs().max() <= CLOSE * expected.abs().max()


# Text models among others, and what is refused


def multimodal(folder: Path) -> Gemma3ForConditionalGeneration:
    """A Gemma 3 with eyes."""
    images = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 28}
    text = decoders.shrunk("gemma3_text").to_dict()
    config = Gemma3Config(text_config=text, vision_config={**images, "patch_size": 14}, mm_tokens_per_image=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Gemma3ForConditionalGeneration(config).eval()
    made.save_pretrained(folder)
    return made


@torch.no_grad()
def test_of_several_models_in_one_the_text_model_is_taken(tmp_path):
    made, tokens = multimodal(tmp_path), decoders.windows()
    checkpoint = discovery.opened(tmp_path)
    assert checkpoint.architecture.model_class == "Gemma3ForCausalLM"
    expected = made(input_ids=tokens, use_cache=False).logits
    actual = decoders.walked(BlockWalk(checkpoint, torch.float32), tokens)
    assert (actual - expected).abs().max() <= CLOSE * expected.abs().max()


@pytest.mark.parametrize("model_type", ["falcon_h1", "nemotron_h"])
def test_a_config_with_numbers_as_transformers_spells_infinity_is_refused_in_one_line(tmp_path, model_type):
    decoders.shrunk(model_type, architectures=["any"]).save_pretrained(tmp_path)
    assert '"__float__": "Infinity"' in (tmp_path / "config.json").read_text()
    with pytest.raises(CheckpointError, match=r"config\.json: .*time_step_limit") as refusal:
        discovery.opened(tmp_path)
    assert "\n" not in str(refusal.value)


def test_infinity_and_nan_in_a_config_are_read_as_python_reads_them(tmp_path):
    """That is how `json.dump` spells them; what no class reads does not matter."""
    path = saved(tmp_path, "llama") / "config.json"
    odd = {"time_step_limit": [0.0, float("inf")], "reason": float("nan"), "lowest": -float("inf")}
    path.write_text(json.dumps(json.loads(path.read_text()) | odd))
    assert all(word in path.read_text() for word in (" Infinity", " NaN", " -Infinity"))
    assert decoders.difference(tmp_path)[0] <= CLOSE
    assert folders.hidden(str(tmp_path)) == 32 and folders.positions(str(tmp_path)) == 64


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "num_hidden_layers", "max_position_embeddings"])
def test_a_size_that_is_no_number_is_refused_in_one_line(tmp_path, key, value):
    path = saved(tmp_path, "llama") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert folders.hidden(str(tmp_path)) in (32, None) and folders.positions(str(tmp_path)) in (64, None)
    with pytest.raises(CheckpointError, match=r"config\.json: ") as refusal:
        discovery.opened(tmp_path)
    assert "\n" not in str(refusal.value)


SHARED, PER_LAYER = "num_kv_shared_layers", "hidden_size_per_layer_input"
REFUSED = {
    "mixtral": ({}, r"model\.layers\.0\.mlp\.experts\.gate_up_proj is \(4, 96, 32\) in a MixtralExperts, no linear"),
    "lfm2": ({}, r"model\.layers\.\d\.conv\.conv\.weight is .* in a Conv1d, no linear"),
    "mamba": ({}, r"backbone\.layers\.0\.mixer\.A_log is .* in a MambaMixer, no linear"),
    "bert": ({}, r"bert\.encoder\.layer\.0 looks at later tokens: this is no decoder"),
    "gemma3n_text": ({}, r"model\.layers\.0 and model\.layers\.2 have different linears, such as self_attn\.k_proj"),
    "gemma4_text": ({SHARED: 0, PER_LAYER: 0}, r"model\.layers\.0 is passed shared_kv_states, a \w+, through which blocks may"),
    "gemma4_text ": ({SHARED: 0}, r"model\.layers\.0 is passed argument 2, which depends on the tokens"),
    "trocr": ({}, r"encoder_attn\.k_proj runs 0 times in a pass"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_walked_or_quantized_is_refused_with_the_module(tmp_path, case):
    changes, line = REFUSED[case]
    decoders.network(decoders.shrunk(case.strip(), **changes)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=line) as refusal:
        discovery.opened(tmp_path)
    assert "\n" not in str(refusal.value) and str(tmp_path) in str(refusal.value)
