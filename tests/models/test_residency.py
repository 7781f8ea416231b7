"""What a walk keeps on a GPU, by pretended devices: one block, whatever the depth; embeddings and head only while they work."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from pretended_cuda import MEMORY, PretendedCuda, load_guard
from tiny_stages import NAMES, WINDOWS, prepare, run
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lorcbench.common.paths import Wildcards
from lorcbench.config import folders
from lorcbench.config.families import WHOLE_SCORES
from lorcbench.config.schema import RuntimeConfig
from lorcbench.core import clip, gptq, quantizer
from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.jobs.job import Job
from lorcbench.models import discovery, final_states, observe
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.perplexity import window_losses, window_scores
from lorcbench.pipeline.estimate import MIB, estimate
from lorcbench.stages import calibrate, lorc, quantize

pytestmark = pytest.mark.slow

FULL = ActivationFormat(16)
SEQUENCES, LENGTH = WINDOWS.shape


@pytest.fixture(scope="module", autouse=True)
def guard(tmp_path_factory) -> None:
    load_guard(tmp_path_factory.mktemp("guard"))


@pytest.fixture
def cuda(monkeypatch) -> Iterator[None]:
    """A pretended GPU; Triton and addresses, which it has not, are replaced: the kernel by what it must equal."""
    monkeypatch.setattr(gptq, "_sweep_block_triton", gptq.sweep_block_reference)
    monkeypatch.setattr(observe, "_memory", lambda tensor: getattr(tensor, "payload", tensor).untyped_storage().data_ptr())
    with PretendedCuda():
        yield


def walk_of(folder: Path, **settings) -> BlockWalk:
    return BlockWalk(discovery.opened(folder), torch.float32, **{"batch_tokens": 2 * LENGTH, "device": "cuda", **settings})


def losses_of(walk: BlockWalk) -> list[float]:
    return window_losses(walk, {"text": WINDOWS}, lambda index: {}, FULL)["text"]


def on_gpu(walk: BlockWalk) -> set[str]:
    return {name for name, parameter in walk.model.named_parameters() if parameter.is_cuda}


@pytest.mark.parametrize("hidden_bytes", [math.inf, 0], ids=["on the GPU", "on the host"])
@pytest.mark.parametrize("kind", ["opt", "bloom"])
def test_predictions_are_compared_on_a_gpu_as_on_the_cpu(tmp_path, kind, hidden_bytes, cuda):
    folder = tiny.checkpoint(tmp_path / kind, kind)
    windows = {"a": WINDOWS[:5], "b": WINDOWS[5:]}
    scores = {}
    for device in ("cpu", "cuda"):
        walk = walk_of(folder, device=device, hidden_bytes=hidden_bytes, scratch=tmp_path)
        path = tmp_path / f"{device}.safetensors"
        window_scores(walk, windows, lambda index: {}, FULL, store=partial(final_states.write, path))
        full = final_states.FinalStates(path, windows, torch.float32).read
        rounded = ActivationFormat.parse("a4-asym-token")
        scores[device] = window_scores(walk, windows, lambda index: {}, rounded, full=full)
    assert scores["cuda"]["kl"].keys() == windows.keys()
    for name, by_corpus in scores["cpu"].items():
        for corpus, values in by_corpus.items():
            assert scores["cuda"][name][corpus] == pytest.approx(values, rel=1e-4, abs=1e-6)
    assert min(scores["cpu"]["kl"]["a"]) > 0


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_embeddings_and_head_are_on_the_gpu_only_while_they_work(tmp_path, kind, cuda):
    walk = walk_of(tiny.checkpoint(tmp_path, kind))
    inside = tiny.BLOCKS[kind] + "."
    outside = {name for name, _ in walk.model.named_parameters() if not name.startswith(inside)}
    assert on_gpu(walk) == set()
    hidden = walk.embed(WINDOWS)
    assert on_gpu(walk) == outside
    for index in range(walk.depth):
        with walk.block(index) as block:
            assert all(name.startswith(f"{inside}{index}.") for name in on_gpu(walk))
            walk.advance(block, hidden)
        assert on_gpu(walk) == set()
    walk.score(hidden, WINDOWS)
    assert on_gpu(walk) == outside


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_where_hidden_states_lie_changes_no_bit(tmp_path, kind, cuda):
    folder = tiny.checkpoint(tmp_path, kind)
    device, host = (losses_of(walk_of(folder, hidden_bytes=budget)) for budget in (math.inf, 0))
    assert device == host
    assert device == pytest.approx(losses_of(walk_of(folder, device="cpu")), rel=1e-5)


def test_states_of_a_walk_share_one_budget(tmp_path, cuda):
    walk = walk_of(tiny.checkpoint(tmp_path, "opt"), hidden_bytes=1000, scratch=tmp_path)
    first, second = walk.buffer(100), walk.buffer(200)
    assert [first.is_cuda, second.is_cuda, walk.buffer(150).is_cuda] == [True, False, True]
    del first
    assert walk.buffer(200).is_cuda
    in_a_file = walk.buffer(300, streamed=False)
    assert not in_a_file.is_cuda
    assert any("(deleted)" in line and str(tmp_path) in line for line in Path("/proc/self/maps").read_text().splitlines())


def on_pretended_gpu(main, stage: str, method: str = "gptq", **changed: str) -> float:
    """Run a stage with the pretended GPU; returns the most bytes that lived on it."""

    def with_gpu(job: Job) -> None:
        job.runtime = replace(job.runtime, device="cuda", batch_tokens=2 * LENGTH)
        job.stage = stage
        main(job)

    MEMORY.restart()
    before = MEMORY.now
    run(with_gpu, method, weight="w4-asym-row", **changed)
    return MEMORY.peak - before


STAGES = {"calibrate": calibrate.main, "quantize": quantize.main, "lorc": lorc.main}


@pytest.mark.parametrize("stage", STAGES)
def test_memory_of_a_gpu_does_not_grow_with_depth(tmp_path, monkeypatch, stage, cuda):
    peaks = []
    for layers in (2, 5):
        monkeypatch.setattr(tiny, "LAYERS", layers)
        folder = tmp_path / str(layers)
        folder.mkdir()
        monkeypatch.chdir(folder)
        prepare(folder, "opt")
        if stage == "lorc":
            on_pretended_gpu(quantize.main, "quantize")
        peaks.append(on_pretended_gpu(STAGES[stage], stage))
    assert peaks[0] > 0
    assert peaks[1] == pytest.approx(peaks[0], rel=0.02)


@pytest.mark.parametrize("method", ["rtn", "gptq"])
@pytest.mark.parametrize("kind", ["opt", "llama"])
def test_what_lives_on_a_gpu_is_within_the_estimate(tiny_checkpoint, kind, method, cuda):
    folder = tiny_checkpoint(kind)
    shape = folders.shape(str(folder))
    names = Wildcards(**{**NAMES, "method": method, "calibration": f"stdlib+n_samples={SEQUENCES}+length={LENGTH}"})
    runtime = RuntimeConfig(device="cuda", batch_tokens=2 * LENGTH)
    measured = on_pretended_gpu(quantize.main, "quantize", method)
    estimated = (estimate("quantize", shape, names, runtime).gpu - 512) * MIB
    assert measured <= estimated <= 6 * measured


@pytest.mark.parametrize("name", ["w3-asym-row", "w4-asym-g16", "w4-sym-g16-restricted"])
def test_the_search_for_scales_finds_the_same_on_a_gpu_in_bounded_memory(name, monkeypatch, cuda):
    fmt = WeightFormat.parse(name)
    weight = torch.randn(96, 64, generator=torch.Generator().manual_seed(0)) ** 3
    expected = quantizer.quantize(weight, fmt, "mse")
    on_gpu = weight.to("cuda")
    monkeypatch.setattr(clip, "CLIP_VALUES", 80 * 64 * 2)  # two rows
    MEMORY.restart()
    before = MEMORY.now
    found = quantizer.quantize(on_gpu, fmt, "mse")
    assert MEMORY.peak - before <= 4 * 4 * 80 * 64 * 2 + 12 * weight.numel() * 4
    assert torch.equal(found.codes.cpu(), expected.codes)
    assert torch.equal(found.scale.cpu(), expected.scale)


@pytest.mark.parametrize("settings", [{}, {"group_params": "corrected"}, {"static_groups": True, "act_order": True}])
def test_gptq_with_a_search_finds_the_same_on_a_gpu(settings, cuda):
    generator, fmt = torch.Generator().manual_seed(0), WeightFormat.parse("w3-asym-g16")
    weight, x = torch.randn(40, 64, generator=generator) ** 3, torch.randn(256, 64, generator=generator)
    chosen, moment = gptq.GptqSettings(clip="mse", block=32, **settings), x.T @ x / len(x)
    there, here = (
        gptq.quantize(weight.to(device), gptq.prepare(moment.to(device), chosen), fmt, chosen) for device in ("cuda", "cpu")
    )
    assert there.codes.is_cuda
    assert (there.scale.cpu() == here.scale).float().mean() > 0.99
    assert (there.codes.cpu() == here.codes).float().mean() > 0.99


def test_families_whose_attention_holds_all_scores_are_those_of_transformers():
    holding = set()
    for model_type, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        model_class = getattr(transformers, name if isinstance(name, str) else name[0])
        if not model_class._supports_sdpa:
            holding.add(model_type)
    assert holding == WHOLE_SCORES
