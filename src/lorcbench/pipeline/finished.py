"""Which jobs of a study a run would leave alone, as far as their results say it: what the plan counts as done."""

from __future__ import annotations

from pathlib import Path

from lorcbench.common.artifacts import ArtifactError, read_json
from lorcbench.common.versions import code_version
from lorcbench.study.cells import Study
from lorcbench.study.graph import inputs
from lorcbench.study.stages import EVALUATE, HARNESS, StageJob


def is_current(result: dict, job: StageJob, study: Study, threads: int) -> bool:
    """Whether a result was made by today's code on as many threads, and has every rank that the study asks for."""
    about = {"code": code_version(job.stage.module), "threads": threads}
    if any(result.get("identity", {}).get(key, value) != value for key, value in about.items()):
        return False
    if job.stage not in (EVALUATE, HARNESS):
        return True
    asked = {cell.variant for cell in study.evaluated(job.names, harness=job.stage is HARNESS)}
    return asked <= set(result["variants"]) - set(result.get("outdated", []))


class Finished:
    """Which jobs of a study are done.

    A job is done if its result is there, `is_current`, and rests on results of which the same is true.

    Args:
        threads: kernel threads of its jobs.
    """

    def __init__(self, study: Study, threads: int) -> None:
        self._study = study
        self._threads = threads
        self._known: dict[Path, bool] = {}

    def has(self, job: StageJob) -> bool:
        """Whether a job is done."""
        if job.folder not in self._known:
            self._known[job.folder] = self._is_done(job) and all(self.has(before) for before in inputs(self._study, job))
        return self._known[job.folder]

    def _is_done(self, job: StageJob) -> bool:
        """The same, whatever it rests on."""
        try:
            result = read_json(job.folder / "result.json", job.stage.kind)
        except ArtifactError:
            return False
        return is_current(result, job, self._study, self._threads)
