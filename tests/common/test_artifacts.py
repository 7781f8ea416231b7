"""Artifacts: whole or absent, the same bytes for the same content, and every kind of damage noticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from lorcbench.common.artifacts import (
    ArtifactError,
    canonical,
    file_digest,
    fingerprint,
    finished_shard,
    read_json,
    read_shard,
    remove_leftovers,
    replacing,
    verified,
    write_json,
    write_shard,
    write_text,
)
from lorcbench.jobs.shards import Shards

PAYLOAD = {"nll": [2.5, 1e-300, -0.0], "name": "größe", "nested": {"b": None, "a": [True, 12345678901234567890]}}


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "fc1.codes": torch.randint(0, 256, (8, 16), generator=generator).to(torch.uint8),
        "fc1.scale": torch.randn(8, 1, generator=generator).to(torch.float16),
        "fc1.zero": torch.randint(-9, 9, (8, 1), generator=generator).to(torch.int32),
        "bias": torch.randn(16, generator=generator).to(torch.bfloat16),
    }


def flip_bit(path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def test_json_comes_back_with_its_kind_and_digest(tmp_path):
    path = tmp_path / "new" / "result.json"
    written = write_json(path, "quantized", PAYLOAD)
    assert read_json(path, "quantized") == written
    assert {name: written[name] for name in PAYLOAD} == PAYLOAD
    assert written["kind"] == "quantized"


def test_equal_payloads_give_equal_bytes_whatever_their_order(tmp_path):
    write_json(tmp_path / "one.json", "k", PAYLOAD)
    write_json(tmp_path / "two.json", "k", dict(reversed(PAYLOAD.items())))
    write_json(tmp_path / "other.json", "k", {**PAYLOAD, "name": "x"})
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert (tmp_path / "one.json").read_bytes() != (tmp_path / "other.json").read_bytes()


def test_keys_that_json_turns_into_strings_do_not_spoil_the_digest(tmp_path):
    path = tmp_path / "ranks.json"
    write_json(path, "k", {"ranks": {2: (1.5,), 10: [2.5]}})
    assert read_json(path, "k")["ranks"] == {"2": [1.5], "10": [2.5]}


def test_canonical_text_and_fingerprint_depend_on_values_alone():
    assert canonical({"b": 1, "a": [1.5, "é"]}) == '{"a":[1.5,"é"],"b":1}'
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.0})
    assert len(fingerprint({})) == 16


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_has_not_are_refused_before_anything_is_written(tmp_path, value):
    with pytest.raises(ValueError):
        write_json(tmp_path / "result.json", "k", {"ppl": value})
    assert list(tmp_path.iterdir()) == []


def test_an_exception_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="interrupted"), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError("interrupted")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "result.json"
    write_text(path, "old")
    with open(path) as reader:
        with replacing(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
        assert path.read_text() == "new"
        assert reader.read() == "old"


def test_json_and_text_go_through_the_replacement_too(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_text(path, "old")

    def killed(*_):
        raise OSError("killed")

    monkeypatch.setattr(os, "replace", killed)
    for write in (lambda: write_text(path, "new"), lambda: write_json(path, "k", PAYLOAD)):
        with pytest.raises(OSError, match="killed"):
            write()
        assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_shard_that_breaks_off_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "block.safetensors"
    digest = write_shard(path, tensors(), "job")

    def full_disk(_tensors, temporary, metadata):
        temporary.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_shard(path, tensors(), "job")
    assert file_digest(path) == digest
    assert list(tmp_path.iterdir()) == [path]


def test_a_changed_value_is_noticed(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, "k", {"ppl": 27.65})
    path.write_text(path.read_text().replace("27.65", "26.65"))
    with pytest.raises(ArtifactError, match=r"result\.json.*digest does not match"):
        read_json(path, "k")


@pytest.mark.parametrize("text", ["", "[]", "3", '{"kind": "k"}', '{"digest": "x", "format": 1}', "\udcff"])
def test_what_was_never_ours_is_called_damaged(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArtifactError, match="damaged"):
        read_json(path, "k")


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, "k", PAYLOAD)
    whole = path.read_bytes()
    for length in range(len(whole) - 1):  # the last byte is the newline
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match="damaged"):
            read_json(path, "k")


def test_a_number_that_became_nan_is_called_damaged(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, "k", {"ppl": 27.65})
    path.write_text(path.read_text().replace("27.65", "NaN"))
    with pytest.raises(ArtifactError, match="damaged"):
        read_json(path, "k")


def test_another_kind_another_version_and_a_missing_file_are_named(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, "quantized", {})
    with pytest.raises(ArtifactError, match="expected statistics in format 2, found quantized in format 2"):
        read_json(path, "statistics")
    write_json(path, "quantized", {"format": 99})
    with pytest.raises(ArtifactError, match="found quantized in format 99"):
        read_json(path, "quantized")
    with pytest.raises(ArtifactError, match=r"none\.json: missing"):
        read_json(tmp_path / "none.json", "quantized")


def test_a_shard_comes_back_and_equal_jobs_give_equal_bytes(tmp_path):
    first = write_shard(tmp_path / "one.safetensors", tensors(), "job")
    second = write_shard(tmp_path / "two.safetensors", dict(reversed(tensors().items())), "job")
    assert first == second == file_digest(tmp_path / "two.safetensors")
    assert write_shard(tmp_path / "other.safetensors", tensors(), "another job") != first
    read = read_shard(tmp_path / "one.safetensors", first)
    assert sorted(read) == sorted(tensors())
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors().items())
    assert (tmp_path / "one.safetensors").stat().st_mode & 0o777 == 0o644


def test_views_are_written_as_the_matrices_they_show(tmp_path):
    stacked = torch.arange(48, dtype=torch.float32).view(12, 4)
    parts = {"q": stacked[:4], "k": stacked[4:8], "t": stacked[8:].T}
    read = read_shard(tmp_path / "s", write_shard(tmp_path / "s", parts, "job"))
    assert all(torch.equal(read[name], part) for name, part in parts.items())


@pytest.mark.parametrize("position", [0, 20, -1])
def test_a_flipped_bit_in_a_shard_is_noticed(tmp_path, position):
    path = tmp_path / "block.safetensors"
    digest = write_shard(path, tensors(), "job")
    flip_bit(path, position)
    with pytest.raises(ArtifactError, match=r"block\.safetensors.*damaged"):
        read_shard(path, digest)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_shard_is_noticed_and_not_reused(tmp_path, kept):
    path = tmp_path / "block.safetensors"
    digest = write_shard(path, tensors(), "job")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ArtifactError, match="damaged"):
        read_shard(path, digest)
    assert finished_shard(path, "job") is None


def test_a_shard_is_reused_by_the_same_job_only(tmp_path):
    path = tmp_path / "block.safetensors"
    assert finished_shard(path, "job") is None
    digest = write_shard(path, tensors(), "job", {"damp": 0.1})
    assert finished_shard(path, "job") == (digest, {"damp": 0.1})
    assert finished_shard(path, "another job") is None
    safetensors.torch.save_file(tensors(), tmp_path / "foreign.safetensors")
    assert finished_shard(tmp_path / "foreign.safetensors", "job") is None
    with pytest.raises(ArtifactError, match="missing"):
        read_shard(tmp_path / "none.safetensors", digest)


def test_the_shards_of_a_result_are_read_beside_it_and_checked(tmp_path):
    digest = write_shard(tmp_path / "block_0.safetensors", tensors(), "job")
    result = tmp_path / "result.json"
    write_json(result, "quantized", {"shards": [{"file": "block_0.safetensors", "sha256": digest}]})
    shards = Shards(result, "quantized")
    assert torch.equal(shards.block(0)["fc1.codes"], tensors()["fc1.codes"])
    flip_bit(tmp_path / "block_0.safetensors", -1)
    with pytest.raises(ArtifactError, match="damaged"):
        shards.block(0)
    assert json.loads(result.read_text())["shards"][0]["sha256"] == digest


def test_a_flipped_bit_in_what_a_killed_run_left_is_not_reused(tmp_path):
    path = tmp_path / "block.safetensors"
    write_shard(path, tensors(), "job")
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        flip_bit(path, position)
        assert finished_shard(path, "job") is None, f"byte {position}"
        path.write_bytes(whole)
    assert finished_shard(path, "job") is not None


def test_a_result_in_the_folder_of_another_is_called_foreign(tmp_path):
    own, other = tmp_path / "cache/quantize/opt/rtn", tmp_path / "cache/quantize/opt/gptq"
    write_json(own / "result.json", "quantized", {"of": "quantize/opt/rtn"})
    assert read_json(own / "result.json", "quantized")["of"] == "quantize/opt/rtn"
    other.mkdir()
    (own / "result.json").rename(other / "result.json")
    with pytest.raises(ArtifactError, match=r"gptq/result\.json: foreign \(it was made as quantize/opt/rtn\)"):
        read_json(other / "result.json", "quantized")


def test_the_files_of_a_result_are_checked_and_named(tmp_path):
    (tmp_path / "documents.jsonl").write_text("one\n")
    files = {"documents.jsonl": file_digest(tmp_path / "documents.jsonl")}
    write_json(tmp_path / "result.json", "text", {"files": files})
    assert verified(tmp_path, "text")["files"] == files
    (tmp_path / "documents.jsonl").write_text("One\n")
    with pytest.raises(ArtifactError, match=r"documents\.jsonl: damaged or foreign.*delete the folder"):
        verified(tmp_path, "text", "documents.jsonl")
    (tmp_path / "documents.jsonl").unlink()
    with pytest.raises(ArtifactError, match=r"documents\.jsonl: missing"):
        verified(tmp_path, "text")


def test_what_a_killed_process_was_writing_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    code = "import os, sys, lorcbench.common.artifacts as a\nwith a.replacing(a.Path(sys.argv[1])) as t: t.touch(), os._exit(1)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "dead")], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with replacing(tmp_path / "alive") as temporary:
        temporary.write_text("half")
        remove_leftovers(tmp_path)
        assert list(tmp_path.iterdir()) == [temporary]


@pytest.mark.slow
def test_processes_that_write_the_same_artifact_at_the_same_time_leave_a_whole_one(tmp_path):
    code = (
        "import sys, torch\nfrom pathlib import Path\nfrom lorcbench.common.artifacts import write_json, write_shard\n"
        "folder = Path(sys.argv[1])\n"
        "for _ in range(40):\n"
        "    digest = write_shard(folder / 'block.safetensors', {'w': torch.arange(50000)}, 'job')\n"
        "    write_json(folder / 'result.json', 'k', {'shards': [{'file': 'block.safetensors', 'sha256': digest}]})\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        if (tmp_path / "result.json").exists():
            assert torch.equal(Shards(tmp_path / "result.json", "k").block(0)["w"], torch.arange(50000))
            seen += 1
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen > 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["block.safetensors", "result.json"]
