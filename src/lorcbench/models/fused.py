"""Rows of the matrices that one linear holds together, as BLOOM's query_key_value holds three."""

from __future__ import annotations

import torch

from lorcbench.config.families import Family


def part_rows(family: Family, linear: str, config: dict) -> dict[str, torch.Tensor] | None:
    """The indices of the rows (out,) of each matrix in a fused linear, or None if the linear is one matrix.

    Args:
        config: the checkpoint's ``config.json``, under the names that the family's record uses.
    """
    rows = family.fused_rows(linear, config)
    if rows is None:
        return None
    return {name: torch.cat([torch.arange(part.start, part.stop) for part in parts]) for name, parts in rows.items()}
