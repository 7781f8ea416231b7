"""Which of several quantizer conventions, or schemes of LoRC factors, comes closest to the published numbers.

Papers print formats without saying which divisor, zero-point rounding or scale type is behind them. So a published number has
as many measured counterparts as a study has conventions. `study=fingerprint` measures them all; this module ranks them,
question by question, by the mean of |ln(measured / published)| over the numbers that every candidate has. Only papers ask:
the code of a reproduction is there to be read.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from lorcbench.report.scorecard import Row, counted


@dataclass(frozen=True)
class Candidate:
    """One answer to one question.

    Attributes:
        question: such as ``zeroquant-v2: asymmetric weights under rtn``; each source may have done as it liked.
        answer: convention and scale type, or the name of the LoRC setting.
        n: published numbers that all candidates of the question were held against.
        distance: mean of |ln(measured / published)| over them; small ones are relative errors.
        farthest: the largest of them.
    """

    question: str
    answer: str
    n: int
    distance: float
    farthest: float


COLUMNS = tuple(Candidate.__dataclass_fields__)


def rank(rows: list[Row]) -> list[Candidate]:
    """The candidates of every question to which the study has more than one answer, the closest first."""
    questions: dict[str, dict[str, dict[tuple, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in counted(rows):
        if bears_on := None if row.derived else _question(row):
            question, answer = bears_on
            place = (row.model, row.corpus, row.table, row.recipe, row.published)
            distance = math.nan if row.diverged_in_print else abs(math.log(row.measured / row.published))
            questions[f"{row.source}: {question}"][answer].setdefault(place, distance)
    return [candidate for question, answers in questions.items() for candidate in _ranked(question, answers)]


def _ranked(question: str, answers: dict[str, dict[tuple, float]]) -> list[Candidate]:
    """The answers to one question, by their distances to the numbers that all of them have; none if there is no choice."""
    common = set.intersection(*(set(places) for places in answers.values()))
    common = [place for place in common if all(math.isfinite(places[place]) for places in answers.values())]
    if len(answers) < 2 or not common:
        return []
    candidates = []
    for answer, places in answers.items():
        distances = [places[place] for place in common]
        candidates.append(Candidate(question, answer, len(common), math.fsum(distances) / len(common), max(distances)))
    return sorted(candidates, key=lambda candidate: candidate.distance)


def _question(row: Row) -> tuple[str, str] | None:
    """The question that the row bears on, and its answer; None where both weights and activations are rounded, or neither."""
    weight = row.weight_format
    activation = row.activation_format
    if row.rank:
        return f"factors of LoRC, weights {weight.convention}", row.lorc
    if weight.is_full_precision and not activation.is_full_precision:
        kind = "symmetric" if activation.symmetric else "asymmetric"
        return f"{kind} activations", activation.convention
    if not weight.is_full_precision and activation.is_full_precision:
        kind = "symmetric" if weight.symmetric else "asymmetric"
        return f"{kind} weights under {row.method}", f"{weight.convention}, {weight.scale_dtype} scales"
    return None


def summary(candidates: list[Candidate]) -> list[str]:
    """Lines for the terminal: the ranking of every question; none without candidates."""
    lines = []
    for question in dict.fromkeys(candidate.question for candidate in candidates):
        ranked = [candidate for candidate in candidates if candidate.question == question]
        lines.append(f"  {question}: distance to {ranked[0].n} published numbers")
        lines += [
            f"    {candidate.answer:28} {100 * candidate.distance:7.3f} %, at most {100 * candidate.farthest:.2f} %"
            for candidate in ranked
        ]
    return lines
