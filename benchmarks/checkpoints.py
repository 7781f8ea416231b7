"""Checkpoints of OPT's shapes with random weights, the text and the configuration that go with them, and prepared models.

Weights are normal with standard deviation 0.02 (OPT's own initialization); with `heavy_tails`, Student's t with five degrees
of freedom at the same scale, whose outliers are nearer to a trained model's. Text is random words of the model's vocabulary,
so a window is random token ids; times do not depend on them. Perplexities that mean something come from trained stand-ins.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from statistics import fmean

import torch
from common import environment, measure
from safetensors.torch import save_file

from lorcbench.common.artifacts import ArtifactError, read_json
from lorcbench.study.stages import CALIBRATION_TOKENS, EVALUATE

SHAPES = {  # layers, hidden, ffn, heads of the published models
    "opt-125m": (12, 768, 3072, 12),
    "opt-350m": (24, 1024, 4096, 16),
    "opt-1.3b": (24, 2048, 8192, 32),
    "opt-6.7b": (32, 4096, 16384, 32),
}
_CELL = {"method": "none", "calibration": "none", "weight": "w16", "trained": "a16", "activation": "a16"}
VOCABULARY = 2048  # cut: embedding and head are nobody's quantization time


def matrix(generator: torch.Generator, shape: tuple[int, ...], heavy_tails: bool = False) -> torch.Tensor:
    """Random weights, float32."""
    weight = torch.randn(shape, generator=generator, device=generator.device)
    if heavy_tails:  # t = normal / sqrt(chi2 / 5), chi2 of five squared normals; its deviation is sqrt(5/3)
        chi2 = sum(torch.randn(shape, generator=generator, device=generator.device).square() for _ in range(5))
        weight = weight / (chi2 / 5).sqrt() / (5 / 3) ** 0.5
    return weight * 0.02


def write(
    folder: Path,
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    vocabulary: int = VOCABULARY,
    positions: int = 2048,
) -> Path:
    """An OPT checkpoint, one shard a block, in the names of the published checkpoints; kept if there. Returns `folder`."""
    layers, hidden, ffn, heads = shape
    if (folder / "model.safetensors.index.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        **{"model_type": "opt", "architectures": ["OPTForCausalLM"], "hidden_size": hidden, "ffn_dim": ffn},
        **{"num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": vocabulary, "dropout": 0.0},
        **{"max_position_embeddings": positions, "word_embed_proj_dim": hidden, "do_layer_norm_before": True},
        **{"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1, "dtype": str(dtype).removeprefix("torch.")},
    }
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator(device="cuda" if torch.cuda.is_available() else "cpu").manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return matrix(generator, size).to("cpu", dtype)

    def norm(prefix: str) -> dict:
        return {f"{prefix}.weight": torch.ones(hidden, dtype=dtype), f"{prefix}.bias": torch.zeros(hidden, dtype=dtype)}

    root = "model.decoder"
    outside = {f"{root}.embed_tokens.weight": normal(vocabulary, hidden)}
    outside |= {f"{root}.embed_positions.weight": normal(positions + 2, hidden), **norm(f"{root}.final_layer_norm")}
    weight_map = dict.fromkeys(outside, "outside.safetensors")
    save_file(outside, folder / "outside.safetensors", {"format": "pt"})
    for index in range(layers):
        block = f"{root}.layers.{index}"
        tensors = {**norm(f"{block}.self_attn_layer_norm"), **norm(f"{block}.final_layer_norm")}
        sizes = {f"self_attn.{name}_proj": (hidden, hidden) for name in ("q", "k", "v", "out")}
        for name, size in {**sizes, "fc1": (ffn, hidden), "fc2": (hidden, ffn)}.items():
            tensors[f"{block}.{name}.weight"] = normal(*size)
            tensors[f"{block}.{name}.bias"] = torch.zeros(size[0], dtype=dtype)
        weight_map |= dict.fromkeys(tensors, f"block{index:03d}.safetensors")
        save_file(tensors, folder / f"block{index:03d}.safetensors", {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def write_tokenizer(folder: Path, vocabulary: int = VOCABULARY) -> None:
    """A tokenizer of whole words ``w0`` … for a checkpoint of random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({f"w{index}": index for index in range(vocabulary)}, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"bos_token": "w2", "eos_token": "w2", "pad_token": "w1", "unk_token": "w3"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def write_conf(work: Path, calibration: tuple[int, int], window: int, vocabulary: int = VOCABULARY) -> None:
    """A conf folder of the user's own beside the results: random text, calibration and protocol, all named ``bench``."""
    work.mkdir(parents=True, exist_ok=True)
    text = work / "random.txt"
    if not text.exists():
        words = torch.randint(4, vocabulary, (1 << 17,), generator=torch.Generator().manual_seed(1)).tolist()
        text.write_text(" ".join(f"w{word}" for word in words) + "\n")
    samples, length = calibration
    corpora = "corpora: {random: {text: bench"
    files = {
        "text": ["source: file", f"path: {text}"],
        "calibration": [corpora + "}}", f"n_samples: {samples}", f"length: {length}"],
        "eval": [corpora + ", windows: 4}}", f"window: {window}"],
    }
    for group, lines in files.items():
        path = work / "conf" / group / "bench.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([f"defaults: [/schema/{group}@_here_: {group}, _self_]", *lines]) + "\n")


def stage(work: Path, threads: int, name: str, *overrides: str, timed: bool = False) -> dict:
    """Run a stage of the project in `work`, as its user would, with the conf folder there; returns what `measure` does.

    Args:
        timed: through stage_run.py, which also says how long the stage's work took without imports.
    """
    script = [str(Path(__file__).with_name("stage_run.py")), name] if timed else ["-m", "lorcbench.stages", name]
    variables = environment(threads, LORCBENCH_CONF=str(work / "conf"))
    return measure([sys.executable, *script, *overrides, f"runtime.threads={threads}"], variables, work)


def prepared(work: Path, threads: int, model: list[str], text: str, *wanted: str) -> None:
    """Stage a text, a model and its tokens, as far as they are not there.

    Args:
        model: arguments that name the model, such as ``model=opt-standin-m``, or what `folder` returns.
        wanted: token files, such as ``calibration=bench`` or ``eval=bench``.
    """
    name = next(part.partition("=")[2] for part in reversed(model) if part.startswith(("model=", "model.name=")))
    cache = work / "results/cache"
    if not current(cache / "text" / text, "text"):
        stage(work, threads, "text", f"text={text}")
    if not current(cache / "checkpoint" / name, "checkpoint"):
        stage(work, threads, "prepare", *model)
    for tokens in wanted:
        group, _, value = tokens.partition("=")
        where = cache / f"calibration/{name}/{value}/tokens" if group == "calibration" else cache / f"tokens/{name}/{value}"
        if not current(where, "tokens"):
            stage(work, threads, "tokens", *model, tokens)


def current(where: Path, kind: str) -> bool:
    """Whether a stage's result is there and readable by this version of the project."""
    try:
        read_json(where / "result.json", kind)
    except ArtifactError:
        return False
    return True


def folder(name: str, path: Path) -> list[str]:
    """The arguments that name a model in a folder."""
    return ["model=folder", f"model.name={name}", f"model.path={path}"]


def tokens_file(work: Path, model: str, calibration: str = "bench") -> Path:
    """The calibration tokens of a model."""
    return work / CALIBRATION_TOKENS.pattern.format(model=model, calibration=calibration) / "tokens.safetensors"


def perplexity(work: Path, threads: int, *overrides: str, variant: str = "r0") -> float:
    """Mean over corpora of a cell's perplexity by the project's own evaluation, whose result is kept."""
    full = [part for part in overrides if part.startswith(("model", "eval="))]  # what the cell is compared with
    stage(work, threads, "evaluate", *full, "variants=[r0]")
    stage(work, threads, "evaluate", *overrides, f"variants=[{variant}]")
    given = dict(part.partition("=")[::2] for part in overrides)
    names = {key: given.get(key, default) for key, default in _CELL.items()}
    names |= {"model": given.get("model.name", given["model"]), "protocol": given["eval"]}
    result = read_json(work / EVALUATE.pattern.format(**names) / "result.json", "perplexity")
    losses = result["variants"][variant]["nll"].values()
    return fmean(math.exp(fmean(windows)) for windows in losses)
