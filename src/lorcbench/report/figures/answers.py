"""What each figure shows, in a sentence: computed from all cells of the study, however many of them are drawn.

The page prints it above the caption and below "What to use", and gives it to readers who cannot see the figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import numpy as np

from lorcbench.common.spelling import counted
from lorcbench.report import equal_bits
from lorcbench.report.comparison import Change
from lorcbench.report.equal_bits import KINDS, NONE, kind_of
from lorcbench.report.figures.activation import group_of, spell
from lorcbench.report.figures.lines import sizes
from lorcbench.report.figures.ranks import WORTH_MENDING, recovered
from lorcbench.report.recommend import fronts
from lorcbench.report.results import CellResult
from lorcbench.report.spelling import percent, percents
from lorcbench.report.wording import method_words
from lorcbench.study.cells import Cell

Changes = dict[Cell, Change]


def answers(results: list[CellResult], changes: Changes) -> dict[str, str]:
    """The answer to the question of each figure, by its stem; "" where the cells do not tell.

    Args:
        results: measured cells with a finite perplexity.
        changes: what they lost to full precision.
    """
    compared = [result for result in results if result.cell in changes]
    plain = [r for r in compared if r.cell.method != "none" and not r.cell.rank and r.cell.activation == "a16"]
    return {
        "pareto": _fronts(results),
        "equal-bits": equal_bits.sentence(results),
        "fronts": _kinds(results),
        "bits": _bits(plain, changes),
        "sensitivity": _groups(plain, changes),
        "lorc": recovered(results, changes),
        "size": _sizes(results),
        "activation": _activations(compared, changes),
    }


def _fronts(results: list[CellResult]) -> str:
    """What the cells on the fronts of the models are."""
    quantized = {result.cell: result for result in results if result.cell.method != "none"}
    on_front = [cell for cell, better in fronts(results).items() if better is None and cell in quantized]
    if not on_front:
        return ""
    methods = _counted(method_words(cell.method) for cell in on_front)
    lorc = sum(cell.rank > 0 for cell in on_front)
    corrected = f"; {lorc} of them with LoRC" if any(cell.rank for cell in quantized) else ""
    return (
        f"Of {counted(len(quantized), 'quantized cell')} {len(on_front)} are on the front of their model: {methods}{corrected}."
    )


def _kinds(results: list[CellResult]) -> str:
    """Which kinds of correction the cells on the fronts have, up to the size of the largest corrected cell."""
    quantized = [r for r in results if r.cell.method != "none" and r.cell.activation == "a16" and r.bits_per_weight]
    most = max((result.bits_per_weight for result in quantized if result.cell.rank), default=0.0)
    front = fronts(result for result in quantized if result.bits_per_weight <= most)
    counts = Counter(kind_of(cell) for cell, better in front.items() if better is None)
    if not counts:
        return ""
    have = {kind: "no correction" if kind == NONE else f"{kind} LoRC" for kind in KINDS}
    names = [f"{counts[kind]} with {have[kind]}" for kind in KINDS if counts[kind]]
    return (
        f"On the fronts of the models, up to {most:.2f} bits per weight (the largest cell with a correction), "
        f"{'is' if counts.total() == 1 else 'are'} {counted(counts.total(), 'cell')}: {', '.join(names)}."
    )


def _bits(plain: list[CellResult], changes: Changes) -> str:
    """Per bit width the methods that lose least and most, each with its best format."""
    told = []
    for bits in sorted({result.cell.weight_format.bits for result in plain}, reverse=True):
        best: dict[str, dict[str, float]] = {}  # method → model → rise
        for result in plain:
            if result.cell.weight_format.bits == bits:
                of_method = best.setdefault(result.cell.method, {})
                rise = changes[result.cell].relative.value
                of_method[result.cell.model] = min(rise, of_method.get(result.cell.model, np.inf))
        ranked = sorted(best, key=lambda method: np.mean(np.log1p(list(best[method].values()))))
        ends = [f"{method_words(one)} {_range(best[one].values())}" for one in dict.fromkeys([ranked[0], ranked[-1]])]
        told.append(f"at {bits} bits {', '.join(ends)}")
    which = "for the best and the worst method" if any(", " in part for part in told) else "of the method"
    return f"Rise of the perplexity {which}, each in its best format, over the models: {'; '.join(told)}." if told else ""


def _groups(plain: list[CellResult], changes: Changes) -> str:
    """What groups take back of the loss in rows, and which model is most sensitive."""
    rises = {result.cell: changes[result.cell].relative.value for result in plain}
    rows = [cell for cell in rises if not cell.weight_format.group and rises[cell] > WORTH_MENDING]
    lossy = set(rows)
    shares: dict[int, list[float]] = {}
    for cell, rise in rises.items():
        fmt = cell.weight_format
        row = replace(cell, weight=str(replace(fmt, group=None)))
        if fmt.group and row in lossy:
            shares.setdefault(fmt.group, []).append(1 - rise / rises[row])
    told = [f"groups of {group} take back {100 * np.median(shares[group]):.0f} %" for group in sorted(shares, reverse=True)]
    sentences = [f"Of what is lost in whole rows {', '.join(told)} (medians)."] if told else []
    if fewest := [cell for cell in rows if cell.weight_format.bits == min(row.weight_format.bits for row in rows)]:
        model = max(fewest, key=lambda cell: rises[cell])
        least = {cell.model: rises[cell] for cell in fewest if cell == replace(model, model=cell.model)}
        if len(least) > 1:
            low = min(least, key=least.__getitem__)
            sentences.append(
                f"With {method_words(model.method)} {model.weight} {model.model} loses most, {percent(rises[model], 0)}, and "
                f"{low} least, {percent(least[low], 0)}."
            )
    return " ".join(sentences)


def _sizes(results: list[CellResult]) -> str:
    """How often a quantized larger model beats all that the next smaller one of its family does with no less space."""
    mebibytes = sizes(results)
    weights = {result.cell.model: result.weights for result in results if result.weights}
    families: dict[str, list[str]] = {}
    for result in sorted((r for r in results if r.cell.model in weights), key=lambda r: weights[r.cell.model]):
        if result.cell.model not in families.setdefault(result.family, []):
            families[result.family].append(result.cell.model)
    better = count = 0
    for members in families.values():
        for smaller, larger in pairwise(members):
            rivals = [(mebibytes[r.cell], r.mean_ppl) for r in results if r.cell.model == smaller and r.cell in mebibytes]
            for result in results:
                if result.cell.model == larger and result.cell.method != "none" and result.cell in mebibytes:
                    as_large = [ppl for size, ppl in rivals if size >= mebibytes[result.cell]]
                    count += bool(as_large)
                    better += bool(as_large) and result.mean_ppl < min(as_large)
    if not count:
        return ""
    return (
        f"{'In' if better else 'No: in'} {better or 'none'} of {counted(count, 'comparison')} "
        f"{'the larger model, quantized, beats' if better else 'does the larger model, quantized, beat'} all cells of the next "
        "smaller model that take as much space or more."
    )


def _activations(compared: list[CellResult], changes: Changes) -> str:
    """What rounding the activations adds, by what shares a scale."""
    whole_rise = {Cell.full_precision(result.cell.model): 0.0 for result in compared}
    rises = whole_rise | {r.cell: changes[r.cell].relative.value for r in compared if not r.cell.is_full_precision}
    added: dict[float, list[float]] = {}
    for cell, rise in rises.items():
        whole = replace(cell, activation="a16")
        if cell.activation != "a16" and whole in rises:
            added.setdefault(group_of(cell), []).append((1 + rise) / (1 + rises[whole]) - 1)
    told = [f"{spell(group)} {_range(added[group])}" for group in sorted(added, reverse=True)]
    return (
        f"Rise of a recipe's perplexity when its activations are rounded, by what shares a scale: {', '.join(told)}."
        if told
        else ""
    )


def _counted(names: Iterable[str]) -> str:
    """Each name with how often it occurs, the most frequent first."""
    return ", ".join(f"{count} {name}" for name, count in Counter(names).most_common())


def _range(shares: Iterable[float]) -> str:
    """The smallest and the largest of some shares, in percent."""
    ordered = sorted(shares)
    low, high = percents(ordered[0], ordered[-1])
    return f"{low} %" if low == high else f"{low} to {high} %"
