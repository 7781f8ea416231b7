"""Which rows of a fused linear belong to which matrix: written down, because no class says it.

The rows run group by group; a group has the rows of each matrix one after another. That is one group per head where they are
interleaved, and one group in all where the matrices lie one below the other.
"""

from __future__ import annotations

from typing import Any


def fused_parts(config: Any, rows: dict[str, int]) -> dict[str, dict]:
    """The fused linears of a block, as `lorcbench.models.architecture.Architecture.fused` has them.

    Args:
        config: Hugging Face's configuration of the text model.
        rows: of each linear of the block.
    """
    parts = {linear: make(config) for linear, make in _FUSED.get(config.model_type, {}).items() if linear in rows}
    for linear, part in parts.items():
        if rows[linear] % (part["groups"] * sum(share for _, share in part["parts"])):
            raise AssertionError(f"{config.model_type}: {linear} has {rows[linear]} rows, which are not {part}")
    return parts


def _per_head(config: Any) -> dict:
    """Query, key and value of a head, then those of the next."""
    return {"groups": config.num_attention_heads, "parts": [["q", 1], ["k", 1], ["v", 1]]}


def _stacked(config: Any) -> dict:
    """All queries, then all keys, then all values; of the latter two there may be fewer heads."""
    heads, key_heads = config.num_attention_heads, getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return {"groups": 1, "parts": [["q", heads], ["k", key_heads], ["v", key_heads]]}


def _gate_up(config: Any) -> dict:
    """The gate's rows, then the others."""
    return {"groups": 1, "parts": [["gate", 1], ["up", 1]]}


def _falcon(config: Any) -> dict:
    """The queries that share a key, that key, and its value; the first architecture has one key in all, or one per head."""
    heads = config.num_attention_heads
    first = 1 if config.multi_query else heads
    key_heads = config.num_kv_heads if config.new_decoder_architecture else first
    return {"groups": key_heads, "parts": [["q", heads // key_heads], ["k", 1], ["v", 1]]}


def _one_key(config: Any) -> dict:
    """GPT-BigCode: all queries, then one key and one value; or as BLOOM, if every head has its own."""
    parts = [["q", config.num_attention_heads], ["k", 1], ["v", 1]]
    return {"groups": 1, "parts": parts} if config.multi_query else _per_head(config)


def _codegen(config: Any) -> dict:
    """Four groups, as the model was trained on four machines; in each query, value and key."""
    return {"groups": 4, "parts": [["q", 1], ["v", 1], ["k", 1]]}


# model_type → linear → its layout.
_FUSED = {
    "bloom": {"self_attention.query_key_value": _per_head},
    "codegen": {"attn.qkv_proj": _codegen},
    "falcon": {"self_attention.query_key_value": _falcon},
    "glm": {"mlp.gate_up_proj": _gate_up},
    "glm4": {"mlp.gate_up_proj": _gate_up},
    "gpt2": {"attn.c_attn": _stacked},
    "gpt_bigcode": {"attn.c_attn": _one_key},
    "gpt_neox": {"attention.query_key_value": _per_head},
    "gpt_neox_japanese": {"attention.query_key_value": _per_head},
    "mpt": {"attn.Wqkv": _stacked},
    "openai-gpt": {"attn.c_attn": _stacked},
    "persimmon": {"self_attn.query_key_value": _per_head},
    "phi3": {"self_attn.qkv_proj": _stacked, "mlp.gate_up_proj": _gate_up},
}
