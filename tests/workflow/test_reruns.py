"""What runs again on a finished study after a change of the code: what the change can reach, and nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from trees import change, run

WORDS = {
    "an error message": {
        "src/lorcbench/core/lorc.py": [
            ("LoRC factors have 4, 8 or 16 bits, not", "a factor of LoRC is stored in 4, 8 or 16 bits, not")
        ],
        "src/lorcbench/config/checks.py": [("expected a positive number", "expected a number above zero")],
        "src/lorcbench/config/commands.py": [("needs {group}=NAME; known:", "wants {group}=NAME; there are")],
    },
    "a progress line": {
        "src/lorcbench/jobs/shards.py": [('self._depth, "block")', 'self._depth, "layer")')],
        "src/lorcbench/jobs/progress.py": [("{what} {int(done)}/{total}", "{what} {int(done)} of {total}")],
    },
    "a comment, a docstring, the plan": {
        "src/lorcbench/core/gptq.py": [("_TILE = 64  # rows at a time", "_TILE = 64  # rows per tile")],
        "src/lorcbench/stages/quantize.py": [('"""Round to nearest."""', '"""Each weight goes to the nearest code."""')],
        "src/lorcbench/pipeline/plan.py": [("of memory, here are", "of memory, there are")],
    },
}
# (what changes, how many jobs of which rules run again)
ALL_THAT_IS_QUANTIZED = {"quantize": 4, "lorc": 2, "evaluate": 4, "track": 1, "report": 1}
CODE: dict[str, tuple[dict, dict[str, int]]] = {
    "a caption": (
        {"src/lorcbench/report/figures/bits.py": [("lower is better. ", "less is better. ")]},
        {"report": 1},
    ),
    "a constant of GPTQ's sweep": (
        {"src/lorcbench/core/gptq.py": [("_TILE = 64 ", "_TILE = 32 ")]},
        {"factor": 1, **ALL_THAT_IS_QUANTIZED},
    ),
    "a constant of the quantizer": (
        {"src/lorcbench/core/quantizer.py": [("_CODES_TOGETHER = 8 ", "_CODES_TOGETHER = 16 ")]},
        {"factor": 1, **ALL_THAT_IS_QUANTIZED, "evaluate": 6, "harness": 1},  # which decode what it packs
    ),
    "a constant of the statistics": (
        {"src/lorcbench/core/moments.py": [("\n_ROWS_AT_ONCE = 512", "\n_ROWS_AT_ONCE = 256")]},
        {"calibrate": 1, "factor": 1, **ALL_THAT_IS_QUANTIZED},
    ),
    "the record of lm-eval": (
        {"src/lorcbench/stages/harness.py": [("job.runtime.batch_tokens, window", "job.runtime.batch_tokens // 2, window")]},
        {"harness": 1, "track": 1, "report": 1},
    ),
}


def planned(text: str) -> dict[str, int]:
    """How many jobs of which rules a dry run says it would run."""
    counts = (line.split() for line in text.splitlines() if re.fullmatch(r"\w+ +\d+", line))
    return {rule: int(count) for rule, count in counts if rule not in ("all", "total")}


@pytest.mark.parametrize("what", WORDS)
def test_better_words_recompute_nothing(tree, smoke, what):
    change(tree, WORDS[what])
    text = run(tree, smoke, "--dry-run", "--config", "study=smoke")
    assert planned(text) == {}
    assert "Nothing to be done" in text


@pytest.mark.parametrize("what", CODE)
def test_other_code_recomputes_what_it_reaches_and_no_more(tree, smoke, what):
    changes, jobs = CODE[what]
    change(tree, changes)
    assert planned(run(tree, smoke, "--dry-run", "--config", "study=smoke")) == jobs


# A `results` folder that somebody copied without `.snakemake`


def without_records(copy: Path) -> Path:
    shutil.rmtree(copy / ".snakemake")
    return copy


def test_without_snakemakes_records_finished_results_are_kept(tree, copy):
    assert planned(run(tree, without_records(copy), "--dry-run", "--config", "study=smoke")) == {}


@pytest.mark.parametrize("what", ["a constant of the quantizer", "a constant of the statistics", "the record of lm-eval"])
def test_without_records_other_code_is_seen_too(tree, copy, what):
    changes, jobs = CODE[what]
    change(tree, changes)
    assert planned(run(tree, without_records(copy), "--dry-run", "--config", "study=smoke")) == jobs


def test_without_records_a_rank_that_is_not_measured_is_measured(tree, copy):
    more = ("--dry-run", "--config", "study=smoke", "name=more", "overrides=study.ranks=[0,8,16]")
    expected = planned(run(tree, copy, *more))
    assert expected["evaluate"] > 0
    assert planned(run(tree, without_records(copy), *more)) == expected


@pytest.mark.parametrize("name", ["report.html", "cells.csv", "figures"])
def test_a_missing_page_is_made_again(tree, copy, name):
    place = copy / "results/smoke" / name
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert planned(run(tree, copy, "--dry-run", "--config", "study=smoke")) == {"report": 1}
