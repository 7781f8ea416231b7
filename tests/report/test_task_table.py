"""The table of lm-eval's metrics says what was measured: how many documents, of how many, with which examples."""

from __future__ import annotations

from synthetic import result

from lorcbench.report.comparison import changes
from lorcbench.report.page.tasks import tasks


def table(metrics: dict[str, float], about: dict[str, dict]) -> str:
    one = result("opt-125m none w16 r0")
    one.harness, one.tasks = metrics, about
    return tasks([one], changes([one]))


def test_a_limit_says_that_these_are_the_first_documents_and_shots_their_seed():
    name = "piqa+limit=100+shots=5"
    about = {name: {"version": 1.0, "documents": 100, "shots": 5, "of": 1838, "seed": 7, "chat": "true", "truncated": 12}}
    page = table({f"{name}/acc": 0.5}, about)
    assert (
        f"{name} 1.0 (the first 100 of 1,838 documents; 5 examples before each drawn with seed 7; in the chat template; "
        in page
    )
    assert "12 prompts cut at the left" in page


def test_a_task_as_it_is_says_its_documents():
    assert "piqa 1.0 (1,838 documents)." in table({"piqa/acc": 0.5}, {"piqa": {"version": 1.0, "documents": 1838, "shots": 0}})


def test_of_a_group_the_page_has_the_mean_and_the_csv_the_rest():
    about = {"mmlu": {"version": "2", "documents": 570, "shots": 0, "of": 14042, "tasks": 57}}
    about |= {"mmlu_anatomy": {"version": 1.0, "documents": 10, "shots": 0, "of": 135, "part_of": "mmlu"}}
    page = table({"mmlu/acc": 0.25, "mmlu/acc_stderr": 0.01, "mmlu_anatomy/acc": 0.125}, about)
    assert "mmlu/acc" in page and "0.2500" in page and "± 0.0100" in page
    assert "mmlu_anatomy" not in page
    assert "57 tasks, which tasks.csv has one by one; the first of each task, 570 of 14,042 documents" in page


def test_a_metric_with_a_filter_has_a_column_of_its_own():
    metrics = {"gsm8k/exact_match,strict-match": 0.5, "gsm8k/exact_match,flexible-extract": 0.625}
    page = table(metrics, {"gsm8k": {"version": 3.0, "documents": 1319, "shots": 5, "seed": 1234}})
    assert all(name in page for name in metrics) and "0.6250" in page
