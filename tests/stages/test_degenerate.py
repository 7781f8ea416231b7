"""Degenerate matrices through the stages: finite results, or one line that names what is wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import tiny
import torch
from recorded import identity
from tiny_stages import NAMES, WINDOWS, run

from lorcbench.common.artifacts import read_json, write_json, write_shard
from lorcbench.common.paths import Wildcards
from lorcbench.jobs.job import Job
from lorcbench.jobs.variants import VariantsFailed
from lorcbench.stages import evaluate
from lorcbench.stages import lorc as lorc_stage
from lorcbench.stages import quantize as stage
from lorcbench.study.stages import EVALUATE, LORC, TOKENS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

MATRICES = {
    "zeros": lambda weight: weight * 0,
    "one value": lambda weight: torch.full_like(weight, 0.5),
    "one negative value": lambda weight: torch.full_like(weight, -1e-4),
    "every second row zero": lambda weight: weight * (torch.arange(len(weight)) % 2)[:, None],
    "every second column zero": lambda weight: weight * (torch.arange(weight.shape[1]) % 2),
    "rank one": lambda weight: weight[:, :1] @ weight[:1],
    "one entry": lambda weight: torch.zeros_like(weight).index_put((torch.tensor(0), torch.tensor(0)), weight[0, 0]),
    "tiny": lambda weight: weight * 1e-7,
}
MEASURED = "variants=[r0,plain-fp16/r4,plain-int8/r4]"


def changed(folder: Path, change) -> Path:
    """Every linear of block 1 is changed."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if tensor.ndim == 2 and ".layers.1." in name:
                tensors[name] = change(tensor.float()).to(tensor.dtype)

    return tiny.edit(folder, edit)


def measured(method: str, weight: str) -> dict:
    """Quantize, correct and evaluate in this process; the variants that were measured."""
    names = run(stage.main, method, weight=weight)
    recipe = [f"method={method}", "calibration=stdlib", f"weight={weight}"]
    model = ["model=folder", "model.name=tiny", "model.path=unused"]
    for lorc in ("plain-fp16", "plain-int8"):
        lorc_stage.main(Job("lorc", [*model, *recipe, f"lorc={lorc}", "cap=32"]))
    tokens = TOKENS.folder(Wildcards(model="tiny", protocol="stdlib"))
    digest = write_shard(tokens / "tokens.safetensors", {"stdlib": WINDOWS[:4].int()}, "tokens")
    about = {"shards": [{"file": "tokens.safetensors", "sha256": digest}], "corpora": {}, "added": []}
    about["identity"] = identity(TOKENS, Wildcards(model="tiny", protocol="stdlib"))
    write_json(tokens / "result.json", "tokens", about)
    for measures in (["variants=[r0]"], [*recipe, MEASURED]):  # full precision first
        evaluate.main(Job("evaluate", [*model, "eval=stdlib", *measures]))
    return read_json(EVALUATE.folder(dataclasses.replace(names, protocol="stdlib")) / "result.json", EVALUATE.kind)["variants"]


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("method", ["rtn", pytest.param("gptq", marks=pytest.mark.long), "gptq-best"])
def test_degenerate_matrices_give_finite_numbers(tiny_checkpoint, matrix, method):
    changed(tiny_checkpoint("opt"), MATRICES[matrix])
    variants = measured(method, "w3-asym-g8")
    assert len(variants) == 3
    for variant in variants.values():
        for name in ("nll", "kl", "agree"):
            assert all(math.isfinite(value) for value in variant[name]["stdlib"])
    names = Wildcards(**NAMES | {"method": method, "weight": "w3-asym-g8", "cap": "32"})
    notes = read_json(LORC.folder(names) / "result.json", LORC.kind)["relative_error"]
    assert all(0 <= value <= 1.5 for block in notes for value in block.values())
    if matrix == "zeros":
        assert set(notes[1].values()) == {0.0}


@pytest.mark.parametrize("method", ["rtn", "gptq", "zq_local+iterations=4", "zq_global+iterations=4"])
def test_linears_of_one_row_and_of_one_column(tmp_path, monkeypatch, tiny_checkpoint, method):
    checkpoint = tiny_checkpoint("opt")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"ffn_dim": 1}))

    def narrow(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if "fc1" in name:
                tensors[name] = tensor[:1]  # (1, hidden), and its bias (1,)
            elif name.endswith("fc2.weight"):
                tensors[name] = tensor[:, :1]

    tiny.edit(checkpoint, narrow)
    for variant in measured(method, "w3-asym-row").values():
        assert all(math.isfinite(loss) for loss in variant["nll"]["stdlib"])


def test_a_loss_that_is_no_number_is_said_in_one_line(tiny_checkpoint):
    def blow_up(tensors: dict[str, torch.Tensor]) -> None:
        for name in ("final_layer_norm.weight", "embed_tokens.weight"):
            tensors[f"model.decoder.{name}"] = tensors[f"model.decoder.{name}"].float() * 1e20  # their product is too large

    tiny.edit(tiny_checkpoint("opt"), blow_up)
    with pytest.raises(VariantsFailed) as failure:
        measured("rtn", "w4-asym-row")
    assert re.search(r"corpus stdlib: the loss of \d windows is no number", str(failure.value))
    assert "\n" not in str(failure.value)
