"""How far predictions move if one group of linears of a model is quantized, in one format: what mixed formats are chosen by."""

from __future__ import annotations

import torch

from lorcbench.config import compose
from lorcbench.core.settings import SENSITIVITY_TOKENS
from lorcbench.jobs import sources
from lorcbench.jobs.job import Job
from lorcbench.jobs.quantized import QuantizedModel
from lorcbench.jobs.walks import block_walk
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.models.sensitivity import divergences
from lorcbench.stages import run_by_old_name
from lorcbench.study.stages import CALIBRATION_TOKENS, PREPARE, QUANTIZE, SENSITIVITY


def main(job: Job) -> None:
    """Put the quantized linears, as the method made them in this format, in the place of the unquantized ones, by group."""
    job.at(SENSITIVITY)
    torch.set_num_threads(job.threads)
    job.use(PREPARE)
    job.use(QUANTIZE)
    windows = sources.read_windows(job.use(CALIBRATION_TOKENS))["calibration"]
    windows = windows[: max(1, SENSITIVITY_TOKENS // windows.shape[1])]
    identity = job.identity({"calibration": compose.plain(job.calibration), "weight": job.names.weight})
    checkpoint = sources.checkpoint(job.names)
    quantized = QuantizedModel(job.names, job.weight_format, job.runtime.device)
    walk = block_walk(job, checkpoint, job.calibration.dtype)
    found = divergences(walk, windows, quantized.block, lambda done, total: job.progress(done, total, "block"))
    errors = [_errors(checkpoint, index, quantized) for index in range(checkpoint.depth)]
    job.finish(identity, {"tokens": windows.numel(), "divergence": found, "error": errors})


def _errors(checkpoint: Checkpoint, index: int, quantized: QuantizedModel) -> dict[str, float]:
    """‖W - Ŵ‖² of each group of linears of a block, by the first linear of the group."""
    weights, approximate = checkpoint.linears(index), quantized.block(index)
    return {
        group[0]: sum(
            float((weights[name].to(quantized.device).float() - approximate[name]).double().square().sum()) for name in group
        )
        for group in checkpoint.architecture.linears
    }


if __name__ == "__main__":
    run_by_old_name(__spec__.name)
