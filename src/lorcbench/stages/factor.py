"""The factors of a model's cached Hessians, at one damping and order of columns: what GPTQ sweeps with, one shard a block."""

from __future__ import annotations

from pathlib import Path

import torch

from lorcbench.common import paths
from lorcbench.common.artifacts import Shards, finished_shard, write_shard
from lorcbench.common.process import give_back_memory
from lorcbench.core import gptq
from lorcbench.core.moments import from_triangle
from lorcbench.jobs import hessians
from lorcbench.jobs.job import Job, input_digest, run, shard_identity


def main(job: Job) -> None:
    """Factor every Hessian once, so that no weight format has to do it again."""
    damp, order = float(job.names["damp"]), job.names["order"]
    folder = job.at(paths.HESSIAN_FACTORS)
    torch.set_num_threads(job.threads)
    settings = gptq.GptqSettings(damp=damp, act_order=order == "act_order")
    sources = {"statistics": input_digest(Path(paths.STATISTICS.format(**job.names)), "statistics")}
    identity = job.identity({"damp": damp, "order": order}, sources)
    mark, shards, damps = shard_identity(identity), [], []
    statistics = Shards(Path(paths.STATISTICS.format(**job.names)) / "result.json", "statistics")
    depth = len(statistics.result["shards"])
    for index in range(depth):
        file = f"block{index:03d}.safetensors"
        finished = finished_shard(folder / file, mark)
        if finished is None:
            tensors, notes = {}, {}
            for name, triangle in statistics.block(index).items():
                prepared = gptq.prepare(from_triangle(triangle), settings)
                tensors |= {f"{name}.{part}": tensor for part, tensor in hessians.to_stored(prepared).items()}
                notes[name] = prepared.factor.damp
            finished = write_shard(folder / file, tensors, mark, notes), notes
        shards.append({"file": file, "sha256": finished[0]})
        damps.append(finished[1])
        job.progress(index + 1, depth, "block")
        give_back_memory()
    job.finish("hessians", identity, {"shards": shards, "damps": damps})


if __name__ == "__main__":
    run("factor", main)
