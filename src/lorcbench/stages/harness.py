"""lm-eval tasks of one quantized model at every LoRC rank asked for: the one stage that needs the whole model in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lorcbench import paths
from lorcbench.job import Job, run
from lorcbench.variants import bring_up_to_date, split


def main(job: Job) -> None:
    """Measure the ranks that the file lacks."""
    job.at(paths.HARNESS)
    bring_up_to_date(job, "harness", {"tasks": list(job.eval.tasks), "dtype": job.eval.dtype}, _opened)


def _opened(job: Job) -> Callable[[str], dict]:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from lorcbench import inputs
    from lorcbench.checkpoint import Checkpoint
    from lorcbench.corpora import load_tokenizer
    from lorcbench.formats import ActivationFormat
    from lorcbench.harness import measure
    from lorcbench.surgery import install_weights, round_inputs

    disable_progress_bar()
    torch.set_num_threads(job.threads)
    folder = inputs.checkpoint_folder(job.names)
    checkpoint, tokenizer = Checkpoint(folder), load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, job.eval.dtype)).eval()
    blocks = model.get_submodule(checkpoint.architecture.blocks)
    for block in blocks:
        round_inputs(block, checkpoint.architecture.linear_names, ActivationFormat.parse(job.names["activation"]))
    tasks = Path(paths.TEXT.format(text=job.eval.text)) / "tasks"
    batch = max(1, job.runtime.batch_tokens // job.eval.window)

    def measured(variant: str) -> dict:
        weights = inputs.CellWeights(job.names, *split(variant))
        for index, block in enumerate(blocks):
            install_weights(block, weights.block(index, checkpoint))
        names = list(job.eval.tasks)
        return {"metrics": measure(model, tokenizer, names, tasks, batch, job.eval.window, job.log_file)}

    return measured


if __name__ == "__main__":
    run("harness", main)
