"""Tiny checkpoints on disk, saved by Hugging Face's own classes, with no bias, norm or matrix left at a trivial value."""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()

KINDS = ("opt", "opt-350m", "bloom", "llama")
TIED = ("opt", "opt-350m", "bloom")  # kinds whose head is the embedding, so that the base model is the whole model
VOCABULARY, POSITIONS, LAYERS, HIDDEN, HEADS = 53, 32, 3, 24, 4
EMBEDDING = {"opt": "model.decoder.embed_tokens.weight", "bloom": "transformer.word_embeddings.weight"}
EMBEDDING |= {"opt-350m": EMBEDDING["opt"], "llama": "model.embed_tokens.weight"}
BLOCKS = {"opt": "model.decoder.layers", "opt-350m": "model.decoder.layers", "bloom": "transformer.h"}
BLOCKS["llama"] = "model.layers"


def model(kind: str, seed: int = 0, hidden: int = HIDDEN, ffn: int = 40, layers: int = LAYERS) -> PreTrainedModel:
    """A float32 model with random weights: ``opt``, ``opt-350m`` (norms after, projected embeddings) or ``bloom``.

    ``llama`` has RMSNorm, rotary positions, a gated MLP, keys and values for pairs of heads, no biases, a head of its own.
    """
    shared = {"vocab_size": VOCABULARY, "hidden_size": hidden, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "bloom":
            made = BloomForCausalLM(BloomConfig(**shared, n_layer=layers, n_head=HEADS))
        elif kind == "llama":
            shape = {"num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": HEADS // 2}
            own = {"intermediate_size": ffn, "max_position_embeddings": POSITIONS, "tie_word_embeddings": False}
            made = LlamaForCausalLM(LlamaConfig(**shared, **shape, **own))
        else:
            own = {} if kind == "opt" else {"do_layer_norm_before": False, "word_embed_proj_dim": hidden // 2}
            shape = {"num_hidden_layers": layers, "num_attention_heads": HEADS, "ffn_dim": ffn}
            made = OPTForCausalLM(OPTConfig(**shared, **shape, **own, max_position_embeddings=POSITIONS))
        for name, weight in made.named_parameters():
            if weight.ndim == 2:
                weight.data = torch.randn_like(weight) / weight.shape[1] ** 0.5
            else:
                weight.data = (0.0 if name.endswith("bias") else 1.0) + 0.2 * torch.randn_like(weight)
    return made.eval()


def save(
    made: PreTrainedModel,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    shard_size: str | None = None,
    base: bool = False,
) -> Path:
    """Save a copy of a model; returns the folder.

    Args:
        shard_size: the largest shard, such as ``20KB``; one file if None.
        base: save the base model alone, whose tensors have no root prefix, as the hub's BLOOM checkpoints are.
    """
    copy = type(made)(made.config)
    copy.load_state_dict(made.state_dict())
    copy.to(dtype)
    (copy.base_model if base else copy).save_pretrained(folder, **({"max_shard_size": shard_size} if shard_size else {}))
    return folder


def checkpoint(folder: Path, kind: str, seed: int = 0, **options) -> Path:
    """`model` and `save` in one."""
    return save(model(kind, seed), folder, **options)


def edit(folder: Path, change) -> Path:
    """Let `change` alter the dictionary of tensors of a checkpoint of one file, and write it back."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def header(folder: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """Write a safetensors file that is nothing but a header, for what reads no tensor; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps(tensors).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    return folder


def opt_shapes(layers: int, hidden: int, ffn: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of an OPT checkpoint."""
    shapes = {"model.decoder.embed_tokens.weight": (vocabulary, hidden), "model.decoder.embed_positions.weight": (40, hidden)}
    for index in range(layers):
        attention = {f"self_attn.{name}_proj": (hidden, hidden) for name in ("k", "v", "q", "out")}
        linears = attention | {"fc1": (ffn, hidden), "fc2": (hidden, ffn)}
        shapes |= {f"model.decoder.layers.{index}.{name}.weight": shape for name, shape in linears.items()}
        shapes |= {f"model.decoder.layers.{index}.{name}.bias": shape[:1] for name, shape in linears.items()}
    return shapes


def windows(count: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random token windows (count, length)."""
    return torch.randint(0, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))
