"""The sizes of a model, and how many weights and multiplications follow from them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. Keys and values are counted as wide as queries; some models have narrower ones.

    Attributes:
        layers: decoder blocks.
        hidden, ffn: width of the hidden states, and of the feed-forward part.
        vocabulary: tokens.
        mlp_matrices: matrices of a block's feed-forward part.
    """

    layers: int
    hidden: int
    ffn: int
    vocabulary: int
    mlp_matrices: int = 2

    @property
    def block(self) -> int:
        """Weights of a block's linears."""
        return 4 * self.hidden**2 + self.mlp_matrices * self.hidden * self.ffn

    @property
    def squares(self) -> int:
        """Entries of the Hessians of a block's inputs: three of the hidden width, one of the feed-forward's."""
        return 3 * self.hidden**2 + self.ffn**2

    @property
    def widest(self) -> int:
        """Weights of the largest matrix, or stack of matrices, that is swept or decomposed at once."""
        return max(3 * self.hidden**2, (self.mlp_matrices - 1) * self.hidden * self.ffn)

    @property
    def sweep(self) -> int:
        """Multiplications and additions of GPTQ's sweep of a block: its weights times their inputs."""
        return 4 * self.hidden**3 + (self.mlp_matrices - 1) * self.ffn * self.hidden**2 + self.hidden * self.ffn**2

    @property
    def cubes(self) -> int:
        """Three times the multiplications and additions of the Cholesky factorizations of a block's Hessians."""
        return 3 * self.hidden**3 + self.ffn**3

    @property
    def workspace(self) -> int:
        """Bytes that rounding a block takes: weights as stored, codes, and float32 copies of the widest stack."""
        return self.block * 3 + 5 * self.widest * 4

    def forward(self, tokens: int) -> int:
        """Floating-point operations of one pass of all blocks."""
        return 2 * self.layers * self.block * tokens
