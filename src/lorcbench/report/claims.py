"""What the results say about each claim: supported, contradicted or undecided; and whether print says the same of that model.

A verdict rests on one 95 % interval of what `lorcbench.report.statements` bounds: `supported` if the whole interval lies within
the bounds, `contradicted` if none of it does, else `undecided`. Every model is judged by itself. Where one cell is said to be
below another at 3 bits and more, differences are small, so several models that read the same windows are pooled too. The
intervals cover the sampling of text; a study with several calibration seeds gets a verdict for each.

Not every verdict is evidence of its own. Pools repeat what their models say; cached statistics, further seeds and variants of a
method repeat what the first cell of that recipe says; planted models count for nothing. The others are the *family*: a verdict
of it is also given with a chance of at most 5 % that any of them is wrong (Holm), each direction by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from lorcbench.report.comparison import Change, windows
from lorcbench.report.inprint import printed
from lorcbench.report.intervals import Interval, holm, mean_log_ratio, mean_perplexity_contrast
from lorcbench.report.recommend import kind_of
from lorcbench.report.results import CellResult
from lorcbench.report.spelling import number, percent
from lorcbench.report.statement import OURS, Statement, base
from lorcbench.report.statements import statements
from lorcbench.study.cells import Cell

VERDICTS = ("supported", "contradicted", "undecided")
FAMILYWISE = 0.05  # the largest chance that a study of no effects supports any claim


@dataclass(frozen=True)
class Verdict:
    """What the results say about one claim.

    Attributes:
        claim: the statement, in one sentence.
        scope: where it was tested: the model, or the pool of models, and the recipe.
        verdict: one of `VERDICTS`.
        evidence: the numbers that decided.
        source: the tables of ZeroQuant-V2 that print what it compares, or `OURS`.
        standin: whether it was tested on models that the pipeline trained itself.
        planted: whether outliers or dead inputs were planted in these models; then it counts for no claim.
        models: their kind, of `lorcbench.report.recommend.kind_of`.
        counted: whether it is evidence of its own, a member of the family.
        familywise: the verdict with the family-wise error controlled; as `verdict`, or ``undecided``. "" if it is not counted.
        p: one-sided p-value of the claim being false here; 1 where nothing can be said.
        in_print: what the paper printed of this model, in words; "" if nothing.
        agreement: ``as printed`` if print supports or contradicts the claim for this model as the measurement does, ``not as
            printed`` if the other way; "" where either leaves it open.
        note: what stands on these models for numbers in the claim.
    """

    claim: str
    scope: str
    verdict: str
    evidence: str
    source: str = ""
    standin: bool = False
    planted: bool = False
    models: str = ""
    counted: bool = True
    familywise: str = ""
    p: float = 1.0
    in_print: str = ""
    agreement: str = ""
    note: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether the claim carries the paper's further than its tables go."""
        return self.source == OURS


def judge(results: list[CellResult], changes: dict[Cell, Change]) -> list[Verdict]:
    """All verdicts that the finished cells allow; a claim without matching cells gets none.

    Args:
        results: the cells of a study, derived ones if claims may rest on them; those that are not ``ok`` are ignored.
        changes: what these cells lost to full precision.
    """
    by_claim: dict[tuple[str, bool], list[Statement]] = {}
    for statement in statements(results):
        by_claim.setdefault((statement.claim, statement.source == OURS), []).append(statement)
    verdicts: list[Verdict] = []
    doubts: list[tuple[float, float]] = []  # per verdict, of the claim and of its contrary
    for same_claim in by_claim.values():
        first = {id(statement) for statement in _first_of_each(same_claim)}  # equality would compare arrays of losses
        for statement in same_claim:
            interval = _interval(statement, changes)
            verdicts.append(_one_model(statement, interval, id(statement) in first and not statement.subject.planted))
            doubts.append(_doubts(interval, statement.low, statement.high))
        pools = [_pooled(cell, pool) for cell, pool in _pools(same_claim) if len(pool) > 1]
        verdicts += pools
        doubts += [(1.0, 1.0)] * len(pools)
    return _familywise(verdicts, doubts)


def _first_of_each(same_claim: list[Statement]) -> list[Statement]:
    """The statements that are evidence of their own: of each model and recipe the first, published statistics before cached."""
    chosen: dict[tuple, Statement] = {}
    for statement in sorted(same_claim, key=lambda statement: statement.subject.hessian == "cached"):
        recipes = (replace(result.cell, method=base(result.cell), calibration="none") for _, result in statement.terms)
        chosen.setdefault(tuple(recipes), statement)
    return list(chosen.values())


def _doubts(interval: Interval, low: float, high: float) -> tuple[float, float]:
    """One-sided p-values of "the sum is not within the bounds" and of "the sum is not outside them"."""
    within = max(interval.p_not_above(low), interval.p_not_below(high))
    sides = int(np.isfinite(low)) + int(np.isfinite(high))
    return within, min(1.0, sides * min(interval.p_not_below(low), interval.p_not_above(high)))


def _familywise(verdicts: list[Verdict], doubts: list[tuple[float, float]]) -> list[Verdict]:
    """The verdicts with what is left of them once all that are counted are tested together."""
    family = [index for index, verdict in enumerate(verdicts) if verdict.counted]
    kept: dict[int, str] = dict.fromkeys(family, "undecided")
    for direction, name in enumerate(("supported", "contradicted")):
        adjusted = holm([doubts[index][direction] for index in family])
        for index, p in zip(family, adjusted, strict=True):
            if verdicts[index].verdict == name and p <= FAMILYWISE:
                kept[index] = name
    return [
        replace(verdict, familywise=kept.get(index, ""), p=doubts[index][0]) if verdict.counted else verdict
        for index, verdict in enumerate(verdicts)
    ]


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


def _scope(cell: Cell) -> str:
    """The cell's key without the parts that say nothing, the model first."""
    model, *recipe = cell.key.split("/")
    return " ".join([f"{model}:", *(part for part in recipe if part not in ("none", "a16", "r0"))])


def _one_model(statement: Statement, interval: Interval, counted: bool) -> Verdict:
    """The verdict on one recipe of one model, beside print."""
    subject = statement.subject
    verdict = _decide(interval, statement.low, statement.high)
    in_print = ""
    agreement = ""
    if (paper := printed(statement)) is not None:
        in_print = f"{_levels(statement, paper.levels)} ({', '.join(paper.tables)})"
        told = _decide(Interval(*[paper.value] * 3), statement.low, statement.high)
        if "undecided" not in (verdict, told):
            agreement = "as printed" if verdict == told else "not as printed"
    return Verdict(
        statement.claim,
        _scope(subject.cell),
        verdict,
        _evidence(statement, interval),
        statement.source,
        subject.standin,
        subject.planted,
        kind_of(subject),
        counted,
        in_print=in_print,
        agreement=agreement,
        note=statement.note,
    )


def _levels(statement: Statement, levels: tuple[float, ...]) -> str:
    """The perplexities of a statement's terms: of a difference from → to, else each with its coefficient."""
    spelled = [number(level) if np.isfinite(level) else "diverged" for level in levels]
    if statement.is_difference:
        return " → ".join(spelled)
    coefficients = [coefficient for coefficient, _ in statement.terms]
    return " ".join(f"{number(coefficient, '+')} · {level}" for coefficient, level in zip(coefficients, spelled, strict=True))


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
        return f"{_levels(statement, tuple(levels))} = {value} [{low}, {high}]"
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
    kind = (first.subject.standin, first.subject.planted, kind_of(first.subject))
    return Verdict(first.claim, _scope(cell), _decide(change, -np.inf, 0.0), evidence, first.source, *kind, counted=False)


def _decide(change: Interval, low: float, high: float) -> str:
    """Whether the interval lies within the bounds, outside them, or across one."""
    if low <= change.low and change.high < high:
        return "supported"
    return "contradicted" if change.low > high or change.high < low else "undecided"
