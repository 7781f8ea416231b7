"""The rest of part b: GPTQ block by block. How far two runs part that differ in nothing but the order of sums.

Block 0 and every later block are solved on the device from the CPU's hidden states, so that no difference is carried on; then
whole models, in which every flipped code moves the inputs of all that follows. Beside each stands the CPU with its calibration
sequences in reverse order, and fewer of them in one forward pass.
"""

from __future__ import annotations

from pathlib import Path

import torch
from gpu.record import Record, Settings

from lorcbench.core import gptq
from lorcbench.core.formats import WeightFormat
from lorcbench.core.quantizer import dequantize
from lorcbench.jobs.sources import read_windows
from lorcbench.models import discovery
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.models.observe import last_linear_skipped, observed
from lorcbench.models.surgery import install_weights
from lorcbench.study.stages import CALIBRATION_TOKENS, PREPARE

FORMATS = ("w4-asym-g32", "w3-sym-row")
Codes = dict[str, torch.Tensor]


def run(record: Record, settings: Settings, base: Path) -> None:
    """Trained stand-ins of two families, and a random Llama."""
    torch.set_num_threads(1)  # so small matrices lose by more
    checkpoints = {}
    for model in ("opt-standin-s", "bloom-standin-s")[: 1 if settings.tiny else None]:
        windows = read_windows(base / CALIBRATION_TOKENS.pattern.format(model=model, calibration="stdlib"))
        tokens = windows["calibration"]
        checkpoints[model] = base / PREPARE.pattern.format(model=model), tokens
    llama = _random_llama(settings.folder / "work" / "llama")
    checkpoints["random Llama"] = llama, torch.randint(0, 512, (32, 64), generator=torch.Generator().manual_seed(0))
    for name, (folder, tokens) in checkpoints.items():
        for text in FORMATS[: 1 if settings.tiny else None]:
            fmt = WeightFormat.parse(text)
            _fed_the_same(record, settings.device, f"{name}, {text}", discovery.opened(folder), tokens, fmt)
            _whole(record, settings.device, f"{name}, {text}", discovery.opened(folder), tokens, fmt)


def _random_llama(folder: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    if not (folder / "config.json").is_file():
        shape = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
        own = {"vocab_size": 512, "intermediate_size": 160, "max_position_embeddings": 64, "tie_word_embeddings": False}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            LlamaForCausalLM(LlamaConfig(**shape, **own)).save_pretrained(folder)
    return folder


def _solved(walk: BlockWalk, block, hidden: torch.Tensor, fmt: WeightFormat) -> dict[str, gptq.Quantized]:
    """GPTQ of a block, given what enters it."""
    with observed(block, walk.architecture) as moments, last_linear_skipped(block, walk.architecture):
        for _, states in walk.fetched(hidden):
            walk.forward(block, states)
    found = {}
    for group in walk.architecture.linears:
        prepared = gptq.prepare(moments.pop(group[0]).mean(), gptq.GptqSettings())
        weights = [block.get_submodule(name).weight for name in group]
        matrices = gptq.quantize_stacked(weights, prepared, fmt, gptq.GptqSettings())
        found |= dict(zip(group, matrices, strict=True))
    return found


def _equal(one: dict[str, gptq.Quantized], other: dict[str, gptq.Quantized]) -> float:
    same = sum(int((one[name].codes.cpu() == other[name].codes.cpu()).sum()) for name in one)
    return same / sum(matrix.codes.numel() for matrix in one.values())


def _walk(checkpoint: Checkpoint, device: str, tokens: torch.Tensor, batch: int = 2048) -> tuple[BlockWalk, torch.Tensor]:
    walk = BlockWalk(checkpoint, torch.float32, device, batch)
    return walk, walk.embed(tokens)


def _fed_the_same(record: Record, device: str, name: str, checkpoint: Checkpoint, tokens, fmt: WeightFormat) -> None:
    """Every block on the device from the hidden states that the CPU's quantized blocks made."""
    (cpu, hidden), (here, _) = (_walk(checkpoint, where, tokens) for where in ("cpu", device))
    other, _ = _walk(checkpoint, "cpu", tokens, 512)
    shares, reordered = [], []
    for index in range(cpu.depth):
        with here.block(index) as block:
            found = _solved(here, block, hidden.to(device), fmt)
        with cpu.block(index) as block:
            expected = _solved(cpu, block, hidden, fmt)
            shares.append(_equal(expected, found))
            with other.block(index) as copy:
                reordered.append(_equal(expected, _solved(other, copy, hidden.flip(0), fmt)))
            install_weights(block, {linear: dequantize(matrix) for linear, matrix in expected.items()})
            cpu.advance(block, hidden)
    record.add("b", f"GPTQ, {name}, block 0: share of equal codes", shares[0], target="≥ 0.9999")
    record.add("b", f"GPTQ, {name}, later blocks fed the same: least share", min(shares[1:]), target="≥ 0.999")
    record.add("b", f"GPTQ, {name}, CPU with sequences reversed: least share", min(reordered))


def _whole(record: Record, device: str, name: str, checkpoint: Checkpoint, tokens, fmt: WeightFormat) -> None:
    """Whole models: codes by block, and the mean loss on the calibration sequences, of three runs."""
    runs = {}
    for run_name, where, order in (("CPU", "cpu", tokens), ("reversed", "cpu", tokens.flip(0)), ("device", device, tokens)):
        walk, hidden = _walk(checkpoint, where, order, 512 if run_name == "reversed" else 2048)
        made = []
        for index in range(walk.depth):
            with walk.block(index) as block:
                made.append(_solved(walk, block, hidden, fmt))
                install_weights(block, {linear: dequantize(matrix) for linear, matrix in made[-1].items()})
                walk.advance(block, hidden)
        runs[run_name] = made, walk.score(hidden, order).double().mean().exp().item()
    for other in ("reversed", "device"):
        shares = " ".join(f"{_equal(a, b):.6f}" for a, b in zip(runs["CPU"][0], runs[other][0], strict=True))
        what = "CPU with sequences reversed" if other == "reversed" else "device"
        record.add("b", f"GPTQ, {name}, whole model, {what}: share of equal codes by block", shares)
        drift = abs(runs[other][1] / runs["CPU"][1] - 1)
        record.add("b", f"GPTQ, {name}, whole model, {what}: relative difference of perplexity", drift)
