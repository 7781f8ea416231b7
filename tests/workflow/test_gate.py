"""The gate: a published model must measure as printed before anything of it is quantized."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import synthetic
from recorded import identity

from lorcbench.common.artifacts import read_json, write_json
from lorcbench.common.paths import Wildcards
from lorcbench.jobs.job import Job
from lorcbench.pipeline.rules import Pipeline
from lorcbench.stages import gate
from lorcbench.study import published
from lorcbench.study.expansion import load_study
from lorcbench.study.graph import job_folders
from lorcbench.study.stages import EVALUATE, GATE

pytestmark = pytest.mark.usefixtures("elsewhere")

MODEL = "opt-125m"
OVERRIDES = "study.models=[opt-125m,opt-standin-xs] study.methods=[none,rtn] study.weights=[w16,w4-asym-row] study.ranks=[0]"


def measured(factor: float, is_published: bool | None = True) -> None:
    """Leave an evaluation whose perplexities are the published ones times `factor`, on text of that kind."""
    losses = {corpus: [math.log(ppl * factor)] * 4 for corpus, ppl in published.full_precision(MODEL).items()}
    corpora = {corpus: {"published": is_published, "documents": 2000} for corpus in losses}
    names = Wildcards(model=MODEL, protocol=published.GATE_PROTOCOL)
    about = {"corpora": corpora, "identity": identity(EVALUATE, names)}
    write_json(EVALUATE.folder(names) / "result.json", "perplexity", {"variants": {"r0": {"nll": losses}}, **about})


@pytest.mark.parametrize("factor", [1.0, 1.004, 0.996])
@pytest.mark.parametrize("is_published", [True, None])
def test_a_model_that_measures_as_printed_passes(factor, is_published):
    measured(factor, is_published)
    gate.main(Job("gate", [f"model={MODEL}"]))
    found = read_json(Path(GATE.pattern.format(model=MODEL)) / "result.json", "gate")["corpora"]
    assert found.keys() == {"wikitext2", "ptb", "c4"}
    assert found["wikitext2"]["published"] == 27.65
    assert all(values["measured"] == pytest.approx(factor * values["published"]) for values in found.values())


@pytest.mark.parametrize(("factor", "said"), [(1.006, r"\+0\.6 %"), (0.9, r"-10\.0 %"), (1e9, r"\+\d+\.0 %")])
def test_one_that_does_not_is_stopped_with_the_numbers_and_the_way_on(factor, said):
    measured(factor)
    with pytest.raises(gate.GateFailed, match=rf"wikitext2: .* is {said} from the published 27\.65.*study\.gate=off"):
        gate.main(Job("gate", [f"model={MODEL}"]))
    assert not (Path(GATE.pattern.format(model=MODEL)) / "result.json").exists()


def test_other_text_is_no_measurement_of_the_published_number():
    measured(1.0, is_published=False)
    with pytest.raises(gate.GateFailed, match="c4: 2,000 documents that are not the published text"):
        gate.main(Job("gate", [f"model={MODEL}"]))


def test_quantizing_a_published_model_waits_for_the_gate_unless_told_not_to():
    for off in (False, True):
        pipeline = Pipeline({"study": "smoke", "overrides": OVERRIDES + " study.gate=off" * off})
        for model in ("opt-125m", "opt-standin-xs"):
            cell = next(cell for cell in pipeline.study.cells if (cell.model, cell.method) == (model, "rtn"))
            inputs = pipeline.inputs("quantize")(synthetic.Wildcards(vars(cell.wildcards())))
            waits = GATE.pattern.format(model=model) + "/result.json" in inputs
            assert waits == (model == "opt-125m" and not off)
            assert ("gate" in job_folders(pipeline.study, cell)) == waits


def test_full_precision_does_not_wait_for_the_gate():
    expanded = load_study("smoke", OVERRIDES.split())
    cell = next(cell for cell in expanded.cells if cell.model == MODEL and cell.method == "none")
    assert "gate" not in job_folders(expanded, cell)
