"""What the results say about each claim: supported, contradicted or undecided.

A verdict rests on one 95 % interval of what `lorcbench.report.statements` bounds: `supported` if the whole interval lies within
the bounds, `contradicted` if none of it does, else `undecided`. Every model is judged by itself. Where one cell is said to be
below another at 3 bits and more, differences are small, so several models that read the same windows are pooled too. The
intervals cover the sampling of text; a study with several calibration seeds gets a verdict for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from lorcbench.report.comparison import Change, windows
from lorcbench.report.intervals import Interval, mean_log_ratio, mean_perplexity_contrast
from lorcbench.report.results import CellResult
from lorcbench.report.spelling import number, percent
from lorcbench.report.statements import Statement, statements
from lorcbench.study.cells import Cell

VERDICTS = ("supported", "contradicted", "undecided")


@dataclass(frozen=True)
class Verdict:
    """What the results say about one claim.

    Attributes:
        claim: the statement, in one sentence.
        scope: where it was tested: the model, or the pool of models, and the recipe.
        verdict: one of `VERDICTS`.
        evidence: the numbers that decided.
        source: where ZeroQuant-V2 claims it.
        standin: whether it was tested on models that the pipeline trained itself.
        planted: whether outliers or dead inputs were planted in these models; then it counts for no claim.
    """

    claim: str
    scope: str
    verdict: str
    evidence: str
    source: str = ""
    standin: bool = False
    planted: bool = False


def judge(results: list[CellResult], changes: dict[Cell, Change]) -> list[Verdict]:
    """All verdicts that the finished cells allow; a claim without matching cells gets none.

    Args:
        results: the cells of a study, derived ones if claims may rest on them; those that are not ``ok`` are ignored.
        changes: what these cells lost to full precision.
    """
    by_claim: dict[str, list[Statement]] = {}
    for statement in statements(results):
        by_claim.setdefault(statement.claim, []).append(statement)
    verdicts = []
    for same_claim in by_claim.values():
        verdicts += [_one_model(statement, changes) for statement in same_claim]
        verdicts += [_pooled(cell, pool) for cell, pool in _pools(same_claim) if len(pool) > 1]
    return verdicts


def _pools(same_claim: list[Statement]) -> Iterator[tuple[Cell, list[Statement]]]:
    """Statements of one claim and one recipe over models that read the same windows; the cell names the models.

    What models share through the text can be told only where the text is cut alike. So models with another tokenizer, whose
    windows begin and end elsewhere, are a pool of their own.
    """
    recipes: dict[Cell, dict[tuple, list[Statement]]] = {}
    for statement in same_claim:
        cell = statement.subject.cell
        if statement.is_comparison and cell.weight_format.bits >= 3:
            kind = "all stand-ins" if statement.subject.standin else "all models"
            kind = "all planted stand-ins" if statement.subject.planted else kind
            pools = recipes.setdefault(replace(cell, model=kind), {})
            pools.setdefault(windows(statement.subject), []).append(statement)
    for cell, pools in recipes.items():
        for pool in pools.values():
            models = ", ".join(statement.subject.cell.model for statement in pool)
            yield cell if len(pools) == 1 else replace(cell, model=models), pool


def counts(verdicts: list[Verdict]) -> list[str]:
    """Lines for the terminal: how many verdicts of each kind every claim has, planted models apart; none without verdicts."""
    verdicts = [verdict for verdict in verdicts if not verdict.planted]
    if not verdicts:
        return []
    models = {"stand-ins" if verdict.standin else "published models" for verdict in verdicts}
    lines = [f"  claims, tested on {' and '.join(sorted(models))}"]
    for claim in dict.fromkeys(verdict.claim for verdict in verdicts):
        kinds = [verdict.verdict for verdict in verdicts if verdict.claim == claim]
        tally = ", ".join(f"{kinds.count(kind)} {kind}" for kind in VERDICTS if kind in kinds)
        lines.append(f"    {claim}: {tally}")
    return lines


def _scope(cell: Cell) -> str:
    """The cell's key without the parts that say nothing, the model first."""
    model, *recipe = cell.key.split("/")
    return " ".join([f"{model}:", *(part for part in recipe if part not in ("none", "a16", "r0"))])


def _one_model(statement: Statement, changes: dict[Cell, Change]) -> Verdict:
    """The verdict on one recipe of one model."""
    interval = _interval(statement, changes)
    subject = statement.subject
    verdict = _decide(interval, statement.low, statement.high)
    evidence = _evidence(statement, interval)
    return Verdict(statement.claim, _scope(subject.cell), verdict, evidence, statement.source, subject.standin, subject.planted)


def _interval(statement: Statement, changes: dict[Cell, Change]) -> Interval:
    """The sum that a statement bounds; a difference to full precision is the one that tables and figures show."""
    _, first = statement.terms[0]
    if statement.is_difference and first.cell.is_full_precision:
        return changes[statement.subject.cell].mean
    terms = [(coefficient, result.nll) for coefficient, result in statement.terms]
    return mean_perplexity_contrast(terms, statement.subject.independent)


def _evidence(statement: Statement, change: Interval) -> str:
    """The numbers that decided: the sum with its interval, and the perplexities in it."""
    levels = [result.mean_ppl for _, result in statement.terms]
    bounds = (change.value, change.low, change.high)
    if statement.low == -statement.high:  # a share of the first cell
        value, low, high = (percent(bound / levels[0], 3) for bound in bounds)
        return f"ΔPPL {value} [{low}, {high}] of {number(levels[0])}"
    value, low, high = (number(bound, "+") for bound in bounds)
    if not statement.is_difference:
        parts = [f"{number(coefficient, '+')} · {number(result.mean_ppl)}" for coefficient, result in statement.terms]
        return f"{' '.join(parts)} = {value} [{low}, {high}]"
    claimed = f"; claimed {_range(statement.low, statement.high)}" if statement.high or np.isfinite(statement.low) else ""
    return f"ΔPPL {value} [{low}, {high}]; {number(levels[0])} → {number(levels[1])}{claimed}"


def _range(low: float, high: float) -> str:
    """Two bounds in words."""
    if np.isinf(low):
        return f"at most {number(high)}"
    return f"above {number(low)}" if np.isinf(high) else f"{number(low)} to {number(high)}"


def _pooled(cell: Cell, pool: list[Statement]) -> Verdict:
    """One verdict over models on the same windows, by the mean log-ratio of perplexities."""
    pairs = [(below.nll, above.nll) for (_, above), (_, below) in (statement.terms for statement in pool)]
    change = mean_log_ratio(pairs, pool[0].subject.independent)
    ratio, low, high = (percent(np.expm1(bound), 2) for bound in (change.value, change.low, change.high))
    evidence = f"PPL {ratio} [{low}, {high}], geometric mean of {len(pool)} models"
    first = pool[0]
    kind = (first.subject.standin, first.subject.planted)
    return Verdict(first.claim, _scope(cell), _decide(change, -np.inf, 0.0), evidence, first.source, *kind)


def _decide(change: Interval, low: float, high: float) -> str:
    """Whether the interval lies within the bounds, outside them, or across one."""
    if low <= change.low and change.high < high:
        return "supported"
    return "contradicted" if change.low > high or change.high < low else "undecided"
