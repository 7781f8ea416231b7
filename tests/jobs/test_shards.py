"""Shards: written block after block, kept when a killed job starts again, never taken from another job."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import tiny
import torch
from recorded import identity

from lorcbench.common.artifacts import read_shard, write_json, write_shard
from lorcbench.common.paths import Wildcards
from lorcbench.config.schema import ModelConfig
from lorcbench.core.formats import WeightFormat
from lorcbench.core.quantizer import quantize
from lorcbench.jobs.job import Job
from lorcbench.jobs.quantized import QuantizedBlock, QuantizedBlocks, QuantizedModel
from lorcbench.jobs.shards import Shards, ShardWriter, shard_file
from lorcbench.models import discovery
from lorcbench.stages import calibrate, factor
from lorcbench.stages import quantize as quantize_stage
from lorcbench.study.stages import CALIBRATE, CALIBRATION_TOKENS, FACTOR, PREPARE, QUANTIZE

IDENTITY = {"stage": "quantize", "settings": {"bits": 4}}
DEPTH = 3


class FakeJob:
    """What a writer asks of a job: its folder, and somebody to tell how far it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[tuple[int, int]] = []

    def progress(self, done: int, total: int, what: str) -> None:
        self.told.append((done, total))


def tensors(index: int) -> dict[str, torch.Tensor]:
    return {"fc1.codes": torch.full((4, 3), index, dtype=torch.uint8), "fc1.scale": torch.ones(4, 1) / (index + 1)}


def writer(folder: Path, identity: dict = IDENTITY) -> ShardWriter:
    return ShardWriter(FakeJob(folder), identity, DEPTH)


def fill(shards: ShardWriter, blocks: int = DEPTH) -> list[int]:
    """The loop of every stage, up to a number of blocks; returns those that were not kept."""
    new = []
    for index in range(blocks):
        if shards.kept(index) is None:
            shards.write(index, tensors(index), {"damp": index / 100})
            new.append(index)
    return new


def test_what_was_written_is_read_back_in_the_order_of_the_blocks(tmp_path):
    shards = writer(tmp_path)
    assert fill(shards) == [0, 1, 2]
    assert [entry["file"] for entry in shards.payload()["shards"]] == [shard_file(index) for index in range(DEPTH)]
    assert shards.notes == [{"damp": 0.0}, {"damp": 0.01}, {"damp": 0.02}]
    write_json(tmp_path / "result.json", "quantized", shards.payload())
    read = Shards(tmp_path / "result.json", "quantized")
    assert read.depth == DEPTH
    for index in range(DEPTH):
        assert all(torch.equal(read.block(index)[name], tensor) for name, tensor in tensors(index).items())


def test_a_job_that_starts_again_makes_what_is_missing_and_ends_with_the_same_result(tmp_path):
    whole = writer(tmp_path / "whole")
    fill(whole)
    fill(writer(tmp_path / "killed"), blocks=2)
    job = FakeJob(tmp_path / "killed")
    again = ShardWriter(job, IDENTITY, DEPTH)
    assert fill(again) == [2]
    assert again.payload() == whole.payload()
    assert again.notes == whole.notes
    assert job.told == [(1, DEPTH), (2, DEPTH), (3, DEPTH)]  # of kept blocks too


def test_the_tensors_of_a_kept_shard_are_those_that_were_written(tmp_path):
    fill(writer(tmp_path))
    shard = writer(tmp_path).kept(1)
    assert shard.notes == {"damp": 0.01}
    assert shard.digest == hashlib.sha256((tmp_path / shard_file(1)).read_bytes()).hexdigest()
    assert all(torch.equal(shard.tensors()[name], tensor) for name, tensor in tensors(1).items())


def test_a_shard_of_another_job_or_a_damaged_one_is_not_kept(tmp_path):
    fill(writer(tmp_path))
    assert writer(tmp_path, {**IDENTITY, "settings": {"bits": 3}}).kept(0) is None
    path = tmp_path / shard_file(1)
    path.write_bytes(path.read_bytes()[:-1])
    assert fill(writer(tmp_path)) == [1]


def test_a_result_cannot_be_written_while_a_block_is_missing(tmp_path):
    shards = writer(tmp_path)
    fill(shards, blocks=2)
    with pytest.raises(ValueError, match="block 2 was not written"):
        shards.payload()


def test_widths_may_differ_from_block_to_block(tmp_path):
    fmt, generator = WeightFormat.parse("w3-asym-g8"), torch.Generator().manual_seed(0)
    weights = [
        {"fc1": torch.randn(6, 16, generator=generator), "fc2": torch.randn(5, width, generator=generator)} for width in (8, 24)
    ]
    shapes = [{name: tuple(weight.shape) for name, weight in block.items()} for block in weights]
    formats = [dict.fromkeys(block, fmt) for block in shapes]
    blocks = QuantizedBlocks(ShardWriter(FakeJob(tmp_path), IDENTITY, 2), "rtn", formats, shapes)
    written = [QuantizedBlock({name: quantize(weight, fmt) for name, weight in block.items()}) for block in weights]
    for index, block in enumerate(written):
        blocks.write(index, block)
    payload = blocks.payload()
    assert payload["widths"] == {"fc1": 16, "fc2": [8, 24]}
    assert payload["weights"] == sum(weight.numel() for block in weights for weight in block.values())
    again = QuantizedBlocks(ShardWriter(FakeJob(tmp_path), IDENTITY, 2), "rtn", formats, shapes)
    write_json(tmp_path / "result.json", QUANTIZE.kind, payload)
    model = object.__new__(QuantizedModel)
    model.device, model.format, model.shards = "cpu", fmt, Shards(tmp_path / "result.json", QUANTIZE.kind)
    for index, block in enumerate(written):
        for read in (again.kept(index).weights(), model.block(index)):
            assert all(torch.equal(read[name], weight) for name, weight in block.weights().items())


@pytest.mark.parametrize("name", ["w3-asym-g8", "w4-asym-row-pow2", "w2-sym-row"])
def test_a_kept_quantized_block_is_the_written_one_and_counts_alike(tmp_path, name):
    fmt = WeightFormat.parse(name)
    generator = torch.Generator().manual_seed(0)
    weights = {"fc1": torch.randn(6, 16, generator=generator), "fc2": torch.randn(5, 24, generator=generator)}
    shapes = {linear: tuple(weight.shape) for linear, weight in weights.items()}
    written = QuantizedBlock(
        {linear: quantize(weight, fmt) for linear, weight in weights.items()},
        {"fc1.bias": torch.randn(6, generator=generator).half()},
        notes={"fc1": {"damp": 0.1}},
    )
    payloads = []
    for _ in range(2):
        blocks = QuantizedBlocks(ShardWriter(FakeJob(tmp_path), IDENTITY, 1), "rtn", [dict.fromkeys(shapes, fmt)], [shapes])
        kept = blocks.kept(0)
        if kept is None:
            blocks.write(0, written)
        payloads.append(blocks.payload())
    assert kept.notes == written.notes
    assert kept.weights().keys() == written.weights().keys() == {"fc1", "fc2", "fc1.bias"}
    assert all(torch.equal(kept.weights()[name], weight) for name, weight in written.weights().items())
    assert payloads[0] == payloads[1]
    assert payloads[0]["weights"] == 6 * 16 + 5 * 24
    assert payloads[0]["max_damp"] == 0.1
    (entry,) = payloads[0]["shards"]
    stored = read_shard(tmp_path / entry["file"], entry["sha256"])
    del stored["trained.fc1.bias"]
    bits = 8 * sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
    assert payloads[0]["bits_per_weight"] == bits / payloads[0]["weights"]


def test_a_block_that_a_shard_would_not_hold_as_it_is_is_refused_by_method_block_and_linear(tmp_path):
    fmt, shapes = WeightFormat.parse("w3-asym-g8"), {"fc1": (6, 16), "fc2": (5, 24)}
    blocks = QuantizedBlocks(ShardWriter(FakeJob(tmp_path), IDENTITY, 2), "hqq", [dict.fromkeys(shapes, fmt)] * 2, [shapes] * 2)
    matrices = {name: quantize(torch.randn(shape), fmt) for name, shape in shapes.items()}
    blocks.write(0, QuantizedBlock(matrices))
    fc2 = replace(matrices["fc2"], scale=matrices["fc2"].scale[:, :1])
    expected = "method hqq, block 1, fc2: scale (5, 1) float16, expected (5, 3) float16"
    with pytest.raises(ValueError, match=re.escape(expected)):
        blocks.write(1, QuantizedBlock(matrices | {"fc2": fc2}))
    for made in ({"fc1": matrices["fc1"]}, matrices | {"fc3": fc2}):
        with pytest.raises(ValueError, match=r"method hqq, block 1: (lacks|has) .*; expected fc1, fc2"):
            blocks.write(1, QuantizedBlock(made))
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [shard_file(0)]


NAMES = {"model": "tiny", "calibration": "stdlib", "weight": "w3-asym-g8", "trained": "a16"}
FACTORS = NAMES | {"damp": "0.01", "order": "natural", "dead": "published"}
STAGES = {
    "calibrate": (calibrate.main, CALIBRATE, {}),
    "factor": (factor.main, FACTOR, {}),
    "rtn": (quantize_stage.main, QUANTIZE, {"method": "rtn"}),
    "gptq": (quantize_stage.main, QUANTIZE, {"method": "gptq"}),
    "gptq-cached": (quantize_stage.main, QUANTIZE, {"method": "gptq-cached"}),
}


def run(name: str) -> Path:
    """Run one of the stages in this process; returns the folder of its result."""
    work, record, own = STAGES[name]
    keys = {**FACTORS, **own}
    arguments = [f"{key}={value}" for key, value in keys.items() if key != "model"]
    work(Job("quantize", ["model=folder", "model.name=tiny", "model.path=unused", *arguments]))
    return record.folder(Wildcards(**keys))


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A prepared tiny checkpoint with calibration tokens, their statistics and their factors, to work in."""
    threads = torch.get_num_threads()  # which a stage sets for its process
    monkeypatch.chdir(tmp_path)
    folder = tiny.checkpoint(tmp_path / "opt", "opt", dtype=torch.float16)
    names = Wildcards(**NAMES)
    model = ModelConfig(name="tiny", source="folder", path=str(tmp_path.resolve() / "unused"))
    source = {"folder": str(folder), "files": {}, "identity": identity(PREPARE, names, model)}
    source["architecture"] = asdict(discovery.found(folder))
    write_json(PREPARE.folder(names) / "result.json", "checkpoint", source)
    tokens = CALIBRATION_TOKENS.folder(names)
    digest = write_shard(tokens / "tokens.safetensors", {"calibration": tiny.windows(4, 16).int()}, "tokens")
    written = [{"file": "tokens.safetensors", "sha256": digest}]
    write_json(tokens / "result.json", "tokens", {"shards": written, "identity": identity(CALIBRATION_TOKENS, names)})
    run("calibrate")
    run("factor")
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_starts_again_makes_the_lost_block_alone_and_ends_with_the_same_bytes(prepared, name):
    folder = run(name)
    files = [folder / "result.json", *(folder / shard_file(index) for index in range(tiny.LAYERS))]
    before = {path: path.read_bytes() for path in files}
    (folder / "result.json").unlink()
    (folder / shard_file(1)).unlink()  # one is kept before it, and one behind it
    written = {path: path.stat().st_mtime_ns for path in files if path.exists()}
    assert run(name) == folder
    assert {path: path.read_bytes() for path in files} == before
    assert {path: path.stat().st_mtime_ns for path in written} == written
