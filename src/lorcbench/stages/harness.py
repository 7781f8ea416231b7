"""lm-eval tasks of one quantized model at every LoRC rank asked for: the one stage that needs the whole model in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lorcbench.common import paths
from lorcbench.common.artifacts import verified
from lorcbench.config import compose
from lorcbench.jobs.job import Job, input_digest, run
from lorcbench.jobs.variants import bring_up_to_date, split


def main(job: Job) -> None:
    """Measure the ranks that the file lacks."""
    job.at(paths.HARNESS)
    settings = {"tasks": list(job.eval.tasks), "dtype": job.eval.dtype, "window": job.eval.window}
    sources = {f"task {name}": input_digest(folder, kind) for name, (folder, kind) in _staged(job).items()}
    bring_up_to_date(job, "harness", settings, sources, {}, _opened)


def _staged(job: Job) -> dict[str, tuple[Path, str]]:
    """Folder and kind of what each task is staged with."""
    staged = {}
    for name in job.eval.tasks:
        text = compose.load("task", name).text
        staged[name] = (Path(paths.task_folder(name, text)), "text" if text else "task")
    return staged


def _opened(job: Job) -> Callable[[str], dict]:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from lorcbench.core.formats import ActivationFormat
    from lorcbench.data.corpora import load_tokenizer
    from lorcbench.jobs import inputs
    from lorcbench.models.checkpoint import Checkpoint
    from lorcbench.models.harness import measure
    from lorcbench.models.surgery import install_weights, round_inputs

    disable_progress_bar()
    torch.set_num_threads(job.threads)
    folder = inputs.checkpoint_folder(job.names)
    checkpoint, tokenizer = Checkpoint(folder), load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, job.eval.dtype)).eval().to(job.runtime.device)
    blocks = model.get_submodule(checkpoint.architecture.blocks)
    for block in blocks:
        round_inputs(block, checkpoint.architecture.linear_names, ActivationFormat.parse(job.names["activation"]))
    staged = _staged(job)
    own = [_definition(name, folder, kind) for name, (folder, kind) in staged.items()]
    batch = max(1, job.runtime.batch_tokens // job.eval.window)

    def measured(variant: str) -> dict:
        weights = inputs.CellWeights(job.names, checkpoint, *split(variant), job.runtime.device)
        for index, block in enumerate(blocks):
            install_weights(block, weights.block(index))
        names = list(job.eval.tasks)
        return measure(model, tokenizer, names, own, batch, job.eval.window, job.log_file)

    return measured


def _definition(name: str, folder: Path, kind: str) -> dict:
    """The content of a task's YAML file, its documents being as they were staged."""
    from lorcbench.models.harness import local_task, stdlib_task

    file = f"tasks/{name}.jsonl" if kind == "text" else "documents.parquet"
    verified(folder, kind, file)
    if kind == "text":
        return stdlib_task(name, folder / file)
    return local_task(name, compose.load("task", name).definition, folder / file)


if __name__ == "__main__":
    run("harness", main)
