"""Hand a live model to lm-eval and return plain dictionaries; lm-eval's own tasks over documents that were staged."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import TextIO

_BOOTSTRAP = 1000  # resamples, for the metrics whose standard error lm-eval has no formula for


class HarnessError(Exception):
    """A task that cannot be had or run; the message names it."""


def definition(path: str) -> tuple[Path, dict]:
    """A task file of lm-eval's tasks folder, and what it says with its includes.

    Raises:
        HarnessError: there is no such file.
    """
    import lm_eval
    from lm_eval.tasks._yaml_loader import load_yaml  # what its own index reads: no other way takes includes and !function

    file = Path(lm_eval.__file__).parent / "tasks" / path
    if not file.is_file():
        raise HarnessError(f"task.definition={path}: lm-eval {lm_eval.__version__} has no such file in its tasks folder")
    return file, load_yaml(file, resolve_func=False)


def scored_split(task: dict) -> str:
    """The split that lm-eval scores: the test split if the task has one, else the validation split."""
    return task.get("test_split") or task["validation_split"]


def local_task(name: str, path: str, documents: Path) -> dict:
    """lm-eval's own task `name` over staged documents, as the content of a YAML file.

    Prompts, metrics, version and code stay lm-eval's; where the documents are changes. Without shots no other split is read.

    Args:
        path: of the definition in lm-eval's tasks folder.
        documents: a Parquet file.
    """
    file, task = definition(path)
    split = scored_split(task)
    kept = "test_split" if task.get("test_split") else "validation_split"
    return {
        "include": str(file),
        "task": name,
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(documents.resolve())}},
        **dict.fromkeys(("training_split", "validation_split", "test_split", "fewshot_split")),
        kept: split,
    }


_METRICS = {
    "stdlib_prose": ["word_perplexity", "byte_perplexity", "bits_per_byte"],
    "stdlib_continuation": ["acc", "acc_norm"],
}


def stdlib_task(name: str, documents: Path) -> dict:
    """One of the two tasks made from the text that Python carries, as the content of a YAML file.

    Args:
        documents: a JSONL file.
    """
    task = {
        "task": name,
        "dataset_path": "json",
        # Absolute: lm-eval resolves it against its own working directory.
        "dataset_kwargs": {"data_files": {"test": str(documents.resolve())}},
        "test_split": "test",
        "metric_list": [{"metric": metric} for metric in _METRICS[name]],
        "metadata": {"version": 1.0},
    }
    if name == "stdlib_prose":
        return {**task, "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
    fields = {"doc_to_text": "{{context}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{label}}"}
    return {**task, "output_type": "multiple_choice", "target_delimiter": "", **fields}


def measure(model, tokenizer, tasks: list[str], own: list[dict], batch_size: int, length: int, log: TextIO) -> dict[str, dict]:
    """Run lm-eval's `simple_evaluate` on a model in memory.

    Args:
        tasks: names to measure.
        own: contents of the YAML files that define them, as `local_task` and `stdlib_task` make them.
        length: the model's longest sequence.
        log: where lm-eval's own output and progress bars go.

    Returns:
        ``metrics``: ``{"task/metric": value}``, with standard errors as ``task/metric_stderr`` where lm-eval gives them;
        ``documents``: what every document gives for a metric, so that cells can be compared document by document; ``tasks``:
        version, number of documents and shots of each; ``prefix_token``: what stands before a text without context.
    """
    os.environ["DISABLE_MULTIPROC"] = "1"  # its bootstrap would start a process for every core
    import datasets
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    # Local data only: without this `datasets` looks at the network before it looks at the files that a task names. Not by an
    # environment variable, which is read at import, and a warm process has imported it.
    datasets.config.HF_HUB_OFFLINE = True
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        for task in own:  # JSON is YAML
            (Path(temporary) / f"{task['task']}.yaml").write_text(json.dumps(task), encoding="utf-8")
        manager = TaskManager(include_path=temporary, include_defaults=False)
        device = str(next(model.parameters()).device)
        live = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device=device, max_length=length)
        report = lm_eval.simple_evaluate(
            model=live, tasks=tasks, task_manager=manager, bootstrap_iters=_BOOTSTRAP, log_samples=True, random_seed=0
        )
    prefix = {"id": live.prefix_token_id, "text": tokenizer.decode([live.prefix_token_id])}
    metrics = _metrics(report, tasks)
    found = {"metrics": metrics, "documents": _documents(report, metrics), "tasks": _described(report, tasks)}
    return {**found, "prefix_token": prefix}


def _metrics(report: dict, tasks: list[str]) -> dict[str, float]:
    flat = {}
    for task in tasks:
        for name, value in report["results"][task].items():
            metric = name.removesuffix(",none")
            if isinstance(value, int | float) and metric not in ("alias", "sample_len"):
                flat[f"{task}/{metric}"] = float(value)
    return flat


def _documents(report: dict, metrics: dict[str, float]) -> dict[str, list]:
    found = {}
    for name in metrics:
        task, _, metric = name.rpartition("/")
        samples = sorted(report["samples"][task], key=lambda sample: sample["doc_id"])
        if all(metric in sample for sample in samples):
            found[name] = [_plain(sample[metric]) for sample in samples]
    return found


def _plain(value) -> float | list[float]:
    return [float(part) for part in value] if isinstance(value, tuple | list) else float(value)


def _described(report: dict, tasks: list[str]) -> dict[str, dict]:
    return {
        task: {
            "version": report["versions"][task],
            "documents": report["n-samples"][task]["effective"],
            "shots": report["n-shot"][task],
        }
        for task in tasks
    }
