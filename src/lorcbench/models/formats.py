"""What the configuration files of exported models say, as the libraries that read them spell it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from compressed_tensors.quantization import QuantizationConfig
from peft import LoraConfig

from lorcbench.core.formats import ActivationFormat, WeightFormat


def gptq(fmt: WeightFormat) -> dict:
    """``quantization_config`` of GPTQ's files: version 1 if the format is symmetric, else version 2."""
    return {
        "quant_method": "gptq",
        "checkpoint_format": "gptq" if fmt.symmetric else "gptq_v2",
        "bits": fmt.bits,
        "group_size": fmt.group or -1,
        "desc_act": False,
        "sym": fmt.symmetric,
        "lm_head": False,
        "pack_dtype": "int32",
    }


def compressed_tensors(
    targets: dict[WeightFormat, list[str]], activation: ActivationFormat, layout: str, ignore: list[str]
) -> dict:
    """``quantization_config`` of compressed-tensors, by its own schema, which refuses what it does not know.

    Args:
        targets: the linears of each format: their class, or their names in the model. Each format is a group of its own.
        layout: ``pack-quantized`` or ``int-quantized``.
        ignore: linears that are not packed.
    """
    groups = {}
    for number, (fmt, linears) in enumerate(targets.items()):
        per_group = {"strategy": "group", "group_size": fmt.group} if fmt.group else {"strategy": "channel"}
        group = {
            "targets": linears,
            "format": layout,
            "weights": {"num_bits": fmt.bits, "type": "int", "symmetric": fmt.symmetric, "dynamic": False, **per_group},
        }
        if not activation.is_full_precision:
            about = {"num_bits": activation.bits, "type": "int", "symmetric": activation.symmetric}
            group["input_activations"] = {**about, "strategy": "token", "dynamic": True}
        groups[f"group_{number}"] = group
    quantization = QuantizationConfig(config_groups=groups, format=layout, quantization_status="compressed", ignore=ignore)
    return json.loads(quantization.model_dump_json(exclude_none=True))


def write_lora_config(folder: Path, ranks: dict[str, int], linears: Iterable[str], transposed: bool) -> None:
    """``adapter_config.json`` of PEFT: every module with its own rank, and its factors multiplied with 1.

    Args:
        ranks: by module.
        linears: names of the modules within a block.
        transposed: whether they are Conv1D, whose weights are (in, out).
    """
    common = max(ranks.values(), key=list(ranks.values()).count)
    others = {module: rank for module, rank in ranks.items() if rank != common}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=common,
        lora_alpha=common,
        rank_pattern=others,
        alpha_pattern=dict(others),
        target_modules=sorted(linears),
        fan_in_fan_out=transposed,
        lora_dropout=0.0,
        bias="none",
        inference_mode=True,
    )
    config.save_pretrained(folder)
    file = folder / "adapter_config.json"
    about = json.loads(file.read_text(encoding="utf-8"))
    about["target_modules"] = sorted(about["target_modules"])  # PEFT writes a set, in no fixed order
    file.write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
