"""GPTQ, or rounding, of one checkpoint by code that we did not write; runs in that peer's own environment.

    .bench/envs/gptqmodel/bin/python benchmarks/peer_run.py gptqmodel --checkpoint FOLDER --tokens FILE \
        [--bits 4] [--group 128] [--asymmetric] [--method gptq] [--out FILE]

The last line says the seconds and CPU seconds of the quantization call, without imports and without loading the model. `--out`
keeps what came out: Ŵ (out, in) in float32 of every linear, and the scale of every group, as a safetensors file.
Settings are matched: damping 0.01, no activation order, blocks of 128 columns, all linears of a block at once where a peer can
(GPTQModel, too, without `true_sequential`), one sequence a forward pass, float32 throughout.

`reference` is the public code of the GPTQ paper (github.com/IST-DASLab/gptq), from a checkout given by `--gptq`: its `GPTQ` and
`Quantizer` classes as they are, in the order of its `opt.py`, whose own loop runs on CUDA only.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import time
from pathlib import Path

import torch
from common import report, timed
from safetensors.torch import load_file, save_file

DAMP, BLOCK = 0.01, 128

Found = dict[str, dict[str, torch.Tensor]]  # linear → weight (out, in), scale (out, groups)


def arguments() -> argparse.Namespace:
    """What to run."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("peer", choices=sorted(PEERS))
    given.add_argument("--checkpoint", type=Path, required=True)
    given.add_argument("--tokens", type=Path, required=True, help="safetensors file with `calibration` (n, length)")
    given.add_argument("--bits", type=int, default=4)
    given.add_argument("--group", type=int, default=128, help="columns that share a scale; 0: a row")
    given.add_argument("--asymmetric", action="store_true")
    given.add_argument("--method", choices=("gptq", "rtn"), default="gptq")
    given.add_argument("--threads", type=int, default=2)
    given.add_argument("--gptq", type=Path, help="checkout of the public GPTQ code")
    given.add_argument("--out", type=Path)
    return given.parse_args()


def load_model(given: argparse.Namespace) -> torch.nn.Module:
    """The checkpoint in float32, by transformers."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(given.checkpoint, dtype=torch.float32).eval()


def linears(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The linears of the decoder blocks by name, whatever class a peer has made of them."""
    last = (
        "q_proj",
        "k_proj",
        "v_proj",
        "out_proj",
        "fc1",
        "fc2",
        "query_key_value",
        "dense",
        "dense_h_to_4h",
        "dense_4h_to_h",
    )
    return {name: module for name, module in model.named_modules() if name.rpartition(".")[2] in last}


def reference(given: argparse.Namespace, tokens: torch.Tensor) -> tuple[dict, Found]:
    """The public code of the paper."""
    sys.path.insert(0, str(given.gptq))
    torch.cuda.synchronize = lambda *_: None  # it asks for it, GPU or not
    code, quant = importlib.import_module("gptq"), importlib.import_module("quant")
    model, found = load_model(given), {}
    model.config.use_cache = False

    class Recording(quant.Quantizer):
        """Keeps the scale of every group, which the original overwrites."""

        def find_params(self, x: torch.Tensor, weight: bool = False) -> None:
            super().find_params(x, weight=weight)
            self.seen = [*getattr(self, "seen", []), self.scale]

    def quantizer() -> torch.nn.Module:
        made = Recording()
        made.configure(given.bits, perchannel=True, sym=not given.asymmetric, mse=False)
        return made

    def solve(name: str, task, linear: torch.nn.Module) -> None:
        task.quantizer = made = quantizer()
        task.fasterquant(blocksize=BLOCK, percdamp=DAMP, groupsize=given.group or -1)
        seen = made.seen[1:] if given.group else made.seen  # the first is of the whole row, before groups
        found[name] = {"weight": linear.weight.data, "scale": torch.cat(seen, 1)}

    def rtn() -> None:
        for name, linear in linears(model).items():
            parts = []
            for part in linear.weight.data.split(given.group or linear.in_features, 1):
                made = quantizer()
                made.find_params(part, weight=True)
                parts.append((made.quantize(part), made.scale))
            weight, scale = (torch.cat(tensors, 1) for tensors in zip(*parts, strict=True))
            found[name] = {"weight": weight, "scale": scale}

    @torch.no_grad()
    def gptq() -> None:
        layers = model.model.decoder.layers
        hidden, extra = first_inputs(model, layers, tokens)
        for index, layer in enumerate(layers):
            names = {name: module for name, module in layer.named_modules() if isinstance(module, torch.nn.Linear)}
            tasks = {name: code.GPTQ(module) for name, module in names.items()}
            hooks = [
                module.register_forward_hook(lambda _, x, y, task=tasks[name]: task.add_batch(x[0].data, y.data))
                for name, module in names.items()
            ]
            for row in range(len(hidden)):
                layer(hidden[row : row + 1], **extra)
            for hook in hooks:
                hook.remove()
            for name, task in tasks.items():
                solve(f"model.decoder.layers.{index}.{name}", task, names[name])
                task.free()
            for row in range(len(hidden)):
                out = layer(hidden[row : row + 1], **extra)
                hidden[row : row + 1] = out[0] if isinstance(out, tuple) else out

    return timed(rtn if given.method == "rtn" else gptq), found


def first_inputs(model: torch.nn.Module, layers: torch.nn.ModuleList, tokens: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """Hidden states (n, length, hidden) that enter the first block, and what it is called with besides."""
    seen: list[torch.Tensor] = []
    extra: dict = {}

    class Stop(Exception):
        pass

    def catch(_, args: tuple, kwargs: dict) -> None:
        seen.append(args[0] if args else kwargs.pop("hidden_states"))
        extra.update(kwargs)
        raise Stop

    hook = layers[0].register_forward_pre_hook(catch, with_kwargs=True)
    for row in tokens:
        with contextlib.suppress(Stop):
            model(row.unsqueeze(0))
    hook.remove()
    return torch.cat(seen), extra


def gptqmodel(given: argparse.Namespace, tokens: torch.Tensor) -> tuple[dict, Found]:
    """GPTQModel, successor of AutoGPTQ."""
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # without it, it refuses to start on two cores
    from gptqmodel import BACKEND, GPTQModel
    from gptqmodel.quantization.config import GPTQConfig

    config = GPTQConfig(
        bits=given.bits,
        group_size=given.group or -1,
        sym=not given.asymmetric,
        device="cpu",
        offload_to_disk=False,
        damp_percent=DAMP,
        desc_act=False,
        act_group_aware=False,
        true_sequential=False,
    )
    model = GPTQModel.load(str(given.checkpoint), config, dtype=torch.float32)
    torch.set_num_threads(given.threads)
    data = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in tokens]
    measured = timed(lambda: model.quantize(data, batch_size=1, calibration_sort=None))
    if not given.out:
        return measured, {}
    # Packed modules hold zero points less one until they are loaded again, so what is compared is what a user loads: scales in
    # float16, and levels, which a product in float16 still tells apart.
    folder = given.out.with_suffix(".gptqmodel")
    model.save(str(folder))
    loaded, found = GPTQModel.load(str(folder), device="cpu", backend=BACKEND.GPTQ_TORCH, dtype=torch.float16), {}
    for name, module in linears(loaded.model).items():
        scale = module.scales.T.float()
        step = scale.repeat_interleave(module.in_features // scale.shape[1], 1)
        with torch.no_grad():
            levels = (module.dequantize_weight().T.float() / step).round()
        found[name] = {"weight": levels * step, "scale": scale}
    return measured, found


def llmcompressor(given: argparse.Namespace, tokens: torch.Tensor) -> tuple[dict, Found]:
    """vLLM's llm-compressor."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier

    weights = QuantizationArgs(
        num_bits=given.bits,
        type="int",
        symmetric=not given.asymmetric,
        strategy="group" if given.group else "channel",
        group_size=given.group or None,
    )
    scheme = {"config_groups": {"all": QuantizationScheme(targets=["Linear"], weights=weights)}, "ignore": ["lm_head"]}
    model = load_model(given)
    if given.method == "rtn":
        measured = timed(lambda: oneshot(model=model, recipe=QuantizationModifier(**scheme)))
    else:
        recipe = GPTQModifier(**scheme, actorder=None, dampening_frac=DAMP, block_size=BLOCK)
        data = Dataset.from_dict({"input_ids": tokens.tolist(), "attention_mask": torch.ones_like(tokens).tolist()})
        # It shuffles the sequences, unseeded, unless told not to: another order of sums in every run.
        settings = {"max_seq_length": tokens.shape[1], "num_calibration_samples": len(tokens)}
        settings["shuffle_calibration_samples"] = False
        measured = timed(lambda: oneshot(model=model, dataset=data, recipe=recipe, **settings))
    found = {}
    for name, module in linears(model).items():
        scale, zero = module.weight_scale.data, getattr(module, "weight_zero_point", torch.zeros(1)).data
        step = scale.repeat_interleave(given.group or module.in_features, 1)
        offset = zero.float().expand_as(scale).repeat_interleave(given.group or module.in_features, 1)
        low, high = -(2 ** (given.bits - 1)), 2 ** (given.bits - 1) - 1
        codes = (module.weight.data / step + offset).round().clamp(low, high)
        found[name] = {"weight": (codes - offset) * step, "scale": scale}
    return measured, found


def neural_compressor(given: argparse.Namespace, tokens: torch.Tensor) -> tuple[dict, Found]:
    """Intel's neural-compressor for PyTorch."""
    from neural_compressor.torch.quantization import GPTQConfig, RTNConfig, convert, prepare

    settings = {"bits": given.bits, "group_size": given.group or -1, "use_sym": not given.asymmetric}
    model = load_model(given)

    @torch.no_grad()
    def work() -> None:
        nonlocal model
        if given.method == "rtn":
            model = convert(prepare(model, RTNConfig(**settings)))
            return
        config = GPTQConfig(**settings, percdamp=DAMP, block_size=BLOCK, act_order=False)
        model = prepare(model, config)
        for row in tokens:
            model(row.unsqueeze(0))
        model = convert(model)

    measured = timed(work)
    found = {}
    for name, module in linears(model).items():
        weight = module.recover()
        scale = module.scales.T if module.use_optimum_format else module.scales
        found[name] = {"weight": weight.float(), "scale": scale.float()}
    return measured, found


PEERS = {"reference": reference, "gptqmodel": gptqmodel, "llmcompressor": llmcompressor, "neural_compressor": neural_compressor}


def main() -> None:
    """Run one peer and report."""
    given = arguments()
    torch.set_num_threads(given.threads)
    tokens = load_file(given.tokens)["calibration"].long()
    start = time.perf_counter()
    measured, found = PEERS[given.peer](given, tokens)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"{name}.{part}": tensor.contiguous() for name, parts in found.items() for part, tensor in parts.items()}
        save_file(tensors, given.out)
    report({**measured, "with_loading": time.perf_counter() - start, "linears": float(len(found))})


if __name__ == "__main__":
    main()
