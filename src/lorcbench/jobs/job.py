"""What every stage does around its work: configuration, logging, progress, failure records, run records."""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from omegaconf import OmegaConf

from lorcbench.common import paths
from lorcbench.common.artifacts import fingerprint, read_json, remove_leftovers, write_json, write_text
from lorcbench.common.gpus import CPU, CUDA
from lorcbench.common.slots import Slots
from lorcbench.common.versions import code_version
from lorcbench.config import commands, compose, gguf
from lorcbench.config.checks import ConfigError
from lorcbench.config.lorc import LorcConfig
from lorcbench.config.protocols import CalibrationConfig, EvalConfig, TaskConfig, TextConfig
from lorcbench.config.schema import ModelConfig, RuntimeConfig, TrackingConfig
from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.jobs import devices, records
from lorcbench.jobs.progress import Progress, Ranks
from lorcbench.study import meaning
from lorcbench.study.stages import CALIBRATE, CALIBRATION_TOKENS, FACTOR, HARNESS, LORC, ON_DEVICE, QUANTIZE, Stage, StageJob

Explain = Callable[["Job", BaseException], str | None]
# How a method declares that it reads the result of a stage, by the stage's name.
_DECLARED_BY = {
    CALIBRATE.name: 'data = "statistics" in the class of the method',
    FACTOR.name: 'data = "statistics" and a factor in the class of the method',
    CALIBRATION_TOKENS.name: 'data = "tokens" in the class of the method',
}
_BETWEEN_IN_A_FILE = 60.0  # seconds between lines of progress where standard error is no terminal


class Job:
    """One run of one stage.

    Attributes:
        stage: the stage's name, which is that of its module.
        overrides: the command line.
        explain: what more there is to say of an error, in one line; None if nothing.
        cfg: the composed configuration.
        config: what of it stands in no group.
        weight_format: of the weights.
        trained_format: of the activations that the weights are made under.
        activation_format: of the activations at evaluation.
        names: what fills the patterns of folders: canonical names, as the command line spells them.
        folder: where its result goes; set by `at`.
        log_file: its log, open for writing; set by `at`.

    Raises:
        ConfigError: the command line makes no sense.
    """

    def __init__(self, stage: str, overrides: list[str]) -> None:
        self.stage = stage
        self.overrides = overrides
        self.explain: Explain = lambda job, error: None
        commands.check(overrides)
        # The name of what the command line gives may look like a number or null: it never passes through Hydra's grammar.
        named = [override for override in overrides if not override.startswith("model.name=")]
        if "text=file" not in overrides:  # of the text on which a study runs, which a stage that sees all of it knows by itself
            named = [override for override in named if not override.startswith("text.column=")]
        self.cfg = compose.compose([*named, *commands.from_environment()])
        self.config = compose.job_config(self.cfg)
        self.names = commands.names(overrides, self.config)
        self.weight_format = _parsed(WeightFormat.parse, "weight", self.config.weight)
        self.trained_format = _parsed(ActivationFormat.parse, "trained", self.config.trained)
        self.activation_format = _parsed(ActivationFormat.parse, "activation", self.config.activation)
        self.folder: Path | None = None
        # From the start of the process: imports are a large part of a small job.
        self.started = time.monotonic() - (time.time() - psutil.Process().create_time())
        self.log_file = None
        self._kind = ""
        self._inputs: dict[str, str] = {}
        self._declared: set[Path] = set()  # folders of results that `use` and `digest` have looked at
        self._slots: Slots | None = None
        self.ranks = Ranks()
        self._progress = Progress(self.started)
        self._told = -_BETWEEN_IN_A_FILE  # when the terminal last had a line of progress

    # What it was told

    def _group(self, group: str) -> Any:
        """The entry that was chosen in a config group, as its dataclass."""
        node = self.cfg.get(group)
        if node is None:
            raise commands.missing(self.stage, group)
        if group == "model":
            node.name = self.names.model
            if "model=gguf" in self.overrides:
                node.path = gguf.absolute(node.path)
        if any(f"{group}={given}" in self.overrides for given in ("folder", "file")):
            node.path = str(Path(node.path).expanduser().resolve())  # a setting, and the same from wherever it is typed
        return OmegaConf.to_object(node)

    @cached_property
    def model(self) -> ModelConfig:
        """The checkpoint."""
        return self._group("model")

    @cached_property
    def method(self) -> Any:
        """The quantization method: one of the dataclasses in `lorcbench.config.recipes`."""
        return self._group("method")

    @cached_property
    def calibration(self) -> CalibrationConfig:
        """The calibration data."""
        return self._group("calibration")

    @cached_property
    def lorc(self) -> LorcConfig:
        """The LoRC factors."""
        return self._group("lorc")

    @cached_property
    def eval(self) -> EvalConfig:
        """The perplexity protocol, and the lm-eval tasks."""
        return self._group("eval")

    @cached_property
    def text(self) -> TextConfig:
        """The text."""
        return self._group("text")

    @cached_property
    def task(self) -> TaskConfig:
        """The lm-eval task."""
        return self._group("task")

    @cached_property
    def runtime(self) -> RuntimeConfig:
        """Facts of the machine; of a stage that computes on a device, with the device that `auto` is."""
        runtime = self._group("runtime")
        return devices.resolved(runtime) if self.stage in ON_DEVICE else runtime

    @cached_property
    def tracking(self) -> TrackingConfig:
        """Where runs are tracked."""
        return self._group("tracking")

    @cached_property
    def threads(self) -> int:
        """Kernel threads."""
        return self.runtime.threads

    @property
    def device(self) -> str:
        """``cuda`` if this job computes on a GPU, else ``cpu``."""
        return self.runtime.device if self.stage in ON_DEVICE else CPU

    def take_device(self) -> None:
        """Wait for room on a GPU, and see no other; call this before anything asks CUDA for its devices."""
        if self.stage in ON_DEVICE:
            self._slots = devices.take(self.runtime, whole=self.stage == HARNESS.module)

    def with_method(self, method: Any) -> Job:
        """This job, but as one of another method, for what does a part of its work."""
        other = copy.copy(self)
        other.method = method
        return other

    # Where it works, and what it reads

    def at(self, stage: Stage, **names: str) -> Path:
        """Take the folder of a stage for the result, under this job's names but for `names`, and start the log there.

        Raises:
            ConfigError: the command line does not say of which model, method, text or task.
        """
        needed = [group for group in ("model", "text", "task") if f"{{{group}}}" in stage.pattern]
        commands.check_named(self.stage, self.names, needed + ["method"] * (stage in (QUANTIZE, LORC)))
        self._kind = stage.kind
        self.folder = stage.folder(replace(self.names, **names))
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        self.log_file = open(self.folder / "log.txt", "w", encoding="utf-8", buffering=1)  # noqa: SIM115  lives as long as the job
        faulthandler.enable(self.log_file)
        self.log(f"{self.stage} {' '.join(self.overrides)}")
        return self.folder

    def use(self, stage: Stage, artifact: str = "", **names: str) -> Path:
        """The folder of a result that this job reads; its digest becomes part of the job's identity.

        Args:
            stage: that made the result.
            artifact: what the identity calls it, if not as the table of stages does.
            names: of the result's folder, where they are others than this job's.

        Raises:
            ArtifactError: as `digest`.
        """
        self._inputs[artifact or stage.artifact] = self.digest(stage, **names)
        return self.folder_of(stage, **names)

    def digest(self, stage: Stage, **names: str) -> str:
        """The digest of another job's result, which must be what its names mean.

        Raises:
            ArtifactError: as `read_json`, and `meaning.check`.
        """
        job = StageJob(stage, replace(self.names, **names))
        result = read_json(job.folder / "result.json", stage.kind)
        meaning.check(job, self._entry, result)
        self._declared.add(job.folder)
        return result["digest"]

    def _entry(self, group: str, name: str) -> Any:
        """What is called `name` in a config group; not composed again if it is this job's own."""
        own = self.names.protocol if group == "eval" else getattr(self.names, group)
        return self._group(group) if name == own else compose.load(group, name)

    def folder_of(self, stage: Stage, **names: str) -> Path:
        """The folder of a result that `use` has declared, under this job's names but for `names`.

        Raises:
            ValueError: nothing has declared it, so that this job's result would not tell what it was made from.
        """
        folder = stage.folder(replace(self.names, **names))
        if folder not in self._declared:
            how = _DECLARED_BY.get(stage.name, f"job.use({stage.name.upper()}) before it")
            raise ValueError(f"{self.stage} reads the result of {stage.name}, which it has not declared; expected {how}")
        return folder

    @property
    def inputs(self) -> dict[str, str]:
        """The digests of the results that were used so far."""
        return dict(self._inputs)

    def log(self, line: str) -> None:
        """One line into the job's log; without it if the disk is full."""
        if self.log_file:
            with contextlib.suppress(OSError):
                print(f"{time.monotonic() - self.started:8.1f} s  {line}", file=self.log_file)

    def progress(self, done: float, total: int, what: str) -> None:
        """Say where a long stage is, on the terminal and in the log: every few seconds, of one that takes hours less often.

        Args:
            done: of `total` steps, with the part of the step under way; of `ranks`, if the stage measures several.
            what: a step is.
        """
        if line := self._progress.line(self.ranks, done, total, what):
            self.log(line.text)
            # A file with a line every few seconds is read by nobody.
            between = 0.0 if sys.stderr.isatty() else _BETWEEN_IN_A_FILE
            if not line.is_last and time.monotonic() >= self._told + between:
                self._told = time.monotonic()
                self.say(line.text)

    def phase(self, what: str) -> None:
        """Say which part of a long stage begins, on the terminal and in the log."""
        self.log(what)
        self.say(what)

    def say(self, line: str) -> None:
        """One line on the terminal, after the job's title."""
        print(f"[{self.title}] {line}", file=sys.stderr, flush=True)

    @property
    def title(self) -> str:
        """The names by which the job is known from others that run beside it."""
        return self.names.title(self.stage)

    def reason(self, error: BaseException) -> str:
        """An error in one line: as `explain` has it, else its kind and its message."""
        message = " ".join(str(error).split())
        return self.explain(self, error) or (
            message if isinstance(error, ConfigError) else f"{type(error).__name__}: {message}"
        )

    def identity(self, settings: Any, **files: str) -> dict:
        """What this job's bytes depend on: settings, digests of what it uses, code, kernel threads, library versions.

        Args:
            files: digests of what it reads beside results of stages.
        """
        about = {
            "stage": self.stage,
            "code": code_version(self.stage),
            "settings": settings,
            "inputs": self.inputs | files,
            "threads": self.threads,
            "versions": records.versions(),
        }
        return about | ({"device": CUDA} if self.device == CUDA else {})

    def finish(self, identity: dict, payload: dict) -> dict:
        """Write result.json, which says whose work it is, and run.json; returns the result."""
        body = self.write_result({"identity": identity, **payload})
        about = {"stage": self.stage, **records.of_process(time.monotonic() - self.started)}
        write_json(self.folder / "run.json", "run", about | devices.record(self.device, self._slots))
        (self.folder / "failed.json").unlink(missing_ok=True)
        if not commands.is_of_workflow():  # which says it, with the count of the run
            self.say(f"done, {time.monotonic() - self.started:.1f} s")
        return body

    def write_result(self, payload: dict) -> dict:
        """Write result.json alone."""
        place = str(self.folder).removeprefix(f"{paths.CACHE}/")
        return write_json(self.folder / "result.json", self._kind, {"of": place, **payload})

    def read_result(self) -> dict:
        """What an earlier run of this job left.

        Raises:
            ArtifactError: as `lorcbench.common.artifacts.read_json`.
        """
        return read_json(self.folder / "result.json", self._kind)

    def fail(self, error: BaseException) -> None:
        """Leave a record of the failure beside where the result would be, the traceback in the log."""
        self.log("".join(traceback.format_exception(error)))
        if self.folder:
            reason = self.explain(self, error) or " ".join(str(error).split()) or type(error).__name__
            record = {"stage": self.stage, "reason": reason}
            record["variants"] = getattr(error, "variants", None)  # the ranks concerned; null is the whole job
            with contextlib.suppress(OSError):  # on a full disk the message on the terminal must do
                write_text(self.folder / "failed.json", json.dumps(record) + "\n")


def _parsed(parse: Callable[[str], Any], key: str, text: str) -> Any:
    """A format as a value.

    Raises:
        ConfigError: `text` is none; the message names the key.
    """
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None


def shard_identity(identity: dict) -> str:
    """The mark that shards of one job carry, so that a restarted job knows its own."""
    return fingerprint(identity)
