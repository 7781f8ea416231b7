"""lm-eval tasks of one quantized model at every LoRC rank asked for: the one stage that needs the whole model in memory."""

from __future__ import annotations

from collections.abc import Callable

from lorcbench.common.artifacts import verified
from lorcbench.config import compose
from lorcbench.jobs.job import Job
from lorcbench.jobs.variants import bring_up_to_date, split
from lorcbench.stages import run_by_old_name
from lorcbench.study.stages import HARNESS, TEXT, task_documents


def main(job: Job) -> None:
    """Measure the ranks that the file lacks."""
    job.at(HARNESS)
    settings = {"tasks": list(job.eval.tasks), "dtype": job.eval.dtype, "window": job.eval.window}
    for name in job.eval.tasks:
        documents = task_documents(name)
        job.use(documents.stage, f"task {name}", text=documents.names.text, task=documents.names.task)
    bring_up_to_date(job, settings, {}, _open_model)


def _open_model(job: Job) -> Callable[[str], dict]:
    """A function variant → what lm-eval measures of it."""
    import torch

    from lorcbench.data.corpora import load_tokenizer
    from lorcbench.jobs import inputs, sources
    from lorcbench.models.blocks import BlockWalk
    from lorcbench.models.harness import measure
    from lorcbench.models.surgery import install_weights, round_inputs

    torch.set_num_threads(job.threads)
    checkpoint = sources.checkpoint(job.names)
    tokenizer = load_tokenizer(checkpoint.folder)
    model = BlockWalk(checkpoint, getattr(torch, job.eval.dtype), job.runtime.device).whole()
    blocks = model.get_submodule(checkpoint.architecture.blocks)
    for block in blocks:
        round_inputs(block, checkpoint.architecture.linear_names, job.activation_format)
    own = [_definition(name) for name in job.eval.tasks]
    positions = getattr(model.config, "max_position_embeddings", None) if job.eval.fit else None
    window = min(job.eval.window, positions or job.eval.window)
    batch = max(1, job.runtime.batch_tokens // window)

    def measure_variant(variant: str) -> dict:
        weights = inputs.CellWeights(job.names, job.weight_format, checkpoint, *split(variant), job.runtime.device)
        for index, block in enumerate(blocks):
            install_weights(block, weights.block(index))
        names = list(job.eval.tasks)
        return measure(model, tokenizer, names, own, batch, window, job.log_file)

    return measure_variant


def _definition(name: str) -> dict:
    """The content of a task's YAML file, its documents being as they were staged."""
    from lorcbench.models.harness import local_task, stdlib_task

    documents = task_documents(name)
    comes_with_a_text = documents.stage is TEXT
    file = f"tasks/{name}.jsonl" if comes_with_a_text else "documents.parquet"
    verified(documents.folder, documents.stage.kind, file)
    if comes_with_a_text:
        return stdlib_task(name, documents.folder / file)
    return local_task(name, compose.load("task", name).definition, documents.folder / file)


if __name__ == "__main__":
    run_by_old_name(__spec__.name)
