"""The sizes of a model, and how many weights and multiplications follow from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Input(NamedTuple):
    """One input of a block's linears: how wide it is, and the rows of each matrix that reads it."""

    width: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. One whose blocks differ counts as if all were as large as its largest.

    Attributes:
        layers: decoder blocks.
        hidden: width of the hidden states.
        vocabulary: tokens.
        inputs: of the linears of a block.
        outside: weights outside the blocks: embeddings, and a head of its own.
        score_heads: attention heads, if their scores (windows, heads, length, length) exist as a whole; 0 if the kernel that
            computes attention never holds them.
    """

    layers: int
    hidden: int
    vocabulary: int
    inputs: tuple[Input, ...]
    outside: int = field(default=0, compare=False)
    score_heads: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if not self.outside:  # a head that is the embedding
            object.__setattr__(self, "outside", self.vocabulary * self.hidden)

    @classmethod
    def plain(cls, layers: int, hidden: int, ffn: int, vocabulary: int, mlp_matrices: int = 2, score_heads: int = 0) -> Shape:
        """The shape that a conf file states. Keys and values count as wide as queries; some models have narrower ones.

        Args:
            ffn: width of the feed-forward part.
            mlp_matrices: of a block's feed-forward part; all but one read the hidden states.
            score_heads: as the attribute.
        """
        attention = Input(hidden, (hidden, hidden, hidden)), Input(hidden, (hidden,))
        inputs = *attention, Input(hidden, (ffn,) * (mlp_matrices - 1)), Input(ffn, (hidden,))
        return cls(layers, hidden, vocabulary, inputs, score_heads=score_heads)

    @property
    def block(self) -> int:
        """Weights of a block's linears."""
        return sum(width * sum(rows) for width, rows in self.inputs)

    @property
    def widest_input(self) -> int:
        """Numbers in the widest input of a linear: usually the width of the feed-forward part."""
        return max(width for width, _ in self.inputs)

    @property
    def widest_output(self) -> int:
        """Numbers that the linears of one input make of a token, at most: with gates, both halves of the feed-forward part."""
        return max(sum(rows) for _, rows in self.inputs)

    @property
    def squares(self) -> int:
        """Entries of the Hessians of a block's inputs."""
        return sum(width**2 for width, _ in self.inputs)

    @property
    def widest(self) -> int:
        """Weights of the largest matrix, or stack of matrices, that is swept or decomposed at once."""
        return max(width * sum(rows) for width, rows in self.inputs)

    @property
    def sides(self) -> int:
        """Rows and columns of a block's matrices together: a low-rank component stores one number for each."""
        return sum(width + rows for width, of_input in self.inputs for rows in of_input)

    @property
    def sweep(self) -> int:
        """Multiplications and additions of GPTQ's sweep of a block: its weights times their inputs."""
        return sum(width**2 * sum(rows) for width, rows in self.inputs)

    @property
    def cubes(self) -> int:
        """Three times the multiplications and additions of the Cholesky factorizations of a block's Hessians."""
        return sum(width**3 for width, _ in self.inputs)

    @property
    def workspace(self) -> int:
        """Bytes that rounding a block takes: weights as stored, codes, and float32 copies of the widest stack."""
        return self.block * 3 + 5 * self.widest * 4

    def forward(self, tokens: int) -> int:
        """Floating-point operations of one pass of all blocks."""
        return 2 * self.layers * self.block * tokens
