"""Where everything lies that is not the folder of a stage, and the names that fill the patterns of such folders.

What studies can share lies under ``results/cache``; ``results/<study>`` holds views. `lorcbench.study.stages` has the pattern
of every stage's folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CACHE = "results/cache"
LOCK = "results/.lock"
OWNER = "results/.owner"
RECOMPUTE = "results/.recompute"  # an input of jobs whose results are here but not what the run asks for
DIGESTS = "results/.digests"  # recorded digests of large files
MLFLOW = "results/mlflow.db"
MLFLOW_ARTIFACTS = "results/mlflow-artifacts"

STUDY = "results/{study}"

DOCUMENTS = "corpora/{part}.jsonl"  # in the folder of a text; one {"text": …} per line
HUB_CONFIG = CACHE + "/hub/{model}/config.json"  # of a model that was named by its repository, before it is prepared
TOKENIZER = "backend_tokenizer.json"  # in the folder of a checkpoint


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
        rank: of the factors that an export holds; other jobs name `cap` instead.
        export, verify: the format of an export, and how it is checked.
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
    rank: str = "none"
    export: str = "none"
    verify: str = "none"
    text: str = "none"
    task: str = "none"
    study: str = "none"

    @classmethod
    def of(cls, names: Any) -> Wildcards:
        """From Snakemake's wildcards, a mapping of such names, or another object of this class."""
        return names if isinstance(names, cls) else cls(**dict(names.items()))

    def fill(self, pattern: str) -> str:
        """`pattern` with every ``{name}`` replaced."""
        return pattern.format(**vars(self))

    def title(self, stage: str) -> str:
        """The names by which a job of a stage is known from others that run beside it."""
        recipe = (self.method, self.weight) if self.method != "none" else ()
        names = (self.text, self.task, self.study, self.model, *recipe, self.activation, self.lorc)
        return " ".join([stage, *(name for name in names if name not in ("none", "a16"))])
