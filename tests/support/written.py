"""Quantized matrices and checkpoints as other programs lay them out, written code by code from the description of the layouts.

These are witnesses: slow, in Python's own numbers, and apart from everything that reads them.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


@dataclass
class Written:
    """A quantized matrix, and what it means.

    Attributes:
        parts: as the layout names and lays them out.
        weight: Ŵ (out, in) in float32.
    """

    parts: dict[str, torch.Tensor]
    weight: torch.Tensor


def words(rows: list[list[int]], bits: int) -> torch.Tensor:
    """Each row of codes as one long number, the first code in its lowest bits, cut into 32-bit words."""
    packed = []
    for row in rows:
        number = sum(code << (bits * place) for place, code in enumerate(row))
        count = -(-len(row) * bits // 32)
        unsigned = [(number >> (32 * index)) & 0xFFFFFFFF for index in range(count)]
        packed.append([word - 2**32 if word >= 2**31 else word for word in unsigned])
    return torch.tensor(packed, dtype=torch.int32)


def matrix(
    layout: str,
    weight: torch.Tensor,
    bits: int,
    symmetric: bool,
    group: int | None,
    dtype: torch.dtype = torch.float16,
    reordered: bool = False,
) -> Written:
    """Round W (out, in) to nearest and lay it out.

    Args:
        reordered: the groups are not of neighbouring columns, as after GPTQ's act-order.
    """
    rows, width = weight.shape
    size = group or width
    columns = torch.arange(width) // size
    if reordered:
        columns = columns[torch.randperm(width, generator=torch.Generator().manual_seed(0))]
    middle, top = 2 ** (bits - 1), 2**bits - 1
    scale = torch.zeros(rows, width // size, dtype=dtype)
    zero = torch.full((rows, width // size), middle)
    codes = torch.zeros(rows, width, dtype=torch.int64)
    for index in range(width // size):
        members = weight[:, columns == index].float()
        low, high = members.amin(1).clamp(max=0), members.amax(1).clamp(min=0)
        span = 2 * members.abs().amax(1) if symmetric else high - low
        scale[:, index] = (span / top).to(dtype)
        step = scale[:, index].float()
        if not symmetric:
            zero[:, index] = (-low / step).round().clamp(0, top).long()
        codes[:, columns == index] = ((members / step[:, None]).round() + zero[:, index, None]).clamp(0, top).long()
    exact = (codes - zero[:, columns]).float() * scale.float()[:, columns]
    return Written(_laid_out(layout, codes, zero, scale, columns if reordered else None, bits, symmetric), exact)


def _laid_out(layout, codes, zero, scale, columns, bits: int, symmetric: bool) -> dict[str, torch.Tensor]:
    middle = 2 ** (bits - 1)
    if layout == "pack-quantized":
        parts = {"weight_packed": words(codes.tolist(), bits), "weight_scale": scale, "weight_shape": torch.tensor(codes.shape)}
        if not symmetric:
            parts["weight_zero_point"] = words(zero.T.tolist(), bits).T.contiguous()
        return parts if columns is None else parts | {"weight_g_idx": columns.int()}
    if layout == "int-quantized":
        parts = {"weight": (codes - middle).to(torch.int8), "weight_scale": scale}
        return parts if symmetric else parts | {"weight_zero_point": (zero - middle).to(torch.int8)}
    scales = scale.T.contiguous()
    if layout == "awq":
        order = [0, 2, 4, 6, 1, 3, 5, 7]

        def packed(columns_of_words: torch.Tensor) -> torch.Tensor:
            shuffled = [[row[8 * word + place] for word in range(len(row) // 8) for place in order] for row in columns_of_words]
            return words(shuffled, bits)

        return {"qweight": packed(codes.T.tolist()), "qzeros": packed(zero.T.tolist()), "scales": scales}
    stored = (zero - 1) % 2**bits if layout == "gptq" else zero
    index = columns if columns is not None else torch.arange(codes.shape[1]) // (codes.shape[1] // scale.shape[1])
    return {
        "qweight": words(codes.tolist(), bits).T.contiguous(),
        "qzeros": words(stored.T.tolist(), bits),
        "scales": scales,
        "g_idx": index.int(),
    }


def config(layout: str, bits: int, symmetric: bool, group: int | None, activation: dict | None = None) -> dict:
    """The quantization_config of a checkpoint."""
    if layout in ("gptq", "gptq_v2"):
        about = {"bits": bits, "group_size": group or -1, "desc_act": False, "sym": symmetric, "lm_head": False}
        return {"quant_method": "gptq", "checkpoint_format": layout, **about}
    if layout == "awq":
        return {"quant_method": "awq", "version": "gemm", "bits": bits, "group_size": group or -1, "zero_point": not symmetric}
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group" if group else "channel"}
    weights["group_size"] = group
    scheme = {"targets": ["Linear"], "weights": weights, "input_activations": activation}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": scheme}, "ignore": ["lm_head"]}


def checkpoint(
    base: Path,
    folder: Path,
    linears: list[str],
    layout: str,
    bits: int,
    symmetric: bool = True,
    group: int | None = None,
    skipped: tuple[str, ...] = (),
    **more,
) -> dict[str, torch.Tensor]:
    """A quantized copy of a checkpoint of one file in `folder`; returns what each linear means, by its full name.

    Args:
        linears: full names; those in `skipped` stay as they are.
        more: of `matrix`.
    """
    shutil.copytree(base, folder)
    tensors = load_file(base / "model.safetensors")
    meant = {}
    for name in linears:
        weight = tensors[f"{name}.weight"]
        if name in skipped:
            meant[name] = weight.float()
            continue
        written = matrix(layout, tensors.pop(f"{name}.weight"), bits, symmetric, group, **more)
        meant[name] = written.weight
        tensors |= {f"{name}.{part}": tensor for part, tensor in written.parts.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    about = json.loads((base / "config.json").read_text())
    about["quantization_config"] = config(layout, bits, symmetric, group)
    (folder / "config.json").write_text(json.dumps(about))
    return meant
