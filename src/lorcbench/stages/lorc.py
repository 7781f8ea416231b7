"""LoRC factors of one quantized model: every rank up to a cap is a slice of them, or, if they are distilled, of one rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from lorcbench.common import paths
from lorcbench.common.artifacts import finished_shard, write_shard
from lorcbench.common.process import give_back_memory
from lorcbench.config import compose
from lorcbench.core import lorc
from lorcbench.core.formats import ActivationFormat
from lorcbench.jobs import inputs
from lorcbench.jobs.job import Job, input_digest, run, shard_identity
from lorcbench.models.checkpoint import Checkpoint

# Factors as they are stored, by matrix and part, and what is said of a block: ‖E‖ / ‖W‖ of each linear; ‖E‖ and singular
# values of every matrix decomposed; of distilled factors, how training went.
BlockFactors = tuple[dict[str, torch.Tensor], dict]
Earlier = Callable[[int], dict | None]


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
    about = {"lorc": vars(settings), "cap": components}
    if settings.kind == "distilled":
        about["calibration"] = compose.plain(job.calibration)
        sources["tokens"] = input_digest(Path(paths.CALIBRATION_TOKENS.format(**job.names)), "tokens")
    identity = job.identity(about, sources)
    mark, shards, notes = shard_identity(identity), [], []
    finished = [finished_shard(folder / _file(index), mark) for index in range(checkpoint.depth)]
    made = (_distilled if settings.kind == "distilled" else _plain)(job, checkpoint, quantized, components, finished)
    for index, block in enumerate(made):
        digest, said = finished[index] or (write_shard(folder / _file(index), block[0], mark, block[1]), block[1])
        shards.append({"file": _file(index), "sha256": digest})
        notes.append(said)
        job.progress(index + 1, checkpoint.depth, "block")
        give_back_memory()
    job.finish("factors", identity, {"shards": shards, **{name: [block[name] for block in notes] for name in notes[0]}})


def _file(index: int) -> str:
    return f"block{index:03d}.safetensors"


def _plain(job: Job, checkpoint: Checkpoint, quantized, components: int, finished: list) -> Iterator[BlockFactors | None]:
    for index in range(checkpoint.depth):
        if finished[index]:
            yield None
            continue
        factors, said = _decomposed(job, checkpoint, index, quantized.block(index), components)
        yield _stored(factors, job.lorc.bits), said


def _stored(factors: dict[str, tuple[torch.Tensor, torch.Tensor]], bits: int) -> dict[str, torch.Tensor]:
    return {f"{name}.{part}": tensor for name, one in factors.items() for part, tensor in lorc.store(*one, bits).items()}


def _decomposed(job: Job, checkpoint: Checkpoint, index: int, approximate: dict, components: int) -> tuple[dict, dict]:
    """B and A of every matrix of one block, and what is said of it."""
    factors, shares, norms, spectra = {}, {}, {}, {}
    settings = job.lorc
    for name, weight in checkpoint.linears(index).items():
        error = weight.float() - approximate[name]
        shares[name] = float(error.norm() / weight.float().norm())
        rows = checkpoint.architecture.parts(name, checkpoint.config) if settings.fused_qkv == "split" else None
        matrices = {f"{name}.{part}": error[index_] for part, index_ in rows.items()} if rows else {name: error}
        for matrix, part in matrices.items():
            b, a = factors[matrix] = lorc.decompose(part, components, settings.decomposition == "exact")
            norms[matrix] = float(part.norm())
            spectra[matrix] = [float(f"{value:.5g}") for value in b.norm(dim=0) * a.norm(dim=1)]  # each factor has Σ^½
    return factors, {"relative_error": shares, "error_norm": norms, "singular_values": spectra}


def _distilled(job: Job, checkpoint: Checkpoint, quantized, components: int, finished: list) -> Iterator[BlockFactors | None]:
    """Train the factors of one block after another, on what unquantized blocks make, as ZQ-Global trains weights.

    Inputs of the linears are rounded in the format that the weights were made under.
    """
    from lorcbench.core.zeroquant import DistillSettings, distill
    from lorcbench.jobs.walks import calibration_walk
    from lorcbench.models.surgery import install_weights, rounded_inputs

    settings, activation = job.lorc, ActivationFormat.parse(job.names["trained"])
    walk, given = calibration_walk(job, checkpoint)
    wanted = walk.buffer(*given.shape)
    for index in range(walk.depth):
        wanted.copy_(given)
        with walk.block(index) as block:
            walk.advance(block, wanted)
            if finished[index]:
                yield None
            else:
                approximate = quantized.block(index)
                factors, said = _decomposed(job, checkpoint, index, approximate, components)
                start = {f"{name}.B": b.to(walk.device) for name, (b, _) in factors.items()}
                start |= {f"{name}.A": a.to(walk.device) for name, (_, a) in factors.items()}
                install_weights(block, approximate)
                rounded = {name: block.get_submodule(name).weight for name in walk.architecture.linear_names}

                def forward(values: dict, x: torch.Tensor, block=block, rounded=rounded, names=tuple(factors)) -> torch.Tensor:
                    products = {
                        name: lorc.product_as_stored(values[f"{name}.B"], values[f"{name}.A"], settings.bits) for name in names
                    }
                    corrections = inputs.by_linear(products, walk.architecture, checkpoint.config)
                    return walk.forward(block, x, {f"{name}.weight": rounded[name] + corrections[name] for name in rounded})

                with rounded_inputs(block, walk.architecture.linear_names, activation):
                    found = distill(forward, start, [], given, wanted, quantized.format, DistillSettings(**settings.settings))
                trained = {name: (found.others[f"{name}.B"].cpu(), found.others[f"{name}.A"].cpu()) for name in factors}
                yield _stored(trained, settings.bits), {**said, "distilled": found.notes}
        given.copy_(wanted)


if __name__ == "__main__":
    run("lorc", main)
