"""GPTQ of a whole OPT-shaped model on one GPU, by part, beside the arithmetic that it must do.

    python benchmarks/gpu_gptq.py FOLDER [--layers 32] [--windows 128] [--weight w4-asym-g128]

FOLDER receives a checkpoint of random float16 weights in the shape of OPT-6.7b (13 GB for 32 layers) if it has none. First the
sweep on the GPU is held against the plain one, and the walk's losses against the CPU's.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from lorcbench.core import gptq
from lorcbench.core.formats import WeightFormat
from lorcbench.core.quantizer import dequantize
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.models.observe import observed
from lorcbench.models.surgery import install_weights

HIDDEN, FFN, HEADS, VOCABULARY, LENGTH = 4096, 16384, 32, 50272, 2048


def write_checkpoint(folder: Path, layers: int, hidden: int = HIDDEN, ffn: int = FFN, heads: int = HEADS) -> None:
    """Random weights, one shard a block, in the names and types of the published checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        **{"model_type": "opt", "architectures": ["OPTForCausalLM"], "hidden_size": hidden, "ffn_dim": ffn},
        **{"num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": VOCABULARY, "dropout": 0.0},
        **{"max_position_embeddings": LENGTH, "word_embed_proj_dim": hidden, "do_layer_norm_before": True},
    }
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator(device="cuda" if torch.cuda.is_available() else "cpu").manual_seed(0)

    def matrix(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator, device=generator.device) * 0.02).half().cpu()

    def norm(prefix: str) -> dict:
        return {f"{prefix}.weight": torch.ones(hidden).half(), f"{prefix}.bias": torch.zeros(hidden).half()}

    root = "model.decoder"
    outside = {f"{root}.embed_tokens.weight": matrix(VOCABULARY, hidden)}
    outside |= {f"{root}.embed_positions.weight": matrix(LENGTH + 2, hidden), **norm(f"{root}.final_layer_norm")}
    weight_map = dict.fromkeys(outside, "outside.safetensors")
    save_file(outside, folder / "outside.safetensors")
    for index in range(layers):
        block = f"{root}.layers.{index}"
        tensors = {**norm(f"{block}.self_attn_layer_norm"), **norm(f"{block}.final_layer_norm")}
        shapes = {f"self_attn.{name}_proj": (hidden, hidden) for name in ("q", "k", "v", "out")}
        for name, shape in {**shapes, "fc1": (ffn, hidden), "fc2": (hidden, ffn)}.items():
            tensors[f"{block}.{name}.weight"] = matrix(*shape)
            tensors[f"{block}.{name}.bias"] = torch.zeros(shape[0]).half()
        weight_map |= dict.fromkeys(tensors, f"block{index:03d}.safetensors")
        save_file(tensors, folder / f"block{index:03d}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


SECONDS: dict[str, float] = defaultdict(float)


@contextmanager
def part(name: str):
    """Time a part of the work, the GPU's queue empty at both ends."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    yield
    torch.cuda.synchronize()
    SECONDS[name] += time.perf_counter() - start


def check_sweep(formats: list[str]) -> dict[str, float]:
    """Share of codes in which the GPU's sweep and the plain one, on the GPU too, agree, on 512 × 512 problems."""
    generator = torch.Generator(device="cuda").manual_seed(0)
    weight = torch.randn(512, 512, generator=generator, device="cuda")
    x = torch.randn(4096, 512, generator=generator, device="cuda") @ torch.randn(512, 512, generator=generator, device="cuda")
    hessian, agreement = x.T @ x / len(x), {}
    kernel = gptq._sweep_block_triton
    for name in formats:
        fmt, settings = WeightFormat.parse(name), gptq.GptqSettings()
        prepared = gptq.prepare(hessian, settings)
        fast = gptq.quantize(weight, prepared, fmt, settings).codes
        gptq._sweep_block_triton = gptq.sweep_block_reference
        plain = gptq.quantize(weight, prepared, fmt, settings).codes
        gptq._sweep_block_triton = kernel
        agreement[name] = (fast == plain).float().mean().item()
    return agreement


def check_walk(folder: Path) -> float:
    """Largest relative difference between the GPU's losses and the CPU's, both in float32."""
    tokens = torch.randint(0, VOCABULARY, (2, 256), generator=torch.Generator().manual_seed(0))
    losses = []
    for device in ("cpu", "cuda"):
        walk = BlockWalk(Checkpoint(folder), torch.float32, device)
        hidden = walk.embed(tokens)
        for index in range(walk.depth):
            with walk.block(index) as block:
                walk.advance(block, hidden)
        losses.append(walk.score(hidden, tokens))
    return ((losses[1] - losses[0]).abs() / losses[0]).max().item()


def quantize(folder: Path, fmt: WeightFormat, windows: int, batch_tokens: int) -> None:
    """GPTQ with propagated Hessians of every block; fills `SECONDS`."""
    settings = gptq.GptqSettings()
    tokens = torch.randint(0, VOCABULARY, (windows, LENGTH), generator=torch.Generator().manual_seed(0))
    with part("open"):
        checkpoint = Checkpoint(folder)
        walk = BlockWalk(checkpoint, torch.float16, "cuda", batch_tokens)
    with part("embed"):
        hidden = walk.embed(tokens)
    for index in range(walk.depth):
        with part("load"):
            opened = walk.block(index)
            block = opened.__enter__()
        with part("forward and Hessians"), observed(block, walk.architecture) as moments:
            for batch in walk.batches(hidden):
                walk.forward(block, hidden[batch])
        for group in walk.architecture.linears:
            with part("factor"):
                prepared = gptq.prepare(moments[group[0]].mean(), settings)
            with part("sweep"):
                weights = [block.get_submodule(name).weight for name in group]
                matrices = gptq.quantize_stacked(weights, prepared, fmt, settings)
            with part("install"):
                install_weights(block, {name: dequantize(m) for name, m in zip(group, matrices, strict=True)})
        moments.clear()
        with part("forward of the quantized block"):
            walk.advance(block, hidden)
        opened.__exit__(None, None, None)


def main() -> None:
    """Check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--weight", default="w4-asym-g128")
    parser.add_argument("--batch-tokens", type=int, default=16384)
    given = parser.parse_args()
    report = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    report["sweep codes equal"] = check_sweep(["w4-asym-g128", "w3-sym-row", "w2-asym-g32-pow2", "w4-sym-g64-restricted"])
    small = given.folder / "small"
    write_checkpoint(small, 2, 256, 1024, 4)
    report["walk, largest relative difference to CPU"] = check_walk(small)
    if not (given.folder / "config.json").exists():
        write_checkpoint(given.folder, given.layers)
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    quantize(given.folder, WeightFormat.parse(given.weight), given.windows, given.batch_tokens)
    report["seconds"] = time.perf_counter() - start
    report["parts"] = {name: round(seconds, 2) for name, seconds in SECONDS.items()}
    report["peak GPU GiB"] = torch.cuda.max_memory_allocated() / 2**30
    n_tokens, inputs = given.windows * LENGTH, (HIDDEN, HIDDEN, HIDDEN, FFN)
    linear = 2 * n_tokens * (4 * HIDDEN**2 + 2 * HIDDEN * FFN) + 4 * n_tokens * LENGTH * HIDDEN
    report["petaflop"] = {
        "two forward passes": given.layers * 2 * linear / 1e15,
        "Hessians": given.layers * sum(2 * n_tokens * width**2 for width in inputs) / 1e15,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
