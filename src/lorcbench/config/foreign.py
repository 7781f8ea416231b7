"""A checkpoint that was quantized elsewhere (``--config foreign=FOLDER``), as far as its ``config.json`` tells.

Its method is called ``foreign+of=NAME``, where the name is the folder's own with six digits of its full path, as that of a
model's folder is (`lorcbench.config.folders.model_name`).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorcbench.config import folders
from lorcbench.config.checks import ConfigError
from lorcbench.core.formats import ActivationFormat, WeightFormat

METHOD = "foreign"
KEY = "foreign"  # of the command line
_READ = "compressed-tensors (pack-quantized, int-quantized), gptq (and gptq_v2) or awq (gemm)"
_INTEGER = ("int-quantized", "naive-quantized")


@dataclass(frozen=True)
class Layout:
    """How a checkpoint is quantized.

    Attributes:
        name: one of `lorcbench.core.layouts.LAYOUTS`.
        weight: the format of its weights.
        activation: the format of the inputs of its linears.
    """

    name: str
    weight: WeightFormat
    activation: ActivationFormat = field(default_factory=lambda: ActivationFormat(16))


def paths(text: str | None) -> list[Path]:
    """The folders that the command line names, colons between them.

    Raises:
        ConfigError: one of them is no checkpoint folder, or is named twice.
    """
    if not text:
        return []
    found = [folders.resolved(path, KEY) for path in text.split(os.pathsep)]
    if len(set(found)) < len(found):
        raise ConfigError(f"{KEY}={text}: expected each folder once")
    return found


def method(folder: Path) -> str:
    """The name of the method of a folder."""
    return f"{METHOD}+of={folders.model_name(folder)}"


def layout(folder: Path) -> Layout:
    """How a checkpoint folder is quantized, by its ``config.json``.

    Raises:
        ConfigError: it is not quantized, or in a way that is not read here.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        about = config.get("quantization_config") or config.get("compression_config")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{KEY}={folder}: config.json cannot be read ({error})") from None
    if not isinstance(about, dict):
        raise ConfigError(f"{KEY}={folder}: config.json has no quantization_config; expected a checkpoint that is quantized")
    read = {"compressed-tensors": _compressed_tensors, "gptq": _gptq, "awq": _awq}
    quantizer = about.get("quant_method", about.get("method"))
    if quantizer not in read:
        raise _refused(folder, "quant_method", quantizer, _READ)
    try:
        return read[quantizer](folder, about)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{KEY}={folder}: quantization_config makes no sense here ({error}); expected {_READ}") from None


def _refused(folder: Path, key: str, value: Any, expected: str) -> ConfigError:
    """The line with which a key of quantization_config is refused."""
    return ConfigError(f"{KEY}={folder}: quantization_config.{key}={value}; expected {expected}")


def _compressed_tensors(folder: Path, about: dict) -> Layout:
    """Of compressed-tensors: one group of linears, whole numbers."""
    groups = about["config_groups"]
    if len(groups) != 1:
        raise _refused(folder, "config_groups", ", ".join(groups), "one group, one format for all linears")
    ((name, scheme),) = groups.items()
    form = scheme.get("format") or about.get("format")
    if form not in ("pack-quantized", *_INTEGER):
        raise _refused(folder, "format", form, "pack-quantized or int-quantized")
    for key in ("kv_cache_scheme", "sparsity_config"):
        value = about.get(key)
        if value and not (key == "sparsity_config" and value.get("format") == "dense"):
            raise _refused(folder, key, value, "none")
    weights = scheme["weights"]
    if weights.get("type", "int") != "int":
        raise _refused(folder, f"config_groups.{name}.weights.type", weights["type"], "int")
    strategy = weights.get("strategy") or ("group" if weights.get("group_size") else "channel")
    if strategy not in ("group", "channel"):
        raise _refused(folder, f"config_groups.{name}.weights.strategy", strategy, "group or channel")
    group = int(weights["group_size"]) if strategy == "group" else None
    weight = WeightFormat(int(weights["num_bits"]), bool(weights.get("symmetric", True)), group)
    activation = _activation(folder, name, scheme.get("input_activations"))
    return Layout("int-quantized" if form in _INTEGER else form, weight, activation)


def _activation(folder: Path, name: str, about: dict | None) -> ActivationFormat:
    """Of the inputs: not rounded, or each token by itself while the model runs."""
    if not about:
        return ActivationFormat(16)
    kind = (about.get("type", "int"), about.get("strategy"), bool(about.get("dynamic")))
    if kind != ("int", "token", True):
        raise _refused(folder, f"config_groups.{name}.input_activations", about, "none, or int with strategy=token, dynamic")
    return ActivationFormat(int(about["num_bits"]), bool(about.get("symmetric", True)))


def _gptq(folder: Path, about: dict) -> Layout:
    """Of AutoGPTQ and GPTQModel."""
    form = about.get("checkpoint_format", about.get("format", "gptq"))
    if form not in ("gptq", "gptq_v2"):
        raise _refused(folder, "checkpoint_format", form, "gptq or gptq_v2")
    if about["bits"] not in (2, 3, 4, 8):
        raise _refused(folder, "bits", about["bits"], "2, 3, 4 or 8")
    if mixed := [name for name in about.get("dynamic") or {} if not name.startswith("-:")]:
        raise _refused(folder, "dynamic", mixed[0], "one format for all linears")
    if about.get("pack_dtype", "int32") != "int32":
        raise _refused(folder, "pack_dtype", about["pack_dtype"], "int32")
    group = int(about["group_size"])
    return Layout(form, WeightFormat(int(about["bits"]), bool(about.get("sym", True)), group if group > 0 else None))


def _awq(folder: Path, about: dict) -> Layout:
    """Of AutoAWQ; its zero points are stored even where they are all alike."""
    version = str(about.get("version", "gemm")).lower()
    if version != "gemm":
        raise _refused(folder, "version", version, "gemm")
    bits = about.get("bits", about.get("w_bit"))
    if bits != 4:
        raise _refused(folder, "bits", bits, "4")
    group = int(about.get("group_size", about.get("q_group_size", 128)))
    return Layout("awq", WeightFormat(4, not about.get("zero_point", True), group if group > 0 else None))
