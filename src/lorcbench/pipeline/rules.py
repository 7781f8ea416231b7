"""What the Snakemake rules ask: the study's cells, each job's inputs and arguments, and what a job's bytes depend on.

Nothing heavy is imported: Snakemake parses the Snakefile again on every node.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lorcbench.common import paths
from lorcbench.common.artifacts import ArtifactError, canonical, fingerprint, read_json
from lorcbench.common.gpus import CPU
from lorcbench.common.paths import Wildcards
from lorcbench.common.versions import code_version
from lorcbench.config import compose, folders, gguf
from lorcbench.data import task_files, texts
from lorcbench.pipeline import checks, exports, gpus, lifecycle, plan
from lorcbench.pipeline.closing import Closing
from lorcbench.pipeline.console import Expected
from lorcbench.pipeline.outdated import Outdated
from lorcbench.pipeline.resources import Resources
from lorcbench.study import given, graph, naming
from lorcbench.study.cells import Cell
from lorcbench.study.expansion import load_study
from lorcbench.study.exports import PUBLISHED
from lorcbench.study.stages import EXPORT, HARNESS, MODELS, PREPARE, QUANTIZE, STAGES, TASK, TEXT, StageJob

_PAGE = ("report.html", "cells.csv", "scorecard.csv", "figures")  # what the rule report makes in the study's folder


class Pipeline:
    """One run of the workflow, made from Snakemake's ``--config``.

    Where a rule wants a function of its wildcards, a method returns that function: ``input: pipeline.inputs("quantize")``.

    Attributes:
        study: the expanded study.
        folder: of its page and its tables.
        complete: the file that says that the study is finished.
        targets: what the run is to make: that file and the page, or the exports that were asked for.
        exports: the results of these exports.
        resources: what its jobs ask for.
        lifecycle: its start and its end.
        closing: its last lines.
        choice: what they compute on.

    Args:
        local: the jobs run on this machine, not on a cluster.

    Raises:
        ConfigError: anything that makes no sense, in one line.
    """

    def __init__(self, settings: dict, local: bool = True) -> None:
        self._overrides = checks.overrides_of(settings)
        runtime = [override for override in self._overrides if override.startswith("runtime.")]
        tracking = [override for override in self._overrides if override.startswith("tracking.")]
        self._typed = checks.study_of(settings)
        self._name = naming.check_name(settings["name"]) if "name" in settings else None
        model_path, text_path = settings.get("model_path"), settings.get("text_path")
        checks.fetch_config(model_path)
        foreign = settings.get("foreign")
        self.study = load_study(self._typed, self._overrides, model_path, self._name, text_path, foreign)
        composed = compose.compose([*runtime, *tracking])
        self._runtime = OmegaConf.to_object(composed.runtime)
        self.choice = gpus.chosen(self._runtime, local)
        lifecycle.set_environment(runtime, self.choice)
        self._outdated = Outdated(self._runtime, self.study)
        OmegaConf.to_object(composed.tracking)  # checked before the first job, not after the last
        self.folder = paths.STUDY.format(study=self.study.name)
        self.complete = f"{self.folder}/.complete"
        # All that the last rule makes: of files that are missing Snakemake sees those alone that somebody asks for.
        self.targets = [self.complete, *(f"{self.folder}/{name}" for name in _PAGE)]
        self.closing = Closing(self.folder, self.complete)
        self.exports: list[str] = []
        self._settings_given = settings
        self._is_local = local
        self.resources = Resources(self.study, self._runtime, self.choice)
        self.lifecycle = lifecycle.Lifecycle(self._runtime.threads, Path(self.complete), self._study_arguments())
        self._params: dict[tuple, str] = {}
        checks.check(self.study, self._runtime)

    def export(self, cells: list[Cell]) -> None:
        """Let the run export cells of its study, and make what they need.

        Raises:
            ConfigError: a format does not hold its cell, or its check needs more memory than there is.
        """
        jobs = exports.jobs(self.study, cells, self._settings_given)
        exports.refuse_misfits(self.study, jobs, self._runtime, plan.total_memory(self._runtime))
        self.exports = [f"{job.folder}/result.json" for job in jobs]
        self.closing.exported = {f"{job.folder}/{PUBLISHED}": PREPARE.folder(job.names) / "result.json" for job in jobs}
        self.targets = [*self.exports, f"{MODELS.folder(Wildcards(study=self.study.name))}/result.json"]

    def device_lines(self) -> list[str]:
        """What people are told of the device: which GPUs the run uses, or why it uses none although one is here."""
        using = "" if self.choice.device == CPU or self.choice.refusal else f"computes on {self.choice.line()}"
        return [line for line in (self.choice.note, self.choice.refusal, using) if line]

    def expected(self, job: Any) -> Expected:
        """What the console may say of a job of Snakemake's, once it has finished."""
        rule, names = job.rule.name, Wildcards.of(job.wildcards)
        if rule not in STAGES:
            return Expected(rule, rule, 0.0, None)
        record = Path(job.log[0]).with_name("run.json")
        is_heard = self._is_local or job.is_local
        return Expected(names.title(rule), rule, self.resources.seconds(rule, names), record, is_heard)

    # Where a stage's files lie: patterns with Snakemake's wildcards

    def result(self, stage: str) -> str:
        """The deterministic result of a job."""
        return self._file(stage, "result.json")

    def record(self, stage: str) -> str:
        """The record of how a job went."""
        return self._file(stage, "run.json")

    def log(self, stage: str) -> str:
        """The log of a job."""
        return self._file(stage, "log.txt")

    def _file(self, stage: str, name: str) -> str:
        return f"{STAGES[stage].pattern.replace('{study}', self.study.name)}/{name}"

    @property
    def exported(self) -> str:
        """The folder that an export publishes."""
        return self._file(EXPORT.name, PUBLISHED)

    # What its jobs read, and what their bytes depend on

    def inputs(self, stage: str) -> Callable[[Any], list[str]]:
        """The results that a job reads."""

        def ask(wildcards: Any) -> list[str]:
            names = Wildcards.of(wildcards)
            jobs = graph.inputs(self.study, StageJob(STAGES[stage], names))
            again = self._outdated.inputs(StageJob(STAGES[stage], names))
            return [*(f"{job.folder}/result.json" for job in jobs), *again]

        return ask

    def local_file(self, group: str) -> Callable[[Any], list[str]]:
        """The files on this machine that a text or a task is copied from; none for one that is downloaded or made."""

        def ask(wildcards: Any) -> list[str]:
            return [str(path) for path in self._local_files(group, Wildcards.of(wildcards))]

        return ask

    def _local_files(self, group: str, names: Wildcards) -> list[Path]:
        config = self.study.entry(group, getattr(names, group))
        if group == "task":
            definition = [path] if (path := Path(config.definition or "")).is_absolute() else []
            return definition + task_files.all_files(config, self._runtime.data_dir)
        path = texts.own_file(config, self._runtime.data_dir)
        return [path] if path else []

    def _given_files(self, stage: str, names: Wildcards) -> dict[str, list[int]]:
        """Size and time of the files on this machine that a job reads by their path, so that it runs again when they change."""
        if stage == PREPARE.name:
            model = self.study.model(names.model)
            if model.source == "gguf":
                return gguf.state(model)
            return folders.state(Path(model.path)) if model.source == "folder" else {}
        if stage == QUANTIZE.name and names.method in self.study.foreign:
            return folders.state(Path(self.study.foreign[names.method]))
        if stage in (TEXT.name, TASK.name):
            paths = [path for path in self._local_files(stage, names) if path.is_file()]
            alike = len({path.name for path in paths}) < len(paths)  # files of a copy of the hub's, a folder per subject
            return {str(path) if alike else path.name: folders.file_state(path) for path in paths}
        return {}

    def params(self, stage: str) -> Callable[[Any], str]:
        """Code, kernel threads, settings and the user's own files, as one string; a job runs again when it differs."""

        def ask(wildcards: Any) -> str:
            names = Wildcards.of(wildcards)
            chosen = tuple((group, _entry(group, names)) for group in STAGES[stage].groups(names))
            if (stage, chosen) not in self._params:  # asked for by every job, and the same for most of them
                about: dict[str, Any] = {"code": code_version(STAGES[stage].module), "threads": self._runtime.threads}
                if files := self._given_files(stage, names):
                    about["files"] = files
                if "{study}" in STAGES[stage].pattern:
                    about["study"] = self._summary()
                self._params[stage, chosen] = canonical(about | {group: self._settings(group, name) for group, name in chosen})
            return self._params[stage, chosen]

        return ask

    def _summary(self) -> str:
        """What the study is, as one short string, for the jobs that see the whole of it."""
        study = self.study
        cells = [[cell.key for cell in group] for group in (study.cells, study.harness)]
        return fingerprint([compose.plain(study.config), study.eval, study.tasks, cells, study.not_applicable, study.too_large])

    def _settings(self, group: str, name: str) -> dict:
        """What an entry of a config group says."""
        return compose.plain(self.study.entry(group, name))

    # What stages are told

    def model_arguments(self, wildcards: Any) -> str:
        """A model by name, or the place that the command line gave; quoted for the shell."""
        return shlex.join(given.model_arguments(self.study, wildcards.model))

    def foreign_arguments(self, wildcards: Any) -> str:
        """The folder of a checkpoint that was quantized elsewhere, of a job whose method is that; quoted for the shell."""
        folder = self.study.foreign.get(wildcards.method)
        return shlex.join([f"foreign={compose.quoted(folder)}"]) if folder else ""

    def text_arguments(self, wildcards: Any) -> str:
        """A text by name, or the file that the command line gave; quoted for the shell."""
        if wildcards.text in self.study.texts_given:
            return shlex.join(self._text_arguments())
        return shlex.join([f"text={wildcards.text}"])

    def given_text(self, group: str) -> Callable[[Any], str]:
        """The text that the command line gave, for a job whose protocol or calibration has its name."""

        def ask(wildcards: Any) -> str:
            texts = compose.load(group, _entry(group, Wildcards.of(wildcards))).texts()
            return shlex.join(self._text_arguments()) if self.study.texts_given.keys() & set(texts) else ""

        return ask

    def _text_arguments(self) -> list[str]:
        (text,) = self.study.texts_given.values()
        return ["text=file", f"text.path={compose.quoted(text.path)}", f"text.column={compose.quoted(text.column)}"]

    def study_arguments(self) -> str:
        """The arguments of the stages that see the whole study; quoted for the shell."""
        return shlex.join(self._study_arguments())

    def _study_arguments(self) -> list[str]:
        folder = [f"model_path={compose.quoted(path)}" for path in self.study.folders.values()]
        folder += [f"text_path={compose.quoted(text.path)}" for text in self.study.texts_given.values()]
        if self.study.foreign:
            folder.append(f"foreign={compose.quoted(os.pathsep.join(self.study.foreign.values()))}")
        name = [f"name={self._name}"] if self._name else []
        # Facts of the machine reach the stages through their environment, and make no page again.
        overrides = [override for override in self._overrides if not override.startswith("runtime.")]
        return [f"study={self._typed}", *name, *overrides, *folder]

    def variants(self, stage: str) -> Callable[[Any, Any], str]:
        """LoRC settings and ranks that a job of ``evaluate`` or ``harness`` measures.

        Snakemake does not compare what a function of a job's inputs returns, so other ranks are no reason to run again; `held`
        says which are.
        """

        def ask(wildcards: Any, input: Any) -> str:
            return ",".join(self._variants(stage, Wildcards.of(wildcards)))

        return ask

    def held(self, stage: str) -> Callable[[Any], str]:
        """What the result of ``evaluate`` or ``harness`` knows of once the job has run: the ranks of this study, and of others.

        So a job runs again for a rank that its result lacks, and not because another study asked for other ranks.
        """

        def ask(wildcards: Any) -> str:
            names = Wildcards.of(wildcards)
            asked = set(self._variants(stage, names))
            known, outdated = set(), set()
            with suppress(ArtifactError):
                result = read_json(STAGES[stage].folder(names) / "result.json", STAGES[stage].kind)
                outdated = set(result.get("outdated", []))
                known = outdated | result["variants"].keys()
            return canonical({"variants": sorted(known | asked), "again": sorted(outdated & asked)})

        return ask

    def _variants(self, stage: str, names: Wildcards) -> list[str]:
        return [cell.variant for cell in self.study.evaluated(names, harness=stage == HARNESS.name)]

    def downloads(self) -> list[str]:
        """Staged texts, tasks and checkpoints: all of the study that may come from the hub, and nothing that is computed."""
        names = [name for name in self.study.texts if self.study.entry("text", name).source != "stdlib"]
        folders = [TEXT.folder(Wildcards(text=name)) for name in names]
        if self.study.harness:
            folders += [job.folder for name in self.study.tasks if (job := graph.task_documents(name)).stage is TASK]
        models = [name for name in self.study.models if self.study.model(name).source in ("hub", "folder")]
        folders += [PREPARE.folder(Wildcards(model=name)) for name in models]
        return [f"{folder}/result.json" for folder in folders]


def _entry(group: str, names: Wildcards) -> str:
    """The name that a job has chosen in a config group."""
    return names.protocol if group == "eval" else getattr(names, group)
