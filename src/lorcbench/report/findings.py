"""What the measurements of a study say: what to use, verdicts on claims, published numbers beside ours, conventions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lorcbench.report import (
    agreement,
    claims,
    conventions,
    corrections,
    equal_bits,
    headline,
    mixed,
    recommend,
    rounding,
    scorecard,
    seeds,
    sources,
    tally,
)
from lorcbench.report.agreement import Ordering
from lorcbench.report.budget import Choice
from lorcbench.report.choices import choices, shared_recipes
from lorcbench.report.claims import Verdict
from lorcbench.report.comparison import Change
from lorcbench.report.conventions import Candidate
from lorcbench.report.corrections import Corrections
from lorcbench.report.mixed import Mixed
from lorcbench.report.recommend import Advice, RankCost
from lorcbench.report.results import CellResult
from lorcbench.report.rounding import Against
from lorcbench.report.scorecard import Row
from lorcbench.report.seeds import Spread
from lorcbench.report.shared import Shared
from lorcbench.report.sources import Beside
from lorcbench.study import started
from lorcbench.study.cells import Cell, Study
from lorcbench.study.ranks import rank_share


@dataclass(frozen=True)
class Findings:
    """All that is derived from the results of a study; a part is empty where the study has no cells for it.

    Attributes:
        verdicts: of `lorcbench.report.claims.judge`.
        scorecard: one row per measured number and source that printed it too.
        beside: the same, all sources of a measured number in one record.
        orderings: whether the cells of the papers' tables come in the published order.
        candidates: the conventions that the papers leave open, ranked.
        spreads: of recipes that were measured under more than one seed.
        advice: what to use, per kind of model.
        rank_costs: what LoRC adds to the size of each model.
        choices: the cells that a user may want to take away.
        shared: the recipes that a user may want to take away for all models.
        equal_bits: whether LoRC pays for its bits, in one sentence; "" without cells that tell.
        codes: in which rows of the recommendations codes of 4 bits stand.
        mixed: cells of mixed formats beside their rivals.
        corrections: what was found about kinds of correction, where a study has several.
        rounding: each method beside rounding to nearest in the same format.
    """

    verdicts: list[Verdict]
    scorecard: list[Row]
    orderings: list[Ordering]
    candidates: list[Candidate]
    spreads: list[Spread] = field(default_factory=list)
    advice: list[Advice] = field(default_factory=list)
    rank_costs: list[RankCost] = field(default_factory=list)
    equal_bits: str = ""
    codes: str = ""
    beside: list[Beside] = field(default_factory=list)
    corrections: Corrections = corrections.NOTHING
    choices: list[Choice] = field(default_factory=list)
    shared: list[Shared] = field(default_factory=list)
    mixed: list[Mixed] = field(default_factory=list)
    rounding: list[Against] = field(default_factory=list)

    def lines(self, page: Path) -> list[str]:
        """All of it in short, for the terminal: what to use comes last, where people look first.

        Args:
            page: of the study.
        """
        published = [*agreement.summary(self.scorecard, self.orderings), *sources.summary(self.beside)]
        pays = "" if self.corrections.sentences else self.equal_bits
        use = headline.lines(self.advice, self.rank_costs, pays, self.codes)
        candidates = conventions.summary(self.candidates)
        kinds = [f"  {sentence}" for sentence in [*self.corrections.sentences, *mixed.sentences(self.mixed)]]
        against = [f"  {sentence}"] if (sentence := rounding.sentence(self.rounding)) else []
        own = tally.is_about_others(self.verdicts)
        claimed = tally.brief(self.verdicts, page) if own else tally.lines(self.verdicts, page)
        return [*claimed, *published, *candidates, *seeds.summary(self.spreads), *kinds, *against, *use]


def find(study: Study, results: list[CellResult], changes: dict[Cell, Change], arguments: list[str] | None = None) -> Findings:
    """What the results say.

    Args:
        study: that they are of.
        results: all cells of the study, derived ones too.
        changes: what these cells lost to full precision.
        arguments: that the study was started with, if it is not by its name alone.
    """
    verdicts = claims.judge(results, changes)
    rows = scorecard.compare(study, results, changes)
    measured = [result for result in results if not result.derived]
    spreads = seeds.spreads(measured, changes)
    advice = recommend.advise(results, changes)
    costs = recommend.rank_costs(results)
    beside = sources.side_by_side(study, results, rows)
    candidates = conventions.rank(rows)
    pays = equal_bits.sentence(measured)
    kinds = corrections.find(measured, changes, {result.cell: rank_share(study, result.cell) for result in measured})
    command = started.short_command(arguments or [f"study={study.name}"], "export")
    taken = choices(study.name, results, changes, command)
    shared = shared_recipes(results, changes, advice)
    return Findings(
        verdicts,
        rows,
        agreement.orderings(rows),
        candidates,
        spreads,
        advice,
        costs,
        pays,
        headline.codes_sentence(measured),
        beside,
        kinds,
        taken,
        shared,
        mixed.find(measured),
        rounding.find(measured),
    )
