"""One model, one method, one weight format → packed codes, scales and zero points, one shard a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from lorcbench import inputs, paths
from lorcbench.artifacts import Shards, finished_shard, read_shard, write_shard
from lorcbench.checkpoint import Checkpoint
from lorcbench.config import GptqMethod
from lorcbench.formats import WeightFormat
from lorcbench.inputs import parts_of
from lorcbench.job import Job, input_digest, run, shard_identity
from lorcbench.quantizer import Quantized, from_stored, quantize, to_stored

# A block's quantized linears, and what the method says of each: its damping, for one.
BlockResult = tuple[dict[str, Quantized], dict[str, dict]]
# What an earlier, killed run of the same job left of a block.
Earlier = Callable[[int], BlockResult | None]


def main(job: Job) -> None:
    """Quantize every linear of every block."""
    method, fmt = job.method, WeightFormat.parse(job.names["weight"])
    folder = job.at(paths.QUANTIZED)
    torch.set_num_threads(job.threads)
    checkpoint = Checkpoint(inputs.checkpoint_folder(job.names))
    settings = {"method": vars(method), "weight": str(fmt)}
    sources = {"checkpoint": input_digest(Path(paths.CHECKPOINT.format(**job.names)), "checkpoint")}
    if method.kind == "rtn":
        blocks = _rtn
    elif method.hessian == "cached":
        sources["statistics"] = input_digest(Path(paths.STATISTICS.format(**job.names)), "statistics")
        blocks = _gptq_cached
    else:
        settings["calibration"] = vars(job.calibration)
        sources["tokens"] = input_digest(Path(paths.CALIBRATION_TOKENS.format(**job.names)), "tokens")
        blocks = _gptq_propagated
    identity = job.identity(settings, sources)
    mark = shard_identity(identity)
    widths = {name: weight.shape[1] for name, weight in checkpoint.linears(0).items()}

    def earlier(index: int) -> BlockResult | None:
        return _restored(folder / _file(index), mark, fmt, widths)

    made = blocks(job, checkpoint, fmt, earlier)
    shards, notes, stored_bits, weights = _store(job, folder, made, checkpoint.depth, fmt, mark)
    damps = [note["damp"] for block in notes for note in block.values() if "damp" in note]
    payload = {
        "shards": shards,
        "widths": widths,
        "weights": weights,
        "bits_per_weight": stored_bits / weights,
        "notes": notes,
        "max_damp": max(damps, default=None),
    }
    job.finish("quantized", identity, payload)


def _file(index: int) -> str:
    return f"block{index:03d}.safetensors"


def _restored(path: Path, mark: str, fmt: WeightFormat, widths: dict[str, int]) -> BlockResult | None:
    finished = finished_shard(path, mark)
    if finished is None:
        return None
    tensors = read_shard(path, finished[0])
    quantized = {name: from_stored(parts_of(tensors, name), fmt, width) for name, width in widths.items()}
    return quantized, finished[1]


def _store(job: Job, folder: Path, made: Iterator[BlockResult], depth: int, fmt, mark: str) -> tuple[list, list, int, int]:
    """Write the shards of all blocks; count the bits and weights that they store."""
    shards, notes, stored_bits, weights = [], [], 0, 0
    for index, (quantized, block_notes) in enumerate(made):
        tensors = {}
        for name, matrix in quantized.items():
            stored = to_stored(matrix, fmt)
            tensors |= {f"{name}.{part}": tensor for part, tensor in stored.items()}
            stored_bits += 8 * sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
            weights += matrix.codes.numel()
        shards.append({"file": _file(index), "sha256": write_shard(folder / _file(index), tensors, mark, block_notes)})
        notes.append(block_notes)
        job.progress(index + 1, depth, "block")
    return shards, notes, stored_bits, weights


def _rtn(job: Job, checkpoint: Checkpoint, fmt: WeightFormat, earlier: Earlier) -> Iterator[BlockResult]:
    for index in range(checkpoint.depth):
        yield {name: quantize(weight, fmt) for name, weight in checkpoint.linears(index).items()}, {}


def _gptq_cached(job: Job, checkpoint: Checkpoint, fmt: WeightFormat, earlier: Earlier) -> Iterator[BlockResult]:
    from lorcbench.statistics import from_triangle

    statistics = Shards(Path(paths.STATISTICS.format(**job.names)) / "result.json", "statistics")
    for index in range(checkpoint.depth):
        if (left := earlier(index)) is not None:
            yield left
            continue
        weights, triangles = checkpoint.linears(index), statistics.block(index)
        widths = {name: weight.shape[1] for name, weight in weights.items()}
        hessians = {name: from_triangle(triangle, widths[name]) for name, triangle in triangles.items()}
        yield _solve(weights, hessians, checkpoint, fmt, job.method)


def _solve(weights, hessians, checkpoint: Checkpoint, fmt: WeightFormat, method: GptqMethod) -> BlockResult:
    """GPTQ of one block: linears that share an input share its factor and are swept as one stack of rows."""
    from lorcbench.methods import gptq

    settings = gptq.GptqSettings(**method.settings)
    quantized, notes = {}, {}
    for group in checkpoint.architecture.linears:
        prepared = gptq.prepare(hessians[group[0]], settings)
        rows = [len(weights[name]) for name in group]
        stacked = gptq.quantize(torch.cat([weights[name].float() for name in group]), prepared, fmt, settings)
        zeros = stacked.zero.split(rows) if stacked.zero is not None else [None] * len(rows)
        parts = zip(group, stacked.codes.split(rows), stacked.scale.split(rows), zeros, strict=True)
        for name, codes, scale, zero in parts:
            quantized[name] = Quantized(codes, scale, zero)
            notes[name] = {"damp": prepared.factor.damp, "dead": int(prepared.factor.dead.sum())}
    return quantized, notes


def _gptq_propagated(job: Job, checkpoint: Checkpoint, fmt: WeightFormat, earlier: Earlier) -> Iterator[BlockResult]:
    """The published order: Hessians of a block from the outputs of the quantized blocks before it, all its linears at once."""
    from lorcbench.blocks import BlockWalk
    from lorcbench.observe import observed
    from lorcbench.quantizer import dequantize
    from lorcbench.surgery import install_weights

    tokens, _ = inputs.tokens(Path(paths.CALIBRATION_TOKENS.format(**job.names)))
    dtype = getattr(torch, job.calibration.dtype)
    walk = BlockWalk(checkpoint, dtype, job.runtime.device, job.runtime.batch_tokens)
    hidden = walk.embed(tokens["calibration"])
    for index in range(walk.depth):
        with walk.block(index) as block:
            made = earlier(index)
            if made is None:
                with observed(block, walk.architecture) as moments:
                    for batch in walk.batches(hidden):
                        walk.forward(block, hidden[batch])
                hessians = {name: moment.mean() for name, moment in moments.items()}
                made = _solve(checkpoint.linears(index), hessians, checkpoint, fmt, job.method)
            yield made
            install_weights(block, {name: dequantize(matrix, fmt) for name, matrix in made[0].items()})
            walk.advance(block, hidden)


if __name__ == "__main__":
    run("quantize", main)
