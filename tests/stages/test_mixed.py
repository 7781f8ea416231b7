"""Mixed formats on tiny checkpoints: what the sensitivity is, which linear gets what, and whose codes it has."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from tiny_stages import WINDOWS, cell_weights, prepare, quantized_model, result, run
from transformers import AutoModelForCausalLM

from lorcbench.common.artifacts import read_json
from lorcbench.common.paths import Wildcards
from lorcbench.core import lorc as core
from lorcbench.models import discovery
from lorcbench.stages import calibrate as calibrate_stage
from lorcbench.stages import lorc as lorc_stage
from lorcbench.stages import quantize as quantize_stage
from lorcbench.stages import sensitivity as sensitivity_stage
from lorcbench.study.stages import SENSITIVITY

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

FORMATS = ("w2-asym-g8", "w3-asym-g8", "w4-asym-g8")
CANDIDATES = "w2-w3-w4-asym-g8"


def measured(method: str = "rtn") -> list[dict]:
    """The sensitivities to each format, after the quantization that they are measured on."""
    found = []
    for weight in FORMATS:
        run(quantize_stage.main, method, weight=weight, calibration="stdlib")
        names = run(sensitivity_stage.main, method, weight=weight)
        found.append(read_json(SENSITIVITY.folder(names) / "result.json", SENSITIVITY.kind))
    return found


def mixed(bits: float, by: str = "", base: str = "rtn") -> Wildcards:
    changes = "".join(f"+{key}={value}" for key, value in (("base", base), ("bits", bits), ("by", by)) if value)
    return run(quantize_stage.main, f"mixed{changes}+formats={CANDIDATES}", weight="mixed")


def slow_divergence(folder, quantized: dict[str, torch.Tensor]) -> float:
    """KL(p ‖ q) in nats per token of the whole model with these weights, by Hugging Face's own forward."""
    full = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        log_p = full(WINDOWS).logits[:, :-1].double().log_softmax(-1)
        for name, weight in quantized.items():
            full.get_parameter(name).copy_(weight)
        log_q = full(WINDOWS).logits[:, :-1].double().log_softmax(-1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


@pytest.mark.parametrize("kind", ["opt", "bloom"])
def test_the_sensitivity_is_the_divergence_with_these_linears_alone_quantized(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    folder = prepare(tmp_path, kind)
    run(quantize_stage.main, "rtn", weight="w2-asym-g8")
    names = run(sensitivity_stage.main, "rtn", weight="w2-asym-g8")
    found = read_json(SENSITIVITY.folder(names) / "result.json", SENSITIVITY.kind)
    checkpoint = discovery.opened(folder)
    quantized = quantized_model(names)
    assert found["tokens"] == WINDOWS.numel()
    for index in range(checkpoint.depth):
        for group in checkpoint.architecture.linears:
            weights = {f"{tiny.BLOCKS[kind]}.{index}.{name}.weight": quantized.block(index)[name] for name in group}
            expected = slow_divergence(folder, weights)
            assert found["divergence"][index][group[0]] == pytest.approx(expected, rel=2e-3)
            own = checkpoint.linears(index)
            error = sum(float((own[name].double() - quantized.block(index)[name]).square().sum()) for name in group)
            assert found["error"][index][group[0]] == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize("by", ["", "error", "depth"])
def test_every_linear_has_the_codes_of_its_own_format_and_the_budget_holds(tmp_path, monkeypatch, by):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, "opt")
    scores = [found["error" if by == "error" else "divergence"] for found in measured()]
    for bits in (4.5, 5.2):
        names = mixed(bits, by)
        made = result(names)
        assert made["bits_per_weight"] <= bits
        assert made["choice"]["bits"] == round(made["bits_per_weight"] * made["weights"])
        used = set()
        for index, of_block in enumerate(made["formats"]):
            assert len({of_block[f"self_attn.{name}_proj"] for name in "qkv"}) == 1
            for name, weight in quantized_model(names).block(index).items():
                uniform = replace(names, method="rtn", calibration="none", weight=of_block[name])
                assert torch.equal(weight, quantized_model(uniform).block(index)[name])
                used.add(of_block[name])
        assert len(used) > 1
        if by != "depth":
            groups = discovery.opened(tmp_path / "opt").architecture.linears
            sums = sum(
                scores[FORMATS.index(made["formats"][index][group[0]])][index][group[0]]
                for index in range(tiny.LAYERS)
                for group in groups
            )
            assert made["choice"]["score"] == pytest.approx(sums)
    weights = cell_weights(names, discovery.opened(tmp_path / "opt"))
    for index in range(tiny.LAYERS):
        weights.block(index)
    assert weights.size()["bits_per_weight"] == made["bits_per_weight"]


@pytest.mark.parametrize("base", ["gptq", "rtn"])
def test_a_budget_for_the_dearest_format_everywhere_gives_the_codes_of_the_base_method(tmp_path, monkeypatch, base):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, "opt")
    names = mixed(16.0, "depth", base)
    uniform = run(quantize_stage.main, base, weight="w4-asym-g8")
    assert all(fmt == "w4-asym-g8" for block in result(names)["formats"] for fmt in block.values())
    assert result(names)["bits_per_weight"] == result(uniform)["bits_per_weight"]
    assert result(names)["notes"] == result(uniform)["notes"]
    for index in range(tiny.LAYERS):
        expected = quantized_model(uniform).block(index)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in quantized_model(names).block(index).items())


def test_a_budget_that_no_choice_keeps_is_refused_with_the_one_that_would_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, "opt")
    with pytest.raises(ValueError, match=r"method.bits=2.5 of [\d,]+ weights: the cheapest choice takes [\d,]+ bits"):
        run(quantize_stage.main, "mixed+bits=2.5+by=depth+formats=w2-w3-asym-row", weight="mixed")
    with pytest.raises(ValueError, match=r"weight=w2-asym-g8 of mixed.*: expected mixed"):
        run(quantize_stage.main, f"mixed+bits=5.0+by=depth+formats={CANDIDATES}", weight="w2-asym-g8")
    with pytest.raises(ValueError, match="weight=mixed of rtn: expected one format"):
        run(quantize_stage.main, "rtn", weight="mixed")
    with pytest.raises(ValueError, match="groups of 9 do not divide the 24 inputs"):
        run(quantize_stage.main, "mixed+bits=6.0+by=depth+formats=w2-w3-asym-g9", weight="mixed")


@pytest.mark.parametrize("kind", ["opt", "bloom"])
def test_ranks_are_chosen_with_the_formats_and_their_factors_are_within_the_budget(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, kind)
    measured()
    run(calibrate_stage.main, "rtn")
    for weight in FORMATS:
        run(lorc_stage.main, "rtn", weight=weight, lorc="exact-int4", cap="32")
    checkpoint = discovery.opened(tmp_path / kind)
    for bits in (5.3, 6.5):
        method = f"mixed+base=rtn+bits={bits}+formats={CANDIDATES}+factors=exact-int4+components=0-2-5"
        names = run(quantize_stage.main, method, weight="mixed")
        run(lorc_stage.main, method, weight="mixed", lorc="exact-int4", cap="32")
        made = result(names)
        ranks = {rank for block in made["ranks"] for rank in block.values()}
        assert ranks <= {0, 2, 5} and len(ranks) > 1
        weights = cell_weights(replace(names, lorc="exact-int4"), checkpoint, "exact-int4", 5)
        factors = weights.factors.shards
        for index in range(checkpoint.depth):
            corrected = weights.block(index)
            for name, plain in quantized_model(names).block(index).items():
                rank = made["ranks"][index][name]
                is_fused = name in checkpoint.architecture.fused
                if not is_fused:
                    stored = {part: factors.block(index)[f"{name}.{part}"] for part in ("A", "A_scale", "B", "B_scale")}
                    assert torch.equal(corrected[name], plain + core.correction(stored, rank))
                assert torch.equal(corrected[name], plain) == (rank == 0)
        size = weights.size()["bits_per_weight"]
        assert made["bits_per_weight"] < size <= bits
        assert made["choice"]["bits"] == round(size * made["weights"])
