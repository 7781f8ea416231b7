"""lm-eval's own tasks over staged documents: offline, with its prompts, metrics and versions."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import corpus_files
import pytest
import torch
from tiny_tasks import ITEMS, PAGES, own, refusal, staged, tokenizer, write
from transformers import PreTrainedTokenizerFast

from lorcbench.config import compose
from lorcbench.data.hub import HubError
from lorcbench.data.texts import TextError
from lorcbench.models import harness, task_definitions
from lorcbench.report import intervals
from lorcbench.study.graph import task_documents
from lorcbench.study.stages import TEXT

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture
def model(lm):
    return lm


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
    found = harness.measure(model, made, [own(name) for name in results], 128, 32, io.StringIO())
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
        shots = any(member.shots for member in task_definitions.members(compose.load("task", name)))
        contents = task_definitions.over_staged(name, compose.load("task", f"{name}+shots=0" if shots else name), tmp_path)
        for content in contents:
            assert Path(content["include"]).is_file()
            if "group" in content:
                assert set(content) == {"include", "group"}
                continue
            (split,) = content["dataset_kwargs"]["data_files"]
            assert [content[f"{kind}_split"] for kind in ("training", "validation", "test", "fewshot")].count(split) == 1
            assert set(content) == {
                *("include", "task", "dataset_path", "dataset_name", "dataset_kwargs"),
                *("training_split", "validation_split", "test_split", "fewshot_split"),
                *(("num_fewshot",) if shots else ()),
            }


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
    assert "lm-eval 0." in refusal(lambda: task_definitions.definition("nope/nope.yaml"))


def test_a_task_that_comes_with_a_text_needs_no_stage_of_its_own():
    assert "comes with text=stdlib" in refusal(lambda: staged("stdlib_prose"))
    assert task_documents("stdlib_prose").folder == Path(TEXT.pattern.format(text="stdlib"))


def without_ends() -> PreTrainedTokenizerFast:
    """A tokenizer that names neither BOS nor EOS."""
    return PreTrainedTokenizerFast(tokenizer_object=corpus_files.bpe()._tokenizer)


def test_a_tokenizer_without_bos_and_eos_measures_what_needs_none(model):
    write(Path("data/lm-eval/hellaswag_val.jsonl"), ITEMS)
    staged("hellaswag")
    found = harness.measure(model, without_ends(), [own("hellaswag")], 128, 32, io.StringIO())
    assert found["metrics"]["hellaswag/acc"] == pytest.approx(expected_hits(model, tokenizer()))
    assert found["prefix_token"] == {"id": None, "text": ""}


def test_a_task_that_needs_bos_or_eos_says_so_before_the_model_is_asked(model, monkeypatch):
    write(Path("data/lm-eval/wikitext.jsonl"), PAGES)
    staged("wikitext")
    monkeypatch.setattr(type(model), "forward", None)
    said = refusal(lambda: harness.measure(model, without_ends(), [own("wikitext")], 128, 32, io.StringIO()))
    assert "names neither bos_token nor eos_token" in said
