"""lm-eval's own tasks over staged documents: offline, with its prompts, metrics and versions."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import corpus_files
import datasets
import pytest
import tiny
import torch
from transformers import PreTrainedTokenizerFast

from lorcbench.config import compose
from lorcbench.data.hub import HubError
from lorcbench.data.texts import TextError
from lorcbench.jobs import job
from lorcbench.models import harness
from lorcbench.models.harness import HarnessError
from lorcbench.report import intervals
from lorcbench.stages import task as task_stage
from lorcbench.study.stages import TASK, TEXT, task_documents

ITEMS = [
    {"activity_label": "Roof", "ctx_a": "the model", "ctx_b": "of a weight", "label": str(number % 4), "ind": number}
    | {"endings": [f"layer {word} norm [title] zero." for word in ("in", "the of", "quantized", f"{number} to")]}
    for number in range(10)
]
PAGES = [{"page": f" = Heading {number} = \n \n the model 's weight , of {number} @-@ point \n"} for number in range(3)]


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """Nothing is written to the user's cache, and the hub is out of reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def staged(name: str) -> dict:
    """Run the task stage in this process with data/ as the data folder; its result."""
    task_stage.main(job.Job("task", [f"task={name}", "runtime.data_dir=data"]))
    return json.loads(Path(TASK.pattern.format(task=name) + "/result.json").read_text())


def own(name: str) -> dict:
    documents = Path(TASK.pattern.format(task=name)) / "documents.parquet"
    return harness.local_task(name, compose.load("task", name).definition, documents)


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "VOCABULARY", 400)
        return tiny.model("bloom")


def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=corpus_files.bpe()._tokenizer, bos_token="<s>", eos_token="</s>")


def expected_hits(model, made) -> float:
    """HellaSwag's accuracy by hand: the ending of the highest log-probability after the prompt."""
    hits = 0
    for item in ITEMS:
        prompt = f"{item['activity_label']}: {item['ctx_a']} {item['ctx_b'].capitalize()}"
        scores = []
        for ending in item["endings"]:
            ending = re.sub(r"\[.*?\]", "", ending.replace(" [title]", ". ")).replace("  ", " ")
            context, whole = made(prompt)["input_ids"], made(f"{prompt} {ending}")["input_ids"]
            with torch.no_grad():
                logs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            scores.append(sum(logs[place - 1, whole[place]].item() for place in range(len(context), len(whole))))
        hits += scores.index(max(scores)) == int(item["label"])
    return hits / len(ITEMS)


def test_own_tasks_over_local_documents(model):
    write(Path("data/lm-eval/hellaswag_val.jsonl"), ITEMS)
    write(Path("data/lm-eval/wikitext.jsonl"), PAGES)
    results = {name: staged(name) for name in ("hellaswag", "wikitext")}
    assert (results["hellaswag"]["split"], results["hellaswag"]["documents"]) == ("validation", 10)
    assert results["wikitext"]["origin"]["file"] == "wikitext.jsonl"
    made = tokenizer()
    found = harness.measure(model, made, [*results], [own(name) for name in results], 4, 32, io.StringIO())
    metrics = found["metrics"]
    assert metrics["hellaswag/acc"] == pytest.approx(expected_hits(model, made))
    share = metrics["hellaswag/acc"]
    assert metrics["hellaswag/acc_stderr"] == pytest.approx(math.sqrt(share * (1 - share) / 9))
    assert "wikitext/word_perplexity_stderr" not in metrics
    words = sum(len(re.split(r"\s+", item["page"])) for item in PAGES)
    size = sum(len(item["page"].encode()) for item in PAGES)
    lost = words * math.log(metrics["wikitext/word_perplexity"])
    assert lost == pytest.approx(size * math.log(metrics["wikitext/byte_perplexity"]))
    assert found["tasks"] == {
        "hellaswag": {"version": 1.0, "documents": 10, "shots": 0},
        "wikitext": {"version": 2.0, "documents": 3, "shots": 0},
    }
    assert found["prefix_token"] == {"id": 0, "text": "<s>"}
    documents = found["documents"]
    assert documents.keys() == {name for name in metrics if not name.endswith("_stderr")}
    for name, values in documents.items():
        assert intervals.metric_value(name.rpartition("/")[2], values) == pytest.approx(metrics[name], rel=1e-9)


def test_only_where_the_documents_are_differs_from_lm_evals_definition(tmp_path):
    for name in compose.names("task"):
        path = compose.load("task", name).definition
        if path is None:
            continue
        content = harness.local_task(name, path, tmp_path / "documents.parquet")
        assert Path(content["include"]).is_file()
        (split,) = content["dataset_kwargs"]["data_files"]
        assert [content[f"{kind}_split"] for kind in ("training", "validation", "test", "fewshot")].count(split) == 1
        assert set(content) == {
            *("include", "task", "dataset_path", "dataset_name", "dataset_kwargs"),
            *("training_split", "validation_split", "test_split", "fewshot_split"),
        }


def refusal(work, error=HarnessError) -> str:
    with pytest.raises(error) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_documents_that_lm_eval_would_misread_are_refused():
    write(Path("data/lm-eval/piqa.jsonl"), [{"goal": "x", "sol1": "a", "label": 0}])
    assert refusal(lambda: staged("piqa")) == "task piqa: data/lm-eval/piqa.jsonl has goal, sol1, label, not sol2"
    Path("data/lm-eval/piqa.jsonl").write_text("")
    assert refusal(lambda: staged("piqa")) == "task piqa: no documents in data/lm-eval/piqa.jsonl"
    Path("data/lm-eval/piqa.jsonl").rename("data/lm-eval/piqa.csv")
    assert "piqa.csv: expected a name that ends in one of .parquet" in refusal(lambda: staged("piqa"), TextError)


def test_an_offline_hub_says_what_to_do():
    said = refusal(lambda: staged("piqa"), HubError)
    assert said.startswith("task piqa: baber/piqa cannot be downloaded (ConnectionError)")
    assert "put its validation split at lm-eval/piqa*" in said


def test_a_definition_that_lm_eval_has_not_is_refused():
    assert "lm-eval 0." in refusal(lambda: harness.definition("nope/nope.yaml"))


def test_a_task_that_comes_with_a_text_needs_no_stage_of_its_own():
    assert "comes with text=stdlib" in refusal(lambda: staged("stdlib_prose"))
    assert task_documents("stdlib_prose").folder == Path(TEXT.pattern.format(text="stdlib"))


def without_ends() -> PreTrainedTokenizerFast:
    """A tokenizer that names neither BOS nor EOS."""
    return PreTrainedTokenizerFast(tokenizer_object=corpus_files.bpe()._tokenizer)


def test_a_tokenizer_without_bos_and_eos_measures_what_needs_none(model):
    write(Path("data/lm-eval/hellaswag_val.jsonl"), ITEMS)
    staged("hellaswag")
    found = harness.measure(model, without_ends(), ["hellaswag"], [own("hellaswag")], 4, 32, io.StringIO())
    assert found["metrics"]["hellaswag/acc"] == pytest.approx(expected_hits(model, tokenizer()))
    assert found["prefix_token"] == {"id": None, "text": ""}


def test_a_task_that_needs_bos_or_eos_says_so_before_the_model_is_asked(model, monkeypatch):
    write(Path("data/lm-eval/wikitext.jsonl"), PAGES)
    staged("wikitext")
    monkeypatch.setattr(type(model), "forward", None)
    said = refusal(lambda: harness.measure(model, without_ends(), ["wikitext"], [own("wikitext")], 4, 32, io.StringIO()))
    assert "names neither bos_token nor eos_token" in said
