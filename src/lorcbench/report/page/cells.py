"""The table of all cells, and the jobs that each row rests on: settings, digests, records and logs."""

from __future__ import annotations

import json
import os
from html import escape
from pathlib import Path
from urllib.parse import quote

from lorcbench.common.gpus import CPU
from lorcbench.config import compose
from lorcbench.report import equal_bits
from lorcbench.report.comparison import Change
from lorcbench.report.intervals import Interval, perplexity
from lorcbench.report.page.parts import MISSING, chip, css_class, method_cell, sortable, value
from lorcbench.report.results import CellResult, jobs
from lorcbench.report.spelling import number, percent
from lorcbench.study.cells import Cell

SETTINGS = {"calibration": "calibration", "LoRC": "lorc"}  # named in the table only where a study has several
JOB_FILES = ("result.json", "run.json", "log.txt", "failed.json")


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
    heads = ["model", "method", "weight", "activation", "LoRC", "status", "front"]
    rivals = {against: equal_bits.compare(results, against) for against in (equal_bits.NONE, equal_bits.PLAIN)}
    at_equal_bits = ["at equal bits in %"] if rivals[equal_bits.NONE] else []
    numbers = [*corpora, "mean PPL", "ΔPPL in %", *at_equal_bits, "mean KL", "agreement in %"]
    numbers += ["bits per weight", "seconds", "peak MiB"]
    on_gpu = any(result.device not in ("", CPU) for result in results)  # else the column would say the same in every row
    several = [attribute for attribute in SETTINGS.values() if len(settings(results, attribute)) > 1]
    rows = "".join(
        f'<tr class="{css_class("derived" if result.derived else result.status)}">'
        f"{_names(index, result, several, shares.get(result.cell))}{_front(result, front)}"
        + (
            _numbers(result, corpora, changes.get(result.cell), rivals if at_equal_bits else {})
            if result.status == "ok"
            else _reason(result, len(numbers))
        )
        + (f"<td>{escape(result.device)}</td>" if on_gpu else "")
        + "</tr>"
        for index, result in enumerate(results)
    )
    note = (
        "ΔPPL is the change of the mean PPL to full precision with its 95 % interval. A cell is on the front unless another "
        "one of its model, with activations rounded alike, has no more bits and a lower mean PPL. Click a heading to sort. "
        "Mean KL is how far the predictions are from full precision's, in nats per token, and agreement the share of tokens "
        "for which both hold the same one for the most likely; a dash says that this was not measured."
    )
    if at_equal_bits:
        note += (
            " The percentages behind r4 and other ranks are shares of the model's width. “At equal bits” is the change of the "
            "mean PPL over the best cell without LoRC that has the same method and no more bits; below it, over the best with "
            "plain LoRC. Point at a number to see which cell that is."
        )
    if any(result.folders for result in results):
        note += " “Jobs” opens settings, digests and logs of all that a cell rests on."
    if any(result.derived for result in results):
        note += (
            " A derived row is chosen from measured ones by its own perplexity, as the paper chose; it is too good by a little."
        )
    columns = sortable("cell-table", [*heads, *numbers, *(["device"] if on_gpu else [])], rows, numbers, "opt w2 gptq")
    return f'<p class="note">{escape(note)}</p>{columns}'


def provenance(results: list[CellResult], folder: Path) -> str:
    """What the page knows of the jobs, as JSON: ``{"jobs": [{…}], "cells": [[job, …], …]}``, cells in the order of the table.

    Args:
        folder: of the page; links are relative to it.
    """
    job_files = jobs(results)
    index = {path: position for position, path in enumerate(job_files)}
    known = {
        "jobs": [_job(path, records["result"] or {}, records["run"] or {}, folder) for path, records in job_files.items()],
        "cells": [[index[path] for path in result.folders.values()] for result in results],
    }
    # "</script>" must not end the element that holds this.
    return json.dumps(known, ensure_ascii=False).replace("</", "<\\/")


def _job(path: Path, result: dict, run: dict, folder: Path) -> dict:
    """What the page shows of the job in `path`: its files, relative to the page's `folder`, and what it did when and where."""
    identity = result.get("identity", {})
    job = {
        "stage": run.get("stage") or identity.get("stage") or path.name,
        "folder": str(path),
        "files": {name: quote(os.path.relpath(path / name, folder)) for name in JOB_FILES if (path / name).is_file()},
        "digest": result.get("digest"),
        "code": identity.get("code"),
        "settings": identity.get("settings"),
        "versions": identity.get("versions"),
        **{name: run[name] for name in ("seconds", "peak_rss_mib", "host", "device", "commit") if name in run},
    }
    return {name: value for name, value in job.items() if value is not None}


def degraded(result: CellResult) -> str:
    """How far a GPTQ cell's damping was raised above the configured one, or "" if that was enough."""
    if result.max_damp is None or result.derived:
        return ""
    configured = compose.load("method", result.cell.method).damp
    return f"damp {result.max_damp:g} > {configured:g}" if result.max_damp > configured else ""


def settings(results: list[CellResult], attribute: str) -> list[str]:
    """The names that the cells have for a setting, in their order."""
    return [name for name in dict.fromkeys(getattr(result.cell, attribute) for result in results) if name != "none"]


def _opener(index: int, result: CellResult) -> str:
    """The button that opens the jobs of a row."""
    if not result.folders:
        return ""
    return (
        f' <button type="button" class="jobs" data-cell="{index}" aria-label="Jobs of {escape(result.cell.key)}">Jobs</button>'
    )


def _names(index: int, result: CellResult, several: list[str], share: float | None) -> str:
    """The cells of a row that say which cell it is and how it went.

    Args:
        share: LoRC's rank over the width, None if there is none or it is not known.
    """
    cell = result.cell
    status = chip(result.status)
    origin = f"<small>{escape(result.origin)}</small>" if result.origin else ""
    names = {name: getattr(cell, name) for name in several}
    small = {name: f"<small>{escape(text)}</small>" for name, text in names.items() if text != "none"}
    of_width = f' <span class="interval">({100 * share:.1f} %)</span>' if share else ""
    if reason := degraded(result):
        status = f"{chip('degraded')}<small>{escape(reason)}</small>"
    if result.derived:
        status = f"{chip('derived')}<small>{escape(result.derived)}</small>"
    return (
        f"<td>{escape(cell.model)}{origin}</td>{method_cell(cell.method, small.get('calibration', ''))}"
        f"<td>{escape(cell.weight)}</td><td>{escape(cell.activation)}</td>"
        f"<td>r{cell.rank}{of_width}{small.get('lorc', '')}</td><td>{status}{_opener(index, result)}</td>"
    )


def _front(result: CellResult, front: dict[Cell, CellResult | None]) -> str:
    """Whether the cell is on the front of its model, or which cell beats it."""
    if result.derived or result.cell not in front or result.cell.method == "none":
        return "<td></td>"
    better = front[result.cell]
    if better is None:
        return f"<td>{chip('on front')}</td>"
    cell = better.cell
    by = " ".join([cell.method, cell.weight, *([f"r{cell.rank}"] if cell.rank else [])])
    return f'<td title="by {escape(by)}, {better.bits_per_weight:.2f} bits, PPL {number(better.mean_ppl)}">beaten</td>'


def _numbers(result: CellResult, corpora: list[str], change: Change | None, rivals: dict[str, dict[Cell, Change]]) -> str:
    """The cells of a row with what was measured.

    Args:
        rivals: what the cells changed over their rivals at equal bits, by the rivals' kind; {} leaves the column out.
    """
    divergence = {name: intervals["mean"].value for name, intervals in change.divergence.items()} if change else {}
    ppls = (perplexity(result.nll[corpus]) if corpus in result.nll else None for corpus in corpora)
    return (
        "".join(value(ppl, number) for ppl in ppls)
        + value(result.mean_ppl, number)
        + _rise(change.relative if change and not result.cell.is_full_precision else None)
        + (_at_equal_bits(*(compared.get(result.cell) for compared in rivals.values())) if rivals else "")
        + value(divergence.get("kl"), lambda nats: f"{nats:.4f}" if nats < 1 else f"{nats:.2f}")
        + value(divergence.get("agreement"), lambda share: f"{100 * share:.1f}")
        + value(result.bits_per_weight, "{:.2f}".format)
        + value(result.seconds, "{:,.1f}".format)
        + value(result.peak_rss_mib, "{:,.0f}".format)
    )


def _reason(result: CellResult, columns: int) -> str:
    return f'<td class="wrap" colspan="{columns}">{escape(result.reason)}</td>'


def _rise(rise: Interval | None) -> str:
    """The rise in percent with its interval."""
    return MISSING if rise is None else f'<td class="num" data-v="{rise.value!r}">{_percent(rise)}</td>'


def _percent(rise: Interval) -> str:
    spelled, low, high = (percent(share, 2).removesuffix(" %") for share in (rise.value, rise.low, rise.high))
    return f'{spelled} <span class="interval">[{low}, {high}]</span>'


def _at_equal_bits(without: Change | None, plain: Change | None) -> str:
    """The change over the best cell of no more bits without LoRC, and below it over the best with plain LoRC."""
    if without is None:
        return MISSING
    rises = f'<span title="{_rival(without)}">{_percent(without.relative)}</span>'
    if plain is not None:
        rises += f'<small title="{_rival(plain)}">{_percent(plain.relative)}</small>'
    return f'<td class="num" data-v="{without.relative.value!r}">{rises}</td>'


def _rival(change: Change) -> str:
    """Over which cell a change is."""
    cell = change.baseline.cell
    rank = [f"r{cell.rank} {cell.lorc}"] if cell.rank else []
    return escape(f"over {' '.join([cell.method, cell.weight, *rank])}, {change.baseline.bits_per_weight:.2f} bits")
