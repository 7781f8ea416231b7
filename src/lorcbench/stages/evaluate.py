"""Perplexity of one quantized model, at every LoRC rank that the study asks for, in one process and one file."""

from __future__ import annotations

from collections.abc import Callable

from lorcbench.common.artifacts import fingerprint, read_json
from lorcbench.jobs.job import Job
from lorcbench.jobs.variants import bring_up_to_date, mark, split
from lorcbench.stages import run_by_old_name
from lorcbench.study.graph import full_precision
from lorcbench.study.stages import EVALUATE, TOKENS

SAME = {"kl": 0.0, "agree": 1.0}  # of predictions that are the same


def main(job: Job) -> None:
    """Measure the ranks that the file lacks; torch is not even imported when it lacks none."""
    job.at(EVALUATE)
    tokens = read_json(job.use(TOKENS) / "result.json", TOKENS.kind)
    if full := full_precision(job.names):
        job.use(EVALUATE, "full_precision", **vars(full.names))
    about = {key: tokens[key] for key in ("corpora", "added")}  # hash and length of every stream beside its losses
    bring_up_to_date(job, job.eval.protocol(), about, _open_model)


def _open_model(job: Job) -> Callable[[str], dict]:
    import torch

    from lorcbench.jobs import full_precision as reference
    from lorcbench.jobs import inputs, sources
    from lorcbench.jobs.walks import block_walk
    from lorcbench.models.perplexity import window_scores
    from lorcbench.models.states import KeptStates

    torch.set_num_threads(job.threads)
    windows = sources.read_windows(job.folder_of(TOKENS))
    checkpoint = sources.checkpoint(job.names)
    compared = reference.stored(job, windows)
    walk = block_walk(job, checkpoint, job.eval.dtype)

    def progress(done: float, total: int) -> None:
        job.progress(done, total, "block")

    def measure(variant: str) -> dict:
        """What is measured of one rank, as the result file has it."""
        weights = inputs.CellWeights(job.names, job.weight_format, checkpoint, *split(variant), job.runtime.device)
        # Of the model itself also which channels of its inputs stand out: what a method is up against.
        is_full = job.names.method == "none" and job.activation_format.is_full_precision
        channels = {} if is_full else None
        own: dict = {"channels": channels}
        if stores := is_full and job.eval.divergence:
            reference.check_room(job, walk, windows)

        def store(hidden: dict) -> None:
            if stores:
                own["states"] = reference.store(job, hidden)

        states = KeptStates(job.folder / "hidden.part", _walk_mark(job, variant), job.runtime.keep_minutes, job.say)
        with states as kept:
            full = compared.read if compared else None
            fmt = job.activation_format
            scores = window_scores(walk, windows, weights.block, fmt, channels, kept, progress, full, store)
        if "states" in own:  # its predictions are compared with themselves
            scores |= {
                name: {corpus: [value] * len(tokens) for corpus, tokens in windows.items()} for name, value in SAME.items()
            }
        about = {**scores, "weights": walk.linear_weights, **weights.size(), "attention": walk.attention}
        return about | {name: value for name, value in own.items() if value}

    return measure


def _walk_mark(job: Job, variant: str) -> str:
    """What the hidden states of a variant's walk depend on, to the last bit."""
    runtime = job.runtime
    return fingerprint([mark(job, variant, job.eval.protocol()), job.identity(None), runtime.device, runtime.batch_tokens])


if __name__ == "__main__":
    run_by_old_name(__spec__.name)
