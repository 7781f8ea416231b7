"""Measure a live model by lm-eval: its own tasks over staged documents, and two tasks made from Python's own text."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import TextIO

_BOOTSTRAP = 1000  # resamples, for metrics whose standard error lm-eval does not compute by a formula


class HarnessError(Exception):
    """A task is missing or cannot be run; the message names it."""


def definition(path: str) -> tuple[Path, dict]:
    """A file of lm-eval's tasks folder, and its content with that of its includes.

    Args:
        path: of the file in that folder.

    Raises:
        HarnessError: there is no such file.
    """
    import lm_eval
    from lm_eval.tasks._yaml_loader import load_yaml  # lm-eval's own reader; no other knows its includes and !function

    file = Path(lm_eval.__file__).parent / "tasks" / path
    if not file.is_file():
        raise HarnessError(f"task.definition={path}: lm-eval {lm_eval.__version__} has no such file in its tasks folder")
    return file, load_yaml(file, resolve_func=False)


def scored_split(task: dict) -> str:
    """The name of the split that lm-eval scores: of the test split if the task has one, else of the validation split."""
    return task.get("test_split") or task["validation_split"]


def local_task(name: str, path: str, documents: Path) -> dict:
    """lm-eval's own task `name` over staged documents, as the content of a YAML file.

    Prompts, metrics, version and code stay lm-eval's; only the place of the documents changes. The other splits are taken
    out: without few-shot examples lm-eval reads none of them.

    Args:
        path: of the definition in lm-eval's tasks folder.
        documents: a Parquet file of the split that is scored.
    """
    file, task = definition(path)
    split = scored_split(task)
    split_key = "test_split" if task.get("test_split") else "validation_split"
    return {
        "include": str(file),
        "task": name,
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(documents.resolve())}},
        **dict.fromkeys(("training_split", "validation_split", "test_split", "fewshot_split")),
        split_key: split,
    }


_METRICS = {
    "stdlib_prose": ["word_perplexity", "byte_perplexity", "bits_per_byte"],
    "stdlib_continuation": ["acc", "acc_norm"],
}


def stdlib_task(name: str, documents: Path) -> dict:
    """One of the two tasks made from the text that Python carries, as the content of a YAML file.

    Args:
        name: ``stdlib_prose`` or ``stdlib_continuation``.
        documents: a JSONL file, as `lorcbench.data.stdlib_text.harness_tasks` makes its documents.
    """
    task = {
        "task": name,
        "dataset_path": "json",
        # An absolute path, since lm-eval resolves it against its own working directory.
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
        length: tokens in the model's longest sequence.
        log: where lm-eval's own output and progress bars go.

    Raises:
        HarnessError: a task puts a token before its texts, and the tokenizer has none for that.

    Returns:
        ``metrics``: ``{"task/metric": value}``, with standard errors as ``task/metric_stderr`` where lm-eval gives them;
        ``documents``: ``{"task/metric": [value of each document]}``, so that cells can be compared document by document;
        ``tasks``: version, number of documents and shots of each; ``prefix_token``: the token before a text without context.
    """
    os.environ["DISABLE_MULTIPROC"] = "1"  # else lm-eval's bootstrap starts one process per core
    import datasets
    import lm_eval
    from lm_eval.tasks import TaskManager

    # Without this `datasets` asks the network before it opens the local files that a task names. An environment variable
    # would not do: it is read when `datasets` is imported, and a warm process has imported it already.
    datasets.config.HF_HUB_OFFLINE = True
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        for task in own:  # JSON is YAML, too
            (Path(temporary) / f"{task['task']}.yaml").write_text(json.dumps(task), encoding="utf-8")
        manager = TaskManager(include_path=temporary, include_defaults=False)
        device = str(next(model.parameters()).device)
        live = _live_class(tokenizer)(
            pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device=device, max_length=length
        )
        report = lm_eval.simple_evaluate(
            model=live, tasks=tasks, task_manager=manager, bootstrap_iters=_BOOTSTRAP, log_samples=True, random_seed=0
        )
    metrics = _metrics(report, tasks)
    return {
        "metrics": metrics,
        "documents": _documents(report, metrics),
        "tasks": _described(report, tasks),
        "prefix_token": _prefix_token(tokenizer, live),
    }


def _live_class(tokenizer) -> type:
    """lm-eval's class for a model in memory; for a tokenizer without BOS and EOS, one that does without where it can.

    lm-eval puts BOS, else EOS, before a text without context. It also asks for that token where nothing needs it: to see
    whether a text begins with it.
    """
    from lm_eval.models.huggingface import HFLM

    if _has_prefix(tokenizer):
        return HFLM

    class WithoutPrefix(HFLM):
        @property
        def prefix_token_id(self) -> int:
            where = tokenizer.name_or_path or "the tokenizer"
            raise HarnessError(
                f"{where}: names neither bos_token nor eos_token, of which lm-eval puts one before a text without context; "
                "name one in tokenizer_config.json, or choose tasks that need none"
            )

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options) -> list[int]:
            own = self.add_bos_token if self.add_bos_token is not None else True  # as lm-eval chooses where it has a prefix
            return super().tok_encode(string, own if add_special_tokens is None else add_special_tokens, **options)

    return WithoutPrefix


def _has_prefix(tokenizer) -> bool:
    return tokenizer.bos_token_id is not None or tokenizer.eos_token_id is not None


def _prefix_token(tokenizer, live) -> dict:
    """Number and text of the token before a text without context; None and no text if the tokenizer has none."""
    if not _has_prefix(tokenizer):
        return {"id": None, "text": ""}
    return {"id": live.prefix_token_id, "text": tokenizer.decode([live.prefix_token_id])}


def _metrics(report: dict, tasks: list[str]) -> dict[str, float]:
    """``task/metric`` → value, of all numbers that lm-eval reports; ``,none``, its name for "no filter", is cut off.

    Raises:
        ArithmeticError: a metric is NaN or infinite. A standard error that is, as that of one document, is left out.
    """
    flat = {}
    for task in tasks:
        for name, value in report["results"][task].items():
            metric = name.removesuffix(",none")
            if isinstance(value, int | float) and metric not in ("alias", "sample_len"):
                if not math.isfinite(value):
                    if metric.endswith("_stderr"):
                        continue
                    raise ArithmeticError(f"task {task}: {metric} is {value}: a number is too large for the model's type")
                flat[f"{task}/{metric}"] = float(value)
    return flat


def _documents(report: dict, metrics: dict[str, float]) -> dict[str, list]:
    """``task/metric`` → the value of each document, in their order, for metrics that documents have by themselves."""
    values = {}
    for name in metrics:
        task, _, metric = name.rpartition("/")
        samples = sorted(report["samples"][task], key=lambda sample: sample["doc_id"])
        if all(metric in sample for sample in samples):
            values[name] = [_plain(sample[metric]) for sample in samples]
    return values


def _plain(value) -> float | list[float]:
    """A metric of one document, for JSON: a number or a list, such as a log-likelihood and the number of its words."""
    return [float(part) for part in value] if isinstance(value, tuple | list) else float(value)


def _described(report: dict, tasks: list[str]) -> dict[str, dict]:
    """Version, number of documents and number of few-shot examples of each task."""
    return {
        task: {
            "version": report["versions"][task],
            "documents": report["n-samples"][task]["effective"],
            "shots": report["n-shot"][task],
        }
        for task in tasks
    }
