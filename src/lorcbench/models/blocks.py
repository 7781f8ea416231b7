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

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import transformers
from accelerate import init_empty_weights
from torch import nn
from torch.func import functional_call

from lorcbench.common.process import give_back_memory
from lorcbench.models.checkpoint import Checkpoint, CheckpointError
from lorcbench.models.numpy_linears import NumPyLinears

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
        hidden_bytes: hidden states up to this size stay on the device; larger ones lie on the host, pinned, if the device is a
            GPU, and else in a file without a name.
        scratch: the folder of that file.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        device: str = "cpu",
        batch_tokens: int = 2048,
        hidden_bytes: float = math.inf,
        scratch: Path | None = None,
    ) -> None:
        self.checkpoint, self.architecture = checkpoint, checkpoint.architecture
        self.dtype, self.device, self.batch_tokens = dtype, device, batch_tokens
        self._hidden_bytes, self._scratch = hidden_bytes, scratch
        try:
            hf_config = transformers.AutoConfig.for_model(**checkpoint.config)
            with init_empty_weights(include_buffers=False):
                self.model = transformers.AutoModelForCausalLM.from_config(hf_config, dtype=dtype)
        except Exception as error:  # whatever its classes raise about what the file says
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
            raise CheckpointError(f"{checkpoint.folder}/config.json: {reason}") from error
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
                hidden = self.buffer(*tokens.shape, recorder.hidden.shape[-1])
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
            give_back_memory()

    def forward(
        self, block: nn.Module, hidden: torch.Tensor, parameters: dict[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """The output of a block for one batch of hidden states (batch, length, hidden).

        Args:
            parameters: by name in the block, used instead of the block's own; if they require gradients, so does the output.
        """
        with NumPyLinears():
            output = functional_call(block, parameters or {}, (hidden,), self._arguments[hidden.shape[:2]])
        return output[0] if self.architecture.block_returns_tuple else output

    @torch.no_grad()
    def advance(self, block: nn.Module, hidden: torch.Tensor) -> None:
        """Replace the hidden states (n, length, hidden) by the block's output, in place."""
        for batch, states in self.fetched(hidden):
            hidden[batch].copy_(self.forward(block, states), non_blocking=True)

    def buffer(self, *shape: int) -> torch.Tensor:
        """An uninitialized tensor in the forward's type, where the budget for hidden states puts it.

        Raises:
            OSError: the file that is to hold it does not fit on its disk.
        """
        size = math.prod(shape) * self.dtype.itemsize
        if size <= self._hidden_bytes:
            return torch.empty(shape, dtype=self.dtype, device=self.device)
        if self.device != "cpu":
            return torch.empty(shape, dtype=self.dtype, pin_memory=True)
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk would be a bus error later
            mapped = np.memmap(file, np.uint8, "r+", shape=(size,))
        return torch.from_numpy(mapped).view(self.dtype).view(shape)

    def fetched(self, hidden: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """Batches of hidden states (n, length, hidden) on the device; from the host, one is copied while another is used."""
        batches = list(self.batches(hidden))
        if hidden.device.type == torch.device(self.device).type:
            yield from ((batch, hidden[batch]) for batch in batches)
            return
        here, copying = torch.cuda.current_stream(), torch.cuda.Stream()
        copying.wait_stream(here)  # for what an earlier block still writes

        def fetch(batch: slice) -> torch.Tensor:
            with torch.cuda.stream(copying):
                return hidden[batch].to(self.device, non_blocking=True)

        coming = fetch(batches[0])
        for batch, following in zip(batches, [*batches[1:], None], strict=True):
            here.wait_stream(copying)
            states = coming
            states.record_stream(here)
            coming = fetch(following) if following is not None else None
            yield batch, states

    @torch.no_grad()
    def score(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Mean loss of every window (n,) float32, in nats a token, from what the last block made of it."""
        head = self.model.get_output_embeddings()
        losses = torch.empty(len(tokens), dtype=torch.float32)
        for batch, states in self.fetched(hidden):
            with self._instead_of_blocks(_Injector(states, self.architecture.block_returns_tuple)):
                ids = tokens[batch].to(self.device)
                last = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            scored, labels = last[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
            with NumPyLinears():
                loss = [
                    nn.functional.cross_entropy(head(part).float(), label, reduction="none")
                    for part, label in zip(scored.split(_SCORED_AT_ONCE), labels.split(_SCORED_AT_ONCE), strict=True)
                ]
            losses[batch] = torch.cat(loss).view(len(ids), -1).mean(1).cpu()
        return losses
