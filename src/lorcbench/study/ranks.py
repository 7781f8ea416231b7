"""What the ranks of stand-ins mean: their share of the width, and the published ranks for which they stand."""

from __future__ import annotations

from lorcbench.config import places
from lorcbench.study.cells import Cell, Study
from lorcbench.study.rehearsal import RANKS

_PUBLISHED_WIDTH = 4096  # of OPT-6.7b and BLOOM-7.1b


def rank_share(study: Study, cell: Cell) -> float | None:
    """LoRC's rank as a share of the model's width; None without LoRC, and for a width that only the checkpoint knows."""
    width = places.width(study.model(cell.model)) if cell.rank else None
    return cell.rank / width if width else None


def of_width(rank: int, width: int, full: int) -> int:
    """The rank that is the same share of `width` as `rank` is of `full`; at least 1."""
    return max(1, round(rank * width / full))


def rank_lines(study: Study) -> list[str]:
    """A line for every rank of the study's stand-ins, and one for ranks that are one on them; none without stand-ins."""
    widths: dict[int, set[int]] = {}
    for cell in study.cells:
        model = study.model(cell.model)
        if cell.rank and model.source == "standin":
            widths.setdefault(cell.rank, set()).add(model.hidden)
    published = {rank: [number] for number, rank in RANKS.items()} | study.published_ranks
    lines = []
    for rank in sorted(widths):
        shares = ", ".join(f"{100 * rank / width:.1f} % of width {width}" for width in sorted(widths[rank]))
        meant = _same_shares(study, rank, widths[rank]) or _stands_for(published.get(rank, []))
        lines.append(f"rank {rank} is {shares}{meant}")
    for rank, numbers in study.published_ranks.items():
        if len(numbers) > 1:
            lines.append(f"ranks {', '.join(map(str, numbers))} of the study are one rank on stand-ins: {rank}")
    return lines


def _same_shares(study: Study, rank: int, widths: set[int]) -> str:
    """Of a study whose ranks are shares of a width: which of its ranks became `rank`; "" for other studies."""
    full = study.config.ranks_of_width
    if not full or "ranks" in study.replaced:
        return ""
    asked = {number for grid in (study.config, *study.config.grids) for number in grid.ranks or [] if number}
    numbers = [n for n in sorted(asked) if any(of_width(n, width, full) == rank for width in widths)]
    return f", as {', '.join(map(str, numbers))} of {full:,}"


def _stands_for(numbers: list[int]) -> str:
    """The published ranks and their share of a published width; nothing for a rank that stands for none."""
    if not numbers:
        return ""
    each = ", ".join(f"{number} ({100 * number / _PUBLISHED_WIDTH:.2g} % of {_PUBLISHED_WIDTH:,})" for number in numbers)
    return f"; stands for the published {each}"
