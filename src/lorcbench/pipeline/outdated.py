"""Finished results that this run makes again, although Snakemake would keep them."""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from pathlib import Path

from lorcbench.common import paths
from lorcbench.common.artifacts import ArtifactError, read_json
from lorcbench.common.gpus import AUTO
from lorcbench.config.schema import RuntimeConfig
from lorcbench.pipeline import gpus
from lorcbench.pipeline.finished import is_current
from lorcbench.study.cells import Study
from lorcbench.study.graph import upstream
from lorcbench.study.stages import EVALUATE, HARNESS, StageJob

_RECORDS = Path(".snakemake/metadata")


class Outdated:
    """Jobs whose results are here, but are not what this run asks for, for a reason that Snakemake does not see.

    - Another kind of device computed them than the one that the user named. With ``runtime.device=auto`` there are none: a
      finished result counts, whatever computed it.
    - Snakemake has no record of them, since somebody copied ``results`` without ``.snakemake`` or deleted that, and other code
      or another number of threads made them, or they lack a rank.

    Snakemake runs a job again if an input is newer than its result. So each of these jobs gets one input more, a file that is
    newer than all such results. After the job has run its result is right, and the file no longer an input.

    Make this while Snakemake parses: later it does not look at the file again.
    """

    def __init__(self, runtime: RuntimeConfig, study: Study) -> None:
        results = [*_of_another_device(runtime.device, study), *_without_record(runtime.threads, study)]
        self._folders = {path.parent for path in results}
        # The node of a cluster finds it newer already: touched again, it would be newer than what other nodes made meanwhile.
        newer = Path(paths.RECOMPUTE)
        if results and not (newer.exists() and newer.stat().st_mtime > max(path.stat().st_mtime for path in results)):
            newer.touch()

    def inputs(self, job: StageJob) -> list[str]:
        """The file that makes `job` run again, if it is one of them."""
        return [paths.RECOMPUTE] if job.folder in self._folders else []


def _jobs(study: Study) -> list[StageJob]:
    """All jobs that make the numbers of a study, each once."""
    ends = [StageJob(EVALUATE, study.wildcards(cell)) for cell in study.cells]
    ends += [StageJob(HARNESS, study.wildcards(cell)) for cell in study.harness]
    return upstream(study, *ends)


def _of_another_device(device: str, study: Study) -> list[Path]:
    """Results that another kind of device computed than `device`, unless that is any."""
    if device == AUTO:
        return []
    return [path for job in _jobs(study) if job.stage.on_device and (path := gpus.of_another(job, device, study))]


def _without_record(threads: int, study: Study) -> list[Path]:
    """Results that Snakemake knows nothing of and that are of other code, other threads, or fewer ranks."""
    records = (Path(folder, file) for folder, _, files in os.walk(_RECORDS) for file in files)
    recorded = {"".join(part.removeprefix("@") for part in path.parts[2:]) for path in records}
    here = {path for path in Path(paths.CACHE).rglob("result.json") if _name(path) not in recorded}
    if not here:
        return []
    found = [(job, path) for job in _jobs(study) if (path := job.folder / "result.json") in here]
    return [path for job, path in found if _differs(job, path, threads, study)]


def _name(path: Path) -> str:
    """What Snakemake calls its record of a file; it cuts long names into folders, whose names begin with @."""
    return urlsafe_b64encode(str(path).encode()).decode()


def _differs(job: StageJob, path: Path, threads: int, study: Study) -> bool:
    """Whether a result is not what its job would make now, as far as it says."""
    try:
        return not is_current(read_json(path, job.stage.kind), job, study, threads)
    except ArtifactError:  # the job that reads it says what is wrong
        return False
