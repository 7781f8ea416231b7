# The study, its cells, and what the rules ask about them. Nothing heavy is imported: this is parsed again on every node.
import fcntl
import os
import subprocess
import sys
from collections import defaultdict

from lorcbench import config as settings, paths, study as studies
from lorcbench.artifacts import canonical
from lorcbench.formats import cap
from lorcbench.versions import code_version
from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

# Two of Snakemake's lines for every job say nothing that the stages do not say better.
logger.addFilter(
    lambda record: getattr(record, "event", None) not in (LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED)
    and not record.getMessage().startswith("Select jobs")
)

# `.venv/bin/snakemake` works without activation: stages run in the interpreter that runs the workflow.
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
os.environ["LORCBENCH_JOB"] = "1"


def load_study():
    known = {"study", "overrides", "model_path"}
    if unknown := sorted(set(config) - known):
        sys.exit(f"--config {unknown[0]}=…: unknown; known keys are {', '.join(sorted(known))}")
    overrides = config.get("overrides", "")
    if not isinstance(overrides, str) or "'" in overrides or '"' in overrides:
        sys.exit("--config overrides=…: expected one string without quotes, such as overrides='study.ranks=[0,8]'")
    allowed = ("study.", "eval.tasks=", "runtime.", "tracking.")
    for override in overrides.split():
        if not override.startswith(allowed):
            sys.exit(f"override {override!r}: expected study.…, eval.tasks=…, runtime.… or tracking.…; "
                     "other settings go into names, such as study.methods=[gptq+damp=0.05]")
    try:
        study = studies.load(str(config.get("study", "demo")), overrides.split(), config.get("model_path"))
        return study, settings.compose([part for part in overrides.split() if part.startswith("runtime.")])
    except settings.ConfigError as error:
        sys.exit(f"error: {error}")


STUDY, COMPOSED = load_study()
RUNTIME = " ".join(part for part in config.get("overrides", "").split() if part.startswith("runtime."))
COMPLETE = f"results/{STUDY.name}/.complete"

# Variants (LoRC setting and rank) that each evaluation holds, by its wildcards.
VARIANTS, HARNESS_VARIANTS = defaultdict(list), defaultdict(list)
for _cells, _variants in ((STUDY.cells, VARIANTS), (STUDY.harness, HARNESS_VARIANTS)):
    for _cell in _cells:
        _key = (_cell.model, _cell.method, _cell.calibration, _cell.weight, _cell.trained, _cell.activation)
        _variants[_key].append(_cell)


wildcard_constraints:
    model=r"[^/]+",
    method=r"[^/]+",
    calibration=r"[^/]+",
    weight=r"w[^/]+",
    trained=r"a[^/]+",
    activation=r"a[^/]+",
    lorc=r"[^/]+",
    cap=r"\d+",
    protocol=r"[^/]+",
    text=r"[^/]+",


def model_arguments(wildcards):
    """How a stage is told its model: by name, or by the folder that the command line gave."""
    if wildcards.model in STUDY.folders:
        return f"model=folder model.name={wildcards.model} 'model.path=\"{STUDY.folders[wildcards.model]}\"'"
    return f"model={wildcards.model}"


def semantics(stage, **groups):
    """All that can change a stage's bytes besides its inputs, as one string: a job runs again when it differs."""
    values = {group: settings.plain(settings.load(group, name)) for group, name in groups.items()}
    return canonical({"code": code_version(stage), "threads": COMPOSED.runtime.threads, **values})


def model_settings(wildcards):
    values = settings.plain(STUDY.model(wildcards.model))
    return canonical({"code": code_version("prepare"), "threads": COMPOSED.runtime.threads, **values})


def results_of(pattern, **names):
    return f"{pattern.format(**names)}/result.json"


def method_of(wildcards):
    return settings.load("method", wildcards.method)


def cells_of(wildcards, variants=VARIANTS):
    names = ("model", "method", "calibration", "weight", "trained", "activation")
    return variants[tuple(getattr(wildcards, name) for name in names)]


def quantized_inputs(wildcards):
    """What an evaluation reads besides checkpoint and tokens: quantized weights, and factors for every rank asked for."""
    return _quantized_inputs(cells_of(wildcards))


def harness_inputs(wildcards):
    return _quantized_inputs(cells_of(wildcards, HARNESS_VARIANTS))


def _quantized_inputs(cells):
    needed = []
    for cell in cells:
        if cell.method != "none":
            needed.append(results_of(paths.QUANTIZED, **cell.paths()))
        if cell.rank:
            needed.append(results_of(paths.FACTORS, **cell.paths()))
    return list(dict.fromkeys(needed))


def variants_of(wildcards):
    return ",".join(cell.variant for cell in cells_of(wildcards))


def harness_variants_of(wildcards):
    return ",".join(cell.variant for cell in cells_of(wildcards, HARNESS_VARIANTS))


def evaluations(pattern, cells):
    return list(dict.fromkeys(results_of(pattern, **cell.paths(), protocol=STUDY.eval) for cell in cells))


def study_arguments():
    """The command-line arguments of the stages that see the whole study."""
    arguments = [f"study={STUDY.name}", *config.get("overrides", "").split()]
    if "model_path" in config:
        arguments.append(f"'model_path=\"{os.path.abspath(config['model_path'])}\"'")
    return " ".join(arguments)


_lock = None


def take_lock():
    """One run at a time on one results folder; the kernel frees the lock however this process ends."""
    global _lock
    os.makedirs("results", exist_ok=True)
    _lock = open(paths.LOCK, "w")
    try:
        fcntl.flock(_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit("error: another run is using this results folder; wait for it, or work in another folder")


def report_failure():
    """After a run with failures: the page and MLflow over what exists, and the study open for the next run."""
    if os.path.exists(COMPLETE):
        os.remove(COMPLETE)
    for stage in ("track", "report"):
        subprocess.run(f"python -m lorcbench.stages.{stage} {study_arguments()}", shell=True, check=False)


onstart:
    take_lock()


onerror:
    report_failure()
