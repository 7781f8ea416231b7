"""Cached statistics of one unquantized model: the second moment of every linear's input, one shard a block."""

from __future__ import annotations

from pathlib import Path

import torch

from lorcbench.common import paths
from lorcbench.common.artifacts import finished_shard, write_shard
from lorcbench.config import compose
from lorcbench.core.moments import to_triangle
from lorcbench.jobs import inputs
from lorcbench.jobs.job import Job, input_digest, run, shard_identity
from lorcbench.jobs.walks import block_walk
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.models.observe import observed


def main(job: Job) -> None:
    """Walk the blocks once and keep E[xᵀx] of each input."""
    settings = job.calibration
    folder = job.at(paths.STATISTICS)
    torch.set_num_threads(job.threads)
    tokens, tokens_digest = inputs.tokens(Path(paths.CALIBRATION_TOKENS.format(**job.names)))
    checkpoint = Path(paths.CHECKPOINT.format(**job.names))
    sources = {"checkpoint": input_digest(checkpoint, "checkpoint"), "tokens": tokens_digest}
    identity = job.identity(compose.plain(settings), sources)
    mark = shard_identity(identity)
    walk = block_walk(job, Checkpoint(inputs.checkpoint_folder(job.names)), settings.dtype)
    windows = tokens["calibration"]
    hidden, shards = walk.embed(windows), []
    for index in range(walk.depth):
        file = f"block{index:03d}.safetensors"
        finished = finished_shard(folder / file, mark)
        with walk.block(index) as block:
            if finished is None:
                # Every job of this model waits for this one, which is why it takes a second core.
                with observed(block, walk.architecture, index + 1 < walk.depth, beside=walk.device == "cpu") as moments:
                    walk.advance(block, hidden)
                triangles = {name: to_triangle(moments.pop(name).mean().cpu()) for name in list(moments)}
                digest = write_shard(folder / file, triangles, mark)
            else:
                digest = finished[0]
                walk.advance(block, hidden)
        shards.append({"file": file, "sha256": digest})
        job.progress(index + 1, walk.depth, "block")
    job.finish("statistics", identity, {"shards": shards, "tokens": windows.numel(), "attention": walk.attention})


if __name__ == "__main__":
    run("calibrate", main)
