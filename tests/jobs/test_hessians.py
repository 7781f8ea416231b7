"""Cached Hessians: what is stored of a factored one is what GPTQ sweeps with."""

from __future__ import annotations

import pytest
import torch

from lorcbench.common.artifacts import write_json, write_shard
from lorcbench.core import gptq
from lorcbench.core.formats import WeightFormat
from lorcbench.core.gptq import GptqSettings
from lorcbench.jobs import hessians
from lorcbench.study.stages import FACTOR

NAMES = {"model": "m", "calibration": "c", "damp": "0.01", "order": "natural", "dead": "published"}


def moment(width: int, seed: int, dead: tuple[int, ...] = ()) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4 * width, width, generator=generator) @ torch.randn(width, width, generator=generator)
    x[:, list(dead)] = 0
    return x.T @ x / len(x)


@pytest.mark.parametrize("act_order", [False, True])
def test_a_stored_factor_gives_the_codes_of_the_hessian_itself(tmp_path, monkeypatch, act_order):
    monkeypatch.chdir(tmp_path)
    settings = GptqSettings(act_order=act_order)
    prepared = {"fc1": gptq.prepare(moment(24, 0, dead=(3,)), settings), "fc2": gptq.prepare(moment(40, 1), settings)}
    tensors = {f"{name}.{part}": tensor for name, one in prepared.items() for part, tensor in hessians.to_stored(one).items()}
    folder = tmp_path / FACTOR.pattern.format(**NAMES)
    digest = write_shard(folder / "block000.safetensors", tensors, "identity")
    shards = [{"file": "block000.safetensors", "sha256": digest}]
    write_json(folder / "result.json", "hessians", {"shards": shards, "damps": [{name: 0.01 for name in prepared}]})
    factors = hessians.HessianFactors(folder)
    assert factors.shards.result["damps"][0].keys() == prepared.keys()
    hessian_of = factors.block(0)
    for name, one in prepared.items():
        unfolded = hessian_of(name)
        assert torch.equal(unfolded.factor.upper, one.factor.upper)
        assert torch.equal(unfolded.factor.dead, one.factor.dead)
        weight = torch.randn(8, len(one.factor.dead), generator=torch.Generator().manual_seed(2))
        for fmt in (WeightFormat(4), WeightFormat(3, True)):
            expected = gptq.quantize(weight, one, fmt, settings)
            assert torch.equal(gptq.quantize(weight, unfolded, fmt, settings).codes, expected.codes)
