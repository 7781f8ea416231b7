"""Hand a live model to lm-eval and return a flat dictionary."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TextIO


def measure(
    model, tokenizer, tasks: list[str], task_folder: Path, batch_size: int, length: int, log: TextIO
) -> dict[str, float]:
    """Run lm-eval's `simple_evaluate` on a model in memory.

    Args:
        tasks: names defined by the YAML files in `task_folder`.
        length: the model's longest sequence.
        log: where lm-eval's own output and progress bars go.

    Returns:
        ``{"task/metric": value}`` with standard errors as ``task/metric_stderr`` where lm-eval gives them.
    """
    # Local data only: without this lm-eval asks the hub before it looks at the files that the task names.
    os.environ["HF_HUB_OFFLINE"] = "1"
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        manager = TaskManager(include_path=str(task_folder), include_defaults=False)
        live = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device="cpu", max_length=length)
        report = lm_eval.simple_evaluate(
            model=live, tasks=tasks, task_manager=manager, bootstrap_iters=0, log_samples=False, random_seed=0
        )
    flat = {}
    for task in tasks:
        for name, value in report["results"][task].items():
            metric = name.removesuffix(",none")
            if isinstance(value, int | float) and metric not in ("alias", "sample_len"):
                flat[f"{task}/{metric}"] = float(value)
    return flat
