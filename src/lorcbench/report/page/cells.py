"""The table of all cells, and the jobs that each row rests on: settings, digests, records and logs."""

from __future__ import annotations

import json
import os
from html import escape
from pathlib import Path
from urllib.parse import quote

from lorcbench.common.gpus import CPU
from lorcbench.config import compose
from lorcbench.report.comparison import Change
from lorcbench.report.intervals import Interval, perplexity
from lorcbench.report.page.parts import MISSING, chip, css_class, method_cell, sortable, value
from lorcbench.report.results import CellResult, jobs
from lorcbench.report.spelling import number, percent
from lorcbench.study.cells import Cell

SETTINGS = {"calibration": "calibration", "LoRC": "lorc"}  # named in the table only where a study has several
JOB_FILES = ("result.json", "run.json", "log.txt", "failed.json")


def all_cells(results: list[CellResult], changes: dict[Cell, Change], front: dict[Cell, CellResult | None]) -> str:
    """One row per cell, derived ones marked as such.

    Args:
        changes: to full precision.
        front: of `lorcbench.report.recommend.fronts`.
    """
    corpora = list(dict.fromkeys(corpus for result in results for corpus in result.nll))
    heads = ["model", "method", "weight", "activation", "LoRC", "status", "front"]
    numbers = [*corpora, "mean PPL", "ΔPPL in %", "mean KL", "agreement in %", "bits per weight", "seconds", "peak MiB"]
    on_gpu = any(result.device not in ("", CPU) for result in results)  # else the column would say the same in every row
    several = [attribute for attribute in SETTINGS.values() if len(settings(results, attribute)) > 1]
    rows = "".join(
        f'<tr class="{css_class("derived" if result.derived else result.status)}">{_names(index, result, several)}'
        f"{_front(result, front)}"
        + (_numbers(result, corpora, changes.get(result.cell)) if result.status == "ok" else _reason(result, len(numbers)))
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


def _names(index: int, result: CellResult, several: list[str]) -> str:
    """The cells of a row that say which cell it is and how it went."""
    cell = result.cell
    status = chip(result.status)
    origin = f"<small>{escape(result.origin)}</small>" if result.origin else ""
    names = {name: getattr(cell, name) for name in several}
    small = {name: f"<small>{escape(text)}</small>" for name, text in names.items() if text != "none"}
    if reason := degraded(result):
        status = f"{chip('degraded')}<small>{escape(reason)}</small>"
    if result.derived:
        status = f"{chip('derived')}<small>{escape(result.derived)}</small>"
    return (
        f"<td>{escape(cell.model)}{origin}</td>{method_cell(cell.method, small.get('calibration', ''))}"
        f"<td>{escape(cell.weight)}</td><td>{escape(cell.activation)}</td><td>r{cell.rank}{small.get('lorc', '')}</td>"
        f"<td>{status}{_opener(index, result)}</td>"
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


def _numbers(result: CellResult, corpora: list[str], change: Change | None) -> str:
    """The cells of a row with what was measured."""
    divergence = {name: intervals["mean"].value for name, intervals in change.divergence.items()} if change else {}
    ppls = (perplexity(result.nll[corpus]) if corpus in result.nll else None for corpus in corpora)
    return (
        "".join(value(ppl, number) for ppl in ppls)
        + value(result.mean_ppl, number)
        + _rise(change.relative if change and not result.cell.is_full_precision else None)
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
    if rise is None:
        return MISSING
    spelled, low, high = (percent(share, 2).removesuffix(" %") for share in (rise.value, rise.low, rise.high))
    return f'<td class="num" data-v="{rise.value!r}">{spelled} <span class="interval">[{low}, {high}]</span></td>'
