"""The records of tiny checkpoints as one would write them by hand; what is found must equal them."""

from __future__ import annotations

import tiny

from lorcbench.models.architecture import Architecture

_NORMS = ("self_attn_layer_norm", "final_layer_norm")
_OPT = ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", _NORMS[0], "fc1", "fc2", _NORMS[1])
_BLOOM = ("input_layernorm", "self_attention.query_key_value", "self_attention.dense", "post_attention_layernorm")
_BLOOM += ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")


def _left(names: tuple[str, ...]) -> list[str]:
    """The parameters of these modules that are no weights of linears."""
    parts = [(name, part) for name in names for part in ("weight", "bias")]
    return [f"{name}.{part}" for name, part in parts if part == "bias" or "norm" in name]


OPT = Architecture(
    model_type="opt",
    model_class="OPTForCausalLM",
    root="model.",
    blocks="model.decoder.layers",
    layers=tiny.LAYERS,
    linears=[
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ["self_attn.out_proj"],
        ["fc1"],
        ["fc2"],
    ],
    block_returns_tuple=False,
    full_precision=_left(_OPT),
)

BLOOM = Architecture(
    model_type="bloom",
    model_class="BloomForCausalLM",
    root="transformer.",
    blocks="transformer.h",
    layers=tiny.LAYERS,
    linears=[
        ["self_attention.query_key_value"],
        ["self_attention.dense"],
        ["mlp.dense_h_to_4h"],
        ["mlp.dense_4h_to_h"],
    ],
    block_returns_tuple=True,
    fused={"self_attention.query_key_value": {"groups": tiny.HEADS, "parts": [["q", 1], ["k", 1], ["v", 1]]}},
    full_precision=_left(_BLOOM),
)

LLAMA = Architecture(
    model_type="llama",
    model_class="LlamaForCausalLM",
    root="model.",
    blocks="model.layers",
    layers=tiny.LAYERS,
    linears=[
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ["self_attn.o_proj"],
        ["mlp.gate_proj", "mlp.up_proj"],
        ["mlp.down_proj"],
    ],
    block_returns_tuple=False,
    full_precision=["input_layernorm.weight", "post_attention_layernorm.weight"],
)

WRITTEN = {"opt": OPT, "opt-350m": OPT, "bloom": BLOOM, "llama": LLAMA}
