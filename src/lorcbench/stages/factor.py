"""The factors of a model's cached Hessians, at one damping and order of columns: what GPTQ sweeps with, one shard per block."""

from __future__ import annotations

from pathlib import Path

import torch

from lorcbench.common import paths
from lorcbench.core import gptq
from lorcbench.core.moments import from_triangle
from lorcbench.jobs import hessians
from lorcbench.jobs.job import Job, input_digest, run
from lorcbench.jobs.shards import Shards, ShardWriter


def main(job: Job) -> None:
    """Factor every Hessian once, so that no weight format has to do it again."""
    damp = float(job.names["damp"])
    order = job.names["order"]
    job.at(paths.HESSIAN_FACTORS)
    torch.set_num_threads(job.threads)
    source = Path(paths.STATISTICS.format(**job.names))
    identity = job.identity({"damp": damp, "order": order}, {"statistics": input_digest(source, "statistics")})
    settings = gptq.GptqSettings(damp=damp, act_order=order == "act_order")
    statistics = Shards(source / "result.json", "statistics")
    shards = ShardWriter(job, identity, statistics.depth)
    for index in range(statistics.depth):
        if shards.kept(index) is None:
            shards.write(index, *_factored(statistics.block(index), settings, job.runtime.device))
    job.finish("hessians", identity, shards.payload() | {"damps": shards.notes})


def _factored(triangles: dict[str, torch.Tensor], settings: gptq.GptqSettings, device: str) -> tuple[dict, dict[str, float]]:
    """The stored tensors of the factors of a block's Hessians, by input and part; and the damping that each input needed."""
    tensors, damps = {}, {}
    for name, triangle in triangles.items():
        prepared = gptq.prepare(from_triangle(triangle).to(device), settings)
        tensors |= {f"{name}.{part}": tensor for part, tensor in hessians.to_stored(prepared).items()}
        damps[name] = prepared.factor.damp
    return tensors, damps


if __name__ == "__main__":
    run("factor", main)
