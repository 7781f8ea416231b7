"""lm-eval's tasks over a handful of documents: staged in this process, and measured on a tiny model."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import corpus_files
import pytest
from transformers import PreTrainedTokenizerFast

from lorcbench.config import compose
from lorcbench.config.protocols import TaskConfig
from lorcbench.jobs import job
from lorcbench.models import harness, task_definitions
from lorcbench.models.live import Live
from lorcbench.models.task_definitions import HarnessError
from lorcbench.stages import task as task_stage
from lorcbench.study.graph import task_documents
from lorcbench.study.stages import TASK

ITEMS = [
    {"activity_label": "Roof", "ctx_a": "the model", "ctx_b": "of a weight", "label": str(number % 4), "ind": number}
    | {"endings": [f"layer {word} norm [title] zero." for word in ("in", "the of", "quantized", f"{number} to")]}
    for number in range(10)
]
PAGES = [{"page": f" = Heading {number} = \n \n the model 's weight , of {number} @-@ point \n"} for number in range(3)]


def write(path: Path, rows: list[dict]) -> None:
    """Write documents as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def tokenizer(**options) -> PreTrainedTokenizerFast:
    """A tokenizer of 400 tokens that names BOS and EOS."""
    made = corpus_files.bpe()._tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", **options)


def staged(name: str) -> dict:
    """Run the task stage in this process with data/ as the data folder; its result."""
    documents = task_documents(name)
    task = documents.names.task if documents.stage is TASK else name
    task_stage.main(job.Job("task", [f"task={task}", "runtime.data_dir=data"]))
    return json.loads((documents.folder / "result.json").read_text())


def own(name: str, settings: TaskConfig | None = None, folder: Path | None = None) -> harness.Task:
    """A task of conf/task, with changes behind its name, or of other settings, over the documents that were staged for it."""
    settings = settings or compose.load("task", name)
    folder = folder or task_documents(name).folder
    return harness.Task(name, task_definitions.over_staged(name.partition("+")[0], settings, folder), settings)


def measured(model, *tasks: harness.Task, batch_tokens: int = 256, length: int = 64, made=None) -> dict[str, dict]:
    """What lm-eval measures of a tiny model."""
    return harness.measure(model, made or tokenizer(), [*tasks], batch_tokens, length, io.StringIO())


def asked(monkeypatch) -> list:
    """From now on, the requests that lm-eval hands to a model are put into this list too, with what the model answers."""
    requests = []

    def recorded(method):
        plain = getattr(Live, method)

        def work(self, these, *args, **options):
            answers = plain(self, these, *args, **options)
            requests.extend(zip((request.args for request in these), answers, strict=True))
            return answers

        monkeypatch.setattr(Live, method, work)

    recorded("loglikelihood")
    recorded("generate_until")
    return requests


def refusal(work: Callable[[], object], error: type[Exception] = HarnessError) -> str:
    """The one line with which some work is refused."""
    with pytest.raises(error) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)
