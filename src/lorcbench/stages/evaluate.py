"""Perplexity of one quantized model, at every LoRC rank that the study asks for, in one process and one file."""

from __future__ import annotations

from collections.abc import Callable

from lorcbench.common.artifacts import fingerprint, read_json
from lorcbench.jobs.job import Job
from lorcbench.jobs.variants import bring_up_to_date, mark, split
from lorcbench.stages import run_by_old_name
from lorcbench.study.stages import EVALUATE, TOKENS


def main(job: Job) -> None:
    """Measure the ranks that the file lacks; torch is not even imported when it lacks none."""
    job.at(EVALUATE)
    tokens = read_json(job.use(TOKENS) / "result.json", TOKENS.kind)
    about = {key: tokens[key] for key in ("corpora", "added")}  # hash and length of every stream beside its losses
    bring_up_to_date(job, job.eval.protocol(), about, _open_model)


def _open_model(job: Job) -> Callable[[str], dict]:
    import torch

    from lorcbench.jobs import inputs, sources
    from lorcbench.jobs.walks import block_walk
    from lorcbench.models.perplexity import window_losses
    from lorcbench.models.states import KeptStates

    torch.set_num_threads(job.threads)
    windows = sources.read_windows(job.folder_of(TOKENS))
    checkpoint = sources.checkpoint(job.names)
    walk = block_walk(job, checkpoint, job.eval.dtype)

    def progress(done: float, total: int) -> None:
        job.progress(done, total, "block")

    def measure(variant: str) -> dict:
        weights = inputs.CellWeights(job.names, job.weight_format, checkpoint, *split(variant), job.runtime.device)
        # Of the model itself also which channels of its inputs stand out: what a method is up against.
        channels = {} if job.names.method == "none" and job.activation_format.is_full_precision else None
        states = KeptStates(job.folder / "hidden.part", _walk_mark(job, variant), job.runtime.keep_minutes, job.say)
        with states as kept:
            losses = window_losses(walk, windows, weights.block, job.activation_format, channels, kept, progress)
        about = {"nll": losses, "weights": walk.linear_weights, **weights.size(), "attention": walk.attention}
        return about | ({"channels": channels} if channels else {})

    return measure


def _walk_mark(job: Job, variant: str) -> str:
    """What the hidden states of a variant's walk depend on, to the last bit."""
    runtime = job.runtime
    return fingerprint([mark(job, variant, job.eval.protocol()), job.identity(None), runtime.device, runtime.batch_tokens])


if __name__ == "__main__":
    run_by_old_name(__spec__.name)
