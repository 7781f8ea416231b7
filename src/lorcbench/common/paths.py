"""Where everything lies, once: the workflow's patterns and the stages' files are the same strings.

A wildcard is a name that Hydra takes as it stands, and every setting that changes bytes is in the path. What studies can
share lies under ``results/cache``; ``results/<study>`` holds views.
"""

CACHE = "results/cache"
LOCK = "results/.lock"
MLFLOW = "results/mlflow.db"
MLFLOW_ARTIFACTS = "results/mlflow-artifacts"

TEXT = CACHE + "/text/{text}"
DOCUMENTS = TEXT + "/corpora/{part}.jsonl"  # one {"text": …} a line
TASK = CACHE + "/task/{task}"
CHECKPOINT = CACHE + "/checkpoint/{model}"
TOKENIZER = "backend_tokenizer.json"  # in CHECKPOINT
TOKENS = CACHE + "/tokens/{model}/{protocol}"
CALIBRATION_TOKENS = CACHE + "/calibration/{model}/{calibration}/tokens"
STATISTICS = CACHE + "/calibration/{model}/{calibration}/statistics"
HESSIAN_FACTORS = CACHE + "/calibration/{model}/{calibration}/hessians/damp{damp}-{order}"
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
