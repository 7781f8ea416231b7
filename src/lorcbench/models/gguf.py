"""A GGUF file as transformers reads it: a dequantized model and its tokenizer.

The file stores most matrices in a few bits. What is read here are ordinary 16-bit weights, but they lie on the file's grid:
of a 4-bit file each run of 32 inputs has 16 values. Whatever is measured of such a model starts from there, so results and
pages say what it is from.
"""

from __future__ import annotations

import re
from contextlib import redirect_stderr
from pathlib import Path
from typing import TextIO

import torch

from lorcbench.models.checkpoint import CheckpointError

_BLOCK = "blk."  # how names of a decoder block's tensors begin in GGUF


def block_types(path: Path) -> dict[str, int]:
    """How many numbers of the decoder blocks' matrices the file stores in each type, such as ``Q4_1``; the most frequent first.

    Raises:
        CheckpointError: it is no GGUF file, or a damaged one.
    """
    from gguf import GGUFReader

    try:
        tensors = GGUFReader(path).tensors
    except Exception as error:  # of a damaged file the reader raises whatever NumPy raises
        raise CheckpointError(f"{path}: no GGUF file, or a damaged one ({_reason(error)})") from None
    counts: dict[str, int] = {}
    for tensor in tensors:
        if tensor.name.startswith(_BLOCK) and len(tensor.shape) > 1:
            counts[tensor.tensor_type.name] = counts.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
    if not counts:
        raise CheckpointError(f"{path}: no decoder blocks; expected the GGUF file of a language model")
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def bits_of(kind: str) -> int:
    """The bits of a code in one of GGUF's types: 4 for ``Q4_1``, ``IQ4_NL`` and ``Q4_K``; scales are not counted."""
    return int(re.search(r"\d+", kind)[0])


def load(path: Path, log: TextIO) -> tuple:
    """The model (float16) and the tokenizer in a GGUF file.

    In float16 a dequantized weight is off by at most 1/2,048 of itself; the steps of a 4-bit grid are a hundred times coarser.

    Args:
        log: where progress bars go.

    Raises:
        CheckpointError: the file is damaged, of a family that transformers does not read from GGUF, or lacks tensors.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    plain = {"dtype": torch.float16, "quantization_config": GgufConfig(dequantize=True)}
    try:
        with redirect_stderr(log):
            model, info = AutoModelForCausalLM.from_pretrained(**where, **plain, output_loading_info=True)
            tokenizer = AutoTokenizer.from_pretrained(**where, trust_remote_code=False)
    except Exception as error:  # as above
        raise CheckpointError(f"{path}: transformers reads no model from it ({_reason(error)})") from None
    # What a file lacks transformers would make up, and say so in a warning only.
    for problem in ("missing_keys", "mismatched_keys"):
        if names := sorted(map(str, info[problem])):
            raise CheckpointError(f"{path}: {problem.partition('_')[0]} tensor {names[0]}, {len(names)} in all")
    _forget_the_source(model)
    return model, tokenizer


def _forget_the_source(model) -> None:
    """Make it an ordinary model, which `save_pretrained` takes: its weights are plain numbers already."""
    model.config.__dict__.pop("quantization_config", None)
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        model.__dict__.pop(name, None)


def _reason(error: Exception) -> str:
    """An error of another library in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
