"""What the Snakemake rules ask: the study's cells, each job's inputs and arguments, and what a job's bytes depend on.

Nothing heavy is imported: Snakemake parses the Snakefile again on every node.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lorcbench.common import paths
from lorcbench.common.artifacts import canonical
from lorcbench.common.process import PARENT
from lorcbench.common.versions import code_version
from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.config.compose import RUNTIME_VARIABLE
from lorcbench.data import stdlib_text, texts
from lorcbench.pipeline import warm
from lorcbench.pipeline.resources import Resources
from lorcbench.study.cells import Cell, load_study

_KEYS = ("model_path", "overrides", "study")
_OVERRIDES = ("study.", "eval.tasks=", "runtime.", "tracking.")
_EVALUATED = ("model", "method", "calibration", "weight", "trained", "activation")


class Workflow:
    """One run of the workflow, made from Snakemake's ``--config``.

    Attributes:
        study: the expanded study.
        complete: the file that says that the study is finished.
        resources: what its jobs ask for.
    """

    def __init__(self, settings: dict) -> None:
        # `.venv/bin/snakemake` works without activation: stages run in the interpreter that runs the workflow.
        os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
        os.environ[PARENT] = str(os.getpid())
        overrides = _overrides(settings)
        self.study = load_study(str(settings.get("study", "demo")), overrides, settings.get("model_path"))
        runtime = [part for part in overrides if part.startswith("runtime.")]
        # Through the environment, so that machine facts are in no rule's text or params and re-run nothing.
        os.environ[RUNTIME_VARIABLE] = " ".join(runtime)
        composed = compose.compose([part for part in overrides if part.startswith(("runtime.", "tracking."))])
        self._runtime = OmegaConf.to_object(composed.runtime)
        OmegaConf.to_object(composed.tracking)  # checked before the first job, not after the last
        self._overrides = overrides
        self._model_path = settings.get("model_path")
        self.complete = f"results/{self.study.name}/.complete"
        self._cells = _by_evaluation(self.study.cells)
        self._harness = _by_evaluation(self.study.harness)
        self._lock = self._warm = None
        self._semantics: dict[tuple, str] = {}
        self.resources = Resources(self.study, self._runtime, self._count_variants)
        self._check_windows()
        self._check_data()

    # What can be refused before the first job

    def _check_windows(self) -> None:
        """Refuse windows that are longer than the positions that a stand-in learned, and a vocabulary that no tokenizer has."""
        lengths = {f"study.eval={self.study.eval}+window": compose.load("eval", self.study.eval).window}
        for name in self._calibrations():
            lengths[f"study.calibrations=[{name}+length"] = compose.load("calibration", name).length
        for model in dict.fromkeys(cell.model for cell in self.study.cells):
            settings = self.study.model(model)
            if settings.standin:
                stdlib_text.check_vocabulary(settings.standin)
            limit = settings.standin.positions if settings.standin and settings.record.learned_positions else None
            for setting, length in lengths.items():
                if limit is not None and length > limit:
                    mend = f"{setting}={limit}" + ("]" if "[" in setting else "")
                    raise ConfigError(f"windows of {length} tokens, but {model} has {limit} positions; expected {mend}")

    def _check_data(self) -> None:
        """Refuse texts and tasks that are unknown, and files that are missing on this machine."""
        names = [("text", name) for name in self._texts()]
        names += [("task", name) for name in self.study.tasks] if self.study.harness else []
        patterns, found = [], False
        for group, name in names:
            settings = compose.load(group, name)
            if getattr(settings, "source", None) == "file" and not texts.own_file(settings, None).is_file():
                raise ConfigError(f"text.path={settings.path} of {name}: no such file")
            patterns += settings.local
            found = found or texts.local_file(settings.local, self._runtime.data_dir) is not None
        if self._runtime.data_dir and patterns and not found:
            raise ConfigError(
                f"runtime.data_dir={self._runtime.data_dir}: no file of this study there; expected one of {', '.join(patterns)}"
            )
        if self._runtime.data_dir is not None and not os.path.isdir(self._runtime.data_dir):
            raise ConfigError(f"runtime.data_dir={self._runtime.data_dir}: expected a folder")

    def _calibrations(self) -> list[str]:
        return list(dict.fromkeys(cell.calibration for cell in self.study.cells if cell.calibration != "none"))

    def _texts(self) -> list[str]:
        """Every text of the study's protocol and calibrations."""
        protocols = [self.study.eval]
        if any(cell.method != "none" and self.study.gated(cell.model) for cell in self.study.cells):
            protocols.append(paths.GATE_PROTOCOL)
        names = [text for protocol in protocols for text in compose.load("eval", protocol).texts()]
        for calibration in self._calibrations():
            names += compose.load("calibration", calibration).texts()
        return list(dict.fromkeys(names))

    # What stages are told

    def model_arguments(self, wildcards: Any) -> str:
        """A model by name, or the folder that the command line gave."""
        if folder := self.study.folders.get(wildcards.model):
            return f"model=folder model.name={wildcards.model} 'model.path=\"{folder}\"'"
        return f"model={wildcards.model}"

    def study_arguments(self) -> str:
        """The arguments of the stages that see the whole study."""
        folder = [f"'model_path=\"{os.path.abspath(self._model_path)}\"'"] if self._model_path else []
        return " ".join([f"study={self.study.name}", *self._overrides, *folder])

    def variants(self, wildcards: Any) -> str:
        """LoRC settings and ranks that an evaluation holds."""
        return ",".join(cell.variant for cell in self._cells[_evaluation(wildcards)])

    def harness_variants(self, wildcards: Any) -> str:
        """LoRC settings and ranks that lm-eval measures."""
        return ",".join(cell.variant for cell in self._harness[_evaluation(wildcards)])

    def _count_variants(self, stage: str, wildcards: Any) -> int:
        return len((self._cells if stage == "evaluate" else self._harness)[_evaluation(wildcards)])

    # What their bytes depend on besides their inputs; a job runs again when this string differs

    def semantics(self, stage: str, **groups: str) -> str:
        """Version of the code, kernel threads, and the named settings, as one string."""
        key = (stage, *groups.items())
        if key not in self._semantics:  # asked for by every job, and the same for most of them
            values = {group: compose.plain(compose.load(group, name)) for group, name in groups.items()}
            self._semantics[key] = canonical({"code": code_version(stage), "threads": self._runtime.threads, **values})
        return self._semantics[key]

    def prepare_semantics(self, wildcards: Any) -> str:
        """Of a checkpoint."""
        model = compose.plain(self.study.model(wildcards.model))
        return canonical({"code": code_version("prepare"), "threads": self._runtime.threads, "model": model})

    def text_semantics(self, wildcards: Any) -> str:
        """Of staged documents."""
        return self.semantics("text", text=wildcards.text)

    def task_semantics(self, wildcards: Any) -> str:
        """Of the staged documents of an lm-eval task."""
        return self.semantics("task", task=wildcards.task)

    def tokens_semantics(self, wildcards: Any) -> str:
        """Of test windows."""
        return self.semantics("tokens", eval=wildcards.protocol)

    def calibration_semantics(self, wildcards: Any) -> str:
        """Of calibration tokens."""
        return self.semantics("tokens", calibration=wildcards.calibration)

    def statistics_semantics(self, wildcards: Any) -> str:
        """Of cached statistics."""
        return self.semantics("calibrate", calibration=wildcards.calibration)

    def factor_semantics(self, wildcards: Any) -> str:
        """Of the factors of cached Hessians."""
        return self.semantics("factor")

    def gate_semantics(self, wildcards: Any) -> str:
        """Of the comparison with published numbers."""
        return self.semantics("gate")

    def quantize_semantics(self, wildcards: Any) -> str:
        """Of quantized weights."""
        return self.semantics("quantize", method=wildcards.method, calibration=wildcards.calibration)

    def lorc_semantics(self, wildcards: Any) -> str:
        """Of LoRC factors."""
        return self.semantics("lorc", lorc=wildcards.lorc, **self._lorc_data(wildcards))

    def evaluate_semantics(self, wildcards: Any) -> str:
        """Of perplexities."""
        return self.semantics("evaluate", eval=wildcards.protocol)

    def harness_semantics(self, wildcards: Any) -> str:
        """Of lm-eval's metrics."""
        return self.semantics("harness", eval=wildcards.protocol)

    # What they read

    def checkpoint_inputs(self, wildcards: Any) -> list[str]:
        """The text that a stand-in is trained on."""
        standin = self.study.model(wildcards.model).standin
        return [paths.result(paths.TEXT).format(text=standin.text)] if standin else []

    def text_inputs(self, wildcards: Any) -> list[str]:
        """The file on this machine that a text is copied from; none for one that is downloaded or that Python carries."""
        return _existing(texts.own_file(compose.load("text", wildcards.text), self._runtime.data_dir))

    def task_inputs(self, wildcards: Any) -> list[str]:
        """The file on this machine that a task's documents are copied from."""
        return _existing(texts.local_file(compose.load("task", wildcards.task).local, self._runtime.data_dir))

    def protocol_texts(self, wildcards: Any) -> list[str]:
        """The texts of a perplexity protocol."""
        names = compose.load("eval", wildcards.protocol).texts()
        return [paths.result(paths.TEXT).format(text=name) for name in names]

    def calibration_texts(self, wildcards: Any) -> list[str]:
        """The texts of a calibration."""
        names = compose.load("calibration", wildcards.calibration).texts()
        return [paths.result(paths.TEXT).format(text=name) for name in names]

    def harness_tasks(self, wildcards: Any) -> list[str]:
        """Staged documents of the lm-eval tasks."""
        folders = [paths.task_folder(name, compose.load("task", name).text) for name in self.study.tasks]
        return [paths.result(folder) for folder in dict.fromkeys(folders)]

    def quantize_inputs(self, wildcards: Any) -> list[str]:
        """The checkpoint, and what the method wants of the data."""
        method, needed, factor = compose.load("method", wildcards.method), [paths.CHECKPOINT], {}
        if method.data == "statistics":
            needed.append(paths.HESSIAN_FACTORS)
            factor = method.factor
        elif method.data:
            needed.append(paths.CALIBRATION_TOKENS)
        if self.study.gated(wildcards.model):
            needed.append(paths.GATE)
        return [paths.result(pattern).format(**wildcards, **factor) for pattern in needed]

    def lorc_inputs(self, wildcards: Any) -> list[str]:
        """The checkpoint, its quantized weights, and calibration tokens for factors that are trained."""
        data = [paths.CALIBRATION_TOKENS] if self._lorc_data(wildcards) else []
        return [paths.result(pattern).format(**wildcards) for pattern in (paths.CHECKPOINT, paths.QUANTIZED, *data)]

    def _lorc_data(self, wildcards: Any) -> dict[str, str]:
        """The calibration of factors that are trained."""
        trained = compose.load("lorc", wildcards.lorc).kind == "distilled"
        return {"calibration": wildcards.calibration} if trained else {}

    def evaluate_inputs(self, wildcards: Any) -> list[str]:
        """Quantized weights, and factors for every rank asked for."""
        return _weights(self._cells[_evaluation(wildcards)])

    def harness_inputs(self, wildcards: Any) -> list[str]:
        """Quantized weights and factors of the cells that lm-eval measures."""
        return _weights(self._harness[_evaluation(wildcards)])

    def downloads(self) -> list[str]:
        """Staged texts, tasks and checkpoints: all of the study that may come from the hub, and nothing that is computed."""
        texts = [text for text in self._texts() if compose.load("text", text).source != "stdlib"]
        found = [paths.result(paths.TEXT).format(text=text) for text in texts]
        if self.study.harness:
            own = [name for name in self.study.tasks if compose.load("task", name).text is None]
            found += [paths.result(paths.TASK).format(task=name) for name in own]
        models = dict.fromkeys(cell.model for cell in self.study.cells)
        names = [name for name in models if self.study.model(name).source != "standin"]
        return found + [paths.result(paths.CHECKPOINT).format(model=name) for name in names]

    def evaluations(self) -> list[str]:
        """Every evaluation of the study."""
        of_cells = [(paths.EVALUATION, cell) for cell in self.study.cells]
        of_harness = [(paths.HARNESS, cell) for cell in self.study.harness]
        found = [
            paths.result(pattern).format(**cell.paths(), protocol=self.study.eval) for pattern, cell in [*of_cells, *of_harness]
        ]
        return list(dict.fromkeys(found))

    # Start and end of a run

    def take_lock(self) -> None:
        """One run at a time on one results folder; the kernel frees the lock however this process ends."""
        try:
            Path(paths.LOCK).parent.mkdir(exist_ok=True)
            self._lock = open(paths.LOCK, "w")  # noqa: SIM115  held until the process ends
        except OSError as error:
            sys.exit(f"error: {paths.LOCK} cannot be written ({error.strerror}); work in a folder that can")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit("error: another run is using this results folder; wait for it, or work in another folder")

    def start_warm(self) -> None:
        """Start the process that local jobs fork from."""
        self._warm = warm.WarmProcess(self._runtime.threads)

    def finish(self) -> None:
        """End what was started."""
        if self._warm:
            self._warm.stop()

    def report_failure(self) -> None:
        """After a run with failures: MLflow and the page over what exists, and the study open for the next run."""
        Path(self.complete).unlink(missing_ok=True)
        for stage in ("track", "report"):
            command = f"python -m lorcbench.stages.{stage} {self.study_arguments()}"
            subprocess.run(command, shell=True, check=False)
        self.finish()


def _overrides(settings: dict) -> list[str]:
    """The Hydra overrides, checked as far as can be without composing."""
    if unknown := sorted(set(settings) - set(_KEYS)):
        raise ConfigError(f"--config {unknown[0]}=…: unknown key; known keys are {', '.join(_KEYS)}")
    text = settings.get("overrides", "")
    if not isinstance(text, str) or "'" in text or '"' in text:
        raise ConfigError("overrides: expected one string without quotes inside, such as overrides='study.ranks=[0,8]'")
    for override in text.split():
        if not override.startswith(_OVERRIDES):
            raise ConfigError(
                f"override {override!r}: expected study.…, eval.tasks=…, runtime.… or tracking.…; "
                "other settings go into names, such as study.methods=[gptq+damp=0.05]"
            )
    return text.split()


def _existing(path: Path | None) -> list[str]:
    return [str(path)] if path else []


def _by_evaluation(cells: tuple[Cell, ...]) -> dict[tuple, list[Cell]]:
    found = defaultdict(list)
    for cell in cells:
        found[_evaluation(cell)].append(cell)
    return found


def _evaluation(wildcards: Any) -> tuple:
    return tuple(getattr(wildcards, name) for name in _EVALUATED)


def _weights(cells: list[Cell]) -> list[str]:
    needed = []
    for cell in cells:
        if cell.method != "none":
            needed.append(paths.result(paths.QUANTIZED).format(**cell.paths()))
        if cell.rank:
            needed.append(paths.result(paths.FACTORS).format(**cell.paths()))
    return list(dict.fromkeys(needed))
