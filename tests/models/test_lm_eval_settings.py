"""What stands behind the name of an lm-eval task: shots, limit, seed, and what batches may change: nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import lm_eval
import pytest
from lm_eval.tasks import TaskManager
from tiny_tasks import ITEMS, PAGES, asked, measured, own, refusal, staged, tokenizer, write

from lorcbench.common.artifacts import canonical
from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.data.hub import HubError
from lorcbench.models import live, task_definitions
from lorcbench.study.graph import task_documents

pytestmark = pytest.mark.usefixtures("offline")

QUESTIONS = [
    {"goal": f"weigh {number}", "sol1": "the layer", "sol2": f"zero {number}", "label": number % 2} for number in range(8)
]
EXAMPLES = [{"goal": f"norm {number}", "sol1": f"point {number}", "sol2": "scale", "label": 1} for number in range(6)]


@pytest.fixture
def piqa():
    """Documents of PIQA, and examples of its training split."""
    write(Path("data/lm-eval/piqa.jsonl"), QUESTIONS)
    write(Path("data/lm-eval/shots/piqa.jsonl"), EXAMPLES)


def by_lm_eval(model, name: str, files: dict[str, str], **options) -> dict:
    """lm-eval's own report of a task, its documents being read from JSON lines."""
    file, _ = task_definitions.definition(compose.load("task", name).definition)
    content = {"include": str(file), "task": name, "dataset_path": "json", "dataset_name": None}
    content["dataset_kwargs"] = {"data_files": {split: str(Path(path).resolve()) for split, path in files.items()}}
    folder = Path("plain")
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(json.dumps(content))
    plain = live.HFLM(pretrained=model, tokenizer=tokenizer(), batch_size=1, device="cpu", max_length=200)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return lm_eval.simple_evaluate(plain, tasks=[name], task_manager=manager, bootstrap_iters=0, **options)


def test_a_name_without_new_keys_means_what_it_meant():
    task = compose.load("task", "piqa")
    assert task.measured() == {} and task.staged().keys() == {"text", "definition", "columns", "local"}
    assert task_documents("piqa").folder == Path("results/cache/task/piqa")
    assert compose.canonical("task", "piqa+seed=1234") == "piqa" == compose.canonical("task", "piqa+chat=false")
    assert compose.canonical("task", "piqa+shots=5+limit=100+chat=true") == "piqa+chat=true+limit=100+shots=5"
    assert compose.load("task", "piqa+limit=100+chat=true").measured() == {"limit": 100, "chat": "true"}


def test_documents_are_staged_once_for_all_that_does_not_change_them():
    names = [f"gsm8k+{change}" for change in ("limit=5", "seed=1", "chat=true", "max_gen_toks=9", "limit=5+seed=3")]
    assert {task_documents(name).folder for name in names} == {task_documents("gsm8k").folder}
    assert task_documents("gsm8k+limit=5+shots=2").folder.name == "gsm8k+shots=2"
    assert task_documents("stdlib_prose+limit=5").stage.name == "text"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("piqa+shots=-1", "task.shots=-1: expected a positive number"),
        ("piqa+limit=0", "task.limit=0: expected a positive number"),
        ("piqa+limit=some", "some"),
        ("piqa+seed=-1", "task.seed=-1: expected a whole number from 0"),
        ("piqa+shot=1", "unknown key"),
        ("stdlib_continuation+shots=2", "the tasks of text=stdlib have no prompt to change"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_key_and_value(name, said):
    assert said in refusal(lambda: compose.load("task", name), ConfigError)


def test_few_shot_numbers_are_lm_evals(lm, piqa):
    result = staged("piqa+shots=2")
    assert result["examples"] == {
        "documents": 6,
        "split": "train",
        "origin": {"file": "piqa.jsonl", "sha256": result["examples"]["origin"]["sha256"]},
    }
    Path("data").rename("elsewhere")  # all that the task reads was staged
    found = measured(lm, own("piqa+shots=2"), length=200)
    files = {"validation": "elsewhere/lm-eval/piqa.jsonl", "train": "elsewhere/lm-eval/shots/piqa.jsonl"}
    report = by_lm_eval(lm, "piqa", files, num_fewshot=2)
    for metric in ("acc", "acc_norm"):
        assert found["metrics"][f"piqa+shots=2/{metric}"] == pytest.approx(report["results"]["piqa"][f"{metric},none"])
        values = [sample[metric] for sample in report["samples"]["piqa"]]
        assert found["documents"][f"piqa+shots=2/{metric}"] == values
    assert found["tasks"] == {"piqa+shots=2": {"version": 1.0, "documents": 8, "shots": 2, "seed": 1234}}


def test_the_seed_draws_the_examples_and_the_same_seed_the_same(lm, piqa, monkeypatch):
    staged("piqa+shots=2")
    prompts = {}
    requests = asked(monkeypatch)
    for name in ("piqa+shots=2", "piqa+seed=7+shots=2"):
        for again in (0, 1):
            requests.clear()
            found = measured(lm, own(name), length=200)
            prompts[name, again] = [arguments[0] for arguments, _ in requests], canonical(found)
    assert prompts["piqa+shots=2", 0] == prompts["piqa+shots=2", 1], "twice the same bytes"
    first, other = (prompts[name, 0][0] for name in ("piqa+shots=2", "piqa+seed=7+shots=2"))
    assert first != other
    assert all(prompt.count("norm") == 2 and "weigh" in prompt for prompt in first + other)


def test_a_limit_takes_the_first_documents(lm):
    write(Path("data/lm-eval/hellaswag_val.jsonl"), ITEMS)
    staged("hellaswag")
    whole, part = measured(lm, own("hellaswag")), measured(lm, own("hellaswag+limit=3"))
    assert part["documents"]["hellaswag+limit=3/acc"] == whole["documents"]["hellaswag/acc"][:3]
    assert part["tasks"]["hellaswag+limit=3"] == {"version": 1.0, "documents": 3, "shots": 0, "of": 10}
    both = measured(lm, own("hellaswag"), own("hellaswag+limit=3"))
    assert both["metrics"] == whole["metrics"] | part["metrics"]


def test_batches_hold_about_so_many_tokens():
    lengths = [90, 60, 60, 31, 30, 30, 30, 5, 5, 5]
    assert live.batch_sizes(lengths, 120) == [1, 2, 2, 3, 3, 3, 4, 4, 4, 4]
    assert live.batch_sizes([500, 100], 64) == [1, 1]


@pytest.mark.parametrize("name", ["hellaswag", "wikitext", "piqa+shots=2"])
def test_numbers_do_not_depend_on_the_batch(lm, piqa, monkeypatch, name):
    write(Path("data/lm-eval/hellaswag_val.jsonl"), ITEMS)
    write(Path("data/lm-eval/wikitext.jsonl"), PAGES)
    staged(name)
    shapes = []
    plain = live.Live._model_call
    monkeypatch.setattr(live.Live, "_model_call", lambda self, batch: [shapes.append(batch.shape), plain(self, batch)][1])
    requests = asked(monkeypatch)
    one = measured(lm, own(name), batch_tokens=1)
    answers = [answer for _, answer in requests]
    assert {shape[0] for shape in shapes} == {1}
    shapes.clear()
    requests.clear()
    many = measured(lm, own(name), batch_tokens=512)
    assert max(shape[0] for shape in shapes) > 1 and all(math.prod(shape) <= 512 for shape in shapes)
    for (alone, greedy), (batched, again) in zip(answers, (answer for _, answer in requests), strict=True):
        assert alone == pytest.approx(batched, rel=1e-5) and greedy == again
    assert one["metrics"].keys() == many["metrics"].keys()
    for metric, value in one["metrics"].items():
        assert value == (many["metrics"][metric] if "/acc" in metric else pytest.approx(many["metrics"][metric], rel=1e-5))


def test_prompts_that_are_cut_are_counted(lm, piqa):
    staged("piqa+shots=5")
    assert "truncated" not in measured(lm, own("piqa+shots=5"), length=500)["tasks"]["piqa+shots=5"]
    assert measured(lm, own("piqa+shots=5"), length=24)["tasks"]["piqa+shots=5"]["truncated"] == 16


def test_shots_that_cannot_be_had_are_refused(piqa):
    assert refusal(lambda: staged("piqa+shots=9")) == (
        "task piqa+shots=9: 9 shots of 6 examples in piqa.jsonl; expected at most 5"
    )
    assert "expected at most 5" in refusal(lambda: staged("piqa+shots=6"))
    Path("data/lm-eval/shots/piqa.jsonl").unlink()
    said = refusal(lambda: staged("piqa+shots=2"), HubError)
    assert "put its train split at lm-eval/shots/piqa*" in said
    write(Path("data/lm-eval/wikitext.jsonl"), PAGES)
    assert refusal(lambda: staged("wikitext+shots=2")) == (
        "task.shots=2: wikitext is a perplexity of texts without prompts; expected none"
    )
    assert "piqa generates no text" in refusal(lambda: own("piqa+max_gen_toks=5", folder=Path("nowhere")))


def test_a_task_that_is_asked_for_twice_is_refused(lm):
    write(Path("data/lm-eval/hellaswag_val.jsonl"), ITEMS)
    staged("hellaswag")
    assert "hellaswag/acc is in hellaswag" in refusal(lambda: measured(lm, own("hellaswag"), own("hellaswag")))
