"""What is refused before the first job: a command line, windows or files that cannot be right."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

from lorcbench.config import commands, compose, gguf, places
from lorcbench.config.checks import ConfigError
from lorcbench.config.protocols import HALVES
from lorcbench.config.schema import RuntimeConfig, StudyConfig
from lorcbench.config.variants import Variant
from lorcbench.data import hub, stdlib_text, task_files, texts
from lorcbench.pipeline import exports
from lorcbench.study import given
from lorcbench.study.cells import Study

KEYS = ("model_path", "name", "overrides", "study", "text_path", "device", "foreign", *exports.KEYS)
# What a file for `--configfile` says in YAML instead of `overrides`: keys of the study, lm-eval tasks, and two groups of keys.
STRUCTURED = (*(field.name for field in fields(StudyConfig)), "tasks", "runtime", "tracking")
_SHORTEST = 128  # `lorcbench.data.corpora.SHORTEST`, whose module imports PyTorch
_MACHINE = ("runtime.", "tracking.")  # values of these may be in quotes, since paths have blanks
OVERRIDES = ("study.", "eval.tasks=", *given.OVERRIDES, *_MACHINE)


def study_of(settings: dict) -> str:
    """The name of the study that Snakemake's ``--config`` asks for: ``own`` on a model of one's own, else the demo.

    Raises:
        ConfigError: as `given.study_of`.
    """
    return given.study_of(settings) or given.DEMO


def fetch_config(model_path: object) -> None:
    """Download the ``config.json`` of a model that is named on the hub, so that its sizes are known before the first job.

    Raises:
        ConfigError: the hub does not give it, or it is neither a name, a checkpoint folder nor a GGUF file.
    """
    if not isinstance(model_path, str) or not model_path or "\0" in model_path:
        return  # refused later
    place = places.place(model_path, "model_path")
    if places.is_on_hub(place):
        try:
            hub.fetch_config(place)
        except hub.HubError as error:
            raise ConfigError(f"model_path={model_path}: no such folder here, and {error}") from None


def overrides_of(settings: dict) -> list[str]:
    """The Hydra overrides of Snakemake's ``--config`` and ``--configfile``, checked as far as can be without composing them.

    What ``overrides`` says goes before the same in keys of its own.

    Raises:
        ConfigError: an unknown key, or an override that the workflow does not pass on.
    """
    if unknown := sorted(set(settings) - {*KEYS, *STRUCTURED}):
        raise ConfigError(f"--config {unknown[0]}=…: unknown key; known keys are {', '.join((*KEYS, *STRUCTURED))}")
    text = settings.get("overrides", "")
    if not isinstance(text, str):
        raise ConfigError("overrides: expected one string, such as overrides='study.ranks=[0,8]'")
    overrides = commands.split(text)
    for override in overrides:
        if not override.startswith(OVERRIDES):
            raise ConfigError(
                f"override {override!r}: expected study.…, eval.tasks=…, runtime.… or tracking.…; "
                "other settings go into names, such as study.methods=[gptq+damp=0.05]"
            )
        if not override.startswith(_MACHINE) and ("'" in override or '"' in override):
            raise ConfigError(f"override {override!r}: expected it without quotes, such as study.ranks=[0,8]")
    said = {override.partition("=")[0] for override in overrides}
    overrides = [override for override in _structured(settings) if override.partition("=")[0] not in said] + overrides
    # A key of its own, so that a profile's configfile can say it whatever the command line overrides; which wins.
    return [f"runtime.device={settings['device']}", *overrides] if "device" in settings else overrides


def _structured(settings: dict) -> list[str]:
    """The overrides that keys of their own stand for, such as ``models: [opt-125m]`` of a file.

    Raises:
        ConfigError: a group of keys is something else.
    """
    overrides = []
    for key in (key for key in STRUCTURED if key in settings and key not in KEYS):
        value = settings[key]
        if f"{key}." not in _MACHINE:
            overrides.append(f"{'eval' if key == 'tasks' else 'study'}.{key}={_in_hydras_grammar(value)}")
        elif isinstance(value, dict):
            overrides += [f"{key}.{part}={_in_hydras_grammar(entry)}" for part, entry in value.items()]
        else:
            raise ConfigError(f"{key}: {value}: expected keys and values, such as runtime: {{threads: 2}}")
    return overrides


def _in_hydras_grammar(value: object) -> str:
    """A value of YAML as an override has it."""
    if isinstance(value, list):
        return f"[{','.join(map(_in_hydras_grammar, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_in_hydras_grammar(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, str):
        return value if re.fullmatch(r"[A-Za-z0-9._+=/-]+", value) else compose.quoted(value)
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)


def check(study: Study, runtime: RuntimeConfig) -> None:
    """Refuse what a run of the study would refuse before its first job.

    Raises:
        ConfigError: the first of it, in one line.
    """
    _check_vocabularies(study)
    _check_files(study)
    _check_windows(study)
    _check_data(study, runtime)


def _check_windows(study: Study) -> None:
    """Refuse windows that are longer than the positions of a stand-in, a checkpoint folder or a GGUF file."""
    protocol = compose.load("eval", study.eval)
    lengths = {} if protocol.fit else {f"study.eval={study.eval}+window": protocol.window}
    for name in study.calibrations:
        if not (calibration := compose.load("calibration", name)).fit:
            lengths[f"study.calibrations=[{name}+length"] = calibration.length
    for model in study.models:
        limit = places.positions(study.model(model))
        for setting, length in lengths.items():
            if limit is not None and length > limit:
                hint = f"{setting}={limit}" + ("]" if "[" in setting else "")
                raise ConfigError(f"windows of {length} tokens, but {model} has {limit} positions; expected {hint}")


def _check_vocabularies(study: Study) -> None:
    """Refuse stand-ins of another vocabulary than that of their tokenizer."""
    for model in study.models:
        if standin := study.model(model).standin:
            stdlib_text.check_vocabulary(standin)


def _check_files(study: Study) -> None:
    """Refuse a model whose GGUF file cannot be read, or is missing on this machine, or the package that holds it."""
    for model in map(study.model, study.models):
        if model.source == "gguf":
            file = gguf.gguf_file(model)
            if model.path:
                gguf.check(file, f"model.path={model.path} of {model.name}")


def _chosen(study: Study) -> list[tuple[str, str]]:
    """The protocol and the calibrations of a study, with their config groups."""
    return [("eval", study.eval), *(("calibration", name) for name in study.calibrations)]


def _check_sizes(study: Study) -> None:
    """Refuse a text of the user's that is too small whatever the tokenizer: a token has one byte or more.

    Of a compressed file, and of one whose lines get something between them, the bytes say nothing.
    """
    for name in study.texts:
        text = study.entry("text", name)
        is_whole = text.lines == "whole" and (text.path or "").endswith((".txt", ".raw", ".tokens"))
        if text.source != "file" or not (is_whole or text.path.endswith((".jsonl", ".json"))):
            continue
        needed, size = _tokens_needed(study, name), Path(text.path).expanduser().stat().st_size
        if size < needed:
            place = f"text_path={text.path}" if name in study.texts_given else f"text.path={text.path} of {name}"
            expected = f"expected at least {needed:,} tokens, which are about {4 * needed:,} bytes of English"
            raise ConfigError(f"{place}: {size:,} bytes are too few for the windows of {study.eval}; {expected}")


def _tokens_needed(study: Study, text: str) -> int:
    """The fewest tokens of a text for which the study has windows to measure, and to calibrate on."""
    needed: dict[str, int] = {}  # by the part of the text that is read
    for group, name in _chosen(study):
        config = compose.load(group, name)
        longest = config.window if group == "eval" else config.length
        for corpus in config.corpora.values():
            if corpus.text == text:
                least = min(longest, _SHORTEST) * config.fit if config.fit else longest
                needed[corpus.part] = max(needed.get(corpus.part, 0), least)
    return sum(needed.values())


def _check_halves(study: Study) -> None:
    """Refuse halves of the text that Python carries, which has parts of its own."""
    for group, name in _chosen(study):
        for corpus in compose.load(group, name).corpora.values():
            if corpus.part in HALVES and study.entry("text", corpus.text).source == "stdlib":
                expected = f"{Variant.parse(name).without('text')}, or text=NAME of another text"
                raise ConfigError(f"{name}: {corpus.text} has no halves, but parts of its own; expected {expected}")


def _check_data(study: Study, runtime: RuntimeConfig) -> None:
    """Refuse texts and tasks that are unknown, and files that are missing on this machine."""
    entries = [("text", name) for name in study.texts]
    entries += [("task", name) for name in study.tasks] if study.harness else []
    patterns, any_local, data_dir = [], False, runtime.data_dir
    for group, name in entries:
        config = study.entry(group, name)
        if getattr(config, "source", None) == "file" and not texts.own_file(config, None).is_file():
            raise ConfigError(f"text.path={config.path} of {name}: no such file")
        patterns += config.local
        local = task_files.all_files(config, data_dir) if group == "task" else texts.local_file(config.local, data_dir)
        any_local = any_local or bool(local)
    for text in study.texts_given.values():
        try:
            texts.check_start(Path(text.path), text.column)
        except texts.TextError as error:
            hint = "; another is overrides='text.column=NAME'" if "in column" in str(error) else ""
            raise ConfigError(f"text_path={error}{hint}") from None
    _check_halves(study)
    _check_sizes(study)
    if runtime.data_dir and patterns and not any_local:
        raise ConfigError(
            f"runtime.data_dir={runtime.data_dir}: no file of this study there; expected one of {', '.join(patterns)}"
        )
    if runtime.data_dir is not None and not os.path.isdir(runtime.data_dir):
        raise ConfigError(f"runtime.data_dir={runtime.data_dir}: expected a folder")
