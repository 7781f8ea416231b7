"""lm-eval tasks of one quantized model at every LoRC rank asked for: the one stage that needs the whole model in memory."""

from __future__ import annotations

from pathlib import Path

from lorcbench import paths
from lorcbench.job import Job, run
from lorcbench.stages.evaluate import finished, split, variant_identity


def main(job: Job) -> None:
    """Bring the file up to the variants asked for."""
    folder = job.at(paths.HARNESS)
    settings = {"tasks": list(job.eval.tasks), "dtype": job.eval.dtype}
    wanted = {variant: variant_identity(job, variant, settings) for variant in job.cfg.variants}
    before = finished(folder, "harness")
    missing = [variant for variant, identity in wanted.items() if before.get(variant, {}).get("identity") != identity]
    found = {}
    if missing:
        found = {name: {"identity": wanted[name], **entry} for name, entry in _measure(job, missing).items()}
    job.log(f"measured {sorted(found)}")
    job.finish("harness", {"stage": "harness"}, {"variants": {**before, **found}})


def _measure(job: Job, variants: list[str]) -> dict:
    import torch
    from transformers import AutoModelForCausalLM

    from lorcbench import inputs
    from lorcbench.checkpoint import Checkpoint
    from lorcbench.corpora import load_tokenizer
    from lorcbench.formats import ActivationFormat
    from lorcbench.harness import measure
    from lorcbench.surgery import install_weights, round_inputs

    torch.set_num_threads(job.threads)
    folder = inputs.checkpoint_folder(job.names)
    checkpoint, tokenizer = Checkpoint(folder), load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, job.eval.dtype)).eval()
    blocks = model.get_submodule(checkpoint.architecture.blocks)
    for block in blocks:
        round_inputs(block, checkpoint.architecture.linear_names, ActivationFormat.parse(job.names["activation"]))
    found = {}
    for number, variant in enumerate(variants):
        weights = inputs.CellWeights(job.names, *split(variant))
        for index, block in enumerate(blocks):
            install_weights(block, weights.block(index, checkpoint))
        tasks = Path(paths.TEXT.format(text=job.eval.text)) / "tasks"
        batch = max(1, job.runtime.batch_tokens // job.eval.window)
        found[variant] = measure(model, tokenizer, list(job.eval.tasks), tasks, batch, job.eval.window)
        job.progress(number + 1, len(variants), "rank")
    return found


if __name__ == "__main__":
    run("harness", main)
