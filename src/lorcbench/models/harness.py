"""Measure a live model by lm-eval: its tasks and groups over staged documents, and two tasks made from Python's own text."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from lorcbench.config.protocols import TaskConfig
from lorcbench.models.task_definitions import HarnessError

_BOOTSTRAP = 1000  # resamples, for metrics whose standard error lm-eval does not compute by a formula
_PYTHON_SEED = 0  # of the generators beside that of few-shot examples; lm-eval has these defaults
_OTHER_SEED = 1234
# Metrics that documents give as a log-likelihood and the number of its words or bytes.
_PER_UNIT = ("word_perplexity", "byte_perplexity", "bits_per_byte")


@dataclass(frozen=True)
class Task:
    """One task or group to measure.

    Attributes:
        name: in results: the conf file's, with its changes.
        contents: of the YAML files that define it; what is asked for first, then the members of a group.
        settings: how it is measured.
    """

    name: str
    contents: list[dict]
    settings: TaskConfig

    @property
    def asked(self) -> str:
        """What lm-eval calls it."""
        return self.contents[0].get("group") or self.contents[0]["task"]

    def label(self, name: str) -> str:
        """What results call a task of lm-eval: a member of a group has the changes of the group's name behind its own."""
        changes = self.name[len(self.name.partition("+")[0]) :]
        return self.name if name == self.asked else name + changes


def chat_template(tokenizer, chat: str) -> str:
    """The template of the tokenizer that a task asks for: ``true``, or the name of one of several.

    Raises:
        HarnessError: the tokenizer has none, or none of that name.
    """
    templates, where = tokenizer.chat_template, tokenizer.name_or_path or "the tokenizer"
    if not templates:
        expected = "expected a tokenizer_config.json or chat_template.jinja that names one, or tasks without chat"
        raise HarnessError(f"task.chat={chat}: {where} has no chat template; {expected}")
    known = templates if isinstance(templates, dict) else {"default": templates}
    name = "default" if chat == "true" else chat
    if name not in known:
        raise HarnessError(f"task.chat={chat}: {where} has the chat templates {', '.join(sorted(known))}; expected one of them")
    return known[name]


def digest(text: str) -> str:
    """The SHA-256 of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def measure(model, tokenizer, tasks: list[Task], batch_tokens: int, length: int, log: TextIO) -> dict[str, dict]:
    """Run lm-eval on a model in memory, once per task.

    Args:
        batch_tokens: tokens of the requests, padding included, that go through the model at once.
        length: tokens in the model's longest sequence.
        log: where lm-eval's own output and progress bars go.

    Raises:
        HarnessError: a task puts a token before its texts, or generates, and the tokenizer has none for that; generated text
            does not fit into the window; or two tasks have a part of one name.

    Returns:
        ``metrics``: ``{"task/metric": value}``, with standard errors as ``task/metric_stderr`` where lm-eval gives them; a
        metric with a filter is ``metric,filter``. ``documents``: ``{"task/metric": [value of each document]}``, so that
        cells can be compared document by document. ``tasks``: version, number of documents and shots of each, and more
        where a name asks for it. ``prefix_token``: the token before a text without context.
    """
    os.environ["DISABLE_MULTIPROC"] = "1"  # else lm-eval's bootstrap starts one process per core
    import datasets

    from lorcbench.models.live import live_model, prefix_token

    # Without this `datasets` asks the network before it opens the local files that a task names. An environment variable
    # would not do: it is read when `datasets` is imported, and a warm process has imported it already.
    datasets.config.HF_HUB_OFFLINE = True
    measured: dict[str, dict] = {"metrics": {}, "documents": {}, "tasks": {}}
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        live = live_model(model, tokenizer, batch_tokens, length)
        for task in tasks:
            live.begin(task.name)
            part = _described(task, _report(live, task), live.truncated)
            for kind, entries in part.items():
                if twice := sorted(entries.keys() & measured[kind].keys()):
                    raise HarnessError(f"eval.tasks: {twice[0]} is in {task.name} and in another task; expected it once")
                measured[kind] |= entries
    return {**measured, "prefix_token": prefix_token(tokenizer, live)}


def _report(live, task: Task) -> dict[str, Any]:
    """What lm-eval reports of one task or group.

    Its `simple_evaluate` does the same, and takes seconds to collect what it says of the machine.
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    settings = task.settings
    random.seed(_PYTHON_SEED)
    np.random.seed(_OTHER_SEED)
    torch.manual_seed(_OTHER_SEED)
    with tempfile.TemporaryDirectory() as temporary, _template(live.tokenizer, settings.chat):
        for content in task.contents:  # JSON is YAML, too
            file = Path(temporary) / f"{content.get('group') or content['task']}.yaml"
            file.write_text(json.dumps(content), encoding="utf-8")
        loaded = TaskManager(include_path=temporary, include_defaults=False).load([task.asked])
        for one in loaded["tasks"].values():
            if one.get_config("num_fewshot") is None:
                one.set_config(key="num_fewshot", value=0)
            one.set_fewshot_seed(seed=settings.seed)
        return lm_eval.evaluate(
            lm=live,
            task_dict=loaded,
            limit=settings.limit,
            apply_chat_template=settings.chat is not None,
            fewshot_as_multiturn=True,
            system_instruction=settings.system,
            bootstrap_iters=_BOOTSTRAP,
            log_samples=True,
        )


@contextlib.contextmanager
def _template(tokenizer, chat: str | None) -> Iterator[None]:
    """While open, the template that a task asks for is the only one of the tokenizer: lm-eval takes no other by name."""
    before = tokenizer.chat_template
    if chat is not None:
        tokenizer.chat_template = chat_template(tokenizer, chat)
    try:
        yield
    finally:
        tokenizer.chat_template = before


def _described(task: Task, report: dict, truncated: int) -> dict[str, dict]:
    """The metrics of a task or group and its members, the values of their documents, and what they are."""
    metrics, documents = {}, {}
    leaves = _leaves(report)
    for name in report["results"]:
        for metric, value in _metrics(task.label(name), report["results"][name]).items():
            metrics[f"{task.label(name)}/{metric}"] = value
            if not metric.endswith("_stderr") and (values := _documents(report, leaves[name], metric, value)) is not None:
                documents[f"{task.label(name)}/{metric}"] = values
    about = {task.label(name): _about(task, report, name, leaves[name]) for name in report["results"]}
    if truncated:
        about[task.name]["truncated"] = truncated
    return {"metrics": metrics, "documents": documents, "tasks": about}


def _leaves(report: dict) -> dict[str, list[str]]:
    """Task or group → the tasks that it consists of, in lm-eval's order."""
    below = report.get("group_subtasks") or {}

    def leaves(name: str) -> list[str]:
        return [leaf for child in below[name] for leaf in leaves(child)] if below.get(name) else [name]

    return {name: list(dict.fromkeys(leaves(name))) for name in report["results"]}


def _metrics(label: str, reported: dict[str, Any]) -> dict[str, float]:
    """Metric → value, of all numbers that lm-eval reports of a task; ``,none``, its name for "no filter", is cut off.

    Raises:
        ArithmeticError: a metric is NaN or infinite. A standard error that is, as that of one document, is left out.
    """
    flat = {}
    for name, value in reported.items():
        metric, _, chosen = name.partition(",")
        if not isinstance(value, int | float) or metric in ("alias", "name", "sample_len"):
            continue
        error = "_stderr" if metric.endswith("_stderr") else ""  # lm-eval has it before the filter
        metric = metric.removesuffix("_stderr") + ("" if chosen in ("", "none") else f",{chosen}") + error
        if not math.isfinite(value):
            if error:
                continue
            raise ArithmeticError(f"task {label}: {metric} is {value}: a number is too large for the model's type")
        flat[metric] = float(value)
    return flat


def _documents(report: dict, leaves: list[str], metric: str, value: float) -> list | None:
    """What each document gives for a metric, in their order, task after task; None if the metric is not made of that."""
    name, _, chosen = metric.partition(",")
    values = []
    for leaf in leaves:
        samples = [sample for sample in report["samples"][leaf] if sample["filter"] == (chosen or "none")]
        samples.sort(key=lambda sample: sample["doc_id"])
        if not samples or not all(name in sample for sample in samples):
            return None
        values += [_plain(sample[name]) for sample in samples]
    return values if _adds_up(name, values, value) else None


def _plain(value) -> Any:
    """A metric of one document, for JSON: a number or a list, such as a log-likelihood and the number of its words."""
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return float(value) if isinstance(value, int | float) or hasattr(value, "item") else value


def _adds_up(metric: str, values: list, value: float) -> bool:
    """Whether a metric is what intervals take it for: of its kind per word or byte, exp of a mean loss, or a mean."""
    if metric in _PER_UNIT:
        return True
    if not all(isinstance(one, float) for one in values):
        return False
    mean = math.fsum(values) / len(values)
    return math.isclose(math.exp(-mean) if metric == "perplexity" else mean, value, rel_tol=1e-6, abs_tol=1e-9)


def _about(task: Task, report: dict, name: str, leaves: list[str]) -> dict[str, Any]:
    """Version, number of documents and of few-shot examples; of more only what was asked for.

    That is: of how many documents these are the first, the seed of the examples, the chat template, and of what a member
    of a group is a part.
    """
    counts = [report["n-samples"][leaf] for leaf in leaves]
    shots = sorted({report["n-shot"][leaf] for leaf in leaves})
    about = {
        "version": report["versions"][name],
        "documents": sum(count["effective"] for count in counts),
        "shots": shots[0] if len(shots) == 1 else ", ".join(map(str, shots)),
    }
    if task.settings.limit:
        about["of"] = sum(count["original"] for count in counts)
    if about["shots"]:
        about["seed"] = task.settings.seed
    if task.settings.chat is not None:
        about["chat"] = task.settings.chat
    if name == task.asked and leaves != [name]:
        about["tasks"] = len(leaves)
    if name != task.asked:
        about["part_of"] = task.name
    return about
