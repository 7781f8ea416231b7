"""Checkpoints that were quantized elsewhere as weights of a cell: read whole, counted, and refused if not of the base."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tiny
import tiny_stages
import torch
import written
from safetensors import safe_open

from lorcbench.common.artifacts import ArtifactError
from lorcbench.common.paths import Wildcards
from lorcbench.config import compose, foreign
from lorcbench.config.checks import ConfigError
from lorcbench.jobs.job import Job
from lorcbench.models import discovery
from lorcbench.models.checkpoint import CheckpointError
from lorcbench.stages import quantize

GROUP = 8


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(compose.RUNTIME_VARIABLE, "")


def linears(folder: Path) -> list[str]:
    """The full names of the linears of all blocks."""
    found = discovery.found(folder)
    return [f"{found.blocks}.{index}.{name}" for index in range(found.layers) for name in found.linear_names]


def pair(kind: str = "opt", layout: str = "gptq", symmetric: bool = True, **more) -> tuple[Path, Path, dict]:
    """A prepared base model, a quantized copy of it, and what the copy's linears mean."""
    base = tiny_stages.prepare(Path.cwd(), kind)
    copy = Path("copy").resolve()
    bits = 8 if layout == "int-quantized" else 4
    group = None if layout == "int-quantized" else GROUP
    return base, copy, written.checkpoint(base, copy, linears(base), layout, bits, symmetric, group, **more)


def read(folder: Path, **changed: str) -> Wildcards:
    """Run quantize on a folder; returns the names of its paths."""
    layout = foreign.layout(folder)
    names = {"method": foreign.method(folder), "calibration": "none", "weight": str(layout.weight), "trained": "a16"} | changed
    arguments = [f"{key}={value}" for key, value in names.items()]
    given = f"foreign={compose.quoted(str(folder))}"
    quantize.main(Job("quantize", ["model=folder", "model.name=tiny", "model.path=unused", *arguments, given]))
    return Wildcards(model="tiny", **names)


LAYOUTS = ("pack-quantized", "int-quantized", "gptq", "gptq_v2", "awq")
# AWQ packs eight rows, and the tiny Llama has matrices of twelve.
PAIRS = [(kind, layout) for kind in ("opt", "bloom", "llama") for layout in LAYOUTS if (kind, layout) != ("llama", "awq")]


@pytest.mark.parametrize(("kind", "layout"), PAIRS)
def test_a_cell_has_what_the_files_mean(kind, layout):
    base, copy, meant = pair(kind, layout, symmetric=layout == "gptq")
    names = read(copy)
    weights = tiny_stages.cell_weights(names, discovery.opened(base))
    blocks = discovery.found(base).blocks
    for index in range(tiny.LAYERS):
        block = weights.block(index)
        for name in discovery.found(base).linear_names:
            assert torch.equal(block[name], meant[f"{blocks}.{index}.{name}"])
        original = discovery.opened(base).block(index)
        others = {name: tensor for name, tensor in original.items() if name.removesuffix(".weight") not in block}
        assert others and all(torch.equal(block[name], tensor) for name, tensor in others.items())


def test_bits_are_counted_from_the_files():
    base, copy, _ = pair()
    names = read(copy)
    stored = count = 0
    with safe_open(copy / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  no dictionary
            if name.endswith((".qweight", ".qzeros", ".scales", ".g_idx")):
                tensor = file.get_tensor(name)
                stored += 8 * tensor.numel() * tensor.element_size()
                count += 8 * tensor.numel() if name.endswith(".qweight") else 0  # eight codes of 4 bits in a word
    assert tiny_stages.result(names)["bits_per_weight"] == pytest.approx(stored / count)
    assert tiny_stages.cell_weights(names, discovery.opened(base)).size()["bits_per_weight"] == pytest.approx(stored / count)
    assert stored / count > 4 + 32 / GROUP / 2


def test_linears_that_the_files_have_as_they_are_count_with_all_their_bits():
    skipped = ("model.decoder.layers.1.fc1",)
    base, copy, meant = pair(skipped=skipped)
    names = read(copy)
    assert [note.get("unquantized", []) for note in tiny_stages.result(names)["notes"]] == [[], ["fc1"], []]
    assert torch.equal(tiny_stages.cell_weights(names, discovery.opened(base)).block(1)["fc1"], meant[skipped[0]])


def test_norms_that_were_changed_are_taken_with_the_weights():
    base, copy, _ = pair(layout="awq")
    name = "model.decoder.layers.1.self_attn_layer_norm.weight"
    tiny.edit(copy, lambda tensors: tensors.update({name: 2 * tensors[name]}))
    block = tiny_stages.cell_weights(read(copy), discovery.opened(base)).block(1)
    own = discovery.opened(base).block(1)["self_attn_layer_norm.weight"]
    assert torch.equal(block["self_attn_layer_norm.weight"], 2 * own)


def test_biases_of_zeros_that_the_model_has_not_are_passed_over_and_others_refused():
    _, copy, _ = pair("llama")
    name = "model.layers.0.mlp.down_proj.bias"
    tiny.edit(copy, lambda tensors: tensors.update({name: torch.zeros(tiny.HIDDEN)}))
    read(copy)
    tiny.edit(copy, lambda tensors: tensors.update({name: torch.ones(tiny.HIDDEN)}))
    with pytest.raises(CheckpointError, match=f"it has {name}, and the base model has not"):
        read(copy)


def _other_embedding(tensors: dict) -> None:
    tensors["model.decoder.embed_tokens.weight"][3] += 1


def _without_a_norm(tensors: dict) -> None:
    del tensors["model.decoder.layers.2.final_layer_norm.weight"]


def _narrower(tensors: dict) -> None:
    name = "model.decoder.layers.0.fc1.qweight"
    tensors[name] = tensors[name][:-1]


def _without_scales(tensors: dict) -> None:
    del tensors["model.decoder.layers.0.fc1.scales"]


def _infinite(tensors: dict) -> None:
    tensors["model.decoder.layers.0.fc1.scales"][0, 0] = torch.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_embedding, "was not made from .*embed_tokens.weight has other numbers; expected the model"),
        (_without_a_norm, "it has no model.decoder.layers.2.final_layer_norm.weight"),
        (_narrower, "fc1: scales .* do not fit|fc1 is .* that of the base model"),
        (_without_scales, "fc1: no scales, which gptq has"),
        (_infinite, "fc1 holds NaN or infinite values"),
    ],
)
def test_tensors_that_are_not_of_the_base_model_are_refused_in_one_line(change, message):
    _, copy, _ = pair()
    tiny.edit(copy, change)
    with pytest.raises(CheckpointError, match=message) as refused:
        read(copy)
    assert "\n" not in str(refused.value)


def test_another_model_is_refused():
    _, copy, _ = pair()
    tiny.checkpoint(copy / "other", "opt", seed=1, dtype=torch.float16)
    tiny_stages.prepare_folder(Path.cwd(), copy / "other")
    with pytest.raises(CheckpointError, match="was not made from"):
        read(copy)


def test_files_that_changed_since_are_refused_when_they_are_read():
    base, copy, _ = pair()
    names = read(copy)
    tiny.edit(copy, lambda tensors: tensors["model.decoder.layers.0.fc1.scales"].mul_(2))
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        tiny_stages.cell_weights(names, discovery.opened(base))


def test_the_folder_and_its_format_must_be_those_of_the_names():
    _, copy, _ = pair()
    with pytest.raises(ConfigError, match=r"its method is foreign\+of=copy-"):
        read(copy, method="foreign+of=other-123456")
    with pytest.raises(ConfigError, match=r"weight=w3-asym-row: .* has w4-sym-g8"):
        read(copy, weight="w3-asym-row")
    names = dataclasses.replace(read(copy), weight="w4-sym-g8")
    assert tiny_stages.result(names)["layout"] == "gptq"
