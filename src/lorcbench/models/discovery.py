"""Find the record of a checkpoint's architecture: from Hugging Face's class without tensors, and one pass of its real block 0.

The class says where the list of decoder blocks is and which linears they have. The pass says in which order the linears run,
which of them share one input, and what a block returns. What the block walk could not do exactly as the model does it, and what
would stay unquantized though it is a matrix, is refused in one line that names the module.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.pytorch_utils import Conv1D

from lorcbench.models.architecture import Architecture, numberless
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.checkpoint import Checkpoint, CheckpointError, read_config
from lorcbench.models.fused import fused_parts
from lorcbench.models.network import Arguments, StandIn, empty_network, plain_linears

_TOKENS = (2, 6)  # windows and their length in the pass
_PLAIN = (torch.Tensor, bool, int, float, str, torch.dtype, type(None))


def opened(folder: Path) -> Checkpoint:
    """A checkpoint with the record that was found for it.

    Raises:
        CheckpointError: as `found`.
    """
    return Checkpoint(folder, found(folder))


def found(folder: Path) -> Architecture:
    """The record of the checkpoint in `folder`.

    Raises:
        CheckpointError: the checkpoint is damaged, its class is no causal language model, or one that cannot be walked exactly.
    """
    config = read_config(folder)
    network = empty_network(folder, config, torch.bfloat16)
    draft = _structure(folder, network)
    draft = replace(draft, names=_names(folder, network, config, draft))
    return _watched(Checkpoint(folder, draft))


def _refused(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{folder}: {reason}")


def _structure(folder: Path, network: nn.Module) -> Architecture:
    """What the class alone says: the linears of a block stand each by itself, in the order of their definition."""
    name, config, depth = type(network).__name__, network.config, network.config.num_hidden_layers
    lists = {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth and _matrices(module)
    }
    if len(lists) != 1:
        raise _refused(
            folder, f"{name} has {len(lists)} lists of {depth} modules with linears, expected one, its decoder blocks"
        )
    ((path, blocks),) = lists.items()
    base = network.base_model_prefix
    if not path.startswith(f"{base}."):
        raise _refused(folder, f"{name} keeps its blocks at {path}, expected them in its base model {base!r}")
    transposed = [plain_linears(block) for block in blocks]
    for index, block in enumerate(blocks):
        _check_matrices(folder, f"{name}: {path}.{index}", block)
        if differing := sorted(set(_matrices(block)) ^ set(_matrices(blocks[0]))):
            raise _refused(folder, f"{name}: {path}.0 and {path}.{index} have different linears, such as {differing[0]}")
    names = _matrices(blocks[0])
    weights = {f"{linear}.weight" for linear in names}
    others = (parameter for block in blocks for parameter, _ in block.named_parameters())
    return Architecture(
        model_type=config.model_type,
        model_class=name,
        root=f"{base}.",
        blocks=path,
        layers=depth,
        linears=[[linear] for linear in names],
        block_returns_tuple=False,
        transposed=transposed[0],
        fused=fused_parts(config, {linear: len(blocks[0].get_submodule(linear).weight) for linear in names}),
        full_precision=[name for name in dict.fromkeys(others) if name not in weights],
    )


def _matrices(module: nn.Module) -> list[str]:
    """The names of the linears in a module, Conv1D among them."""
    return [name for name, part in module.named_modules() if isinstance(part, nn.Linear | Conv1D)]


def _check_matrices(folder: Path, place: str, block: nn.Module) -> None:
    """Refuse a block with matrices that are no linears: they would stay unquantized. The largest is named."""
    others = [
        (value.numel(), f"{name}.{parameter}".lstrip("."), tuple(value.shape), type(module).__name__)
        for name, module in block.named_modules()
        for parameter, value in module.named_parameters(recurse=False)
        if value.ndim > 1 and not isinstance(module, nn.Linear | nn.Embedding)
    ]
    if others:
        _, name, shape, kind = max(others)
        raise _refused(folder, f"{place}.{name} is {shape} in a {kind}, no linear: it cannot be quantized")


def _names(folder: Path, network: nn.Module, config: dict, draft: Architecture) -> dict[str, str]:
    """Names in the files → names in the class, as transformers renames tensors when it reads a checkpoint."""
    stored, known = Checkpoint(folder, draft).stored, network.state_dict()
    tower = _tower(folder, list(stored), draft) if config.get("model_type") != draft.model_type else ""
    conversions = get_model_conversion_mapping(network)
    renamings = [one for one in conversions if isinstance(one, WeightRenaming)]
    others = [one for one in conversions if not isinstance(one, WeightRenaming)]
    names = {}
    for name in stored:
        if not name.startswith(tower):
            continue
        own = name.removeprefix(tower)
        full, converted = rename_source_key(own, renamings, others, network.base_model_prefix, known)
        if converted and full in known:
            raise _refused(folder, f"{name} is changed by {draft.model_class} when it is read: it is not stored as it is used")
        if full in known and full != draft.full_name(name):
            names[numberless(name)] = numberless(full)
    return names


def _tower(folder: Path, stored: list[str], draft: Architecture) -> str:
    """The prefix of the text model's tensors in a checkpoint that holds other models beside it."""
    first = f"{draft.blocks.removeprefix(draft.root)}.0.{draft.linears[0][0]}.weight"
    towers = {name.removesuffix(first).removesuffix(draft.root) for name in stored if name.endswith(first)}
    text = {tower for tower in towers if not re.search("vision|audio", tower)}
    if len(text) != 1:
        raise _refused(folder, f"{len(text)} models in it have a tensor {first}, expected one text model")
    return text.pop()


@torch.no_grad()
def _watched(checkpoint: Checkpoint) -> Architecture:
    """The record with what a pass of block 0 shows, once what the model passes to its blocks was found fit for the walk."""
    draft, folder = checkpoint.architecture, checkpoint.folder
    walk = BlockWalk(checkpoint, torch.bfloat16)
    place = f"{draft.model_class}: {draft.blocks}.0"
    tokens = torch.arange(_TOKENS[0] * _TOKENS[1]).view(_TOKENS) % walk.model.config.vocab_size
    first = _entering(walk, tokens)
    with walk.block(0) as block:
        calls, output = _run(block, first.hidden, first.arguments)
        _check_calls(folder, place, draft.linear_names, calls, tokens.numel())
        _check_output(folder, place, block, first, output)
    groups: dict[tuple, list[str]] = {}
    for name, x, version in calls:
        groups.setdefault(_same(x, version), []).append(name)
    architecture = replace(draft, linears=list(groups.values()), block_returns_tuple=isinstance(output, tuple | list))
    if architecture.linear_names[-1] != calls[-1][0]:
        raise _refused(folder, f"{place}.{calls[-1][0]} runs last, but has the input of {architecture.input_of(calls[-1][0])}")
    walk.architecture = architecture
    _check_arguments(folder, place, _passed(walk, tokens), _passed(walk, tokens.flip(1)))
    return architecture


class _Stop(Exception):
    """Ends a pass when all that it is run for was seen."""


def _entering(walk: BlockWalk, tokens: torch.Tensor) -> StandIn:
    """What the model passes to block 0."""

    def stop(*of_hook) -> None:
        raise _Stop

    with walk.stand_ins() as blocks, suppress(_Stop):
        blocks[0].register_forward_hook(stop)
        _base(walk, tokens)
    if not blocks[0].calls:
        raise _refused(walk.checkpoint.folder, f"{walk.architecture.model_class} does not run its block 0")
    return blocks[0]


def _base(walk: BlockWalk, tokens: torch.Tensor) -> None:
    """Run the base model, with stand-ins for its blocks."""
    try:
        walk.model.base_model(input_ids=tokens, use_cache=False)
    except _Stop:
        raise
    except Exception as error:  # whatever a class raises whose loop wants more of its blocks than the walk gives
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        said = f"{walk.architecture.model_class} does not run without its blocks: {type(error).__name__}: {reason}"
        raise _refused(walk.checkpoint.folder, said) from error


def _check_output(folder: Path, place: str, block: nn.Module, first: StandIn, output: Any) -> None:
    """Refuse a block that returns something else than hidden states, or whose output depends on later tokens."""
    changed = first.hidden.clone()
    changed[:, -1] += 1
    _, other = _run(block, changed, first.arguments)
    before, after = (one[0] if isinstance(one, tuple | list) else one for one in (output, other))
    if not isinstance(before, torch.Tensor) or before.shape != first.hidden.shape:
        raise _refused(folder, f"{place} returns a {type(before).__name__}, expected hidden states")
    if not torch.equal(before[:, :-1], after[:, :-1]):
        raise _refused(folder, f"{place} looks at later tokens: this is no decoder")


def _same(x: torch.Tensor, version: int) -> tuple:
    """What two inputs have in common if they are one tensor, perhaps in other shapes."""
    return x.untyped_storage().data_ptr(), x.storage_offset(), x.numel(), x.shape[-1], version


def _passed(walk: BlockWalk, tokens: torch.Tensor) -> list[Arguments]:
    """What the model passes to each block, beside the hidden states that the block before it returned."""
    folder, name = walk.checkpoint.folder, walk.architecture.model_class
    with walk.stand_ins() as blocks:
        _base(walk, tokens)
    for index, block in enumerate(blocks):
        if block.calls != 1:
            raise _refused(folder, f"{name} runs block {index} {block.calls} times, expected once")
        if index and block.hidden is not blocks[index - 1].hidden:
            raise _refused(folder, f"{name} changes the hidden states between blocks {index - 1} and {index}")
    return [block.arguments for block in blocks]


def _check_arguments(folder: Path, place: str, arguments: list[Arguments], others: list[Arguments]) -> None:
    """Refuse arguments that blocks may change, and those that depend on the tokens.

    Args:
        others: what the model passes for other tokens of the same number.
    """
    stem = place.rpartition(".")[0]
    for index, (one, other) in enumerate(zip(arguments, others, strict=True)):
        again = _by_name(other)
        for key, value in _by_name(one).items():
            if not _is_plain(value):
                reason = f"a {type(value).__name__}, through which blocks may hand state to one another"
                raise _refused(folder, f"{stem}.{index} is passed {key}, {reason}")
            if not _equal(value, again[key]):
                raise _refused(folder, f"{stem}.{index} is passed {key}, which depends on the tokens")


def _by_name(arguments: Arguments) -> dict[str, Any]:
    """Arguments by name; the first is the hidden states."""
    return {f"argument {place}": value for place, value in enumerate(arguments.positional, 2)} | arguments.named


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple) else isinstance(value, _PLAIN)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


Calls = list[tuple[str, torch.Tensor, int]]


def _run(block: nn.Module, hidden: torch.Tensor, arguments: Arguments) -> tuple[Calls, Any]:
    """One pass of a block: each call of a linear with its input and that input's version, and what the block returns."""
    calls: Calls = []
    hooks = [
        block.get_submodule(name).register_forward_pre_hook(
            # The inputs are kept, so that no later one can have the memory of an earlier.
            lambda module, args, name=name: calls.append((name, args[0], args[0]._version))
        )
        for name in _matrices(block)
    ]
    try:
        return calls, block(hidden, *arguments.positional, **arguments.named)
    finally:
        for hook in hooks:
            hook.remove()


def _check_calls(folder: Path, place: str, linears: tuple[str, ...], calls: Calls, tokens: int) -> None:
    """Refuse linears that do not run once, on all tokens, or whose input the block overwrites."""
    names = [name for name, *_ in calls]
    for name in linears:
        if names.count(name) != 1:
            raise _refused(folder, f"{place}.{name} runs {names.count(name)} times in a pass, expected once")
    for name, x, version in calls:
        if x.numel() != tokens * x.shape[-1]:
            raise _refused(folder, f"{place}.{name} sees {x.numel() // x.shape[-1]} of {tokens} tokens")
        if x._version != version:
            raise _refused(folder, f"{place}.{name} has an input that is overwritten before the block ends")
