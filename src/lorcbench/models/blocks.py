"""The one loop under calibration, quantization and perplexity: walk a checkpoint's decoder blocks one at a time.

    hidden = walk.embed(tokens)
    for index in range(walk.depth):
        with walk.block(index) as block:      # loaded from the shards, dropped at the end
            …                                  # look at its inputs, change its weights
            walk.advance(block, hidden)        # hidden states become the block's output, in place
    nll = walk.score(hidden, tokens)

The blocks, the embeddings and the head are Hugging Face's own modules, called with the arguments that the model itself passes
(mask, ALiBi, positions), to each block its own. One thing is not theirs: on the CPU, float32 linears that need no gradient
multiply through NumPy's library, which adds in another order (`lorcbench.models.numpy_linears`). To embed tokens, the model
runs with stand-ins for its blocks, which keep what is passed to them; to score, with stand-ins that return the final hidden
states. Memory holds the embeddings, one block and the hidden states, whatever the depth. A GPU holds the embeddings and the
head only while they work, and one block at other times.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.func import functional_call

from lorcbench.common.process import give_back_memory
from lorcbench.core.divergence import TokenScores, scores_of_all
from lorcbench.models.checkpoint import Checkpoint, CheckpointError
from lorcbench.models.hidden import HiddenStates
from lorcbench.models.network import Arguments, StandIn, empty_network, logits, plain_linears, replaced
from lorcbench.models.numpy_linears import NumPyLinears

SCORED_AT_ONCE = 512  # tokens whose logits exist together: with a vocabulary of 250,880 they take 0.5 GB


class BlockWalk:
    """A checkpoint whose blocks are loaded when they are needed.

    Args:
        checkpoint: what to walk.
        dtype: of the forward passes.
        device: where they run.
        batch_tokens: tokens in one forward pass.
        hidden_bytes, scratch: where hidden states lie, as `lorcbench.models.hidden.HiddenStates` has it.

    Raises:
        CheckpointError: config.json makes no model of its family, or tensors outside the blocks are missing, of another
            shape, or in contradiction with one another.
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
        self.checkpoint = checkpoint
        self.architecture = checkpoint.architecture
        self.dtype = dtype
        self.device = device
        self.batch_tokens = batch_tokens
        self._states = HiddenStates(dtype, device, hidden_bytes, scratch)
        self.model = empty_network(checkpoint.folder, checkpoint.config, dtype)
        self.attention = self.model.config._attn_implementation
        self._empty_blocks = self.model.get_submodule(self.architecture.blocks)
        for block in self._empty_blocks:
            plain_linears(block)
        self._outside_device = ""  # where embeddings and head are
        self._load_outside()
        # What the model passes to each block, per shape of a batch of tokens. Blocks that get the same tensor share it here.
        self._arguments: dict[torch.Size, dict[nn.Module, Arguments]] = {}

    @property
    def depth(self) -> int:
        """Number of decoder blocks."""
        return len(self._empty_blocks)

    @property
    def linear_weights(self) -> int:
        """Number of weights in the linears of all blocks."""
        names = self.architecture.linear_names
        return sum(block.get_submodule(name).weight.numel() for block in self._empty_blocks for name in names)

    def _load_outside(self) -> None:
        """Load embeddings, final norm and head, and move the buffers to the device.

        Raises:
            CheckpointError: a tensor is missing or has a wrong shape, or a tied head differs from its embedding.
        """
        inside = self.architecture.blocks + "."
        expected = {name for name, _ in self.model.named_parameters() if not name.startswith(inside)}
        read = self.checkpoint.outside(expected | self.model.all_tied_weights_keys.keys())
        tensors = {name: self._converted(tensor, "cpu") for name, tensor in read.items()}
        # Of a tied pair `save_pretrained` keeps the embedding and the hub's converter the head; some files hold both.
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
        self._outside = {name: tensor for name, tensor in tensors.items() if name in expected}
        self.move_outside("cpu")
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if not buffer.is_meta:
                    setattr(module, name, buffer.to(self.device))

    def move_outside(self, device: str) -> None:
        """Have embeddings, final norm and head on the walk's device, where they work, or on the host, where they wait.

        They stay on the host too, so that nothing is copied back. Those of BLOOM-176b are 7 GB in float16.
        """
        if device != self._outside_device:
            self._assign(self.model, {name: tensor.to(device) for name, tensor in self._outside.items()})
            self.model.tie_weights()
            self._outside_device = device

    def _converted(self, tensor: torch.Tensor, device: str) -> torch.Tensor:
        """A tensor on a device; floating-point numbers in the type of the forward passes."""
        return tensor.to(device=device, dtype=self.dtype if tensor.is_floating_point() else tensor.dtype)

    def _assign(self, module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
        """Make tensors the parameters of a module, by name, without a copy.

        Raises:
            CheckpointError: a tensor has not the shape that config.json implies.
        """
        shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
        for name, tensor in tensors.items():
            if tensor.shape != shapes[name]:
                actual = tuple(tensor.shape)
                expected = tuple(shapes[name])
                raise CheckpointError(f"{self.checkpoint.folder}: {name} is {actual}, config.json makes it {expected}")
        module.load_state_dict(tensors, strict=False, assign=True)
        module.requires_grad_(False)

    def batches(self, tokens: torch.Tensor) -> Iterator[slice]:
        """Slices of the windows (n, length), one per forward pass."""
        size = max(1, self.batch_tokens // tokens.shape[1])
        return (slice(start, min(start + size, len(tokens))) for start in range(0, len(tokens), size))

    @contextmanager
    def stand_ins(self, output: torch.Tensor | None = None) -> Iterator[nn.ModuleList]:
        """While open, stand-ins are the model's blocks, so that its own code before and behind the blocks can be run.

        Args:
            output: what each returns; None is its input.
        """
        returns_tuple = self.architecture.block_returns_tuple
        blocks = nn.ModuleList(StandIn(block, returns_tuple, output) for block in self._empty_blocks)
        with replaced(self.model, self.architecture.blocks, blocks):
            yield blocks

    @torch.no_grad()
    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Hidden states (n, length, hidden) that enter block 0, for token windows (n, length)."""
        self.move_outside(self.device)
        hidden = None
        for batch in self.batches(tokens):
            with self.stand_ins() as blocks:
                self.model.base_model(input_ids=tokens[batch].to(self.device), use_cache=False)
            states = blocks[0].hidden
            if hidden is None:
                hidden = self.buffer(*tokens.shape, states.shape[-1])
            hidden[batch] = states
            arguments = {block.block[0]: block.arguments for block in blocks}
            self._arguments[tokens[batch].shape] = arguments
        return hidden

    @contextmanager
    def block(self, index: int):
        """Decoder block `index` with its tensors, which are dropped at the end."""
        self.move_outside("cpu")
        block = self._loaded(index)
        try:
            yield block
        finally:
            for module in block.modules():  # buffers stay: they are computed, not read
                for name, parameter in module.named_parameters(recurse=False):
                    setattr(module, name, nn.Parameter(parameter.to("meta"), requires_grad=False))
            give_back_memory()

    def whole(self, devices: Sequence[str] = ()) -> nn.Module:
        """The model with all its blocks in memory, for what does not work block by block; the walk is over then.

        Args:
            devices: of each block, if they are not all on the walk's.
        """
        self.move_outside(self.device)
        for index in range(self.depth):
            self._loaded(index, devices[index] if devices else None)
        return self.model

    def _loaded(self, index: int, device: str | None = None) -> nn.Module:
        """Decoder block `index`, with its tensors, on the walk's device or another.

        Raises:
            CheckpointError: a tensor is missing, unknown to the class, or of another shape.
        """
        block = self._empty_blocks[index]
        parameters, stored = {name for name, _ in block.named_parameters()}, self.checkpoint.names(index)
        ignored = re.compile("|".join(self.model._keys_to_ignore_on_load_unexpected or ["$."]))  # `$.` matches nothing
        unknown = [
            name
            for name in set(stored) - block.state_dict().keys()
            if not ignored.search(f"{self.architecture.blocks}.{index}.{name}")
        ]
        if wrong := sorted({*unknown, *(parameters - set(stored))}):
            raise CheckpointError(f"{self.checkpoint.folder}: block {index} and its class disagree about {wrong[0]}")
        read = self.checkpoint.block(index, [name for name in stored if name in block.state_dict()])
        tensors = {name: self._converted(tensor, device or self.device) for name, tensor in read.items()}
        self._assign(block, tensors)
        return block

    def forward(
        self, block: nn.Module, hidden: torch.Tensor, parameters: dict[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """The output of a block for one batch of hidden states (batch, length, hidden).

        Args:
            parameters: used instead of the block's own of the same names; if they require gradients, so does the output.
        """
        with NumPyLinears():
            positional, named = self._arguments[hidden.shape[:2]][block]
            output = functional_call(block, parameters or {}, (hidden, *positional), named)
        return output[0] if self.architecture.block_returns_tuple else output

    @torch.no_grad()
    def advance(self, block: nn.Module, hidden: torch.Tensor) -> None:
        """Replace the hidden states (n, length, hidden) by the output of the block, in place."""
        outputs = ((batch, self.forward(block, states)) for batch, states in self.fetched(hidden))
        self._states.write(hidden, outputs)

    def buffer(self, *shape: int, streamed: bool = True) -> torch.Tensor:
        """An uninitialized tensor in the type of the forward passes, where `lorcbench.models.hidden.HiddenStates` puts it."""
        return self._states.buffer(*shape, streamed=streamed)

    def fetched(self, hidden: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """Batches of hidden states (n, length, hidden), each on the device."""
        return self._states.fetched(hidden, self.batches(hidden))

    @torch.no_grad()
    def score(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Mean loss of each window, (n,) float32, in nats per token.

        Args:
            hidden: the output of the last block, (n, length, hidden).
            tokens: the windows, (n, length).
        """
        self.move_outside(self.device)
        losses = torch.empty(len(tokens), dtype=torch.float32)
        for batch, states in self.fetched(hidden):
            ids = tokens[batch].to(self.device)
            labels = ids[:, 1:].flatten().split(SCORED_AT_ONCE)
            token_losses = [
                nn.functional.cross_entropy(part, label, reduction="none")
                for part, label in zip(self._logits(states, ids), labels, strict=True)
            ]
            losses[batch] = _window_means(token_losses, len(ids))
        return losses

    @torch.no_grad()
    def compare(
        self, hidden: Sequence[torch.Tensor], tokens: torch.Tensor, full: Callable[[slice], torch.Tensor]
    ) -> list[TokenScores]:
        """Loss of each window as `score` has it, and how far its predictions are from full precision's; means over its tokens.

        Args:
            hidden: of each model that is compared, the output of its last block, (n, length, hidden).
            full: slice of the windows → their final hidden states (m, length, hidden) at full precision, on the host.
        """
        self.move_outside(self.device)
        scores = [TokenScores(*(torch.empty(len(tokens)) for _ in TokenScores._fields)) for _ in hidden]
        for batches in zip(*map(self.fetched, hidden), strict=True):
            batch = batches[0][0]
            ids = tokens[batch].to(self.device)
            labels = ids[:, 1:].flatten().split(SCORED_AT_ONCE)
            own = zip(*(self._logits(states, ids) for _, states in batches), strict=True)
            parts = zip(own, self._logits(full(batch).to(self.device), ids), labels, strict=True)
            of_parts = [scores_of_all(*part) for part in parts]
            for of_model, of_its_parts in zip(scores, zip(*of_parts, strict=True), strict=True):
                for windows, values in zip(of_model, zip(*of_its_parts, strict=True), strict=True):
                    windows[batch] = _window_means(values, len(ids))
        return scores

    def _logits(self, states: torch.Tensor, ids: torch.Tensor) -> Iterator[torch.Tensor]:
        """Logits (tokens, vocabulary) float32 of a batch of final hidden states (m, length, hidden), a few tokens at a time.

        Of each window all positions but the last, each of which predicts the next token.
        """
        with self.stand_ins(states):
            output = self.model.base_model(input_ids=ids, use_cache=False)
        head_inputs = output.last_hidden_state[:, :-1].flatten(0, 1)  # (m, length - 1, hidden) → (tokens, hidden)
        for part in head_inputs.split(SCORED_AT_ONCE):
            with NumPyLinears():
                of_part = logits(self.model, output, part).float()
            yield of_part


def _window_means(parts: Iterable[torch.Tensor], windows: int) -> torch.Tensor:
    """Means over the tokens of each window, (windows,) on the host, of what stands there for the tokens of all, in parts."""
    return torch.cat(tuple(parts)).view(windows, -1).mean(1).cpu()
