"""Load an exported model as anyone would, and say what came of it: a program of its own, which imports nothing of ours.

    python reload.py REQUEST.json ANSWER.json

It runs in a process of its own, for GPTQ also in an interpreter of its own, so that what it measures is what a user of the
public libraries gets. The request is made, and the answer judged, by `lorcbench.jobs.export.check`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open

GENERATED = 20  # tokens
_PROMPT = 8  # tokens of a window that are continued
_LIBRARIES = ("torch", "transformers", "compressed_tensors", "peft", "gptqmodel", "optimum")


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 of the bytes of a tensor, row after row."""
    flat = tensor.detach().cpu().contiguous().view(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy()).hexdigest()


def load(folder: str, config: dict):
    """The model, by the line that the card of an export shows."""
    from transformers import AutoModelForCausalLM

    if config.get("quantization_config", {}).get("quant_method") == "gptq":
        from transformers import GPTQConfig

        bits = config["quantization_config"]["bits"]
        return AutoModelForCausalLM.from_pretrained(folder, quantization_config=GPTQConfig(bits=bits, backend="torch"))
    return AutoModelForCausalLM.from_pretrained(folder)


def parameters(model) -> dict[str, str]:
    """The digest of every parameter; of packed ones that of the weight that they mean."""
    digests = {name: digest(tensor) for name, tensor in model.state_dict().items()}
    for name, module in model.named_modules():
        if hasattr(module, "dequantize_weight"):  # gptqmodel's; (in, out)
            digests[f"{name}.weight"] = digest(module.dequantize_weight().T)
    return digests


def adapter_parameters(model) -> dict[str, str]:
    """The digests of the factors, by their names in the adapter's file."""
    return {
        name.replace(".default", ""): digest(tensor.float()) for name, tensor in model.state_dict().items() if ".lora_" in name
    }


@torch.no_grad()
def losses(model, windows: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """Mean loss of each window in nats per token, by corpus."""
    found: dict[str, list[float]] = {}
    for corpus, tokens in windows.items():
        for window in tokens.long():
            logits = model(input_ids=window[None], use_cache=False).logits[0, :-1]
            found.setdefault(corpus, []).append(float(torch.nn.functional.cross_entropy(logits.float(), window[1:])))
    return found


@torch.no_grad()
def continued(model, windows: dict[str, torch.Tensor]) -> list[int]:
    """The tokens that the model puts after the start of the first window, each the likeliest."""
    prompt = next(iter(windows.values()))[:1, :_PROMPT].long()
    output = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=GENERATED,
        min_new_tokens=GENERATED,
        do_sample=False,
    )
    return output[0, prompt.shape[1] :].tolist()


def whole(request: dict, config: dict, windows: dict[str, torch.Tensor]) -> dict:
    """Load all of the model, hold its parameters against the request, score windows, and generate.

    A model in compressed-tensors is packed until it is first called.
    """
    model = load(request["folder"], config).eval()
    answer: dict = {"type": str(model.dtype).removeprefix("torch."), "class": type(model).__name__}
    if request["adapter"]:
        from peft import PeftModel

        answer["parameters"] = parameters(model)
        model = PeftModel.from_pretrained(model, request["adapter"]).eval()
        answer["parameters"] |= adapter_parameters(model)
        answer["nll"] = losses(model, windows)
    else:
        answer["nll"] = losses(model, windows)
        answer["parameters"] = parameters(model)
    answer["generated"] = continued(model, windows)
    answer["text"] = _decoded(request["folder"], answer["generated"])
    return answer


def _decoded(folder: str, tokens: list[int]) -> str | None:
    """Tokens as text, if there is a tokenizer in the folder."""
    if not any((Path(folder) / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder).decode(tokens)


def tensors(request: dict, config: dict) -> dict:
    """Read the files module by module, and unpack each as the public library does; the model is never whole in memory."""
    quantization = config.get("quantization_config", {})
    unpack = {"compressed-tensors": _compressed_tensors, "gptq": _gptq}.get(quantization.get("quant_method"))
    dtype = getattr(torch, config["dtype"])
    modules: dict[str, dict[str, Path]] = {}
    for file in sorted(Path(request["folder"]).glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  no dictionary, though it has keys
                module, _, part = name.rpartition(".")
                modules.setdefault(module, {})[part] = file
    digests = {}
    for module, parts in modules.items():
        own = {part: _read(file, f"{module}.{part}") for part, file in parts.items()}
        if unpack and {"weight_scale", "scales"} & own.keys():
            own = unpack(own, quantization)
        loaded = {part: tensor.to(dtype) if tensor.is_floating_point() else tensor for part, tensor in own.items()}
        digests |= {f"{module}.{part}": digest(tensor) for part, tensor in loaded.items()}
    if request["adapter"]:
        file = Path(request["adapter"]) / "adapter_model.safetensors"
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                digests[name] = digest(opened.get_tensor(name).float())
    return {"parameters": digests}


def _read(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name)


def _compressed_tensors(own: dict[str, torch.Tensor], quantization: dict) -> dict[str, torch.Tensor]:
    """The tensors of a module as compressed-tensors unpacks them."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    about = {key: value for key, value in quantization.items() if key not in ("quant_method", "dequantize")}
    (scheme,) = QuantizationConfig.model_validate(about).config_groups.values()
    unpacked = BaseCompressor.get_value_from_registry(quantization["format"]).decompress(own, scheme)
    kept = {part: tensor for part, tensor in own.items() if not part.startswith("weight")}
    return kept | {"weight": unpacked["weight"]}


def _gptq(own: dict[str, torch.Tensor], quantization: dict) -> dict[str, torch.Tensor]:
    """The tensors of a module as gptqmodel unpacks them."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    width, rows = len(own["g_idx"]), own["qweight"].shape[1]
    linear = TorchLinear(
        bits=quantization["bits"],
        group_size=quantization["group_size"],
        sym=quantization["sym"],
        desc_act=False,
        in_features=width,
        out_features=rows,
        bias="bias" in own,
        pack_dtype=torch.int32,
        register_buffers=True,
    )
    for part, tensor in own.items():
        setattr(linear, part, tensor)
    if quantization["checkpoint_format"] == "gptq":
        convert_gptq_v1_to_v2_format_module(linear, quantization["bits"], torch.int32)
    linear.post_init()
    kept = {part: tensor for part, tensor in own.items() if part == "bias"}
    return kept | {"weight": linear.dequantize_weight().T}


def versions() -> dict[str, str]:
    """Of the libraries that are installed here."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def answered(request: dict) -> dict:
    """What is loaded from a folder.

    Args:
        request: the folder, its adapter or null, a file of windows, ``verify``, and the number of threads.
    """
    torch.set_num_threads(request["threads"])
    config = json.loads((Path(request["folder"]) / "config.json").read_text(encoding="utf-8"))
    if request["verify"] == "tensors":
        return tensors(request, config) | {"versions": versions()}
    with safe_open(request["windows"], framework="pt") as file:
        windows = {name: file.get_tensor(name) for name in sorted(file.keys())}
    return whole(request, config, windows) | {"versions": versions()}


if __name__ == "__main__":
    answer = answered(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")
