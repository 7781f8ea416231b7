"""Part f: corrections that know the inputs, and codes that are made for them: what a linear of OPT-6.7b's shape costs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from gpu.record import Clock, Record, Settings, peak_memory

from lorcbench.core import gptq, intrinsic, pairs
from lorcbench.core.formats import WeightFormat
from lorcbench.core.lorc import decompose, weighted_norm
from lorcbench.core.moments import SecondMoment
from lorcbench.core.pairs import Pair
from lorcbench.core.quantizer import dequantize, quantize

FORMAT, RANK, GPTQ = WeightFormat.parse("w2-asym-g128"), 32, gptq.GptqSettings()
SHAPES = {"q_proj": (4096, 4096), "fc1": (16384, 4096), "fc2": (4096, 16384)}
SMALL = {"small": (256, 512)}


def run(record: Record, settings: Settings) -> None:
    """All of part f: the devices beside one another on a small matrix, then the seconds of large ones."""
    errors = {where: _errors(*_problem(where, *SMALL["small"])) for where in ("cpu", settings.device)}
    for name, error in errors[settings.device].items():
        difference = abs(error / errors["cpu"][name] - 1)
        record.add(
            "f", f"{name}, 256 × 512: relative difference of the weighted error to the CPU's", difference, target="≤ 1e-3"
        )
    for linear, (rows, width) in (SMALL if settings.tiny else SHAPES).items():
        clock = Clock(settings.device)
        weight, metric = _problem(settings.device, rows, width)
        with peak_memory(settings.device) as peak:
            found = _errors(weight, metric, clock)
        for name, error in found.items():
            share = error / found["GPTQ"]
            target = {"exact after GPTQ": "< 1", "joint": "≤ exact after GPTQ"}.get(name, "")
            record.add("f", f"{linear}, {rows} × {width}, {FORMAT}: {name}", clock.seconds[name], "s")
            record.add("f", f"{linear}: {name}: weighted error over GPTQ's", share, target=target)
        for kind, value in peak.items():
            record.add("f", f"{linear}: peak memory {kind}", value, "GiB", target="≤ 12")


def _problem(device: str, rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (rows, width) and the second moment (width, width) of correlated inputs, float32; the same on every device."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(64, width, generator=generator).to(device)  # 64 strong directions, as activations have them
    weight = (torch.randn(rows, width, generator=generator) * 0.02).to(device)
    moment = SecondMoment(width, device)
    for _ in range(8):
        x = torch.randn(2048, width, generator=generator).to(device)
        moment.add(x + torch.randn(2048, 64, generator=generator).to(device) @ mixing)
    return weight, moment.mean()


def _errors(weight: torch.Tensor, metric: torch.Tensor, clock: Clock | None = None) -> dict[str, float]:
    """‖E R^½‖ of every way to make codes and rank-32 factors, each timed whole, the factorization of H included."""
    clock = clock or Clock(str(weight.device))
    prepared = gptq.prepare(metric, GPTQ)

    def by_gptq(matrix: torch.Tensor):
        return gptq.quantize(matrix, prepared, FORMAT, GPTQ)

    error = weight - dequantize(by_gptq(weight))

    def left(b: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return error - b @ a

    ways: dict[str, Callable[[], torch.Tensor]] = {
        "GPTQ": lambda: weight - dequantize(gptq.quantize(weight, gptq.prepare(metric, GPTQ), FORMAT, GPTQ)),
        "rounding, scales searched": lambda: weight - dequantize(quantize(weight, FORMAT, "mse")),
        "plain after GPTQ": lambda: left(*decompose(error, RANK, False)),
        "diagonal after GPTQ": lambda: left(*decompose(error, RANK, False, metric.diagonal().sqrt())),
        "exact after GPTQ": lambda: left(*decompose(error, RANK, False, metric)),
        "GPTQ-intrinsic": lambda: _intrinsic(weight, metric),
        "joint": lambda: pairs.joint(weight, metric, by_gptq, RANK, 5, "exact", False).error(weight),
        "split": lambda: pairs.split(weight, metric, by_gptq, RANK, None, False).error(weight),
    }
    found = {}
    for name, way in ways.items():
        way()  # the first call of every kernel
        with clock(name):
            remaining = way()
        found[name] = weighted_norm(remaining, metric)
    return found


def _intrinsic(weight: torch.Tensor, metric: torch.Tensor) -> torch.Tensor:
    solved = intrinsic.quantize(weight, intrinsic.prepare(metric, RANK, GPTQ, exact=False), FORMAT, GPTQ)
    return Pair(*solved, {}).error(weight)
