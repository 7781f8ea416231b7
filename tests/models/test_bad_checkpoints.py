"""Checkpoints that are not what they should be: each refused in one line that names the folder or the file."""

from __future__ import annotations

import json
import pickle
import struct

import pytest
import tiny
import torch

from lorcbench.models import convert, discovery
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.checkpoint import CheckpointError

LINEAR = {"opt": "self_attn.k_proj.weight", "bloom": "mlp.dense_h_to_4h.weight", "llama": "mlp.gate_proj.weight"}
KINDS = tuple(LINEAR)


def opened(folder) -> None:
    """Open a checkpoint as the prepare stage does: every tensor read, every block built."""
    if not list(folder.glob("*.safetensors*")):
        convert.to_safetensors(folder, folder / "converted")
        folder = folder / "converted"
    walk = BlockWalk(discovery.opened(folder), torch.float32)
    for index in range(walk.depth):
        with walk.block(index):
            pass


def on_linear(change):
    """A change of one linear of block 1."""

    def edit(folder, kind):
        name = f"{tiny.BLOCKS[kind]}.1.{LINEAR[kind]}"
        tiny.edit(folder, lambda tensors: tensors.update({name: change(tensors[name].clone())}))

    return edit


def poisoned(value):
    def change(weight):
        weight[-1, -1] = value
        return weight

    return on_linear(change)


def without(part):
    def edit(folder, kind):
        names = lambda tensors: [name for name in tensors if part.format(blocks=tiny.BLOCKS[kind]) in name]  # noqa: E731
        tiny.edit(folder, lambda tensors: [tensors.pop(name) for name in names(tensors)])

    return edit


def configured(**values):
    def edit(folder, kind):
        own = json.loads((folder / "config.json").read_text())
        known = {"layers": ("num_hidden_layers", "n_layer"), "heads": ("num_attention_heads", "n_head"), "ffn": ("ffn_dim",)}
        for key, value in values.items():
            names = [name for name in known.get(key, (key,)) if name in own] or [key]
            own.update(dict.fromkeys(names, value))
        (folder / "config.json").write_text(json.dumps(own))

    return edit


def written(name, data):
    def edit(folder, kind):
        (folder / name).write_bytes(data)

    return edit


def cut(share):
    def edit(folder, kind):
        path = folder / "model.safetensors"
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])

    return edit


def only(name, data):
    """Pickled weights instead of safetensors."""

    def edit(folder, kind):
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(data)

    return edit


def indexed(content):
    def edit(folder, kind):
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        (folder / "model.safetensors.index.json").write_text(content)

    return edit


class Bomb:
    def __reduce__(self):
        import os

        return os.system, ("touch exploded",)


EVERY_FAMILY = {
    "nan": poisoned(float("nan")),
    "infinite": poisoned(float("inf")),
    "one row less": on_linear(lambda weight: weight[:-1]),
    "one column more": on_linear(lambda weight: torch.cat([weight, weight[:, :1]], 1)),
    "reshaped": on_linear(lambda weight: weight.reshape(weight.shape[0] * 2, -1)),
    "a vector": on_linear(lambda weight: weight.flatten()),
    "three axes": on_linear(lambda weight: weight[None]),
    "a linear missing": without("{blocks}.1." + "mlp"),
    "a block missing": without("{blocks}.2."),
    "no embeddings": without("embed"),
    "more layers than there are": configured(layers=5),
    "fewer layers than there are": configured(layers=2),
    "another width": configured(hidden_size=48),
    "heads that do not divide": configured(heads=7),
}
FILES = {
    "half a file": cut(0.5),
    "a header alone": cut(0.01),
    "an empty file": cut(0),
    "no safetensors": written("model.safetensors", b"this is no checkpoint at all, just words"),
    "a header of 2^60 bytes": written("model.safetensors", struct.pack("<Q", 2**60) + b"{}"),
    "no weights": lambda folder, kind: (folder / "model.safetensors").unlink(),
    "no configuration": lambda folder, kind: (folder / "config.json").unlink(),
    "half a configuration": written("config.json", b'{"model_type": "op'),
    "a list for a configuration": written("config.json", b"[]"),
    "a configuration in another encoding": written("config.json", b'{"model_type": "\xff\xfe"}'),
    "another family": configured(model_type="gpt2"),
    "no family": configured(model_type=None),
    "layers in words": configured(layers="three"),
    "no layers": configured(layers=0),
    "a negative width": configured(hidden_size=-24),
    "an index that is no object": indexed("[]"),
    "an index without a map": indexed("{}"),
    "an index of a shard that is missing": indexed('{"weight_map": {"a": "gone.safetensors"}}'),
    "an index that points outside": indexed('{"weight_map": {"a": "../../../etc/passwd"}}'),
    "an index of an absolute path": indexed('{"weight_map": {"a": "/etc/passwd"}}'),
    "an index of numbers": indexed('{"weight_map": {"a": 1}}'),
    "a pickle that runs a command": only("pytorch_model.bin", pickle.dumps(Bomb())),
    "a pickle of a list": only("pytorch_model.bin", pickle.dumps([1, 2])),
    "words for a pickle": only("pytorch_model.bin", b"no pickle"),
    "an empty pickle": only("pytorch_model.bin", b""),
}
CASES = [(name, change, kind) for name, change in EVERY_FAMILY.items() for kind in KINDS]
CASES = [case for case in CASES if (case[0], case[2]) != ("a linear missing", "opt")]  # there they are called fc1 and fc2
CASES += [(name, change, "opt") for name, change in FILES.items()]


def test_there_are_more_than_fifty_of_them():
    assert len(CASES) > 50


@pytest.mark.parametrize(("name", "change", "kind"), CASES, ids=[f"{kind}, {name}" for name, _, kind in CASES])
def test_a_bad_checkpoint_is_refused_in_one_line_that_names_it(name, change, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tiny.checkpoint(tmp_path / "checkpoint", kind)
    opened(folder)
    change(folder, kind)
    with pytest.raises(CheckpointError) as refusal:
        opened(folder)
    assert "\n" not in str(refusal.value)
    assert str(folder) in str(refusal.value)
    assert not (tmp_path / "exploded").exists()
