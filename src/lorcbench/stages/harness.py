"""lm-eval tasks of one quantized model at every LoRC rank asked for: the one stage that needs the whole model in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lorcbench.common.artifacts import verified
from lorcbench.config import compose
from lorcbench.config.protocols import TaskConfig
from lorcbench.jobs.job import Job
from lorcbench.jobs.variants import Found, bring_up_to_date, one_by_one, split
from lorcbench.stages import run_by_old_name
from lorcbench.study.graph import task_documents
from lorcbench.study.stages import HARNESS, TEXT


def main(job: Job) -> None:
    """Measure the ranks that the file lacks."""
    job.at(HARNESS)
    tasks = {name: compose.load("task", name) for name in job.eval.tasks}
    settings: dict[str, Any] = {"tasks": list(tasks), "dtype": job.eval.dtype, "window": job.eval.window}
    if measured := {name: changes for name, task in tasks.items() if (changes := task.measured())}:
        settings["measured"] = measured
    if templates := _templates(job, tasks):
        settings["chat_templates"] = templates
    for name in tasks:
        documents = task_documents(name)
        job.use(documents.stage, f"task {name}", text=documents.names.text, task=documents.names.task)
    bring_up_to_date(job, settings, {}, _open_model)


def _templates(job: Job, tasks: dict[str, TaskConfig]) -> dict[str, str]:
    """The digest of the chat template of each task that has one; refused before the model is read if there is none."""
    asked = {name: task.chat for name, task in tasks.items() if task.chat is not None}
    if not asked:
        return {}
    from lorcbench.data.corpora import load_tokenizer
    from lorcbench.jobs import sources
    from lorcbench.models.harness import chat_template, digest

    tokenizer = load_tokenizer(sources.checkpoint_folder(job.names, "config.json"))
    return {name: digest(chat_template(tokenizer, chat)) for name, chat in asked.items()}


def _open_model(job: Job) -> Callable[[list[str]], Found]:
    """A function variants → what lm-eval measures of each, one after another: the model is in memory once."""
    import torch

    from lorcbench.data.corpora import load_tokenizer
    from lorcbench.jobs import inputs, sources
    from lorcbench.models.blocks import BlockWalk
    from lorcbench.models.harness import measure
    from lorcbench.models.spread import whole, with_generation
    from lorcbench.models.surgery import install_weights, round_inputs

    torch.set_num_threads(job.threads)
    checkpoint = sources.checkpoint(job.names)
    tokenizer = load_tokenizer(checkpoint.folder)
    tasks = [_task(name) for name in job.eval.tasks]
    model = whole(BlockWalk(checkpoint, getattr(torch, job.eval.dtype), job.runtime.device))
    with_generation(model, checkpoint.folder)
    blocks = model.get_submodule(checkpoint.architecture.blocks)
    for block in blocks:
        round_inputs(block, checkpoint.architecture.linear_names, job.activation_format)
    positions = getattr(model.config, "max_position_embeddings", None) if job.eval.fit else None
    window = min(job.eval.window, positions or job.eval.window)

    def measure_variant(variant: str) -> dict:
        weights = inputs.CellWeights(job.names, job.weight_format, checkpoint, *split(variant), job.runtime.device)
        for index, block in enumerate(blocks):
            install_weights(block, weights.block(index))
        return measure(model, tokenizer, tasks, job.runtime.batch_tokens, window, job.log_file)

    return one_by_one(job, measure_variant)


def _task(name: str):
    """A task as lm-eval takes it, its documents being as they were staged."""
    from lorcbench.models.harness import Task
    from lorcbench.models.task_definitions import over_staged, stdlib_task

    settings, documents, stem = compose.load("task", name), task_documents(name), name.partition("+")[0]
    comes_with_a_text = documents.stage is TEXT
    if comes_with_a_text:
        file = f"tasks/{stem}.jsonl"
        verified(documents.folder, documents.stage.kind, file)
        return Task(name, [stdlib_task(stem, documents.folder / file)], settings)
    verified(documents.folder, documents.stage.kind)
    return Task(name, over_staged(stem, settings, documents.folder), settings)


if __name__ == "__main__":
    run_by_old_name(__spec__.name)
