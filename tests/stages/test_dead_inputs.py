"""Inputs that are zero on every calibration token: what GPTQ and LoRC make of them, and say of them, on a tiny checkpoint."""

from __future__ import annotations

import pytest
import reference
import tiny
import torch
from tiny_stages import quantized_model, result, run

from lorcbench.common.artifacts import read_json
from lorcbench.core.lorc import correction
from lorcbench.jobs.job import Job
from lorcbench.jobs.shards import Shards
from lorcbench.models import discovery
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.stages import calibrate, factor
from lorcbench.stages import lorc as lorc_stage
from lorcbench.stages import quantize as stage
from lorcbench.study.stages import CALIBRATE, LORC, QUANTIZE

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

DEAD = [3, 4, 17, 30, 31, 39]  # of the 40 inputs of fc2


@pytest.fixture
def checkpoint(tiny_checkpoint) -> Checkpoint:
    """An OPT whose ReLU lets nothing through to some inputs of every block's fc2."""

    def lower(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if name.endswith("fc1.bias"):
                tensor[:] = 2.0  # so that no other is dead by chance
                tensor[DEAD] = -1000.0

    return discovery.opened(tiny.edit(tiny_checkpoint("opt"), lower))


def is_dead() -> torch.Tensor:
    """(in,) bool of fc2."""
    return torch.zeros(40, dtype=torch.bool).index_fill_(0, torch.tensor(DEAD), True)


@pytest.mark.parametrize("method", ["gptq", "gptq+act_order=true", "gptq+dead=excluded"])
def test_dead_inputs_are_counted_marked_and_set_to_zero_and_their_marks_are_no_bits_of_the_weights(checkpoint, method):
    names = run(stage.main, method)
    for notes in result(names)["notes"]:
        assert {name: note["dead"] for name, note in notes.items() if note["dead"]} == {"fc2": len(DEAD)}
    model = quantized_model(names)
    for index in range(tiny.LAYERS):
        assert {name: mask.tolist() for name, mask in model.dead_inputs(index).items()} == {"fc2": is_dead().tolist()}
        assert (model.block(index)["fc2"][:, DEAD] == 0).all()
    plain = run(stage.main, "rtn")
    assert result(names)["bits_per_weight"] == result(plain)["bits_per_weight"]
    assert quantized_model(plain).dead_inputs(0) == {}


def test_scales_of_rows_cover_dead_weights_only_as_published(checkpoint):
    weight = checkpoint.linears(0)["fc2"].float()
    published, excluded = (
        Shards(QUANTIZE.folder(run(stage.main, method)) / "result.json", QUANTIZE.kind).block(0)["fc2.scale"].float()
        for method in ("gptq", "gptq+dead=excluded")
    )
    alive = weight.masked_fill(is_dead(), 0)
    for found, covered in ((published, weight), (excluded, alive)):
        span = (covered.amax(1).clamp(min=0) - covered.amin(1).clamp(max=0)) / 3
        torch.testing.assert_close(found[:, 0], span, rtol=1e-3, atol=0)
    assert not torch.equal(published, excluded)


@pytest.mark.parametrize("dead", ["published", "excluded"])
def test_cached_hessians_treat_dead_inputs_as_propagated_ones_do(checkpoint, dead):
    statistics = CALIBRATE.folder(run(calibrate.main, "gptq-cached"))
    assert read_json(statistics / "result.json", CALIBRATE.kind)["tokens_per_sequence"] == 16
    settings = ["damp=0.5", f"dead={dead}"]  # so much damping shows what the mean diagonal was
    factor.main(Job("factor", ["model=folder", "model.name=tiny", "model.path=unused", "calibration=stdlib", *settings]))
    cached, propagated = (quantized_model(run(stage.main, "+".join([name, *settings]))) for name in ("gptq-cached", "gptq"))
    assert cached.dead_inputs(0)["fc2"].tolist() == is_dead().tolist()
    # Block 0 has the same inputs either way.
    weights, expected = cached.block(0), propagated.block(0)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    other = quantized_model(run(stage.main, "gptq+damp=0.5+dead=" + {"published": "excluded", "excluded": "published"}[dead]))
    assert not torch.equal(other.block(0)["fc2"], expected["fc2"])


def test_lorc_says_how_much_of_the_error_dead_inputs_are_and_spends_no_rank_on_them_if_they_are_excluded(checkpoint):
    names = run(stage.main, "gptq")
    error = checkpoint.linears(0)["fc2"].float() - quantized_model(names).block(0)["fc2"]
    alive = error[:, ~is_dead()]
    unmended = {}
    for lorc in ("plain-fp16", "plain-fp16+dead=excluded"):
        shards = Shards(LORC.folder(run(lorc_stage.main, "gptq", lorc=lorc)) / "result.json", LORC.kind)
        ((linear, said),) = shards.result["dead_inputs"][0].items()
        assert (linear, said["count"]) == ("fc2", len(DEAD))
        assert said["error_share"] == pytest.approx(float((error[:, DEAD].norm() / error.norm()) ** 2), rel=1e-5)
        stored = {part: shards.block(0)[f"fc2.{part}"] for part in ("B", "A")}
        corrected = correction(stored, 2)
        unmended[lorc] = float((alive - corrected[:, ~is_dead()]).norm())
        assert (corrected[:, DEAD].abs().max() < 1e-3) == ("excluded" in lorc)
    published, excluded = unmended.values()
    assert excluded == pytest.approx(reference.smallest_error(alive, 2), rel=1e-3)
    assert excluded < 0.98 * published < 0.98 * float(alive.norm())


def test_where_no_input_is_dead_lorc_names_none_and_excluding_changes_nothing(tiny_checkpoint):
    tiny_checkpoint("bloom")
    run(stage.main, "gptq")
    plain, excluded = (
        Shards(LORC.folder(run(lorc_stage.main, "gptq", lorc=lorc)) / "result.json", LORC.kind)
        for lorc in ("plain-fp16", "plain-fp16+dead=excluded")
    )
    assert plain.result["dead_inputs"] == [{}] * tiny.LAYERS
    assert all(torch.equal(tensor, excluded.block(1)[name]) for name, tensor in plain.block(1).items())
