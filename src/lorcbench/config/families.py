"""Families of which there are stand-ins, or conf files of published models: what is known of them before a checkpoint is there.

Where things are in a checkpoint is not written here: `prepare` finds it, for nearly any decoder (`lorcbench.models.discovery`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """What conf/model means by the name of a family, and how its stand-ins are built.

    Attributes:
        model_type: Hugging Face's name of the family in ``config.json``.
        model_class: Hugging Face's class of the whole model with its head.
        shape: ``layers``, ``hidden``, ``heads``, ``ffn`` → the name in ``config.json``; ``ffn`` may be missing, which means
            4 × hidden.
        mlp_matrices: matrices of a block's feed-forward part, each of hidden × ffn weights.
        vocabulary: number of tokens of the published models; estimates use it.
        learned_positions: name in ``config.json`` of the number of positions that have an embedding; longer windows are
            refused. None: positions are computed, so that any window works.
        relu: whether the feed-forward part is a linear with a bias, ReLU, and a linear, behind norms with biases: then outlier
            channels and dead neurons can be planted in a stand-in.
        standin: settings of a stand-in beside its sizes and token ids. A value that is a key of `shape` means that size.
    """

    model_type: str
    model_class: str
    shape: dict[str, str]
    mlp_matrices: int
    vocabulary: int
    learned_positions: str | None = None
    relu: bool = False
    standin: dict[str, Any] = field(default_factory=dict)

    def standin_config(self, sizes: dict[str, int], vocabulary: int, positions: int) -> dict[str, Any]:
        """The arguments of Hugging Face's configuration class for a stand-in.

        Args:
            sizes: by the keys of `shape`.
            vocabulary: number of tokens; token 0 begins, ends and pads.
            positions: the longest sequence.
        """
        own = {name: sizes.get(value, value) if isinstance(value, str) else value for name, value in self.standin.items()}
        learned = {self.learned_positions: positions} if self.learned_positions else {}
        tokens = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
        return tokens | {name: sizes[part] for part, name in self.shape.items()} | learned | own


OPT = Family(
    model_type="opt",
    model_class="OPTForCausalLM",
    shape={"layers": "num_hidden_layers", "hidden": "hidden_size", "heads": "num_attention_heads", "ffn": "ffn_dim"},
    mlp_matrices=2,
    vocabulary=50_272,
    learned_positions="max_position_embeddings",
    relu=True,
    standin={"word_embed_proj_dim": "hidden", "dropout": 0.0},
)

BLOOM = Family(
    model_type="bloom",
    model_class="BloomForCausalLM",
    shape={"layers": "n_layer", "hidden": "hidden_size", "heads": "n_head"},
    mlp_matrices=2,
    vocabulary=250_880,
)

LLAMA = Family(
    model_type="llama",
    model_class="LlamaForCausalLM",
    shape={"layers": "num_hidden_layers", "hidden": "hidden_size", "heads": "num_attention_heads", "ffn": "intermediate_size"},
    mlp_matrices=3,
    vocabulary=128_256,
    standin={"tie_word_embeddings": True},
)

# Model types of transformers 5.23 whose classes know no fused attention (`_supports_sdpa`): the scores of all heads exist as
# one matrix, which estimates of memory count.
# fmt: off
WHOLE_SCORES = frozenset({
    "big_bird", "bigbird_pegasus", "bloom", "codegen", "cpmant", "deepseek_v4", "falcon_mamba",
    "flint", "gemma2", "git", "got_ocr2", "gpt_neo", "gpt_neox_japanese", "gpt_oss", "gptj",
    "granite_swa", "granitemoe_swa", "hy_v4", "inkling2_text", "mamba", "mamba2", "megatron-bert",
    "mimo_v2_flash", "mpt", "mvp", "openai-gpt", "prophetnet", "reformer", "rembert", "roformer",
    "rwkv", "trocr", "vaultgemma", "xglm", "xlm", "xlnet", "xlstm",
})
# fmt: on

FAMILIES = {family.model_type: family for family in (OPT, BLOOM, LLAMA)}
