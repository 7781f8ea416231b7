"""The one loop under calibration, quantization and perplexity: walk a checkpoint's decoder blocks one at a time.

    hidden = walk.embed(tokens)
    for index in range(walk.depth):
        with walk.block(index) as block:      # loaded from the shards, dropped at the end
            …                                  # look at its inputs, change its weights
            walk.advance(block, hidden)        # hidden states become the block's output, in place
    nll = walk.score(hidden, tokens)

The blocks, the embeddings and the head are Hugging Face's own modules, called with the arguments that the model itself passes
(mask, ALiBi, positions): embedding runs the model with a recorder in place of its blocks, scoring with a block that returns
the given hidden states. Memory is embeddings, one block and the hidden states, whatever the depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import transformers
from accelerate import init_empty_weights
from torch import nn
from torch.func import functional_call

from lorcbench.checkpoint import Checkpoint, CheckpointError

_SCORED_AT_ONCE = 512  # tokens whose logits exist together: a vocabulary of 250,880 makes 0.5 GB of them


class _Recorder(nn.Module):
    """Stands where the blocks were; keeps the arguments of the first block and hands its input on."""

    def __init__(self, returns_tuple: bool) -> None:
        super().__init__()
        self.returns_tuple = returns_tuple
        self.hidden: torch.Tensor | None = None
        self.arguments: dict = {}

    def forward(self, hidden: torch.Tensor, **arguments):
        self.hidden, self.arguments = hidden, arguments
        return (hidden, None) if self.returns_tuple else hidden


class _Injector(nn.Module):
    """Stands where the blocks were; returns hidden states computed elsewhere."""

    def __init__(self, hidden: torch.Tensor, returns_tuple: bool) -> None:
        super().__init__()
        self.hidden, self.returns_tuple = hidden, returns_tuple

    def forward(self, hidden: torch.Tensor, **arguments):
        return (self.hidden, None) if self.returns_tuple else self.hidden


class BlockWalk:
    """A checkpoint whose blocks are loaded when they are needed.

    Args:
        checkpoint: what to walk.
        dtype: of the forward passes.
        device: where they run.
        batch_tokens: tokens in one forward pass.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, device: str = "cpu", batch_tokens: int = 2048) -> None:
        self.checkpoint, self.architecture = checkpoint, checkpoint.architecture
        self.dtype, self.device, self.batch_tokens = dtype, device, batch_tokens
        hf_config = transformers.AutoConfig.for_model(**checkpoint.config)
        with init_empty_weights(include_buffers=False):
            self.model = transformers.AutoModelForCausalLM.from_config(hf_config, dtype=dtype)
        self.model.eval().requires_grad_(False)
        self.attention = self.model.config._attn_implementation
        self._empty_blocks = self.model.get_submodule(self.architecture.blocks)
        self._load_outside()
        self._arguments: dict[torch.Size, dict] = {}

    @property
    def depth(self) -> int:
        """Number of decoder blocks."""
        return len(self._empty_blocks)

    @property
    def linear_weights(self) -> int:
        """Number of weights in the linears of all blocks."""
        block = self._empty_blocks[0]
        return self.depth * sum(block.get_submodule(name).weight.numel() for name in self.architecture.linear_names)

    def _load_outside(self) -> None:
        tensors = {name: self._here(tensor) for name, tensor in self.checkpoint.outside().items()}
        expected = {name for name, _ in self.model.named_parameters() if not name.startswith(self.architecture.blocks)}
        # Of a tied pair `save_pretrained` keeps the embedding, the hub's converter the head, and some files hold both.
        for head, embedding in self.model.all_tied_weights_keys.items():
            expected.discard(head)
            copy = tensors.pop(head, None)
            if copy is not None and not torch.equal(copy, tensors.setdefault(embedding, copy)):
                raise CheckpointError(
                    f"{self.checkpoint.folder}: {head} differs from {embedding}, to which config.json ties it; "
                    "set tie_word_embeddings to false there"
                )
        if missing := sorted(expected - set(tensors)):
            raise CheckpointError(f"{self.checkpoint.folder}: no tensor {missing[0]}")
        self._assign(self.model, {name: tensor for name, tensor in tensors.items() if name in expected})
        self.model.tie_weights()
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if not buffer.is_meta:
                    setattr(module, name, buffer.to(self.device))

    def _here(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device=self.device, dtype=self.dtype if tensor.is_floating_point() else tensor.dtype)

    def _assign(self, module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
        shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        for name, tensor in tensors.items():
            if tensor.shape != shapes[name]:
                wanted, found = tuple(shapes[name]), tuple(tensor.shape)
                raise CheckpointError(f"{self.checkpoint.folder}: {name} is {found}, config.json makes it {wanted}")
        module.load_state_dict(tensors, strict=False, assign=True)
        module.requires_grad_(False)

    def batches(self, tokens: torch.Tensor) -> Iterator[slice]:
        """Slices of windows (n, length) that make one forward pass each."""
        size = max(1, self.batch_tokens // tokens.shape[1])
        return (slice(start, min(start + size, len(tokens))) for start in range(0, len(tokens), size))

    @contextmanager
    def _instead_of_blocks(self, stand_in: nn.Module):
        parent, _, name = self.architecture.blocks.rpartition(".")
        setattr(self.model.get_submodule(parent), name, nn.ModuleList([stand_in]))
        try:
            yield stand_in
        finally:
            setattr(self.model.get_submodule(parent), name, self._empty_blocks)

    @torch.no_grad()
    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Hidden states (n, length, hidden) that enter block 0, for token windows (n, length)."""
        hidden = None
        for batch in self.batches(tokens):
            with self._instead_of_blocks(_Recorder(self.architecture.block_returns_tuple)) as recorder:
                self.model.base_model(input_ids=tokens[batch].to(self.device), use_cache=False)
            if hidden is None:
                hidden = torch.empty(*tokens.shape, recorder.hidden.shape[-1], dtype=self.dtype, device=self.device)
            hidden[batch] = recorder.hidden
            self._arguments[tokens[batch].shape] = recorder.arguments
        return hidden

    @contextmanager
    def block(self, index: int):
        """Decoder block `index` with its tensors, which are dropped at the end."""
        block = self._empty_blocks[index]
        tensors = {name: self._here(tensor) for name, tensor in self.checkpoint.block(index).items()}
        expected = dict(block.named_parameters())
        if wrong := sorted(set(expected) ^ set(tensors)):
            raise CheckpointError(f"{self.checkpoint.folder}: block {index} and its class disagree about {wrong[0]}")
        self._assign(block, tensors)
        try:
            yield block
        finally:
            block.to("meta")

    def forward(
        self, block: nn.Module, hidden: torch.Tensor, parameters: dict[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """The output of a block for one batch of hidden states (batch, length, hidden).

        Args:
            parameters: by name in the block, used instead of the block's own; if they require gradients, so does the output.
        """
        output = functional_call(block, parameters or {}, (hidden,), self._arguments[hidden.shape[:2]])
        return output[0] if self.architecture.block_returns_tuple else output

    @torch.no_grad()
    def advance(self, block: nn.Module, hidden: torch.Tensor) -> None:
        """Replace the hidden states (n, length, hidden) by the block's output, in place."""
        for batch in self.batches(hidden):
            hidden[batch] = self.forward(block, hidden[batch])

    @torch.no_grad()
    def score(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Mean loss of every window (n,) float32, in nats a token, from what the last block made of it."""
        head = self.model.get_output_embeddings()
        losses = torch.empty(len(tokens), dtype=torch.float32)
        for batch in self.batches(tokens):
            with self._instead_of_blocks(_Injector(hidden[batch], self.architecture.block_returns_tuple)):
                ids = tokens[batch].to(self.device)
                last = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            states, labels = last[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
            loss = [
                nn.functional.cross_entropy(head(part).float(), label, reduction="none")
                for part, label in zip(states.split(_SCORED_AT_ONCE), labels.split(_SCORED_AT_ONCE), strict=True)
            ]
            losses[batch] = torch.cat(loss).view(len(ids), -1).mean(1).cpu()
        return losses
