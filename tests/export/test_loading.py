"""What a public library loads from an export is the cell: formats × symmetry × groups × bits × factors × families.

`make test` has a sample, `make test-all` the product. GPTQ's library lies in an environment of its own (`make install-gptq`).
"""

from __future__ import annotations

import json

import decoders
import pytest
import tiny_exports
import torch

from lorcbench.core.formats import WeightFormat
from lorcbench.study import exports

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("elsewhere")]

FAMILIES = ("opt", "bloom", "llama")
GROUPS = (None, 32, 64, 128)
WEIGHTS = [str(WeightFormat(bits, symmetric, group)) for symmetric in (True, False) for group in GROUPS for bits in range(2, 9)]
DECODERS = ("falcon", "gemma2", "gpt_neox", "mistral", "mpt", "opt", "phi", "phi3", "qwen2", "qwen3", "stablelm", "starcoder2")


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    tiny_exports.in_this_process(monkeypatch)


def agree(names, export: str, verify: str = "whole") -> dict:
    """What an export says that was loaded and compared; more than half of its tensors are those of linears and their like."""
    folder = tiny_exports.run(names, export, verify)
    result = tiny_exports.result(names, export, verify)
    assert (folder / "README.md").is_file()
    assert result["compared"] > 10
    if verify == "whole":
        assert set(result["ours"]) == {"one", "two"}
        assert len(result["generated"]) == 20
    return result


@pytest.mark.parametrize(
    ("kind", "weight", "rank", "lorc", "export"),
    [
        ("opt", "w4-asym-g32", 0, "plain-int8", "merged"),
        ("opt", "w3-asym-row", 4, "plain-int8", "compressed-tensors"),
        ("bloom", "w4-sym-g128", 4, "plain-fp16", "compressed-tensors"),
        ("bloom", "w2-asym-g64", 4, "plain-int8", "adapter"),
        ("llama", "w8-sym-row-restricted", 0, "plain-int8", "compressed-tensors"),
        ("llama", "w5-asym-g32-pow2", 4, "plain-int8", "merged"),
        ("llama", "w4-asym-g32-fp32scale", 0, "plain-int8", "compressed-tensors"),
    ],
)
def test_a_sample_of_the_product_loads_and_agrees(tmp_path, kind, weight, rank, lorc, export):
    tiny_exports.prepare(tmp_path, kind)
    agree(tiny_exports.cell(weight, rank, lorc), export)


@pytest.mark.long
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_product_loads_and_agrees(tmp_path, kind, weight):
    """Every format that holds a cell, without factors and with them; GPTQ's where its library is installed."""
    tiny_exports.prepare(tmp_path, kind, layers=1)
    loaded = []
    for rank in (0, 4):
        names = tiny_exports.cell(weight, rank)
        held = exports.holding(tiny_exports.as_cell(names))
        assert {"merged", "compressed-tensors"} <= set(held)
        for export in held:
            if export != "gptq" or exports.gptq_python():
                loaded.append(agree(names, export))
    assert len(loaded) >= 5
    assert all(abs(one["theirs"]["one"] / one["ours"]["one"] - 1) <= 1e-3 for one in loaded)


@pytest.mark.parametrize(
    ("kind", "export", "formats"),
    [("opt", "compressed-tensors", "w2-w4-sym-g32.w8-sym-row"), ("bloom", "merged", "w2-w3-w4-asym-g64")],
)
def test_formats_of_their_own_load_and_agree(tmp_path, kind, export, formats):
    tiny_exports.prepare(tmp_path, kind)
    names = tiny_exports.cell("mixed", method=f"mixed+base=rtn+bits=4.5+by=depth+formats={formats}")
    agree(names, export)
    config = json.loads((tiny_exports.run(names, export) / "config.json").read_text())
    if export == "compressed-tensors":
        groups = config["quantization_config"]["config_groups"]
        used = {(one["weights"]["num_bits"], one["weights"]["strategy"]) for one in groups.values()}
        assert len(groups) == len(used) > 1
        assert sum(len(one["targets"]) for one in groups.values()) == 2 * 6


@pytest.mark.parametrize(("kind", "weight", "activation"), [("bloom", "w8-sym-row", "a8-asym-token")])
def test_a_sample_of_rounded_activations_loads_and_agrees(tmp_path, kind, weight, activation):
    tiny_exports.prepare(tmp_path, kind)
    assert agree(tiny_exports.cell(weight, activation=activation), "compressed-tensors")["dtype"] == "float32"


@pytest.mark.long
@pytest.mark.parametrize("activation", ["a8-asym-token", "a8-sym-token"])
@pytest.mark.parametrize("weight", ["w8-sym-row", "w8-asym-row", "w8-sym-g32", "w4-sym-g32", "w4-asym-row", "w4-asym-g64"])
@pytest.mark.parametrize("kind", ["bloom", "llama"])
def test_rounded_activations_load_and_agree(tmp_path, kind, weight, activation):
    tiny_exports.prepare(tmp_path, kind, layers=1)
    agree(tiny_exports.cell(weight, activation=activation), "compressed-tensors")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_checkpoint_of_another_type_in_several_files_of_the_base_model(tmp_path, dtype):
    tiny_exports.prepare(tmp_path, "bloom", dtype, base=True, shard_size="20KB")
    names = tiny_exports.cell("w4-asym-g32", 4)
    expected = {"merged": dtype, "compressed-tensors": torch.float16 if dtype is torch.bfloat16 else dtype}
    for export, loaded in expected.items():
        assert agree(names, export)["dtype"] == str(loaded).removeprefix("torch.")


@pytest.mark.parametrize("export", ["merged", "adapter", "compressed-tensors"])
def test_tensors_alone_are_compared_module_by_module(tmp_path, export):
    tiny_exports.prepare(tmp_path, "opt")
    names = tiny_exports.cell("w3-asym-g32", 4)
    result = agree(names, export, "tensors")
    assert result["ours"] == {} and result["generated"] == []
    assert result["compared"] == 36 + (0 if export == "merged" else 24)


def test_what_distillation_trained_is_exported_too(tmp_path):
    from safetensors.torch import load_file

    checkpoint = tiny_exports.prepare(tmp_path, "opt", layers=1)
    names = tiny_exports.cell("w2-asym-g32", 4, "plain-int8", "zq_global+held_out=0.25+iterations=8+lr=0.0005")
    name = "model.decoder.layers.0.self_attn_layer_norm.weight"
    folder = tiny_exports.run(names, "compressed-tensors")
    exported, before = load_file(folder / "model.safetensors")[name], load_file(checkpoint / "model.safetensors")[name]
    assert exported.shape == before.shape
    assert not torch.equal(exported, before)


@pytest.mark.long
@pytest.mark.parametrize("model_type", DECODERS)
def test_every_family_of_the_short_list_loads_and_agrees(tmp_path, model_type):
    made = decoders.network(decoders.shrunk(model_type)).half()
    made.save_pretrained(tmp_path / model_type)
    tiny_exports.prepare_checkpoint(tmp_path, tmp_path / model_type)
    names = tiny_exports.cell("w4-asym-g8", 2)
    agree(names, "compressed-tensors")
    agree(names, "merged")


def test_a_family_of_conv1d_is_merged_or_adapted_and_packed_by_nobody(tmp_path):
    made = decoders.network(decoders.shrunk("gpt2")).half()
    made.save_pretrained(tmp_path / "gpt2")
    tiny_exports.prepare_checkpoint(tmp_path, tmp_path / "gpt2")
    names = tiny_exports.cell("w4-asym-g8", 2)
    for export in ("merged", "adapter"):
        agree(names, export)
    with pytest.raises(Exception, match="is a Conv1D, which compressed-tensors does not pack; expected one of merged, adapter"):
        tiny_exports.run(names, "compressed-tensors")


@pytest.mark.long
@pytest.mark.parametrize("weight", ["w4-sym-g32", "w4-asym-g32", "w8-sym-row", "w3-asym-g128"])
def test_gptq_loads_by_its_own_library(tmp_path, weight):
    tiny_exports.needs_gptqmodel()
    tiny_exports.prepare(tmp_path, "opt", layers=1)
    for rank in (0, 4):
        names = tiny_exports.cell(weight, rank)
        for verify in ("whole", "tensors"):
            agree(names, "gptq", verify)
