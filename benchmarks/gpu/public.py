"""Part d: the public GPTQ code on the first blocks of the large model, beside ours in the same run."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys

import torch
from gpu.large import FORMAT, MADE, RandomModel, gptq_blocks, warm_up
from gpu.record import Clock, Record, Settings

from lorcbench.models.blocks import BlockWalk

BLOCKS = 2


def run(record: Record, settings: Settings) -> None:
    """Seconds per block of both, weights already there."""
    if settings.gptq is None:
        raise SystemExit("part d needs --gptq CHECKOUT, a checkout of the public GPTQ code")
    model = RandomModel(settings.device, BLOCKS, settings.tiny)
    tokens = model.tokens(2 if settings.tiny else 128)
    ours, theirs = Clock(settings.device), Clock(settings.device)
    warm_up(settings, model)
    gptq_blocks(BlockWalk(model, torch.float16, settings.device, settings.batch_tokens), tokens, ours, BLOCKS)
    seconds = ours.total(MADE, "embed") / BLOCKS
    record.add("d", f"ours, {FORMAT}, {len(tokens)} × {model.length} tokens", seconds, "s per block", parts=ours.seconds)
    _theirs(settings, model, tokens, theirs)
    other = theirs.total(MADE, "embed") / BLOCKS
    record.add("d", "public GPTQ code, the same", other, "s per block", parts=theirs.seconds)
    record.add("d", "public code over ours", other / seconds, target="≥ 4")


def _theirs(settings: Settings, model: RandomModel, tokens: torch.Tensor, clock: Clock) -> None:
    """What its `opt.py` does with every block: window by window, and linear by linear."""
    sys.path.insert(0, str(settings.gptq))
    if settings.device == "cpu":
        torch.cuda.synchronize = lambda *_: None  # it calls this whatever the device
    with contextlib.redirect_stdout(open(os.devnull, "w")):
        code, quant = importlib.import_module("gptq"), importlib.import_module("quant")
        walk = BlockWalk(model, torch.float16, settings.device, model.length)
        with clock("embed"):
            inputs = walk.embed(tokens)
        outputs = torch.zeros_like(inputs)
        for index in range(BLOCKS):
            with clock(MADE):
                opened = walk.block(index)
                block = opened.__enter__()
            tasks, hooks = {}, []
            for name in walk.architecture.linear_names:
                task = tasks[name] = code.GPTQ(block.get_submodule(name))
                task.quantizer = quant.Quantizer()
                task.quantizer.configure(FORMAT.bits, perchannel=True, sym=FORMAT.symmetric, mse=False)
                hook = lambda _, given, made, task=task: task.add_batch(given[0].data, made.data)  # noqa: E731
                hooks.append(block.get_submodule(name).register_forward_hook(hook))
            with torch.no_grad(), clock("forward and Hessians"):
                for window in range(len(tokens)):
                    outputs[window] = walk.forward(block, inputs[window : window + 1])[0]
            for hook in hooks:
                hook.remove()
            with torch.no_grad(), clock("factor and sweep"):
                for task in tasks.values():
                    task.fasterquant(percdamp=0.01, groupsize=FORMAT.group)
                    task.free()
            with torch.no_grad(), clock("forward of the quantized block"):
                for window in range(len(tokens)):
                    outputs[window] = walk.forward(block, inputs[window : window + 1])[0]
            opened.__exit__(None, None, None)
            inputs, outputs = outputs, inputs
