"""Hugging Face's own model of a checkpoint, without its tensors, and what stands in for its parts while others run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from accelerate import init_empty_weights
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.utils import ModelOutput

from lorcbench.models.checkpoint import CheckpointError


class Arguments(NamedTuple):
    """What a model passes to one of its blocks beside the hidden states."""

    positional: tuple
    named: dict[str, Any]


def empty_network(folder: Path, config: dict, dtype: torch.dtype) -> nn.Module:
    """The model that a ``config.json`` describes, its parameters on the meta device; of several models in one, the text model.

    Args:
        folder: of the checkpoint, for the message.
        config: the content of ``config.json``.

    Raises:
        CheckpointError: config.json makes no causal language model of transformers.
    """
    try:
        hf_config = transformers.AutoConfig.for_model(**config)
        text = hf_config.get_text_config(decoder=True)
        _check_sizes(text)
        # Of some models in one, only the whole configuration has a causal language model, which then is that of the text.
        hf_config = text if type(text) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING else hf_config
        with init_empty_weights(include_buffers=False):
            model = transformers.AutoModelForCausalLM.from_config(hf_config, dtype=dtype)
    except Exception as error:  # the config classes of transformers raise whatever they like about a wrong file
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        unknown = "Unrecognized configuration class" in lines[0]
        reason = f"model_type {hf_config.model_type!r} is no causal language model of transformers" if unknown else lines[-1]
        raise CheckpointError(f"{folder}/config.json: {reason}") from error
    return model.eval().requires_grad_(False)


def _check_sizes(config: transformers.PretrainedConfig) -> None:
    """Refuse sizes that are no sizes; what else makes no sense the classes themselves refuse."""
    for name in ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"):
        size = getattr(config, name, 1)
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{(config.attribute_map or {}).get(name, name)} is {size}, expected a positive whole number")


def plain_linears(block: nn.Module) -> list[str]:
    """Put a linear in the place of every Conv1D of a block, whose weights are (in, out); returns their names."""
    names = [name for name, module in block.named_modules() if isinstance(module, Conv1D)]
    for name in names:
        weight = block.get_submodule(name).weight
        parent, _, attribute = name.rpartition(".")
        linear = nn.Linear(*weight.shape, device="meta", dtype=weight.dtype).requires_grad_(False)
        setattr(block.get_submodule(parent), attribute, linear)
    return names


class StandIn(nn.Module):
    """Stands in for one block: keeps what the model passes to it, and returns its input, or `output` if there is one.

    Its attributes are those of the block, some of which the loops of models read.
    """

    def __init__(self, block: nn.Module, returns_tuple: bool, output: torch.Tensor | None = None) -> None:
        super().__init__()
        self.block = (block,)  # in a tuple, so that it is no submodule
        self.returns_tuple = returns_tuple
        self.output = output
        self.hidden: torch.Tensor | None = None
        self.arguments: Arguments | None = None
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"][0], name)

    def forward(self, *positional, **named):
        if not positional:  # the hidden states may come by name
            positional = (named.pop(next(iter(inspect.signature(self.block[0].forward).parameters))),)
        self.calls += 1
        self.hidden, *others = positional
        self.arguments = Arguments(tuple(others), named)
        output = self.hidden if self.output is None else self.output
        return (output, None) if self.returns_tuple else output


class _Base(nn.Module):
    """Stands in for the base model, and for every part of it that a model may call: returns an output that is there already."""

    def __init__(self, base: nn.Module, output: ModelOutput) -> None:
        super().__init__()
        self.base = (base,)
        self.output = output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            value = getattr(self.__dict__["base"][0], name)
            return self if isinstance(value, nn.Module) else value

    def forward(self, *positional, **named) -> ModelOutput:
        return self.output


@contextmanager
def replaced(network: nn.Module, name: str, stand_in: nn.Module) -> Iterator[None]:
    """While open, the module `name` of a network is another."""
    parent, _, attribute = name.rpartition(".")
    owner, original = network.get_submodule(parent), network.get_submodule(name)
    setattr(owner, attribute, stand_in)
    try:
        yield
    finally:
        setattr(owner, attribute, original)


def logits(network: nn.Module, output: ModelOutput, hidden: torch.Tensor) -> torch.Tensor:
    """The logits (n, vocabulary) that a model makes of final hidden states (n, hidden); some scale what the head gives.

    Args:
        output: of the base model; its hidden states are not looked at.
    """
    ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
    base = _Base(network.base_model, type(output)(last_hidden_state=hidden[None]))
    with replaced(network, network.base_model_prefix, base):
        return network(input_ids=ids, use_cache=False).logits[0]
