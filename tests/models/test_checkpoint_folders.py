"""Checkpoint folders as people have them: each works as in transformers, or is refused in one line that names the file.

`prepared` runs the stage `prepare` in this process; what it lets pass must have transformers' own losses.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import corpus_files
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorcbench.common.paths import TOKENIZER
from lorcbench.data import corpora
from lorcbench.data.corpora import CorpusError
from lorcbench.jobs.job import Job
from lorcbench.models import discovery
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.checkpoint import CheckpointError
from lorcbench.stages import prepare
from lorcbench.study.stages import PREPARE

pytestmark = pytest.mark.slow

TOKENS = tiny.windows(3, 12)
BLOCK = {kind: f"{tiny.BLOCKS[kind]}.1." for kind in tiny.KINDS}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A function kind → a tiny checkpoint with a tokenizer beside it; the test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tiny, "VOCABULARY", 400)

    def make(kind: str = "opt", **options) -> Path:
        checkpoint = tiny.checkpoint(tmp_path / kind, kind, **options)
        tokenizer = tmp_path / "tokenizer"
        corpus_files.bloom_tokenizer(tokenizer)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(tokenizer / name, checkpoint / name)
        return checkpoint

    return make


def prepared(checkpoint: Path) -> Path:
    """Run `prepare` on a folder; the folder that later stages read."""
    job = Job("prepare", ["model=folder", "model.name=tiny", f"model.path={checkpoint}"])
    prepare.main(job)
    at = PREPARE.folder(job.names)
    return at / json.loads((at / "result.json").read_text())["folder"]


def refusal(checkpoint: Path, error=CheckpointError) -> str:
    """The line with which `prepare` refuses a folder."""
    with pytest.raises(error) as caught:
        prepared(checkpoint)
    assert "\n" not in str(caught.value)
    assert str(checkpoint) in str(caught.value)
    return str(caught.value)


def losses(checkpoint: Path) -> torch.Tensor:
    """By our walk, from the files that `prepare` left for later stages."""
    walk = BlockWalk(discovery.opened(prepared(checkpoint)), torch.float32)
    hidden = walk.embed(TOKENS)
    for index in range(walk.depth):
        with walk.block(index) as block:
            walk.advance(block, hidden)
    return walk.score(hidden, TOKENS)


def assert_same_as_transformers(checkpoint: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = torch.stack([model(input_ids=window[None], labels=window[None]).loss for window in TOKENS])
    assert torch.allclose(losses(checkpoint), expected, rtol=2e-6, atol=0)


def pickled(checkpoint: Path, tensors: dict[str, torch.Tensor] | None = None, name: str = "pytorch_model.bin") -> Path:
    """Pickled weights instead of safetensors."""
    file = checkpoint / "model.safetensors"
    torch.save(tensors or load_file(file), checkpoint / name)
    file.unlink(missing_ok=True)
    return checkpoint


def renamed(checkpoint: Path, change) -> Path:
    """The same tensors by other names."""
    tensors = load_file(checkpoint / "model.safetensors")
    save_file({change(name): tensor for name, tensor in tensors.items()}, checkpoint / "model.safetensors", {"format": "pt"})
    return checkpoint


def configured(checkpoint: Path, file: str = "config.json", **values) -> Path:
    path = checkpoint / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return checkpoint


# Leftovers of older versions of libraries


@pytest.mark.parametrize("buffer", ["rotary_emb.inv_freq", "rotary_emb.cos_cached", "masked_bias"])
@pytest.mark.parametrize("kind", ["llama", "bloom"])
def test_buffers_that_older_versions_saved_are_passed_over(folder, kind, buffer):
    attention = "self_attn" if kind == "llama" else "self_attention"
    names = [f"{tiny.BLOCKS[kind]}.{index}.{attention}.{buffer}" for index in range(tiny.LAYERS)]
    minus_infinity = torch.full((8,), -torch.inf)  # as masks have it
    checkpoint = tiny.edit(folder(kind), lambda tensors: tensors.update(dict.fromkeys(names, minus_infinity)))
    assert_same_as_transformers(checkpoint)


def test_weights_of_a_block_that_its_class_has_not_are_refused(folder):
    name = BLOCK["llama"] + "self_attn.q_proj.bias"
    checkpoint = tiny.edit(folder("llama"), lambda tensors: tensors.update({name: torch.zeros(tiny.HIDDEN)}))
    assert "block 1 and its class disagree about self_attn.q_proj.bias" in refusal(checkpoint)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_tensor_outside_the_blocks_that_no_class_reads_does_not_matter(folder, value):
    extra = {"model.decoder.version": torch.tensor([3]), "score.weight": torch.full((2, tiny.HIDDEN), value)}
    assert_same_as_transformers(tiny.edit(folder(), lambda tensors: tensors.update(extra)))


def test_safetensors_without_metadata_are_read(folder):
    checkpoint = folder()
    save_file(load_file(checkpoint / "model.safetensors"), checkpoint / "model.safetensors")
    assert losses(checkpoint).isfinite().all()  # transformers reads them, too, but logs


# Indices


def indexed(checkpoint: Path, change) -> Path:
    index = checkpoint / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    change(content)
    index.write_text(json.dumps(content))
    return checkpoint


def test_an_index_without_metadata_is_as_good(folder):
    expected = losses(folder(shard_size="20KB"))
    assert torch.equal(losses(indexed(folder(shard_size="20KB"), lambda content: content.pop("metadata"))), expected)


def test_the_shards_are_believed_where_the_index_errs(folder):
    def lie(content):
        content["metadata"]["total_size"] = 12345
        content["weight_map"]["model.decoder.gone.weight"] = next(iter(content["weight_map"].values()))

    expected = losses(folder(shard_size="20KB"))
    assert torch.equal(losses(indexed(folder(shard_size="20KB"), lie)), expected)


def test_a_converted_checkpoint_has_an_index_that_transformers_reads(folder):
    checkpoint = folder()
    expected = AutoModelForCausalLM.from_pretrained(checkpoint)
    converted = prepared(pickled(checkpoint))
    read = AutoModelForCausalLM.from_pretrained(converted)
    assert all(torch.equal(tensor, read.state_dict()[name]) for name, tensor in expected.state_dict().items())
    index = json.loads((converted / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for tensor in load_file(next(converted.glob("*.safetensors"))).values()
    )


# Several formats beside one another


def test_safetensors_of_something_else_do_not_hide_pickled_weights(folder):
    checkpoint = pickled(folder())
    for name in ("optimizer", "consolidated"):
        save_file({"state": torch.zeros(3)}, checkpoint / f"{name}.safetensors")
    assert_same_as_transformers(checkpoint)


def test_what_training_leaves_beside_a_checkpoint_does_not_matter(folder):
    checkpoint = folder()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "pytorch_model.bin"):
        (checkpoint / name).write_bytes(b"no weights")
    (checkpoint / "trainer_state.json").write_text("{")
    (checkpoint / "generation_config.json").unlink()
    assert_same_as_transformers(checkpoint)


def test_one_pickled_file_is_preferred_to_shards_of_an_earlier_model_beside_it(folder):
    older = load_file(tiny.checkpoint(Path("older").resolve(), "opt", seed=1) / "model.safetensors")
    checkpoint = pickled(folder())
    torch.save(older, checkpoint / "pytorch_model-00001-of-00001.bin")
    assert_same_as_transformers(checkpoint)


def test_of_pickled_shards_those_of_the_index_count(folder):
    checkpoint = folder()
    tensors = load_file(checkpoint / "model.safetensors")
    halves = [dict(list(tensors.items())[part::2]) for part in (0, 1)]
    names = [f"pytorch_model-{part}-of-2.bin" for part in (1, 2)]
    for name, half in zip(names, halves, strict=True):
        pickled(checkpoint, half, name)
    older = {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}
    torch.save(older, checkpoint / "pytorch_model-3-of-3.bin")
    weight_map = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (checkpoint / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert_same_as_transformers(checkpoint)
    (checkpoint / names[1]).unlink()
    assert f"shard {names[1]} is named in the index but missing" in refusal(checkpoint)


@pytest.mark.parametrize("name", ["model.gguf", "tf_model.h5", "consolidated.00.pth", "model.fp16.safetensors"])
def test_weights_in_a_format_that_is_not_read_are_named(folder, name):
    checkpoint = folder()
    (checkpoint / "model.safetensors").rename(checkpoint / name)
    said = refusal(checkpoint)
    assert name in said
    assert "expected model.safetensors" in said


# Adapters and wrappers


def test_an_adapter_is_refused_as_one(folder):
    checkpoint = folder()
    (checkpoint / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "facebook/opt-125m"}')
    assert "PEFT adapter" in refusal(checkpoint)  # transformers would load the base model instead of these weights
    (checkpoint / "model.safetensors").rename(checkpoint / "adapter_model.safetensors")
    assert "merge_and_unload" in refusal(checkpoint)


WRAPPED = {
    "base_model.model.": "PEFT",
    "module.": "DistributedDataParallel",
    "_orig_mod.": "torch.compile",
    "net.": "save_pretrained",
}


@pytest.mark.parametrize("prefix", WRAPPED)
@pytest.mark.parametrize("kind", ["opt", "bloom", "llama"])
def test_a_wrapper_around_the_model_is_named(folder, kind, prefix):
    said = refusal(renamed(folder(kind), lambda name: prefix + name))
    assert f"begin with {prefix!r}" in said
    assert WRAPPED[prefix] in said


# Pickles


def test_pickled_tensors_that_overlap_in_memory_are_read(folder):
    checkpoint = folder("llama")
    tensors = load_file(checkpoint / "model.safetensors")
    gate, up = (BLOCK["llama"] + f"mlp.{name}_proj.weight" for name in ("gate", "up"))
    both = torch.cat([tensors[gate], tensors[up]])
    tensors |= {gate: both[:40], up: both[40:], "both": both}
    assert_same_as_transformers(pickled(checkpoint, tensors))


def test_pickled_parameters_and_transposed_tensors_are_read(folder):
    checkpoint = folder("opt")
    tensors = load_file(checkpoint / "model.safetensors")
    name = BLOCK["opt"] + "fc1.weight"
    tensors[name] = torch.nn.Parameter(tensors[name].T.contiguous().T)
    assert_same_as_transformers(pickled(checkpoint, tensors))


def test_a_pickled_state_of_training_is_refused(folder):
    checkpoint = folder()
    state = load_file(checkpoint / "model.safetensors")
    assert "expected a dictionary of tensors" in refusal(pickled(checkpoint, {"model": state, "step": 3}))


# Types that cannot be computed with


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64]
)
def test_a_type_that_is_not_computed_with_is_named_with_its_tensor(folder, dtype):
    name = BLOCK["opt"] + "fc1.weight"
    checkpoint = tiny.edit(folder(), lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    said = refusal(checkpoint)
    assert f"{name} is of type" in said
    assert "expected one of F16, BF16, F32, F64" in said


def test_types_may_be_mixed(folder):
    def mix(tensors):
        types = (torch.float16, torch.bfloat16, torch.float64)
        tensors.update({name: tensor.to(types[number % 3]) for number, (name, tensor) in enumerate(tensors.items())})

    assert_same_as_transformers(tiny.edit(folder(), mix))


def test_a_model_that_is_quantized_already_is_refused(folder):
    name = BLOCK["llama"] + "mlp.up_proj."

    def pack(tensors):
        weight = tensors.pop(name + "weight")
        tensors[name + "qweight"] = weight[:, ::8].to(torch.int32)

    checkpoint = configured(folder("llama"), quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantized" in refusal(tiny.edit(checkpoint, pack))


def test_an_empty_tensor_has_the_wrong_shape(folder):
    name = BLOCK["opt"] + "fc1.weight"
    checkpoint = tiny.edit(folder(), lambda tensors: tensors.update({name: tensors[name][:0]}))
    assert "fc1.weight is (0, 24)" in refusal(checkpoint)


# Tokenizers


@pytest.mark.parametrize("kind", ["opt", "llama", "bloom"])
def test_a_folder_without_a_tokenizer_is_refused(folder, kind):
    checkpoint = folder(kind)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).unlink()
    assert "expected tokenizer.json, or tokenizer.model" in refusal(checkpoint, CorpusError)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {"type": "Unknown"}}'])
def test_a_tokenizer_that_is_damaged_is_refused(folder, content):
    checkpoint = folder()
    (checkpoint / "tokenizer.json").write_text(content)
    assert "no tokenizer that can be used" in refusal(checkpoint, CorpusError)


def test_code_that_comes_with_a_tokenizer_is_not_run(folder):
    checkpoint = configured(
        folder(), "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "mine.Mine"]}, tokenizer_class="Mine"
    )
    (checkpoint / "mine.py").write_text("open('ran', 'w')\nclass Mine: pass\n")
    prepared(checkpoint)
    assert not Path("ran").exists()


PIECES = [("<unk>", 2), ("<s>", 3), ("</s>", 3)]  # text and kind: unknown, control; 6 is a byte, 1 a plain piece
PIECES += [(f"<0x{byte:02X}>", 6) for byte in range(256)] + [(letter, 1) for letter in "▁etaoinshrdlu"]


def test_a_sentencepiece_model_alone_is_a_tokenizer(folder):
    checkpoint = folder("llama")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).unlink()
    made = sentencepiece_model_pb2.ModelProto()
    made.trainer_spec.model_type, made.trainer_spec.byte_fallback = 2, True
    for rank, (text, kind) in enumerate(PIECES):
        piece = made.pieces.add()
        piece.piece, piece.score, piece.type = text, -float(rank), kind
    (checkpoint / "tokenizer.model").write_bytes(made.SerializeToString())
    assert_same_as_transformers(checkpoint)
    saved = corpora.open_tokenizer(Path(PREPARE.pattern.format(model="tiny")) / TOKENIZER)
    text = "the rain, größe"
    assert saved.encode(text).ids == AutoTokenizer.from_pretrained(checkpoint).encode(text)
    assert len(saved.encode(text).ids) > 8
