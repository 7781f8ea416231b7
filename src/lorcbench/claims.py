"""The method's qualitative claims as executable statements: the results support, contradict or do not decide each.

A verdict rests on one 95 % interval of a paired difference: `supported` if the whole interval has the claimed sign,
`contradicted` if it has the other, `undecided` if it contains zero. At 2 bits every model is judged by itself; at
3 bits, where differences are small, the models are pooled. The intervals cover the sampling of text; a study with
several calibration seeds gets a verdict for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from lorcbench.formats import WeightFormat
from lorcbench.intervals import Interval, mean_perplexity_difference, resampled_means
from lorcbench.results import CellResult
from lorcbench.study import Cell

VERDICTS = ("supported", "contradicted", "undecided")
INT8_BOUND = 0.002  # of the full-precision perplexity


@dataclass(frozen=True)
class Verdict:
    """What the results say about one claim.

    Attributes:
        claim: the statement, in one sentence.
        scope: where it was tested: the model, or the pool of models, and the recipe.
        verdict: one of `VERDICTS`.
        evidence: the numbers that decided.
    """

    claim: str
    scope: str
    verdict: str
    evidence: str


@dataclass(frozen=True)
class _Comparison:
    """A cell whose perplexity the claim says is below that of another cell on the same windows."""

    claim: str
    below: CellResult
    above: CellResult

    @property
    def bits(self) -> int:
        return WeightFormat.parse(self.below.cell.weight).bits


def judge(results: list[CellResult], resamples: int) -> list[Verdict]:
    """All verdicts that the finished cells allow; a claim without matching cells gets none.

    Args:
        results: the cells of a study; those that are not ``ok`` are ignored.
        resamples: of the bootstrap.
    """
    finished = {result.cell: result for result in results if result.status == "ok"}
    comparisons = [
        *_gptq_below_rtn(finished),
        *_groups_below_rows(finished, "RTN"),
        *_groups_below_rows(finished, "GPTQ"),
        *_lorc_below_none(finished, "RTN"),
        *_lorc_below_none(finished, "GPTQ"),
    ]
    verdicts = _int8_is_lossless(finished, resamples)
    for claim in dict.fromkeys(comparison.claim for comparison in comparisons):
        chosen = [comparison for comparison in comparisons if comparison.claim == claim]
        verdicts += [_one_model(pair, resamples) for pair in chosen if pair.bits == 2]
        pools: dict[Cell, list[_Comparison]] = {}
        for pair in chosen:
            if pair.bits == 3:
                pool = "all stand-ins" if pair.below.standin else "all models"
                pools.setdefault(replace(pair.below.cell, model=pool), []).append(pair)
        verdicts += [_pooled(cell, pairs, resamples) for cell, pairs in pools.items()]
    return verdicts


def full_precision(results: list[CellResult]) -> dict[str, CellResult]:
    """The finished full-precision cell of each model, by model."""
    return {
        result.cell.model: result
        for result in results
        if result.status == "ok" and result.cell.method == "none" and result.cell.activation == "a16"
    }


def _int8_is_lossless(finished: dict[Cell, CellResult], resamples: int) -> list[Verdict]:
    claim = f"INT8 round-to-nearest with one scale a row stays within {100 * INT8_BOUND:g} % of full precision"
    baselines = full_precision(list(finished.values()))
    verdicts = []
    for cell, result in finished.items():
        weight = WeightFormat.parse(cell.weight)
        if not _plain(cell) or cell.method != "rtn" or weight.bits != 8 or weight.group or cell.model not in baselines:
            continue
        baseline = baselines[cell.model]
        change = mean_perplexity_difference(result.nll, baseline.nll, resamples)
        low, high = change.low / baseline.mean_ppl, change.high / baseline.mean_ppl
        inside, outside = max(-low, high) <= INT8_BOUND, low > INT8_BOUND or high < -INT8_BOUND
        verdict = "supported" if inside else "contradicted" if outside else "undecided"
        evidence = f"ΔPPL {percent(change.value / baseline.mean_ppl, 3)} [{percent(low, 3)}, {percent(high, 3)}]"
        verdicts.append(Verdict(claim, _scope(cell), verdict, f"{evidence} of {number(baseline.mean_ppl)}"))
    return verdicts


def _gptq_below_rtn(finished: dict[Cell, CellResult]) -> Iterator[_Comparison]:
    for cell, result in finished.items():
        rounded = finished.get(replace(cell, method="rtn", calibration="none"))
        if _plain(cell) and _base(cell) == "GPTQ" and rounded:
            yield _Comparison("GPTQ has a lower perplexity than RTN", result, rounded)


def _groups_below_rows(finished: dict[Cell, CellResult], base: str) -> Iterator[_Comparison]:
    """The finest group of each recipe against one scale a row."""
    finest: dict[Cell, tuple[int, CellResult]] = {}
    for cell, result in finished.items():
        weight = WeightFormat.parse(cell.weight)
        if not _plain(cell) or _base(cell) != base or weight.group is None:
            continue
        row = replace(cell, weight=str(replace(weight, group=None)))
        if row in finished and (row not in finest or weight.group < finest[row][0]):
            finest[row] = weight.group, result
    for row, (_, grouped) in finest.items():
        yield _Comparison(f"groups instead of rows lower the perplexity of {base}", grouped, finished[row])


def _lorc_below_none(finished: dict[Cell, CellResult], base: str) -> Iterator[_Comparison]:
    for cell, result in finished.items():
        without = finished.get(replace(cell, rank=0, lorc="none"))
        if cell.rank and _base(cell) == base and without:
            yield _Comparison(f"LoRC lowers the perplexity of {base}", result, without)


def _base(cell: Cell) -> str:
    """The method that a variant belongs to, or "" if no claim speaks of it."""
    return "RTN" if cell.method == "rtn" else "GPTQ" if cell.method.startswith("gptq") else ""


def _plain(cell: Cell) -> bool:
    """Whether only the weights are quantized, without LoRC."""
    return cell.rank == 0 and cell.activation == "a16"


def _scope(cell: Cell) -> str:
    """The cell's key without the parts that say nothing, the model first."""
    model, *recipe = cell.key.split("/")
    return " ".join([f"{model}:", *(part for part in recipe if part not in ("none", "a16", "r0"))])


def _one_model(pair: _Comparison, resamples: int) -> Verdict:
    change = mean_perplexity_difference(pair.below.nll, pair.above.nll, resamples)
    interval = f"[{number(change.low, '+')}, {number(change.high, '+')}]"
    levels = f"{number(pair.above.mean_ppl)} → {number(pair.below.mean_ppl)}"
    evidence = f"ΔPPL {number(change.value, '+')} {interval}; {levels}"
    return Verdict(f"At 2 bits, {pair.claim}", _scope(pair.below.cell), _decide(change), evidence)


def _pooled(cell: Cell, pairs: list[_Comparison], resamples: int) -> Verdict:
    """One verdict over models, by the mean log-ratio of perplexities.

    Every pair is resampled with the same seed, hence with the same runs of windows: what the models share through the
    text stays in the variance. To add the pairs' variances as if independent would make the interval too narrow.
    """
    values, samples = [], []
    for pair in pairs:
        for index, corpus in enumerate(sorted(pair.below.nll)):
            difference = np.asarray(pair.below.nll[corpus]) - np.asarray(pair.above.nll[corpus])
            values.append(difference.mean())
            samples.append(resampled_means(difference, resamples, seed=index))
    low, high = np.quantile(np.mean(samples, axis=0), [0.025, 0.975])
    change = Interval(float(np.mean(values)), float(low), float(high))
    ratio, low, high = (percent(np.expm1(bound), 2) for bound in (change.value, change.low, change.high))
    models = f"geometric mean of {len(pairs)} models" if len(pairs) > 1 else "1 model"
    claim = f"At 3 bits, {pairs[0].claim}"
    return Verdict(claim, _scope(cell), _decide(change), f"PPL {ratio} [{low}, {high}], {models}")


def _decide(change: Interval) -> str:
    return "supported" if change.high < 0 else "contradicted" if change.low > 0 else "undecided"


def number(value: float, sign: str = "") -> str:
    """A perplexity or a difference (`sign` "+") for people: about four digits, no exponent, a typographic minus."""
    digits = 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0
    return f"{value:{sign},.{digits}f}".replace("-", "−")


def percent(share: float, digits: int = 1) -> str:
    """A signed share in percent, with a typographic minus."""
    return f"{100 * share:+,.{digits}f} %".replace("-", "−")
