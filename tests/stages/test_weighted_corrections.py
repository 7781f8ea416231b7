"""Corrections weighted with the inputs, as the stage makes them on tiny checkpoints: whose inputs, and after a kill."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import tiny
import torch
from pretended_cuda import PretendedCuda, load_guard
from tiny_stages import NAMES, cell_weights, expected_metric, quantized_model, run, seen
from torch import nn

from lorcbench.common.artifacts import read_json
from lorcbench.common.paths import Wildcards
from lorcbench.core import lorc as core
from lorcbench.jobs import statistics
from lorcbench.jobs.job import Job
from lorcbench.jobs.shards import Shards
from lorcbench.models import discovery, observe
from lorcbench.stages import calibrate
from lorcbench.stages import lorc as lorc_stage
from lorcbench.stages import quantize as quantize_stage
from lorcbench.study.stages import CALIBRATE, LORC, QUANTIZE

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

KINDS = ("diag-abs", "diag-rms", "exact")


@pytest.mark.parametrize("inputs", ["full_precision", "quantized"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_each_linear_is_weighted_with_its_own_inputs(tiny_checkpoint, family, kind, inputs):
    """q, k and v share theirs; an MLP's second matrix has others than its first."""
    checkpoint = discovery.opened(tiny_checkpoint(family))
    names = run(quantize_stage.main, "rtn")
    run(calibrate.main, "rtn")
    lorc = f"{kind}-fp16" + ("+inputs=quantized" if inputs == "quantized" else "")
    factors = Shards(LORC.folder(run(lorc_stage.main, "rtn", lorc=lorc, cap="4")) / "result.json", LORC.kind)
    quantized = quantized_model(names)
    observed = seen(checkpoint, quantized.block if inputs == "quantized" else lambda index: {})
    for index in range(tiny.LAYERS):
        stored = factors.block(index)
        for name, weight in checkpoint.linears(index).items():
            error = weight.float() - quantized.block(index)[name]
            metric = expected_metric(kind, observed[index][name])
            b, a = core.decompose(error, 4, metric=metric)
            rest = core.weighted_norm(error - b @ a, metric)
            left = core.weighted_norm(error - core.correction({part: stored[f"{name}.{part}"] for part in "BA"}, 4), metric)
            assert left == pytest.approx(rest, rel=2e-3)
            assert factors.result["error_norm"][index][name] == pytest.approx(core.weighted_norm(error, metric), rel=1e-4)


def test_a_fused_linear_is_split_and_its_parts_share_the_metric(tiny_checkpoint):
    tiny_checkpoint("bloom")
    run(quantize_stage.main, "rtn")
    run(calibrate.main, "rtn")
    names = run(lorc_stage.main, "rtn", lorc="exact-int8", cap="4")
    fused = {name for name in read_json(LORC.folder(names) / "result.json", LORC.kind)["error_norm"][0] if "query_key" in name}
    assert {name.rpartition(".")[2] for name in fused} == {"q", "k", "v"}


def test_the_output_error_of_a_block_falls_below_that_of_plain_factors(tiny_checkpoint):
    """What the correction promises: over the calibration's inputs, the outputs of all linears are nearer."""
    checkpoint = discovery.opened(tiny_checkpoint("opt"))
    run(quantize_stage.main, "rtn")
    run(calibrate.main, "rtn")
    inputs = seen(checkpoint, lambda index: {})
    left = {}
    for kind in ("plain", *KINDS):
        weights = cell_weights(run(lorc_stage.main, "rtn", lorc=f"{kind}-int8", cap="32"), checkpoint, f"{kind}-int8", 4)
        left[kind] = math.fsum(
            float((inputs[index][name] @ (weight.float() - weights.block(index)[name]).T).square().sum())
            for index in range(tiny.LAYERS)
            for name, weight in checkpoint.linears(index).items()
        )
    assert left["exact"] < min(left["plain"], left["diag-abs"], left["diag-rms"])


def test_weights_that_need_no_data_lie_where_they_lie_without_a_correction(tiny_checkpoint):
    tiny_checkpoint("opt")
    with_data, without = Wildcards(**NAMES | {"method": "rtn"}), Wildcards(**NAMES | {"method": "rtn", "calibration": "none"})
    assert QUANTIZE.folder(with_data) == QUANTIZE.folder(without)
    assert LORC.folder(with_data) != LORC.folder(without)
    gptq = Wildcards(**NAMES | {"method": "gptq"})
    assert QUANTIZE.folder(gptq) != QUANTIZE.folder(replace(gptq, calibration="none"))


@pytest.mark.parametrize("inputs", ["full_precision", "quantized"])
def test_a_job_that_was_killed_ends_with_the_same_bytes(tiny_checkpoint, inputs):
    tiny_checkpoint("opt")
    run(quantize_stage.main, "rtn")
    run(calibrate.main, "rtn")
    settings = {"lorc": f"exact-int8+inputs={inputs}" if inputs == "quantized" else "exact-int8", "cap": "4"}
    folder = LORC.folder(run(lorc_stage.main, "rtn", **settings))
    kept = [*sorted(folder.glob("*.safetensors")), folder / "result.json"]
    whole = {path: path.read_bytes() for path in kept}
    assert len(whole) == tiny.LAYERS + 1
    for path in (kept[1], kept[-1]):
        path.unlink()
    run(lorc_stage.main, "rtn", **settings)
    assert {path: path.read_bytes() for path in kept} == whole


@pytest.mark.parametrize(
    "lorc",
    [
        *(
            pytest.param(lorc, marks=pytest.mark.long)
            for lorc in ("exact-int8", "diag-abs-int8", "diag-rms-int8+inputs=quantized")
        ),
        "exact-int8+inputs=quantized",
    ],
)
def test_a_gpu_makes_factors_that_leave_as_little(tiny_checkpoint, tmp_path_factory, monkeypatch, lorc):
    load_guard(tmp_path_factory.mktemp("guard"))
    monkeypatch.setattr(observe, "_memory", lambda tensor: getattr(tensor, "payload", tensor).untyped_storage().data_ptr())
    checkpoint = discovery.opened(tiny_checkpoint("opt"))
    run(quantize_stage.main, "rtn")
    run(calibrate.main, "rtn")
    names = Wildcards(**NAMES | {"method": "rtn", "lorc": lorc, "cap": "32"})

    def products() -> list[torch.Tensor]:
        weights = cell_weights(names, checkpoint, lorc, 4)
        return [weight for index in range(tiny.LAYERS) for weight in weights.block(index).values()]

    def on_gpu(job: Job) -> None:
        job.runtime = replace(job.runtime, device="cuda")
        job.stage = "lorc"
        lorc_stage.main(job)

    run(lorc_stage.main, "rtn", lorc=lorc, cap="32")
    of_cpu = products()
    for path in LORC.folder(names).iterdir():
        path.unlink()
    with PretendedCuda():
        run(on_gpu, "rtn", lorc=lorc, cap="32")
    for ours, theirs in zip(products(), of_cpu, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3 * float(theirs.abs().max()))


class Routed(nn.Module):
    """A block that sends only some tokens to its second linear, as experts are sent theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.all, self.some = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.some(x.flatten(0, 1)[:3])
        return self.all(x.flatten(0, 1)).view_as(x)


def test_an_input_whose_sequences_nobody_knows_has_no_magnitude_and_is_refused_by_its_kind():
    block = Routed()
    architecture = type("Architecture", (), {"linears": (("all",), ("some",))})
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    with observe.magnitudes(block, architecture) as largest:
        block(x)
    assert list(largest) == ["all"]
    torch.testing.assert_close(largest["all"].largest, x.abs().mean(1).amax(0))
    moments = {name: type("Moment", (), {"mean": lambda self: torch.eye(4)})() for name in ("all", "some")}
    stored = statistics.to_stored(moments, largest)
    assert statistics.from_cache(dict(stored), "diag-rms", "cpu")("some").tolist() == [1.0] * 4
    with pytest.raises(ValueError, match=r"diag-abs: some sees tokens .* expected diag-rms or exact"):
        statistics.from_cache(dict(stored), "diag-abs", "cpu")("some")
    assert set(statistics.triangles(stored)) == {"all", "some"}


def test_statistics_hold_magnitudes_beside_moments(tiny_checkpoint):
    tiny_checkpoint("opt")
    shard = Shards(CALIBRATE.folder(run(calibrate.main, "rtn")) / "result.json", CALIBRATE.kind).block(0)
    assert {name for name in shard if name.endswith(statistics.MAGNITUDE)} == {
        name + statistics.MAGNITUDE for name in statistics.triangles(shard)
    }
