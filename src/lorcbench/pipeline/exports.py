"""Cells that a run of the workflow exports: what it is told of them, the jobs that make them, and what cannot fit."""

from __future__ import annotations

from dataclasses import replace

from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import RuntimeConfig
from lorcbench.pipeline.estimate import estimate, shape_of
from lorcbench.study import exports
from lorcbench.study.cells import Cell, Study
from lorcbench.study.stages import EXPORT, StageJob

KEYS = ("export", "export_format", "export_verify")  # of --config


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
