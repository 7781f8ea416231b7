"""Result files → tables, claims, scorecard, figures, the page, and a summary on the terminal."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from lorcbench.common.artifacts import read_json, write_text
from lorcbench.common.gpus import CPU
from lorcbench.common.process import SUMMARY_LATER
from lorcbench.config import compose
from lorcbench.jobs.job import Job
from lorcbench.pipeline import machine
from lorcbench.pipeline.closing import SUMMARY
from lorcbench.report import (
    budget,
    comparison,
    conventions,
    figures,
    results,
    rounding,
    rows,
    seeds,
    shared,
    sources,
    tables,
)
from lorcbench.report.derived import derive
from lorcbench.report.findings import Findings, find
from lorcbench.report.page.render import render
from lorcbench.report.results import CellResult
from lorcbench.report.summary import summary
from lorcbench.report.tracking.view import local_folder
from lorcbench.stages import run_by_old_name
from lorcbench.study import started, views
from lorcbench.study.cells import Study
from lorcbench.study.expansion import study_from_arguments
from lorcbench.study.stages import REPORT

# What is attached to the study's run in MLflow.
ATTACHED = (
    "report.html",
    "cells.csv",
    "tasks.csv",
    "scorecard.csv",
    "fingerprint.csv",
    "seeds.csv",
    "claims.json",
    budget.TABLE,
    shared.TABLE,
    rounding.TABLE,
)


def main(job: Job) -> None:
    """Write everything that a reader of the study opens."""
    study = study_from_arguments(job.overrides)
    folder = job.at(REPORT, study=study.name).parent

    measured = results.collect(study)
    everything = [*measured, *derive(measured)]
    changes = comparison.changes(everything)
    findings = find(study, everything, changes, job.overrides)

    cells = tables.rows(study, everything, changes)
    tasks = tables.harness_rows(study, measured, changes)
    write_text(folder / "cells.csv", rows.as_csv(tables.COLUMNS, cells))
    write_text(folder / "tasks.csv", rows.as_csv(tables.HARNESS_COLUMNS, tasks))
    _write_findings(study.name, folder, findings)
    started.leave(folder, job.overrides)
    drawn = figures.draw(everything, changes, folder / "figures", findings.scorecard)
    imported = _imported(folder)
    page = render(study, everything, changes, findings, drawn, folder, results.stage_costs(measured), imported)
    write_text(folder / "report.html", page)
    if imported:
        pictures = {file: str(file.parent.relative_to(folder)) for file in sorted((folder / "figures").rglob("*.png"))}
        _attach(job, imported, {folder / name: None for name in ATTACHED} | pictures)
    job.finish({"stage": "report"}, {"cells": len(measured), "content": views.content(study)})
    text = summary(study, measured, findings, folder, _advice(study, measured))
    write_text(folder / SUMMARY, f"{text}\n")
    if SUMMARY_LATER not in os.environ:
        print(text)


def _advice(study: Study, measured: list[CellResult]) -> list[str]:
    """That another type of the forward pass is faster here; stand-ins are so small that it hardly matters for them."""
    slow = any(result.device == CPU and study.model(result.cell.model).standin is None for result in measured)
    if not slow or compose.load("eval", study.eval).dtype != "float32":
        return []
    faster = machine.faster(machine.rates())
    return [faster] if faster else []


def _write_findings(study: str, folder: Path, findings: Findings) -> None:
    """claims.json, recommended.csv, recommended-shared.csv, against.csv, scorecard.csv, fingerprint.csv and seeds.csv."""
    write_text(folder / budget.TABLE, budget.as_csv(findings.choices))
    write_text(folder / shared.TABLE, shared.as_csv(findings.shared))
    write_text(folder / rounding.TABLE, rows.as_csv(rounding.COLUMNS, (one.row(study) for one in findings.rounding)))
    write_text(folder / "claims.json", json.dumps([vars(verdict) for verdict in findings.verdicts], indent=1) + "\n")
    write_text(folder / "scorecard.csv", rows.as_csv(sources.COLUMNS, (number.columns() for number in findings.beside)))
    write_text(folder / "fingerprint.csv", rows.as_csv(conventions.COLUMNS, map(vars, findings.candidates)))
    write_text(folder / "seeds.csv", rows.as_csv(seeds.COLUMNS, (spread.row() for spread in findings.spreads)))


def _imported(folder: Path) -> dict | None:
    """What the track stage left, None if it did not get there."""
    path = folder / "track" / "imported.json"
    return read_json(path, "imported") if path.is_file() else None


def _attach(job: Job, imported: dict, files: dict[Path, str | None]) -> None:
    """Copy the report to the artifacts of the study's run. MLflow is imported only for a server.

    Args:
        files: each with the folder among the artifacts that it goes to.
    """
    if imported["parent_artifacts"] is None:  # they would go into another project
        return
    if folder := local_folder(imported["parent_artifacts"]):
        shutil.rmtree(folder / "figures", ignore_errors=True)  # of an earlier report, which may have had others
        for file, place in files.items():
            (folder / (place or "")).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / (place or "") / file.name)
        return
    from lorcbench.report.tracking.store import TrackingError, attach

    try:
        attach(imported["uri"], imported["parent_run_id"], files)
    except TrackingError as error:  # the report itself is written, whatever becomes of its copy
        job.log(str(error))
        print(f"the report is not in MLflow: {error}", file=sys.stderr)


if __name__ == "__main__":
    run_by_old_name(__spec__.name)
