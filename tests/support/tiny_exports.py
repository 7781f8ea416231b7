"""Cells of tiny models, quantized and exported in this process; what loads them is a process of its own, or this one."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import tiny
import tiny_stages
import torch
from recorded import identity
from runs import skip_or_fail

from lorcbench.common.artifacts import read_json, write_json, write_shard
from lorcbench.common.paths import Wildcards
from lorcbench.config import compose
from lorcbench.jobs.export import check
from lorcbench.jobs.job import Job
from lorcbench.models import reload
from lorcbench.stages import evaluate, export, quantize
from lorcbench.stages import lorc as lorc_stage
from lorcbench.study import exports
from lorcbench.study.cells import Cell
from lorcbench.study.stages import EVALUATE, EXPORT, QUANTIZE, TOKENS

WIDTH = 128  # of every matrix: groups of 128, and whole words of 32 codes
MODEL = ["model=folder", "model.name=tiny", "model.path=unused", "eval=stdlib"]
KEYS = ("method", "calibration", "weight", "trained", "activation", "lorc", "rank")
FULL = Wildcards(model="tiny", protocol="stdlib")


def prepare(folder: Path, kind: str, dtype: torch.dtype = torch.float16, layers: int = 2, **options) -> Path:
    """Make in `folder`, where the caller works, what the stages read of a tiny model; returns the checkpoint."""
    made = tiny.model(kind, hidden=WIDTH, ffn=WIDTH, layers=layers)
    return prepare_checkpoint(folder, tiny.save(made, folder / kind, dtype=dtype, **options))


def prepare_checkpoint(folder: Path, checkpoint: Path) -> Path:
    """The same of a checkpoint that is there; full precision has made-up losses."""
    tiny_stages.prepare_folder(folder, checkpoint)
    tokens, file = TOKENS.folder(FULL), "tokens.safetensors"
    corpora = {"one": tiny.windows(6, 28).int(), "two": tiny.windows(4, 28, seed=1).int()}
    shards = [{"file": file, "sha256": write_shard(tokens / file, corpora, "tokens")}]
    about = {"shards": shards, "corpora": {}, "added": [], "identity": identity(TOKENS, FULL)}
    write_json(tokens / "result.json", "tokens", about)
    _measured(FULL, "r0", 4.0)
    return checkpoint


def _measured(names: Wildcards, variant: str, loss: float) -> None:
    """Write made-up losses of a cell: what an export shows of them is not what it compares."""
    folder = EVALUATE.folder(names)
    nll = {"one": [loss + 0.01 * window for window in range(6)], "two": [loss, loss + 0.02, loss, loss + 0.01]}
    variants = {variant: {"nll": nll, "bits_per_weight": 4.25, "identity": "made up"}}
    if (folder / "result.json").is_file():
        variants = read_json(folder / "result.json", EVALUATE.kind)["variants"] | variants
    write_json(folder / "result.json", EVALUATE.kind, {"variants": variants, "identity": identity(EVALUATE, names)})


def cell(
    weight: str,
    rank: int = 0,
    lorc: str = "plain-int8",
    method: str = "rtn",
    activation: str = "a16",
    trained: str = "a16",
    measure: bool = False,
) -> Wildcards:
    """Quantize and correct one cell of the model that `prepare` made; returns the names of its export.

    Args:
        measure: evaluate it, and full precision; else its losses are made up.
    """
    lorc = lorc if rank else "none"
    cap = compose.components(lorc, rank)
    data = compose.load("method", method).data or compose.load("lorc", lorc).data
    calibration = "stdlib" if data else "none"
    given = {"method": method, "calibration": calibration, "weight": weight, "trained": trained}
    names = Wildcards(model="tiny", **given, activation=activation, lorc=lorc, cap=str(cap), protocol="stdlib", rank=str(rank))
    recipe = [f"{key}={value}" for key, value in given.items()]
    if not (QUANTIZE.folder(names) / "result.json").is_file():
        quantize.main(Job("quantize", [*MODEL, *recipe]))
    if rank:
        lorc_stage.main(Job("lorc", [*MODEL, *recipe, f"lorc={lorc}", f"cap={cap}"]))
    variant = f"{lorc}/r{rank}" if rank else "r0"
    if measure:
        evaluate.main(Job("evaluate", [*MODEL, "variants=[r0]"]))
        evaluate.main(Job("evaluate", [*MODEL, *recipe, f"activation={activation}", f"variants=[{variant}]"]))
    else:
        _measured(names, variant, 4.1)
    return names


def as_cell(names: Wildcards) -> Cell:
    """The cell of an export."""
    own = {key: getattr(names, key) for key in KEYS if key != "rank"}
    return Cell(model=names.model, **own, rank=int(names.rank))


def run(names: Wildcards, export_format: str, verify: str = "whole") -> Path:
    """Export a cell; returns the published folder."""
    arguments = [f"{key}={getattr(names, key)}" for key in KEYS]
    export.main(Job("export", [*MODEL, *arguments, f"export={export_format}", f"verify={verify}"]))
    return place(names, export_format, verify) / exports.PUBLISHED


def place(names: Wildcards, export_format: str, verify: str = "whole") -> Path:
    """The folder of an export's job."""
    return EXPORT.folder(replace(names, export=export_format, verify=verify))


def result(names: Wildcards, export_format: str, verify: str = "whole") -> dict:
    """What the export said."""
    return read_json(place(names, export_format, verify) / "result.json", EXPORT.kind)


def in_this_process(monkeypatch) -> None:
    """Have the library load exports in this process: to import it takes longer than all that it does with a tiny model.

    GPTQ's library is in another environment; one process there answers all requests.
    """
    monkeypatch.setattr(check, "_by_process", _answered)


def _answered(python: str, request: dict, scratch: Path) -> dict:
    if python == sys.executable:
        return reload.answered(request)
    server = _server(python)
    print(json.dumps(request), file=server.stdin, flush=True)
    while not (line := server.stdout.readline()).startswith("answer "):
        if not line:
            raise check.ExportError("the process with gptqmodel has ended")
    answer = json.loads(line.removeprefix("answer "))
    if "error" in answer:
        raise check.ExportError(answer["error"])
    return answer


_SERVE = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("reload", sys.argv[1])
reload = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reload)
for line in sys.stdin:
    try:
        answer = reload.answered(json.loads(line))
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print("answer", json.dumps(answer), flush=True)
"""


@cache
def _server(python: str) -> subprocess.Popen:
    """A process that answers requests until this one ends, which closes its input."""
    line = [python, "-P", "-c", _SERVE, reload.__file__]
    return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def needs_gptqmodel() -> None:
    """Skip a test where gptqmodel is in no environment."""
    if exports.gptq_python() is None:
        skip_or_fail(exports.WITHOUT_GPTQMODEL, "LORCBENCH_REQUIRE_GPTQ")
