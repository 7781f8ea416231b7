"""One model, one method, one weight format → packed codes, scales and zero points, one shard per decoder block.

Every method is one loop over the blocks: keep the block that an earlier, killed run of this job wrote, or make and write it;
then, where the blocks behind it depend on it, move the hidden states on.

Modules that only some methods need are imported where they are used: rounding to nearest needs neither transformers nor Numba,
whose import takes longer than its work.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.config.mixed import METHOD as MIXED
from lorcbench.core.formats import WeightFormat
from lorcbench.core.quantizer import quantize
from lorcbench.jobs import mixing, sources
from lorcbench.jobs.job import Job
from lorcbench.jobs.quantized import QuantizedBlock, QuantizedBlocks
from lorcbench.jobs.shards import ShardWriter
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.stages import run_by_old_name
from lorcbench.study.stages import CALIBRATE, CALIBRATION_TOKENS, FACTOR, PREPARE, QUANTIZE


def main(job: Job) -> None:
    """Quantize every linear of every block."""
    method, fmt = job.method, job.weight_format
    job.at(QUANTIZE)
    torch.set_num_threads(job.threads)
    checkpoint = sources.checkpoint(job.names)
    if fmt.is_mixed != (method.kind == MIXED):
        expected = "mixed" if method.kind == MIXED else "one format for all linears"
        raise ValueError(f"weight={fmt} of {job.names.method}: expected {expected}")
    if not (job.trained_format.is_full_precision or method.sees_activations):
        raise ValueError(f"trained={job.names.trained}: {job.names.method} does not look at activations; expected a16")
    identity = job.identity(_settings(job))
    if method.kind == "foreign":
        from lorcbench.jobs.foreign import record

        job.finish(identity, record(job, checkpoint))
        return
    shapes = [checkpoint.shapes(index) for index in range(checkpoint.depth)]
    formats = [dict.fromkeys(of_block, fmt) for of_block in shapes]
    about = {}
    if method.kind == MIXED:
        chosen = mixing.choose(job, checkpoint)
        formats, about = chosen.formats, chosen.payload
        job = job.with_method(method.quantizer)
    blocks = QuantizedBlocks(ShardWriter(job, identity, checkpoint.depth), job.names.method, formats, shapes)
    if job.method.kind not in METHODS:
        where = f"METHODS of src/lorcbench/stages/quantize.py, which has {', '.join(METHODS)}"
        raise ConfigError(f"method {job.names.method}: kind {job.method.kind} has no function; expected its line in {where}")
    METHODS[job.method.kind](job, checkpoint, fmt, blocks)
    job.finish(identity, blocks.payload() | about)


def _settings(job: Job) -> dict:
    """The settings that the job's bytes depend on; the results that they depend on are recorded with the job."""
    method = job.method
    settings = {"method": vars(method), "weight": str(job.weight_format), "trained": job.names.trained}
    compose.check_calibration(f"method {job.names.method}", method, job.names.calibration, "calibration")
    job.use(PREPARE)
    if method.kind == MIXED:
        mixing.use(job)
    if method.data == "statistics":
        job.use(FACTOR, **method.factor) if method.factor else job.use(CALIBRATE)
    elif method.data == "tokens":
        job.use(CALIBRATION_TOKENS)
        settings["calibration"] = compose.plain(job.calibration)
    return settings


def _rtn(job: Job, checkpoint: Checkpoint, fmt: WeightFormat, blocks: QuantizedBlocks) -> None:
    """Round to nearest."""
    for index in range(checkpoint.depth):
        if blocks.kept(index) is None:
            weights = checkpoint.linears(index).items()
            formats, clip = blocks.formats[index], job.method.clip
            matrices = {name: quantize(weight.to(job.runtime.device), formats[name], clip) for name, weight in weights}
            blocks.write(index, QuantizedBlock(matrices))


def _gptq(job: Job, checkpoint: Checkpoint, fmt: WeightFormat, blocks: QuantizedBlocks) -> None:
    """GPTQ, with the Hessians that the setting names."""
    gptq = _gptq_cached if job.method.hessian == "cached" else _gptq_propagated
    gptq(job, checkpoint, fmt, blocks)


def _gptq_cached(job: Job, checkpoint: Checkpoint, fmt: WeightFormat, blocks: QuantizedBlocks) -> None:
    """Hessians of the unquantized model, whose factors an earlier stage has stored."""
    from lorcbench.jobs.hessians import HessianFactors
    from lorcbench.jobs.solving import solve_block

    method = job.method
    factors = HessianFactors(job.folder_of(FACTOR, **method.factor), job.runtime.device)
    for index in range(checkpoint.depth):
        if blocks.kept(index) is None:
            blocks.write(index, solve_block(checkpoint, index, factors.block(index), blocks.formats[index], method))


def _gptq_propagated(job: Job, checkpoint: Checkpoint, fmt: WeightFormat, blocks: QuantizedBlocks) -> None:
    """The published order: Hessians of a block from the outputs of the quantized blocks before it, all its linears at once."""
    from lorcbench.jobs.hessians import from_moments
    from lorcbench.jobs.solving import solve_block
    from lorcbench.jobs.walks import calibration_walk
    from lorcbench.models.observe import last_linear_skipped, observed
    from lorcbench.models.surgery import install_weights, rounded_inputs

    method, activation = job.method, job.trained_format
    walk, hidden = calibration_walk(job, checkpoint)
    for index in range(walk.depth):
        # Rounding comes first, so that the inputs are observed as they are after it.
        with walk.block(index) as block, rounded_inputs(block, walk.architecture.linear_names, activation):
            quantized = blocks.kept(index)
            if quantized is None:
                with observed(block, walk.architecture) as moments, last_linear_skipped(block, walk.architecture):
                    for _, states in walk.fetched(hidden):
                        walk.forward(block, states)
                hessian_of = from_moments(moments, method, hidden.shape[1])
                quantized = solve_block(checkpoint, index, hessian_of, blocks.formats[index], method)
                blocks.write(index, quantized)
            if index + 1 < walk.depth:  # nobody needs what the last block makes
                install_weights(block, quantized.weights())
                walk.advance(block, hidden)


def _paired(job: Job, checkpoint: Checkpoint, fmt: WeightFormat, blocks: QuantizedBlocks) -> None:
    """Codes and factors that are made for one another, weighted with the inputs that the setting names."""
    if not job.method.rank:
        raise ValueError(f"method={job.names.method}: makes codes for one rank; expected {job.names.method}+rank=8 or another")
    paired = _paired_cached if job.method.hessian == "cached" else _paired_propagated
    paired(job, checkpoint, fmt, blocks)


def _paired_cached(job: Job, checkpoint: Checkpoint, fmt: WeightFormat, blocks: QuantizedBlocks) -> None:
    """The inputs of the unquantized model: no block sees what became of another."""
    from lorcbench.jobs import statistics
    from lorcbench.jobs.pairing import pair_block
    from lorcbench.jobs.shards import Shards

    cached = Shards(job.folder_of(CALIBRATE) / "result.json", CALIBRATE.kind)
    length = cached.result["tokens_per_sequence"]
    for index in range(checkpoint.depth):
        if blocks.kept(index) is None:
            metric_of = statistics.from_cache(cached.block(index), "exact", job.runtime.device)
            blocks.write(index, pair_block(checkpoint, index, metric_of, fmt, job.method, length))


def _paired_propagated(job: Job, checkpoint: Checkpoint, fmt: WeightFormat, blocks: QuantizedBlocks) -> None:
    """The inputs that come from the blocks before, quantized and corrected: each block sees the corrections of those."""
    from lorcbench.jobs import statistics
    from lorcbench.jobs.pairing import corrected_weights, pair_block
    from lorcbench.jobs.walks import calibration_walk
    from lorcbench.models.observe import last_linear_skipped, observed
    from lorcbench.models.surgery import install_weights

    walk, hidden = calibration_walk(job, checkpoint)
    for index in range(walk.depth):
        with walk.block(index) as block:
            made = blocks.kept(index)
            if made is None:
                with observed(block, walk.architecture) as moments, last_linear_skipped(block, walk.architecture):
                    for _, states in walk.fetched(hidden):
                        walk.forward(block, states)
                metric_of = statistics.from_observed(moments, {}, "exact")
                made = pair_block(checkpoint, index, metric_of, fmt, job.method, hidden.shape[1])
                blocks.write(index, made)
            if index + 1 < walk.depth:
                install_weights(block, corrected_weights(made, walk.architecture))
                walk.advance(block, hidden)


def _zeroquant(job: Job, checkpoint: Checkpoint, fmt: WeightFormat, blocks: QuantizedBlocks) -> None:
    """ZQ-Local and ZQ-Global: the unquantized block is the teacher of each linear, or of the block that takes its place.

    By default teacher and student both get what unquantized blocks made, as in the layer-by-layer distillation of DeepSpeed's
    examples (`run_glue_lkd.py`), by the paper's authors, who leave it open in the paper.
    """
    from lorcbench.jobs.distillation import distill_block, distill_linears
    from lorcbench.jobs.walks import calibration_walk
    from lorcbench.models.surgery import install_weights, rounded_inputs

    method, activation = job.method, job.trained_format
    distill = distill_linears if method.unit == "linear" else distill_block
    walk, block_inputs = calibration_walk(job, checkpoint)
    targets = walk.buffer(*block_inputs.shape).copy_(block_inputs)
    for index in range(walk.depth):
        with walk.block(index) as block:
            if method.target == "same_input":
                targets.copy_(block_inputs)
            walk.advance(block, targets)  # what the unquantized block makes
            quantized = blocks.kept(index)
            if quantized is None:
                distilled = distill(walk, block, block_inputs, targets, fmt, activation, method)
                quantized = distilled.in_types_of(checkpoint.block(index))
                blocks.write(index, quantized)
            if method.block_input == "full_precision":
                block_inputs.copy_(targets)
            elif index + 1 < walk.depth:
                install_weights(block, quantized.weights())
                with rounded_inputs(block, walk.architecture.linear_names, activation):
                    walk.advance(block, block_inputs)


METHODS: dict[str, Callable[[Job, Checkpoint, WeightFormat, QuantizedBlocks], None]] = {
    "rtn": _rtn,
    "gptq": _gptq,
    "zeroquant": _zeroquant,
    "intrinsic": _paired,
    "split": _paired,
    "joint": _paired,
    # The line of a new method goes here, above this comment.
}


if __name__ == "__main__":
    run_by_old_name(__spec__.name)
