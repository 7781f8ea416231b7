"""Perplexity of one quantized model, at every LoRC rank that the study asks for, in one process and one file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lorcbench.common.artifacts import FAILURES, fingerprint, read_json
from lorcbench.jobs.job import Job
from lorcbench.jobs.progress import Ranks
from lorcbench.jobs.variants import Found, bring_up_to_date, mark, split
from lorcbench.stages import run_by_old_name
from lorcbench.study.graph import full_precision
from lorcbench.study.stages import EVALUATE, TOKENS

if TYPE_CHECKING:  # torch is not imported where nothing is missing
    from lorcbench.jobs.inputs import CellWeights
    from lorcbench.models.checkpoint import Checkpoint

SAME = {"kl": 0.0, "agree": 1.0}  # of predictions that are the same


def main(job: Job) -> None:
    """Measure the ranks that the file lacks; torch is not even imported when it lacks none."""
    job.at(EVALUATE)
    tokens = read_json(job.use(TOKENS) / "result.json", TOKENS.kind)
    if full := full_precision(job.names):
        job.use(EVALUATE, "full_precision", **vars(full.names))
    about = {key: tokens[key] for key in ("corpora", "added")}  # hash and length of every stream beside its losses
    bring_up_to_date(job, job.eval.protocol(), about, _open_model)


def _open_model(job: Job) -> Callable[[list[str]], Found]:
    """A function variants → what is measured of each; as many walk through the model together as the runtime lets."""
    import torch

    from lorcbench.jobs import full_precision as reference
    from lorcbench.jobs import sources
    from lorcbench.jobs.walks import block_walk
    from lorcbench.models.perplexity import bytes_of_rank, scores_of_ranks
    from lorcbench.models.states import KeptStates

    torch.set_num_threads(job.threads)
    windows = sources.read_windows(job.folder_of(TOKENS))
    checkpoint = sources.checkpoint(job.names)
    compared = reference.stored(job, windows)
    walk = block_walk(job, checkpoint, job.eval.dtype)
    # Of the model itself also which channels of its inputs stand out: what a method is up against.
    is_full = job.names.method == "none" and job.activation_format.is_full_precision
    stores = is_full and job.eval.divergence

    def progress(done: float, total: int) -> None:
        job.progress(done, total, "block")

    def measure(variants: list[str]) -> dict[str, dict | Exception]:
        """What is measured of ranks that walk together, as the result file has it."""
        weights, found = _weights(job, checkpoint, variants)
        if not weights:
            return found
        channels = {} if is_full else None
        own: dict = {"channels": channels}
        if stores:
            reference.check_room(job, walk, windows)

        def store(hidden: dict) -> None:
            if stores:
                own["states"] = reference.store(job, hidden)

        states = KeptStates(job.folder / "hidden.part", _walk_mark(job, list(weights)), job.runtime.keep_minutes, job.say)
        with states as kept:
            full = compared.read if compared else None
            blocks = {variant: of_rank.block for variant, of_rank in weights.items()}
            found |= scores_of_ranks(walk, windows, blocks, job.activation_format, channels, kept, progress, full, store)
        if "states" in own:  # its predictions are compared with themselves
            same = {name: {corpus: [value] * len(tokens) for corpus, tokens in windows.items()} for name, value in SAME.items()}
            own |= same
        about = {"weights": walk.linear_weights, "attention": walk.attention}
        about |= {name: value for name, value in own.items() if value}
        return {
            variant: scores if isinstance(scores, Exception) else {**scores, **about, **weights[variant].size()}
            for variant, scores in found.items()
        }

    def measured(variants: list[str]) -> Found:
        together = job.runtime.ranks_together(len(variants), bytes_of_rank(walk, windows))
        for start in range(0, len(variants), together):
            group = variants[start : start + together]
            job.ranks = Ranks(start, start + len(group), len(variants), group[0] if len(group) == 1 else "")
            try:
                found = measure(group)
            except FAILURES as error:
                found = dict.fromkeys(group, error)
            yield from found.items()

    return measured


def _weights(job: Job, checkpoint: Checkpoint, variants: list[str]) -> tuple[dict[str, CellWeights], dict[str, Exception]]:
    """The weights of ranks that share what they read; and of those that cannot be opened, why."""
    from lorcbench.jobs.inputs import CellWeights

    opened, failed = {}, {}
    names, fmt, device = job.names, job.weight_format, job.runtime.device
    for variant in variants:
        beside = next(iter(opened.values()), None)
        try:
            opened[variant] = CellWeights(names, fmt, checkpoint, *split(variant), device, beside)
        except FAILURES as error:
            failed[variant] = error
    return opened, failed


def _walk_mark(job: Job, variants: list[str]) -> str:
    """What the hidden states of ranks that walk together depend on, to the last bit."""
    runtime, marks = job.runtime, [mark(job, variant, job.eval.protocol()) for variant in variants]
    return fingerprint([*marks, job.identity(None), runtime.device, runtime.batch_tokens])


if __name__ == "__main__":
    run_by_old_name(__spec__.name)
