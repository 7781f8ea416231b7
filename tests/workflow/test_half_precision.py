"""Protocols in float16: one name for each setting, a gate of their own, and numbers that differ from float32's by rounding."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import synthetic
import tiny
import torch
from page_reader import Reader
from recorded import identity
from transformers import AutoModelForCausalLM

from lorcbench.common.artifacts import read_json, write_json
from lorcbench.common.paths import Wildcards
from lorcbench.config import commands, compose
from lorcbench.config.checks import ConfigError
from lorcbench.config.protocols import HALF, in_float32
from lorcbench.jobs.job import Job
from lorcbench.models import discovery
from lorcbench.models.blocks import BlockWalk
from lorcbench.pipeline.rules import Pipeline
from lorcbench.report import agreement, scorecard
from lorcbench.report.comparison import changes
from lorcbench.report.intervals import perplexity
from lorcbench.report.page import evidence
from lorcbench.stages import evaluate, gate, gate_half, tokens
from lorcbench.study import published
from lorcbench.study.expansion import load_study
from lorcbench.study.graph import inputs, jobs_of, upstream
from lorcbench.study.stages import EVALUATE, GATE, GATE_HALF, GATE_PROTOCOL_HALF, QUANTIZE, StageJob

pytestmark = pytest.mark.usefixtures("elsewhere")

MODEL = "opt-125m"
SMALL = [f"study.models=[{MODEL}]", "study.methods=[none,rtn]", "study.weights=[w16,w4-asym-row]", "study.ranks=[0]"]


def asked(protocol: str, *more: str):
    return load_study("smoke", [*SMALL, f"study.eval={protocol}", *more])


# Names


@pytest.mark.parametrize(("name", "half"), HALF.items())
def test_a_pair_differs_in_the_precision_of_the_forward_pass_alone(name, half):
    one, other = (asdict(compose.load("eval", protocol)) for protocol in (name, half))
    assert (one.pop("dtype"), other.pop("dtype")) == ("float32", "float16")
    assert one == other
    assert (in_float32(half), in_float32(name), in_float32(f"{half}+window=64")) == (name, name, f"{name}+window=64")


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("gptq-old+dtype=float16", "gptq-old-half"),
        ("gptq-old-half+dtype=float32", "gptq-old"),
        ("gptq-new+window=1024+dtype=float16", "gptq-new-half+window=1024"),
        ("gptq-new-half+window=1024+dtype=float32", "gptq-new+window=1024"),
        ("gptq-old-half+dtype=bfloat16", "gptq-old+dtype=bfloat16"),
        ("gptq-old+dtype=bfloat16", "gptq-old+dtype=bfloat16"),
        ("gptq-old+dtype=float32", "gptq-old"),
        ("gptq-old-half", "gptq-old-half"),
        ("stdlib+dtype=float16", "stdlib+dtype=float16"),
    ],
)
def test_a_setting_has_one_name_however_it_is_typed(typed, name):
    assert compose.canonical("eval", typed) == name
    assert asdict(compose.load("eval", typed)) == asdict(compose.load("eval", name))
    assert compose.canonical("eval", name) == name
    if typed == name:
        commands.check(["model=opt-125m", f"eval={typed}"])
    else:  # by hand it would write into another folder
        with pytest.raises(ConfigError, match=re.escape(f"that of its results; expected eval={name}")):
            commands.check(["model=opt-125m", f"eval={typed}"])


def test_no_two_names_share_or_split_results():
    """Whatever is typed for one setting, the study and the folders of its evaluations are the same; of two, they are not."""
    typed = ["gptq-old-half", "gptq-old+dtype=float16"]
    studies = [asked(protocol) for protocol in (*typed, "gptq-old")]
    names = [study.name for study in studies]
    folders = [[EVALUATE.folder(study.wildcards(cell)) for cell in study.cells] for study in studies]
    assert names[0] == names[1] != names[2]
    assert folders[0] == folders[1] and not set(folders[0]) & set(folders[2])


# The gate


def test_what_is_measured_in_float16_waits_for_a_gate_in_float16_and_nothing_else_changes():
    half, full = asked("gptq-old-half"), asked("gptq-old")
    for study in (half, full):
        for cell in study.cells:
            needed = {job.stage.name for job in inputs(study, StageJob(EVALUATE, study.wildcards(cell)))}
            assert ("gate_half" in needed) == (study is half and cell.method != "none")
    cell = next(cell for cell in half.cells if cell.method == "rtn")
    of_half, of_full = (
        [job.folder for job in inputs(study, StageJob(QUANTIZE, study.wildcards(cell)))] for study in (half, full)
    )
    assert of_half == of_full  # else weights would be made again for another precision of the measurement
    assert {job.stage.name for job in upstream(half, jobs_of(half, cell)["evaluation"])} >= {"gate", "gate_half"}
    for other in (asked("gptq-old-half", "study.gate=off"), asked("gptq-old+dtype=bfloat16")):
        assert all("gate_half" not in jobs_of(other, cell) for cell in other.cells)


def test_a_protocol_of_the_other_table_waits_for_the_same_gates():
    study = asked("gptq-new-half+window=1024")
    gates = {job.folder for cell in study.cells for job in upstream(study, jobs_of(study, cell)["evaluation"])}
    assert {GATE.folder(Wildcards(model=MODEL)), GATE_HALF.folder(Wildcards(model=MODEL))} <= gates


def test_the_rule_of_the_gate_asks_for_its_evaluation():
    pipeline = Pipeline({"study": "smoke", "overrides": " ".join([*SMALL, "study.eval=gptq-old-half"])})
    (path,) = pipeline.inputs("gate_half")(synthetic.Wildcards(model=MODEL))
    assert path == f"{EVALUATE.folder(Wildcards(model=MODEL, protocol='gptq-old-half'))}/result.json"


def measured(factor: float) -> None:
    """Leave an evaluation in float16 whose perplexities are the published ones times `factor`."""
    losses = {corpus: [math.log(ppl * factor)] * 4 for corpus, ppl in published.full_precision(MODEL).items()}
    names = Wildcards(model=MODEL, protocol=GATE_PROTOCOL_HALF)
    about = {"corpora": {}, "identity": identity(EVALUATE, names)}
    write_json(EVALUATE.folder(names) / "result.json", "perplexity", {"variants": {"r0": {"nll": losses}}, **about})


@pytest.mark.parametrize("factor", [1.0, 1.0049, 0.9951])
def test_the_gate_in_float16_has_the_tolerance_of_the_gate(factor):
    measured(factor)
    gate_half.main(Job("gate_half", [f"model={MODEL}"]))
    result = read_json(Path(GATE_HALF.pattern.format(model=MODEL)) / "result.json", "gate")
    assert result["identity"]["settings"] == {"tolerance": gate.TOLERANCE}
    assert result["corpora"]["wikitext2"]["measured"] == pytest.approx(27.65 * factor)


@pytest.mark.parametrize("factor", [1.0051, 0.9, math.inf])
def test_what_is_off_in_float16_is_said_with_the_way_on(factor):
    measured(min(factor, 1e30))
    said = r"in float16 wikitext2: .* published 27\.65.*study\.eval=gptq-old, or .*gate=off"
    with pytest.raises(gate.GateFailed, match=said):
        gate_half.main(Job("gate_half", [f"model={MODEL}"]))
    assert not (Path(GATE_HALF.pattern.format(model=MODEL)) / "result.json").exists()


# The scorecard


def test_numbers_in_float16_are_held_against_the_same_print_and_the_page_says_which_they_are():
    study = load_study("sensitivity", [f"study.models=[{MODEL}]"])
    found = synthetic.printed(study)
    of_float32 = scorecard.compare(study, found, changes(found))
    half = replace(study, eval="gptq-old-half")
    of_half = scorecard.compare(half, found, changes(found))
    assert of_float32 and [replace(row, protocol="gptq-old") for row in of_half] == of_float32
    assert {row.protocol for row in of_half} == {"gptq-old-half"} and "protocol" in scorecard.COLUMNS
    assert scorecard.compare(replace(study, eval="gptq-old-half+window=1024"), found, changes(found)) == []
    for rows, dtype, protocol in ((of_float32, "float32", "gptq-old"), (of_half, "float16", "gptq-old-half")):
        page = evidence.scorecard(rows, [])
        Reader(page)
        assert f"Measured here with forward passes in {dtype} ({protocol};" in page
        assert "is inferred from GPTQ&#x27;s code" in page
        assert any(f"{dtype} forward passes; those of print were float16" in line for line in agreement.summary(rows, []))


# The numbers


@pytest.mark.parametrize("kind", ["opt", "bloom", "llama"])
@torch.no_grad()
def test_the_walk_in_float16_is_the_module_in_float16_and_the_loss_is_float32s(tmp_path, kind):
    """Norms and softmax are Hugging Face's own. Losses are as exact as float64 makes them from the same logits."""
    folder, ids = tiny.checkpoint(tmp_path, kind, dtype=torch.float16), tiny.windows(5, 12)
    walk = BlockWalk(discovery.opened(folder), torch.float16, batch_tokens=10_000)
    hidden = walk.embed(ids)
    for index in range(walk.depth):
        with walk.block(index) as block:
            walk.advance(block, hidden)
    assert hidden.dtype == torch.float16
    losses = walk.score(hidden, ids)
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16, attn_implementation=walk.attention).eval()
    logits = whole(input_ids=ids, use_cache=False).logits
    assert logits.dtype == torch.float16
    exact = torch.stack(
        [torch.nn.functional.cross_entropy(window[:-1].double(), own[1:]) for window, own in zip(logits, ids, strict=True)]
    )
    assert losses.dtype == torch.float32
    assert torch.allclose(losses.double(), exact, rtol=1e-6, atol=0)
    # float16 itself could not hold them so exactly.
    assert not torch.allclose(losses.half().double(), exact, rtol=1e-6, atol=0)


def test_the_mean_over_windows_is_taken_in_float64():
    """In float16 or float32 a sum of so many windows would lose the last digits."""
    losses = np.full(100_000, np.float32(3.3)) + np.linspace(0, 1e-3, 100_000).astype(np.float32)
    assert perplexity(losses.tolist()) == pytest.approx(math.exp(math.fsum(map(float, losses)) / len(losses)), rel=1e-12)


def test_nothing_of_ours_and_nothing_that_we_import_turns_tf32_on():
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.matmul.allow_tf32


def test_on_a_stand_in_float16_differs_from_float32_by_far_less_than_the_tolerances(copy, monkeypatch):
    monkeypatch.chdir(copy)
    study = load_study("smoke")
    model = study.models[0]
    cells = [cell for cell in study.cells if cell.model == model and cell.rank == 0][:3]
    half = "stdlib+dtype=float16"
    smallest = min(scorecard.TOLERANCES["full precision"].share, gate.TOLERANCE)
    tokens.main(Job("tokens", [f"model={model}", f"eval={half}"]))
    for cell in cells:
        names = study.wildcards(cell)
        ours = [f"{key}={getattr(names, key)}" for key in ("model", "method", "calibration", "weight", "trained", "activation")]
        evaluate.main(Job("evaluate", [*ours, f"eval={half}"]))
        one, other = (
            read_json(EVALUATE.folder(cell.wildcards(protocol)) / "result.json", "perplexity")["variants"]["r0"]["nll"]
            for protocol in (study.eval, half)
        )
        for corpus, losses in one.items():
            share = perplexity(other[corpus]) / perplexity(losses) - 1
            assert 0 < abs(share) < 0.1 * smallest, (cell.key, corpus)
