"""Part g: what else a study does to blocks of OPT-6.7b's shape: cached Hessians, distillation, four ranks in one walk, and
hidden states that lie on the host.
"""

from __future__ import annotations

from functools import partial

import torch
from gpu.large import FORMAT, RandomModel
from gpu.record import Clock, Record, Settings, peak_memory

from lorcbench.config.recipes import ZeroQuantMethod
from lorcbench.core import gptq, lorc
from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.core.gptq import GptqSettings
from lorcbench.core.quantizer import dequantize, quantize
from lorcbench.jobs.distillation import distill_block, distill_linears
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.observe import observed
from lorcbench.models.perplexity import scores_of_ranks

FORMATS = (FORMAT, WeightFormat.parse("w3-asym-g64"), WeightFormat.parse("w2-asym-g64"))
RANKS = (0, 8, 16, 32)
STEPS = 16


def run(record: Record, settings: Settings) -> None:
    """All of part g, on the first blocks of the model."""
    model = RandomModel(settings.device, min(2, settings.layers), settings.tiny)
    with peak_memory(settings.device) as peak:
        _cached(record, settings, model)
    for kind, value in peak.items():
        record.add("g", f"cached Hessians: peak memory {kind}", value, "GiB")
    for unit in ("linear", "block"):
        with peak_memory(settings.device) as peak:
            _distilled(record, settings, model, unit)
        for kind, value in peak.items():
            record.add("g", f"distillation, unit={unit}: peak memory {kind}", value, "GiB")
    _ranks(record, settings, model)
    _host(record, settings, model)


def _cached(record: Record, settings: Settings, model: RandomModel) -> None:
    """Statistics and factors once, then every format from them: seconds of one block, kernels warm."""
    walk = BlockWalk(model, torch.float16, settings.device, settings.batch_tokens)
    hidden, clock = walk.embed(model.tokens(2 if settings.tiny else 128)), Clock(settings.device)
    for index in range(model.depth):
        with walk.block(index) as block:
            with clock("calibrate" if index else "first calls"), observed(block, walk.architecture) as moments:
                for batch, states in walk.fetched(hidden):
                    hidden[batch] = walk.forward(block, states)
            for group in walk.architecture.linears:
                with clock("factor" if index else "first calls"):
                    prepared = gptq.prepare(moments.pop(group[0]).mean(), GptqSettings())
                weights = [block.get_submodule(name).weight for name in group]
                for fmt in FORMATS:
                    with clock(f"sweep {fmt}" if index else "first calls"):
                        gptq.quantize_stacked(weights, prepared, fmt, GptqSettings())
    for name, seconds in clock.seconds.items():
        if name != "first calls":
            record.add("g", f"cached Hessians, one block: {name}", seconds / max(1, model.depth - 1), "s")


def _distilled(record: Record, settings: Settings, model: RandomModel, unit: str) -> None:
    """One block, one learning rate: seconds per step of one sequence; in float32, as the stage does it."""
    method = ZeroQuantMethod(unit=unit, lr=1e-5, iterations=2 if settings.tiny else STEPS)
    walk = BlockWalk(model, torch.float32, settings.device, settings.batch_tokens)
    tokens, clock = model.tokens(4 if settings.tiny else 16), Clock(settings.device)
    inputs = walk.embed(tokens)
    walk.embed(tokens[:1])  # what blocks are passed with one sequence, as training does
    distill = distill_linears if unit == "linear" else distill_block
    targets = walk.buffer(*inputs.shape).copy_(inputs)
    with walk.block(0) as block:
        walk.advance(block, targets)
        for name in ("first calls", "steps"):
            with clock(name):
                made = distill(walk, block, inputs, targets, FORMAT, ActivationFormat(16), method)
    steps = method.iterations * (len(walk.architecture.linear_names) if unit == "linear" else 1)
    record.add("g", f"distillation, unit={unit}: {steps} steps of one block", clock.seconds["steps"], "s")
    record.add("g", f"distillation, unit={unit}: seconds per step", clock.seconds["steps"] / steps, "s")
    losses = [notes["loss"] / notes["loss_rtn"] for notes in made.notes.values()]
    record.add("g", f"distillation, unit={unit}: held-out loss over rounding's, largest", max(losses), target="≤ 1")


def _ranks(record: Record, settings: Settings, model: RandomModel) -> None:
    """Four ranks of a cell in one walk beside four walks, with every rank's weights unpacked from the same codes."""
    windows = {"random": model.tokens(4 if settings.tiny else 64)}
    codes = [{name: quantize(weight, FORMAT) for name, weight in model.linears(index).items()} for index in range(model.depth)]
    factors = [
        {n: lorc.decompose(w.float() - dequantize(codes[i][n]), max(RANKS), exact=False) for n, w in model.linears(i).items()}
        for i in range(model.depth)
    ]

    def weights(rank: int, index: int) -> dict[str, torch.Tensor]:
        of_block = factors[index]
        return {
            name: dequantize(code) + of_block[name][0][:, :rank] @ of_block[name][1][:rank]
            for name, code in codes[index].items()
        }

    wanted = {f"r{rank}": partial(weights, rank) for rank in RANKS}

    def scored(names: list[str]) -> dict:
        walk = BlockWalk(model, torch.float16, settings.device, settings.batch_tokens)
        return scores_of_ranks(walk, windows, {name: wanted[name] for name in names}, ActivationFormat(16))

    clock, found = Clock(settings.device), {}
    scored(list(wanted)[:1])  # first calls
    for _ in range(2):
        with clock("together"):
            found["together"] = scored(list(wanted))
        with clock("alone"):
            found["alone"] = {name: scored([name])[name] for name in wanted}
    record.add("g", f"ranks {RANKS} of {model.depth} blocks: each alone", clock.seconds["alone"] / 2, "s")
    record.add("g", f"ranks {RANKS} of {model.depth} blocks: together", clock.seconds["together"] / 2, "s")
    record.add("g", "ranks together: the same numbers as alone", found["alone"] == found["together"], target="True")


def _host(record: Record, settings: Settings, model: RandomModel) -> None:
    """A walk whose hidden states lie in pinned memory of the host, beside one whose states are on the device."""
    tokens, found = {"random": model.tokens(4 if settings.tiny else 256)}, {}
    clock, first = Clock(settings.device), Clock(settings.device)
    for turn in range(4):  # the first asks the host for pinned memory, which PyTorch keeps
        for name, limit in {"device": float("inf"), "host": 0}.items():
            walk = BlockWalk(
                model, torch.float16, settings.device, settings.batch_tokens, hidden_bytes=limit, scratch=settings.folder
            )
            with (clock if turn else first)(name):
                (found[name],) = scores_of_ranks(walk, tokens, {"": lambda index: {}}, ActivationFormat(16)).values()
    for name in found:
        record.add("g", f"perplexity of {model.depth} blocks, hidden states on the {name}", clock.seconds[name] / 3, "s")
        record.add("g", f"the same for the first time, states on the {name}", first.seconds[name], "s")
    record.add("g", "hidden states on the host: the same numbers", found["device"] == found["host"], target="True")
