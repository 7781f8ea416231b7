"""Cells of tiny models, quantized, measured and exported in this process; what loads them is a process of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tiny
import tiny_stages
import torch
from recorded import identity

from lorcbench.common.artifacts import read_json, write_json, write_shard
from lorcbench.common.paths import Wildcards
from lorcbench.config import compose
from lorcbench.jobs.export import check
from lorcbench.jobs.job import Job
from lorcbench.models import reload
from lorcbench.stages import evaluate, export, quantize
from lorcbench.stages import lorc as lorc_stage
from lorcbench.study.stages import EVALUATE, EXPORT, TOKENS

WIDTH = 128  # of every matrix: groups of 128, and whole words of 32 codes
LAYERS = 2
MODEL = ["model=folder", "model.name=tiny", "model.path=unused", "eval=stdlib"]


def prepare(folder: Path, kind: str, dtype: torch.dtype = torch.float16, **options) -> Path:
    """Make in `folder`, where the caller works, what the stages read, and measure full precision; returns the checkpoint."""
    made = tiny.model(kind, hidden=WIDTH, ffn=WIDTH, layers=LAYERS)
    tiny_stages.prepare_folder(folder, tiny.save(made, folder / kind, dtype=dtype, **options))
    names = Wildcards(model="tiny", protocol="stdlib")
    tokens, file = TOKENS.folder(names), "tokens.safetensors"
    corpora = {"one": tiny.windows(12, 28).int(), "two": tiny.windows(8, 28, seed=1).int()}
    shards = [{"file": file, "sha256": write_shard(tokens / file, corpora, "tokens")}]
    about = {"shards": shards, "corpora": {}, "added": [], "identity": identity(TOKENS, names)}
    write_json(tokens / "result.json", "tokens", about)
    evaluate.main(Job("evaluate", [*MODEL, "variants=[r0]"]))
    return folder / kind


def cell(weight: str, rank: int = 0, lorc: str = "plain-int8", method: str = "rtn", activation: str = "a16") -> Wildcards:
    """Quantize, correct and measure one cell of the model that `prepare` made; returns the names of its export."""
    lorc = lorc if rank else "none"
    cap = compose.components(lorc, rank)
    needs = compose.load("method", method).data or compose.load("lorc", lorc).data
    calibration = "stdlib" if needs else "none"
    names = Wildcards(
        model="tiny", method=method, calibration=calibration, weight=weight, activation=activation, lorc=lorc, cap=str(cap)
    )
    recipe = [f"method={method}", f"calibration={calibration}", f"weight={weight}"]
    quantize.main(Job("quantize", [*MODEL, *recipe]))
    variant = "r0"
    if rank:
        lorc_stage.main(Job("lorc", [*MODEL, *recipe, f"lorc={lorc}", f"cap={cap}"]))
        variant = f"{lorc}/r{rank}"
    evaluate.main(Job("evaluate", [*MODEL, *recipe, f"activation={activation}", f"variants=[{variant}]"]))
    return replace(names, protocol="stdlib", rank=str(rank))


def run(names: Wildcards, export_format: str, verify: str = "whole") -> Path:
    """Export a cell; returns the published folder."""
    keys = ("method", "calibration", "weight", "trained", "activation", "lorc", "rank")
    arguments = [f"{key}={getattr(names, key)}" for key in keys]
    export.main(Job("export", [*MODEL, *arguments, f"export={export_format}", f"verify={verify}"]))
    return EXPORT.folder(replace(names, export=export_format, verify=verify)) / export.PUBLISHED


def result(names: Wildcards, export_format: str, verify: str = "whole") -> dict:
    """What the export said."""
    return read_json(EXPORT.folder(replace(names, export=export_format, verify=verify)) / "result.json", EXPORT.kind)


def in_this_process(monkeypatch) -> None:
    """Have the library load exports in this process: to import it takes longer than all that it does with a tiny model."""
    monkeypatch.setattr(check, "_by_process", lambda python, request, scratch: reload.answered(request))


__all__ = ["EVALUATE", "cell", "in_this_process", "prepare", "result", "run"]
