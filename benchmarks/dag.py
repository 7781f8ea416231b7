"""How long Snakemake takes to lay out a study of 5,000 cells, with nothing there and with everything there.

    python benchmarks/dag.py [--models 12]            (about 15 minutes at five repeats)

The study is 12 models (OPT-125m to OPT-66b, BLOOM-560m to BLOOM-3b) × 7 methods × 12 weight formats × 5 ranks, and full
precision. ``snakemake -n`` is run in an empty folder, then in one where this script has written every result that the study
asks for, so that nothing is to do. They are empty results: the dry run looks at dates and parameters, never inside. With them
Snakemake must find its records of how each file was made, which this script lets it write itself by ``--touch``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from common import ROOT, Sample, environment, interleaved, machine, measure, parser, publish, removed, table

TARGETS = {"nothing there": 12, "all there": 20}
OPT = ["opt-125m", "opt-350m", "opt-1.3b", "opt-2.7b", "opt-6.7b", "opt-13b", "opt-30b", "opt-66b"]
MODELS = [*OPT, "bloom-560m", "bloom-1.1b", "bloom-1.7b", "bloom-3b"]
METHODS = ["rtn", "gptq", "gptq+damp=0.05", "gptq+group_params=corrected", "gptq+static_groups=true", "gptq-cached"]
METHODS += ["gptq-cached+damp=0.05"]
WEIGHTS = [f"w{bits}-asym-{group}" for bits in (8, 4, 3, 2) for group in ("row", "g128", "g64")]
RANKS = [0, 4, 8, 16, 32]


def write_study(conf: Path, models: int) -> int:
    """The study on the first so many models; returns how many cells it has."""
    study = conf / "study" / "bench-dag.yaml"
    study.parent.mkdir(parents=True, exist_ok=True)
    axes = {"models": MODELS[:models], "methods": METHODS, "calibrations": ["c4-128x2048"], "weights": WEIGHTS, "ranks": RANKS}
    lines = ["defaults: [/schema/study@_here_: study, _self_]", "title: Five thousand cells", "eval: gptq-old"]
    lines.append("lorc: [plain-int8]")
    grid = ", ".join(f"{axis}: [{', '.join(map(str, values))}]" for axis, values in axes.items())
    lines.append(f"grids: [{{{grid}}}]")
    study.write_text("\n".join(lines) + "\n")
    return models * (len(METHODS) * len(WEIGHTS) * len(RANKS) + 1)


def command(where: Path, *options: str) -> list[str]:
    """Snakemake on the study in a folder of its own."""
    made = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--cores",
        "2",
        "--directory",
        str(where),
    ]
    return [
        *made,
        "--workflow-profile",
        str(ROOT / "profiles/default"),
        "--config",
        "study=bench-dag",
        "overrides=runtime.memory_gib=400",
        *options,
    ]


def fill(where: Path, variables: dict[str, str]) -> int:
    """Write every file that the study asks for, oldest stage first, and let Snakemake record them; returns how many."""
    listed = subprocess.run(
        command(where, "-n", "--quiet", "host"), cwd=where, env=variables, capture_output=True, text=True, check=False
    )
    text = listed.stdout + listed.stderr
    outputs = re.findall(r"^ +output: (.*)$", text, re.MULTILINE)
    if not outputs:
        sys.exit(f"no jobs in the dry run:\n{text[-2000:]}")
    files = sorted({file for line in outputs for file in line.split(", ")})
    for file in files:
        path = where / re.sub(r" \(.*\)$", "", file)
        is_folder = not path.suffix and not path.name.startswith(".")
        (path if is_folder else path.parent).mkdir(parents=True, exist_ok=True)
        if not is_folder:
            path.touch()
    measure(command(where, "--touch", "--cores", "256"), variables, where)
    return len(files)


def dry_run(where: Path, variables: dict[str, str]) -> Sample:
    """One dry run, its jobs counted."""
    taken = measure(command(where, "-n"), variables, where)
    return {**taken, "seconds": taken["wall"]}


def main() -> None:
    """Measure both."""
    arguments = parser(__doc__)
    arguments.add_argument("--models", type=int, default=len(MODELS), choices=range(1, len(MODELS) + 1))
    given = arguments.parse_args()
    work = given.bench / "dag"
    removed(work)
    cells = write_study(work / "conf", given.models)
    variables = environment(1, LORCBENCH_CONF=str(work / "conf"))
    places = {name: work / name.replace(" ", "-") for name in TARGETS}
    for where in places.values():
        where.mkdir(parents=True)
    files = fill(places["all there"], variables)
    state = subprocess.run(
        command(places["all there"], "-n"), cwd=places["all there"], env=variables, capture_output=True, text=True, check=True
    )
    if "othing to be done" not in state.stdout + state.stderr:
        sys.exit(f"something is left to do where all should be there:\n{(state.stdout + state.stderr)[-2000:]}")
    header = machine(1)
    samples = interleaved(
        {name: lambda where=where: dry_run(where, variables) for name, where in places.items()}, given.repeats
    )
    lines = [header, "", f"{cells} cells, {files} files, `snakemake -n`, {given.repeats} repeats.", ""]
    lines.append(table(samples, {"wall": "wall, s", "cpu": "CPU, s", "rss": "peak memory, GiB"}))
    lines += ["", *(f"- {name}: target ≤ {target} s" for name, target in TARGETS.items())]
    publish(given.bench, "dag", "\n".join(lines), {"samples": samples, "cells": cells})


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
