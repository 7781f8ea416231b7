"""The tidy tables: every perplexity and every metric of lm-eval, each beside the same number at full precision."""

from __future__ import annotations

from lorcbench.report import equal_bits
from lorcbench.report.comparison import Change
from lorcbench.report.intervals import perplexity
from lorcbench.report.recommend import fronts
from lorcbench.report.results import CellResult
from lorcbench.study.cells import RECIPE, Cell, Study
from lorcbench.study.ranks import rank_share

_CELL = ("study", "model", "family", "standin", "method", "weight", "activation", "rank")
_RECIPE_OF_RANK = ("lorc", "hessian", "calibration")
_TEXT = ("seed", "protocol", "corpus", "windows", "window", "stream_tokens", "stream_sha256")
_PERPLEXITY = ("ppl", "ppl_fp", "delta_nll", "delta_nll_low", "delta_nll_high", "delta_ppl", "delta_ppl_low", "delta_ppl_high")
_DIVERGENCE = ("kl", "kl_low", "kl_high", "agreement", "agreement_low", "agreement_high")
_COST = ("bits_per_weight", "paper_bits", "weights", "max_damp", "seconds", "peak_rss_mib", "device")
_STATUS = ("status", "reason", "derived_from", "on_front", "rank_share", "origin")
# The best cell of no more bits without LoRC, and the best with plain LoRC: this one's mean perplexity over it.
_EQUAL_BITS = {
    equal_bits.NONE: ("equal_bits_rival", "equal_bits_ratio", "equal_bits_low", "equal_bits_high"),
    equal_bits.PLAIN: ("plain_rival", "plain_ratio", "plain_low", "plain_high"),
}
COLUMNS = sum(_EQUAL_BITS.values(), _CELL + _RECIPE_OF_RANK + _TEXT + _PERPLEXITY + _DIVERGENCE + _COST + _STATUS)

_TASK = ("task", "version", "documents", "shots", "prefix_token")
_METRIC = ("metric", "value", "stderr", "value_fp", "delta", "delta_low", "delta_high")
HARNESS_COLUMNS = ("study", *RECIPE, *_TASK, *_METRIC)


def rows(study: Study, results: list[CellResult], changes: dict[Cell, Change]) -> list[dict]:
    """Rows of cells.csv: one per cell and corpus, and one for the mean of the corpora; a cell without numbers has one."""
    table = []
    front = fronts(results)
    rivals = {columns: equal_bits.compare(results, against) for against, columns in _EQUAL_BITS.items()}
    for result in results:
        shared = _shared_columns(study, result)
        if result.cell in front and not result.derived:
            shared["on_front"] = front[result.cell] is None
        change = changes.get(result.cell)
        numbers = [] if change is None else [*_corpus_columns(result, change), _mean_columns(result, change)]
        for columns, compared in rivals.items():
            if numbers and result.cell in compared:
                numbers[-1] |= _rival_columns(columns, compared[result.cell])
        table += [shared | columns for columns in numbers] or [shared]
    return [{column: row.get(column, "") for column in COLUMNS} for row in table]


def _rival_columns(columns: tuple[str, ...], change: Change) -> dict:
    """The rival of a cell at equal bits, and the ratio of the mean perplexities with its interval."""
    ratio = change.relative
    return dict(zip(columns, (change.baseline.cell.key, 1 + ratio.value, 1 + ratio.low, 1 + ratio.high), strict=True))


def _shared_columns(study: Study, result: CellResult) -> dict:
    """What all rows of a cell say: which cell it is, what it cost, how it went."""
    cell = result.cell
    columns = {name: getattr(cell, name) for name in RECIPE}
    of_result = ("family", "standin", "hessian", "seed", "bits_per_weight", "weights", "max_damp", "seconds", "peak_rss_mib")
    for name in (*of_result, "device", "status", "reason", "origin"):
        if (value := getattr(result, name)) is not None:
            columns[name] = value
    if (share := rank_share(study, cell)) is not None:
        columns["rank_share"] = share
    paper_bits = "" if cell.weight_format.is_mixed else cell.weight_format.paper_bits()
    return columns | {"study": study.name, "protocol": study.eval, "paper_bits": paper_bits, "derived_from": result.derived}


def _corpus_columns(result: CellResult, change: Change) -> list[dict]:
    """For each corpus its token stream, and the perplexity beside full precision's."""
    columns = []
    for corpus, loss in change.losses.items():
        stream = result.corpora.get(corpus, {})
        ppl = perplexity(result.nll[corpus])
        ppl_fp = perplexity(change.baseline.nll[corpus])
        numbers = {"corpus": corpus, "ppl": ppl, "ppl_fp": ppl_fp, "delta_ppl": ppl - ppl_fp}
        numbers |= {name: stream.get(name, "") for name in ("windows", "window", "stream_tokens", "stream_sha256")}
        numbers |= {"delta_nll": loss.value, "delta_nll_low": loss.low, "delta_nll_high": loss.high}
        columns.append(numbers | _divergence_columns(change, corpus))
    return columns


def _mean_columns(result: CellResult, change: Change) -> dict:
    """The mean of the corpora's perplexities beside full precision's."""
    numbers = {"corpus": "mean", "ppl": result.mean_ppl, "ppl_fp": change.baseline.mean_ppl, "delta_ppl": change.mean.value}
    numbers |= {"delta_ppl_low": change.mean.low, "delta_ppl_high": change.mean.high}
    return numbers | _divergence_columns(change, "mean")


def _divergence_columns(change: Change, part: str) -> dict:
    """How far the predictions are from full precision's, on one corpus or as the ``mean`` of all; none if not measured."""
    columns = {}
    for name, intervals in change.divergence.items():
        interval = intervals[part]
        columns |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return columns


def harness_rows(study: Study, results: list[CellResult], changes: dict[Cell, Change]) -> list[dict]:
    """Rows of tasks.csv: one per cell and metric."""
    table = []
    for result in results:
        change = changes.get(result.cell)
        for name, value in result.harness.items():
            task, _, metric = name.rpartition("/")
            if metric.endswith("_stderr"):
                continue
            row = {"study": study.name, **vars(result.cell), **result.tasks.get(task, {}), "task": task, "metric": metric}
            row |= {"value": value, "stderr": result.harness.get(f"{name}_stderr"), "prefix_token": result.prefix_token}
            if change and name in change.tasks:
                difference = change.tasks[name]
                row |= {"value_fp": change.baseline.harness[name], "delta": difference.value}
                row |= {"delta_low": difference.low, "delta_high": difference.high}
            table.append({column: "" if row.get(column) is None else row[column] for column in HARNESS_COLUMNS})
    return table
