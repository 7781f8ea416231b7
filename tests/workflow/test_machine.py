"""What a machine multiplies per second is measured once per host, and decides nothing: the plan and the summary say it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorcbench.common.artifacts import write_json
from lorcbench.common.paths import Wildcards
from lorcbench.config.schema import RuntimeConfig
from lorcbench.pipeline import machine, plan
from lorcbench.pipeline.estimate import Estimate
from lorcbench.pipeline.machine import Rates

pytestmark = pytest.mark.usefixtures("elsewhere")
HERE = plan.Machine(2, 8_000, 100_000, 1e9, bfloat16_gain=4.0)


@pytest.mark.slow
def test_rates_are_measured_once_and_kept_with_the_host(monkeypatch):
    assert machine.known() is None
    found = machine.rates()
    assert min(found.float32, found.float32_torch, found.bfloat16) > 0
    monkeypatch.setattr(machine, "_measured", lambda: pytest.fail("measured again"))
    assert machine.rates() == machine.known() == found


def test_a_damaged_record_is_measured_again_and_nothing_else_is_lost(monkeypatch):
    monkeypatch.setattr(machine, "_measured", lambda: Rates(1e9, 2e9, 3e9))
    assert machine.rates().bfloat16_gain == 3
    (file,) = Path("results/cache/machine").iterdir()
    file.write_text(file.read_text()[:40])
    assert machine.known() is None
    assert machine.rates() == Rates(1e9, 2e9, 3e9)
    assert json.loads(file.read_text())["rates"]["bfloat16"] == 3e9


@pytest.mark.parametrize(
    ("rates", "said", "silent"),
    [
        (Rates(1e9, 1e9, 4e9), "bfloat16 is up to 4.0 times as fast", "stay with float32"),
        (Rates(2e9, 1e9, 1e9), "bfloat16 is 2.0 times as slow here: stay with float32", "No setting"),
        (Rates(1e9, 1e9, 1.1e9), "bfloat16 is no faster here: stay with float32", "times as"),
        (Rates(1e9, 1.6e9, 1e9), "PyTorch's library multiplies float32 1.6 times as fast", "lorcbench."),
        (Rates(1e9, 1.6e9, 1e9), "No setting changes that; a GPU (device=cuda) uses neither", "up to"),
    ],
)
def test_the_faster_type_and_library_are_named(rates, said, silent):
    text = "\n".join(machine.lines(rates))
    assert said in text
    assert silent not in text
    assert (machine.faster(rates) is None) == ("up to" not in text)


def job(stage: str, seconds: float | None = None, **names: str) -> plan.PlannedJob:
    """A job of 10 GFLOP, done if it says how long it took."""
    return plan.PlannedJob(stage, Wildcards(**names), seconds is not None, Estimate(100, 10e9, 1), seconds=seconds)


def test_times_of_finished_jobs_correct_those_of_the_others_stage_by_stage():
    runtime = RuntimeConfig()
    computed = plan._seconds(job("lorc"), runtime, HERE)
    planned = [job("lorc", 2 * computed), job("lorc", 3 * computed), job("lorc", 40 * computed), job("lorc"), job("quantize")]
    corrected = plan.corrections(planned, runtime, HERE)
    assert corrected == {"lorc": pytest.approx(3)}
    assert plan._seconds(job("lorc"), runtime, HERE, corrected) == pytest.approx(3 * computed)
    assert plan._seconds(job("quantize", method="rtn"), runtime, HERE, corrected) == pytest.approx(computed)


def test_a_forward_pass_in_bfloat16_has_its_own_rate():
    wide, half = (job("evaluate", protocol=f"stdlib{dtype}") for dtype in ("", "+dtype=bfloat16"))
    assert plan._seconds(wide, RuntimeConfig(), HERE) == pytest.approx(2 + 10)
    assert plan._seconds(half, RuntimeConfig(), HERE) == pytest.approx(2 + 2.5)


def test_a_job_of_another_machine_says_nothing_of_this_one():
    folder = Path("done")
    write_json(folder / "run.json", "run", {"seconds": 5.0, "host": "elsewhere"})
    assert plan._took(folder) is None
    write_json(folder / "run.json", "run", {"seconds": 5.0, "host": plan.platform.node()})
    assert plan._took(folder) == 5.0
    assert plan._took(Path("nowhere")) is None
