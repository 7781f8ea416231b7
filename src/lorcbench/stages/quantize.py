"""One model, one method, one weight format → packed codes, scales and zero points, one shard a block.

Distillation trains biases and norms too. They lie in the same shard under ``trained.`` and their own name, in the checkpoint's
type, and are installed with the weights wherever a block is built. They replace the checkpoint's own at the same size, so
`bits_per_weight` does not count them, as it does not count those of other methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch.func import functional_call

from lorcbench.common import paths
from lorcbench.common.artifacts import finished_shard, read_shard, write_shard
from lorcbench.common.process import give_back_memory
from lorcbench.config.compose import plain
from lorcbench.config.recipes import GptqMethod, ZeroQuantMethod
from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.core.quantizer import Quantized, dequantize, fake_quantize_activations, from_stored, quantize, to_stored
from lorcbench.jobs import inputs
from lorcbench.jobs.inputs import TRAINED, parts_of, trained_of
from lorcbench.jobs.job import Job, input_digest, run, shard_identity
from lorcbench.models.checkpoint import Checkpoint


class BlockResult(NamedTuple):
    """A quantized block, to the bit what its shard holds.

    Attributes:
        quantized: by linear.
        trained: biases and norms that were trained with the weights, by name in the block; empty for most methods.
        notes: what the method says of each linear, or of the ``block``: its damping, for one.
    """

    quantized: dict[str, Quantized]
    trained: dict[str, torch.Tensor]
    notes: dict[str, dict]

    def weights(self, fmt: WeightFormat) -> dict[str, torch.Tensor]:
        """What `install_weights` takes."""
        return {name: dequantize(matrix, fmt) for name, matrix in self.quantized.items()} | self.trained


# What an earlier, killed run of the same job left of a block.
Earlier = Callable[[int], BlockResult | None]


def main(job: Job) -> None:
    """Quantize every linear of every block."""
    method, fmt = job.method, WeightFormat.parse(job.names["weight"])
    folder = job.at(paths.QUANTIZED)
    torch.set_num_threads(job.threads)
    checkpoint = Checkpoint(inputs.checkpoint_folder(job.names))
    if job.names["trained"] != "a16" and not method.sees_activations:
        raise ValueError(f"trained={job.names['trained']}: {job.names['method']} does not look at activations; expected a16")
    settings = {"method": vars(method), "weight": str(fmt), "trained": job.names["trained"]}
    sources = {"checkpoint": input_digest(Path(paths.CHECKPOINT.format(**job.names)), "checkpoint")}
    if method.data == "statistics":
        job.names |= method.factor
        sources["hessians"] = input_digest(Path(paths.HESSIAN_FACTORS.format(**job.names)), "hessians")
    elif method.data == "tokens":
        settings["calibration"] = plain(job.calibration)
        sources["tokens"] = input_digest(Path(paths.CALIBRATION_TOKENS.format(**job.names)), "tokens")
    gptq = _gptq_cached if method.data == "statistics" else _gptq_propagated
    blocks = {"rtn": _rtn, "gptq": gptq, "zeroquant": _zeroquant}[method.kind]
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
    return BlockResult(quantized, trained_of(tensors), finished[1])


def _store(job: Job, folder: Path, made: Iterator[BlockResult], depth: int, fmt, mark: str) -> tuple[list, list, int, int]:
    """Write the shards of all blocks; count the bits and weights that they store."""
    shards, notes, stored_bits, weights = [], [], 0, 0
    for index, block in enumerate(made):
        tensors = {TRAINED + name: tensor for name, tensor in block.trained.items()}
        for name, matrix in block.quantized.items():
            stored = to_stored(matrix, fmt)
            tensors |= {f"{name}.{part}": tensor for part, tensor in stored.items()}
            stored_bits += 8 * sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
            weights += matrix.codes.numel()
        shards.append({"file": _file(index), "sha256": write_shard(folder / _file(index), tensors, mark, block.notes)})
        notes.append(block.notes)
        job.progress(index + 1, depth, "block")
        give_back_memory()
    return shards, notes, stored_bits, weights


def _rtn(job: Job, checkpoint: Checkpoint, fmt: WeightFormat, earlier: Earlier) -> Iterator[BlockResult]:
    for index in range(checkpoint.depth):
        yield BlockResult({name: quantize(weight, fmt) for name, weight in checkpoint.linears(index).items()}, {}, {})


def _gptq_cached(job: Job, checkpoint: Checkpoint, fmt: WeightFormat, earlier: Earlier) -> Iterator[BlockResult]:
    from lorcbench.jobs.hessians import HessianFactors

    factors = HessianFactors(job.names)
    for index in range(checkpoint.depth):
        if (left := earlier(index)) is not None:
            yield left
        else:
            yield _solve(checkpoint.linears(index), factors.block(index), checkpoint, fmt, job.method)


def _solve(weights, prepared: dict, checkpoint: Checkpoint, fmt: WeightFormat, method: GptqMethod) -> BlockResult:
    """GPTQ of one block, given the prepared Hessian of each input, which it uses up.

    Linears that share an input are swept as one stack of rows.
    """
    from lorcbench.core import gptq

    settings = gptq.GptqSettings(**method.settings)
    quantized, notes = {}, {}
    for group in checkpoint.architecture.linears:
        hessian = prepared.pop(group[0])()
        device = hessian.factor.upper.device
        matrices = gptq.quantize_stacked([weights[name].to(device) for name in group], hessian, fmt, settings)
        for name, matrix in zip(group, matrices, strict=True):
            quantized[name] = matrix
            notes[name] = {"damp": hessian.factor.damp, "dead": int(hessian.factor.dead.sum())}
    return BlockResult(quantized, {}, notes)


def _gptq_propagated(job: Job, checkpoint: Checkpoint, fmt: WeightFormat, earlier: Earlier) -> Iterator[BlockResult]:
    """The published order: Hessians of a block from the outputs of the quantized blocks before it, all its linears at once."""
    from lorcbench.core import gptq
    from lorcbench.jobs.walks import calibration_walk
    from lorcbench.models.observe import observed
    from lorcbench.models.surgery import install_weights, rounded_inputs

    activation, settings = ActivationFormat.parse(job.names["trained"]), gptq.GptqSettings(**job.method.settings)
    walk, hidden = calibration_walk(job, checkpoint)
    for index in range(walk.depth):
        # Rounding before anything observes the inputs: they are to be seen rounded.
        with walk.block(index) as block, rounded_inputs(block, walk.architecture.linear_names, activation):
            made = earlier(index)
            if made is None:
                with observed(block, walk.architecture, outputs=False) as moments:
                    for _, states in walk.fetched(hidden):
                        walk.forward(block, states)
                # Factored when its turn comes, and freed after: the largest Hessian is as large as the block.
                prepared = {name: partial(_prepared, moments, name, settings) for name in moments}
                made = _solve(checkpoint.linears(index), prepared, checkpoint, fmt, job.method)
            yield made
            install_weights(block, made.weights(fmt))
            walk.advance(block, hidden)


def _prepared(moments: dict, name: str, settings):
    from lorcbench.core import gptq

    return gptq.prepare(moments.pop(name).mean(), settings)


def _zeroquant(job: Job, checkpoint: Checkpoint, fmt: WeightFormat, earlier: Earlier) -> Iterator[BlockResult]:
    """ZQ-Local and ZQ-Global: the unquantized block is the teacher of each linear, or of the block that takes its place.

    By default teacher and student both get what unquantized blocks made, as in the layer-by-layer distillation of DeepSpeed's
    examples (`run_glue_lkd.py`), by the paper's authors, who leave it open in the paper.
    """
    from lorcbench.jobs.walks import calibration_walk
    from lorcbench.models.surgery import install_weights, rounded_inputs

    method, activation = job.method, ActivationFormat.parse(job.names["trained"])
    distill = _distill_linears if method.unit == "linear" else _distill_block
    walk, given = calibration_walk(job, checkpoint)
    wanted = walk.buffer(*given.shape).copy_(given)
    for index in range(walk.depth):
        with walk.block(index) as block:
            if method.target == "same_input":
                wanted.copy_(given)
            walk.advance(block, wanted)
            made = earlier(index)
            if made is None:
                made = distill(walk, block, given, wanted, fmt, activation, method)
                # As they will be stored: what follows must not depend on whether this block was made now or by an earlier run.
                types = {name: tensor.dtype for name, tensor in checkpoint.block(index).items()}
                made = made._replace(trained={name: tensor.to(types[name]) for name, tensor in made.trained.items()})
            yield made
            if method.block_input == "full_precision":
                given.copy_(wanted)
                continue
            install_weights(block, made.weights(fmt))
            with rounded_inputs(block, walk.architecture.linear_names, activation):
                walk.advance(block, given)


def _distill_block(walk, block, given, wanted, fmt, activation, method: ZeroQuantMethod) -> BlockResult:
    """ZQ-Global of one block, given its inputs and the outputs wanted of it (sequences, length, hidden)."""
    from lorcbench.core.zeroquant import DistillSettings, distill
    from lorcbench.models.surgery import rounded_inputs

    linears = {f"{name}.weight": name for name in walk.architecture.linear_names}
    trained = {name: weight for name, weight in block.named_parameters() if name in linears or method.trainable == "all"}

    def forward(values: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return walk.forward(block, x, values)

    with rounded_inputs(block, walk.architecture.linear_names, activation):
        found = distill(forward, trained, list(linears), given, wanted, fmt, DistillSettings(**method.settings))
    quantized = {linears[name]: matrix for name, matrix in found.quantized.items()}
    return BlockResult(quantized, found.others, {"block": found.notes})


def _distill_linears(walk, block, given, wanted, fmt, activation, method: ZeroQuantMethod) -> BlockResult:
    """ZQ-Local of one block: each linear by itself, on the inputs that the unquantized block makes of `given`."""
    from lorcbench.core.zeroquant import DistillSettings, distill
    from lorcbench.models.observe import recorded

    made = BlockResult({}, {}, {})
    for group in walk.architecture.linears:
        x = walk.buffer(*given.shape[:2], block.get_submodule(group[0]).in_features)
        with recorded(block, group[0]) as parts:
            for batch, states in walk.fetched(given):
                walk.forward(block, states)
                x[batch] = parts.pop().reshape(x[batch].shape)
        for name in group:
            linear = block.get_submodule(name)
            y = walk.buffer(*given.shape[:2], linear.out_features)
            for batch, states in walk.fetched(x):
                y[batch] = linear(states)
            trained = dict(linear.named_parameters()) if method.trainable == "all" else {"weight": linear.weight}

            def forward(values: dict[str, torch.Tensor], x: torch.Tensor, linear=linear) -> torch.Tensor:
                return functional_call(linear, values, (fake_quantize_activations(x, activation),))

            found = distill(forward, trained, ["weight"], x, y, fmt, DistillSettings(**method.settings))
            made.quantized[name], made.notes[name] = found.quantized["weight"], found.notes
            made.trained.update({f"{name}.{part}": value for part, value in found.others.items()})
    return made


if __name__ == "__main__":
    run("quantize", main)
