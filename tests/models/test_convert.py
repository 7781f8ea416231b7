"""Pickled weights become safetensors once, and a pickle that would run code does not."""

import pickle

import pytest
import tiny
import torch

from lorcbench.models import discovery
from lorcbench.models.checkpoint import CheckpointError
from lorcbench.models.convert import to_safetensors


class Runs:
    """A pickle that would call something when it is loaded."""

    def __reduce__(self):
        return (print, ("run by a pickle",))


def pickled(folder, source, shards):
    """The checkpoint in `source` as the hub's old format, in so many files."""
    checkpoint = discovery.opened(source)
    names = sorted(checkpoint.files)
    folder.mkdir()
    (folder / "config.json").write_text((source / "config.json").read_text())
    for number in range(shards):
        part = {name: tensor for name, tensor in checkpoint.tensors(names).items() if names.index(name) % shards == number}
        torch.save(part, folder / f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin")
    return checkpoint


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_converted_checkpoint_has_the_same_tensors(tmp_path, kind, shards):
    original = pickled(tmp_path / "bin", tiny.checkpoint(tmp_path / "source", kind), shards)
    to_safetensors(tmp_path / "bin", tmp_path / "converted")
    converted = discovery.opened(tmp_path / "converted")
    assert sorted(converted.files) == sorted(original.files)
    for name, tensor in original.tensors(list(original.files)).items():
        assert torch.equal(tensor, converted.tensors([name])[name])


def test_a_tied_head_is_written_once(tmp_path):
    embedding = torch.randn(4, 3)
    torch.save({"a.weight": embedding, "lm_head.weight": embedding}, tmp_path / "pytorch_model.bin")
    to_safetensors(tmp_path, tmp_path / "converted")
    index = (tmp_path / "converted" / "model.safetensors.index.json").read_text()
    assert "a.weight" in index
    assert "lm_head.weight" not in index


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, capsys):
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Runs()}))
    with pytest.raises(CheckpointError, match="holds more than tensors, or is damaged") as refusal:
        to_safetensors(tmp_path, tmp_path / "converted")
    assert "\n" not in str(refusal.value)
    assert "run by a pickle" not in capsys.readouterr().out


def test_a_folder_without_weights_says_what_was_looked_for(tmp_path):
    with pytest.raises(CheckpointError, match=r"neither \*\.safetensors nor pytorch_model\*\.bin"):
        to_safetensors(tmp_path, tmp_path / "converted")
