"""What is refused before the first job: a command line, windows or files that cannot be right."""

from __future__ import annotations

import os

from lorcbench.config import commands, compose, folders, gguf
from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import ModelConfig, RuntimeConfig
from lorcbench.data import stdlib_text, texts
from lorcbench.study.cells import Study

_KEYS = ("model_path", "name", "overrides", "study")
_MACHINE = ("runtime.", "tracking.")  # values of these may be in quotes, since paths have blanks
_OVERRIDES = ("study.", "eval.tasks=", "model.name=", *_MACHINE)


def overrides_of(settings: dict) -> list[str]:
    """The Hydra overrides of Snakemake's ``--config``, checked as far as can be without composing them.

    Raises:
        ConfigError: an unknown key, or an override that the workflow does not pass on.
    """
    if unknown := sorted(set(settings) - set(_KEYS)):
        raise ConfigError(f"--config {unknown[0]}=…: unknown key; known keys are {', '.join(_KEYS)}")
    text = settings.get("overrides", "")
    if not isinstance(text, str):
        raise ConfigError("overrides: expected one string, such as overrides='study.ranks=[0,8]'")
    overrides = commands.split(text)
    for override in overrides:
        if not override.startswith(_OVERRIDES):
            raise ConfigError(
                f"override {override!r}: expected study.…, eval.tasks=…, runtime.… or tracking.…; "
                "other settings go into names, such as study.methods=[gptq+damp=0.05]"
            )
        if not override.startswith(_MACHINE) and ("'" in override or '"' in override):
            raise ConfigError(f"override {override!r}: expected it without quotes, such as study.ranks=[0,8]")
    return overrides


def check_windows(study: Study) -> None:
    """Refuse windows that are longer than the positions of a stand-in, or of a checkpoint folder."""
    lengths = {f"study.eval={study.eval}+window": compose.load("eval", study.eval).window}
    for name in study.calibrations:
        lengths[f"study.calibrations=[{name}+length"] = compose.load("calibration", name).length
    for model in study.models:
        limit = _positions(study.model(model))
        for setting, length in lengths.items():
            if limit is not None and length > limit:
                hint = f"{setting}={limit}" + ("]" if "[" in setting else "")
                raise ConfigError(f"windows of {length} tokens, but {model} has {limit} positions; expected {hint}")


def _positions(model: ModelConfig) -> int | None:
    """How many positions a model has; None if they are computed, or not known before it is there."""
    if model.source == "folder":
        return folders.positions(model.path)
    return model.standin.positions if model.standin and model.record.learned_positions else None


def check_vocabularies(study: Study) -> None:
    """Refuse stand-ins of another vocabulary than that of their tokenizer."""
    for model in study.models:
        if standin := study.model(model).standin:
            stdlib_text.check_vocabulary(standin)


def check_files(study: Study) -> None:
    """Refuse a model whose GGUF file, or the package that holds it, is missing on this machine."""
    for model in study.models:
        if study.model(model).source == "gguf":
            gguf.gguf_file(study.model(model))


def check_data(study: Study, runtime: RuntimeConfig) -> None:
    """Refuse texts and tasks that are unknown, and files that are missing on this machine."""
    entries = [("text", name) for name in study.texts]
    entries += [("task", name) for name in study.tasks] if study.harness else []
    patterns, any_local = [], False
    for group, name in entries:
        config = compose.load(group, name)
        if getattr(config, "source", None) == "file" and not texts.own_file(config, None).is_file():
            raise ConfigError(f"text.path={config.path} of {name}: no such file")
        patterns += config.local
        any_local = any_local or texts.local_file(config.local, runtime.data_dir) is not None
    if runtime.data_dir and patterns and not any_local:
        raise ConfigError(
            f"runtime.data_dir={runtime.data_dir}: no file of this study there; expected one of {', '.join(patterns)}"
        )
    if runtime.data_dir is not None and not os.path.isdir(runtime.data_dir):
        raise ConfigError(f"runtime.data_dir={runtime.data_dir}: expected a folder")
