"""A GGUF file becomes an ordinary checkpoint: transformers' own numbers, and one line where it cannot."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import tiny_gguf
import torch
from safetensors.torch import load_file
from tiny_gguf import require, write

from lorcbench.common.artifacts import read_json
from lorcbench.common.paths import Wildcards
from lorcbench.config.checks import ConfigError
from lorcbench.config.gguf import gguf_file, state
from lorcbench.config.schema import ModelConfig
from lorcbench.data.corpora import load_tokenizer
from lorcbench.jobs.job import Job
from lorcbench.models import gguf
from lorcbench.models.checkpoint import CheckpointError
from lorcbench.stages import prepare
from lorcbench.study.stages import PREPARE

CONF = """# A tiny model for a test.
defaults: [/schema/model@_here_: model, _self_]
source: gguf
path: tiny.gguf
"""


@pytest.fixture(autouse=True)
def _reader():
    require("gguf")


def prepared(folder: Path, monkeypatch, kind: str) -> tuple[Path, dict]:
    """The folder that `prepare` makes of a tiny file, and its result."""
    conf = folder / "conf" / "model"
    conf.mkdir(parents=True)
    (conf / "tiny.yaml").write_text(CONF)
    write(folder / "tiny.gguf", kind)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LORCBENCH_CONF", str(folder / "conf"))
    prepare.main(Job("prepare", ["model=tiny"]))
    made = PREPARE.folder(Wildcards(model="tiny"))
    return folder / made, read_json(made / "result.json", "checkpoint")


@pytest.mark.parametrize(("kind", "bits"), [("F16", 16), ("Q8_0", 8), ("Q4_1", 4)])
def test_prepare_saves_what_transformers_dequantizes(tmp_path, monkeypatch, kind, bits):
    from transformers import AutoModelForCausalLM, GgufConfig

    folder, result = prepared(tmp_path, monkeypatch, kind)
    assert (result["gguf"]["bits"], list(result["gguf"]["types"]), result["folder"]) == (bits, [kind], ".")
    plain = {"dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", **plain).state_dict()
    ours = load_file(folder / "model.safetensors")
    assert ours.keys() | {"lm_head.weight"} == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name].half()), name
    reloaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16)
    tokens = torch.arange(24)[None]
    half = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", **(plain | {"dtype": torch.float16}))
    assert torch.equal(reloaded(tokens).logits, half(tokens).logits)


def test_a_file_of_16_bit_numbers_gives_back_the_weights_it_was_made_of(tmp_path, monkeypatch):
    folder, _ = prepared(tmp_path, monkeypatch, "F16")
    ours = load_file(folder / "model.safetensors")
    for name, weight in tiny_gguf.weights().items():
        assert torch.equal(ours[name].float(), torch.from_numpy(weight)), name


def test_its_tokenizer_is_saved_beside_it(tmp_path, monkeypatch):
    folder, _ = prepared(tmp_path, monkeypatch, "F16")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer("abc, déjà vu").input_ids) == "abc, déjà vu"
    assert tokenizer.backend_tokenizer.encode("ab").tokens == ["ab"]


def refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(CheckpointError) as error:
        gguf.block_types(path)
        gguf.load(path, io.StringIO())
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


def test_a_file_that_is_cut_off_is_refused_in_one_line(tmp_path):
    path = write(tmp_path / "tiny.gguf", "Q8_0")
    path.write_bytes(path.read_bytes()[:-5000])
    assert "no GGUF file, or a damaged one" in refusal(path)


def test_another_file_is_refused_in_one_line(tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_text("no such thing\n" * 100)
    assert "no GGUF file, or a damaged one" in refusal(path)


def test_a_file_that_lacks_a_tensor_is_refused_instead_of_made_up(tmp_path):
    path = write(tmp_path / "tiny.gguf", "F16", without="blk.1.ffn_up.weight")
    assert "missing tensor model.layers.1.mlp.up_proj.weight" in refusal(path)


@pytest.mark.parametrize(("kind", "bits"), [("Q4_1", 4), ("IQ4_NL", 4), ("Q2_K", 2), ("Q8_0", 8), ("BF16", 16), ("TQ1_0", 1)])
def test_the_bits_of_a_type_are_in_its_name(kind, bits):
    assert gguf.bits_of(kind) == bits


# Where the file lies


def model(**keys) -> ModelConfig:
    return ModelConfig(name="tiny", source="gguf", **keys)


def test_a_package_that_is_missing_is_one_line_with_what_installs_it():
    with pytest.raises(ConfigError, match="no-such-package: not installed; expected `make install-real`, or `pip install"):
        gguf_file(model(package="no-such-package", file="model.gguf"))


def test_a_file_that_a_package_has_not_is_named():
    with pytest.raises(ConfigError, match=r"model.file=other.gguf: pytest .* has no such file"):
        gguf_file(model(package="pytest", file="other.gguf"))


def test_a_path_without_a_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"model.path=.*gone.gguf of tiny: no such file"):
        gguf_file(model(path=str(tmp_path / "gone.gguf")))


def test_another_file_at_the_path_is_another_checkpoint(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"12")
    before = state(model(path=str(path)))
    path.write_bytes(b"123")
    assert state(model(path=str(path))) != before


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "model.package=null: a model of source gguf needs it, or path"),
        ({"package": "a"}, "model.file=null: a model of source gguf needs it, or path"),
        ({"path": "a", "package": "b"}, "model.package=b: a model of source gguf has none"),
        ({"path": "a", "repo": "b"}, "model.repo=b: a model of source gguf has none"),
    ],
)
def test_where_a_file_lies_is_said_once(keys, message):
    with pytest.raises(ConfigError) as error:
        model(**keys)
    assert str(error.value) == message
