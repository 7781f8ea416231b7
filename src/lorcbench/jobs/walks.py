"""The block walk of a job: over its checkpoint, in its runtime, and with its calibration sequences."""

from __future__ import annotations

import torch

from lorcbench.jobs import sources
from lorcbench.jobs.job import Job
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.study.stages import CALIBRATION_TOKENS


def block_walk(job: Job, checkpoint: Checkpoint, dtype: str) -> BlockWalk:
    """A walk with forward passes in `dtype`; hidden states beyond the runtime's budget go to a file in the job's folder."""
    runtime = job.runtime
    hidden_bytes = runtime.hidden_gib * 2**30
    return BlockWalk(checkpoint, getattr(torch, dtype), runtime.device, runtime.batch_tokens, hidden_bytes, job.folder)


def calibration_walk(job: Job, checkpoint: Checkpoint) -> tuple[BlockWalk, torch.Tensor]:
    """A walk over a job's checkpoint, and its calibration sequences (n, length, hidden) where they enter block 0."""
    windows = sources.read_windows(job.folder_of(CALIBRATION_TOKENS))["calibration"]
    walk = block_walk(job, checkpoint, job.calibration.dtype)
    walk.embed(windows[:1])  # distillation passes one sequence at a time: the walk must know the arguments of that shape too
    return walk, walk.embed(windows)
