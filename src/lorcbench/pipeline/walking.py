"""Bytes that a block walk takes: of the process if the CPU computes; on the GPU, and beside it on the host, if a GPU does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lorcbench.config.schema import RuntimeConfig
from lorcbench.config.shape import Shape

ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2}
SCORED_AT_ONCE = 512  # tokens whose logits exist together (lorcbench.models.blocks)
_ROUNDING = 16  # bytes per number of an input that is rounded: steps, codes and their meaning, in float32
_SCORES = 12  # bytes per attention score: with and without its mask, as a probability in float32, and in the forward's type


def placed(sizes: Iterable[float], budget: float) -> tuple[float, list[float]]:
    """Bytes of the sets of states that stay where the arithmetic is, and the sizes of the others.

    As `lorcbench.models.blocks.BlockWalk.buffer` decides: one after another, each as a whole, if the budget allows it.
    """
    near, far = 0.0, []
    for size in sizes:
        if near + size <= budget:
            near += size
        else:
            far.append(size)
    return near, far


@dataclass(frozen=True)
class Walk:
    """A block walk.

    Attributes:
        shape: of its model.
        runtime: of its job.
        dtype: of the forward passes.
        length: tokens per sequence.
        states: bytes of each set of states that is held at a time, in the order in which they are made.
        rounded: whether the inputs of linears are rounded.
    """

    shape: Shape
    runtime: RuntimeConfig
    dtype: str
    length: int
    states: tuple[float, ...]
    rounded: bool = False

    @property
    def _size(self) -> int:
        return ITEMSIZE[self.dtype]

    @property
    def _budget(self) -> float:
        return self.runtime.hidden_gib * 2**30

    @property
    def _tokens(self) -> int:
        """Of one forward pass: whole sequences."""
        return max(1, self.runtime.batch_tokens // self.length) * self.length

    @property
    def scores(self) -> float:
        """Bytes of the attention scores of one sequence, where they exist as a whole."""
        return self.length**2 * self.shape.score_heads * _SCORES

    @property
    def _passing_scores(self) -> float:
        """The same of one forward pass."""
        return self.scores * self._tokens / self.length

    @property
    def outside(self) -> float:
        """Bytes of embeddings and head."""
        return self.shape.outside * self._size

    @property
    def block(self) -> float:
        """Bytes of one block, as the forward passes use it."""
        return self.shape.block * self._size

    @property
    def near(self) -> float:
        """Bytes of states that stay where the arithmetic is."""
        return placed(self.states, self._budget)[0]

    def pinned(self, streamed: int) -> float:
        """Bytes of states that lie in pinned memory of the host; PyTorch takes the next power of two of each.

        Args:
            streamed: how many sets of states, from the first on, pass through blocks. The others are in a file.
        """
        _, far = placed(self.states[:streamed], self._budget)
        return sum(2 ** (int(size) - 1).bit_length() for size in far)

    @property
    def cpu(self) -> float:
        """Of the process: embeddings, one block as stored and as used, states, and what one forward pass makes."""
        states = min(sum(self.states), self._budget)
        passing = self.runtime.batch_tokens * (self.shape.widest_input + 8 * self.shape.hidden) * self._size
        return self.outside + self.shape.block * (2 + self._size) + states + passing + self._passing_scores

    @property
    def host(self) -> float:
        """Of the process if a GPU computes: embeddings, and one block as it is read and as it is used."""
        return self.outside + self.shape.block * (2 + self._size)

    @property
    def passing(self) -> float:
        """On a GPU: what one forward pass of a block makes, and, of states on the host, the batches on their way.

        The widest input and output of its linears and four hidden states exist together; measured: 2 × 16,384 and one of 4,096
        numbers per token of OPT-6.7b.
        """
        batches = 2 if placed(self.states, self._budget)[1] else 0
        numbers = self.shape.widest_input + self.shape.widest_output + (4 + batches) * self.shape.hidden
        rounding = self.shape.widest_input * _ROUNDING if self.rounded else 0
        return self._tokens * (numbers * self._size + rounding) + self._passing_scores

    @property
    def ends(self) -> float:
        """On a GPU: embeddings and head, and the logits of the tokens that are scored at once."""
        return self.outside + SCORED_AT_ONCE * self.shape.vocabulary * 12 + self.final

    @property
    def final(self) -> float:
        """Bytes of final hidden states of one pass: as they come, behind the norm, what the head sees, and one more."""
        return 4 * self._tokens * self.shape.hidden * self._size
