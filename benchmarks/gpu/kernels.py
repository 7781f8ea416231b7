"""Part a: every kernel on the device beside the plain code and beside the CPU."""

from __future__ import annotations

from itertools import product

import torch
from gpu.record import Clock, Record, Settings

from lorcbench.core import gptq
from lorcbench.core.formats import WeightFormat
from lorcbench.core.linalg import HessianFactor, hessian_factor, truncated_svd
from lorcbench.core.moments import SecondMoment

GROUPS = ("row", "g128", "g64", "g32")
CONVENTIONS = {"asym": ("", "-pow2"), "sym": ("", "-pow2", "-restricted")}
WIDE = ("w4-asym-g128", "w3-sym-row", "w2-asym-g32-pow2", "w4-sym-g64-restricted", "w4-asym-g256")
CHANGED = {
    "static groups": {"static_groups": True},
    "corrected groups": {"group_params": "corrected"},
    "static groups, act_order": {"static_groups": True, "act_order": True},
    "blocks of 96 columns": {"block": 96},
}


def run(record: Record, settings: Settings) -> None:
    """All of part a."""
    formats = [
        f"w{bits}-{symmetry}-{group}{convention}{scale}"
        for bits, symmetry, group, scale in product((2, 3, 4, 8), CONVENTIONS, GROUPS, ("", "-fp32scale"))
        for convention in CONVENTIONS[symmetry]
    ]
    rows, clock = 64 if settings.tiny else 512, Clock(settings.device)
    with clock("sweeps"):
        _sweeps(record, settings.device, formats[:: 20 if settings.tiny else 1], rows, 256)
    with clock("wide sweeps"):
        _sweeps(record, settings.device, WIDE[: 1 if settings.tiny else None], 2 * rows, 512 if settings.tiny else 4096)
    with clock("other settings"):
        for name, changes in CHANGED.items():
            _sweeps(record, settings.device, ["w4-asym-g64", "w3-sym-g32"], rows, 256, name, gptq.GptqSettings(**changes))
    with clock("factors, moments and spaces"):
        _others(record, settings)
    for name, seconds in clock.seconds.items():
        record.add("a", f"time of {name}", seconds, "s")


def _others(record: Record, settings: Settings) -> None:
    _factors(record, settings.device, (64,) if settings.tiny else (512, 4096))
    _moments(record, settings.device, (64,) if settings.tiny else (4096, 5000))
    _spaces(record, settings.device, ((600, 700),) if settings.tiny else ((1024, 1024), (1024, 4096), (4096, 1024)))


def problem(device: str, rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (rows, width) and a Hessian (width, width) of correlated inputs, float32, on the device."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, width, generator=generator) * 0.02
    x = torch.randn(2 * width, width, generator=generator) * torch.arange(1, width + 1).rsqrt()
    x = x.to(device) @ (torch.randn(width, width, generator=generator) / width**0.5).to(device)
    return weight.to(device), x.T @ x / len(x)


def on_cpu(prepared: gptq.PreparedHessian) -> gptq.PreparedHessian:
    """A prepared Hessian on the CPU."""
    factor = HessianFactor(prepared.factor.upper.cpu(), prepared.factor.damp, prepared.factor.dead.cpu())
    return gptq.PreparedHessian(factor, None if prepared.order is None else prepared.order.cpu())


def _sweeps(record, device, formats, rows, width, what="", settings=None) -> None:
    """Share of equal codes: the device's sweep against plain tensor operations there, and against the CPU's compiled sweep."""
    settings = settings or gptq.GptqSettings()
    weight, hessian = problem(device, rows, width)
    prepared = gptq.prepare(hessian, settings)
    prepared_cpu, plain, cpu = on_cpu(prepared), {}, {}
    kernel = gptq._sweep_block_triton
    for name in formats:
        fmt = WeightFormat.parse(name)
        found = gptq.quantize(weight, prepared, fmt, settings).codes
        gptq._sweep_block_triton = gptq.sweep_block_reference
        plain[name] = _equal(found, gptq.quantize(weight, prepared, fmt, settings).codes)
        gptq._sweep_block_triton = kernel
        cpu[name] = _equal(found, gptq.quantize(weight.cpu(), prepared_cpu, fmt, settings).codes)
    shape = f"{len(formats)} formats, {rows} × {width}" + (f", {what}" if what else "")
    for other, shares in (("plain operations on the device", plain), ("the CPU's sweep", cpu)):
        record.add("a", f"sweep against {other}, {shape}: least share of equal codes", min(shares.values()))
        record.add("a", f"sweep against {other}, {shape}: mean share", sum(shares.values()) / len(shares))
        if differ := {name: share for name, share in shares.items() if share < 1}:
            record.add("a", f"sweep against {other}, {shape}: formats that differ", len(differ), shares=differ)


def _equal(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one.cpu() == other.cpu()).double().mean().item()


def _factors(record: Record, device: str, widths: tuple[int, ...]) -> None:
    """The factor on both devices beside that in float64, and the codes that it gives."""
    fmt, settings = WeightFormat.parse("w4-asym-g32"), gptq.GptqSettings()
    for width in widths:
        weight, hessian = problem(device, 256, width)
        here, cpu = hessian_factor(hessian, settings.damp), hessian_factor(hessian.cpu(), settings.damp)
        exact = hessian_factor(hessian.cpu().double(), settings.damp)
        codes = {}
        for where, factor in (("float64", exact), ("device", here), ("CPU", cpu)):
            moved = HessianFactor(factor.upper.to(device, torch.float32), factor.damp, factor.dead.to(device))
            codes[where] = gptq.quantize(weight, gptq.PreparedHessian(moved, None), fmt, settings).codes
            error = ((factor.upper.cpu().double() - exact.upper).norm() / exact.upper.norm()).item()
            if where != "float64":
                record.add("a", f"factor of {width} inputs, {where}: relative error to float64", error)
        for one, other in (("device", "CPU"), ("device", "float64"), ("CPU", "float64")):
            name = f"factor of {width} inputs, {one} against {other}: share of equal codes"
            record.add("a", name, _equal(codes[one], codes[other]))


def _moments(record: Record, device: str, widths: tuple[int, ...]) -> None:
    """Second moments on the device beside float64."""
    for width in widths:
        generator = torch.Generator(device=device).manual_seed(0)
        x = torch.randn(3, 1024, width, generator=generator, device=device) + 0.5
        for dtype in (torch.float16, torch.float32):
            moment, given = SecondMoment(width, device), x.to(dtype)
            for part in given:
                moment.add(part)
            rows = given.flatten(0, 1).double()
            exact, found = rows.T @ rows / len(rows), moment.mean()
            kind = str(dtype).removeprefix("torch.")
            error = ((found.double() - exact).norm() / exact.norm()).item()
            record.add("a", f"second moment of {width} {kind} inputs: relative error", error, target="≤ 1e-5")
            is_symmetric = bool(torch.equal(found, found.T))
            record.add("a", f"second moment of {width} {kind} inputs: symmetric", is_symmetric, target="True")


def _spaces(record: Record, device: str, shapes: tuple[tuple[int, int], ...]) -> None:
    """LoRC's decomposition on the device beside the CPU's and the exact one, of an error with a flat spectrum."""
    for shape in shapes:
        error = torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 0.5
        exact = torch.linalg.svdvals(error.to(device)).cpu()[:32].square().sum()
        products = []
        for where in (device, "cpu"):
            u, s, vh = truncated_svd(error.to(where), 32, exact=False)
            products.append(((u * s) @ vh).cpu())
        here, cpu = (1 - (error.norm() ** 2 - (error - part).norm() ** 2 - exact).abs() / exact for part in products)
        name = f"Krylov space of {shape[0]} × {shape[1]}"
        record.add("a", f"{name}, device: share of the energy of exact rank 32", here.item(), target="≥ 0.99")
        record.add("a", f"{name}, CPU: share of the energy of exact rank 32", cpu.item())
        difference = ((products[0] - products[1]).norm() / products[1].norm()).item()
        record.add("a", f"{name}: relative difference of B·A between the devices", difference)
