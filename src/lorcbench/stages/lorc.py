"""LoRC factors of one quantized model at one cap: every rank up to the cap is a slice of them."""

from __future__ import annotations

from pathlib import Path

import torch

from lorcbench import inputs, lorc, paths
from lorcbench.artifacts import finished_shard, write_shard
from lorcbench.checkpoint import Checkpoint
from lorcbench.job import Job, input_digest, run, shard_identity


def main(job: Job) -> None:
    """Decompose E = W - Ŵ of every linear, a fused query_key_value as the setting says.

    W is the checkpoint's (ZeroQuant-V2, section 5), for distilled weights too: the master weights that Ŵ was rounded from are
    not kept, and the biases and norms that were trained with Ŵ stay as they are.
    """
    settings, components = job.lorc, int(job.names["cap"])
    folder = job.at(paths.FACTORS)
    torch.set_num_threads(job.threads)
    checkpoint = Checkpoint(inputs.checkpoint_folder(job.names))
    quantized = inputs.QuantizedModel(job.names)
    sources = {
        "checkpoint": input_digest(Path(paths.CHECKPOINT.format(**job.names)), "checkpoint"),
        "quantized": quantized.digest,
    }
    identity = job.identity({"lorc": vars(settings), "cap": components}, sources)
    mark, shards, notes = shard_identity(identity), [], []
    for index in range(checkpoint.depth):
        file = f"block{index:03d}.safetensors"
        finished = finished_shard(folder / file, mark)
        if finished is None:
            tensors, found = _factors(checkpoint, index, quantized.block(index), settings, components)
            finished = write_shard(folder / file, tensors, mark, found), found
        shards.append({"file": file, "sha256": finished[0]})
        notes.append(finished[1])
        job.progress(index + 1, checkpoint.depth, "block")
    kept = {name: [block[name] for block in notes] for name in ("relative_error", "error_norm", "singular_values")}
    job.finish("factors", identity, {"shards": shards, **kept})


def _factors(checkpoint: Checkpoint, index: int, approximate: dict, settings, components: int) -> tuple[dict, dict]:
    """Stored factors of every linear of one block; ‖E‖ / ‖W‖ of each; ‖E‖ and singular values of every matrix decomposed."""
    tensors, shares, norms, spectra = {}, {}, {}, {}
    for name, weight in checkpoint.linears(index).items():
        error = weight.float() - approximate[name]
        shares[name] = float(error.norm() / weight.float().norm())
        rows = checkpoint.architecture.parts(name, checkpoint.config) if settings.fused_qkv == "split" else None
        matrices = {f"{name}.{part}": error[index_] for part, index_ in rows.items()} if rows else {name: error}
        for matrix, part in matrices.items():
            b, a = lorc.decompose(part, components, settings.decomposition == "exact")
            norms[matrix] = float(part.norm())
            spectra[matrix] = [float(f"{value:.5g}") for value in b.norm(dim=0) * a.norm(dim=1)]  # each factor has Σ^½
            tensors |= {f"{matrix}.{key}": tensor for key, tensor in lorc.store(b, a, settings.bits).items()}
    return tensors, {"relative_error": shares, "error_norm": norms, "singular_values": spectra}


if __name__ == "__main__":
    run("lorc", main)
