"""Part c: a model of OPT-6.7b's shape with random weights: GPTQ, LoRC and perplexity beside the arithmetic they must do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from gpu.record import Clock, Record, Settings, peak_memory, rate
from safetensors.torch import save_file

from lorcbench.core import gptq, lorc
from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.core.quantizer import dequantize, quantize
from lorcbench.models import discovery
from lorcbench.models.architecture import Architecture
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.checkpoint import Checkpoint
from lorcbench.models.observe import last_linear_skipped, observed, recorded
from lorcbench.models.perplexity import window_losses
from lorcbench.models.surgery import install_weights

HIDDEN, FFN, HEADS, VOCABULARY, LENGTH = 4096, 16384, 32, 50272, 2048
FORMAT, RANK = WeightFormat.parse("w4-asym-g128"), 32
NORMS = ("self_attn_layer_norm", "final_layer_norm")
OPT = Architecture(
    model_type="opt",
    model_class="OPTForCausalLM",
    root="model.",
    blocks="model.decoder.layers",
    layers=0,  # as many as a run is told
    linears=[["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["self_attn.out_proj"], ["fc1"], ["fc2"]],
    block_returns_tuple=False,
)
MADE = "making the weights"  # in place of reading them; not counted


class RandomModel(Checkpoint):
    """OPT of a given shape in float16, whose weights are made on the device whenever they are asked for: no file is read."""

    def __init__(self, device: str, layers: int, tiny: bool) -> None:
        self.hidden, ffn, heads = (128, 512, 2) if tiny else (HIDDEN, FFN, HEADS)
        self.length, self.vocabulary = (64, 512) if tiny else (LENGTH, VOCABULARY)
        self.folder, self.device, self.ffn = Path("random"), device, ffn
        self.architecture = replace(OPT, layers=layers)
        self.config = {
            **{"model_type": "opt", "architectures": ["OPTForCausalLM"], "hidden_size": self.hidden, "ffn_dim": ffn},
            **{"num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": self.vocabulary, "dropout": 0.0},
            **{"max_position_embeddings": self.length, "word_embed_proj_dim": self.hidden, "do_layer_norm_before": True},
        }

    def _matrix(self, seed: int, *shape: int) -> torch.Tensor:
        generator = torch.Generator(device=self.device).manual_seed(seed)
        return (torch.randn(shape, generator=generator, device=self.device) * 0.02).half()

    def _constants(self, value: float, size: int) -> torch.Tensor:
        return torch.full((size,), value, dtype=torch.float16, device=self.device)

    def _norm(self, name: str) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": self._constants(1, self.hidden), f"{name}.bias": self._constants(0, self.hidden)}

    def names(self, index: int) -> list[str]:
        """The names of all tensors of decoder block `index`."""
        modules = (*NORMS, *self.architecture.linear_names)
        return [f"{name}.{part}" for name in modules for part in ("weight", "bias")]

    def block(self, index: int, names: list[str] | None = None) -> dict[str, torch.Tensor]:
        """All tensors of decoder block `index`."""
        tensors = {key: tensor for name in NORMS for key, tensor in self._norm(name).items()}
        for name, weight in self.linears(index).items():
            tensors |= {f"{name}.weight": weight, f"{name}.bias": self._constants(0, len(weight))}
        return tensors

    def linears(self, index: int) -> dict[str, torch.Tensor]:
        """The weights of the linears of block `index`."""
        sizes = {"fc1": (self.ffn, self.hidden), "fc2": (self.hidden, self.ffn)}
        names = self.architecture.linear_names
        return {
            name: self._matrix(1000 + 10 * index + place, *sizes.get(name, (self.hidden, self.hidden)))
            for place, name in enumerate(names)
        }

    def outside(self, names: set[str] | None = None) -> dict[str, torch.Tensor]:
        """All tensors outside the decoder blocks."""
        embeddings = {"embed_tokens": self.vocabulary, "embed_positions": self.length + 2}
        made = self._norm("model.decoder.final_layer_norm")
        for seed, (name, rows) in enumerate(embeddings.items()):
            made[f"model.decoder.{name}.weight"] = self._matrix(seed, rows, self.hidden)
        return made

    def tokens(self, windows: int) -> torch.Tensor:
        """Random token windows."""
        return torch.randint(0, self.vocabulary, (windows, self.length), generator=torch.Generator().manual_seed(0))

    def forward_flop(self, tokens: int) -> float:
        """One forward pass of one block, of which fc2 is (2 · tokens · hidden · ffn); attention counted without its mask."""
        linears = 4 * self.hidden**2 + 2 * self.hidden * self.ffn
        return 2.0 * tokens * linears + 4.0 * tokens * self.length * self.hidden

    def moments_flop(self, tokens: int) -> float:
        """The four second moments of one block as whole products."""
        return 2.0 * tokens * (3 * self.hidden**2 + self.ffn**2)


def run(record: Record, settings: Settings) -> None:
    """All of part c."""
    product = rate(settings.device, torch.float16, 256 if settings.tiny else 8192)
    record.add("c", "float16 product, in this process", product / 1e12, "TFLOP/s")
    model = RandomModel(settings.device, settings.layers, settings.tiny)
    _loading(record, settings)
    _gptq(record, settings, model, product)
    _layer_losses(record, settings, model)
    _lorc(record, settings, model)
    _perplexity(record, settings, model, product)


def _loading(record: Record, settings: Settings) -> None:
    """What the other figures leave out: a block from a file that lies in memory, looked through and copied to the device."""
    model, folder = RandomModel(settings.device, 1, settings.tiny), settings.folder / "work" / "one-block"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = model.outside() | {f"model.decoder.layers.0.{name}": tensor for name, tensor in model.block(0).items()}
    save_file({name: tensor.cpu() for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.config))
    walk, seconds = BlockWalk(discovery.opened(folder), torch.float16, settings.device), []
    for _ in range(3):
        clock = Clock(settings.device)
        with clock("load"), walk.block(0):
            pass
        seconds.append(clock.seconds["load"])
    record.add("c", "loading a block from a file that is in memory already", min(seconds), "s", seconds=seconds)


def warm_up(settings: Settings, model: RandomModel) -> None:
    """The first call of every kernel, which compiles or loads it: one block and a few windows."""
    walk = BlockWalk(model, torch.float16, settings.device, settings.batch_tokens)
    gptq_blocks(walk, model.tokens(max(1, settings.batch_tokens // model.length)), Clock(settings.device), 1)


def gptq_blocks(walk: BlockWalk, tokens: torch.Tensor, clock: Clock, blocks: int) -> None:
    """GPTQ with propagated Hessians of the first blocks, as the stage does it, by part."""
    with clock("embed"):
        hidden = walk.embed(tokens)
    for index in range(blocks):
        with clock(MADE):
            opened = walk.block(index)
            block = opened.__enter__()
        skipped = last_linear_skipped(block, walk.architecture)
        with clock("forward and Hessians"), observed(block, walk.architecture) as moments, skipped:
            for _, states in walk.fetched(hidden):
                walk.forward(block, states)
        for group in walk.architecture.linears:
            with clock("factor"):
                prepared = gptq.prepare(moments.pop(group[0]).mean(), gptq.GptqSettings())
            with clock("sweep"):
                weights = [block.get_submodule(name).weight for name in group]
                matrices = gptq.quantize_stacked(weights, prepared, FORMAT, gptq.GptqSettings())
            with clock("install"):
                install_weights(block, {name: dequantize(m) for name, m in zip(group, matrices, strict=True)})
            del prepared
        with clock("forward of the quantized block"):
            walk.advance(block, hidden)
        opened.__exit__(None, None, None)


def _gptq(record: Record, settings: Settings, model: RandomModel, product: float) -> None:
    windows, blocks = (2, 2) if settings.tiny else (128, settings.layers)
    clock = Clock(settings.device)
    with clock("first calls"):
        warm_up(settings, model)
    record.add("c", "GPTQ: first call of every kernel, left out of what follows", clock.seconds.pop("first calls"), "s")
    with peak_memory(settings.device) as peak:
        walk = BlockWalk(model, torch.float16, settings.device, settings.batch_tokens)
        gptq_blocks(walk, model.tokens(windows), clock, blocks)
    tokens, seconds = windows * model.length, clock.total(MADE)
    forward, moments = blocks * model.forward_flop(tokens), blocks * model.moments_flop(tokens)
    fc2 = 2.0 * blocks * tokens * model.hidden * model.ffn
    limit = (2 * forward + moments) / product
    record.add("c", f"GPTQ {FORMAT}, {blocks} blocks, {windows} × {model.length} tokens", seconds, "s", parts=clock.seconds)
    for name, value in clock.seconds.items():
        record.add("c", f"GPTQ: {name}", value, "s")
    record.add("c", "GPTQ: two forward passes", 2 * forward / 1e15, "PFLOP")
    record.add("c", "GPTQ: Hessians as whole products", moments / 1e15, "PFLOP")
    record.add("c", "GPTQ: share of the limit of these", limit / seconds, target="≥ 0.6")
    least = (2 * forward - fc2 + moments / 2) / product  # the last linear's first pass is for nothing, as is half of a Hessian
    record.add("c", "GPTQ: share of the limit without what need not be done", least / seconds)
    for kind, value in peak.items():
        record.add("c", f"GPTQ: peak memory {kind}", value, "GiB", target="≤ 12")


def _layer_losses(record: Record, settings: Settings, model: RandomModel) -> None:
    """Whether the wide matrices are solved right, of which stand-ins have none: block 0's moments beside whole products, and
    the loss tr(Δ H Δᵀ) of GPTQ's errors Δ beside that of rounding to nearest, by these products.
    """
    walk = BlockWalk(model, torch.float16, settings.device, settings.batch_tokens)
    hidden = walk.embed(model.tokens(2 if settings.tiny else 16))
    with walk.block(0) as block:
        for name in ("self_attn.q_proj", "fc2"):
            with observed(block, walk.architecture) as moments, recorded(block, name) as inputs:
                for _, states in walk.fetched(hidden):
                    walk.forward(block, states)
            whole = sum(part.flatten(0, -2).float().T @ part.flatten(0, -2).float() for part in inputs)
            whole /= moments[name].tokens
            mean, weight = moments[name].mean(), block.get_submodule(name).weight
            error = ((mean - whole).norm() / whole.norm()).item()
            record.add("c", f"{name}: relative error of its moment", error, target="≤ 1e-4")
            prepared = gptq.prepare(mean, gptq.GptqSettings())
            solved = gptq.quantize_stacked([weight], prepared, FORMAT, gptq.GptqSettings())[0]
            errors = (weight.float() - dequantize(matrix) for matrix in (solved, quantize(weight, FORMAT)))
            solved_loss, rounded_loss = (((error @ whole) * error).sum() for error in errors)
            record.add("c", f"{name}: layer loss, GPTQ over rounding", (solved_loss / rounded_loss).item(), target="< 1")
            del inputs, whole, mean, prepared


def _lorc(record: Record, settings: Settings, model: RandomModel) -> None:
    clock = Clock(settings.device)
    norms = []
    with peak_memory(settings.device) as peak:
        for index in range(-1, model.depth):  # once for nothing: the first calls
            for name, weight in model.linears(max(index, 0)).items():
                error = weight.float() - dequantize(quantize(weight, FORMAT))
                with clock("first calls" if index < 0 else name):
                    stored = lorc.store(*lorc.decompose(error, RANK, exact=False), 8)
                norms.append(stored["B_scale"].float().norm())
    if not torch.stack(norms).isfinite().all():
        raise ArithmeticError("a LoRC factor is not finite")
    seconds = clock.total("first calls")
    name = f"LoRC rank {RANK}, {model.depth} blocks, errors of {FORMAT} by rounding"
    record.add("c", name, seconds, "s", "≤ 15", parts=clock.seconds)
    for kind, value in peak.items():
        record.add("c", f"LoRC: peak memory {kind}", value, "GiB", target="≤ 12")


def _perplexity(record: Record, settings: Settings, model: RandomModel, product: float) -> None:
    windows = 4 if settings.tiny else 512
    clock, tokens = Clock(settings.device), model.tokens(windows)
    with peak_memory(settings.device) as peak:
        walk = BlockWalk(model, torch.float16, settings.device, settings.batch_tokens, hidden_bytes=8 * 2**30)
        with clock("perplexity"):
            losses = window_losses(walk, {"random": tokens}, lambda index: {}, ActivationFormat(16))["random"]
    count = windows * model.length
    flop = model.depth * model.forward_flop(count) + 2.0 * count * model.hidden * model.vocabulary
    seconds = clock.seconds["perplexity"]
    record.add("c", f"perplexity, {model.depth} blocks, {windows} × {model.length} tokens", seconds, "s")
    record.add("c", "perplexity: mean loss", sum(losses) / len(losses), "nats")
    record.add("c", "perplexity: arithmetic", flop / 1e15, "PFLOP")
    record.add("c", "perplexity: share of the limit", flop / product / seconds, target="≥ 0.6")
    for kind, value in peak.items():
        record.add("c", f"perplexity: peak memory {kind}", value, "GiB", target="≤ 12")
