"""Which jobs of a study a run would leave alone, as far as their results say it: what the plan counts as done."""

from __future__ import annotations

from pathlib import Path

from lorcbench.common.artifacts import ArtifactError, read_json
from lorcbench.common.versions import code_version
from lorcbench.study.cells import Study
from lorcbench.study.graph import inputs
from lorcbench.study.stages import EVALUATE, HARNESS, StageJob


class Finished:
    """Which jobs of a study are done.

    A job is done if its result is there, was made by today's code, has every rank that the study asks for, and rests on
    results of which the same is true.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
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
        code = code_version(job.stage.module)
        if result.get("identity", {}).get("code", code) != code:
            return False
        if job.stage not in (EVALUATE, HARNESS):
            return True
        asked = {cell.variant for cell in self._study.evaluated(job.names, harness=job.stage is HARNESS)}
        return asked <= set(result["variants"]) - set(result.get("outdated", []))
