"""ZQ-Local and ZQ-Global (ZeroQuant-V2 section 4): train a quantized linear, or decoder block, to make what the full one makes.

    min over θ   E ‖ f(x; θ) - f(x; round(θ)) ‖²        θ starts at the full-precision parameters

The unit f is anything that maps (parameters, input) to an output: one linear for ZQ-Local, one decoder block for ZQ-Global,
which despite its name never sees the whole model. In every step the weights are rounded in the forward pass and the gradient
passes straight through the rounding to full-precision master weights, so the first forward pass is RTN's; biases and norms
train unrounded. The last master weights, rounded once more, are the result.

Stated by the paper: Adam, one sequence a step, a learning rate that falls linearly, a grid of rates, everything in the unit
trains. Unstated, and chosen here: "a few hundred" steps are 512; Adam's own constants and no weight decay; the mean squared
error, the straight-through gradient and scales found anew in every step are those of the authors' DeepSpeed code. The paper
chose rates by test perplexity; here some calibration sequences are held out, and their loss chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import mse_loss

from lorcbench.core.formats import WeightFormat
from lorcbench.core.quantizer import Quantized, fake_quantize_weights, quantize

Parameters = dict[str, torch.Tensor]
_CHECKS = 8  # how often the held-out loss is measured while training, if the best parameters are to be kept


class Diverged(ArithmeticError):
    """Training left the unit worse than where it started and than a constant output, or with numbers that are none."""


@dataclass(frozen=True)
class DistillSettings:
    """How a unit is trained.

    Attributes:
        lr: Adam's first learning rate; ``auto`` is that of `lr_grid` with the least held-out loss.
        lr_grid: rates that ``auto`` tries (the paper's).
        iterations: steps, of one sequence each.
        seed: of the order of the sequences.
        held_out: share of the sequences, the last ones, that are not trained on.
        keep: ``last``: the parameters after the last step (published code); ``best``: those with the least held-out loss among
            eight checks and the start, so perhaps RTN's.
        scales: ``recompute`` scales and zero points in every step, or keep those of the start: ``fixed``.
    """

    lr: float | str
    lr_grid: list[float]
    iterations: int
    seed: int
    held_out: float
    keep: str
    scales: str


@dataclass(frozen=True)
class Distilled:
    """A trained unit.

    Attributes:
        quantized: the rounded weights.
        others: the other trained parameters, float32.
        notes: learning rate, step that was kept, and held-out losses: RTN's (`loss_rtn`), that of what was kept (`loss`), that
            of the best constant output (`loss_constant`), and, if rates were compared, each rate's (`tried`; None diverged).
    """

    quantized: dict[str, Quantized]
    others: Parameters
    notes: dict


@dataclass(frozen=True)
class _Run:
    """What training at one rate left: the parameters kept, their held-out loss, and the step that they are from."""

    parameters: Parameters
    loss: float
    step: int


def distill(
    forward: Callable[[Parameters, torch.Tensor], torch.Tensor],
    parameters: Parameters,
    rounded: list[str],
    inputs: torch.Tensor,
    targets: torch.Tensor,
    fmt: WeightFormat,
    settings: DistillSettings,
) -> Distilled:
    """Train `parameters` so that the unit, with the `rounded` ones among them in `fmt`, makes `targets` of `inputs`.

    Args:
        forward: (parameters, one sequence (1, length, in)) → (1, length, out); it rounds activations if they are to be.
        parameters: all that trains, float32; not changed.
        rounded: names of the weight matrices (out, in); with none, `forward` rounds what is to be rounded.
        inputs: (sequences, length, in).
        targets: (sequences, length, out).

    Raises:
        ValueError: parameters are not float32 or cannot be rounded in `fmt`, or there are too few sequences to hold any out.
        Diverged: at the given learning rate, or at every one of the grid.
    """
    if any(tensor.dtype != torch.float32 for tensor in parameters.values()):
        raise ValueError("distillation trains in float32: set calibration.dtype=float32")
    train, held_out = _split(len(inputs), settings.held_out)
    # What each weight is rounded on: a format finds scales anew in every step, a quantized matrix keeps those of the start.
    grids = {name: quantize(parameters[name], fmt) if settings.scales == "fixed" else fmt for name in rounded}
    device = next(iter(parameters.values())).device  # large inputs and targets may lie on the host

    def loss(values: Parameters, index: int) -> torch.Tensor:
        shown = values | {name: fake_quantize_weights(values[name], grids[name]) for name in rounded}
        x, y = (states[index : index + 1].to(device) for states in (inputs, targets))
        return mse_loss(forward(shown, x), y)

    @torch.no_grad()
    def held_out_loss(values: Parameters) -> float:
        return float(torch.stack([loss(values, index) for index in held_out]).mean())

    start = held_out_loss(parameters)
    # The held-out loss of the best constant output: who ends above it, and above the start, has unlearned the unit.
    constant = float(targets[held_out].var((0, 1), correction=0).mean())
    best, tried = None, {}
    for lr in settings.lr_grid if settings.lr == "auto" else [settings.lr]:
        try:
            run = _train(parameters, loss, held_out_loss, start, max(start, constant), train, lr, settings)
        except Diverged:
            if settings.lr != "auto":
                raise
            tried[f"{lr:g}"] = None
            continue
        tried[f"{lr:g}"] = run.loss
        if best is None or run.loss < best[1].loss:
            best = lr, run
    if best is None:
        raise Diverged(f"every learning rate of {settings.lr_grid} diverged")
    lr, run = best
    notes = {"lr": lr, "step": run.step, "loss_rtn": start, "loss": run.loss, "loss_constant": constant}
    if settings.lr == "auto":
        notes["tried"] = tried
    quantized = {name: quantize(run.parameters[name], grids[name]) for name in rounded}
    return Distilled(quantized, {name: run.parameters[name] for name in parameters if name not in rounded}, notes)


def _train(parameters, loss, held_out_loss, start, limit, train, lr, settings) -> _Run:
    """Train at one learning rate.

    Raises:
        Diverged: a loss or a weight is NaN or infinite, or the held-out loss ends above `limit`.
    """
    try:
        run, last = _descend(parameters, loss, held_out_loss, start, train, lr, settings)
    except ValueError as error:  # the start could be rounded: it is training that made weights that cannot
        raise Diverged(f"training at learning rate {lr:g} diverged: {error}") from error
    if not last <= limit:
        raise Diverged(
            f"training at learning rate {lr:g} diverged: held-out loss {last:.3g}, from {start:.3g} by rounding to nearest; "
            "take a smaller rate, or lr=auto"
        )
    return run


def _descend(parameters, loss, held_out_loss, start, train, lr, settings) -> tuple[_Run, float]:
    """The training loop; returns what to keep, and the last held-out loss, NaN if training went there."""
    values = {name: tensor.clone().requires_grad_() for name, tensor in parameters.items()}
    optimizer = torch.optim.Adam(values.values(), lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / settings.iterations)
    kept, measured = _Run(parameters, start, 0), start
    for step, index in enumerate(_order(train, settings), 1):
        loss(values, index).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        check = step * _CHECKS // settings.iterations > (step - 1) * _CHECKS // settings.iterations
        if step == settings.iterations or (check and settings.keep == "best"):
            measured = held_out_loss(values)
            if settings.keep == "last" or measured < kept.loss:
                kept = _Run({name: tensor.detach().clone() for name, tensor in values.items()}, measured, step)
    return kept, measured


def _split(sequences: int, share: float) -> tuple[torch.Tensor, list[int]]:
    """Indices to train on, and the last ones, at least one, to hold out."""
    held = max(1, round(share * sequences))
    if held >= sequences:
        raise ValueError(f"{sequences} calibration sequences: too few to hold {held} out and train on the rest")
    return torch.arange(sequences - held), list(range(sequences - held, sequences))


def _order(train: torch.Tensor, settings: DistillSettings) -> list[int]:
    """Which sequence each step sees: every one once before any is seen again."""
    generator = torch.Generator().manual_seed(settings.seed)
    rounds = -(-settings.iterations // len(train))
    order = torch.cat([train[torch.randperm(len(train), generator=generator)] for _ in range(rounds)])
    return order[: settings.iterations].tolist()
