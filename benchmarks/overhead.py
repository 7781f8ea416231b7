"""Which share of a study's wall time is not model arithmetic: imports, the DAG, start-up of jobs, the report.

    python benchmarks/overhead.py [--study demo]            (as long as the study; `smoke` is a minute, `demo` six)

The study is run from nothing in a folder of its own. Its wall time on the cores it may use is what there is to spend; model
arithmetic is what its jobs spent between the end of their start-up and their end, by stage, from the records (``run.json``)
that they leave: a stage that trains, calibrates, quantizes, decomposes, evaluates or runs lm-eval tasks counts, the others
(text, tokens, MLflow, the report) do not. What remains is Snakemake's own start, its scheduling, processes' starts, and cores
with nothing to do.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

from common import ROOT, environment, machine, measure, parser, publish, removed

ARITHMETIC = ("prepare", "calibrate", "factor", "quantize", "lorc", "evaluate", "harness")


def records(results: Path) -> dict[str, list[dict]]:
    """The run records of all jobs, by stage."""
    found = defaultdict(list)
    for file in sorted(results.rglob("run.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        found[record["stage"]].append(record)
    return found


def main() -> None:
    """Run a study, read its records, print the shares."""
    arguments = parser(__doc__)
    arguments.add_argument("--study", default="smoke")
    given = arguments.parse_args()
    where = given.bench / "overhead" / given.study
    removed(where)
    where.mkdir(parents=True)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", str(given.threads)]
    command += [
        "--workflow-profile",
        str(ROOT / "profiles/default"),
        "--directory",
        str(where),
        "--config",
        f"study={given.study}",
    ]
    header, taken = machine(1), measure(command, environment(1), where)
    there = taken["wall"] * given.threads
    lines = [header, "", f"{given.study}: {taken['wall']:.0f} s on {given.threads} cores.", ""]
    lines += ["| stage | jobs | seconds | CPU seconds | share of cores × wall |", "| --- | ---: | ---: | ---: | ---: |"]
    spent = {}
    for stage, jobs in sorted(records(where / "results").items()):
        seconds, cpu = (sum(job[key] for job in jobs) for key in ("seconds", "cpu_seconds"))
        spent[stage] = cpu
        lines.append(f"| {stage} | {len(jobs)} | {seconds:.1f} | {cpu:.1f} | {cpu / there:.1%} |")
    arithmetic = sum(cpu for stage, cpu in spent.items() if stage in ARITHMETIC)
    lines += ["", f"- model arithmetic (CPU seconds of {', '.join(ARITHMETIC)}): {arithmetic / there:.1%}"]
    lines.append(f"- everything else: {1 - arithmetic / there:.1%} (target ≤ 40 %; means nothing on a machine that others use)")
    total = taken["cpu"] + sum(spent.values())  # forked jobs are nobody's waited children: theirs is in their records alone
    lines.append(f"- of {total:.0f} CPU seconds in all, arithmetic is {arithmetic / total:.1%}: this does not depend on others")
    publish(given.bench, "overhead", "\n".join(lines), {"run": taken, "cpu_seconds": spent})


if __name__ == "__main__":
    main()
