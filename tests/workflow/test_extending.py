"""What the pages about extending say: each diff is applied to a copy of the tree, which then runs with it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import tiny
import torch
from runs import digests, stage
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, Starcoder2Config, Starcoder2ForCausalLM
from trees import apply, run

from lorcbench.config import folders
from lorcbench.core.formats import WeightFormat
from lorcbench.core.moments import from_triangle
from lorcbench.core.quantizer import dequantize, quantize, to_stored
from lorcbench.models import discovery

FMT = "w3-asym-row"

STUDY = """defaults: [/schema/study@_here_: study, _self_]
title: A method of our own
eval: stdlib
models: [opt-standin-xs]
methods: [clipped+clip=0.8, searched+smallest=0.8]
calibrations: [stdlib]
weights: [w3-asym-row]
"""


def rounded(weight: torch.Tensor, *shares: float, squares: torch.Tensor | float = 1.0) -> torch.Tensor:
    """The codes of a matrix, row by row: of the share of the row's largest weight that has the least weighted error."""
    chosen = []
    for row in weight.float():
        bounds = [share * row.abs().max() for share in shares]
        tried = [quantize(row.clamp(-bound, bound)[None], WeightFormat.parse(FMT)) for bound in bounds]
        errors = [float(((dequantize(made)[0] - row).double().square() * squares).sum()) for made in tried]
        chosen.append(tried[errors.index(min(errors))])
    return torch.stack([to_stored(made)["codes"][0] for made in chosen])


def test_a_method_is_a_dataclass_a_function_and_a_conf_file(tree, copy):
    apply(tree, "add-method.md")
    (tree / "conf/study/ours.yaml").write_text(f"# A study.\n{STUDY}", encoding="utf-8")
    before = digests(copy)
    run(tree, copy, "--config", "study=ours")
    with open(copy / "results/ours/cells.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["method"], row["weight"], row["status"]) for row in rows} == {
        ("none", "w16", "ok"),
        ("clipped+clip=0.8", FMT, "ok"),
        ("searched+smallest=0.8", FMT, "ok"),
    }
    after = digests(copy)
    added = {name.rpartition("/")[0] for name in after.keys() - before.keys()}
    assert added == {
        f"quantize/opt-standin-xs/clipped+clip=0.8/none/{FMT}/a16",
        f"evaluate/opt-standin-xs/clipped+clip=0.8/none/{FMT}/a16/a16/stdlib",
        "calibration/opt-standin-xs/stdlib/statistics",
        f"quantize/opt-standin-xs/searched+smallest=0.8/stdlib/{FMT}/a16",
        f"evaluate/opt-standin-xs/searched+smallest=0.8/stdlib/{FMT}/a16/a16/stdlib",
    }
    assert all(after[name] == digest for name, digest in before.items() if "checkpoint" in name)
    cache, block = copy / "results/cache", "block001.safetensors"
    checkpoint = discovery.opened(cache / "checkpoint/opt-standin-xs")
    moments = load_file(cache / "calibration/opt-standin-xs/stdlib/statistics" / block)
    clipped = load_file(cache / f"quantize/opt-standin-xs/clipped+clip=0.8/none/{FMT}/a16" / block)
    searched = load_file(cache / f"quantize/opt-standin-xs/searched+smallest=0.8/stdlib/{FMT}/a16" / block)
    for name, weight in checkpoint.linears(1).items():
        squares = from_triangle(moments[checkpoint.architecture.input_of(name)]).diagonal().double()
        assert torch.equal(clipped[f"{name}.codes"], rounded(weight, 0.8))
        assert torch.equal(searched[f"{name}.codes"], rounded(weight, 1, 0.95, 0.9, 0.85, 0.8, squares=squares))


def starcoder(folder: Path, tokenizer: Path) -> Starcoder2ForCausalLM:
    """Save an untrained model of a family that no file names, with the stand-ins' tokenizer."""
    shape = {"num_hidden_layers": 2, "num_attention_heads": tiny.HEADS, "num_key_value_heads": 2, "intermediate_size": 40}
    tokens = {"vocab_size": 1024, "bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": 128}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Starcoder2ForCausalLM(Starcoder2Config(**tokens, **shape, hidden_size=tiny.HIDDEN, initializer_range=0.3)).eval()
    made.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), eos_token="</s>").save_pretrained(folder)
    return made


def test_a_family_needs_no_code(tree, copy):
    made = starcoder(copy / "starcoder", copy / "results/cache/text/stdlib/tokenizer.json")
    cells = [("none/none/w16/a16", "none"), (f"rtn/none/{FMT}/a16", "rtn")]
    name = folders.model_name(copy / "starcoder")
    files = [f"results/cache/evaluate/{name}/{path}/a16/stdlib/result.json" for path, _ in cells]
    overrides = f"study.methods=[rtn] study.weights=[{FMT}] study.ranks=[0]"
    run(tree, copy, *files, "--config", "study=smoke", "model_path=starcoder", f"overrides={overrides}")
    full, rtn = (json.loads((copy / file).read_text())["variants"]["r0"] for file in files)
    windows = load_file(copy / f"results/cache/tokens/{name}/stdlib/tokens.safetensors")
    with torch.no_grad():
        for corpus, tokens in windows.items():
            losses = [float(made(input_ids=row[None], labels=row[None]).loss) for row in tokens.long()[:8]]
            assert full["nll"][corpus][:8] == pytest.approx(losses, rel=1e-3)
            assert rtn["nll"][corpus] != full["nll"][corpus]
    quantized = json.loads((copy / f"results/cache/quantize/{name}/rtn/none/{FMT}/a16/result.json").read_text())
    linears = [name for name, module in made.model.layers[0].named_modules() if isinstance(module, torch.nn.Linear)]
    assert sorted(quantized["widths"]) == sorted(linears)
    assert quantized["weights"] == sum(
        module.weight.numel() for module in made.model.layers.modules() if isinstance(module, torch.nn.Linear)
    )


@pytest.mark.long
def test_a_standin_of_a_family_a_correction_a_text_and_a_study_are_files_and_lines(tree, copy):
    apply(tree, "add-family.md", "add-correction.md", "add-text.md", "add-study.md")
    line = "Line {} of a guide to nothing, which says a little more than the one before it.\n"
    (copy / "guide.txt").write_text("".join(map(line.format, range(200))), encoding="utf-8")
    folder = "results/cache/evaluate/gpt_neox-standin-xs"
    paths = ("none/none/w16/a16/a16", "rtn/none/w2-asym-row/a16/a16", "rtn/guide/w2-asym-row/a16/a16")
    files = [f"{folder}/{path}/guide/result.json" for path in paths]
    run(tree, copy, *files, "--config", "study=roots")
    full, plain, weighted = (json.loads((copy / file).read_text())["variants"] for file in files)
    assert full.keys() == {"r0"} and plain.keys() == {"r0", "plain-int8/r4"} and weighted.keys() == {"diag-root-int8/r4"}
    losses = [variants[name]["nll"]["guide"] for variants in (full, plain, weighted) for name in variants]
    assert len({tuple(values) for values in losses}) == 4, "rounding, and each correction of it, gives other losses"
    architecture = json.loads((copy / "results/cache/checkpoint/gpt_neox-standin-xs/result.json").read_text())["architecture"]
    assert architecture["model_type"] == "gpt_neox" and architecture["fused"], "its fused matrix is known"


def test_a_stage_is_a_file_a_record_and_a_rule(tree, copy):
    apply(tree, "add-stage.md")
    assert "Nothing to be done" in run(tree, copy, "--dry-run", "--config", "study=smoke"), "it makes no other result stale"
    target = "results/cache/count/opt-standin-xs/result.json"
    run(tree, copy, target, "--config", "study=smoke")
    result, checkpoint = (json.loads((copy / file).read_text()) for file in (target, target.replace("count", "checkpoint")))
    model = discovery.opened(copy / "results/cache/checkpoint/opt-standin-xs")
    assert result["kind"] == "count" and result["of"] == "count/opt-standin-xs"
    assert result["weights"] == sum(linear.numel() for index in range(model.depth) for linear in model.linears(index).values())
    assert result["identity"]["inputs"] == {"checkpoint": checkpoint["digest"]}
    assert "Nothing to be done" in run(tree, copy, target, "--config", "study=smoke")
    usage = stage(copy, "--help", PYTHONPATH=str(tree / "src")).stdout
    assert "  count      How many weights the linears of a checkpoint's blocks have.\n" in usage
