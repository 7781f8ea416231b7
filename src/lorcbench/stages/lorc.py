"""LoRC factors of one quantized model: every rank up to a cap is a slice of them, or, if they are distilled, of one rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lorcbench.config import compose
from lorcbench.config.lorc import WEIGHTED, LorcConfig
from lorcbench.core import lorc
from lorcbench.jobs import sources, statistics
from lorcbench.jobs.job import Job
from lorcbench.jobs.quantized import QuantizedModel
from lorcbench.jobs.shards import Shards, ShardWriter
from lorcbench.jobs.statistics import MetricOf
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.stages import run_by_old_name
from lorcbench.study.stages import CALIBRATE, CALIBRATION_TOKENS, LORC, PREPARE, QUANTIZE

# B (out, m) and A (m, in) of each matrix of a block: a linear, or the q, k or v of a fused one.
BlockFactors = dict[str, tuple[torch.Tensor, torch.Tensor]]


def main(job: Job) -> None:
    """Decompose E = W - Ŵ of every linear, a fused query_key_value as the setting says.

    W is the checkpoint's (ZeroQuant-V2, section 5), for distilled weights too: the master weights that Ŵ was rounded from are
    not kept, and the biases and norms that were trained with Ŵ stay as they are.
    """
    settings = job.lorc
    job.at(LORC)
    torch.set_num_threads(job.threads)
    checkpoint = sources.checkpoint(job.names)
    quantized = QuantizedModel(job.names, job.weight_format, job.runtime.device)
    compose.check_calibration(f"lorc {job.names.lorc}", settings, job.names.calibration, "calibration")
    job.use(PREPARE)
    job.use(QUANTIZE)
    about = {"lorc": vars(settings), "cap": job.config.cap}
    if settings.data == "tokens":
        job.use(CALIBRATION_TOKENS)
        about["calibration"] = compose.plain(job.calibration)
    elif settings.data == "statistics":
        job.use(CALIBRATE)
    identity = job.identity(about)
    shards = ShardWriter(job, identity, checkpoint.depth)
    _maker(settings)(job, checkpoint, quantized, shards)
    # The notes of a block by their name, as one list over all blocks per name.
    notes = {name: [block[name] for block in shards.notes] for name in shards.notes[0]}
    job.finish(identity, shards.payload() | notes)


def _maker(settings: LorcConfig) -> Callable[[Job, Checkpoint, QuantizedModel, ShardWriter], None]:
    if settings.kind in WEIGHTED:
        return _weighted_by_quantized if settings.inputs == "quantized" else _weighted_by_full_precision
    return {"distilled": _distilled, "paired": _paired}.get(settings.kind, _plain)


def _plain(job: Job, checkpoint: Checkpoint, quantized: QuantizedModel, shards: ShardWriter) -> None:
    """The decomposition of the error alone, as published."""
    for index in range(checkpoint.depth):
        if shards.kept(index) is None:
            factors, notes = _decomposed(job, checkpoint, index, quantized.block(index), quantized.dead_inputs(index))
            shards.write(index, _stored(factors, job.lorc.bits), notes)


def _paired(job: Job, checkpoint: Checkpoint, quantized: QuantizedModel, shards: ShardWriter) -> None:
    """The factors that the method made with its codes, in the type of the setting."""
    for index in range(checkpoint.depth):
        if shards.kept(index) is None:
            approximate, dead, pairs = quantized.block(index), quantized.dead_inputs(index), quantized.factors(index)
            if not pairs:
                raise ValueError(f"lorc={job.names.lorc}: {job.names.method} makes no factors; expected one such as exact-int8")
            factors, notes = _decomposed(job, checkpoint, index, approximate, dead, pairs=pairs)
            shards.write(index, _stored(factors, job.lorc.bits), notes)


def _weighted_by_full_precision(job: Job, checkpoint: Checkpoint, quantized: QuantizedModel, shards: ShardWriter) -> None:
    """The error weighted with the inputs of the unquantized model, which every method and format shares."""
    cached = Shards(job.folder_of(CALIBRATE) / "result.json", CALIBRATE.kind)
    for index in range(checkpoint.depth):
        if shards.kept(index) is None:
            metric_of = statistics.from_cache(cached.block(index), job.lorc.kind, job.runtime.device)
            approximate = quantized.block(index)
            factors, notes = _decomposed(job, checkpoint, index, approximate, quantized.dead_inputs(index), metric_of)
            shards.write(index, _stored(factors, job.lorc.bits), notes)


def _weighted_by_quantized(job: Job, checkpoint: Checkpoint, quantized: QuantizedModel, shards: ShardWriter) -> None:
    """The error weighted with the inputs that the quantized model gives its linears, without corrections.

    All ranks share one decomposition, so no block can see the correction of those before it. Inputs are rounded first in the
    format that the weights were made under.
    """
    from lorcbench.jobs.walks import calibration_walk
    from lorcbench.models.observe import magnitudes, observed
    from lorcbench.models.surgery import install_weights, rounded_inputs

    walk, hidden = calibration_walk(job, checkpoint)
    architecture = walk.architecture
    for index in range(walk.depth):
        approximate = quantized.block(index)
        with walk.block(index) as block, rounded_inputs(block, architecture.linear_names, job.trained_format):
            install_weights(block, approximate)
            if shards.kept(index) is not None:
                walk.advance(block, hidden)
                continue
            with observed(block, architecture) as moments, magnitudes(block, architecture) as largest:
                walk.advance(block, hidden)
        metric_of = statistics.from_observed(moments, largest, job.lorc.kind)
        factors, notes = _decomposed(job, checkpoint, index, approximate, quantized.dead_inputs(index), metric_of)
        shards.write(index, _stored(factors, job.lorc.bits), notes)


def _distilled(job: Job, checkpoint: Checkpoint, quantized: QuantizedModel, shards: ShardWriter) -> None:
    """Train the factors of one block after another, on what unquantized blocks make, as ZQ-Global trains weights.

    Inputs of the linears are rounded in the format that the weights were made under.
    """
    from lorcbench.jobs.distillation import distill_factors
    from lorcbench.jobs.walks import calibration_walk
    from lorcbench.models.surgery import install_weights

    walk, block_inputs = calibration_walk(job, checkpoint)
    targets = walk.buffer(*block_inputs.shape)
    for index in range(walk.depth):
        targets.copy_(block_inputs)
        with walk.block(index) as block:
            walk.advance(block, targets)  # what the unquantized block makes
            if shards.kept(index) is None:
                approximate = quantized.block(index)
                start, notes = _decomposed(job, checkpoint, index, approximate, quantized.dead_inputs(index))
                install_weights(block, approximate)
                factors, training = distill_factors(
                    walk, block, block_inputs, targets, quantized.format, job.trained_format, job.lorc, start
                )
                shards.write(index, _stored(factors, job.lorc.bits), notes | {"distilled": training})
        block_inputs.copy_(targets)


def _stored(factors: BlockFactors, bits: int) -> dict[str, torch.Tensor]:
    """The tensors that a shard keeps of the factors of a block, by matrix and part."""
    return {f"{name}.{part}": tensor for name, (b, a) in factors.items() for part, tensor in lorc.store(b, a, bits).items()}


def _decomposed(
    job: Job,
    checkpoint: Checkpoint,
    index: int,
    approximate: dict[str, torch.Tensor],
    dead: dict[str, torch.Tensor],
    metric_of: MetricOf | None = None,
    pairs: BlockFactors | None = None,
) -> tuple[BlockFactors, dict[str, dict[str, Any]]]:
    """The factors of every matrix of a block, given Ŵ and the dead inputs of its linears; and what the result says of it.

    That is ‖E‖ / ‖W‖ of each linear, its dead inputs and their share of ‖E‖², if there are any; and, of each matrix that was
    decomposed, ‖E‖ and the singular values of E, both in the metric that the error is weighted with.

    Args:
        metric_of: that metric; None for plain factors.
        pairs: factors that are there already, which are taken as they are.
    """
    settings = job.lorc
    first_of = {name: group[0] for group in checkpoint.architecture.linears for name in group}
    factors, relative_errors, norms, spectra, dead_inputs = {}, {}, {}, {}, {}
    shared_by = metric = None  # linears of one input follow one another, and share its metric
    for name, weight in checkpoint.linears(index).items():
        if metric_of and first_of[name] != shared_by:
            shared_by = first_of[name]
            metric = None  # the one before is freed first
            metric = metric_of(shared_by)
        weight = weight.to(job.runtime.device).float()
        error = weight - approximate[name]
        norm = weight.norm()
        relative_errors[name] = float(error.norm() / norm) if norm else 0.0  # a matrix of zeros is kept as it is
        if name in dead:
            dead_inputs[name] = {"count": int(dead[name].sum()), "error_share": lorc.share(error, dead[name])}
            if settings.dead == "excluded":
                error = error.masked_fill(dead[name], 0)
        rows = checkpoint.architecture.part_rows(name, len(weight)) if settings.fused_qkv == "split" else None
        matrices = {f"{name}.{part}": error[indices] for part, indices in rows.items()} if rows else {name: error}
        for matrix, part in matrices.items():
            exact = settings.decomposition == "exact"
            b, a = pairs[matrix] if pairs else lorc.decompose(part, job.config.cap, exact, metric)
            factors[matrix] = b, a
            norms[matrix] = lorc.weighted_norm(part, metric)
            # Five digits are kept.
            spectra[matrix] = [float(f"{value:.5g}") for value in lorc.strengths(b, a, metric).tolist()]
    notes = {"relative_error": relative_errors, "error_norm": norms, "singular_values": spectra, "dead_inputs": dead_inputs}
    return factors, notes


if __name__ == "__main__":
    run_by_old_name(__spec__.name)
