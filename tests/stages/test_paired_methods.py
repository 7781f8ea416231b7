"""Methods that make codes and factors together, run by the stages on tiny checkpoints: whose inputs, which size, kills."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from pretended_cuda import PretendedCuda, load_guard
from tiny_stages import NAMES, WINDOWS, cell_weights, quantized_model, result, run

from lorcbench.common.artifacts import read_json
from lorcbench.common.paths import Wildcards
from lorcbench.core import gptq
from lorcbench.core import lorc as core
from lorcbench.jobs.export.cell import factors as exported_factors
from lorcbench.jobs.job import Job
from lorcbench.models import discovery, observe
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.surgery import install_weights
from lorcbench.stages import calibrate, factor
from lorcbench.stages import lorc as lorc_stage
from lorcbench.stages import quantize as stage
from lorcbench.study.stages import QUANTIZE

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

RANK = 4
METHODS = ("gptq-intrinsic", "split", "split+base=rtn", "joint", "joint+base=rtn")


def named(method: str, *changes: str) -> str:
    """A method of the rank of these tests."""
    stem, *own = method.split("+")
    return "+".join([stem, *sorted([*own, *changes, f"rank={RANK}"])])


def make(method: str, lorc: str = "paired-fp16", weight: str = "w2-asym-row") -> Wildcards:
    """Quantize, and then correct."""
    if not list(QUANTIZE.folder(Wildcards(**NAMES | {"method": method, "weight": weight})).glob("result.json")):
        run(stage.main, method, weight=weight)
    cap = str(RANK) if lorc.startswith("paired") else "32"
    return run(lorc_stage.main, method, lorc=lorc, cap=cap, weight=weight)


def weights_of(names: Wildcards, checkpoint, lorc: str = "paired-fp16") -> list[dict[str, torch.Tensor]]:
    """Ŵ + B A of every linear, block by block."""
    weights = cell_weights(names, checkpoint, lorc, RANK)
    return [{name: weights.block(index)[name] for name in checkpoint.linears(index)} for index in range(checkpoint.depth)]


def assert_same_weights(ours: list[dict], theirs: list[dict]) -> None:
    for index, name in ((index, name) for index, block in enumerate(theirs) for name in block):
        assert torch.equal(ours[index][name], theirs[index][name]), f"{name} of block {index}"


@pytest.mark.parametrize(("family", "weight"), [("opt", "w3-sym-g8"), ("bloom", "w2-asym-row")])
def test_one_round_and_no_preserved_component_are_the_ordinary_order_bit_for_bit(tiny_checkpoint, family, weight):
    checkpoint = discovery.opened(tiny_checkpoint(family))
    run(calibrate.main, "gptq-cached")
    run(factor.main, "gptq-cached")
    for base, ordinary in (("gptq", "gptq-cached"), ("rtn", "rtn")):
        expected = {kind: weights_of(make(ordinary, kind, weight), checkpoint, kind) for kind in ("exact-fp16", "plain-fp16")}
        changes = [f"base={base}"] if base == "rtn" else []
        split, joint = named("split", *changes, "preserved=0"), named("joint", *changes, "rounds=1")
        for method in (split, joint):
            assert_same_weights(weights_of(make(method, weight=weight), checkpoint), expected["exact-fp16"])
        plain = named("joint", *changes, "rounds=1", "correction=plain")
        assert_same_weights(weights_of(make(plain, weight=weight), checkpoint), expected["plain-fp16"])
    for method in (named("joint"), named("split", "preserved=2"), named("gptq-intrinsic")):
        ours = weights_of(make(method, weight=weight), checkpoint)
        theirs = weights_of(make("gptq-cached", "exact-fp16", weight), checkpoint, "exact-fp16")
        assert any(not torch.equal(one[name], other[name]) for one, other in zip(ours, theirs, strict=True) for name in other)


@pytest.mark.parametrize("method", METHODS)
def test_the_cell_is_what_the_method_kept_and_its_size_counts_the_factors(tiny_checkpoint, method):
    checkpoint = discovery.opened(tiny_checkpoint("bloom"))
    run(calibrate.main, "rtn")
    names = make(named(method))
    quantized = quantized_model(names)
    weights = cell_weights(names, checkpoint, "paired-fp16", RANK)
    factor_bits = 0
    for index, notes in enumerate(result(names)["notes"]):
        corrected, approximate = weights.block(index), quantized.block(index)
        made = quantized.factors(index)
        assert {name.rpartition(".")[2] for name in made if "query_key_value" in name} == {"q", "k", "v"}
        for name, weight in checkpoint.linears(index).items():
            rows = checkpoint.architecture.part_rows(name, len(weight)) or {"": slice(None)}
            for part, indices in rows.items():
                matrix = f"{name}.{part}" if part else name
                b, a = made[matrix]
                factor_bits += 16 * (b.numel() + a.numel())
                correction = corrected[name][indices] - approximate[name][indices]
                torch.testing.assert_close(correction, b @ a, rtol=0, atol=2e-3 * float((b @ a).abs().max()) + 1e-6)
                noted = notes[name]["pairs"][matrix]
                errors = noted["errors"]
                assert errors[noted.get("round", 1) - 1] == min(errors)
                assert 0 <= noted.get("preserved", 0) <= RANK
    payload = result(names)
    assert weights.size()["bits_per_weight"] == payload["bits_per_weight"] + factor_bits / payload["weights"]
    assert exported_factors(weights, 0).keys() == set(checkpoint.architecture.linear_names)


def test_more_rounds_leave_less_of_the_output_error(tiny_checkpoint):
    tiny_checkpoint("opt")
    run(calibrate.main, "rtn")
    for base in ([], ["base=rtn"]):
        totals = []
        for rounds in (1, 2, 6):
            notes = result(run(stage.main, named("joint", *base, f"rounds={rounds}")))["notes"]
            pairs = [pair for block in notes for linear in block.values() for pair in linear["pairs"].values()]
            totals.append(sum(min(pair["errors"]) ** 2 for pair in pairs))
        assert all(after <= before for before, after in itertools.pairwise(totals))
        assert totals[-1] < totals[0]


def seen(checkpoint, weights_of_block) -> list[dict[str, torch.Tensor]]:
    """E[xᵀx] of the inputs of every linear, by the model with these weights in the blocks before."""
    walk = BlockWalk(checkpoint, torch.float32)
    hidden = walk.embed(WINDOWS)
    found = []
    for index in range(walk.depth):
        with walk.block(index) as block:
            with ExitStack() as stack:
                inputs = {name: stack.enter_context(observe.recorded(block, name)) for name in walk.architecture.linear_names}
                walk.forward(block, hidden)
            install_weights(block, weights_of_block(index))
            walk.advance(block, hidden)
        rows = {name: torch.cat([part.flatten(0, -2) for part in parts]) for name, parts in inputs.items()}
        found.append({name: x.T @ x / len(x) for name, x in rows.items()})
    return found


@pytest.mark.parametrize("hessian", ["cached", "propagated"])
def test_later_blocks_see_the_corrections_of_earlier_ones_only_if_inputs_are_propagated(tiny_checkpoint, hessian):
    checkpoint = discovery.opened(tiny_checkpoint("opt"))
    run(calibrate.main, "rtn")
    names = make(named("split", "base=rtn", *(["hessian=propagated"] if hessian == "propagated" else [])), "paired-fp16")
    corrected = weights_of(names, checkpoint)
    metrics = seen(checkpoint, (lambda index: {}) if hessian == "cached" else corrected.__getitem__)
    for index, notes in enumerate(result(names)["notes"]):
        for name, weight in checkpoint.linears(index).items():
            error = core.weighted_norm(weight.float() - corrected[index][name], metrics[index][name])
            assert error == pytest.approx(notes[name]["pairs"][name]["errors"][0], rel=5e-3)


@pytest.mark.parametrize("changes", [(), ("hessian=propagated",)])
def test_a_job_that_was_killed_ends_with_the_same_bytes(tiny_checkpoint, changes):
    tiny_checkpoint("opt")
    run(calibrate.main, "rtn")
    method = named("joint", "rounds=2", *changes)
    folder = QUANTIZE.folder(run(stage.main, method))
    kept = [*sorted(folder.glob("*.safetensors")), folder / "result.json"]
    whole = {path: path.read_bytes() for path in kept}
    for path in kept[1:]:
        path.unlink()
    run(stage.main, method)
    assert {path: path.read_bytes() for path in kept} == whole


def test_what_a_method_does_not_make_is_refused(tiny_checkpoint):
    tiny_checkpoint("opt")
    run(calibrate.main, "rtn")
    run(stage.main, "rtn")
    with pytest.raises(ValueError, match=r"lorc=paired-int8: rtn makes no factors; expected one such as exact-int8"):
        run(lorc_stage.main, "rtn", lorc="paired-int8", cap="4")
    with pytest.raises(ValueError, match=r"method=joint: makes codes for one rank; expected joint\+rank=8"):
        run(stage.main, "joint")


@pytest.mark.parametrize("method", ["gptq-intrinsic", "split", "joint+hessian=propagated+rounds=2"])
def test_a_gpu_makes_pairs_that_leave_as_little(tiny_checkpoint, tmp_path_factory, monkeypatch, method):
    monkeypatch.setattr(gptq, "_sweep_block_triton", gptq.sweep_block_reference)
    load_guard(tmp_path_factory.mktemp("guard"))
    monkeypatch.setattr(observe, "_memory", lambda tensor: getattr(tensor, "payload", tensor).untyped_storage().data_ptr())
    tiny_checkpoint("opt")
    run(calibrate.main, "rtn")
    method = named(method)

    def errors() -> list[float]:
        names = Wildcards(**NAMES | {"method": method})
        notes = read_json(QUANTIZE.folder(names) / "result.json", QUANTIZE.kind)["notes"]
        return [min(pair["errors"]) for block in notes for linear in block.values() for pair in linear["pairs"].values()]

    def on_gpu(job: Job) -> None:
        job.runtime = replace(job.runtime, device="cuda")
        job.stage = "quantize"
        stage.main(job)

    run(stage.main, method)
    of_cpu = errors()
    for path in QUANTIZE.folder(Wildcards(**NAMES | {"method": method})).iterdir():
        path.unlink()
    with PretendedCuda():
        run(on_gpu, method)
    assert errors() == pytest.approx(of_cpu, rel=0.15)
