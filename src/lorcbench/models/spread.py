"""The whole model in memory: on one device, or spread over all GPUs that the job sees, its blocks one after the other."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from lorcbench.models.blocks import BlockWalk
from lorcbench.models.task_definitions import HarnessError

_FREE = 0.9  # of a GPU's free memory, the share that weights may take; activations have the rest


def whole(walk: BlockWalk) -> nn.Module:
    """The model with all its blocks in memory; the walk is over then.

    Raises:
        HarnessError: its blocks do not fit on the GPUs.
    """
    count = torch.cuda.device_count() if walk.device == "cuda" else 1
    if count == 1:
        return walk.whole()
    devices = [f"cuda:{index}" for index in range(count)]
    walk.move_outside(devices[0])  # before what is free there is counted
    return spread(walk, devices, [_free(device) for device in devices])


def _free(device: str) -> int:
    """Bytes of a GPU that weights may take."""
    return int(_FREE * torch.cuda.mem_get_info(device)[0])


def spread(walk: BlockWalk, devices: list[str], free: list[int]) -> nn.Module:
    """The model with its blocks on several devices, and all else on the first, by accelerate's device map.

    Args:
        free: bytes of each device that weights may take.

    Raises:
        HarnessError: they do not fit.
    """
    from accelerate import dispatch_model

    blocks = walk.model.get_submodule(walk.architecture.blocks)
    sizes = [_bytes(block) for block in blocks]
    room = [free[0] - (_bytes(walk.model) - sum(sizes)), *free[1:]]
    places = [devices[place] for place in placement(sizes, room)]
    walk.whole(places)
    inside = {id(module) for block in blocks for module in block.modules()}
    outside = [
        name
        for name, module in walk.model.named_modules()
        if id(module) not in inside and not list(module.children()) and [*module.parameters(), *module.buffers()]
    ]
    device_map = dict.fromkeys(outside, devices[0])
    for index, (block, place) in enumerate(zip(blocks, places, strict=True)):
        device_map[f"{walk.architecture.blocks}.{index}"] = place
        for module in block.modules():  # buffers are computed where the model was made
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(place))
    skipped = getattr(walk.model, "_skip_keys_device_placement", None)
    return dispatch_model(walk.model, device_map, main_device=devices[0], skip_keys=skipped, force_hooks=True)


def _bytes(module: nn.Module) -> int:
    """What the parameters of a module take; one that is tied to another counts once."""
    return sum(one.numel() * one.element_size() for one in module.parameters())


def placement(sizes: list[int], free: list[int]) -> list[int]:
    """For each block the number of its device: in their order, each device filled by the same share of what is free.

    Args:
        sizes: of the blocks, in bytes.
        free: of each device, in bytes.

    Raises:
        HarnessError: some device would hold more than is free.
    """
    share = sum(sizes) / max(1, sum(free))
    places, device, used, filled = [], 0, 0, 0
    for size in sizes:
        # To the next device when half of the block would lie beyond this one's share.
        while device < len(free) - 1 and filled + used + size / 2 > share * sum(free[: device + 1]):
            filled, used, device = filled + used, 0, device + 1
        used += size
        places.append(device)
    loads = [sum(size for size, place in zip(sizes, places, strict=True) if place == number) for number in range(len(free))]
    if any(load > room for load, room in zip(loads, free, strict=True)):
        gib = [round(number / 2**30, 1) for number in (sum(sizes), sum(free))]
        raise HarnessError(
            f"runtime.gpus_per_job={len(free)}: the blocks take {gib[0]} GiB, and {gib[1]} GiB are free; expected more GPUs"
        )
    return places


def with_generation(model: nn.Module, folder: Path) -> None:
    """Give a model what its checkpoint says of generating, as one that transformers loads has it: ends of text, penalties."""
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
