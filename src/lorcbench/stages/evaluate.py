"""Perplexity of one quantized model, at every LoRC rank that the study asks for, in one process and one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lorcbench.common import paths
from lorcbench.common.artifacts import read_json
from lorcbench.jobs.job import Job, run
from lorcbench.jobs.variants import bring_up_to_date, split


def main(job: Job) -> None:
    """Measure the ranks that the file lacks; torch is not even imported when it lacks none."""
    job.at(paths.EVALUATION)
    tokens = read_json(Path(paths.TOKENS.format(**job.names)) / "result.json", "tokens")
    about = {key: tokens[key] for key in ("corpora", "added")}  # hash and length of every stream beside its losses
    bring_up_to_date(job, "perplexity", job.eval.protocol(), {"tokens": tokens["digest"]}, about, _opened)


def _opened(job: Job) -> Callable[[str], dict]:
    import torch

    from lorcbench.jobs import inputs
    from lorcbench.jobs.walks import block_walk
    from lorcbench.models.checkpoint import Checkpoint
    from lorcbench.models.perplexity import window_losses

    torch.set_num_threads(job.threads)
    windows, _ = inputs.read_windows(Path(paths.TOKENS.format(**job.names)))
    checkpoint = Checkpoint(inputs.checkpoint_folder(job.names))
    walk = block_walk(job, checkpoint, job.eval.dtype)

    def measure(variant: str) -> dict:
        weights = inputs.CellWeights(job.names, checkpoint, *split(variant), job.runtime.device)
        losses = window_losses(walk, windows, weights.block, job.names["activation"])
        return {"nll": losses, "weights": walk.linear_weights, **weights.size(), "attention": walk.attention}

    return measure


if __name__ == "__main__":
    run("evaluate", main)
