"""Model families, one record each: where the blocks and linears of a checkpoint are, and what its config.json calls its sizes.

A record is plain data: strings, numbers, lists and dictionaries, so that JSON can hold it. Whatever knows families asks these
records; to add a family is to add a record. Everything else of a family is Hugging Face's own code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """Where things are in a checkpoint of one family, and how its models are built.

    Attributes:
        model_type: Hugging Face's name of the family in ``config.json``.
        model_class: Hugging Face's class of the whole model with its head.
        root: prefix of the base model's tensors. A checkpoint that was saved from the base model alone lacks it.
        blocks: the list of decoder blocks.
        linears: the linears of a block in forward order; those that share one input form one inner list.
        block_returns_tuple: whether a block returns (hidden states, …) or the hidden states alone.
        fused: linear → names of the matrices that its rows hold. The rows run head by head; within a head each matrix has
            equally many rows, in this order.
        shape: ``layers``, ``hidden``, ``heads``, ``ffn`` → the name in ``config.json``; ``ffn`` may be missing, which means
            4 × hidden.
        aliases: a name that ``config.json`` may have instead → the name in `shape`, as in the hub's BLOOM checkpoints.
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
    root: str
    blocks: str
    linears: list[list[str]]
    block_returns_tuple: bool
    shape: dict[str, str]
    mlp_matrices: int
    vocabulary: int
    fused: dict[str, list[str]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    learned_positions: str | None = None
    relu: bool = False
    standin: dict[str, Any] = field(default_factory=dict)

    @property
    def linear_names(self) -> tuple[str, ...]:
        """All linears of a block, in forward order."""
        return tuple(name for group in self.linears for name in group)

    def input_of(self, linear: str) -> str:
        """The first linear that has the same input: the name under which statistics of that input are kept."""
        return next(group[0] for group in self.linears if linear in group)

    def named(self, config: dict) -> dict:
        """A ``config.json`` under the names of `shape`, whichever of both names it has."""
        return {self.aliases.get(name, name): value for name, value in config.items()}

    def size(self, config: dict, part: str) -> int:
        """One of the sizes in `shape`, read from a ``config.json`` under the names of `shape`.

        Raises:
            KeyError: ``config.json`` does not say.
        """
        if part == "ffn" and part not in self.shape:
            return 4 * self.size(config, "hidden")
        return config[self.shape[part]]

    def fused_rows(self, linear: str, config: dict) -> dict[str, list[range]] | None:
        """Rows of each matrix in a fused linear, one range per head; None if the linear is one matrix."""
        if linear not in self.fused:
            return None
        names, heads = self.fused[linear], self.size(config, "heads")
        width = self.size(config, "hidden") // heads
        starts = {name: [(head * len(names) + index) * width for head in range(heads)] for index, name in enumerate(names)}
        return {name: [range(start, start + width) for start in starts[name]] for name in names}

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
    root="model.",
    blocks="model.decoder.layers",
    linears=[
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ["self_attn.out_proj"],
        ["fc1"],
        ["fc2"],
    ],
    block_returns_tuple=False,
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
    root="transformer.",
    blocks="transformer.h",
    linears=[
        ["self_attention.query_key_value"],
        ["self_attention.dense"],
        ["mlp.dense_h_to_4h"],
        ["mlp.dense_4h_to_h"],
    ],
    block_returns_tuple=True,
    shape={"layers": "n_layer", "hidden": "hidden_size", "heads": "n_head"},
    mlp_matrices=2,
    vocabulary=250_880,
    fused={"self_attention.query_key_value": ["q", "k", "v"]},
    aliases={"num_hidden_layers": "n_layer", "n_embed": "hidden_size", "num_attention_heads": "n_head"},
)

LLAMA = Family(
    model_type="llama",
    model_class="LlamaForCausalLM",
    root="model.",
    blocks="model.layers",
    linears=[
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ["self_attn.o_proj"],
        ["mlp.gate_proj", "mlp.up_proj"],
        ["mlp.down_proj"],
    ],
    block_returns_tuple=False,
    shape={"layers": "num_hidden_layers", "hidden": "hidden_size", "heads": "num_attention_heads", "ffn": "intermediate_size"},
    mlp_matrices=3,
    vocabulary=128_256,
    standin={"tie_word_embeddings": True},
)

FAMILIES = {family.model_type: family for family in (OPT, BLOOM, LLAMA)}
