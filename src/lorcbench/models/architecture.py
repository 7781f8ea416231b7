"""Where things are in the checkpoints of one architecture: the record that `prepare` finds, and every later stage reads.

A record is plain data: strings, numbers, lists and dictionaries, so that it lies as JSON in the result of `prepare`. How it is
found is `lorcbench.models.discovery`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import torch

_NUMBER = r"(?<![^.])\d+(?![^.])"  # between dots


def numberless(name: str) -> str:
    """The name of a tensor with # in the place of its numbers."""
    return re.sub(_NUMBER, "#", name)


@dataclass(frozen=True)
class Architecture:
    """What the block walk, and what reads weights without it, must know of a checkpoint.

    Attributes:
        model_type: Hugging Face's name of the family in ``config.json``.
        model_class: Hugging Face's class of the whole model with its head.
        root: prefix of the base model's tensors. A checkpoint that was saved from the base model alone lacks it.
        blocks: the list of decoder blocks.
        layers: how many there are.
        linears: the linears of a block in forward order; those that share one input form one inner list.
        block_returns_tuple: whether a block returns (hidden states, …) or the hidden states alone.
        transposed: linears whose weights are stored (in, out), as those of transformers' Conv1D are.
        fused: linear → the matrices that its rows hold: ``groups``, and as ``parts`` the name of each matrix and its share of
            a group's rows, in their order. BLOOM has one group per head, with as many rows for each of q, k and v.
        full_precision: the parameters of a block that no method quantizes: biases, norms and the like.
        names: a tensor's name in the files → its name in the class, where it is another; # stands for a number, such as that of
            the block.
    """

    model_type: str
    model_class: str
    root: str
    blocks: str
    layers: int
    linears: list[list[str]]
    block_returns_tuple: bool
    transposed: list[str] = field(default_factory=list)
    fused: dict[str, dict] = field(default_factory=dict)
    full_precision: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)

    def full_name(self, stored: str) -> str:
        """The name that the whole text model gives a tensor of the files; a base model's files leave out the root."""
        pattern = numberless(stored)
        if pattern in self.names:
            numbers = iter(re.findall(_NUMBER, stored))
            return re.sub("#", lambda place: next(numbers), self.names[pattern])
        return stored if stored.startswith((self.root, "lm_head.")) else self.root + stored

    @property
    def linear_names(self) -> tuple[str, ...]:
        """All linears of a block, in forward order."""
        return tuple(name for group in self.linears for name in group)

    def input_of(self, linear: str) -> str:
        """The first linear that has the same input: the name under which statistics of that input are kept."""
        return next(group[0] for group in self.linears if linear in group)

    def part_rows(self, linear: str, rows: int) -> dict[str, torch.Tensor] | None:
        """The indices of the rows (out,) of each matrix in a fused linear, or None if the linear is one matrix.

        Args:
            rows: how many the linear has.
        """
        if linear not in self.fused:
            return None
        groups, parts = self.fused[linear]["groups"], self.fused[linear]["parts"]
        # (rows,) → (groups, rows of a group); a part is a range of columns of that, read group by group.
        by_group = torch.arange(rows).view(groups, -1)
        unit = by_group.shape[1] // sum(share for _, share in parts)
        pieces = by_group.split([share * unit for _, share in parts], dim=1)
        return {name: piece.flatten() for (name, _), piece in zip(parts, pieces, strict=True)}
