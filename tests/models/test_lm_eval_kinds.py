"""Kinds of lm-eval tasks: generated answers, groups, prompts in a chat template; each against what is done by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import lm_eval
import pytest
import torch
import yaml
from lm_eval.tasks import TaskManager
from tiny_tasks import asked, measured, own, refusal, staged, tokenizer, write
from transformers import PreTrainedTokenizerFast

from lorcbench.common.artifacts import canonical
from lorcbench.config import compose
from lorcbench.models import live
from lorcbench.models.task_definitions import members
from lorcbench.report import intervals

pytestmark = pytest.mark.usefixtures("offline")


def define(monkeypatch, name: str, definition: Path, columns: list[str], local: list[str]) -> None:
    """A conf file of one's own for a task whose definition is one's own, too."""
    folder = Path("conf/task").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    content = {"definition": str(definition.resolve()), "columns": columns, "local": local}
    (folder / f"{name}.yaml").write_text(f"# {name}\n" + yaml.safe_dump(content))
    monkeypatch.setenv(compose.EXTRA_CONF, str(folder.parent))
    compose.load.cache_clear()


WORDS = """
task: words
dataset_path: json
output_type: generate_until
training_split: train
fewshot_split: train
test_split: test
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{answer}}"
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true, ignore_punctuation: false}
generation_kwargs: {until: ["Question:", "</s>"], do_sample: false, temperature: 0.0, max_gen_toks: 6}
num_fewshot: 2
filter_list:
  - {name: strict-match, filter: [{function: regex, regex_pattern: '(\\w+)'}, {function: take_first}]}
  - name: flexible-extract
    filter: [{function: regex, group_select: -1, regex_pattern: '(\\w+)'}, {function: take_first}]
metadata: {version: 3.0}
"""


@pytest.fixture
def words(monkeypatch) -> list[dict]:
    """A task in the form of GSM8K; its documents."""
    Path("words.yaml").write_text(WORDS)
    define(monkeypatch, "words", Path("words.yaml"), ["question", "answer"], ["words.jsonl"])
    rows = [{"question": " ".join(["weight of a layer"] * (1 + n % 4)) + f" {n}", "answer": "none"} for n in range(6)]
    write(Path("data/words.jsonl"), rows)
    write(Path("data/shots/words.jsonl"), [{"question": f"norm {n}", "answer": f"scale {n}"} for n in range(4)])
    return rows


def greedy(model, made, prompt: str, tokens: int) -> str:
    """The most probable tokens after a prompt, one after the other, each by a pass over all that is there: no cache."""
    ids = made(prompt)["input_ids"]
    start = len(ids)
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == model.config.eos_token_id:
            break
    return re.split("Question:|</s>", made.decode(ids[start:], skip_special_tokens=True))[0]


def test_generated_answers_are_those_of_greedy_search_and_filters_are_kept_apart(lm, words, monkeypatch):
    staged("words")
    requests = asked(monkeypatch)
    measured(lm, own("words"), batch_tokens=300, length=200)
    assert len({len(prompt) for (prompt, _), _ in requests}) > 2, "prompts of several lengths, padded in one batch"
    texts = [greedy(lm, tokenizer(), prompt, 6) for (prompt, _), _ in requests]
    assert [text for _, text in requests] == texts
    found = [re.findall(r"\w+", text) or ["[invalid]"] for text in texts]
    for row, answer in zip(words[:4], found, strict=False):
        row["answer"] = answer[0]
    write(Path("data/words.jsonl"), words)
    staged("words")
    result = measured(lm, own("words"), batch_tokens=300, length=200)
    for name, place in (("strict-match", 0), ("flexible-extract", -1)):
        expected = [float(answer[place].lower() == row["answer"].lower()) for row, answer in zip(words, found, strict=True)]
        metric = f"words/exact_match,{name}"
        assert result["documents"][metric] == expected
        assert result["metrics"][metric] == pytest.approx(sum(expected) / 6)
        assert f"{metric}_stderr" in result["metrics"]
    assert result["metrics"]["words/exact_match,strict-match"] >= 4 / 6
    assert result["tasks"] == {"words": {"version": 3.0, "documents": 6, "shots": 2, "seed": 1234}}


def test_generated_answers_do_not_depend_on_the_batch(lm, words, monkeypatch):
    staged("words")
    sizes = []
    plain = live.Live._model_generate

    def generate(self, context, **options):
        sizes.append(len(context))
        return plain(self, context, **options)

    monkeypatch.setattr(live.Live, "_model_generate", generate)
    one, many, again = (measured(lm, own("words"), batch_tokens=tokens) for tokens in (1, 4000, 4000))
    assert sizes == [1] * 6 + [6, 6]
    assert canonical(one) == canonical(many) == canonical(again)


def test_a_padding_token_that_the_model_has_not_is_not_looked_up(lm, words):
    staged("words")
    made = tokenizer()
    made.add_tokens([f"<{n}>" for n in range(40)])
    made.add_special_tokens({"pad_token": "<beyond>"})
    assert made.pad_token_id >= 400
    assert canonical(measured(lm, own("words"), made=made)) == canonical(measured(lm, own("words")))


def test_generation_that_could_not_end_or_has_no_room_is_refused(lm, words):
    staged("words")
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer()._tokenizer, bos_token="<s>")
    assert "names no eos_token at which it would end" in refusal(lambda: measured(lm, own("words"), made=made))
    said = refusal(lambda: measured(lm, own("words+max_gen_toks=64")))
    assert said.startswith("task words+max_gen_toks=64: generates up to 64 tokens, but the window has 64; expected")


def test_fewer_tokens_are_generated_if_a_name_says_so(lm, words, monkeypatch):
    staged("words+shots=0")
    requests = asked(monkeypatch)
    found = measured(lm, own("words+max_gen_toks=2+shots=0"))
    assert [text for _, text in requests] == [greedy(lm, tokenizer(), prompt, 2) for (prompt, _), _ in requests]
    assert found["tasks"]["words+max_gen_toks=2+shots=0"] == {"version": 3.0, "documents": 6, "shots": 0}


def test_gsm8k_is_lm_evals_with_its_five_examples(monkeypatch, lm):
    (member,) = members(compose.load("task", "gsm8k"))
    assert (member.shots, member.split, member.examples) == (5, "test", "train")
    for split, count in (("test", 2), ("train", 5)):
        rows = [{"question": f"{split} {number} + 1?", "answer": f"So.\n#### {number + 1}"} for number in range(count)]
        write(Path(f"data/gsm8k/main/{split}-00000-of-00001.jsonl"), rows)
    assert staged_from(monkeypatch, "gsm8k", "gsm8k/{name}/{split}-*.jsonl")["examples"]["documents"] == 5
    requests = asked(monkeypatch)
    found = measured(lm, own("gsm8k+max_gen_toks=4"), length=400)
    assert all(prompt.count("Question:") == 6 and prompt.count("#### ") == 5 for (prompt, _), _ in requests)
    assert {"exact_match,strict-match", "exact_match,flexible-extract"} <= {name[21:] for name in found["metrics"]}
    assert found["tasks"]["gsm8k+max_gen_toks=4"]["version"] == 3.0


def staged_from(monkeypatch, name: str, pattern: str) -> dict:
    """A task of conf/task, staged from files of another format than the hub's."""
    task = compose.load("task", name)
    monkeypatch.setattr(task, "local", [pattern])
    from lorcbench.jobs.job import Job

    monkeypatch.setattr(Job, "task", task)
    return staged(name)


def pair(folder: Path) -> None:
    """Definitions of a group of two tasks, in the form of MMLU's."""
    template = {"dataset_path": "json", "test_split": "test", "fewshot_split": "dev", "output_type": "multiple_choice"}
    template |= {"fewshot_config": {"sampler": "first_n"}, "doc_to_choice": ["A", "B"], "doc_to_target": "answer"}
    template |= {"doc_to_text": "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nAnswer:"}
    template |= {"metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]}
    folder.mkdir()
    (folder / "_template_yaml").write_text(yaml.safe_dump(template | {"metadata": {"version": 1.0}}))
    for name in ("one", "two"):
        own = {"include": "_template_yaml", "task": f"pair_{name}", "dataset_name": name, "tag": "pair_tasks"}
        (folder / f"pair_{name}.yaml").write_text(yaml.safe_dump(own | {"description": f"Questions about {name}.\n\n"}))
    metrics = [{"metric": "acc", "weight_by_size": True}]
    inner = {"group": "pair_both", "task": ["pair_tasks"], "aggregate_metric_list": metrics, "metadata": {"version": 2}}
    (folder / "_pair_both.yaml").write_text(yaml.safe_dump(inner))
    outer = {"group": "pair", "task": ["pair_both"], "aggregate_metric_list": metrics, "metadata": {"version": 2}}
    (folder / "_pair.yaml").write_text(yaml.safe_dump(outer))


SIZES = {"one": 3, "two": 8}


@pytest.fixture
def group(monkeypatch) -> None:
    """A group of two tasks of different size, with a group between, and its documents in a folder per task."""
    pair(Path("defined"))
    define(monkeypatch, "pair", Path("defined/_pair.yaml"), ["question", "choices", "answer"], ["pair/{name}/{split}-*.jsonl"])
    for name, size in SIZES.items():
        for split, count in (("test", size), ("dev", 2)):
            rows = [
                {"question": f"{split} {name} weight {n}", "choices": ["zero", f"{n}"], "answer": (n * n) % 3 % 2}
                for n in range(count)
            ]
            write(Path(f"data/pair/{name}/{split}-00000.jsonl"), rows)


def test_a_group_has_lm_evals_own_mean_and_that_of_each_task(lm, group):
    result = staged("pair+shots=1")
    assert (result["documents"], result["tasks"].keys()) == (11, {"pair_one", "pair_two"})
    assert sorted(result["files"]) == sorted(f"pair_{n}.{k}.parquet" for n in SIZES for k in ("documents", "examples"))
    Path("data").rename("elsewhere")
    found = measured(lm, own("pair+shots=1"), length=200)
    for name in SIZES:  # lm-eval by itself
        files = {split: str(Path(f"elsewhere/pair/{name}/{split}-00000.jsonl").resolve()) for split in ("test", "dev")}
        path = Path(f"defined/pair_{name}.yaml")
        path.write_text(path.read_text() + yaml.safe_dump({"dataset_kwargs": {"data_files": files}, "dataset_name": None}))
    manager = TaskManager(include_path="defined", include_defaults=False)
    plain = live.HFLM(pretrained=lm, tokenizer=tokenizer(), batch_size=1, device="cpu", max_length=200)
    report = lm_eval.simple_evaluate(plain, tasks=["pair"], task_manager=manager, num_fewshot=1, bootstrap_iters=1000)
    for name in ("pair", "pair_both", "pair_one", "pair_two"):
        label = f"{name}+shots=1/acc"
        assert found["metrics"][label] == pytest.approx(report["results"][name]["acc,none"])
        assert found["metrics"][f"{label}_stderr"] == pytest.approx(report["results"][name]["acc_stderr,none"])
        assert intervals.metric_value("acc", found["documents"][label]) == pytest.approx(found["metrics"][label])
    one, two = (found["documents"][f"pair_{name}+shots=1/acc"] for name in SIZES)
    assert found["documents"]["pair+shots=1/acc"] == one + two
    assert 0 < found["metrics"]["pair+shots=1/acc"] < 1
    assert found["tasks"]["pair+shots=1"] == {"version": "2", "documents": 11, "shots": 1, "seed": 1234, "tasks": 2}
    part = {"version": 1.0, "documents": 8, "shots": 1, "seed": 1234, "part_of": "pair+shots=1"}
    assert found["tasks"]["pair_two+shots=1"] == part


def test_a_limit_holds_for_each_task_of_a_group(lm, group):
    staged("pair")
    found = measured(lm, own("pair+limit=4"))
    assert [found["tasks"][f"{name}+limit=4"]["documents"] for name in ("pair", "pair_one", "pair_two")] == [7, 3, 4]
    assert found["tasks"]["pair+limit=4"]["of"] == 11


def test_a_changed_definition_of_ones_own_is_another_identity(group):
    before = staged("pair")["identity"]["inputs"]
    path = Path("defined/pair_two.yaml")
    path.write_text(path.read_text() + "target_delimiter: ''\n")
    after = staged("pair")["identity"]["inputs"]
    assert {name for name in before if before[name] != after[name]} == {"definition of pair_two"}


def test_a_group_that_names_what_is_not_beside_it_is_refused(group):
    path = Path("defined/_pair_both.yaml")
    path.write_text(path.read_text().replace("- pair_tasks", "- pair_tasks\n- other"))
    assert refusal(lambda: staged("pair")).endswith("_pair.yaml: other is defined in no file of its folder")


@pytest.mark.slow
def test_mmlu_is_lm_evals_with_its_57_subjects(lm, monkeypatch):
    found = members(compose.load("task", "mmlu+shots=5"))
    assert len(found) == 57 and {(member.split, member.examples, member.shots) for member in found} == {("test", "dev", 5)}
    for member in found:
        for split, count in (("test", 2), ("dev", 5)):
            rows = [{"question": f"{split} {n}?", "choices": ["a", "the", "of", "in"], "answer": n % 4} for n in range(count)]
            write(Path(f"data/mmlu/{member.content['dataset_name']}/{split}-00000-of-00001.jsonl"), rows)
    assert staged_from(monkeypatch, "mmlu+shots=5", "mmlu/{name}/{split}-*.jsonl")["documents"] == 114
    result = measured(lm, own("mmlu+limit=1+shots=5"), length=300, batch_tokens=4000)
    fields = {f"mmlu_{name}" for name in ("stem", "other", "social_sciences", "humanities")}
    names = {"mmlu", *fields, *(member.name for member in found)}
    assert result["tasks"].keys() == {f"{name}+limit=1+shots=5" for name in names}
    subjects = [result["metrics"][f"{member.name}+limit=1+shots=5/acc"] for member in found]
    assert result["metrics"]["mmlu+limit=1+shots=5/acc"] == pytest.approx(sum(subjects) / 57)


CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.fixture
def piqa():
    questions = [{"goal": f"weigh {n}", "sol1": "the layer", "sol2": f"zero {n}", "label": n % 2} for n in range(2)]
    write(Path("data/lm-eval/piqa.jsonl"), questions)
    write(
        Path("data/lm-eval/shots/piqa.jsonl"), [{"goal": f"norm {n}", "sol1": "a", "sol2": "b", "label": 1} for n in range(3)]
    )


def test_prompts_are_put_into_the_chat_template(lm, piqa, monkeypatch):
    staged("piqa+shots=1")
    requests = asked(monkeypatch)
    made = tokenizer(chat_template=CHAT)
    found = measured(lm, own("piqa+chat=true+shots=1"), made=made)
    pattern = r"<user>Question: norm \d\nAnswer:\n<assistant>b\n<user>Question: weigh \d\nAnswer:\n<assistant>"
    assert all(re.fullmatch(pattern, prompt) for (prompt, _), _ in requests)
    assert found["tasks"]["piqa+chat=true+shots=1"]["chat"] == "true"
    assert made.chat_template == CHAT


def test_a_chat_template_by_name_and_a_system_instruction(lm, piqa, monkeypatch):
    staged("piqa")
    made = tokenizer(chat_template={"default": CHAT, "brief": CHAT.replace("<", "[").replace(">", "]")})
    requests = asked(monkeypatch)
    task = own("piqa+chat=brief")
    measured(lm, replace(task, settings=replace(task.settings, system="Be short.")), made=made)
    assert all(prompt.startswith("[system]Be short.\n[user]") for (prompt, _), _ in requests)
    assert made.chat_template.keys() == {"default", "brief"}


def test_a_tokenizer_without_the_chat_template_is_refused(lm, piqa):
    staged("piqa")
    assert "has no chat template; expected" in refusal(lambda: measured(lm, own("piqa+chat=true")))
    said = refusal(lambda: measured(lm, own("piqa+chat=rag"), made=tokenizer(chat_template=CHAT)))
    assert said == "task.chat=rag: the tokenizer has the chat templates default; expected one of them"
