"""Result files → cells.csv, scorecard.csv, figures, the page, and a summary on the terminal."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from pathlib import Path

from lorcbench.common import paths
from lorcbench.common.artifacts import read_json, write_text
from lorcbench.jobs.job import Job, run
from lorcbench.report import claims, conventions, derived, figures, results, scorecard
from lorcbench.report.page.render import render
from lorcbench.report.tracking.view import local_folder
from lorcbench.study.cells import Study, study_from_arguments

ATTACHED = (
    "report.html",
    "cells.csv",
    "tasks.csv",
    "scorecard.csv",
    "fingerprint.csv",
    "claims.json",
)  # to the study's run in MLflow


def main(job: Job) -> None:
    """Write everything that a reader of the study opens."""
    expanded = study_from_arguments(job.overrides)
    job.names["study"] = expanded.name
    job.at(paths.STUDY + "/report")
    folder = Path(paths.STUDY.format(study=expanded.name))
    found = results.collect(expanded)
    with_derived = [*found, *derived.derive(found)]
    table = results.rows(expanded, with_derived, job.runtime.bootstrap)
    write_text(folder / "cells.csv", _csv(results.COLUMNS, table))
    write_text(folder / "tasks.csv", _csv(results.HARNESS_COLUMNS, results.harness_rows(expanded, found)))
    verdicts = claims.judge(with_derived, job.runtime.bootstrap)
    compared = scorecard.compare(expanded, with_derived, job.runtime.bootstrap)
    ranked = conventions.rank(compared)
    write_text(folder / "scorecard.csv", _csv(scorecard.COLUMNS, [vars(row) for row in compared]))
    write_text(folder / "fingerprint.csv", _csv(conventions.COLUMNS, [vars(candidate) for candidate in ranked]))
    write_text(folder / "claims.json", json.dumps([vars(verdict) for verdict in verdicts], indent=1) + "\n")
    drawn = figures.draw(with_derived, folder / "figures", compared)
    ordered, imported = scorecard.orderings(compared), _imported(folder)
    html = render(expanded, with_derived, verdicts, drawn, folder, _stages(found), compared, ordered, ranked, imported)
    write_text(folder / "report.html", html)
    if imported:
        _attach(job, imported, [folder / name for name in ATTACHED])
    job.finish("report", {"stage": "report"}, {"cells": len(found)})
    lines = claims.counts(verdicts) + scorecard.summary(compared, ordered)
    print(_summary(expanded, found, [*lines, *conventions.summary(ranked)], folder))


def _imported(folder: Path) -> dict | None:
    """What the track stage left, None if it did not get there."""
    path = folder / "track" / "imported.json"
    return read_json(path, "imported") if path.is_file() else None


def _attach(job: Job, imported: dict, files: list[Path]) -> None:
    """Copy the report to the artifacts of the study's run. MLflow is imported only for a server."""
    if folder := local_folder(imported["parent_artifacts"]):
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copyfile(file, folder / file.name)
        return
    from lorcbench.report.tracking.store import TrackingError, attach

    try:
        attach(imported["uri"], imported["parent_run_id"], files)
    except TrackingError as error:  # the report is there, whatever becomes of its copy
        job.log(str(error))
        print(f"the report is not in MLflow: {error}", file=sys.stderr)


def _csv(columns: tuple[str, ...], table: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def _stages(found: list[results.CellResult]) -> list[dict]:
    """Jobs, seconds and largest memory of every stage that the study's cells rest on."""
    runs: dict[str, dict[Path, dict]] = {}
    for path in results.run_records(found):
        record = read_json(path, "run")
        runs.setdefault(record["stage"], {})[path] = record
    return [
        {
            "stage": stage,
            "jobs": len(records),
            "seconds": round(sum(record["seconds"] for record in records.values()), 1),
            "peak_rss_mib": max(record["peak_rss_mib"] for record in records.values()),
        }
        for stage, records in runs.items()
    ]


def _summary(expanded: Study, found: list[results.CellResult], said: list[str], folder: Path) -> str:
    """Best cell per bit width, what `said` says of claims and published numbers, and where everything is."""
    count = {status: sum(result.status == status for result in found) for status in ("ok", "failed", "not run")}
    lines = [f"\n{expanded.name}: {count['ok']} cells measured, {count['failed']} failed, {count['not run']} not run"]
    lines += [f"  failed: {result.cell.key}: {result.reason}" for result in found if result.status == "failed"]
    if expanded.too_large:
        limit = f"more than study.max_params={expanded.config.max_params:g} weights"
        lines.append(f"  left out, {limit}: {', '.join(expanded.too_large)}")
    for model in dict.fromkeys(result.cell.model for result in found):
        lines += _best(model, [result for result in found if result.cell.model == model and result.status == "ok"])
    lines += said
    places = {"page": folder / "report.html", "table": folder / "cells.csv", "MLflow": Path(paths.MLFLOW)}
    lines += [f"  {name:6} {path}" for name, path in places.items()]
    return "\n".join(lines)


def _best(model: str, found: list[results.CellResult]) -> list[str]:
    lines = []
    baseline = next((result.mean_ppl for result in found if result.cell.method == "none"), float("nan"))
    for bits in sorted({result.cell.weight.split("-")[0] for result in found}, key=lambda name: int(name[1:]), reverse=True):
        best = min((result for result in found if result.cell.weight.split("-")[0] == bits), key=lambda one: one.mean_ppl)
        change = 100 * (best.mean_ppl / baseline - 1)
        recipe = best.cell.key.removeprefix(f"{model}/")
        lines.append(
            f"  {model:20} {bits:4} {best.mean_ppl:9.2f} ({change:+6.1f} %)  {best.bits_per_weight:5.2f} bits  {recipe}"
        )
    return lines


if __name__ == "__main__":
    run("report", main)
