"""Where everything lies that is not the folder of a stage, and the names that fill the patterns of such folders.

What studies can share lies under ``results/cache``; ``results/<study>`` holds views. `lorcbench.study.stages` has the pattern
of every stage's folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CACHE = "results/cache"
LOCK = "results/.lock"
MLFLOW = "results/mlflow.db"
MLFLOW_ARTIFACTS = "results/mlflow-artifacts"

TEXT = CACHE + "/text/{text}"
DOCUMENTS = "corpora/{part}.jsonl"  # in the folder of a text; one {"text": …} per line
TASK = CACHE + "/task/{task}"
CHECKPOINT = CACHE + "/checkpoint/{model}"
TOKENIZER = "backend_tokenizer.json"  # in the folder of a checkpoint
TOKENS = CACHE + "/tokens/{model}/{protocol}"
CALIBRATION_TOKENS = CACHE + "/calibration/{model}/{calibration}/tokens"
STATISTICS = CACHE + "/calibration/{model}/{calibration}/statistics"
HESSIAN_FACTORS = CACHE + "/calibration/{model}/{calibration}/hessians/damp{damp}-{order}-{dead}"
QUANTIZED = CACHE + "/quantize/{model}/{method}/{calibration}/{weight}/{trained}"
FACTORS = CACHE + "/lorc/{model}/{method}/{calibration}/{weight}/{trained}/{lorc}/cap{cap}"
EVALUATION = CACHE + "/evaluate/{model}/{method}/{calibration}/{weight}/{trained}/{activation}/{protocol}"
HARNESS = CACHE + "/harness/{model}/{method}/{calibration}/{weight}/{trained}/{activation}/{protocol}"

FULL_PRECISION = CACHE + "/evaluate/{model}/none/none/w16/a16/a16/{protocol}"
GATE = CACHE + "/gate/{model}"
GATE_PROTOCOL = "gptq-old"  # that of the published tables

STUDY = "results/{study}"


def task_folder(task: str, text: str | None) -> str:
    """Where an lm-eval task is staged: with the text that carries it, or by itself."""
    return TEXT.format(text=text) if text else TASK.format(task=task)


def result(folder: str) -> str:
    """The deterministic result file of a job's folder."""
    return folder + "/result.json"


def run(folder: str) -> str:
    """The record of how a job went."""
    return folder + "/run.json"


def log(folder: str) -> str:
    """A job's log."""
    return folder + "/log.txt"


@dataclass(frozen=True)
class Wildcards:
    """The names that fill the patterns of folders. Hydra takes each of them as it stands.

    A name that does not apply is ``none``. Formats that nobody chose are those of full precision, so that
    ``Wildcards(model=…, protocol=…)`` names the evaluation of an unquantized model.

    Attributes:
        weight: weight format.
        trained: the activation format that the weights were made under; a16 for a method that does not look at activations.
        activation: activation format of the measurement.
        cap: how many LoRC components the factors have, 0 for all.
        damp, order, dead: of the factors of cached Hessians.
        protocol: of perplexity, an entry of conf/eval.
    """

    model: str = "none"
    method: str = "none"
    calibration: str = "none"
    weight: str = "w16"
    trained: str = "a16"
    activation: str = "a16"
    lorc: str = "none"
    cap: str = "none"
    damp: str = "none"
    order: str = "none"
    dead: str = "none"
    protocol: str = "none"
    text: str = "none"
    task: str = "none"
    study: str = "none"

    @classmethod
    def of(cls, names: Any) -> Wildcards:
        """From Snakemake's wildcards, or another mapping of such names."""
        return cls(**dict(names.items()))

    def fill(self, pattern: str) -> str:
        """`pattern` with every ``{name}`` replaced."""
        return pattern.format(**vars(self))
