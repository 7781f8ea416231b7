"""The jobs that each row of the table of cells rests on: settings, digests, records and logs, packed for the page.

A study has more jobs than cells, but few settings, versions and hosts: what several jobs may have in common is stored once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import quote

from lorcbench.report.page.grid import embedded
from lorcbench.report.results import CellResult, commit_of

FILES = ("result.json", "run.json", "log.txt", "failed.json")
OWN = ("digest", "seconds", "peak_rss_mib")  # differ from job to job
SHARED = ("stage", "code", "settings", "versions", "host", "device", "commit")


def packed(results: list[CellResult], job_files: dict[Path, dict], folder: Path) -> str:
    """What the page knows of the jobs, as JSON.

    ``root`` is the folder that all jobs are in, ``link`` the same as seen from the page; ``files`` names the files of a job,
    ``fields`` what is known of it. ``jobs`` has per job its path below the root, which of the files are there, as bits, and its
    fields: the first ``own`` as they are, the others as places in ``values``, null where nothing is known. ``cells`` has the
    jobs of each row of the table.

    Args:
        results: in the order of the table.
        job_files: of `lorcbench.report.results.jobs`.
        folder: of the page.
    """
    root = Path(os.path.commonpath([path.parent for path in job_files])) if job_files else Path()
    values: dict[str, int] = {}
    jobs = [_job(path, files["result"] or {}, files["run"] or {}, root, values) for path, files in job_files.items()]
    index = {path: position for position, path in enumerate(job_files)}
    known = {
        "root": str(root),
        "link": quote(os.path.relpath(root, folder)),
        "files": FILES,
        "fields": [*OWN, *SHARED],
        "own": len(OWN),
        "values": [json.loads(text) for text in values],
        "jobs": jobs,
        "cells": [[index[path] for path in result.folders.values()] for result in results],
    }
    return embedded(known)


def _job(path: Path, result: dict, run: dict, root: Path, values: dict[str, int]) -> list:
    """One job.

    Args:
        values: the JSON of what jobs have in common, with its place; added to.
    """
    identity = result.get("identity", {})
    about = {"digest": result.get("digest"), **{name: identity.get(name) for name in ("code", "settings", "versions")}}
    about |= {name: run[name] for name in ("seconds", "peak_rss_mib", "host", "device") if name in run}
    about["commit"] = commit_of(run) or None
    about["stage"] = run.get("stage") or identity.get("stage") or path.name
    there = sum(1 << place for place, name in enumerate(FILES) if (path / name).is_file())
    places = [
        None if about.get(name) is None else values.setdefault(json.dumps(about[name], ensure_ascii=False), len(values))
        for name in SHARED
    ]
    return [path.relative_to(root).as_posix(), there, *(about.get(name) for name in OWN), *places]
