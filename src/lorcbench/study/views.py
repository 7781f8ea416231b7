"""Whether a study's page still shows what the evaluations say that it shares with other studies.

All ranks of a quantized model are in one file, so a rank that one study adds makes that file newer than the pages of the
others.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from lorcbench.common import paths
from lorcbench.common.artifacts import ArtifactError, fingerprint, read_json
from lorcbench.common.paths import Wildcards
from lorcbench.study.cells import Study
from lorcbench.study.graph import inputs
from lorcbench.study.stages import HARNESS, REPORT, TRACK, StageJob


def content(study: Study) -> str | None:
    """What the evaluations say of the study's own cells, as one short string; None if one of them is missing or damaged."""
    try:
        return fingerprint([_shown(study, job) for job in _evaluations(study)])
    except ArtifactError:
        return None


def refresh(study: Study) -> bool:
    """Make a finished study's files newer than its evaluations, if only numbers of other studies were added to those.

    Else Snakemake would make its page again, which would be the same.

    Returns:
        whether that was so.
    """
    folder = Path(paths.STUDY.format(study=study.name))
    with suppress(OSError, ArtifactError):  # the study is not finished, or not ours to change: Snakemake decides
        finished = (folder / ".complete").stat().st_mtime
        newer = [job for job in _evaluations(study) if (job.folder / "result.json").stat().st_mtime > finished]
        shown = read_json(REPORT.folder(Wildcards(study=study.name)) / "result.json", REPORT.kind)
        if newer and shown["content"] == content(study):
            now = time.time()
            for path in folder.rglob("*"):
                os.utime(path, (now, now))
            return True
    return False


def _evaluations(study: Study) -> list[StageJob]:
    return inputs(study, StageJob(TRACK, Wildcards()))


def _shown(study: Study, job: StageJob) -> list:
    """What one evaluation says of the study's cells: all but its ranks of other studies."""
    result = read_json(job.folder / "result.json", job.stage.kind)
    cells = study.evaluated(job.names, harness=job.stage is HARNESS)
    about = {key: value for key, value in result.items() if key not in ("variants", "outdated", "digest")}
    return [about, [result["variants"].get(cell.variant) for cell in cells]]
