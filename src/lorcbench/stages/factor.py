"""The factors of a model's cached Hessians, at one damping and order of columns: what GPTQ sweeps with, one shard per block."""

from __future__ import annotations

import torch

from lorcbench.core import gptq
from lorcbench.core.moments import from_triangle
from lorcbench.jobs import hessians
from lorcbench.jobs.job import Job
from lorcbench.jobs.shards import Shards, ShardWriter
from lorcbench.stages import run_by_old_name
from lorcbench.study.stages import CALIBRATE, FACTOR


def main(job: Job) -> None:
    """Factor every Hessian once, so that no weight format has to do it again."""
    damp, order = job.config.damp, job.config.order
    job.at(FACTOR)
    torch.set_num_threads(job.threads)
    statistics = Shards(job.use(CALIBRATE) / "result.json", CALIBRATE.kind)
    identity = job.identity({"damp": damp, "order": order})
    settings = gptq.GptqSettings(damp=damp, act_order=order == "act_order")
    shards = ShardWriter(job, identity, statistics.depth)
    for index in range(statistics.depth):
        if shards.kept(index) is None:
            shards.write(index, *_factored(statistics.block(index), settings, job.runtime.device))
    job.finish(identity, shards.payload() | {"damps": shards.notes})


def _factored(triangles: dict[str, torch.Tensor], settings: gptq.GptqSettings, device: str) -> tuple[dict, dict[str, float]]:
    """The stored tensors of the factors of a block's Hessians, by input and part; and the damping that each input needed."""
    tensors, damps = {}, {}
    for name, triangle in triangles.items():
        prepared = gptq.prepare(from_triangle(triangle).to(device), settings)
        tensors |= {f"{name}.{part}": tensor for part, tensor in hessians.to_stored(prepared).items()}
        damps[name] = prepared.factor.damp
    return tensors, damps


if __name__ == "__main__":
    run_by_old_name(__spec__.name)
