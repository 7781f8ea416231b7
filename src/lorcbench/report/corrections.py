"""What a study found about kinds of correction: counted comparisons in sentences, and two tables behind them.

At equal rank each kind is held against plain LoRC; at equal bits against the best cell of the same method that has no more bits
and does without LoRC, and against the best plain one. Differences are paired; a mean over cells is a geometric mean of ratios,
whose interval keeps what the cells share through the text. Of variants of one kind only the plainest counts
(`lorcbench.report.equal_bits.leading`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lorcbench.common.spelling import counted
from lorcbench.report.comparison import Change, mean_change
from lorcbench.report.equal_bits import PLAIN, Tally, compare, kind_of, kinds, leading, twin
from lorcbench.report.intervals import Interval
from lorcbench.report.results import CellResult
from lorcbench.study.cells import Cell

WORTH_MENDING = 0.005  # a recipe that loses a smaller share of the perplexity gives a correction nothing to take back


@dataclass(frozen=True)
class Means:
    """Mean changes of the perplexity of some cells of one kind.

    Attributes:
        where: which cells: their bits, and whether they have groups; or their rank as a share of the width.
        kind: of LoRC.
        cells: how many there are.
        taken_back: the median share of the loss to full precision that the correction takes away; None where nothing is lost.
        plain: at equal rank, over plain LoRC; None if there is no such pair.
        without: at equal bits, over the best cell without LoRC; None if there is no such pair.
        better: how many cells are below that one beyond the interval, of how many that have one.
    """

    where: str
    kind: str
    cells: int
    taken_back: float | None
    plain: Interval | None
    without: Interval | None
    better: tuple[int, int]


@dataclass(frozen=True)
class Corrections:
    """What was found.

    Attributes:
        sentences: what was found about each kind, in the order of `lorcbench.report.equal_bits.KINDS`.
        by_format: per bits, rows or groups, and kind.
        by_share: per rank as a share of the width, and kind.
    """

    sentences: list[str]
    by_format: list[Means]
    by_share: list[Means]


NOTHING = Corrections([], [], [])


@dataclass(frozen=True)
class _Compared:
    """All comparisons of a study, by the cell that is compared."""

    losses: dict[Cell, float]
    plain: dict[Cell, Change]
    without: dict[Cell, Change]
    at_bits_plain: dict[Cell, Change]


def find(results: list[CellResult], changes: dict[Cell, Change], shares: dict[Cell, float | None]) -> Corrections:
    """What the measured cells say; `NOTHING` unless two or more kinds of correction were measured.

    Args:
        results: measured cells, no derived ones.
        changes: what they lost to full precision.
        shares: LoRC's rank as a share of the model's width, where that is known.
    """
    finished = {result.cell: result for result in results if result.cell in changes and np.isfinite(result.mean_ppl)}
    counted = leading(cell for cell in finished if cell.rank)
    cells = [cell for cell in finished if cell in counted and not cell.weight_format.is_mixed]
    present = kinds(cells)
    if len(present) < 2:
        return NOTHING
    twins = {cell: finished.get(twin(cell, PLAIN)) for cell in cells if kind_of(cell) != PLAIN}
    compared = _Compared(
        {cell: changes[cell].relative.value for cell in finished},
        {cell: Change(finished[cell], plain) for cell, plain in twins.items() if plain is not None},
        compare(results),
        compare(results, PLAIN),
    )
    formats = {cell: f"{cell.weight_format.bits} bits, {'groups' if cell.weight_format.group else 'rows'}" for cell in cells}
    known = {cell: f"{100 * share:.1f} %" for cell in cells if (share := shares.get(cell))}
    ranks = sorted(known, key=lambda cell: shares[cell])
    by_share = _means(dict.fromkeys(known[cell] for cell in ranks), known, compared)
    order = sorted(set(formats.values()), key=lambda name: (int(name.partition(" ")[0]), name.endswith("groups")))
    by_format = _means(order, formats, compared)
    sentences = [_sentence(kind, [cell for cell in cells if kind_of(cell) == kind], compared, by_share) for kind in present]
    return Corrections(sentences, by_format, by_share)


def _means(order: Iterable[str], where: dict[Cell, str], compared: _Compared) -> list[Means]:
    """The mean changes per place and kind.

    Args:
        order: the places in their order.
        where: which place each cell is counted at.
    """
    rows = []
    for place in order:
        members = [cell for cell, own in where.items() if own == place]
        for kind in kinds(members):
            cells = [cell for cell in members if kind_of(cell) == kind]
            pays = Tally.of(compared.without[cell] for cell in cells if cell in compared.without)
            rows.append(
                Means(
                    place,
                    kind,
                    len(cells),
                    _taken_back(cells, compared.losses),
                    _mean(cells, compared.plain),
                    _mean(cells, compared.without),
                    (pays.surely_below, pays.count),
                )
            )
    return rows


def _mean(cells: list[Cell], changes: dict[Cell, Change]) -> Interval | None:
    pairs = [(changes[cell].result, changes[cell].baseline) for cell in cells if cell in changes]
    return mean_change(pairs) if pairs else None


def _taken_back(cells: list[Cell], losses: dict[Cell, float]) -> float | None:
    """The median share of the loss that corrections take away, where there is enough of it."""
    before = {cell: losses.get(cell.uncorrected, 0.0) for cell in cells}
    shares = [1 - losses[cell] / loss for cell, loss in before.items() if loss > WORTH_MENDING]
    return float(np.median(shares)) if shares else None


def _sentence(kind: str, cells: list[Cell], compared: _Compared, by_share: list[Means]) -> str:
    """What was found about one kind."""
    sentences = []
    if pairs := [compared.plain[cell] for cell in cells if cell in compared.plain]:
        sentences.append(f"At equal rank it is below plain LoRC in {_counted(Tally.of(pairs))}")
    if without := [compared.without[cell] for cell in cells if cell in compared.without]:
        text = f"At equal bits it is below the best cell without LoRC in {_counted(Tally.of(without))}"
        if plain := [compared.at_bits_plain[cell] for cell in cells if cell in compared.at_bits_plain]:
            text += f", and below the best plain one in {_counted(Tally.of(plain))}"
        sentences += [text, *_bought(without)]
    if own := [row for row in by_share if row.kind == kind and row.taken_back is not None]:
        shares = ", ".join(f"{100 * row.taken_back:.0f} % at r/d of {row.where}" for row in own)
        sentences.append(f"Of the loss it takes back (medians) {shares}")
        paying = [row.where for row in own if 2 * row.better[0] > row.better[1]]
        if without:
            where = f"at r/d of {', '.join(paying)}" if paying else "at no r/d"
            sentences.append(f"It pays for its bits, beyond the interval and in most recipes, {where}")
    return f"{kind[0].upper()}{kind[1:]} LoRC: {'. '.join([counted(len(cells), 'cell'), *sentences])}."


def _counted(tally: Tally) -> str:
    """How often one was below the other."""
    return f"{tally.below} of {tally.count} ({tally.surely_below} beyond the 95 % interval, {tally.surely_above} the other way)"


def _bought(without: list[Change]) -> list[str]:
    """What the bits of cells that are beaten beyond the interval buy in the cells that beat them; nothing if none is beaten."""
    beaten = [change for change in without if change.relative.low > 0]
    bits = sum(_bits(change.baseline) > _bits(change.result) for change in beaten)
    if not beaten:
        return []
    which = f"more bits per code in {bits} cases, finer groups in {len(beaten) - bits}"
    return [f"The cell without LoRC that beats it beyond the interval has {which}"]


def _bits(result: CellResult) -> int:
    return result.cell.weight_format.bits
