"""Model families as declarative records: where blocks and linears are. A new family is one more record."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Architecture:
    """Where things are in a checkpoint of one family.

    Attributes:
        model_type: Hugging Face's name in ``config.json``.
        root: the base model's prefix; checkpoints saved from the base model alone lack it.
        blocks: the list of decoder blocks.
        linears: the linears of a block, grouped by shared input, in forward order.
        block_returns_tuple: whether a block returns (hidden states, …) or the hidden states alone.
        fused_qkv: the linear that holds query, key and value interleaved per head, or None.
        shape: names in ``config.json`` of layers, hidden size, heads and feed-forward width (None: 4 × hidden).
        aliases: (other name, name in `shape`) that ``config.json`` may have instead, as the hub's BLOOM checkpoints do.
    """

    model_type: str
    root: str
    blocks: str
    linears: tuple[tuple[str, ...], ...]
    block_returns_tuple: bool
    fused_qkv: str | None
    shape: tuple[str, str, str, str | None]
    aliases: tuple[tuple[str, str], ...] = ()

    @property
    def linear_names(self) -> tuple[str, ...]:
        """All linears of a block, in forward order."""
        return tuple(name for group in self.linears for name in group)

    def input_of(self, linear: str) -> str:
        """The first linear that has the same input: the name under which statistics of that input are kept."""
        return next(group[0] for group in self.linears if linear in group)

    def parts(self, linear: str, config: dict) -> dict[str, torch.Tensor] | None:
        """Row indices of q, k and v in a fused linear (rows run head, then q/k/v, then within the head), else None."""
        if linear != self.fused_qkv:
            return None
        _, hidden, heads, _ = (config[key] if key else None for key in self.shape)
        rows = torch.arange(3 * hidden).view(heads, 3, hidden // heads)
        return {name: rows[:, index].flatten() for index, name in enumerate(("q", "k", "v"))}


OPT = Architecture(
    model_type="opt",
    root="model.",
    blocks="model.decoder.layers",
    linears=(
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.out_proj",),
        ("fc1",),
        ("fc2",),
    ),
    block_returns_tuple=False,
    fused_qkv=None,
    shape=("num_hidden_layers", "hidden_size", "num_attention_heads", "ffn_dim"),
)

BLOOM = Architecture(
    model_type="bloom",
    root="transformer.",
    blocks="transformer.h",
    linears=(
        ("self_attention.query_key_value",),
        ("self_attention.dense",),
        ("mlp.dense_h_to_4h",),
        ("mlp.dense_4h_to_h",),
    ),
    block_returns_tuple=True,
    fused_qkv="self_attention.query_key_value",
    shape=("n_layer", "hidden_size", "n_head", None),
    aliases=(("num_hidden_layers", "n_layer"), ("n_embed", "hidden_size"), ("num_attention_heads", "n_head")),
)

LLAMA = Architecture(
    model_type="llama",
    root="model.",
    blocks="model.layers",
    linears=(
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    ),
    block_returns_tuple=False,
    fused_qkv=None,
    shape=("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"),
)

ARCHITECTURES = {record.model_type: record for record in (OPT, BLOOM, LLAMA)}
