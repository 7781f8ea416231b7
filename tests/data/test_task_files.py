"""Where documents of lm-eval tasks lie under the data folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import Wildcards

from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.data import task_files
from lorcbench.pipeline.rules import Pipeline


def touch(*names: str) -> None:
    for name in names:
        path = Path("data") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")


def test_examples_lie_beside_the_documents_or_in_their_split():
    piqa, mmlu = compose.load("task", "piqa"), compose.load("task", "mmlu")
    assert task_files.patterns(piqa, "piqa", None, "validation") == ["lm-eval/piqa*"]
    assert task_files.patterns(piqa, "piqa", None, "train", examples=True) == ["lm-eval/shots/piqa*"]
    found = task_files.patterns(mmlu, "mmlu_anatomy", "anatomy", "test")
    assert found == ["lm-eval/mmlu/mmlu_anatomy.*", "mmlu/anatomy/test-*.parquet"]
    found = task_files.patterns(mmlu, "mmlu_anatomy", "anatomy", "dev", examples=True)
    assert found == ["lm-eval/mmlu/shots/mmlu_anatomy.*", "mmlu/anatomy/dev-*.parquet"]


def test_every_file_that_a_task_may_read_is_watched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch("lm-eval/piqa.jsonl", "lm-eval/other.jsonl", "lm-eval/shots/piqa.jsonl")
    touch("mmlu/anatomy/test-0.parquet", "mmlu/anatomy/dev-0.parquet", "mmlu/virology/test-0.parquet")
    piqa, mmlu = compose.load("task", "piqa"), compose.load("task", "mmlu")
    assert task_files.all_files(piqa, None) == []
    assert task_files.all_files(piqa, "data") == [Path("data/lm-eval/piqa.jsonl"), Path("data/lm-eval/shots/piqa.jsonl")]
    assert len(task_files.all_files(mmlu, "data")) == 3
    touch("lm-eval/piqa-2.jsonl")
    with pytest.raises(ConfigError, match="several files match"):
        task_files.all_files(piqa, "data")


def test_the_workflow_asks_for_staged_documents_and_their_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch("lm-eval/piqa.jsonl", "lm-eval/shots/piqa.jsonl", "mmlu/anatomy/test-0.parquet", "mmlu/virology/test-0.parquet")
    text = "eval.tasks=[piqa+limit=4,piqa+shots=2,mmlu,stdlib_continuation+limit=9] runtime.data_dir=data"
    pipeline = Pipeline({"study": "smoke", "overrides": text})
    assert pipeline.study.tasks == ("piqa+limit=4", "piqa+shots=2", "mmlu", "stdlib_continuation+limit=9")
    assert "tasks=piqa+limit=4,piqa+shots=2,mmlu" in pipeline.study.name
    (cell,) = pipeline.study.harness
    inputs = pipeline.inputs("harness")(Wildcards(vars(cell.wildcards(pipeline.study.eval))))
    staged = {Path(path).parent.name for path in inputs}
    assert {"piqa", "piqa+shots=2", "mmlu", "stdlib"} <= staged and "piqa+limit=4" not in staged
    assert pipeline.local_file("task")(Wildcards(task="piqa+shots=2")) == [
        "data/lm-eval/piqa.jsonl",
        "data/lm-eval/shots/piqa.jsonl",
    ]
    assert len(pipeline.local_file("task")(Wildcards(task="mmlu"))) == 2
    assert {Path(path).parent.name for path in pipeline.downloads()} >= {"piqa", "piqa+shots=2", "mmlu"}
    before = pipeline.params("task")(Wildcards(task="mmlu"))
    Path("data/mmlu/virology/test-0.parquet").write_text("{}\n{}\n")
    pipeline = Pipeline({"study": "smoke", "overrides": text})
    assert pipeline.params("task")(Wildcards(task="mmlu")) != before
