"""Whether what a public library loads from a folder is the cell: its tensors to the bit, and its perplexity."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from lorcbench.common.process import die_with_parent
from lorcbench.jobs.export.cell import ADAPTER_PREFIX, ExportedCell
from lorcbench.jobs.export.folder import ADAPTER
from lorcbench.models import reload
from lorcbench.models.blocks import BlockWalk
from lorcbench.models.perplexity import window_losses
from lorcbench.study import exports

TOLERANCE = 1e-3  # of a perplexity, as a share of ours
_WINDOWS = 4  # of each corpus
_LENGTH = 256  # tokens of a window at most: the library makes the logits of all of them at once


class ExportError(Exception):
    """What was loaded from an export is not the cell, or could not be loaded; the message says what differs, in one line."""


@dataclass(frozen=True)
class Agreement:
    """What a library loaded.

    Attributes:
        compared: number of tensors that are equal to the bit.
        ours, theirs: perplexity by corpus; empty if only tensors were compared.
        generated: tokens that the model made.
        text: the same in words; None without a tokenizer.
        versions: of the libraries.
        dtype: of the model.
    """

    compared: int
    ours: dict[str, float]
    theirs: dict[str, float]
    generated: list[int]
    text: str | None
    versions: dict[str, str]
    dtype: str

    @property
    def difference(self) -> float:
        """The largest difference of a perplexity, as a share of ours."""
        return max((abs(self.theirs[corpus] / ours - 1) for corpus, ours in self.ours.items()), default=0.0)


def some(windows: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The windows of an evaluation on which an export is compared: the first ones, and of each the start."""
    return {corpus: tokens[:_WINDOWS, :_LENGTH].contiguous() for corpus, tokens in sorted(windows.items())}


def our_losses(exported: ExportedCell, walk: BlockWalk, windows: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """Losses of the cell by our own walk, in the type of the export."""
    return window_losses(walk, windows, exported.weights.block, exported.activation)


def interpreter(export: str) -> str:
    """The Python that loads a format: ours, or for GPTQ the one that has gptqmodel.

    Raises:
        ExportError: there is none with gptqmodel.
    """
    if export != "gptq":
        return sys.executable
    python = exports.gptq_python()
    if python is None:
        raise ExportError(exports.WITHOUT_GPTQMODEL)
    return python


def loaded(exported: ExportedCell, folder: Path, verify: str, windows: dict[str, torch.Tensor], threads: int) -> dict:
    """What a public library loads from the folder, as `lorcbench.models.reload` answers.

    Raises:
        ExportError: it could not load it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "windows.safetensors"
        if verify == "whole":
            save_file(windows, file)
        request = {
            "folder": str(folder.resolve()),
            "adapter": str((folder / ADAPTER).resolve()) if exported.has_adapter else None,
            "windows": str(file) if verify == "whole" else None,
            "verify": verify,
            "threads": threads,
        }
        return _by_process(interpreter(exported.export), request, Path(scratch))


def _by_process(python: str, request: dict, scratch: Path) -> dict:
    """The answer of a process of its own."""
    asked, answer = scratch / "request.json", scratch / "answer.json"
    asked.write_text(json.dumps(request), encoding="utf-8")
    own = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(request["threads"]), "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        [python, "-P", reload.__file__, str(asked), str(answer)],
        env={**os.environ, **own},
        preexec_fn=partial(die_with_parent, os.getpid()),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode or not answer.is_file():
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        raise ExportError(f"the library does not load it: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return json.loads(answer.read_text(encoding="utf-8"))


def compared(
    exported: ExportedCell, answer: dict, digests: dict[str, str], ours: dict[str, list[float]], rename: Callable[[str], str]
) -> Agreement:
    """Hold what was loaded against the cell.

    Args:
        answer: of `loaded`.
        digests: of what the parameters must be, by their name in the model's class.
        ours: our losses; empty if none were asked for.
        rename: the name in the class of a parameter that the answer names.

    Raises:
        ExportError: something differs.
    """
    read = answer["parameters"].items()
    found = {name if name.startswith(ADAPTER_PREFIX) else rename(name): value for name, value in read}
    equal = 0
    for name, expected in digests.items():
        if name in found:
            if found[name] != expected:
                raise ExportError(f"{name}: what the library loads is not our tensor in {exported.dtype}")
            equal += 1
        elif name.startswith((exported.architecture.blocks, ADAPTER_PREFIX)):
            raise ExportError(f"{name}: the library loads no such tensor")
    theirs = answer.get("nll", {})
    agreement = Agreement(
        compared=equal,
        ours={corpus: _perplexity(values) for corpus, values in ours.items()},
        theirs={corpus: _perplexity(values) for corpus, values in theirs.items()},
        generated=answer.get("generated", []),
        text=answer.get("text"),
        versions=answer["versions"],
        dtype=str(exported.dtype).removeprefix("torch."),
    )
    for corpus, value in agreement.ours.items():
        other = agreement.theirs[corpus]
        if not abs(other / value - 1) <= TOLERANCE:
            raise ExportError(f"corpus {corpus}: the library's perplexity is {other:.6g}, ours of the same tensors {value:.6g}")
    if ours and len(agreement.generated) != reload.GENERATED:
        raise ExportError(f"the library generated {len(agreement.generated)} tokens, expected {reload.GENERATED}")
    return agreement


def _perplexity(losses: list[float]) -> float:
    return math.exp(sum(losses) / len(losses))
