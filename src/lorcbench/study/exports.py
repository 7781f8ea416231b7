"""What a cell can be exported to, and why not: which format holds which cell.

====================  =======================================================================================================
format                what lies in the folder
====================  =======================================================================================================
merged                an ordinary checkpoint: Ŵ, or Ŵ + BA, rounded once to the checkpoint's type; holds every cell
adapter               an ordinary checkpoint of Ŵ alone, and the factors beside it as a PEFT adapter
compressed-tensors    codes, scales and zero points as vLLM's compressed-tensors packs them; factors beside it as an adapter
gptq                  codes, scales and zero points as GPTQ packs them; factors beside it as an adapter
====================  =======================================================================================================

A format holds a cell if what is loaded from it is the cell: the same weights to the bit, and the same rounding of activations.
The one exception is a merged or dequantized checkpoint of a cell with rounded activations: no such file can say that they are
rounded, so it holds the weights alone, and its card says so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from lorcbench.config import compose, foreign
from lorcbench.config.checks import ConfigError
from lorcbench.config.schema import EXPORT_CHECKS, EXPORTS
from lorcbench.core.formats import ActivationFormat, WeightFormat
from lorcbench.study.cells import Cell

PUBLISHED = "model"  # the folder that is taken away, in that of the job
FORMATS = EXPORTS
VERIFY = EXPORT_CHECKS
GPTQ_PYTHON = "LORCBENCH_GPTQ_PYTHON"  # environment variable: the interpreter that has gptqmodel
WITHOUT_GPTQMODEL = (
    f"gptqmodel is not installed; make install-gptq puts it into an environment of its own, or {GPTQ_PYTHON} names its Python"
)
GPTQ_BITS = (2, 3, 4, 8)
_GPTQ_GROUPS = (None, 16, 32, 64, 128, 256, 512, 1024)  # of gptqmodel's CPU kernel
# Families whose activations compressed-tensors rounds otherwise than by token, and why.
_ONE_SCALE = {"opt": "transformers gives OPT's feed-forward part tokens without a batch, and they get one scale for all"}
_WORD = 32  # bits of the integers that GPTQ packs codes into; a row and a column of codes must fill whole ones


def refusal(cell: Cell, export: str, model_type: str | None = None) -> str | None:
    """Why a format does not hold a cell, or None if it does.

    Args:
        export: one of `FORMATS`.
        model_type: Hugging Face's name of the model's family, if it is known.
    """
    if cell.method == "none":
        return "its weights are those of the checkpoint, which there is already"
    if compose.load("method", cell.method).kind == foreign.METHOD:
        return "it was quantized elsewhere, and is a checkpoint already"
    if export == "merged":
        return None
    if export == "adapter":
        if cell.rank and cell.weight_format.is_mixed:
            return "its ranks may differ from linear to linear, down to none"
        return None if cell.rank else "it has no correction, hence no factors"
    fmt = cell.weight_format
    if fmt.is_mixed and export == "gptq":
        return "its linears have formats of their own, and GPTQ's files have one for all"
    if fmt.convention == "pow2" and not fmt.symmetric:
        return "zero points of pow2 are any integers, and packed ones have as many bits as a code"
    reasons = _gptq(cell, fmt) if export == "gptq" else _compressed_tensors(cell, model_type)
    return next(iter(reasons), None)


def _gptq(cell: Cell, fmt: WeightFormat) -> list[str]:
    """What of a cell GPTQ's files cannot hold."""
    reasons = []
    if fmt.bits not in GPTQ_BITS:
        reasons.append(f"{fmt.bits} bits, where GPTQ's files have one of {', '.join(map(str, GPTQ_BITS))}")
    if fmt.scale_dtype != "float16":
        reasons.append(f"scales in {fmt.scale_dtype}, where GPTQ's are float16")
    if fmt.group not in _GPTQ_GROUPS:
        reasons.append(f"groups of {fmt.group}, where GPTQ's are {', '.join(map(str, _GPTQ_GROUPS[1:]))} or a row")
    if cell.activation != "a16":
        reasons.append("its activations are rounded, which GPTQ's files do not say")
    return reasons


def _compressed_tensors(cell: Cell, model_type: str | None) -> list[str]:
    """What of a cell compressed-tensors cannot hold."""
    activation, reasons = cell.activation_format, []
    if cell.weight_format.is_mixed:
        asymmetric = [str(fmt) for fmt in compose.load("method", cell.method).candidates if not fmt.symmetric]
        why = "transformers 5.23 unpacks zero points of all linears by one format, and these have formats of their own"
        reasons += [f"{why} ({asymmetric[0]}); symmetric ones have none"] if asymmetric else []
        reasons += ["an adapter needs its weights unpacked, which transformers 5.23 does by one format"] if cell.rank else []
    if activation.is_full_precision:
        return reasons
    if cell.rank:
        reasons.append("its activations are rounded, and an adapter's input would not be")
    if activation.group:
        reasons.append("its activations are rounded in groups; what loads it rounds them by token")
    if activation.convention != "minmax":
        reasons.append(f"its activations are rounded by {activation.convention}; what loads it divides by 2^b - 1")
    if one_scale := _ONE_SCALE.get(model_type or ""):
        reasons.append(one_scale)
    return reasons


def is_packed(formats: Iterable[WeightFormat], activation: ActivationFormat) -> bool:
    """Whether compressed-tensors packs the codes (``pack-quantized``); else each takes a byte (``int-quantized``)."""
    return activation.is_full_precision or all(fmt.symmetric and fmt.bits < 8 for fmt in formats)


def shape_refusal(export: str, fmt: WeightFormat, shapes: dict[str, tuple[int, int]], transposed: list[str]) -> str | None:
    """Why a format does not hold the linears of a model, or None if it does.

    Args:
        shapes: (out, in) of every linear of a block.
        transposed: the linears that are stored (in, out), as transformers' Conv1D does.
    """
    if export in ("merged", "adapter"):
        return None
    if transposed:
        return f"{transposed[0]} is a Conv1D, which {export} does not pack"
    for name, (rows, width) in shapes.items() if export == "gptq" else ():
        if width % _WORD or rows % _WORD:
            return f"{name} is {rows} × {width}, and gptqmodel packs multiples of {_WORD}"
    return None


def holding(cell: Cell, model_type: str | None = None) -> list[str]:
    """The formats that hold a cell, as far as its names and its family say."""
    return [export for export in FORMATS if refusal(cell, export, model_type) is None]


def default(cell: Cell, model_type: str | None = None) -> str:
    """The format of a cell for which none is named: compressed-tensors if it holds the cell, else merged.

    Compressed-tensors stays as small as the page says, and what loads it installs beside everything else; GPTQ's library does
    not. A merged checkpoint has 16 bits per weight, and always loads.
    """
    held = holding(cell, model_type)
    return "compressed-tensors" if "compressed-tensors" in held else "merged"


def refuse(cell: Cell, export: str, reason: str, held: list[str]) -> ConfigError:
    """The one line with which an export is refused."""
    instead = f"expected one of {', '.join(held)}" if held else "expected a quantized cell"
    return ConfigError(f"export_format={export} of {cell.key}: {reason}; {instead}")


def checked(cell: Cell, export: str | None = None, verify: str | None = None, model_type: str | None = None) -> tuple[str, str]:
    """The format and the check of an export, those that are left out filled in.

    Raises:
        ConfigError: they are unknown, or the format does not hold the cell.
    """
    verify = verify or "whole"
    if export not in (None, *FORMATS):
        raise ConfigError(f"export_format={export}: expected one of {', '.join(FORMATS)}")
    if verify not in VERIFY:
        raise ConfigError(f"export_verify={verify}: expected one of {', '.join(VERIFY)}")
    export = export or default(cell, model_type)
    if reason := refusal(cell, export, model_type):
        raise refuse(cell, export, reason, holding(cell, model_type))
    return export, verify


def gptq_python() -> str | None:
    """The interpreter that has gptqmodel, which wants another NumPy than everything else; None if there is none."""
    places = [os.environ.get(GPTQ_PYTHON), f"{sys.prefix}-gptq/bin/python"]
    return next((place for place in places if place and Path(place).is_file()), None)
