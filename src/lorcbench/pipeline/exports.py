"""Cells that a run of the workflow exports: what it is told of them, the jobs that make them, and what cannot fit."""

from __future__ import annotations

from dataclasses import replace

from lorcbench.common import shipped
from lorcbench.config import compose
from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import RuntimeConfig
from lorcbench.pipeline.estimate import estimate, shape_of
from lorcbench.study import exports
from lorcbench.study.cells import Cell, Study
from lorcbench.study.stages import EXPORT, StageJob

KEYS = ("export", "export_format", "export_verify")  # of --config
_SHORT = {"format": "export_format", "verify": "export_verify"}  # of the command `lorcbench export`


def jobs(study: Study, cells: list[Cell], settings: dict) -> list[StageJob]:
    """The job of each cell that is exported.

    Args:
        settings: of ``--config``.

    Raises:
        ConfigError: a format does not hold its cell, or what loads it is not installed.
    """
    found = []
    for cell in cells:
        export, verify = settings.get("export_format"), settings.get("export_verify")
        export, verify = exports.checked(cell, export, verify, study.model(cell.model).family)
        if export == "gptq" and exports.gptq_python() is None:
            raise ConfigError(f"export_format=gptq of {cell.key}: {exports.WITHOUT_GPTQMODEL}")
        names = study.wildcards(cell)
        found.append(StageJob(EXPORT, replace(names, rank=str(cell.rank), export=export, verify=verify)))
    return found


def refuse_misfits(study: Study, found: list[StageJob], runtime: RuntimeConfig, memory: float) -> None:
    """Refuse an export whose check does not fit.

    Args:
        memory: MiB that jobs may take.

    Raises:
        ConfigError: one needs more.
    """
    for job in found:
        shape = shape_of(study.model(job.names.model))
        if shape is None or (job.folder / "result.json").is_file():
            continue
        needed = estimate(EXPORT.module, shape, job.names, runtime).memory
        if needed > memory:
            instead = "runtime.memory_gib=… says how much there is"
            if job.names.verify == "whole":
                instead = "export_verify=tensors compares one module after another and runs no model"
            there = f"needs about {needed / 1024:.1f} GiB of memory, here are {memory / 1024:.1f}"
            raise ConfigError(f"export of {job.names.model}: {there}; {instead}")


def command(arguments: list[str]) -> list[str]:
    """Snakemake's command line for ``lorcbench export study=NAME CELL …``, without the program.

    Raises:
        ConfigError: a cell or a study is missing.
    """
    known = ("study", "name", "model_path", "text_path", "foreign", "overrides", "device", *_SHORT)
    settings, cells = [], []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in known:
            settings.append(f"{_SHORT.get(key, key)}={value}")
        elif "/" in argument or "best@" in argument:
            cells.append(argument)
        else:
            expected = "a cell, such as opt-125m/gptq/c4-128x2048/w4-asym-g128/a16/r0, or best@BUDGET"
            raise ConfigError(f"{argument}: expected {expected}, or one of {', '.join(f'{key}=…' for key in known)}")
    if not cells:
        raise ConfigError("export: expected a cell, or best@BUDGET such as best@4.25")
    if not any(setting.startswith(("study=", "model_path=")) for setting in settings):
        raise ConfigError(f"export: expected study=NAME beside the cell; known: {', '.join(compose.names('study'))}")
    return ["--snakefile", str(shipped.snakefile()), "--cores", "all", "--config", *settings, f"export={','.join(cells)}"]
