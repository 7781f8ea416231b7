"""An export is there only if a library loaded it, in a process of its own, and agreed; its card says what was compared."""

from __future__ import annotations

import json
import math
import os
import re

import pytest
import tiny_exports
import torch

from lorcbench.core import packing
from lorcbench.jobs.export import check
from lorcbench.models import reload
from lorcbench.report import card
from lorcbench.stages import export as stage

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("elsewhere")]


@pytest.fixture
def corrected(tmp_path, monkeypatch):
    """The names of a cell with factors, of a tiny OPT that was measured; exports are loaded in this process."""
    tiny_exports.in_this_process(monkeypatch)
    tiny_exports.prepare(tmp_path, "opt", layers=1)
    return tiny_exports.cell("w4-asym-g32", 4, measure=True)


def failing(names, export: str = "compressed-tensors") -> str:
    """The line with which an export fails, which publishes nothing."""
    with pytest.raises(check.ExportError) as failure:
        tiny_exports.run(names, export)
    assert not (tiny_exports.place(names, export) / stage.PUBLISHED).exists()
    assert not (tiny_exports.place(names, export) / "result.json").exists()
    assert "\n" not in str(failure.value)
    return str(failure.value)


def test_a_zero_point_that_is_off_by_one_is_not_published(corrected, monkeypatch):
    def off(matrix, dtype):
        tensors = packing.pack_quantized(matrix, dtype)
        return tensors | {"weight_zero_point": tensors["weight_zero_point"] ^ 1}

    monkeypatch.setattr(stage.ExportedCell, "_packed", lambda self, matrix: off(matrix, self.dtype))
    said = failing(corrected)
    assert re.search(r"layers\.0\.self_attn\.\w_proj\.weight: what the library loads is not our tensor", said)


def test_a_perplexity_that_differs_is_not_published(corrected, monkeypatch):
    measured = reload.losses

    def off(model, windows):
        return {corpus: [loss * 1.001 for loss in losses] for corpus, losses in measured(model, windows).items()}

    monkeypatch.setattr(reload, "losses", off)
    assert re.match(r"corpus one: the library's perplexity is [\d.]+, ours of the same tensors [\d.]+$", failing(corrected))


def test_a_tensor_that_is_not_loaded_is_not_published(corrected, monkeypatch):
    monkeypatch.setattr(reload, "adapter_parameters", lambda model: {})
    assert "the library loads no such tensor" in failing(corrected)


def test_a_folder_that_a_process_cannot_load_is_one_line(tmp_path, monkeypatch):
    tiny_exports.prepare(tmp_path, "opt", layers=1)
    names = tiny_exports.cell("w4-asym-g32")
    monkeypatch.setattr(stage.ExportedCell, "_packed", lambda self, matrix: {"weight_packed": torch.zeros(2, 2)})
    assert failing(names).startswith("the library does not load it: ")


def test_the_card_says_what_was_measured_and_compared_and_its_snippets_run(corrected):
    """The folder is loaded once by a process of its own, as a user's run does it."""
    folder = tiny_exports.run(corrected, "compressed-tensors")
    result = tiny_exports.result(corrected, "compressed-tensors")
    text = (folder / "README.md").read_text(encoding="utf-8")
    front, _, body = text.removeprefix("---\n").partition("\n---\n")
    assert {"library_name: transformers", "- compressed-tensors", "- 4-bit", "- lora"} <= set(front.splitlines())
    assert f"`{tiny_exports.as_cell(corrected).key}`" in body
    assert f"{result['compared']} tensors are equal to ours to the bit" in body
    for corpus in ("one", "two"):
        assert f"| {corpus} | {result['theirs'][corpus]:.6g} | {result['ours'][corpus]:.6g} |" in body
    assert f"transformers {result['versions']['transformers']}" in body
    assert "Its licence is not known to us." in body
    assert (folder / card.PICTURE).stat().st_size > 5000
    snippets = re.findall(r"```python\n(.*?)\n```", body, re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        lines = [line for line in snippet.splitlines() if not line.startswith("tokenizer = ")]  # a tiny model has none
        assert len(snippet.splitlines()) == 3
        scope: dict = {}
        exec("\n".join(lines).replace("FOLDER", str(folder)), scope)
        nll = reload.losses(scope["model"].eval(), {"one": torch.arange(20)[None]})
        assert math.isfinite(nll["one"][0])


def test_a_process_of_its_own_loads_it(tmp_path):
    tiny_exports.prepare(tmp_path, "llama", layers=1)
    names = tiny_exports.cell("w4-asym-g32", 4)
    tiny_exports.run(names, "compressed-tensors")
    result = tiny_exports.result(names, "compressed-tensors")
    assert {"torch", "transformers", "compressed_tensors", "peft"} <= set(result["versions"])
    assert len(result["generated"]) == reload.GENERATED


def test_the_same_export_has_the_same_bytes(corrected):
    def content(folder) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    first = content(tiny_exports.run(corrected, "compressed-tensors"))
    before = (tiny_exports.place(corrected, "compressed-tensors") / "result.json").read_bytes()
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "config.json", "README.md"} < set(first)
    assert content(tiny_exports.run(corrected, "compressed-tensors")) == first
    assert (tiny_exports.place(corrected, "compressed-tensors") / "result.json").read_bytes() == before


def test_others_may_read_what_was_exported(corrected):
    folder = tiny_exports.run(corrected, "adapter")
    modes = {path.name: path.stat().st_mode & 0o444 for path in folder.rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o444}, modes


def test_an_adapter_multiplies_its_factors_with_one_and_has_the_rank_of_each_module(tmp_path, monkeypatch):
    """BLOOM's fused matrix was corrected in three parts, each with the rank of the cell."""
    tiny_exports.in_this_process(monkeypatch)
    tiny_exports.prepare(tmp_path, "bloom", layers=1)
    folder = tiny_exports.run(tiny_exports.cell("w4-asym-g32", 4), "adapter")
    config = json.loads((folder / "adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 4)
    assert config["rank_pattern"] == config["alpha_pattern"] == {"transformer.h.0.self_attention.query_key_value": 12}


def test_the_licence_of_the_base_is_its_own_cards_or_its_repositorys(tmp_path):
    assert card.licence(None, tmp_path) is None
    assert card.licence("bigscience/bloom-560m", tmp_path) == "bigscience-bloom-rail-1.0"
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    assert card.licence("bigscience/bloom-560m", tmp_path) == "mit"
    assert os.listdir(tmp_path) == ["README.md"]
