"""ZQ-Local and ZQ-Global (ZeroQuant-V2 section 4): train a quantized linear or block to give the unquantized one's output.

    min over θ   E ‖ f(x; θ₀) - f(x; round(θ)) ‖²        θ starts at the full-precision parameters θ₀

The unit f is anything that maps (parameters, input) to an output: one linear for ZQ-Local, one decoder block for
ZQ-Global, which despite its name never sees the whole model. Each step rounds the weights in its forward pass, so the
first forward pass is RTN's. The gradient passes straight through the rounding to full-precision master weights; biases
and norms train unrounded. The last master weights, rounded once more, are the result.

The paper states: Adam, one sequence per step, a learning rate that falls linearly, a grid of rates, and that everything
in the unit trains. It does not state, and we chose: 512 steps for its "a few hundred"; Adam's own constants and no
weight decay; the mean squared error, the straight-through gradient and new scales in each step, as in the authors'
DeepSpeed code. The paper chose rates by test perplexity; we hold some calibration sequences out, and their loss chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import mse_loss

from lorcbench.core.formats import WeightFormat
from lorcbench.core.quantizer import Quantized, fake_quantize_weights, quantize
from lorcbench.core.settings import TrainingSettings

Parameters = dict[str, torch.Tensor]
_CHECKS = 8  # how often training measures the held-out loss if it keeps the best parameters


class Diverged(ArithmeticError):
    """Training ended with NaN or infinity, or with a unit that is worse than at its start and than a constant output."""


@dataclass(frozen=True)
class Distilled:
    """A trained unit.

    Attributes:
        quantized: the rounded weights.
        others: the other trained parameters, float32.
        notes: the learning rate (`lr`), the step whose parameters were kept (`step`), and held-out losses: of RTN (`loss_rtn`),
            of the kept parameters (`loss`), of the best constant output (`loss_constant`) and, if rates were compared, of each
            rate (`tried`; None if it diverged).
    """

    quantized: dict[str, Quantized]
    others: Parameters
    notes: dict


@dataclass(frozen=True)
class _Objective:
    """What training lowers.

    Attributes:
        loss: (parameters, index of a sequence) → the loss of that sequence, with its gradient.
        held_out_loss: parameters → the mean loss of the held-out sequences.
        start: the held-out loss of the parameters that training starts from.
        limit: a run whose held-out loss ends above this counts as diverged.
    """

    loss: Callable[[Parameters, int], torch.Tensor]
    held_out_loss: Callable[[Parameters], float]
    start: float
    limit: float


@dataclass(frozen=True)
class _Run:
    """The outcome of training at one rate: the parameters to keep, their held-out loss, and the step that they are from."""

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
    settings: TrainingSettings,
) -> Distilled:
    """Train `parameters` so that the unit maps `inputs` to `targets` with its `rounded` weights in `fmt`.

    Args:
        forward: (parameters, one sequence (1, length, in)) → (1, length, out); any rounding of activations is its own.
        parameters: all that trains, float32; not changed.
        rounded: names of the weight matrices (out, in) to round; if none, `forward` does all rounding itself.
        inputs: (sequences, length, in).
        targets: (sequences, length, out).

    Raises:
        ValueError: parameters are not float32 or cannot be rounded in `fmt`, or there are too few sequences to hold any out.
        Diverged: at the only learning rate, or at all rates of the grid.
    """
    if any(tensor.dtype != torch.float32 for tensor in parameters.values()):
        raise ValueError("distillation trains in float32: set calibration.dtype=float32")
    train, held_out = _split(len(inputs), settings.held_out)
    # What each weight is rounded by: with a format each step computes new scales; a quantized matrix keeps those of the start.
    grids = {name: quantize(parameters[name], fmt) if settings.scales == "fixed" else fmt for name in rounded}
    device = next(iter(parameters.values())).device  # large inputs and targets may lie on the host

    def loss(values: Parameters, index: int) -> torch.Tensor:
        weights = {name: fake_quantize_weights(values[name], grids[name]) for name in rounded}
        x, y = (states[index : index + 1].to(device) for states in (inputs, targets))
        return mse_loss(forward(values | weights, x), y)

    @torch.no_grad()
    def held_out_loss(values: Parameters) -> float:
        return float(torch.stack([loss(values, index) for index in held_out]).mean())

    start = held_out_loss(parameters)
    # The held-out loss of the best constant output. A run that ends above both this and the start counts as diverged.
    constant = float(targets[held_out].to(device).var((0, 1), correction=0).mean())
    objective = _Objective(loss, held_out_loss, start, max(start, constant))
    lr, run, losses = _best_run(parameters, objective, train, settings)
    notes = {"lr": lr, "step": run.step, "loss_rtn": start, "loss": run.loss, "loss_constant": constant}
    if settings.lr == "auto":
        notes["tried"] = losses
    quantized = {name: quantize(run.parameters[name], grids[name]) for name in rounded}
    others = {name: run.parameters[name] for name in parameters if name not in rounded}
    return Distilled(quantized, others, notes)


def _best_run(
    parameters: Parameters, objective: _Objective, train: torch.Tensor, settings: TrainingSettings
) -> tuple[float, _Run, dict[str, float | None]]:
    """The learning rate with the least held-out loss, its run, and the loss of each rate; None for one that diverged.

    Raises:
        Diverged: at the only learning rate, or at all rates of the grid.
    """
    best = None
    losses: dict[str, float | None] = {}
    for lr in settings.lr_grid if settings.lr == "auto" else [settings.lr]:
        try:
            run = _train(parameters, objective, train, lr, settings)
        except Diverged:
            if settings.lr != "auto":
                raise
            losses[f"{lr:g}"] = None
            continue
        losses[f"{lr:g}"] = run.loss
        if best is None or run.loss < best[1].loss:
            best = lr, run
    if best is None:
        raise Diverged(f"every learning rate of {settings.lr_grid} diverged")
    return *best, losses


def _train(parameters: Parameters, objective: _Objective, train: torch.Tensor, lr: float, settings: TrainingSettings) -> _Run:
    """Train at one learning rate, on the sequences `train` (their indices).

    Raises:
        Diverged: a loss or a weight is NaN or infinite, or the held-out loss ends above the objective's limit.
    """
    try:
        run, last_loss = _descend(parameters, objective, train, lr, settings)
    except ValueError as error:  # the first weights could be rounded, so training made some that cannot
        raise Diverged(f"training at learning rate {lr:g} diverged: {error}") from error
    if not last_loss <= objective.limit:  # also if it is NaN
        raise Diverged(
            f"training at learning rate {lr:g} diverged: held-out loss {last_loss:.3g}, "
            f"from {objective.start:.3g} by rounding to nearest; take a smaller rate, or lr=auto"
        )
    return run


def _descend(
    parameters: Parameters, objective: _Objective, train: torch.Tensor, lr: float, settings: TrainingSettings
) -> tuple[_Run, float]:
    """The training loop; returns the run to keep, and the held-out loss of the last step, which may be NaN."""
    values = {name: tensor.clone().requires_grad_() for name, tensor in parameters.items()}
    optimizer = torch.optim.Adam(values.values(), lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / settings.iterations)
    run = _Run(parameters, objective.start, 0)
    held_out_loss = objective.start
    for step, index in enumerate(_order(train, settings), 1):
        objective.loss(values, index).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        # Checks divide the steps evenly, whether or not their number is a multiple of `_CHECKS`.
        is_check = step * _CHECKS // settings.iterations > (step - 1) * _CHECKS // settings.iterations
        if step == settings.iterations or (is_check and settings.keep == "best"):
            held_out_loss = objective.held_out_loss(values)
            if settings.keep == "last" or held_out_loss < run.loss:
                run = _Run({name: tensor.detach().clone() for name, tensor in values.items()}, held_out_loss, step)
    return run, held_out_loss


def _split(sequences: int, share: float) -> tuple[torch.Tensor, list[int]]:
    """Indices of the sequences to train on, and of those to hold out: the last ones, one at least."""
    count = max(1, round(share * sequences))
    if count >= sequences:
        raise ValueError(f"{sequences} calibration sequences: too few to hold {count} out and train on the rest")
    return torch.arange(sequences - count), list(range(sequences - count, sequences))


def _order(train: torch.Tensor, settings: TrainingSettings) -> list[int]:
    """The index of the sequence of each step: all of `train`, shuffled, before any of them comes again."""
    generator = torch.Generator().manual_seed(settings.seed)
    rounds = -(-settings.iterations // len(train))  # rounded up
    order = torch.cat([train[torch.randperm(len(train), generator=generator)] for _ in range(rounds)])
    return order[: settings.iterations].tolist()
