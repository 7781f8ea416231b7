"""Which study reaches which published number, or why none does: ``python -m lorcbench.report.reach``.

Every study of published models is expanded without its limit of size. Every cell is taken for measured, and joined with the
published numbers just as a finished study is. The totals are of the two papers whose tables the studies measure; numbers that
other sources print are counted apart, source by source.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from lorcbench.config import compose
from lorcbench.config.protocols import in_float32
from lorcbench.report import scorecard
from lorcbench.report.derived import BEST, derive
from lorcbench.report.results import CellResult
from lorcbench.study import published
from lorcbench.study.cells import Cell
from lorcbench.study.expansion import load_study
from lorcbench.study.published import CORPORA, PROTOCOLS, SOURCES, STUDIED, Published


def studies() -> dict[Published, list[str]]:
    """For every published number the studies that have a cell, or a derived row, to hold against it."""
    reached: dict[Published, list[str]] = {row: [] for row in published.load()}
    for name in compose.names("study"):
        study = load_study(name, ["study.max_params=null"])
        if in_float32(study.eval) not in PROTOCOLS.values():
            continue
        results = [_measured(cell) for cell in study.cells]
        for result in [*results, *derive(results)]:
            for row in scorecard.counterparts(result, study.eval):
                if name not in reached[row]:
                    reached[row].append(name)
    return reached


def _measured(cell: Cell) -> CellResult:
    """The cell as if it had been measured."""
    seed = None if cell.calibration == "none" else compose.load("calibration", cell.calibration).seed
    return CellResult(cell, status="ok", seed=seed, nll={corpus: np.zeros(1) for corpus in CORPORA})


def kind(row: Published) -> str:
    """What a published number is held against."""
    if row.method == BEST:
        return "derived: the best of the methods"
    if row.method.startswith("zq_") and row.lr is None:
        return "measured, and derived: the best learning rate"
    return "measured: the mean of three corpora" if row.corpus == "mean" else "measured: one corpus"


def reason(row: Published) -> str:
    """Why no cell can be held against a number, or "" if one could."""
    if PROTOCOLS[row.source] is None:
        return "the source has a protocol of its own"
    if row.model not in compose.names("model"):
        return "the model's weights were never public for download"
    if row.misprinted:
        return "misprint: another row's number, or a slip of a digit"
    formats = row.formats()
    if formats is None:
        return "the paper states neither groups nor symmetry"
    model = compose.load("model", row.model)
    if any(width % fmt.group for fmt in formats if fmt.group for width in (model.hidden, model.ffn)):
        return "groups do not divide the model's width"
    return ""


def main() -> None:
    """Print the number of the papers' rows by what reaches them, by study, and by reason; then those of the other sources."""
    by_source = studies()
    by_number = {row: names for row, names in by_source.items() if row.source in STUDIED}
    reached = [row for row, names in by_number.items() if names]
    missed = [row for row, names in by_number.items() if not names]
    print(f"{len(by_number)} published perplexities, {len(reached)} reached by some study, {len(missed)} by none")
    for title, counts in (
        ("reached, by what they are held against", Counter(map(kind, reached))),
        ("reached, by study (a number can be in several)", Counter(name for names in by_number.values() for name in names)),
        ("not reached", Counter(reason(row) or "no study asks for it" for row in missed)),
    ):
        print(f"\n{title}")
        for name, number in counts.most_common():
            print(f"  {number:5}  {name}")
    print("\nprinted by other sources about cells of these studies, not counted above")
    for source in (name for name in SOURCES if name not in STUDIED):
        own = {row: names for row, names in by_source.items() if row.source == source}
        compared = sum(bool(names) for names in own.values())
        print(f"  {len(own):5}  {SOURCES[source].title}, {SOURCES[source].kind}: {compared} reached by some study")


if __name__ == "__main__":
    main()
