"""The factors of a model's cached Hessians, at one setting of GPTQ's: what it sweeps with, one shard per block."""

from __future__ import annotations

import torch

from lorcbench.core import gptq
from lorcbench.core.moments import dead_diagonal, from_triangle
from lorcbench.jobs import hessians, statistics
from lorcbench.jobs.job import Job
from lorcbench.jobs.shards import Shards, ShardWriter
from lorcbench.stages import run_by_old_name
from lorcbench.study.stages import CALIBRATE, FACTOR


def main(job: Job) -> None:
    """Factor every Hessian once, so that no weight format has to do it again."""
    damp, order, dead = job.config.damp, job.config.order, job.config.dead
    job.at(FACTOR)
    torch.set_num_threads(job.threads)
    cached = Shards(job.use(CALIBRATE) / "result.json", CALIBRATE.kind)
    identity = job.identity({"damp": damp, "order": order, "dead": dead})
    settings = gptq.GptqSettings(damp=damp, act_order=order == "act_order", dead=dead)
    one = dead_diagonal(cached.result["tokens_per_sequence"])
    shards = ShardWriter(job, identity, cached.depth)
    for index in range(cached.depth):
        if shards.kept(index) is None:
            triangles = statistics.triangles(cached.block(index))
            shards.write(index, *_factored(triangles, settings, one, job.runtime.device))
    job.finish(identity, shards.payload() | {"damps": shards.notes})


def _factored(
    triangles: dict[str, torch.Tensor], settings: gptq.GptqSettings, one: float, device: str
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The stored tensors of the factors of a block's Hessians, by input and part; and the damping that each input needed.

    Args:
        one: the published code's 1 in the units of the Hessians (`dead_diagonal`).
    """
    tensors, damps = {}, {}
    for name, triangle in triangles.items():
        prepared = gptq.prepare(from_triangle(triangle).to(device), settings, one)
        tensors |= {f"{name}.{part}": tensor for part, tensor in hessians.to_stored(prepared).items()}
        damps[name] = prepared.factor.damp
    return tensors, damps


if __name__ == "__main__":
    run_by_old_name(__spec__.name)
