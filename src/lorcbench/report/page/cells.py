"""The table of all cells: one row per cell, and how it went."""

from __future__ import annotations

from html import escape

from lorcbench.common.gpus import CPU
from lorcbench.config import compose
from lorcbench.report import equal_bits
from lorcbench.report.comparison import Change
from lorcbench.report.intervals import Interval, perplexity
from lorcbench.report.page.grid import Column, Entry, chip, entry, grid
from lorcbench.report.page.grid import number as spelled
from lorcbench.report.page.parts import NOTHING, css_class
from lorcbench.report.results import CellResult
from lorcbench.report.spelling import number, percent
from lorcbench.study.cells import Cell

NAMES = ("model", "method", "weight", "activation", "LoRC")
SETTINGS = {"calibration": "calibration", "LoRC": "lorc"}  # named in the table only where a study has several


def all_cells(
    results: list[CellResult],
    changes: dict[Cell, Change],
    front: dict[Cell, CellResult | None],
    shares: dict[Cell, float | None],
) -> str:
    """One row per cell, derived ones marked as such.

    Args:
        changes: to full precision.
        front: of `lorcbench.report.recommend.fronts`.
        shares: LoRC's rank as a share of the width, where that is known.
    """
    corpora = list(dict.fromkeys(corpus for result in results for corpus in result.nll))
    rivals = {against: equal_bits.compare(results, against) for against in (equal_bits.NONE, equal_bits.PLAIN)}
    if not rivals[equal_bits.NONE]:
        rivals = {}
    # A device would be the same in every row where there is no GPU.
    on_gpu = any(result.device not in ("", CPU) for result in results)
    several = [attribute for attribute in SETTINGS.values() if len(settings(results, attribute)) > 1]
    columns = [
        *(Column(name, names=True, spare=name == "activation") for name in NAMES),
        Column("status", spare=not any(result.folders for result in results)),
        Column("front", spare=True),
        *(Column(name, numeric=True) for name in ("ΔPPL in %", "bits per weight")),
        *([Column("at equal bits in %", numeric=True)] if rivals else []),
        *(Column(name, numeric=True) for name in ("mean PPL", *corpora)),
        *(Column(name, numeric=True, spare=True) for name in ("mean KL", "agreement in %", "seconds", "peak MiB")),
        *([Column("device")] if on_gpu else []),
    ]
    rows = [
        [
            *_names(result, several, shares.get(result.cell)),
            _status(result),
            _front(result, front),
            *(
                [*_numbers(result, corpora, changes.get(result.cell), rivals), *([result.device] if on_gpu else [])]
                if result.status == "ok"
                else [entry(result.reason, w=1)]
            ),
        ]
        for result in results
    ]
    classes = [css_class("derived" if result.derived else "" if result.status == "ok" else result.status) for result in results]
    table = grid("cell-table", columns, rows, "opt w2 gptq", "All cells of the study", classes=classes)
    return f'<p class="note">{escape(_note(results, bool(rivals)))}</p>{table}'


def _note(results: list[CellResult], at_equal_bits: bool) -> str:
    """What the columns mean, and what can be done with the table."""
    note = (
        "ΔPPL is the change of the mean PPL to full precision with its 95 % interval. A cell is on the front unless another "
        "one of its model, with activations rounded alike, is at least as good in both bits and mean PPL, and better in one. "
        "Mean KL is how far the predictions are from full precision's, in nats per token, and agreement the share of tokens "
        "for which both hold the same one for the most likely; a dash says that this was not measured."
    )
    if at_equal_bits:
        note += (
            " The percentages behind r4 and other ranks are shares of the model's width. “At equal bits”, first line: the mean "
            "PPL against the best cell without LoRC (same method, no more bits). Second line: the same against the best cell "
            "with plain LoRC. Point at a number to see which cell that is."
        )
    note += (
        " Click a heading to sort; tick two cells to see them side by side. What you filter, sort, hide and tick stands in the "
        "address of this page: send it, and others see the same."
    )
    if any(result.folders for result in results):
        note += " “Jobs” opens settings, digests and logs of all that a cell rests on."
    if any(result.derived for result in results):
        note += (
            " A derived row is chosen from measured ones by its own perplexity, as the paper chose; it looks a little better "
            "than it is."
        )
    return note


def degraded(result: CellResult) -> str:
    """How far a GPTQ cell's damping was raised above the configured one, or "" if that was enough."""
    if result.max_damp is None or result.derived:
        return ""
    configured = compose.load("method", result.cell.method).damp
    return f"damp {result.max_damp:g} > {configured:g}" if result.max_damp > configured else ""


def settings(results: list[CellResult], attribute: str) -> list[str]:
    """The names that the cells have for a setting, in their order."""
    return [name for name in dict.fromkeys(getattr(result.cell, attribute) for result in results) if name != "none"]


def _names(result: CellResult, several: list[str], share: float | None) -> list[Entry]:
    """The entries of a row that say which cell it is.

    Args:
        share: LoRC's rank over the width, None if there is none or it is not known.
    """
    cell = result.cell
    small = {name: [text] if (text := getattr(cell, name)) != "none" else [] for name in several}
    return [
        entry(cell.model, s=[result.origin] if result.origin else []),
        entry(cell.method, s=small.get("calibration", [])),
        cell.weight,
        cell.activation,
        entry(f"r{cell.rank}", i=f"({100 * share:.1f} %)" if share else "", s=small.get("lorc", [])),
    ]


def _status(result: CellResult) -> Entry:
    """How it went."""
    if result.derived:
        return chip("derived", s=[result.derived])
    reason = degraded(result)
    return chip("degraded", s=[reason]) if reason else chip(result.status)


def _front(result: CellResult, front: dict[Cell, CellResult | None]) -> Entry:
    """Whether the cell is on the front of its model, or which cell beats it."""
    if result.derived or result.cell not in front or result.cell.method == "none":
        return ""
    better = front[result.cell]
    if better is None:
        return chip("on front")
    cell = better.cell
    by = " ".join([cell.method, cell.weight, *([f"r{cell.rank}"] if cell.rank else [])])
    return entry("beaten", h=f"by {by}, {better.bits_per_weight:.2f} bits, PPL {number(better.mean_ppl)}")


def _numbers(
    result: CellResult, corpora: list[str], change: Change | None, rivals: dict[str, dict[Cell, Change]]
) -> list[Entry]:
    """The entries of a row with what was measured.

    Args:
        rivals: what the cells changed over their rivals at equal bits, by the rivals' kind; {} leaves the column out.
    """
    divergence = {name: intervals["mean"].value for name, intervals in change.divergence.items()} if change else {}
    ppls = (perplexity(result.nll[corpus]) if corpus in result.nll else None for corpus in corpora)
    return [
        _rise(change.relative if change and not result.cell.is_full_precision else None),
        spelled(result.bits_per_weight, "{:.2f}".format),
        *([_at_equal_bits(*(compared.get(result.cell) for compared in rivals.values()))] if rivals else []),
        spelled(result.mean_ppl, number),
        *(spelled(ppl, number) for ppl in ppls),
        spelled(divergence.get("kl"), lambda nats: f"{nats:.4f}" if nats < 1 else f"{nats:.2f}"),
        spelled(divergence.get("agreement"), lambda share: f"{100 * share:.1f}"),
        spelled(result.seconds, "{:,.1f}".format),
        spelled(result.peak_rss_mib, "{:,.0f}".format),
    ]


def _rise(rise: Interval | None) -> Entry:
    """The rise in percent with its interval."""
    if rise is None:
        return NOTHING
    text, interval = _percent(rise)
    return entry(text, 100 * rise.value, i=interval)


def _percent(rise: Interval) -> tuple[str, str]:
    """The rise in percent, and its interval in brackets."""
    text, low, high = (percent(share, 2).removesuffix(" %") for share in (rise.value, rise.low, rise.high))
    return text, f"[{low}, {high}]"


def _at_equal_bits(without: Change | None, plain: Change | None) -> Entry:
    """The change over the best cell of no more bits without LoRC, and below it over the best with plain LoRC."""
    if without is None:
        return NOTHING
    text, interval = _percent(without.relative)
    if plain is None:
        return entry(text, 100 * without.relative.value, i=interval, h=_rival(without))
    hint = f"{_rival(without)}; below it, {_rival(plain)}"
    return entry(text, 100 * without.relative.value, i=interval, s=[" ".join(_percent(plain.relative))], h=hint)


def _rival(change: Change) -> str:
    """Over which cell a change is."""
    cell = change.baseline.cell
    rank = [f"r{cell.rank} {cell.lorc}"] if cell.rank else []
    return f"over {' '.join([cell.method, cell.weight, *rank])}, {change.baseline.bits_per_weight:.2f} bits"
