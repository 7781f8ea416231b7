"""Where the hidden states of a walk lie when they take more memory than they may, and how they come to the device and back."""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch


class HiddenStates:
    """Makes, reads and writes the hidden states of one walk.

    Args:
        dtype: of the states.
        device: where the arithmetic is.
        hidden_bytes: states up to this size together stay on the device. Those beyond it lie in pinned memory of the host if
            the device is a GPU, else in a file without a name.
        scratch: the folder of that file.
    """

    def __init__(self, dtype: torch.dtype, device: str, hidden_bytes: float = math.inf, scratch: Path | None = None) -> None:
        self._dtype = dtype
        self._device = device
        self._hidden_bytes = hidden_bytes
        self._scratch = scratch
        self._near: list[weakref.ref[torch.Tensor]] = []  # what `buffer` has put on the device

    def buffer(self, *shape: int, streamed: bool = True) -> torch.Tensor:
        """An uninitialized tensor in the type of the forward passes, on the device if `hidden_bytes` allows.

        Args:
            streamed: whether it passes through blocks. If a GPU computes, other tensors beyond `hidden_bytes` go to a file too:
                they may be many times as large as hidden states, and the kernel can take back memory that a file fills.

        Raises:
            OSError: the file that is to hold it does not fit on its disk.
        """
        size = math.prod(shape) * self._dtype.itemsize
        self._near = [reference for reference in self._near if reference() is not None]
        if size + sum(tensor.nbytes for reference in self._near if (tensor := reference()) is not None) <= self._hidden_bytes:
            near = torch.empty(shape, dtype=self._dtype, device=self._device)
            self._near.append(weakref.ref(near))
            return near
        if self._device != "cpu" and streamed:
            return torch.empty(shape, dtype=self._dtype, pin_memory=True)
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # without it a full disk would be a bus error later
            mapped = np.memmap(file, np.uint8, "r+", shape=(size,))
        return torch.from_numpy(mapped).view(self._dtype).view(shape)  # bytes → numbers → (n, length, hidden)

    def _is_near(self, states: torch.Tensor) -> bool:
        """Whether states are where the arithmetic is; on the CPU those in a file are too."""
        return states.device.type == torch.device(self._device).type

    def fetched(self, hidden: torch.Tensor, batches: Iterable[slice]) -> Iterator[tuple[slice, torch.Tensor]]:
        """Batches of hidden states (n, length, hidden), each on the device.

        If they lie on the host, the next batch is copied, in a stream of its own, while the caller works on this one.
        """
        batches = list(batches)
        if self._is_near(hidden):
            yield from ((batch, hidden[batch]) for batch in batches)
            return
        computing = torch.cuda.current_stream()
        copying = torch.cuda.Stream()
        copying.wait_stream(computing)  # an earlier block may still write to the host

        def fetch(batch: slice) -> torch.Tensor:
            with torch.cuda.stream(copying):
                return hidden[batch].to(self._device, non_blocking=True)

        next_states = fetch(batches[0])
        for batch, next_batch in zip(batches, [*batches[1:], None], strict=True):
            computing.wait_stream(copying)
            states = next_states
            states.record_stream(computing)  # its memory is not reused before this stream is done with it
            next_states = fetch(next_batch) if next_batch is not None else None
            yield batch, states

    def write(self, hidden: torch.Tensor, outputs: Iterable[tuple[slice, torch.Tensor]]) -> None:
        """Put outputs (m, length, hidden) in the place of those hidden states (n, length, hidden) that they were made of.

        If the states lie on the host, an output is copied, in a stream of its own, while the next one is made.
        """
        if self._is_near(hidden):
            for batch, output in outputs:
                hidden[batch].copy_(output)
            return
        writing = torch.cuda.Stream()
        for batch, output in outputs:
            writing.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(writing):
                hidden[batch].copy_(output, non_blocking=True)
            output.record_stream(writing)  # its memory is not reused before it is copied
        writing.synchronize()  # the host may read them now
