"""Cached statistics of one unquantized model: second moment and magnitudes of every linear's input, one shard per block."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from lorcbench.config import compose
from lorcbench.jobs import sources, statistics
from lorcbench.jobs.job import Job
from lorcbench.jobs.shards import ShardWriter
from lorcbench.jobs.walks import block_walk
from lorcbench.models.observe import last_linear_skipped, magnitudes, observed
from lorcbench.stages import run_by_old_name
from lorcbench.study.stages import CALIBRATE, CALIBRATION_TOKENS, PREPARE


def main(job: Job) -> None:
    """Walk the blocks once and keep what `lorcbench.jobs.statistics` says of each input."""
    settings = job.calibration
    job.at(CALIBRATE)
    torch.set_num_threads(job.threads)
    job.use(PREPARE)
    windows = sources.read_windows(job.use(CALIBRATION_TOKENS))["calibration"]
    identity = job.identity(compose.plain(settings))
    walk = block_walk(job, sources.checkpoint(job.names), settings.dtype)
    hidden = walk.embed(windows)
    shards = ShardWriter(job, identity, walk.depth)
    for index in range(walk.depth):
        with walk.block(index) as block:
            if shards.kept(index) is not None:
                walk.advance(block, hidden)
                continue
            # Nobody needs what the last block makes of its inputs.
            unneeded = last_linear_skipped(block, walk.architecture) if index + 1 == walk.depth else nullcontext()
            # Every job of this model waits for this one, which is why it takes a second core.
            second_moments = observed(block, walk.architecture, second_thread=walk.device == "cpu")
            with unneeded, second_moments as moments, magnitudes(block, walk.architecture) as largest:
                walk.advance(block, hidden)
            shards.write(index, statistics.to_stored(moments, largest))
    about = {"tokens": windows.numel(), "tokens_per_sequence": windows.shape[1], "attention": walk.attention}
    job.finish(identity, shards.payload() | about)


if __name__ == "__main__":
    run_by_old_name(__spec__.name)
